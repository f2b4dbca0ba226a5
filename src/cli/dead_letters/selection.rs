//! Which dead letters a command is about.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use lobbyd::bus::DeadLetter;
use lobbyd::domain::RoomToken;
use serde_json::Value;

use crate::cli::instant::duration;

/// Prefix of the routing keys that name their room.
const ROOM_KEY: &str = "lobby.changed.";

#[derive(Debug, Args)]
pub(super) struct Selection {
    /// Ids in the list; without any, all that the options select
    #[arg(value_name = "ID")]
    ids: Vec<String>,

    /// Only those whose reason contains this text, in any case
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Only those of this room
    #[arg(long, allow_hyphen_values = true, value_parser = crate::cli::publish::token)]
    token: Option<RoomToken>,

    /// Only those that are here for this time, for example 1h
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true,
          value_parser = duration)]
    older_than: Option<Duration>,
}

/// So many dead letters are read at most: each stays in the memory of the broker until the end.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Bound {
    /// Read at most so many that are not replayed or dropped: the broker keeps them in memory meanwhile
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_read: u32,
}

impl Selection {
    /// Whether all dead letters are meant.
    pub(super) fn is_everything(&self) -> bool {
        let Self { ids, reason, token, older_than } = self;
        ids.is_empty() && reason.is_none() && token.is_none() && older_than.is_none()
    }

    /// Whether ids were given.
    pub(super) fn names_some(&self) -> bool {
        !self.ids.is_empty()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.ids.iter().map(String::as_str)
    }

    pub(super) fn matches(&self, letter: &DeadLetter, now: DateTime<Utc>) -> bool {
        let has_reason = |text: &String| {
            let reason = letter.reason.as_deref().unwrap_or_default();
            reason.to_lowercase().contains(&text.to_lowercase())
        };
        let is_older = |age: &Duration| {
            let limit = TimeDelta::from_std(*age).ok().and_then(|age| now.checked_sub_signed(age));
            letter.since.zip(limit).is_some_and(|(since, limit)| since <= limit)
        };
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && self.reason.as_ref().is_none_or(has_reason)
            && self
                .token
                .as_ref()
                .is_none_or(|token| room(letter).as_deref() == Some(token.as_str()))
            && self.older_than.as_ref().is_none_or(is_older)
    }
}

/// The room that an event is about, as far as that can be read.
pub(super) fn room(letter: &DeadLetter) -> Option<String> {
    let body: Option<Value> = serde_json::from_slice(&letter.body).ok();
    let token = |value: &Value| Some(value.get("token")?.as_str()?.to_owned());
    let in_body =
        body.as_ref().and_then(|body| body.get("data").and_then(token).or_else(|| token(body)));
    in_body.or_else(|| letter.routing_key.strip_prefix(ROOM_KEY).map(str::to_owned))
}

/// The number of a dead letter in the list.
pub(super) fn position(text: &str) -> Option<u32> {
    text.parse().ok()
}

pub(super) fn is_position(text: &str) -> bool {
    position(text).is_some()
}
