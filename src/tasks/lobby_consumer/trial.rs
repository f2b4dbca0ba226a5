//! A try to commit a set of events, and the try of a slow lane, which takes its time beside everything
//! else.

use std::future::pending;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::LobbyConsumer;
use super::event::{Event, Obstacle, Undone};
use crate::domain::{Applied, IncomingChange};
use crate::relay::BatchPermit;
use crate::store::{self, AppliedSet, Patience};
use crate::traces::Span;

/// The try of a slow lane, beside everything else.
pub(super) struct Trial<'a> {
    outcome: BoxFuture<'a, Tried>,
    pub(super) oldest: Option<Undone>,
}

/// What has become of a trial.
pub(super) struct Tried {
    pub(super) events: Vec<Event>,
    pub(super) result: store::Result<Vec<Applied>>,
    pub(super) asked_at: Instant,
    pub(super) took: Duration,
}

impl<'a> Trial<'a> {
    pub(super) fn new(task: &'a LobbyConsumer, events: Vec<Event>) -> Self {
        let oldest = events.iter().min_by_key(|event| event.received);
        let oldest = oldest.map(|event| event.undone_for(Obstacle::Slow));
        let outcome = async move {
            let asked_at = Instant::now();
            let result = commit(task, &events, Patience::Full).await;
            Tried { events, result, asked_at, took: asked_at.elapsed() }
        };
        Self { outcome: outcome.boxed(), oldest }
    }
}

/// Waits for the end of the trial, if there is one. May be dropped while it waits.
pub(super) async fn tried(trial: &mut Option<Trial<'_>>) -> Tried {
    match trial {
        Some(trial) => (&mut trial.outcome).await,
        None => pending().await,
    }
}

/// Applies a set, and has its changes announced.
pub(super) async fn commit(
    task: &LobbyConsumer,
    set: &[Event],
    patience: Patience,
) -> store::Result<Vec<Applied>> {
    let LobbyConsumer { ctx, relay, .. } = task;
    let _commits: Vec<Span> = set.iter().map(|event| event.span.child("commit lobby")).collect();
    let changes: Vec<IncomingChange> = set.iter().map(|event| event.change.clone()).collect();
    let now = ctx.clock.now();
    let permit = relay.reserve_behind(now);
    let claimed_until = permit.as_ref().map(BatchPermit::claimed_until);
    let applied = ctx.database.apply(&changes, patience, now, claimed_until).await?;
    let AppliedSet { results, rows } = applied;
    relay.pass(permit, rows);
    Ok(results)
}
