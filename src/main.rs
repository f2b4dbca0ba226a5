//! The program: arguments, then one of the commands, then an exit status.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use lobbyd::config::ConfigError;

/// Status of a configuration error, `EX_CONFIG` of sysexits.h.
const CONFIGURATION_ERROR: u8 = 78;

#[tokio::main]
async fn main() -> ExitCode {
    // Two providers may be in the tree of dependencies; TLS needs to know which one.
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing before main installs a provider");

    match cli::Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let status = match error.downcast_ref::<ConfigError>() {
                Some(_) => ExitCode::from(CONFIGURATION_ERROR),
                None => ExitCode::FAILURE,
            };
            cli::print_error(&error);
            status
        }
    }
}
