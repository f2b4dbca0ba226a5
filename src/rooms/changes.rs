//! Changes of rooms: committed by the database, then logged, and published in this process.
//!
//! Each is a task of its own, because a client that closes its connection ends its request, while
//! the database may still commit. [`RoomService`](super::RoomService) starts them, and the shutdown
//! waits for them.

use std::panic::resume_unwind;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::audit;
use super::error::Result;
use super::presence::PresenceRecorder;
use crate::cache::{RoomCache, View};
use crate::domain::commands::{Command, NewRoom};
use crate::domain::{Actor, Caller, ChatMessage, RoomToken, RoomUpdated};
use crate::relay::RelayHandle;
use crate::store::{Changed, CommandError, Created, Database};

pub struct Outcome {
    /// The room as the caller sees it; `None` if nothing changed, or if the room was deleted.
    pub(super) view: Option<View>,
    pub message: Option<ChatMessage>,
}

/// Those in progress.
pub(super) struct Changes {
    writer: Arc<Writer>,
    tasks: TaskTracker,
}

/// What a change needs.
pub(super) struct Writer {
    pub(super) database: Arc<dyn Database>,
    pub(super) cache: Arc<RoomCache>,
    pub(super) presence: Arc<PresenceRecorder>,
    pub(super) relay: RelayHandle,
}

impl Changes {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer: Arc::new(writer), tasks: TaskTracker::new() }
    }

    pub(super) async fn change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<Outcome> {
        let (token, caller, command) = (token.clone(), caller.clone(), command.clone());
        let writer = Arc::clone(&self.writer);
        let change = async move { writer.change(&token, &caller, &command, now).await };
        complete(&self.tasks, change).await
    }

    /// `None` if there is a room with this token.
    pub(super) async fn try_create(
        &self,
        token: &RoomToken,
        caller: &Caller,
        new: &NewRoom,
        now: DateTime<Utc>,
    ) -> Result<Option<View>> {
        let (token, caller, new) = (token.clone(), caller.clone(), new.clone());
        let writer = Arc::clone(&self.writer);
        let creation = async move { writer.try_create(&token, &caller, &new, now).await };
        complete(&self.tasks, creation).await
    }

    /// Waits for those in progress.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The outcome of a change, which is completed also if this is dropped.
async fn complete<T: Send + 'static>(
    tasks: &TaskTracker,
    change: impl Future<Output = T> + Send + 'static,
) -> T {
    match tasks.spawn(change.in_current_span()).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and this with it.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

impl Writer {
    async fn change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<Outcome> {
        let changed = self.database.change(token, caller, command, now).await;
        let Changed { update, message, overview, attendee } =
            changed.inspect_err(|error| record_unknown(error, token, &caller.actor))?;
        self.presence.record(attendee.as_ref(), caller.client.as_ref());
        let view = overview.map(|overview| View::new(overview, attendee));
        self.publish_locally(update.as_slice(), &caller.actor, view.as_ref());
        Ok(Outcome { view, message })
    }

    async fn try_create(
        &self,
        token: &RoomToken,
        caller: &Caller,
        new: &NewRoom,
        now: DateTime<Utc>,
    ) -> Result<Option<View>> {
        let created = self.database.create(token, caller, new, now).await;
        let created = created.inspect_err(|error| record_unknown(error, token, &caller.actor))?;
        let Some(Created { updates, overview, owner }) = created else { return Ok(None) };
        let view = View::new(overview, Some(owner));
        self.publish_locally(&updates, &caller.actor, Some(&view));
        Ok(Some(view))
    }

    /// Wakes the requests that wait in this process, and the relay, which publishes to the others.
    /// `view` is what the caller sees after these updates, unless the room was deleted.
    fn publish_locally(&self, updates: &[RoomUpdated], caller: &Actor, view: Option<&View>) {
        if updates.is_empty() {
            return;
        }
        for update in updates {
            audit::record(update, caller);
        }
        match view {
            Some(view) => self.cache.put(updates, caller, view),
            None => updates.iter().for_each(|update| self.cache.apply_update(update)),
        }
        self.relay.wake();
    }
}

fn record_unknown(error: &CommandError, token: &RoomToken, actor: &Actor) {
    if let CommandError::Store(error) = error
        && error.is_timeout()
    {
        audit::record_unknown(token, actor);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_change_outlives_its_request() {
        let tasks = TaskTracker::new();
        let (commit, committed) = oneshot::channel::<()>();
        let (published, publication) = oneshot::channel();
        let change = async move {
            committed.await.unwrap();
            published.send("published").unwrap();
        };
        let mut request = Box::pin(complete(&tasks, change));
        assert_eq!(request.as_mut().now_or_never(), None);
        drop(request);
        commit.send(()).unwrap();
        tasks.close();
        tasks.wait().await;
        assert_eq!(publication.await, Ok("published"));
    }
}
