//! What works at the moment: written by the loops, read by the probes and the watchdog.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A part that readiness depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Rooms and outbox.
    Database,
    /// The consumer of lobby changes: alive, not merely connected.
    Consumer,
    /// The connection that publishes.
    Publisher,
    /// The API's ear for room updates.
    Listener,
}

impl Component {
    /// Its name in answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Consumer => "consumer",
            Self::Publisher => "publisher",
            Self::Listener => "listener",
        }
    }
}

/// The state of all parts.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    /// The process is stuck if its timer loop made no progress for this long.
    stuck_after: Duration,
}

#[derive(Debug)]
struct State {
    parts: Vec<(Component, Condition)>,
    /// `None` until the timer loop has started: before, it waits for the database.
    last_round: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// Not tried yet.
    Unknown,
    Works,
    /// And why.
    Fails(String),
}

impl Health {
    /// Nothing is known yet of the parts that this process has. Between two steps of the timer loop
    /// there may be less than `stuck_after`.
    pub fn new(parts: &[Component], stuck_after: Duration) -> Self {
        for part in parts {
            metrics::gauge!(crate::metrics::CONNECTED, "part" => part.name()).set(0);
        }
        let state = Mutex::new(State {
            parts: parts.iter().map(|part| (*part, Condition::Unknown)).collect(),
            last_round: None,
        });
        Self { state, stuck_after }
    }

    /// Notes that the part works. Returns whether that is news.
    pub fn set_up(&self, part: Component) -> bool {
        metrics::gauge!(crate::metrics::CONNECTED, "part" => part.name()).set(1);
        self.set(part, Condition::Works) != Condition::Works
    }

    /// Notes that the part does not work, and why. Returns whether it is news that it does not.
    pub fn set_down(&self, part: Component, problem: impl Into<String>) -> bool {
        metrics::gauge!(crate::metrics::CONNECTED, "part" => part.name()).set(0);
        !matches!(self.set(part, Condition::Fails(problem.into())), Condition::Fails(_))
    }

    /// Notes that the timer loop makes progress.
    pub fn record_progress(&self) {
        self.state().last_round = Some(Instant::now());
    }

    /// Whether the timer loop, once started, makes progress.
    pub fn is_alive(&self) -> bool {
        self.state().last_round.is_none_or(|round| round.elapsed() < self.stuck_after)
    }

    /// Whether the part works.
    pub fn is_up(&self, part: Component) -> bool {
        self.state().parts.contains(&(part, Condition::Works))
    }

    /// What does not work, and why; empty if the process is ready.
    pub fn problems(&self) -> Vec<(Component, String)> {
        let mut problems = Vec::new();
        for (part, condition) in &self.state().parts {
            match condition {
                Condition::Works => {}
                Condition::Unknown => problems.push((*part, "not connected yet".to_owned())),
                Condition::Fails(problem) => problems.push((*part, problem.clone())),
            }
        }
        problems
    }

    /// Returns the condition before.
    fn set(&self, part: Component, condition: Condition) -> Condition {
        let mut state = self.state();
        let slot = state.parts.iter_mut().find(|(each, _)| *each == part);
        slot.map_or(Condition::Unknown, |(_, slot)| std::mem::replace(slot, condition))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUCK_AFTER: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn the_process_is_ready_when_every_part_works() {
        let parts = [Component::Database, Component::Consumer, Component::Publisher];
        let health = Health::new(&parts, STUCK_AFTER);
        assert_eq!(health.problems().len(), 3);
        for part in parts {
            assert!(health.set_down(part, "gone"));
            assert!(!health.set_down(part, "still gone"));
            assert!(health.set_up(part));
            assert!(!health.set_up(part));
        }
        assert!(health.problems().is_empty());
        assert!(health.set_down(Component::Database, "gone"));
        assert_eq!(health.problems(), [(Component::Database, "gone".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_loop_without_rounds_is_not_alive() {
        let health = Health::new(&[Component::Database], STUCK_AFTER);
        tokio::time::advance(STUCK_AFTER).await;
        assert!(health.is_alive(), "it waits for the database");
        health.record_progress();
        assert!(health.is_alive());
        tokio::time::advance(STUCK_AFTER).await;
        assert!(!health.is_alive());
    }
}
