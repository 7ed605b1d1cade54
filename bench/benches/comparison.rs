//! `cargo bench`: the comparison of the three models, in the profile of `THREEWAYS_PROFILE`
//! (`smoke`, `standard` or `full`; `smoke` if it is not set).

use std::process::ExitCode;

use anyhow::Context as _;
use threeways::cli;
use threeways::host::awake::Awake;
use threeways::pipeline::RunOptions;
use threeways::profile::ProfileName;

fn main() -> ExitCode {
    match compare() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn compare() -> anyhow::Result<u8> {
    let name = std::env::var("THREEWAYS_PROFILE").unwrap_or_else(|_| "smoke".into());
    let profile: ProfileName = name
        .parse()
        .map_err(anyhow::Error::msg)
        .context("THREEWAYS_PROFILE")?;
    let _awake = Awake::hold();
    cli::run(&RunOptions {
        objectives: vec![],
        profile,
        scenarios: vec![],
        subjects: vec![],
        layout: None,
        blocks: None,
        seed: None,
        purge: false,
        out: None,
    })
}
