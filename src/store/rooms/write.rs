//! Writes the effects of a rule: rows, the chat's message, and the events about it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::{ColumnIndex, Decode, Encode, Executor, IntoArguments, Type};

use crate::{
    domain::{
        Actor, Attendee, AttendeeId, Call, Caller, Content, EventId, LOBBY_CHANGED,
        LobbyChangedPayload, Message, NewMessage, OutboxEvent, ROOM_UPDATED, Room, RoomId,
        RoomUpdated,
        commands::{Announcement, AttendeeChange, Bulk, Changes},
    },
    store::{
        Result,
        dialect::Dialect,
        engine::matched,
        rows::{OutboxRow, json},
        session::Session,
    },
};

/// PINs have seven digits, as in Talk.
const PINS: std::ops::Range<u32> = 1_000_000..10_000_000;

/// Who changes a room, with the name for people.
pub(in crate::store) struct Author {
    actor: Actor,
    name: String,
}

impl Author {
    /// The caller, by the name that he has in the room.
    pub(super) fn of(caller: &Caller, me: Option<&Attendee>) -> Self {
        let name = me.map_or(&caller.display_name, |me| &me.display_name).clone();
        Self { actor: caller.actor.clone(), name }
    }

    /// lobbyd, on behalf of whoever sent an event.
    pub(in crate::store) fn system() -> Self {
        Self { actor: Actor::system(), name: String::new() }
    }
}

/// What was written besides the rows of room and attendees.
pub(super) struct Written {
    /// The announcement that is in the outbox now.
    pub(super) update: Option<RoomUpdated>,
    /// What somebody said.
    pub(super) message: Option<Message>,
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
    /// Writes what a rule decided about the room, which is locked and was read as `before`, and what
    /// is announced about it.
    pub(super) async fn write(
        &mut self,
        before: &Room,
        effects: &Changes,
        author: &Author,
        now: DateTime<Utc>,
    ) -> Result<Written> {
        let Some(notice) = &effects.notice else {
            return Ok(Written { update: None, message: None });
        };
        let message = self.write_rows(before, effects, author, now).await?;
        let room = &effects.room;
        let about = notice.about.as_ref().map(|(actor, _name)| actor.clone());
        let update = RoomUpdated::of(room, notice.reason, about);
        let mut events = vec![event(ROOM_UPDATED, room, json(&update), now)];
        if effects.lobby_set {
            let data = LobbyChangedPayload::of(&room.token, room.lobby, Some(room.version));
            events.push(event(LOBBY_CHANGED, room, json(&data), now));
        }
        self.insert_outbox(&events, now).await?;
        Ok(Written { update: Some(update), message })
    }

    /// The same, without an announcement. Returns what somebody said.
    pub(in crate::store) async fn write_rows(
        &mut self,
        before: &Room,
        effects: &Changes,
        author: &Author,
        now: DateTime<Utc>,
    ) -> Result<Option<Message>> {
        let room = &effects.room;
        if effects.gone {
            self.delete_room(room.id).await?;
            return Ok(None);
        }
        // The attendees first: whether there is a call depends on them.
        match &effects.person {
            Some(AttendeeChange::New(attendee)) => self.insert_attendee(room.id, attendee).await?,
            Some(AttendeeChange::Changed(attendee)) => self.update_attendee(attendee).await?,
            Some(AttendeeChange::Removed(attendee)) => {
                let delete = sqlx::query(D::shared().delete_attendee).bind(attendee.id.0);
                matched(self.execute(delete).await?, 1, "lobbyd_attendees")?;
            }
            None => {}
        }
        if let Some(bulk) = effects.bulk {
            self.change_many(room.id, bulk).await?;
        }
        self.write_room(before, room).await?;
        if let Some(notice) = effects.notice.as_ref().filter(|notice| notice.in_chat) {
            self.tell_chat(room.id, notice, author, now).await?;
        }
        match &effects.said {
            Some((by, said)) => self.say(room, *by, author, said, now).await.map(Some),
            None => Ok(None),
        }
    }

    /// Writes events that may be claimed from `available_at` on.
    pub(in crate::store) async fn insert_outbox(
        &mut self,
        events: &[OutboxEvent],
        available_at: DateTime<Utc>,
    ) -> Result<()> {
        let available_at = available_at.timestamp_millis();
        let rows: Vec<OutboxRow> =
            events.iter().map(|event| OutboxRow::of(event, available_at)).collect();
        let insert = sqlx::query(D::STATEMENTS.insert_outbox).bind(json(&rows));
        matched(self.execute(insert).await?, rows.len(), "lobbyd_outbox")
    }

    pub(super) async fn insert_attendee(&mut self, room: RoomId, new: &Attendee) -> Result<()> {
        let session = new.session.as_ref();
        let insert = sqlx::query(D::shared().insert_attendee)
            .bind(new.actor.kind.name().to_owned())
            .bind(new.actor.id.clone())
            .bind(new.display_name.clone())
            .bind(new.participant_type.number())
            .bind(new.permissions.number())
            .bind(new.pin.clone())
            .bind(room.0)
            .bind(new.comments_read)
            .bind(session.map(|session| session.id.clone()))
            .bind(new.in_call())
            .bind(session.map_or(0, |session| session.last_ping))
            .bind(room.0);
        self.execute(insert).await.map(drop)
    }

    async fn update_attendee(&mut self, attendee: &Attendee) -> Result<()> {
        let session = attendee.session.as_ref();
        let update = sqlx::query(D::shared().update_attendee)
            .bind(attendee.display_name.clone())
            .bind(attendee.participant_type.number())
            .bind(attendee.permissions.number())
            .bind(session.map(|session| session.id.clone()))
            .bind(attendee.in_call())
            .bind(session.map_or(0, |session| session.last_ping))
            .bind(attendee.id.0);
        matched(self.execute(update).await?, 1, "lobbyd_attendees")
    }

    async fn change_many(&mut self, room: RoomId, bulk: Bulk) -> Result<()> {
        let sql = match bulk {
            Bulk::AssignPins => return self.assign_pins(room).await,
            Bulk::DropPins => D::shared().drop_pins,
            Bulk::RemoveWaitingFromCall => D::shared().waiting_leave_call,
            Bulk::RemoveAllFromCall => D::shared().everybody_leaves_call,
            Bulk::RemoveUninvited => D::shared().uninvited_go,
        };
        self.execute(sqlx::query(sql).bind(room.0)).await.map(drop)
    }

    /// Gives each user without a PIN one that nobody else in the room has.
    async fn assign_pins(&mut self, room: RoomId) -> Result<()> {
        let taken = sqlx::query(D::shared().pins).bind(room.0);
        let taken: Vec<(String,)> = self.fetch_all(taken).await?;
        let mut taken: BTreeSet<String> = taken.into_iter().map(|(pin,)| pin).collect();
        let without = sqlx::query(D::shared().without_pin).bind(room.0);
        let without: Vec<(i64,)> = self.fetch_all(without).await?;
        for (attendee,) in without {
            let pin = loop {
                let pin = rand::random_range(PINS).to_string();
                if taken.insert(pin.clone()) {
                    break pin;
                }
            };
            let set = sqlx::query(D::shared().set_pin).bind(pin).bind(attendee);
            matched(self.execute(set).await?, 1, "lobbyd_attendees")?;
        }
        Ok(())
    }

    /// Writes the room's own rows.
    async fn write_room(&mut self, before: &Room, room: &Room) -> Result<()> {
        let (now, then) = (room.version.milliseconds(), before.version.milliseconds());
        let write = if room.lobby == before.lobby {
            sqlx::query(D::shared().update_room)
                .bind(room.room_type)
                .bind(room.name.clone())
                .bind(room.description.clone())
                .bind(room.sip_enabled)
                .bind(now)
                .bind(room.id.0)
                .bind(then)
        } else {
            sqlx::query(D::STATEMENTS.set_lobby)
                .bind(room.lobby.state.number())
                .bind(room.lobby.timer.map(|timer| timer.timestamp()))
                .bind(now)
                .bind(room.id.0)
                .bind(then)
        };
        matched(self.execute(write).await?, 1, "lobbyd_rooms")?;

        let call = self.call_after(room).await?;
        let state = |sql| {
            sqlx::query(sql)
                .bind(room.password_hash.clone())
                .bind(call.map_or(0, |call| call.started_at))
                .bind(call.map_or(0, |call| call.flags))
                .bind(room.comments)
                .bind(room.changed_at)
                .bind(room.id.0)
        };
        if self.execute(state(D::shared().update_state)).await? == 0 {
            self.execute(state(D::shared().insert_state)).await?;
        }
        Ok(())
    }

    /// A call goes on for as long as anybody is in it.
    async fn call_after(&mut self, room: &Room) -> Result<Option<Call>> {
        if room.call.is_none() {
            return Ok(None);
        }
        let count = sqlx::query(D::shared().count_in_call).bind(room.id.0);
        let (in_call,): (i64,) = self.fetch_one(count).await?;
        Ok(room.call.filter(|_call| in_call > 0))
    }

    async fn delete_room(&mut self, room: RoomId) -> Result<()> {
        let shared = D::shared();
        for sql in [shared.delete_messages, shared.delete_attendees, shared.delete_state] {
            self.execute(sqlx::query(sql).bind(room.0)).await?;
        }
        let delete = sqlx::query(shared.delete_room).bind(room.0);
        matched(self.execute(delete).await?, 1, "lobbyd_rooms")
    }

    /// Stores what somebody said, as read by its sender.
    async fn say(
        &mut self,
        room: &Room,
        by: AttendeeId,
        author: &Author,
        said: &NewMessage,
        now: DateTime<Utc>,
    ) -> Result<Message> {
        let mut message = Message {
            id: 0,
            actor: author.actor.clone(),
            actor_name: author.name.clone(),
            created_at: now.timestamp(),
            content: Content::Comment(said.text.clone()),
            reference_id: said.reference_id.clone(),
            parent_id: said.reply_to,
        };
        message.id = self.insert_message(room.id, &message).await?;
        let mark = sqlx::query(D::shared().mark_read)
            .bind(message.id)
            .bind(room.comments)
            .bind(now.timestamp())
            .bind(by.0)
            .bind(message.id);
        matched(self.execute(mark).await?, 1, "lobbyd_attendees")?;
        Ok(message)
    }

    async fn tell_chat(
        &mut self,
        room: RoomId,
        notice: &Announcement,
        author: &Author,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let message = Message {
            id: 0,
            actor: author.actor.clone(),
            actor_name: author.name.clone(),
            created_at: now.timestamp(),
            content: Content::System { reason: notice.reason, about: notice.about.clone() },
            reference_id: String::new(),
            parent_id: None,
        };
        self.insert_message(room, &message).await.map(drop)
    }

    /// Returns the message's id. (The room is locked, so its last one is this one.)
    async fn insert_message(&mut self, room: RoomId, message: &Message) -> Result<i64> {
        let (kind, text, about) = match &message.content {
            Content::Comment(text) => (String::new(), text.clone(), None),
            Content::System { reason, about } => (reason.name(), String::new(), about.as_ref()),
        };
        let insert = sqlx::query(D::shared().insert_message)
            .bind(message.actor.kind.name().to_owned())
            .bind(message.actor.id.clone())
            .bind(message.actor_name.clone())
            .bind(message.created_at)
            .bind(kind)
            .bind(text)
            .bind(about.map(|(actor, _)| actor.kind.name().to_owned()))
            .bind(about.map(|(actor, _)| actor.id.clone()))
            .bind(about.map(|(_, name)| name.clone()))
            .bind(message.reference_id.clone())
            .bind(message.parent_id)
            .bind(room.0);
        self.execute(insert).await?;
        let last = sqlx::query(D::shared().last_message_id).bind(room.0);
        let (id,): (i64,) = self.fetch_one(last).await?;
        Ok(id)
    }
}

fn event(event_type: &str, room: &Room, data: String, now: DateTime<Utc>) -> OutboxEvent {
    OutboxEvent {
        id: EventId::new(),
        event_type: event_type.to_owned(),
        token: room.token.clone(),
        data,
        created_at: now,
        due_at: None,
        attempt: 0,
    }
}
