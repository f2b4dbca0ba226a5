//! Whether the consumer is connected, for the log and for readiness: one line per change, however
//! often the connection is lost.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::bus::BusError;
use crate::health::{Component, Health};
use crate::logging;

/// How long a connection lasts at least that works.
const PROVEN_AFTER: Duration = Duration::from_secs(1);

/// Waits after a message that cannot be parsed. They are short: each delivery counts, and after some
/// the broker removes the message.
const UNPARSEABLE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(400));

/// Connections in a row that end with a message that cannot be parsed, after which the broker should
/// have removed it.
const UNPARSEABLE_LIMIT: u32 = 25;

pub(in crate::tasks) struct ConnectionState {
    health: Arc<Health>,
    backoff: Backoff,
    /// Connections in a row that ended with a message that cannot be parsed.
    unparseable: u32,
    /// When an open connection counts as one that works.
    proven_at: Option<Instant>,
}

impl ConnectionState {
    pub(in crate::tasks) fn new(health: &Arc<Health>) -> Self {
        Self {
            health: Arc::clone(health),
            backoff: Backoff::new(Backoff::TASKS),
            unparseable: 0,
            proven_at: None,
        }
    }

    /// A new connection works, unless the last one ended with a message that cannot be parsed: it
    /// comes first again.
    pub(in crate::tasks) fn opened(&mut self) {
        self.proven_at = Some(Instant::now() + PROVEN_AFTER);
        if self.unparseable == 0 {
            self.set_up();
        }
    }

    /// Waits until the connection has lasted for long enough.
    pub(in crate::tasks) async fn proven(&self) {
        match self.proven_at {
            Some(proven_at) => sleep_until(proven_at).await,
            None => pending().await,
        }
    }

    /// A delivery was acknowledged, or the connection has lasted for long enough.
    pub(in crate::tasks) fn works(&mut self) {
        if self.proven_at.take().is_some() {
            self.backoff.reset();
            self.unparseable = 0;
            self.set_up();
        }
    }

    /// Returns how long to wait before the next attempt.
    pub(in crate::tasks) fn lost(&mut self, error: &BusError) -> Duration {
        self.proven_at = None;
        if matches!(error, BusError::Reconnect) {
            return Duration::ZERO;
        }
        let problem = logging::causes(error);
        if let BusError::Unparseable { queue, vhost, .. } = error {
            if self.unparseable == 0 {
                self.backoff = Backoff::new(UNPARSEABLE);
            }
            self.unparseable += 1;
            if self.unparseable >= UNPARSEABLE_LIMIT {
                self.set_stuck(&policy_command(queue, vhost), &problem);
                return self.backoff.next_wait();
            }
        } else if self.unparseable > 0 {
            self.unparseable = 0;
            self.backoff = Backoff::new(Backoff::TASKS);
        }
        if self.health.set_down(Component::Consumer, problem.as_str()) {
            tracing::warn!(error = problem, "consumer disconnected");
        }
        self.backoff.next_wait()
    }

    fn set_up(&self) {
        if self.health.set_up(Component::Consumer) {
            tracing::info!("consumer connected");
        }
    }

    /// The broker delivers the message again and again.
    fn set_stuck(&self, command: &str, problem: &str) {
        let problem = format!(
            "{problem}; set a delivery limit: {command} (only one policy applies to a queue: if it \
             has one, add the limit to that one)"
        );
        self.health.set_down(Component::Consumer, problem.as_str());
        if self.unparseable == UNPARSEABLE_LIMIT {
            tracing::error!(
                command,
                "the message at the head of the queue cannot be parsed, and the broker does not \
                 remove it"
            );
        }
    }
}

/// Sets a delivery limit, under a name that no installation uses.
fn policy_command(queue: &str, vhost: &str) -> String {
    let pattern = queue.replace('.', r"\.");
    format!(
        "rabbitmqctl set_policy --vhost '{vhost}' --apply-to queues lobbyd-delivery-limit \
         '^{pattern}$' '{{\"delivery-limit\": 20}}'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_the_virtual_host_and_only_this_queue() {
        assert_eq!(
            policy_command("lobbyd.lobby-changed", "/"),
            "rabbitmqctl set_policy --vhost '/' --apply-to queues lobbyd-delivery-limit \
             '^lobbyd\\.lobby-changed$' '{\"delivery-limit\": 20}'"
        );
    }
}
