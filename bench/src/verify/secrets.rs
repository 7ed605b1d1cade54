//! What must not be seen: the broker's password, and the service by strangers.

use std::{
    fs,
    io::Read as _,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{ffi::OsStrExt as _, net::SocketAddr, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use procfs::{
    net::UnixState,
    process::{FDTarget, Process},
};
use rustix::{
    process::{Uid, geteuid},
    thread::set_thread_res_uid,
};

use super::{
    Context, Target,
    case::{Case, Skip, eventually},
    scene::Scene,
};
use crate::{amqp::Url, launch::LaunchError};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required_beside(
        "nobody but this machine is served by default",
        default_address,
    ),
    Case::required(
        "no password is told, logged or shown to other users",
        password,
    ),
    Case::required_beside(
        "a broker's URL that is wrong is told without its password",
        wrong_urls,
    ),
    Case::required_beside(
        "no other user is answered on a socket of the service",
        strangers,
    ),
];

/// A password like no other text, with what a URL must encode.
const PASSWORD: &str = "s3cr:t@pa55";
/// The same in a URL.
const ENCODED: &str = "s3cr%3At%40pa55";
/// Time for a broker to refuse a password, and for the service to end.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);
/// Time for the end of a connection.
const LIMIT: Duration = Duration::from_secs(3);
/// `nobody`.
const STRANGER: u32 = 65_534;

/// Checks that a text has the password in no form in which programs show bytes.
fn expect_none(what: &str, text: &str) -> anyhow::Result<()> {
    let list = |show: fn(&u8) -> String, between: &str| {
        PASSWORD
            .bytes()
            .map(|byte| show(&byte))
            .collect::<Vec<_>>()
            .join(between)
    };
    let forms = [
        PASSWORD.to_owned(),
        ENCODED.to_owned(),
        list(u8::to_string, ", "),
        list(u8::to_string, ","),
        list(|byte| format!("{byte:02x}"), ""),
        list(|byte| format!("{byte:02x}"), " "),
        list(|byte| format!("0x{byte:02x}"), ", "),
    ];
    let text = text.to_lowercase();
    let found = forms
        .iter()
        .find_map(|form| text.find(form.to_lowercase().as_str()));
    let around = found.map(|at| &text[text[..at].rfind('\n').unwrap_or(0)..at]);
    ensure!(
        around.is_none(),
        "{what} has the password behind {around:?}"
    );
    Ok(())
}

fn default_address(target: &Target) -> anyhow::Result<()> {
    let mut command = Command::new(&target.executable);
    let output = command.args(&target.args).arg("--help").output()?;
    let help = String::from_utf8_lossy(&output.stdout);
    let told = help
        .split("--")
        .find(|option| option.starts_with("http-addr"));
    let told = told.context("--http-addr is missing")?;
    let default = told
        .split("[default: ")
        .nth(1)
        .context("it has no default")?;
    ensure!(
        default.starts_with("127.0.0.1:"),
        "the default is {default}"
    );
    Ok(())
}

fn password(context: &mut Context<'_>) -> anyhow::Result<()> {
    look_without_broker(&context.target)?;
    // The handshake carries it: to the broker it is a wrong one, but it travels as a right one does.
    let broker = Url::parse(&context.broker.url)?;
    let url = format!("amqp://{}:{ENCODED}@{}/%2f", broker.user, broker.address());
    match Scene::start_unready(context, &[("BC_AMQP_URL", &url), ("BC_LOG", "trace")]) {
        // Refused before its port was open.
        Err(LaunchError::Ended { .. }) => {}
        Err(error) => return Err(error.into()),
        Ok(mut scene) => {
            eventually("it ends", REFUSAL_LIMIT, || Ok(scene.exit_code().is_some()))?;
        }
    }
    // The launch that failed has left its log in the folder.
    for entry in fs::read_dir(&context.target.scratch)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "stderr") {
            let bytes = fs::read(&path)?;
            expect_none("the log", &String::from_utf8_lossy(&bytes))?;
        }
    }
    Ok(())
}

/// Looks at everything that a service shows while it reaches no broker.
fn look_without_broker(target: &Target) -> anyhow::Result<()> {
    let url = format!("amqp://me:{ENCODED}@127.0.0.1:1/%2f");
    let scene = Scene::start_apart(target, &[("BC_AMQP_URL", &url), ("BC_LOG", "trace")])?;
    // In some models it is a process of its own.
    scene.post("/api/v1/jobs", r#"{"kind":"cpu","duration_ms":60000}"#)?;
    for path in ["/info", "/metrics", "/readyz", "/nowhere"] {
        expect_none(path, &scene.get(path)?.text())?;
    }
    let refused = scene.post("/api/v1/events", r#"{"key":"a","data":{}}"#)?;
    expect_none("a refused event", &refused.text())?;
    for pid in scene.pids() {
        // Everybody may read the arguments of a process, only its owner the environment.
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        expect_none("a command line", &String::from_utf8_lossy(&arguments))?;
    }
    expect_none("the log", &scene.whole_stderr()?)?;
    scene.stop()
}

fn wrong_urls(target: &Target) -> anyhow::Result<()> {
    for url in [
        "amqp://me:{}@host:port/",
        "amqp://me:{}@[::1/",
        "amqp://me:{}%zz@host/",
        "amqp://me:{}",
        "amqp://me:{}:5672/%2f",
        "http://me:{}@host/",
        "amqps://me:{}@host/",
        "me:{}@host",
        "{}",
    ] {
        let text = url.replace("{}", ENCODED);
        let stderr = match Scene::start_apart(target, &[("BC_AMQP_URL", &text)]) {
            Err(LaunchError::Ended { stderr, .. }) => stderr,
            Err(error) => return Err(error.into()),
            // It takes the URL for a right one, whose host it will not find.
            Ok(scene) => scene.whole_stderr()?,
        };
        expect_none(&format!("the error about {url}"), &stderr)?;
    }
    Ok(())
}

fn strangers(target: &Target) -> anyhow::Result<()> {
    if !geteuid().is_root() {
        return Err(Skip("only root can become somebody else".to_owned()).into());
    }
    let scene = Scene::start_apart(target, &[])?;
    for path in sockets(&scene.pids())? {
        let seen = path.clone();
        // The user of a thread is its own: this one ends with it.
        let outcome = std::thread::spawn(move || call_as_stranger(&path)).join();
        let outcome = outcome.map_err(|_| anyhow::anyhow!("the stranger panicked"))?;
        outcome.with_context(|| seen.display().to_string())?;
    }
    scene.stop()
}

/// Names of the Unix sockets on which these processes listen: a listener is connected to nobody.
fn sockets(pids: &[i32]) -> anyhow::Result<Vec<PathBuf>> {
    let mut theirs = Vec::new();
    for &pid in pids {
        for descriptor in Process::new(pid)?.fd()?.flatten() {
            if let FDTarget::Socket(inode) = descriptor.target {
                theirs.push(inode);
            }
        }
    }
    let all = procfs::net::unix()?.into_iter();
    let listening =
        all.filter(|it| it.state == UnixState::UNCONNECTED && theirs.contains(&it.inode));
    Ok(listening.filter_map(|socket| socket.path).collect())
}

/// Connects as another user, which must be impossible or end at once.
fn call_as_stranger(path: &Path) -> anyhow::Result<()> {
    let stranger = Uid::from_raw(STRANGER);
    set_thread_res_uid(stranger, stranger, stranger)?;
    let address = match path.as_os_str().as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let Ok(mut stream) = UnixStream::connect_addr(&address) else {
        return Ok(());
    };
    stream.set_read_timeout(Some(LIMIT))?;
    let mut bytes = [0; 1];
    match stream.read(&mut bytes) {
        Ok(0) => Ok(()),
        Ok(_) => anyhow::bail!("a stranger is answered"),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            anyhow::bail!("a stranger is listened to")
        }
        Err(_) => Ok(()),
    }
}
