//! Which components work, which work is not done yet, and whether the timer task makes progress.
//!
//! Tasks write it: one writer per component, which logs each change, and one per kind of work, which
//! reports the oldest item that is not done. The age of that item grows by itself, also while the
//! task cannot look. The probes, the gauges, the systemd notifier and the reload read it. It never
//! checks anything by itself.

use std::time::Duration;

use chrono::TimeDelta;
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
    /// Nextcloud Talk: its database, and that it opens rooms when it is asked.
    Talk,
    /// Talk's signaling servers, all of them.
    Signaling,
}

impl Component {
    /// Its name in answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Consumer => "consumer",
            Self::Publisher => "publisher",
            Self::Listener => "listener",
            Self::Talk => "talk",
            Self::Signaling => "signaling",
        }
    }
}

/// Work that a task has to get done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Rooms whose timer is due.
    Timers,
    /// Deliveries that are not acknowledged.
    Deliveries,
    /// Events of the outbox that are not confirmed.
    Outbox,
    /// Rooms of Nextcloud Talk whose timer is due.
    Talk,
    /// Rooms that a signaling server has to be told.
    Signaling,
}

impl Work {
    const ALL: [Self; 5] =
        [Self::Timers, Self::Deliveries, Self::Outbox, Self::Talk, Self::Signaling];
}

impl Work {
    /// The part of readiness that it belongs to.
    fn part(self) -> &'static str {
        match self {
            Self::Timers => "timers",
            Self::Deliveries => Component::Consumer.name(),
            Self::Outbox => Component::Publisher.name(),
            Self::Talk => Component::Talk.name(),
            Self::Signaling => Component::Signaling.name(),
        }
    }

    fn gauge(self) -> &'static str {
        match self {
            Self::Timers => crate::metrics::OVERDUE,
            Self::Deliveries => crate::metrics::DELIVERIES_OLDEST,
            Self::Outbox => crate::metrics::OUTBOX_OLDEST,
            Self::Talk => crate::metrics::TALK_OVERDUE,
            Self::Signaling => crate::metrics::SIGNALING_OLDEST,
        }
    }
}

/// The oldest item of some work that is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oldest {
    /// What it is, for people: "room abc is due".
    pub item: String,
    /// How long it could have been done already; negative for a timer that is not due yet.
    pub age: TimeDelta,
}

/// A reason why the process is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The part of the process, which a probe may ask for.
    pub part: &'static str,
    pub text: String,
}

#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    /// The process is stuck if its timer task made no progress for this long.
    stuck_after: Duration,
    /// The process is not ready while an item of its work is older.
    overdue_after: Duration,
}

#[derive(Debug)]
struct State {
    components: Vec<(Component, Condition)>,
    /// The oldest items, and when they were reported.
    work: Vec<(Work, Oldest, Instant)>,
    /// The ages of the oldest items with those that are refused, and when they were reported.
    of_all: Vec<(Work, TimeDelta, Instant)>,
    /// `None` until the timer task has started: before, it waits for the database.
    last_progress: Option<Instant>,
    /// Why the database cannot be written, though it answers queries.
    unwritable: Option<String>,
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
    /// `stuck_after` without progress, an item of work as overdue at an age of `overdue_after`.
    pub fn new(components: &[Component], stuck_after: Duration, overdue_after: Duration) -> Self {
        for component in components {
            metrics::gauge!(crate::metrics::CONNECTED, "part" => component.name()).set(0);
        }
        let state = Mutex::new(State {
            components: components
                .iter()
                .map(|component| (*component, Condition::Unknown))
                .collect(),
            work: Vec::new(),
            of_all: Vec::new(),
            last_progress: None,
            unwritable: None,
        });
        Self { state, stuck_after, overdue_after }
    }

    /// Records that the component works. Returns whether it did not before.
    pub fn set_up(&self, component: Component) -> bool {
        let before = self.set(component, Condition::Up);
        self.show(component);
        before != Condition::Up
    }

    /// Records that the component does not work, and why. Returns whether it was not known to be
    /// down before.
    pub fn set_down(&self, component: Component, problem: impl Into<String>) -> bool {
        let before = self.set(component, Condition::Down(problem.into()));
        self.show(component);
        !matches!(before, Condition::Down(_))
    }

    /// Records why the database cannot be written, or that it can. Returns whether that is news.
    pub fn set_unwritable(&self, problem: Option<String>) -> bool {
        let is_unwritable = problem.is_some();
        let before = std::mem::replace(&mut self.state.lock().unwritable, problem);
        self.show(Component::Database);
        before.is_some() != is_unwritable
    }

    /// Records the oldest item of this work that is not done; `None` if all is done.
    pub fn set_oldest(&self, work: Work, oldest: Option<Oldest>) {
        let mut state = self.state.lock();
        state.work.retain(|(each, ..)| *each != work);
        state.work.extend(oldest.map(|oldest| (work, oldest, Instant::now())));
    }

    /// Records the age of the oldest item if those that are refused count too. Only the gauge shows
    /// it: they do not make the process unready.
    pub fn set_oldest_of_all(&self, work: Work, age: Option<TimeDelta>) {
        let mut state = self.state.lock();
        state.of_all.retain(|(each, ..)| *each != work);
        state.of_all.extend(age.map(|age| (work, age, Instant::now())));
    }

    /// Records that an item may be this old, unless one is known to be older. Only the gauge shows it.
    pub fn assume_oldest(&self, work: Work, age: Duration) {
        let known = self.state.lock().age_of_all(work);
        if age > known {
            self.set_oldest_of_all(work, TimeDelta::from_std(age).ok());
        }
    }

    /// Sets the gauges that show how old the oldest items are.
    pub fn record_ages(&self) {
        for work in Work::ALL {
            let age = self.state.lock().age_of_all(work);
            metrics::gauge!(work.gauge()).set(age.as_secs_f64());
        }
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
        let state = self.state.lock();
        let is_usable = component != Component::Database || state.unwritable.is_none();
        is_usable && state.components.contains(&(component, Condition::Up))
    }

    /// The components that this process has, and what is wrong with each.
    pub fn components(&self) -> Vec<(&'static str, Option<String>)> {
        let state = self.state.lock();
        let components = state.components.iter();
        components.map(|(each, condition)| (each.name(), state.problem(*each, condition))).collect()
    }

    /// The oldest item of each kind of work that could have been done already, and for how long.
    pub fn oldest(&self) -> Vec<(&'static str, String, Duration)> {
        let state = self.state.lock();
        let oldest = |work: Work| {
            let (item, age) = state.age(work)?;
            Some((work.part(), item.to_owned(), age))
        };
        Work::ALL.into_iter().filter_map(oldest).collect()
    }

    /// The components that do not work and the work that is overdue; empty if the process is ready.
    pub fn problems(&self) -> Vec<Problem> {
        let state = self.state.lock();
        let down = state.components.iter().filter_map(|(component, condition)| {
            let text = state.problem(*component, condition)?;
            Some(Problem { part: component.name(), text })
        });
        let overdue = Work::ALL.into_iter().filter_map(|work| {
            let (item, age) = state.age(work).filter(|(_item, age)| *age > self.overdue_after)?;
            let text = format!("{item} (for {}s)", age.as_secs());
            Some(Problem { part: work.part(), text })
        });
        down.chain(overdue).collect()
    }

    /// Sets the gauge of a component that this process has.
    fn show(&self, component: Component) {
        let value = i32::from(self.is_up(component));
        metrics::gauge!(crate::metrics::CONNECTED, "part" => component.name()).set(value);
    }

    /// Returns the condition before.
    fn set(&self, component: Component, condition: Condition) -> Condition {
        let mut state = self.state.lock();
        let slot = state.components.iter_mut().find(|(each, _)| *each == component);
        slot.map_or(Condition::Unknown, |(_, slot)| std::mem::replace(slot, condition))
    }
}

impl State {
    /// Why the component does not work, if it does not.
    fn problem(&self, component: Component, condition: &Condition) -> Option<String> {
        let unwritable = self.unwritable.as_ref().filter(|_| component == Component::Database);
        match condition {
            Condition::Up => Some(format!("cannot be written: {}", unwritable?)),
            Condition::Unknown => Some("not connected yet".to_owned()),
            Condition::Down(problem) => Some(problem.clone()),
        }
    }

    /// The oldest item of this work, if it could have been done already, and for how long.
    fn age(&self, work: Work) -> Option<(&str, Duration)> {
        let (_work, oldest, reported) = self.work.iter().find(|(each, ..)| *each == work)?;
        Some((&oldest.item, grown(oldest.age, *reported)?))
    }

    fn age_of_all(&self, work: Work) -> Duration {
        let of_all = self.of_all.iter().find(|(each, ..)| *each == work);
        let of_all = of_all.and_then(|(_work, age, reported)| grown(*age, *reported));
        self.age(work).map(|(_item, age)| age).max(of_all).unwrap_or_default()
    }
}

/// An age that was reported some time ago; `None` while it is negative.
fn grown(age: TimeDelta, reported: Instant) -> Option<Duration> {
    let since = TimeDelta::from_std(reported.elapsed()).unwrap_or(TimeDelta::MAX);
    age.checked_add(&since)?.to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUCK_AFTER: Duration = Duration::from_secs(30);
    const OVERDUE_AFTER: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn the_process_is_ready_when_every_component_works() {
        let components = [Component::Database, Component::Consumer, Component::Publisher];
        let health = Health::new(&components, STUCK_AFTER, OVERDUE_AFTER);
        assert_eq!(health.problems().len(), 3);
        for component in components {
            assert!(health.set_down(component, "gone"));
            assert!(!health.set_down(component, "still gone"));
            assert!(health.set_up(component));
            assert!(!health.set_up(component));
        }
        assert!(health.problems().is_empty());
        assert!(health.set_down(Component::Database, "gone"));
        let gone = Problem { part: "database", text: "gone".to_owned() };
        assert_eq!(health.problems(), [gone]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_cannot_be_written_is_not_up() {
        let health = Health::new(&[Component::Database], STUCK_AFTER, OVERDUE_AFTER);
        health.set_up(Component::Database);
        assert!(health.set_unwritable(Some("disk full".to_owned())));
        assert!(!health.set_unwritable(Some("disk is full".to_owned())));
        assert!(!health.is_up(Component::Database));
        let text = "cannot be written: disk is full".to_owned();
        assert_eq!(health.problems(), [Problem { part: "database", text }]);
        health.set_down(Component::Database, "gone");
        assert_eq!(health.problems()[0].text, "gone");
        health.set_up(Component::Database);
        assert!(health.set_unwritable(None));
        assert!(health.is_up(Component::Database) && health.problems().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_task_without_progress_is_not_alive() {
        let health = Health::new(&[Component::Database], STUCK_AFTER, OVERDUE_AFTER);
        tokio::time::advance(STUCK_AFTER).await;
        assert!(health.is_alive(), "it waits for the database");
        health.record_progress();
        assert!(health.is_alive());
        tokio::time::advance(STUCK_AFTER).await;
        assert!(!health.is_alive());
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_of_work_that_is_not_done_grows_by_itself() {
        let health = Health::new(&[], STUCK_AFTER, OVERDUE_AFTER);
        let due_in_a_second =
            Oldest { item: "room abc is due".to_owned(), age: TimeDelta::seconds(-1) };
        health.set_oldest(Work::Timers, Some(due_in_a_second));
        tokio::time::advance(OVERDUE_AFTER).await;
        assert!(health.problems().is_empty());
        tokio::time::advance(Duration::from_secs(2)).await;
        let overdue = Problem { part: "timers", text: "room abc is due (for 11s)".to_owned() };
        assert_eq!(health.problems(), [overdue]);
        health.set_oldest(Work::Timers, None);
        assert!(health.problems().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_item_ages_and_does_not_make_the_process_unready() {
        let health = Health::new(&[], STUCK_AFTER, OVERDUE_AFTER);
        let age = |work| health.state.lock().age_of_all(work).as_secs();
        health.set_oldest_of_all(Work::Timers, Some(TimeDelta::seconds(100)));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(age(Work::Timers), 107);
        assert_eq!(age(Work::Outbox), 0);
        let older = Oldest { item: "room abc is due".to_owned(), age: TimeDelta::seconds(200) };
        health.set_oldest(Work::Timers, Some(older));
        assert_eq!(age(Work::Timers), 200);
        health.set_oldest(Work::Timers, None);
        assert!(health.problems().is_empty());
        health.set_oldest_of_all(Work::Timers, None);
        assert_eq!(age(Work::Timers), 0);
        health.assume_oldest(Work::Timers, Duration::from_secs(8));
        health.assume_oldest(Work::Timers, Duration::from_secs(3));
        assert_eq!(age(Work::Timers), 8);
    }
}
