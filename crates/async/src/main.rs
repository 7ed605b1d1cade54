//! Parses, builds, runs, maps to an exit code.
//!
//! Particular to tasks: the whole service is one future, and `main` is the only code outside it.

mod amqp;
mod background;
mod config;
mod device;
mod metrics;
mod rest;
mod server;
mod shutdown;
mod state;

use std::process::ExitCode;

use config::Config;
use server::ServerError;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            // `{:#}` prints the whole chain of causes on one line.
            eprintln!("service-async: {:#}", anyhow::Error::from(error));
            ExitCode::from(code)
        }
    }
}

fn run() -> Result<(), ServerError> {
    server::run(Config::load()?)
}
