//! `lobbyd rooms`: rooms with their lobby and timer, and why one of them is not open.

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::Args;
use lobbyd::config::{Config, Loaded};
use lobbyd::domain::{LobbyState, RoomToken, RoomType, SipState};
use lobbyd::store::{Database, ListedRoom};
use serde::Serialize;
use tokio::time::Instant;

use super::access::with_database;
use super::diagnosis::{Asker, Diagnosis, LOCK_PATIENCE, diagnose};
use super::output::{self, Cell, Format, Mood, Table, Zone};
use super::print;

/// So many similar tokens are named.
const MAX_SIMILAR: usize = 3;

/// Tokens that are less similar are not what was meant.
const MIN_SIMILARITY: f64 = 0.7;

#[derive(Debug, Args)]
#[command(after_help = "\
Without tokens, the rooms that were created last. With tokens, also why each room is open or not, and \
what to do about it. `lobbyd timers` lists the rooms that are closed until a time. A narrow terminal \
shows fewer columns; --json shows all.")]
pub(super) struct Rooms {
    /// Tokens of rooms
    #[arg(value_name = "TOKEN", value_parser = super::publish::token)]
    tokens: Vec<RoomToken>,

    /// Maximum number of rooms, if no token is given
    #[arg(long, value_name = "NUMBER", default_value_t = 50, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    format: Format,
}

/// A room as it is listed. The names are those of events.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RoomRow {
    pub(super) token: String,
    pub(super) name: String,
    #[serde(rename = "type")]
    room_type: i64,
    object_type: String,
    lobby_state: i64,
    pub(super) lobby_timer: Option<DateTime<Utc>>,
    status: Status,
    /// The timer that last reset the room.
    timer_reached: Option<DateTime<Utc>>,
    sip_enabled: i64,
    pub(super) participants: u64,
    version: i64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    diagnosis: Option<Diagnosis>,
}

/// What a room's lobby means at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Open,
    /// Closed until its timer.
    Scheduled,
    /// Closed, and no timer is set.
    Closed,
    /// Its timer is due, and it is closed.
    Overdue,
    /// Its timer never fires, because a room of this kind cannot have a lobby.
    NeverFires,
}

impl Status {
    pub(super) fn of(room: &ListedRoom, now: DateTime<Utc>) -> Self {
        let room = &room.room;
        match (room.lobby.state, room.lobby.timer) {
            (LobbyState::None, _) => Self::Open,
            (LobbyState::NonModerators, None) => Self::Closed,
            (LobbyState::NonModerators, Some(_)) if !room.can_have_lobby() => Self::NeverFires,
            (LobbyState::NonModerators, Some(timer)) if timer > now => Self::Scheduled,
            (LobbyState::NonModerators, Some(_)) => Self::Overdue,
        }
    }
}

impl RoomRow {
    pub(super) fn new(listed: &ListedRoom, now: DateTime<Utc>) -> Self {
        let room = &listed.room;
        Self {
            token: room.token.to_string(),
            name: room.name.clone(),
            room_type: room.room_type.number(),
            object_type: room.object_type.clone(),
            lobby_state: room.lobby.state.number(),
            lobby_timer: room.lobby.timer,
            status: Status::of(listed, now),
            timer_reached: room.timer_reached,
            sip_enabled: room.sip.number(),
            participants: listed.participants,
            version: room.version.milliseconds(),
            diagnosis: None,
        }
    }

    /// When the room opens, seen from now.
    pub(super) fn opens(&self, now: DateTime<Utc>) -> Cell {
        match (self.status, self.lobby_timer) {
            (Status::Scheduled | Status::Overdue, Some(timer)) => output::countdown(timer, now),
            (Status::NeverFires, _) => Cell::new("never", Mood::Warning),
            (Status::Scheduled | Status::Overdue | Status::Open | Status::Closed, _) => {
                Cell::new("-", Mood::Faint)
            }
        }
    }

    fn lobby(&self, now: DateTime<Utc>) -> Cell {
        match self.status {
            Status::Open => "open".into(),
            Status::Closed => Cell::new("closed", Mood::Warning),
            Status::Scheduled | Status::NeverFires => self.opens(now).after("opens "),
            Status::Overdue => self.opens(now),
        }
    }
}

impl Rooms {
    pub(super) async fn run(self, loaded: &Loaded) -> anyhow::Result<()> {
        with_database(loaded, "lobbyd rooms", async |database| {
            let now = database.now().await?;
            if self.tokens.is_empty() {
                let rooms = database.newest_rooms(self.limit).await?;
                let rows: Vec<_> = rooms.iter().map(|room| RoomRow::new(room, now)).collect();
                return show(&rows, now, self.format);
            }
            let rows = explained_rooms(database, &self.tokens, now, loaded, Asker::Anybody).await?;
            if self.format.json || !rows.is_empty() {
                show(&rows, now, self.format)?;
            }
            let is_found = |token: &&RoomToken| rows.iter().any(|row| row.token == token.as_str());
            match self.tokens.iter().find(|token| !is_found(token)) {
                Some(missing) => {
                    bail!("{}", unknown_room(database, missing, &loaded.config).await?)
                }
                None => Ok(()),
            }
        })
        .await
    }
}

/// The rooms of these tokens that exist, each with the reason why it is open or not.
pub(super) async fn explained_rooms(
    database: &dyn Database,
    tokens: &[RoomToken],
    now: DateTime<Utc>,
    loaded: &Loaded,
    asker: Asker,
) -> anyhow::Result<Vec<RoomRow>> {
    let mut rooms = database.rooms_by_token(tokens).await?;
    rooms.sort_by_key(|room| tokens.iter().position(|token| *token == room.room.token));
    let patience = Instant::now() + LOCK_PATIENCE;
    let mut rows = Vec::new();
    for room in rooms {
        let diagnosed = diagnose(database, room, patience, now, &loaded.config, asker).await?;
        rows.extend(diagnosed.map(|(room, diagnosis)| RoomRow {
            diagnosis: Some(diagnosis),
            ..RoomRow::new(&room, now)
        }));
    }
    Ok(rows)
}

/// Prints rooms, with what is known of the reasons.
pub(super) fn show(rows: &[RoomRow], now: DateTime<Utc>, format: Format) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        rooms: &'a [RoomRow],
    }
    if format.json {
        return output::print_json(&Document { rooms: rows });
    }
    if rows.is_empty() {
        return print(
            "There is no room. Clients create rooms through the HTTP API; or a program inserts a row \
             with token, type and name into lobbyd_rooms.",
        );
    }
    let zone = Zone::shown();
    let mut table = Table::new([
        "Room",
        "Name",
        "Type",
        "Lobby",
        &zone.header("Timer"),
        "Dial-in",
        "Participants",
    ]);
    table.fit(1, [5, 6, 2, 1]);
    for row in rows {
        table.row([
            row.token.as_str().into(),
            row.name.as_str().into(),
            room_type(row).into(),
            row.lobby(now),
            row.lobby_timer.map_or_else(|| "-".to_owned(), |timer| zone.time(timer)).into(),
            dial_in(row.sip_enabled).into(),
            row.participants.to_string().into(),
        ]);
    }
    print(&table.render())?;
    for row in rows {
        if let Some(diagnosis) = &row.diagnosis {
            print(&format!("\n{}: {}", output::printable(&row.token), diagnosis.text(&zone)))?;
        }
    }
    Ok(())
}

fn room_type(row: &RoomRow) -> String {
    let name = match RoomType::from(row.room_type) {
        RoomType::OneToOne => "one-to-one",
        RoomType::Group => "group",
        RoomType::Public => "public",
        RoomType::Changelog => "changelog",
        RoomType::FormerOneToOne => "former one-to-one",
        RoomType::NoteToSelf => "note to self",
        RoomType::Other(number) => return number.to_string(),
    };
    if row.object_type.is_empty() {
        name.to_owned()
    } else {
        format!("{name}, of {}", row.object_type)
    }
}

fn dial_in(number: i64) -> String {
    match SipState::from(number) {
        SipState::Disabled => "off".to_owned(),
        SipState::WithPin => "with PIN".to_owned(),
        SipState::WithoutPin => "without PIN".to_owned(),
        SipState::Other(number) => number.to_string(),
    }
}

/// The command that lists the dead letters of a room, if there is a broker that keeps them.
pub(super) fn dead_letters_of(token: &RoomToken, config: &Config) -> Option<String> {
    let list = || format!("lobbyd dead-letters list --token {}", output::quoted(token.as_str()));
    (!config.events.url.is_in_process()).then(list)
}

/// Says that there is no such room, and which ones have a similar token.
pub(super) async fn unknown_room(
    database: &dyn Database,
    token: &RoomToken,
    config: &Config,
) -> anyhow::Result<String> {
    let nearby = database.nearby_tokens(token).await?;
    let similar = similar(token.as_str(), nearby.iter().map(RoomToken::as_str));
    let similar = match similar.as_slice() {
        [] => String::new(),
        tokens => format!(" (similar: {})", tokens.join(", ")),
    };
    let letters = match dead_letters_of(token, config) {
        Some(command) => format!("; changes of its lobby become dead letters: {command}"),
        None => String::new(),
    };
    Ok(format!("there is no room {token}{similar}{letters}"))
}

/// Those of the tokens that resemble `token` most.
fn similar<'a>(token: &str, tokens: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = token.to_lowercase();
    let similarity = |other: &str| strsim::jaro_winkler(&wanted, &other.to_lowercase());
    let mut rated: Vec<_> = tokens.map(|other| (similarity(other), other)).collect();
    rated.retain(|(similarity, _token)| *similarity >= MIN_SIMILARITY);
    rated.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    rated.into_iter().take(MAX_SIMILAR).map(|(_, token)| output::printable(token)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_tokens_come_in_their_order() {
        let tokens = ["webinar2", "Webinar", "board", "weninar", "w"];
        assert_eq!(similar("webinar", tokens.into_iter()), ["Webinar", "webinar2", "weninar"]);
        assert!(similar("zzz", tokens.into_iter()).is_empty());
    }
}
