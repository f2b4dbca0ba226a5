//! Notifies systemd: readiness, a status line, reloads, the watchdog, stopping.
//!
//! `app` starts the notifier as a task, and the reload reports through it. Without `NOTIFY_SOCKET` in
//! the environment nothing is sent. Readiness needs the database only, because rooms open on time
//! without the broker, and does not wait for it for long: an unavailable server must not hold up a
//! boot or the installation of a package.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::health::{Component, Health};

/// Longest interval between two notifications; a watchdog can require a shorter one.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// For how long a start waits for the database before it is reported as done. The status says what
/// is missing.
const START_PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub struct SystemdNotifier {
    /// Whether readiness has been reported.
    ready: AtomicBool,
    /// What the last reload has left undone.
    reload: Mutex<Option<String>>,
}

impl SystemdNotifier {
    /// Reports readiness, and the end when `stop` is cancelled. Feeds the watchdog while the timer
    /// task makes progress. Logs when everything works for the first time.
    pub async fn run(self: Arc<Self>, health: Arc<Health>, stop: CancellationToken) {
        // Twice per watchdog timeout, as sd_watchdog_enabled(3) advises.
        let period = sd_notify::watchdog_enabled().map_or(STATUS_INTERVAL, |limit| limit / 2);
        let mut tick = interval(period.min(STATUS_INTERVAL));
        let begin = Instant::now();
        let mut is_logged = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    notify(&[NotifyState::Stopping]);
                    return;
                }
                _ = tick.tick() => {}
            }
            if !is_logged && health.problems().is_empty() {
                is_logged = true;
                tracing::info!(after_seconds = begin.elapsed().as_secs_f64(), "ready");
            }
            let status = self.status_line(&health);
            let mut messages = vec![NotifyState::Status(&status)];
            let is_ready = health.is_up(Component::Database) || begin.elapsed() >= START_PATIENCE;
            if is_ready && !self.ready.swap(true, Ordering::Relaxed) {
                messages.push(NotifyState::Ready);
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

    /// `undone` is what the reload has left undone, for the status.
    pub fn reloaded(&self, undone: Option<String>) {
        *self.reload.lock() = undone;
        self.notify_if_ready(&[NotifyState::Ready]);
    }

    /// Only the startup sequence may report readiness first.
    fn notify_if_ready(&self, messages: &[NotifyState]) {
        if self.ready.load(Ordering::Relaxed) {
            notify(messages);
        }
    }

    fn status_line(&self, health: &Health) -> String {
        let problems = health.problems();
        let mut parts: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.part, problem.text)).collect();
        if parts.is_empty() {
            parts.push("ready".to_owned());
        }
        parts.extend(self.reload.lock().clone());
        parts.join("; ")
    }
}

fn notify(messages: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(messages) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}
