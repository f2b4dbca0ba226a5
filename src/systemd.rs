//! What systemd is told, if it asks: readiness, a status line, the watchdog.
//!
//! Without `NOTIFY_SOCKET` in the environment every message goes nowhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::health::{Component, Health};

/// How often the status line is renewed where no watchdog wants it more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Microseconds that the start may take longer, each time that the database was waited for.
const WAIT: u32 = 30_000_000;

/// What systemd knows of this process.
#[derive(Debug, Default)]
pub struct Link {
    /// It has been told that the process is ready.
    ready: AtomicBool,
}

impl Link {
    /// Says that the process is ready when it has reached the database, feeds the watchdog while the
    /// timer loop makes progress, and says that the process stops. The broker does not matter for
    /// readiness here: rooms open on time without it.
    pub async fn run(self: Arc<Self>, health: Arc<Health>, stop: CancellationToken) {
        // Twice within the watchdog's time, as its manual advises.
        let round = sd_notify::watchdog_enabled().map_or(STATUS_INTERVAL, |limit| limit / 2);
        let mut round = interval(round.min(STATUS_INTERVAL));
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    tell(&[NotifyState::Stopping]);
                    return;
                }
                _ = round.tick() => {}
            }
            let line = status_line(&health);
            let mut news = vec![NotifyState::Status(&line)];
            if !self.ready.load(Ordering::Relaxed) {
                let ready = health.is_up(Component::Database);
                self.ready.store(ready, Ordering::Relaxed);
                // The wait for the database is not a start that failed.
                news.push(if ready {
                    NotifyState::Ready
                } else {
                    NotifyState::ExtendTimeoutUsec(WAIT)
                });
            }
            if health.is_alive() {
                news.push(NotifyState::Watchdog);
            }
            tell(&news);
        }
    }

    /// Says that the configuration is read anew.
    pub fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell_once_ready(&[NotifyState::Reloading, now]);
        }
    }

    /// Says that it has been read.
    pub fn reloaded(&self) {
        self.tell_once_ready(&[NotifyState::Ready]);
    }

    /// A process that still starts is told to be ready by nothing but its start.
    fn tell_once_ready(&self, news: &[NotifyState]) {
        if self.ready.load(Ordering::Relaxed) {
            tell(news);
        }
    }
}

fn status_line(health: &Health) -> String {
    let problems: Vec<String> = health
        .problems()
        .into_iter()
        .map(|(part, problem)| format!("{}: {problem}", part.name()))
        .collect();
    if problems.is_empty() { "ready".to_owned() } else { problems.join("; ") }
}

fn tell(news: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::debug!(%error, "systemd could not be notified");
    }
}
