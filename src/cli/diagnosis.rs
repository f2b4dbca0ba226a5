//! Why a room is open or not, and what to do about it.
//!
//! A timer that is due and did not fire is tried: the database resets the room in a transaction that is
//! rolled back, and answers why it would not.

use chrono::{DateTime, TimeDelta, Utc};
use lobbyd::config::Config;
use lobbyd::domain::{OBJECT_TYPES_WITH_LOBBY, Room, TimerKey};
use lobbyd::logging;
use lobbyd::store::{Database, HistoryFilter, ListedRoom, ResetTrial};
use serde::Serialize;

use super::health;
use super::output::{self, Zone};
use super::rooms::Status;

/// A worker opens a room within this time, if nothing is wrong.
const USUAL: TimeDelta = TimeDelta::seconds(5);

/// Why a room is as it is.
#[derive(Debug, Serialize)]
pub(super) struct Diagnosis {
    cause: Cause,
    #[serde(rename = "why")]
    explanation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// The time in the explanation.
    #[serde(skip)]
    since: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Cause {
    Open,
    NotAnnounced,
    Scheduled,
    NoTimer,
    LobbyNotSupported,
    Locked,
    Refused,
    NoWorker,
}

impl Diagnosis {
    fn new(cause: Cause, explanation: impl Into<String>) -> Self {
        Self { cause, explanation: explanation.into(), remedy: None, since: None }
    }

    fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// The explanation, and the remedy in a line of its own.
    pub(super) fn text(&self, zone: &Zone) -> String {
        let since = self.since.map(|since| format!(" (at {})", zone.time(since)));
        let mut text =
            output::printable(&format!("{}{}", self.explanation, since.unwrap_or_default()));
        if let Some(remedy) = &self.remedy {
            text.push_str("\n  ");
            text.push_str(&output::printable(remedy));
        }
        text
    }
}

/// Finds out why a room is open or not.
pub(super) async fn diagnose(
    database: &dyn Database,
    listed: &ListedRoom,
    now: DateTime<Utc>,
    config: &Config,
) -> anyhow::Result<Diagnosis> {
    let room = &listed.room;
    let token = &room.token;
    Ok(match (Status::of(listed, now), room.lobby.timer) {
        (Status::Open, _) => open(database, room).await?,
        (Status::Scheduled, Some(timer)) => {
            let left = output::duration(timer - now);
            let explanation = format!("it is closed until its timer, which is due in {left}");
            Diagnosis::new(Cause::Scheduled, explanation).with_remedy(format!(
                "Open it now: lobbyd lobby clear {token}. Move the timer: lobbyd lobby set {token} \
                 --at TIME"
            ))
        }
        (Status::NeverFires, _) => {
            let explanation = format!("its timer never fires, because {}", without_lobby(room));
            Diagnosis::new(Cause::LobbyNotSupported, explanation).with_remedy(format!(
                "No participant waits there. Correct the program that wrote the row; remove the \
                 timer: lobbyd lobby clear {token}"
            ))
        }
        (Status::Overdue, Some(timer)) => overdue(database, room, timer, now, config).await?,
        (Status::Closed | Status::Scheduled | Status::Overdue, _) => {
            let explanation = "it is closed, and no timer is set: it stays closed until somebody \
                               opens it";
            Diagnosis::new(Cause::NoTimer, explanation).with_remedy(format!(
                "Open it now: lobbyd lobby clear {token}. Was there a timer? Look for its event: \
                 lobbyd dead-letters list --token {token}"
            ))
        }
    })
}

async fn open(database: &dyn Database, room: &Room) -> anyhow::Result<Diagnosis> {
    let filter = HistoryFilter { since: DateTime::UNIX_EPOCH, room: Some(&room.token) };
    let last = match room.timer_reached {
        Some(_reset_at) => database.past_resets(filter, 1).await?.pop(),
        None => None,
    };
    Ok(match last {
        Some(last) if last.published_at.is_none() => {
            let attempts = output::counted(last.attempts, "attempt");
            let explanation = format!(
                "it is open, but subscribers were not told of it yet: event {}, {attempts}",
                last.event
            );
            Diagnosis::new(Cause::NotAnnounced, explanation)
                .with_remedy("lobbyd status says whether the broker works")
        }
        Some(last) => Diagnosis {
            since: Some(last.fired_at),
            ..Diagnosis::new(Cause::Open, "it is open, and its last timer has fired")
        },
        None => Diagnosis::new(Cause::Open, "it is open"),
    })
}

/// Why the timer of a room did not fire.
async fn overdue(
    database: &dyn Database,
    room: &Room,
    timer: DateTime<Utc>,
    now: DateTime<Utc>,
    config: &Config,
) -> anyhow::Result<Diagnosis> {
    let token = &room.token;
    let key = TimerKey { due_at: timer, room: room.id };
    let trial = database.try_reset(key, now).await?;
    let late = output::duration(now - timer);
    Ok(match trial {
        ResetTrial::Refused(error) => {
            let reason = logging::causes(&error);
            let explanation = format!(
                "its timer is {late} overdue, and the database refuses to open it: {reason}"
            );
            Diagnosis::new(Cause::Refused, explanation).with_remedy(
                "Remove what refuses: a trigger, a constraint, or a value of the row. The room then \
                 opens within a minute",
            )
        }
        ResetTrial::Locked => {
            let explanation =
                format!("its timer is {late} overdue, and another transaction has locked the room");
            Diagnosis::new(Cause::Locked, explanation).with_remedy(
                "End that transaction (pg_stat_activity, information_schema.innodb_trx); the room \
                 then opens at once",
            )
        }
        ResetTrial::Possible => {
            let process = match health::readiness(config).await {
                Ok(_ready) if now - timer < USUAL => "a worker opens it within seconds".to_owned(),
                Ok(_ready) => format!(
                    "the process at {} is ready; is it a worker of this database?",
                    config.ops.listen
                ),
                Err(problem) => format!("{problem:#}"),
            };
            let explanation = format!(
                "its timer is {late} overdue, and nothing is in the way: no worker has opened it \
                 ({process})"
            );
            Diagnosis::new(Cause::NoWorker, explanation).with_remedy(format!(
                "Start a worker: systemctl start lobbyd, or lobbyd worker; lobbyd status shows what \
                 works. Open the room without one: lobbyd lobby clear {token}"
            ))
        }
    })
}

/// Why a room cannot have a lobby.
pub(super) fn without_lobby(room: &Room) -> String {
    if room.is_configurable() && !OBJECT_TYPES_WITH_LOBBY.contains(&room.object_type.as_str()) {
        format!("rooms of the object type {:?} cannot have a lobby", room.object_type)
    } else {
        let number = room.room_type.number();
        format!("rooms of type {number} cannot have a lobby, only group (2) and public (3) ones")
    }
}
