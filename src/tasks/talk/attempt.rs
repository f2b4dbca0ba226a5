//! One attempt to have Talk open a room: the row is read, Talk is asked, and the row is read again.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::domain::{RoomUpdated, Standing, TalkTimer};
use crate::store::{Database, StoreError, TalkRooms};
use crate::talk::{Answer, TalkClient};

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The timer is not due yet, by the database's clock.
    NotDue,
    /// The timer does not stand any more, as the row said at this time.
    Settled(Standing, DateTime<Utc>),
    /// The room is still closed after the answer.
    Closed(Answer),
    /// The row could not be read.
    Unknown(StoreError),
}

/// An attempt that has ended.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) timer: TalkTimer,
    /// Talk's answer, if Talk was asked.
    pub(super) answer: Option<Answer>,
    pub(super) outcome: Outcome,
    /// The version of the secret, when the attempt began.
    pub(super) secret_version: u64,
}

/// Asks Talk for the room, unless its timer does not stand any more. Dropped, it leaves nothing behind
/// but perhaps a request.
pub(super) async fn attempt(
    rooms: Arc<dyn TalkRooms>,
    client: Arc<TalkClient>,
    timer: TalkTimer,
) -> Attempted {
    let secret_version = client.secret_version();
    let judge = async || {
        let row = rooms.lobby(timer.room).await?;
        Ok(match timer.judge(row.lobby) {
            Standing::Stands if row.read_at <= timer.due_at => Some(Outcome::NotDue),
            Standing::Stands => None,
            standing @ (Standing::Opened | Standing::Superseded | Standing::Gone) => {
                Some(Outcome::Settled(standing, row.read_at))
            }
        })
    };
    match judge().await {
        Err(error) => {
            let outcome = Outcome::Unknown(error);
            return Attempted { timer, answer: None, outcome, secret_version };
        }
        Ok(Some(outcome)) => return Attempted { timer, answer: None, outcome, secret_version },
        Ok(None) => {}
    }
    let answer = client.read_room(&timer.token).await;
    let outcome = match judge().await {
        Err(error) => Outcome::Unknown(error),
        Ok(Some(outcome)) => outcome,
        Ok(None) => Outcome::Closed(answer.clone()),
    };
    Attempted { timer, answer: Some(answer), outcome, secret_version }
}

/// Records a timer, or ends it and stores the event that announces its room, however long lobbyd's own
/// database takes for that. `is_recorded` says that it is recorded already.
pub(super) async fn announce(
    database: Arc<dyn Database>,
    timer: TalkTimer,
    update: Option<RoomUpdated>,
    mut is_recorded: bool,
) {
    let mut backoff = Backoff::new(Backoff::TASKS);
    loop {
        let announcing = async {
            if update.is_some() && !is_recorded {
                database.record_talk_timers(std::slice::from_ref(&timer)).await?;
                is_recorded = true;
            }
            database.end_talk_timer(&timer, update.as_ref()).await
        };
        match announcing.await {
            Ok(_is_new) => return,
            Err(error) => {
                if backoff.is_first_failure() {
                    let error = crate::logging::causes(&error);
                    tracing::warn!(room.token = %timer.token, error, "opening not announced yet");
                }
                sleep(backoff.next_wait()).await;
            }
        }
    }
}

/// How long the first attempt for a room may wait for lobbyd's own database.
pub(super) const RECORD_TIMEOUT: Duration = Duration::from_millis(500);
