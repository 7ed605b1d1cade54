//! Settings, start, and refusal to start.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use clap::Args;
use contract::{
    QueueType, Settings,
    amqp::INGEST_QUEUE,
    settings::{EXIT_BIND, EXIT_CONFIG},
};

use super::{
    Context,
    case::{Case, eventually},
    scene::Scene,
};
use crate::{amqp::Url, launch::LaunchError};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("--help tells every setting with its variable", help),
    Case::required("a flag wins over its variable", flag_wins),
    Case::required("a port in use is exit code 3", port_in_use),
    Case::required(
        "a wrong password is a clear error and exit code 2",
        wrong_password,
    ),
    Case::required(
        "queues of another type are a clear error and exit code 2",
        other_topology,
    ),
    Case::required(
        "an unknown BC_ variable is a clear error and exit code 2",
        unknown_variable,
    ),
    Case::required(
        "a wrong value is a clear error and exit code 2",
        wrong_value,
    ),
];

/// Time for a service that cannot run to say so.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

fn help(context: &mut Context<'_>) -> anyhow::Result<()> {
    let target = &context.target;
    let output = Command::new(&target.executable)
        .args(&target.args)
        .arg("--help")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {text}", output.status);
    let command = Settings::augment_args(clap::Command::new("any subject"));
    for setting in command.get_arguments() {
        let names = setting.get_long().zip(setting.get_env());
        let Some((flag, variable)) = names else {
            continue;
        };
        let (flag, variable) = (format!("--{flag}"), variable.to_string_lossy());
        ensure!(text.contains(&flag), "{flag} is missing: {text}");
        ensure!(text.contains(&*variable), "{variable} is missing: {text}");
    }
    Ok(())
}

fn flag_wins(context: &mut Context<'_>) -> anyhow::Result<()> {
    let env = [("BC_NAME", "by-variable"), ("BC_PROFILE", "isolated")];
    let scene = Scene::start_with(&context.target, &env, &["--name", "by-flag"])?;
    let info = scene.get("/info")?;
    let document = info.json();
    ensure!(
        document["name"] == "by-flag" && document["profile"] == "isolated",
        "{}",
        info.text()
    );
    scene.stop()
}

/// Starts a service that must refuse, and returns its exit code and what it says.
fn refusal(context: &Context<'_>, env: &[(&str, &str)]) -> anyhow::Result<(Option<i32>, String)> {
    match Scene::start_unready(context, env) {
        Err(LaunchError::Ended { status, stderr, .. }) => Ok((status.code(), stderr)),
        Err(error) => Err(error.into()),
        // It may open its port before it asks the broker.
        Ok(mut scene) => {
            let mut code = None;
            eventually("it ends with an error", REFUSAL_LIMIT, || {
                code = scene.exit_code();
                Ok(code.is_some())
            })?;
            Ok((code, scene.stderr()))
        }
    }
}

fn check_refusal(
    (code, stderr): &(Option<i32>, String),
    expected: u8,
    named: &[&str],
) -> anyhow::Result<()> {
    ensure!(
        *code == Some(expected.into()),
        "exit code {code:?}; stderr: {stderr}"
    );
    let text = stderr.to_lowercase();
    let clear = named.iter().any(|word| text.contains(&word.to_lowercase()));
    ensure!(clear, "the error names none of {named:?}: {stderr:?}");
    ensure!(!text.contains("panicked"), "it panicked: {stderr}");
    Ok(())
}

fn port_in_use(context: &mut Context<'_>) -> anyhow::Result<()> {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = taken.local_addr()?.to_string();
    let refusal = refusal(context, &[("BC_HTTP_ADDR", &address)])?;
    check_refusal(&refusal, EXIT_BIND, &[&address])
}

fn wrong_password(context: &mut Context<'_>) -> anyhow::Result<()> {
    let url = Url::parse(&context.broker.url)?;
    let wrong = format!("amqp://{}:pa55wrong@{}/%2f", url.user, url.address());
    let refusal = refusal(context, &[("BC_AMQP_URL", &wrong)])?;
    ensure!(
        !refusal.1.contains("pa55wrong"),
        "the password is in the log: {}",
        refusal.1
    );
    check_refusal(
        &refusal,
        EXIT_CONFIG,
        &["refused", "password", "access", "credentials"],
    )
}

fn other_topology(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.broker.reset(QueueType::Quorum)?;
    let refusal = refusal(context, &[("BC_QUEUE_TYPE", "classic")])?;
    let named = [INGEST_QUEUE, "topology", "queue type", "x-queue-type"];
    check_refusal(&refusal, EXIT_CONFIG, &named)
}

fn unknown_variable(context: &mut Context<'_>) -> anyhow::Result<()> {
    let refusal = refusal(context, &[("BC_PREFECH", "1")])?;
    check_refusal(&refusal, EXIT_CONFIG, &["BC_PREFECH"])
}

fn wrong_value(context: &mut Context<'_>) -> anyhow::Result<()> {
    let refusal = refusal(context, &[("BC_PREFETCH", "many")])?;
    check_refusal(&refusal, EXIT_CONFIG, &["prefetch"])
}
