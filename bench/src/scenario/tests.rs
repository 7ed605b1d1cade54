//! What scenarios are refused for, and which cells they make.

use super::*;

const MINIMAL: &str = r#"
name = "x"
question = "Does it?"
layout = "isolated"
service_profile = "isolated"
[durations]
smoke = { warm_up_s = 0.1, window_s = 0.5 }
standard = { warm_up_s = 1.0, window_s = 3.0 }
full = { warm_up_s = 1.0, window_s = 10.0 }
"#;

fn parse(extra: &str) -> Scenario {
    toml::from_str(&format!("{extra}\n{MINIMAL}")).expect("the text is valid")
}

#[test]
fn an_unknown_key_is_refused_with_the_file_and_the_key() {
    let path = std::env::temp_dir().join(format!("scenario-{}.toml", std::process::id()));
    std::fs::write(&path, format!("conections = 3\n{MINIMAL}")).expect("temporary folder");
    let error = Scenario::read(&path).expect_err("the key is misspelt");
    std::fs::remove_file(&path).expect("it was written above");
    let chain = format!("{:#}", anyhow::Error::from(error));
    assert!(chain.contains("conections"), "{chain}");
    assert!(chain.contains(&path.display().to_string()), "{chain}");
}

#[test]
fn an_axis_makes_one_cell_per_value_with_its_own_rate_and_variables() {
    let mut scenario = parse("load = { rest = { rate_per_s = 1, mix = [\"device\"] } }");
    scenario.axis = Some(Axis {
        name: "pool".into(),
        values: vec![1, 16],
        env: vec!["BC_HTTP_WORKERS".into()],
        rest_rate_per_s: vec![50.0, 800.0],
        connections: vec![2, 32],
    });
    let cells = scenario.cells(ProfileName::Smoke);
    assert_eq!(cells[1].name, "x/pool=16");
    assert_eq!(cells[1].environment["BC_HTTP_WORKERS"], "16");
    assert_eq!(cells[1].arrival_rate_per_s()[&Kind::Rest], 800.0);
    assert_eq!(cells[1].facts().connections, Some(32));
}

#[test]
fn an_axis_names_as_many_connections_as_values() {
    let mut scenario = parse("axis = { name = \"n\", values = [1, 2], connections = [1] }");
    let reason = scenario.contradiction().unwrap_or_default();
    assert!(reason.contains("axis.connections"), "{reason}");
    scenario.axis.as_mut().expect("an axis").connections = vec![0, 1];
    let reason = scenario.contradiction().unwrap_or_default();
    assert!(reason.contains("at least 1"), "{reason}");
}

#[test]
fn a_shape_must_fit_the_window_of_every_profile() {
    let load = |over_s| {
        format!(
            "load = {{ rest = {{ rate_per_s = 9, mix = [\"device\"], \
             arrival = {{ ramp = {{ to_per_s = 90, over_s = {over_s} }} }} }} }}"
        )
    };
    let reason = parse(&load("0.6")).contradiction().unwrap_or_default();
    assert!(reason.contains("window of 0.5 s"), "{reason}");
    let right = parse(&load("0.5"));
    assert_eq!(right.contradiction(), None);
    let rates = right.cells(ProfileName::Smoke)[0].arrival_rate_per_s();
    assert!((rates[&Kind::Rest] - 49.5).abs() < 1e-9);
}

#[test]
fn latest_needs_the_shared_profile() {
    let scenario = parse("load = { rest = { rate_per_s = 1, mix = [\"latest\"] } }");
    assert!(
        scenario
            .contradiction()
            .is_some_and(|reason| reason.contains("shared"))
    );
}

#[test]
fn every_scenario_in_the_tree_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let all = read_all(&folder).expect("the files are valid");
    let chosen = select(all, &[]).expect("no name was given");
    let cells: usize = chosen
        .iter()
        .map(|scenario| scenario.cells(ProfileName::Smoke).len())
        .sum();
    assert_eq!(cells, 8);
}

#[test]
fn a_cell_in_another_layout_has_another_name() {
    let cell = parse("").cells(ProfileName::Smoke).remove(0);
    let same = cell.clone().in_layout(Layout::Isolated);
    assert_eq!(
        (same.name.as_str(), same.scenario.layout),
        ("x", Layout::Isolated)
    );
    let other = cell.in_layout(Layout::Native);
    assert_eq!(
        (other.facts().cell.as_str(), other.facts().layout),
        ("x@native", Layout::Native)
    );
}
