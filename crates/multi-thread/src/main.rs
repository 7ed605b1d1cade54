//! The service as operating-system threads joined by channels: parses, builds, runs, and maps the
//! end to an exit code.

mod amqp;
mod background;
mod config;
mod device;
mod metrics;
mod nudge;
mod rest;
mod server;
mod shutdown;
mod state;

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
    match server::Server::start(config).and_then(server::Server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            eprintln!("error: {:#}", anyhow::Error::new(error));
            code.into()
        }
    }
}
