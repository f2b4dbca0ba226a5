//! The exporter of a program that was built without one.

use std::convert::Infallible;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Finished;

/// There is none.
pub struct Exporter(Infallible);

impl Exporter {
    /// Refuses every endpoint.
    ///
    /// # Errors
    ///
    /// Always: what to do about it.
    pub fn new(_endpoint: &str) -> Result<Self, String> {
        Err("this program was built without traces; build it with --features otlp".to_owned())
    }

    /// Never runs.
    #[expect(clippy::unused_async, reason = "as the other exporter")]
    pub async fn run(self, _spans: mpsc::Receiver<Finished>, _stop: CancellationToken) {
        match self.0 {}
    }
}
