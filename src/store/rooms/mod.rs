//! What the HTTP API does to rooms: read the scene, ask the decide, write the effects.

mod write;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{ColumnIndex, Decode, Encode, Executor, IntoArguments, Type, migrate::Migrate};

pub(super) use self::write::Author;
use super::{
    Changed, Result, Rooms, StoreError,
    dialect::Dialect,
    engine::SqlStore,
    rows::{self, AttendeeRow, json},
    session::Session,
    users::is_taken,
};
use crate::domain::{
    Actor, Attendee, AttendeeId, Caller, ChatMessage, Message, MessageQuery, Room, RoomId,
    RoomOverview, RoomToken, RoomUpdated, RoomVersion, Version,
    commands::{
        Command, CommandContext, NewRoom, OtherCounts, Refusal, Resource, Target, can_read, decide,
        initial_changes,
    },
};

/// Words of one answer, in bytes, after which it ends: the next one goes on from there.
const MOST_BYTES: usize = 1024 * 1024;

#[async_trait]
impl<D> Rooms for SqlStore<D>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Connection: Migrate,
    D::Arguments: IntoArguments<D>,
    for<'v> i64: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<i64>: Encode<'v, D>,
    for<'v> String: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<String>: Encode<'v, D>,
    usize: ColumnIndex<D::Row>,
    for<'n> &'n str: ColumnIndex<D::Row>,
{
    async fn room(&self, token: &RoomToken) -> Result<Option<Room>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let room = session.room(token).await?;
        session.finish();
        Ok(room)
    }

    async fn create(
        &self,
        token: &RoomToken,
        caller: &Caller,
        new: &NewRoom,
        now: DateTime<Utc>,
    ) -> Result<Option<Vec<RoomUpdated>>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        session.begin().await?;
        let version = Version::of(now);
        let insert = sqlx::query(D::shared().make_room)
            .bind(token.as_str().to_owned())
            .bind(new.room_type.number())
            .bind(new.name.clone())
            .bind(new.description.clone())
            .bind(new.object_type.clone())
            .bind(new.object_id.clone())
            .bind(version.milliseconds());
        match session.execute(insert).await {
            Ok(_one) => {}
            Err(StoreError::Rejected(error)) if is_taken(&error) => {
                session.roll_back().await?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let empty = session.lock_room(token).await?.ok_or_else(|| {
            StoreError::Corrupt(format!("room {token} is not there after it was made"))
        })?;
        let author = Author::of(caller, None);
        let mut updates = Vec::new();
        let mut room = empty;
        for effects in initial_changes(&room, caller, new, now) {
            updates.extend(session.write(&room, &effects, &author, now).await?.update);
            room = effects.into_room();
        }
        session.commit().await?;
        Ok(Some(updates))
    }

    async fn change(
        &self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<std::result::Result<Changed, Refusal>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        session.begin().await?;
        let changed = session.obey(token, caller, command, now).await?;
        if changed.is_ok() {
            session.commit().await?;
        } else {
            session.roll_back().await?;
        }
        Ok(changed)
    }

    async fn summary(&self, token: &RoomToken) -> Result<Option<RoomOverview>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let Some(room) = session.room(token).await? else {
            session.finish();
            return Ok(None);
        };
        let last = sqlx::query(D::shared().last_message).bind(room.id.0);
        let last_message = session.fetch_optional(last).await?.map(rows::message).transpose()?;
        let count = sqlx::query(D::shared().count_moderators).bind(room.id.0);
        let (moderators,): (i64,) = session.fetch_one(count).await?;
        let mut one_to_one = Vec::new();
        for id in room.one_to_one_members() {
            let user = Actor::user(id);
            let there = session.attendee(room.id, Target::Actor(&user)).await?;
            let name = match there {
                Some(attendee) => attendee.display_name,
                None => user.id.clone(),
            };
            one_to_one.push((user, name));
        }
        session.finish();
        Ok(Some(RoomOverview { room, last_message, moderators, one_to_one }))
    }

    async fn attendee(&self, room: RoomId, actor: &Actor) -> Result<Option<Attendee>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let attendee = session.attendee(room, Target::Actor(actor)).await?;
        session.finish();
        Ok(attendee)
    }

    async fn rooms_of(&self, user: &str) -> Result<Vec<RoomToken>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let tokens = session.rooms_of(user).await?;
        session.finish();
        Ok(tokens)
    }

    async fn room_versions(&self, tokens: &[RoomToken]) -> Result<Vec<RoomVersion>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let tokens: Vec<&str> = tokens.iter().map(RoomToken::as_str).collect();
        let look = sqlx::query(D::STATEMENTS.room_versions).bind(json(&tokens));
        let room_versions = session.fetch_all(look).await?;
        session.finish();
        room_versions.into_iter().map(rows::mark).collect()
    }

    async fn read_since(&self, since: i64) -> Result<Vec<(RoomId, Actor)>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let look = sqlx::query(D::shared().read_since).bind(since);
        let rows: Vec<(i64, String, String)> = session.fetch_all(look).await?;
        session.finish();
        let reader =
            |(room, kind, id): (i64, String, String)| Ok((RoomId(room), rows::actor(&kind, id)?));
        rows.into_iter().map(reader).collect()
    }

    async fn touch(&self, attendees: &[AttendeeId], now: DateTime<Utc>) -> Result<()> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let ids: Vec<i64> = attendees.iter().map(|attendee| attendee.0).collect();
        let touch = sqlx::query(D::STATEMENTS.touch).bind(json(&ids)).bind(now.timestamp());
        session.execute(touch).await?;
        session.finish();
        Ok(())
    }

    async fn unseen_since(
        &self,
        since: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<(RoomToken, Actor, String)>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let look = sqlx::query(D::shared().unseen)
            .bind(since.timestamp())
            .bind(since.timestamp())
            .bind(i64::from(limit));
        let rows: Vec<(String, String, String, String)> = session.fetch_all(look).await?;
        session.finish();
        let unseen = |(token, kind, id, session): (String, String, String, String)| {
            Ok((RoomToken::stored(token), rows::actor(&kind, id)?, session))
        };
        rows.into_iter().map(unseen).collect()
    }

    async fn participants(
        &self,
        token: &RoomToken,
        actor: &Actor,
        look: Resource,
    ) -> Result<std::result::Result<Vec<Attendee>, Refusal>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let (room, _me) = match session.admitted(token, actor, look).await? {
            Ok(admitted) => admitted,
            Err(refusal) => {
                session.finish();
                return Ok(Err(refusal));
            }
        };
        let all = sqlx::query(D::shared().attendees).bind(room.id.0);
        let all: Vec<AttendeeRow> = session.fetch_all(all).await?;
        session.finish();
        all.into_iter().map(rows::attendee).collect::<Result<_>>().map(Ok)
    }

    async fn messages(
        &self,
        token: &RoomToken,
        actor: &Actor,
        query: MessageQuery,
        now: DateTime<Utc>,
    ) -> Result<std::result::Result<Vec<ChatMessage>, Refusal>> {
        let mut session = Session::<D>::open(&self.pool, self.limit).await?;
        let (room, me) = match session.admitted(token, actor, Resource::Chat).await? {
            Ok(admitted) => admitted,
            Err(refusal) => {
                session.finish();
                return Ok(Err(refusal));
            }
        };
        let messages = session.messages(&room, query).await?;
        let newest = messages.iter().map(|each| each.message.id).max().unwrap_or_default();
        if query.mark_read && newest > me.last_read_message {
            session.mark_read(room.id, &me, newest, now).await?;
        }
        session.finish();
        Ok(Ok(messages))
    }
}

impl<D> Session<D>
where
    D: Dialect,
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
    for<'v> i64: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<i64>: Encode<'v, D>,
    for<'v> String: Encode<'v, D> + Decode<'v, D> + Type<D>,
    for<'v> Option<String>: Encode<'v, D>,
    usize: ColumnIndex<D::Row>,
    for<'n> &'n str: ColumnIndex<D::Row>,
{
    /// Reads the scene, asks the decide, and writes the effects.
    pub(super) async fn obey(
        &mut self,
        token: &RoomToken,
        caller: &Caller,
        command: &Command,
        now: DateTime<Utc>,
    ) -> Result<std::result::Result<Changed, Refusal>> {
        let Some(room) = self.lock_room(token).await? else {
            return Ok(Err(Refusal::NoRoom));
        };
        let me = self.attendee(room.id, Target::Actor(&caller.actor)).await?;
        let target = match command.target() {
            Some(target) => self.attendee(room.id, target).await?,
            None => None,
        };
        let others = match &me {
            Some(me) if command.needs_other_counts() => self.others(room.id, me.id).await?,
            Some(_) | None => OtherCounts::default(),
        };
        let parent = match command.parent() {
            Some(id) => self.message(room.id, id).await?,
            None => None,
        };
        let context = CommandContext {
            room: &room,
            caller,
            me: me.as_ref(),
            target: target.as_ref(),
            parent: parent.as_ref(),
            others,
            now,
        };
        let effects = match decide(&context, command) {
            Ok(effects) => effects,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let written = self.write(&room, &effects, &Author::of(caller, me.as_ref()), now).await?;
        let message = written.message.map(|message| ChatMessage { message, parent });
        let present = me.filter(|me| me.presence.is_some()).map(|me| me.id);
        Ok(Ok(Changed { update: written.update, message, present }))
    }

    pub(super) async fn rooms_of(&mut self, user: &str) -> Result<Vec<RoomToken>> {
        let look = sqlx::query(D::shared().rooms_of_user).bind(user.to_owned());
        let tokens: Vec<(String,)> = self.fetch_all(look).await?;
        Ok(tokens.into_iter().map(|(token,)| RoomToken::stored(token)).collect())
    }

    /// Reads a room.
    pub(super) async fn room(&mut self, token: &RoomToken) -> Result<Option<Room>> {
        let read = sqlx::query(D::STATEMENTS.room).bind(token.as_str().to_owned());
        self.fetch_optional(read).await?.map(rows::room).transpose()
    }

    /// Locks a room until the transaction ends, and reads it then: a read that waits for the lock
    /// would see what stood beside the room before it waited.
    pub(super) async fn lock_room(&mut self, token: &RoomToken) -> Result<Option<Room>> {
        let lock = sqlx::query(D::STATEMENTS.lock_room).bind(token.as_str().to_owned());
        let locked: Option<(i64,)> = self.fetch_optional(lock).await?;
        match locked {
            Some(_id) => self.room(token).await,
            None => Ok(None),
        }
    }

    async fn attendee(&mut self, room: RoomId, target: Target<'_>) -> Result<Option<Attendee>> {
        let read = match target {
            Target::Attendee(id) => sqlx::query(D::shared().attendee_by_id).bind(room.0).bind(id.0),
            Target::Actor(actor) => sqlx::query(D::shared().attendee)
                .bind(room.0)
                .bind(actor.kind.name().to_owned())
                .bind(actor.id.clone()),
        };
        self.fetch_optional(read).await?.map(rows::attendee).transpose()
    }

    async fn others(&mut self, room: RoomId, except: AttendeeId) -> Result<OtherCounts> {
        let count = sqlx::query(D::shared().others).bind(room.0).bind(except.0);
        let (moderators, users, in_call) = self.fetch_one(count).await?;
        Ok(OtherCounts { moderators, users, in_call })
    }

    /// The room and the actor's part in it, for who may look.
    async fn admitted(
        &mut self,
        token: &RoomToken,
        actor: &Actor,
        look: Resource,
    ) -> Result<std::result::Result<(Room, Attendee), Refusal>> {
        let Some(room) = self.room(token).await? else {
            return Ok(Err(Refusal::NoRoom));
        };
        let me = self.attendee(room.id, Target::Actor(actor)).await?;
        Ok(can_read(&room, me, look).map(|me| (room, me)))
    }

    async fn message(&mut self, room: RoomId, id: i64) -> Result<Option<Message>> {
        let read = sqlx::query(D::shared().message).bind(room.0).bind(id);
        self.fetch_optional(read).await?.map(rows::message).transpose()
    }

    async fn messages(&mut self, room: &Room, query: MessageQuery) -> Result<Vec<ChatMessage>> {
        let inclusive = i64::from(query.including);
        let (sql, bound) = match (query.newer, query.known) {
            (true, known) => (D::shared().newer_messages, known.saturating_sub(inclusive)),
            (false, 0) => (D::shared().older_messages, i64::MAX),
            (false, known) => (D::shared().older_messages, known.saturating_add(inclusive)),
        };
        let read = sqlx::query(sql).bind(room.id.0).bind(bound).bind(i64::from(query.limit));
        let mut messages = Vec::new();
        let mut size = 0;
        for row in self.fetch_all(read).await? {
            if size > MOST_BYTES {
                break;
            }
            let message = rows::message(row)?;
            size += message.size();
            let parent = match message.parent_id {
                Some(id) => self.message(room.id, id).await?,
                None => None,
            };
            messages.push(ChatMessage { message, parent });
        }
        Ok(messages)
    }

    async fn mark_read(
        &mut self,
        room: RoomId,
        me: &Attendee,
        newest: i64,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let count = sqlx::query(D::shared().comments_until);
        let (comments,): (i64,) =
            self.fetch_one(count.bind(room.0).bind(room.0).bind(newest)).await?;
        let mark = sqlx::query(D::shared().mark_read)
            .bind(newest)
            .bind(comments)
            .bind(now.timestamp())
            .bind(me.id.0)
            .bind(newest);
        self.execute(mark).await.map(drop)
    }
}
