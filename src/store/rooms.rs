//! The rooms as the HTTP API uses them: commands and queries.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    Changed, Created, InactiveSession, Rooms,
    connection::Connection,
    dialect::Dialect,
    error::{CommandError, Result},
    pool::SqlStore,
};
use crate::domain::{
    Actor, Attendee, AttendeeId, Caller, ChatMessage, MessageQuery, Room, RoomId, RoomOverview,
    RoomToken, RoomVersion, Version,
    commands::{Command, NewRoom, Refusal, Resource, Target, can_read},
};

#[async_trait]
impl<D: Dialect> Rooms for SqlStore<D> {
    async fn create(
        &self,
        token: &RoomToken,
        caller: &Caller,
        new: &NewRoom,
        now: DateTime<Utc>,
    ) -> Result<Option<Created>> {
        let mut transaction = self.begin().await?;
        match transaction.insert_room(token, new, Version::of(now)).await {
            Ok(()) => {}
            Err(error) if error.is_unique_violation() => {
                transaction.roll_back().await?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let created = transaction.create(token, caller, new, now).await?;
        transaction.commit().await?;
        Ok(Some(created))
    }

    async fn change(
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
        let mut connection = self.acquire().await?;
        let tokens = connection.rooms_of(user).await?;
        connection.release();
        Ok(tokens)
    }

    async fn room_versions(&self, tokens: &[RoomToken]) -> Result<Vec<RoomVersion>> {
        let mut connection = self.acquire().await?;
        let versions = connection.room_versions(tokens).await?;
        connection.release();
        Ok(versions)
    }

    async fn read_since(&self, since: i64) -> Result<Vec<(RoomId, Actor)>> {
        let mut connection = self.acquire().await?;
        let readers = connection.read_since(since).await?;
        connection.release();
        Ok(readers)
    }

    async fn touch(&self, attendees: &[AttendeeId], now: DateTime<Utc>) -> Result<()> {
        let mut connection = self.acquire().await?;
        connection.touch(attendees, now).await?;
        connection.release();
        Ok(())
    }

    async fn inactive_since(
        &self,
        since: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<InactiveSession>> {
        let mut connection = self.acquire().await?;
        let sessions = connection.inactive_since(since, limit).await?;
        connection.release();
        Ok(sessions)
    }

    async fn participants(
        &self,
        token: &RoomToken,
        actor: &Actor,
        resource: Resource,
    ) -> Result<Vec<Attendee>, CommandError> {
        let mut connection = self.acquire().await?;
        let outcome = connection.participants_for(token, actor, resource).await;
        connection.end(outcome)
    }

    async fn messages(
        &self,
        token: &RoomToken,
        actor: &Actor,
        query: MessageQuery,
        now: DateTime<Utc>,
    ) -> Result<Vec<ChatMessage>, CommandError> {
        let mut connection = self.acquire().await?;
        let outcome = connection.messages_for(token, actor, query, now).await;
        connection.end(outcome)
    }
}

impl<D: Dialect> Connection<D> {
    async fn participants_for(
        &mut self,
        token: &RoomToken,
        actor: &Actor,
        resource: Resource,
    ) -> Result<Vec<Attendee>, CommandError> {
        let (room, _me) = self.reader(token, actor, resource).await?;
        Ok(self.attendees(room.id).await?)
    }

    async fn messages_for(
        &mut self,
        token: &RoomToken,
        actor: &Actor,
        query: MessageQuery,
        now: DateTime<Utc>,
    ) -> Result<Vec<ChatMessage>, CommandError> {
        let (room, me) = self.reader(token, actor, Resource::Chat).await?;
        let messages = self.messages(&room, query).await?;
        let newest = messages.iter().map(|each| each.message.id).max().unwrap_or_default();
        if query.mark_read && newest > me.last_read_message {
            let comments = self.comments_until(room.id, newest).await?;
            self.mark_read(me.id, newest, comments, now).await?;
        }
        Ok(messages)
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
