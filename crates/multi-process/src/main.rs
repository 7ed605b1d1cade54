//! The service as operating-system processes joined by a Unix socket: parses, builds, runs, and
//! maps the end to an exit code.

mod amqp;
mod background;
mod config;
mod device;
mod ipc;
mod metrics;
mod nudge;
mod rest;
mod server;
mod shutdown;
mod state;
mod supervisor;

use std::process::ExitCode;

use contract::settings::EXIT_CONFIG;

fn main() -> ExitCode {
    let config = match config::Config::from_args() {
        Ok(config) => config,
        Err(message) => {
            eprintln!("error: {message}");
            return EXIT_CONFIG.into();
        }
    };
    config.start_logger();
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            eprintln!("error: {:#}", anyhow::Error::new(error));
            code.into()
        }
    }
}
