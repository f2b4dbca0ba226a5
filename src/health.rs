//! Which components work at the moment, and whether the timer task makes progress.
//!
//! Tasks write it: one writer per component, which logs each change. The probes, the systemd notifier
//! and the reload read it. It never checks anything by itself.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A component that readiness depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    Database,
    /// The consumer of lobby changes: alive, not merely connected.
    Consumer,
    /// The connection that publishes.
    Publisher,
    /// The API's listener for room updates.
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

#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    /// The process is stuck if its timer task made no progress for this long.
    stuck_after: Duration,
}

#[derive(Debug)]
struct State {
    components: Vec<(Component, Condition)>,
    /// `None` until the timer task has started: before, it waits for the database.
    last_progress: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Unknown,
    Up,
    /// With the problem.
    Down(String),
}

impl Health {
    /// `components` are those that this process has. The timer task counts as stuck after
    /// `stuck_after` without progress.
    pub fn new(components: &[Component], stuck_after: Duration) -> Self {
        for component in components {
            metrics::gauge!(crate::metrics::CONNECTED, "part" => component.name()).set(0);
        }
        let state = Mutex::new(State {
            components: components
                .iter()
                .map(|component| (*component, Condition::Unknown))
                .collect(),
            last_progress: None,
        });
        Self { state, stuck_after }
    }

    /// Records that the component works. Returns whether it did not before.
    pub fn set_up(&self, component: Component) -> bool {
        metrics::gauge!(crate::metrics::CONNECTED, "part" => component.name()).set(1);
        self.set(component, Condition::Up) != Condition::Up
    }

    /// Records that the component does not work, and why. Returns whether it was not known to be
    /// down before.
    pub fn set_down(&self, component: Component, problem: impl Into<String>) -> bool {
        metrics::gauge!(crate::metrics::CONNECTED, "part" => component.name()).set(0);
        !matches!(self.set(component, Condition::Down(problem.into())), Condition::Down(_))
    }

    /// Records progress of the timer task.
    pub fn record_progress(&self) {
        self.state.lock().last_progress = Some(Instant::now());
    }

    /// Whether the timer task, once started, makes progress.
    pub fn is_alive(&self) -> bool {
        self.state.lock().last_progress.is_none_or(|progress| progress.elapsed() < self.stuck_after)
    }

    pub fn is_up(&self, component: Component) -> bool {
        self.state.lock().components.contains(&(component, Condition::Up))
    }

    /// The components that do not work, and why; empty if the process is ready.
    pub fn problems(&self) -> Vec<(Component, String)> {
        let mut problems = Vec::new();
        for (component, condition) in &self.state.lock().components {
            match condition {
                Condition::Up => {}
                Condition::Unknown => problems.push((*component, "not connected yet".to_owned())),
                Condition::Down(problem) => problems.push((*component, problem.clone())),
            }
        }
        problems
    }

    /// Returns the condition before.
    fn set(&self, component: Component, condition: Condition) -> Condition {
        let mut state = self.state.lock();
        let slot = state.components.iter_mut().find(|(each, _)| *each == component);
        slot.map_or(Condition::Unknown, |(_, slot)| std::mem::replace(slot, condition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUCK_AFTER: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn the_process_is_ready_when_every_component_works() {
        let components = [Component::Database, Component::Consumer, Component::Publisher];
        let health = Health::new(&components, STUCK_AFTER);
        assert_eq!(health.problems().len(), 3);
        for component in components {
            assert!(health.set_down(component, "gone"));
            assert!(!health.set_down(component, "still gone"));
            assert!(health.set_up(component));
            assert!(!health.set_up(component));
        }
        assert!(health.problems().is_empty());
        assert!(health.set_down(Component::Database, "gone"));
        assert_eq!(health.problems(), [(Component::Database, "gone".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_task_without_progress_is_not_alive() {
        let health = Health::new(&[Component::Database], STUCK_AFTER);
        tokio::time::advance(STUCK_AFTER).await;
        assert!(health.is_alive(), "it waits for the database");
        health.record_progress();
        assert!(health.is_alive());
        tokio::time::advance(STUCK_AFTER).await;
        assert!(!health.is_alive());
    }
}
