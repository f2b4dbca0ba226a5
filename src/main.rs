//! The program `lobbyd`: runs the command that the arguments name, and sets the exit status.
//!
//! Everything else is in the library; see its documentation for the architecture.

mod cli;

use std::process::ExitCode;

use lobbyd::config::ConfigError;

/// Status of a configuration error, `EX_CONFIG` of sysexits.h.
const CONFIGURATION_ERROR: u8 = 78;

#[tokio::main]
async fn main() -> ExitCode {
    // The dependencies may contain two cryptography providers; TLS has to be told which one to use.
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("no provider is installed before main");

    match cli::Cli::from_arguments().run().await {
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
