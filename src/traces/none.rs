//! The exporter in a program that was built without the feature `otlp`: no endpoint can be used.

use std::convert::Infallible;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::FinishedSpan;

/// Never exists.
pub struct Exporter(Infallible);

impl Exporter {
    pub fn new(_endpoint: &str) -> Result<Self, String> {
        Err("this program was built without traces; build it with --features otlp".to_owned())
    }

    #[expect(clippy::unused_async, reason = "has the signature of the other exporter")]
    pub async fn run(self, _spans: mpsc::Receiver<FinishedSpan>, _stop: CancellationToken) {
        match self.0 {}
    }
}
