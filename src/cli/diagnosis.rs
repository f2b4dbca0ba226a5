//! Why a room is open or not, and what to do about it.
//!
//! A timer that is due and did not fire is tried: the database resets the room in a transaction that is
//! rolled back, and answers why it would not.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lobbyd::config::Config;
use lobbyd::domain::{OBJECT_TYPES_WITH_LOBBY, Room, TimerKey};
use lobbyd::logging;
use lobbyd::store::{Database, ListedRoom, ResetTrial};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::health;
use super::output::{self, Zone};
use super::rooms::{Status, dead_letters_of};

/// A worker opens a room within this time, if nothing is wrong.
const USUAL: TimeDelta = TimeDelta::seconds(5);

/// A transaction that locks rooms for longer is in the way; that of a worker is not.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Delay between two looks at a room that is locked.
const LOCK_POLL: Duration = Duration::from_millis(250);

/// What to do about a change that the database refuses.
pub(super) const REMOVE_REFUSAL: &str =
    "Remove what refuses: a trigger, a constraint, or a value of the row";

/// Who asks about a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Anybody,
    /// Somebody who has just set its lobby.
    Setter,
}

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

/// Finds out why a room is open or not. The room is read again if somebody changes it meanwhile; `None` if
/// it is deleted then. A locked one is looked at until `patience`.
pub(super) async fn diagnose(
    database: &dyn Database,
    mut listed: ListedRoom,
    patience: Instant,
    now: DateTime<Utc>,
    config: &Config,
    asker: Asker,
) -> anyhow::Result<Option<(ListedRoom, Diagnosis)>> {
    let mut is_first = true;
    let diagnosis = loop {
        let room = &listed.room;
        let (Status::Overdue, Some(timer)) = (Status::of(&listed, now), room.lobby.timer) else {
            break explain(database, &listed, now, config, asker).await?;
        };
        let trial = database.try_reset(TimerKey { due_at: timer, room: room.id }, now).await?;
        let is_over = !is_first && Instant::now() >= patience;
        if !matches!(trial, ResetTrial::Locked) || is_over {
            break overdue(room, timer, trial, now, config).await;
        }
        // A worker locks the room for the moment in which it opens it.
        is_first = false;
        sleep(LOCK_POLL).await;
        match database.rooms_by_token(std::slice::from_ref(&room.token)).await?.pop() {
            Some(again) => listed = again,
            None => return Ok(None),
        }
    };
    Ok(Some((listed, diagnosis)))
}

/// Why a room without an overdue timer is open or not.
async fn explain(
    database: &dyn Database,
    listed: &ListedRoom,
    now: DateTime<Utc>,
    config: &Config,
    asker: Asker,
) -> anyhow::Result<Diagnosis> {
    let room = &listed.room;
    let token = output::argument(room.token.as_str());
    Ok(match (Status::of(listed, now), room.lobby.timer) {
        (Status::Open, _) => open(database, room, now).await?,
        (Status::Scheduled, Some(timer)) => {
            let left = output::duration(timer - now);
            let explanation = format!("it is closed until its timer, which is due in {left}");
            Diagnosis::new(Cause::Scheduled, explanation).with_remedy(format!(
                "Open it now: lobbyd lobby clear {token}. Move the timer: lobbyd lobby set --at TIME \
                 {token}"
            ))
        }
        (Status::NeverFires, _) => {
            let explanation = format!("its timer never fires, because {}", without_lobby(room));
            Diagnosis::new(Cause::LobbyNotSupported, explanation).with_remedy(format!(
                "No participant waits there. Correct the program that wrote the row; remove the \
                 timer: lobbyd lobby clear {token}"
            ))
        }
        (Status::Closed | Status::Scheduled | Status::Overdue, _) => {
            let explanation = "it is closed, and no timer is set: it stays closed until somebody \
                               opens it";
            let search = match (asker, dead_letters_of(&room.token, config)) {
                (Asker::Anybody, Some(command)) => {
                    format!(". Was there a timer? Look for its event: {command}")
                }
                (Asker::Anybody, None) | (Asker::Setter, _) => String::new(),
            };
            let remedy = format!("Open it now: lobbyd lobby clear {token}{search}");
            Diagnosis::new(Cause::NoTimer, explanation).with_remedy(remedy)
        }
    })
}

async fn open(
    database: &dyn Database,
    room: &Room,
    now: DateTime<Utc>,
) -> anyhow::Result<Diagnosis> {
    let Some(last) = database.last_opening(&room.token).await? else {
        return Ok(Diagnosis::new(Cause::Open, "it is open"));
    };
    if last.published_at.is_none() {
        let told = if now - last.opened_at < USUAL {
            "and a worker tells subscribers within seconds"
        } else {
            "but subscribers were not told of it yet"
        };
        let (event, attempts) = (&last.event, output::counted(last.attempts, "attempt"));
        let explanation = format!("it is open, {told}: event {event}, {attempts}");
        return Ok(Diagnosis::new(Cause::NotAnnounced, explanation)
            .with_remedy("lobbyd status says whether worker and broker work"));
    }
    let explanation = if last.by_timer {
        "it is open, and its last timer has fired"
    } else {
        "it is open, because somebody opened it"
    };
    Ok(Diagnosis { since: Some(last.opened_at), ..Diagnosis::new(Cause::Open, explanation) })
}

/// Why the timer of a room did not fire.
async fn overdue(
    room: &Room,
    timer: DateTime<Utc>,
    trial: ResetTrial,
    now: DateTime<Utc>,
    config: &Config,
) -> Diagnosis {
    let token = output::argument(room.token.as_str());
    let late = output::duration(now - timer);
    match trial {
        ResetTrial::Refused(error) => {
            let reason = logging::causes(&error);
            let explanation = format!(
                "its timer is {late} overdue, and the database refuses to open it: {reason}"
            );
            Diagnosis::new(Cause::Refused, explanation)
                .with_remedy(format!("{REMOVE_REFUSAL}. The room then opens within a minute"))
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
    }
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
