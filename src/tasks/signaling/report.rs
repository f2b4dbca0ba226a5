//! What readiness and metrics say about the servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use crate::domain::SignalingBacklog;
use crate::health::{Component, Health, Oldest, Work};
use crate::metrics::{SIGNALING_LAG, SIGNALING_PENDING, SIGNALING_REFUSED, SIGNALING_REQUESTS};
use crate::nextcloud::{SignalingClient, SignalingFault};

/// The state of all servers, which share one part of readiness.
pub(super) struct Report {
    health: Arc<Health>,
    servers: Mutex<BTreeMap<String, State>>,
    oldest_change: Mutex<Option<DateTime<Utc>>>,
}

#[derive(Default)]
struct State {
    problem: Option<String>,
    backlog: SignalingBacklog,
}

/// Counts a request for a room, with its lag in seconds.
pub(super) fn count(server: &str, outcome: Result<f64, &SignalingFault>) {
    let name = match &outcome {
        Ok(lag) => {
            metrics::histogram!(SIGNALING_LAG).record(*lag);
            "ok"
        }
        Err(fault) => fault.outcome(),
    };
    let server = server.to_owned();
    metrics::counter!(SIGNALING_REQUESTS, "server" => server, "outcome" => name).increment(1);
}

impl Report {
    pub(super) fn new(health: Arc<Health>, servers: &[Arc<SignalingClient>]) -> Self {
        let states = servers.iter().map(|server| (server.url().to_owned(), State::default()));
        Self { health, servers: Mutex::new(states.collect()), oldest_change: Mutex::default() }
    }

    /// Records why a server is told nothing, or that it is.
    pub(super) fn problem(&self, server: &str, problem: Option<String>) {
        let mut servers = self.servers.lock();
        if let Some(state) = servers.get_mut(server) {
            state.problem = problem;
        }
        let problems = servers.iter().filter_map(|(server, state)| {
            state.problem.as_ref().map(|problem| format!("{server}: {problem}"))
        });
        let problems = problems.collect::<Vec<_>>().join("; ");
        if problems.is_empty() {
            self.health.set_up(Component::Signaling);
        } else {
            self.health.set_down(Component::Signaling, problems);
        }
    }

    /// Records what a server has to be told.
    pub(super) fn backlog(&self, server: &str, backlog: SignalingBacklog, now: DateTime<Utc>) {
        let mut servers = self.servers.lock();
        if let Some(state) = servers.get_mut(server) {
            state.backlog = backlog;
        }
        let sum = |number: fn(&SignalingBacklog) -> i64| {
            servers.values().map(|state| number(&state.backlog)).sum::<i64>()
        };
        for (gauge, number) in [
            (SIGNALING_PENDING, sum(|backlog| backlog.pending)),
            (SIGNALING_REFUSED, sum(|backlog| backlog.refused)),
        ] {
            metrics::gauge!(gauge).set(u32::try_from(number).unwrap_or(u32::MAX));
        }
        let since = |(server, state): (&String, &State)| {
            Some((state.backlog.oldest?, format!("a room is not told to {server}")))
        };
        let not_told = servers.iter().filter_map(since);
        let not_passed_on = self
            .oldest_change
            .lock()
            .map(|made_at| (made_at, "a change is not passed on to the servers".to_owned()));
        let oldest = not_told.chain(not_passed_on).min();
        self.health.set_oldest(
            Work::Signaling,
            oldest.map(|(since, item)| Oldest { item, age: now - since }),
        );
    }

    /// Records when the first change was made that is not passed on to the servers.
    pub(super) fn oldest_change(&self, made_at: Option<DateTime<Utc>>) {
        *self.oldest_change.lock() = made_at;
    }
}
