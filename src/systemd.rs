//! What systemd is told, if it asks: readiness, a status line, the watchdog.
//!
//! Without `NOTIFY_SOCKET` in the environment every message goes nowhere.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// How often the status line is renewed where no watchdog wants it more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Says that the process is ready, feeds the watchdog while the timer loop makes rounds, and says
/// that the process stops.
pub async fn run(health: Arc<Health>, stop: CancellationToken) {
    // Twice within the watchdog's time, as its manual advises.
    let round = sd_notify::watchdog_enabled().map_or(STATUS_INTERVAL, |limit| limit / 2);
    let mut round = interval(round.min(STATUS_INTERVAL));
    tell(&[NotifyState::Ready]);
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                tell(&[NotifyState::Stopping]);
                return;
            }
            _ = round.tick() => {}
        }
        let status = status(&health);
        if health.is_alive() {
            tell(&[NotifyState::Status(&status), NotifyState::Watchdog]);
        } else {
            tell(&[NotifyState::Status(&status)]);
        }
    }
}

fn status(health: &Health) -> String {
    let problems: Vec<String> = health
        .problems()
        .into_iter()
        .map(|(part, problem)| format!("{}: {problem}", part.name()))
        .collect();
    if problems.is_empty() { "opening rooms on time".to_owned() } else { problems.join("; ") }
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
