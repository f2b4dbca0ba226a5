//! Messages of the chats.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::domain::{Actor, ChatMessage, Content, Message, MessageQuery, Reason, Room, RoomId};
use crate::store::connection::{Connection, Transaction, expect_rows};
use crate::store::dialect::{Columns, Dialect, values};
use crate::store::error::Result;
use crate::store::rows;
use crate::store::rows::to_json;
use crate::store::statements::messages as statements;

/// Messages that are read at once, so that long ones beyond the end of an answer take little memory.
const PAGE: u32 = 10;

/// Bodies of one answer, in bytes, after which it ends: the next one continues from there. A message
/// counts again with each reply to it.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A row of [`INSERT_SYSTEM`](statements::INSERT_SYSTEM).
#[derive(Serialize)]
struct SystemRow {
    room_id: RoomId,
    created_at: i64,
    kind: Reason,
}

impl<D: Dialect> Connection<D> {
    pub(crate) async fn message(&mut self, room: RoomId, id: i64) -> Result<Option<Message>> {
        self.fetch_optional(statements::MESSAGE, values![room, id], rows::message).await
    }

    pub(crate) async fn last_message(&mut self, room: RoomId) -> Result<Option<Message>> {
        self.fetch_optional(statements::LAST, values![room], rows::message).await
    }

    pub(crate) async fn messages(
        &mut self,
        room: &Room,
        query: MessageQuery,
    ) -> Result<Vec<ChatMessage>> {
        let inclusive = i64::from(query.including);
        let (statement, mut bound) = match (query.newer, query.known) {
            (true, known) => (statements::NEWER, known.saturating_sub(inclusive)),
            (false, 0) => (statements::OLDER, i64::MAX),
            (false, known) => (statements::OLDER, known.saturating_add(inclusive)),
        };
        let (mut messages, mut size) = (Vec::new(), 0);
        let mut left = query.limit;
        while left > 0 && size <= MAX_ANSWER_BYTES {
            let page = left.min(PAGE);
            let values = values![room.id, bound, page];
            let read = self.fetch_all(statement, values, rows::message).await?;
            left = if u32::try_from(read.len()).is_ok_and(|number| number < page) {
                0
            } else {
                left - page
            };
            for message in read {
                if size > MAX_ANSWER_BYTES {
                    break;
                }
                let parent = match message.parent_id {
                    Some(id) => self.message(room.id, id).await?,
                    None => None,
                };
                bound = message.id;
                size += message.size() + parent.as_ref().map_or(0, Message::size);
                messages.push(ChatMessage { message, parent });
            }
        }
        Ok(messages)
    }

    /// Counts the room's comments up to this message.
    pub(crate) async fn comments_until(&mut self, room: RoomId, message: i64) -> Result<i64> {
        let values = values![room, room, message];
        self.fetch_one(statements::COMMENTS_UNTIL, values, |row| row.int("comments")).await
    }
}

impl<D: Dialect> Transaction<D> {
    /// Returns the message's id: the room is locked, so its last message is this one.
    pub(crate) async fn insert_message(&mut self, room: RoomId, message: &Message) -> Result<i64> {
        let (kind, body, about) = match &message.content {
            Content::Comment(body) => (String::new(), body.as_str(), None),
            Content::Deleted { by } => (rows::DELETED.to_owned(), "", Some(by)),
            Content::System { reason, about } => (reason.name(), "", about.as_ref()),
        };
        let mentions = match message.mentions.as_slice() {
            [] => String::new(),
            mentions => to_json(mentions),
        };
        let values = values![
            message.actor.kind.name(),
            &message.actor.id,
            &message.actor_name,
            message.created_at,
            &kind,
            body,
            &mentions,
            about.map(|(actor, _name)| actor.kind.name()),
            about.map(|(actor, _name)| actor.id.as_str()),
            about.map(|(_actor, name)| name.as_str()),
            &message.reference_id,
            message.parent_id,
            room,
        ];
        self.execute(statements::INSERT, values).await?;
        self.fetch_one(statements::LAST_ID, values![room], |row| row.int("id")).await
    }

    /// Adds lobbyd's system messages about changes of rooms.
    pub(crate) async fn insert_system_messages(
        &mut self,
        messages: impl Iterator<Item = (RoomId, Reason)> + Send,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let created_at = now.timestamp();
        let row = |(room_id, kind)| SystemRow { room_id, created_at, kind };
        let rows: Vec<_> = messages.map(row).collect();
        let inserted = self.execute(statements::INSERT_SYSTEM, values![&to_json(&rows)]).await?;
        expect_rows(inserted, rows.len(), "lobbyd_messages")
    }

    /// Adds lobbyd's system message to rooms that have been opened. Fails if one of them is still
    /// closed: a trigger can undo the change without a trace in the number of rows.
    pub(crate) async fn insert_opening_messages(
        &mut self,
        rooms: &[RoomId],
        reason: Reason,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let (kind, ids) = (reason.name(), to_json(rooms));
        let values = values![now.timestamp(), &kind, &ids];
        let inserted = self.execute(statements::INSERT_IN_OPEN, values).await?;
        expect_rows(inserted, rooms.len(), "lobbyd_rooms")
    }

    /// Leaves of a comment only the participants who wrote and deleted it.
    pub(crate) async fn delete_comment(&mut self, message: i64, by: (&Actor, &str)) -> Result<()> {
        let (actor, name) = by;
        let values = values![actor.kind.name(), &actor.id, name, message];
        expect_rows(self.execute(statements::DELETE, values).await?, 1, "lobbyd_messages")
    }

    pub(crate) async fn delete_messages(&mut self, room: RoomId) -> Result<()> {
        self.execute(statements::DELETE_OF_ROOM, values![room]).await.map(drop)
    }
}
