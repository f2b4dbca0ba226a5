//! The rooms as the HTTP API uses them: commands and queries.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::connection::Connection;
use super::contention::retry_contended;
use super::dialect::{Columns, Dialect, values};
use super::error::{CommandError, Result};
use super::pool::SqlStore;
use super::rows::to_json;
use super::statements::{attendees, rooms};
use super::{Changed, Created, InactiveSession, Rooms, rows};
use crate::domain::commands::{
    Command, NewRoom, Refusal, Resource, Target, can_read, require_moderator,
};
use crate::domain::{
    Actor, Attendee, AttendeeId, Ban, Caller, ChatPage, MessageQuery, Room, RoomId, RoomOverview,
    RoomToken, RoomVersion, Version,
};

#[async_trait]
impl<D: Dialect> Rooms for SqlStore<D> {
    async fn create(
        &self,
        token: &RoomToken,
        caller: &Caller,
        new: &NewRoom,
        now: DateTime<Utc>,
    ) -> Result<Option<Created>, CommandError> {
        retry_contended(self.limit, || self.try_create(token, caller, new, now)).await
    }

    async fn change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<Changed, CommandError> {
        retry_contended(self.limit, || self.try_change(token, caller, command, now)).await
    }

    async fn room(&self, token: &RoomToken) -> Result<Option<Room>> {
        let mut connection = self.acquire().await?;
        let room = connection.room(token).await?;
        connection.release();
        Ok(room)
    }

    async fn overview(&self, token: &RoomToken) -> Result<Option<RoomOverview>> {
        let mut connection = self.acquire().await?;
        let overview = match connection.room(token).await? {
            Some(room) => Some(connection.overview(room).await?),
            None => None,
        };
        connection.release();
        Ok(overview)
    }

    async fn attendee(&self, room: RoomId, actor: &Actor) -> Result<Option<Attendee>> {
        let mut connection = self.acquire().await?;
        let attendee = connection.attendee(room, Target::Actor(actor)).await?;
        connection.release();
        Ok(attendee)
    }

    async fn rooms_of(&self, user: &str) -> Result<Vec<RoomToken>> {
        self.fetch_all(rooms::OF_USER, values![user], rows::token).await
    }

    async fn owned_rooms(&self, user: &str) -> Result<i64> {
        self.fetch_one(attendees::COUNT_OWNED, values![user], |row| row.int("number")).await
    }

    async fn guests(&self, room: RoomId) -> Result<i64> {
        self.fetch_one(attendees::COUNT_GUESTS, values![room], |row| row.int("number")).await
    }

    async fn room_versions(&self, tokens: &[RoomToken]) -> Result<Vec<RoomVersion>> {
        self.fetch_all(rooms::VERSIONS, values![&to_json(tokens)], rows::room_version).await
    }

    async fn read_since(&self, since: i64) -> Result<Vec<(RoomId, Actor)>> {
        let reader = |row: &D::Row| Ok((RoomId(row.int("room_id")?), rows::actor(row)?));
        self.fetch_all(attendees::READ_SINCE, values![since], reader).await
    }

    async fn touch(&self, sessions: &[String], now: DateTime<Utc>) -> Result<()> {
        let sessions = to_json(sessions);
        let values = values![&sessions, now.timestamp()];
        self.execute(attendees::TOUCH, values).await.map(drop)
    }

    async fn inactive_since(
        &self,
        since: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<InactiveSession>> {
        let session = |row: &D::Row| {
            Ok(InactiveSession {
                room: rows::token(row)?,
                actor: rows::actor(row)?,
                session_id: row.text("session_id")?,
            })
        };
        let since = since.timestamp();
        self.fetch_all(attendees::INACTIVE, values![since, since, limit], session).await
    }

    async fn participants(
        &self,
        token: &RoomToken,
        actor: &Actor,
        resource: Resource,
    ) -> Result<(Room, Vec<Attendee>), CommandError> {
        let mut connection = self.acquire().await?;
        let outcome = connection.participants_for(token, actor, resource).await;
        connection.end(outcome)
    }

    async fn bans(&self, token: &RoomToken, actor: &Actor) -> Result<Vec<Ban>, CommandError> {
        let mut connection = self.acquire().await?;
        let outcome = connection.bans_for(token, actor).await;
        connection.end(outcome)
    }

    async fn messages(
        &self,
        token: &RoomToken,
        actor: &Actor,
        query: MessageQuery,
        now: DateTime<Utc>,
    ) -> Result<ChatPage, CommandError> {
        let mut connection = self.acquire().await?;
        let outcome = connection.messages_for(token, actor, query).await;
        let (page, read) = connection.end(outcome)?;
        if let Some(ReadMark { attendee, message, comments }) = read {
            let mark = || async {
                let mut transaction = self.begin().await?;
                transaction.mark_read(attendee, message, comments, now).await?;
                transaction.commit().await
            };
            retry_contended(self.limit, mark).await?;
        }
        Ok(page)
    }
}

/// The last message that an attendee has read, and the number of comments up to it.
struct ReadMark {
    attendee: AttendeeId,
    message: i64,
    comments: i64,
}

impl<D: Dialect> SqlStore<D> {
    async fn try_create(
        &self,
        token: &RoomToken,
        caller: &Caller,
        new: &NewRoom,
        now: DateTime<Utc>,
    ) -> Result<Option<Created>, CommandError> {
        let mut transaction = self.begin().await?;
        match transaction.insert_room(token, new, Version::of(now)).await {
            Ok(()) => {}
            Err(error) if error.is_unique_violation() => {
                transaction.roll_back().await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        let outcome = transaction.create(token, caller, new, now).await;
        transaction.end(outcome).await.map(Some)
    }

    async fn try_change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<Changed, CommandError> {
        let mut transaction = self.begin().await?;
        let outcome = transaction.execute_command(token, caller, command, now).await;
        transaction.end(outcome).await
    }
}

impl<D: Dialect> Connection<D> {
    async fn participants_for(
        &mut self,
        token: &RoomToken,
        actor: &Actor,
        resource: Resource,
    ) -> Result<(Room, Vec<Attendee>), CommandError> {
        let (room, _me) = self.reader(token, actor, resource).await?;
        let attendees = self.attendees(room.id).await?;
        Ok((room, attendees))
    }

    /// Also returns what the reader has read now, if that is to be recorded.
    async fn messages_for(
        &mut self,
        token: &RoomToken,
        actor: &Actor,
        query: MessageQuery,
    ) -> Result<(ChatPage, Option<ReadMark>), CommandError> {
        let (room, me) = self.reader(token, actor, Resource::Chat).await?;
        let messages = self.messages(&room, query).await?;
        let newest = messages.iter().map(|each| each.message.id).max().unwrap_or_default();
        let mut read = None;
        if query.mark_read && newest > me.last_read_message {
            let comments = self.comments_until(room.id, newest).await?;
            read = Some(ReadMark { attendee: me.id, message: newest, comments });
        }
        let last_common_read = self.last_common_read(room.id).await?;
        Ok((ChatPage { messages, last_common_read }, read))
    }

    async fn bans_for(
        &mut self,
        token: &RoomToken,
        actor: &Actor,
    ) -> Result<Vec<Ban>, CommandError> {
        let room = self.room(token).await?.ok_or(Refusal::NoRoom)?;
        let me = self.attendee(room.id, Target::Actor(actor)).await?;
        require_moderator(me.as_ref())?;
        Ok(self.bans(room.id).await?)
    }

    /// The room, and the attendee record of an actor who may read a part of it.
    async fn reader(
        &mut self,
        token: &RoomToken,
        actor: &Actor,
        resource: Resource,
    ) -> Result<(Room, Attendee), CommandError> {
        let room = self.room(token).await?.ok_or(Refusal::NoRoom)?;
        let me = self.attendee(room.id, Target::Actor(actor)).await?;
        let me = can_read(&room, me, resource)?;
        Ok((room, me))
    }
}
