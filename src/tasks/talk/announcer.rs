//! Announces rooms of Talk that are open, in lobbyd's own database: it may be unavailable without
//! delaying a room.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::domain::{RoomUpdated, TalkTimer};
use crate::failpoints::{self, Point};
use crate::logging;
use crate::relay::RelayHandle;
use crate::store;
use crate::store::Database;

/// A recorded timer that has ended.
pub(super) struct Ended {
    pub(super) timer: TalkTimer,
    /// What announces its room, if that is open.
    pub(super) update: Option<RoomUpdated>,
    /// Whether lobbyd's own database has the timer already.
    pub(super) is_recorded: bool,
}

/// Ends the records of timers, one after the other, until the sender is dropped and all are done. The
/// database may take however long it needs; one that it refuses lets the others go first.
pub(super) async fn announce(
    mut ended: mpsc::UnboundedReceiver<Ended>,
    database: Arc<dyn Database>,
    relay: RelayHandle,
) {
    let (mut waiting, mut backoff) = (VecDeque::new(), Backoff::new(Backoff::TASKS));
    loop {
        if waiting.is_empty() {
            match ended.recv().await {
                Some(next) => waiting.push_back(next),
                None => return,
            }
        }
        while let Ok(next) = ended.try_recv() {
            waiting.push_back(next);
        }
        let Some(mut next) = waiting.pop_front() else { continue };
        match end(&mut next, &*database).await {
            Ok(()) => {
                backoff.reset();
                if next.update.is_some() {
                    relay.wake();
                }
            }
            Err(error) => {
                if backoff.is_first_failure() {
                    let (token, error) = (&next.timer.token, logging::causes(&error));
                    tracing::warn!(room.token = %token, error, "room of Talk not announced yet");
                }
                waiting.push_back(next);
                sleep(backoff.next_wait()).await;
            }
        }
    }
}

async fn end(ended: &mut Ended, database: &dyn Database) -> store::Result<()> {
    failpoints::reach(Point::AfterTalkBeforeAnnounce);
    let Ended { timer, update, is_recorded } = ended;
    if update.is_some() && !*is_recorded {
        database.record_talk_timers(std::slice::from_ref(timer)).await?;
        *is_recorded = true;
    }
    database.end_talk_timer(timer, update.as_ref()).await.map(|_is_new| ())
}
