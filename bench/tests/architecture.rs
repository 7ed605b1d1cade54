//! Holds the boundaries of the architecture against the tree: which crate may import what, which
//! files stand side by side, and how long a file may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Files that every service has, under the same name.
const PAIRED: [&str; 10] = [
    "amqp.rs",
    "background.rs",
    "config.rs",
    "device.rs",
    "main.rs",
    "metrics.rs",
    "rest.rs",
    "server.rs",
    "shutdown.rs",
    "state.rs",
];

/// Files that only some models need, with the reason.
const UNPAIRED: [(&str, &str, &str); 4] = [
    (
        "multi-process",
        "supervisor.rs",
        "starts, watches and stops the other processes",
    ),
    (
        "multi-process",
        "ipc.rs",
        "processes share nothing but a socket",
    ),
    (
        "multi-process",
        "nudge.rs",
        "tiny_http leaves connections without a thread",
    ),
    (
        "multi-thread",
        "nudge.rs",
        "tiny_http leaves connections without a thread",
    ),
];

const SERVICES: [&str; 3] = ["async", "multi-process", "multi-thread"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("bench lies in the workspace")
        .into()
}

/// Packages of the workspace and, per package, its direct and its transitive dependencies.
struct Graph {
    members: BTreeSet<String>,
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<(String, bool)>>,
}

impl Graph {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let json: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
        let packages = json["packages"].as_array().expect("packages");
        let names: BTreeMap<String, String> = packages
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let members = json["workspace_members"].as_array().expect("members");
        let members = members.iter().map(|id| names[&text(id)].clone()).collect();
        let nodes = json["resolve"]["nodes"].as_array().expect("nodes");
        let edges = nodes
            .iter()
            .map(|node| (text(&node["id"]), dependencies(node)))
            .collect();
        Self {
            members,
            names,
            edges,
        }
    }

    /// Direct dependencies of a package; development ones only if `with_dev`.
    fn direct(&self, package: &str, with_dev: bool) -> BTreeSet<String> {
        let id = self.id(package);
        let edges = self.edges[id].iter().filter(|(_, dev)| with_dev || !dev);
        edges.map(|(id, _)| self.names[id].clone()).collect()
    }

    /// Every package that is compiled into `package`.
    fn transitive(&self, package: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open = vec![self.id(package).clone()];
        while let Some(id) = open.pop() {
            for (next, dev) in &self.edges[&id] {
                if !dev && seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen.iter().map(|id| self.names[id].clone()).collect()
    }

    fn id(&self, package: &str) -> &String {
        let found = self
            .names
            .iter()
            .find(|(id, name)| *name == package && id.starts_with("path"));
        found.expect("a package of the workspace").0
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// Identifiers of the packages a node depends on, and whether for development only.
fn dependencies(node: &Value) -> Vec<(String, bool)> {
    let is_dev = |dep: &Value| {
        dep["dep_kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().all(|kind| kind["kind"] == "dev"))
    };
    let deps = node["deps"].as_array().expect("deps");
    deps.iter()
        .map(|dep| (text(&dep["pkg"]), is_dev(dep)))
        .collect()
}

fn assert_absent(found: &BTreeSet<String>, forbidden: &[&str], who: &str) {
    for name in forbidden {
        assert!(!found.contains(*name), "{who} must not import {name}");
    }
}

/// Rust files below a folder of the workspace.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn file_names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder of the workspace");
    let files = entries
        .map(|entry| entry.expect("readable"))
        .filter(|entry| entry.path().is_file());
    files
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn the_workspace_has_the_crates_of_the_architecture_and_no_other() {
    let expected = [
        "contract",
        "domain",
        "service-async",
        "service-multi-process",
        "service-multi-thread",
        "threeways",
    ];
    assert_eq!(Graph::read().members, expected.map(String::from).into());
}

#[test]
fn no_crate_imports_what_its_place_forbids() {
    let graph = Graph::read();
    let services = [
        "service-async",
        "service-multi-process",
        "service-multi-thread",
    ];
    assert_absent(
        &graph.direct("contract", true),
        &["domain", "threeways"],
        "contract",
    );
    assert_absent(&graph.direct("contract", true), &services, "contract");
    let runtimes = [
        "tokio",
        "crossbeam-channel",
        "tiny_http",
        "axum",
        "amiquip",
        "lapin",
        "log",
    ];
    assert_absent(&graph.transitive("domain"), &runtimes, "domain");
    for blocking in ["service-multi-thread", "service-multi-process"] {
        assert_absent(
            &graph.transitive(blocking),
            &["tokio", "async-std", "lapin"],
            blocking,
        );
    }
    let blocking = ["crossbeam-channel", "tiny_http", "amiquip"];
    assert_absent(
        &graph.direct("service-async", true),
        &blocking,
        "service-async",
    );
    for service in services {
        assert_absent(&graph.transitive(service), &["threeways"], service);
        let others: Vec<&str> = services
            .into_iter()
            .filter(|other| *other != service)
            .collect();
        assert_absent(&graph.transitive(service), &others, service);
    }
    let judged = [&["domain"][..], &services].concat();
    assert_absent(&graph.direct("threeways", true), &judged, "the instrument");
}

#[test]
fn the_pure_crates_touch_neither_clock_nor_thread_nor_network() {
    let forbidden = [
        "std::net::Tcp",
        "std::net::Udp",
        "std::fs",
        "std::env::",
        "std::thread",
        "std::sync",
        "std::process",
        "SystemTime::now",
        "println!",
    ];
    for path in [sources("crates/contract/src"), sources("crates/domain/src")].concat() {
        let source = fs::read_to_string(&path).expect("readable");
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for word in forbidden {
            assert!(!code.contains(word), "{} uses {word}", path.display());
        }
        assert!(
            !code.contains("Instant::now"),
            "{} reads a clock",
            path.display()
        );
    }
}

#[test]
fn the_services_have_the_same_files() {
    for service in SERVICES {
        let mut expected: BTreeSet<String> = PAIRED.map(String::from).into();
        let own = UNPAIRED.iter().filter(|(of, _, _)| *of == service);
        expected.extend(own.map(|(_, file, _)| (*file).to_owned()));
        assert_eq!(
            file_names(&format!("crates/{service}/src")),
            expected,
            "{service}"
        );
    }
}

#[test]
fn files_are_short_enough_to_be_read() {
    for path in [sources("crates"), sources("bench")].concat() {
        let lines = fs::read_to_string(&path).expect("readable").lines().count();
        let limit = if path.ends_with("src/main.rs") {
            40
        } else {
            500
        };
        assert!(
            lines <= limit,
            "{} has {lines} lines, more than {limit}",
            path.display()
        );
    }
    for name in file_names("scripts") {
        let path = root().join("scripts").join(&name);
        let lines = fs::read_to_string(&path).expect("readable").lines().count();
        assert!(
            lines <= 40,
            "scripts/{name} has {lines} lines: it is more than a thin wrapper"
        );
    }
}

#[test]
fn the_top_level_is_the_architectures() {
    let entries = fs::read_dir(root()).expect("the workspace is readable");
    let names = entries.map(|entry| {
        entry
            .expect("readable")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    let found: BTreeSet<String> = names
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "README.md",
        "bench",
        "crates",
        "docker-compose.yml",
        "results",
        "scripts",
    ];
    assert_eq!(found, expected.map(String::from).into());
}
