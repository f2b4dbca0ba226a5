//! One attempt to have Talk open a room: the row is read, Talk is asked, and the row is read again.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::domain::{Standing, TalkTimer};
use crate::nextcloud::{Answer, TalkClient};
use crate::store::{StoreError, TalkRooms};

/// What an attempt may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// Ask Talk, if the timer stands.
    Ask,
    /// Read the row only.
    Read,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The timer is not due yet, by the database's clock, for so long.
    NotDue(Duration),
    /// The timer does not stand any more, as the row said at this time.
    Settled(Standing, DateTime<Utc>),
    /// The room is still closed.
    Closed,
    /// The row could not be read.
    Unknown(StoreError),
}

/// An attempt that has ended.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) timer: TalkTimer,
    pub(super) begun_at: Instant,
    /// Whether the room had failed before.
    pub(super) is_retry: bool,
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
    means: Means,
    is_retry: bool,
) -> Attempted {
    let secret_version = client.secret_version();
    let begun_at = Instant::now();
    let mut answer = None;
    let mut outcome = judge(&*rooms, &timer).await;
    if matches!(outcome, Outcome::Closed) && means == Means::Ask {
        answer = Some(client.read_room(&timer.token).await);
        outcome = judge(&*rooms, &timer).await;
    }
    Attempted { timer, begun_at, is_retry, answer, outcome, secret_version }
}

async fn judge(rooms: &dyn TalkRooms, timer: &TalkTimer) -> Outcome {
    let row = match rooms.lobby(timer.room).await {
        Ok(row) => row,
        Err(error) => return Outcome::Unknown(error),
    };
    match timer.judge(row.lobby) {
        Standing::Stands => match (timer.due_at - row.read_at).to_std() {
            Ok(wait) => Outcome::NotDue(wait),
            Err(_is_due) => Outcome::Closed,
        },
        standing @ (Standing::Opened | Standing::Superseded | Standing::Gone) => {
            Outcome::Settled(standing, row.read_at)
        }
    }
}
