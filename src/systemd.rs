//! Notifies systemd: readiness, a status line, reloads, the watchdog, stopping.
//!
//! `app` starts the notifier as a task, and the reload reports through it. Without `NOTIFY_SOCKET` in
//! the environment nothing is sent. Readiness needs the database only: rooms open on time without
//! the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::health::{Component, Health};

/// Longest interval between two notifications; a watchdog can require a shorter one.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How much longer the start may take after each notification that the database is unavailable, in
/// microseconds.
const START_EXTENSION: u32 = 30_000_000;

#[derive(Debug, Default)]
pub struct SystemdNotifier {
    /// Whether readiness has been reported.
    ready: AtomicBool,
}

impl SystemdNotifier {
    /// Reports readiness once the database is connected, and the end when `stop` is cancelled. Feeds
    /// the watchdog while the timer task makes progress.
    pub async fn run(self: Arc<Self>, health: Arc<Health>, stop: CancellationToken) {
        // Twice per watchdog timeout, as sd_watchdog_enabled(3) advises.
        let period = sd_notify::watchdog_enabled().map_or(STATUS_INTERVAL, |limit| limit / 2);
        let mut tick = interval(period.min(STATUS_INTERVAL));
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    notify(&[NotifyState::Stopping]);
                    return;
                }
                _ = tick.tick() => {}
            }
            let status = status_line(&health);
            let mut messages = vec![NotifyState::Status(&status)];
            if !self.ready.load(Ordering::Relaxed) {
                let ready = health.is_up(Component::Database);
                self.ready.store(ready, Ordering::Relaxed);
                // Waiting for the database is not a failed start.
                messages.push(if ready {
                    NotifyState::Ready
                } else {
                    NotifyState::ExtendTimeoutUsec(START_EXTENSION)
                });
            }
            if health.is_alive() {
                messages.push(NotifyState::Watchdog);
            }
            notify(&messages);
        }
    }

    pub fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.notify_if_ready(&[NotifyState::Reloading, now]);
        }
    }

    pub fn reloaded(&self) {
        self.notify_if_ready(&[NotifyState::Ready]);
    }

    /// Only the startup sequence may report readiness first.
    fn notify_if_ready(&self, messages: &[NotifyState]) {
        if self.ready.load(Ordering::Relaxed) {
            notify(messages);
        }
    }
}

fn status_line(health: &Health) -> String {
    let problems: Vec<String> = health
        .problems()
        .into_iter()
        .map(|problem| format!("{}: {}", problem.part, problem.text))
        .collect();
    if problems.is_empty() { "ready".to_owned() } else { problems.join("; ") }
}

fn notify(messages: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(messages) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}
