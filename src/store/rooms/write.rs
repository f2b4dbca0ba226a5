//! Writes the effects of a rule: rows, the chat's message, and the events about it.

use chrono::{DateTime, Utc};
use sqlx::{ColumnIndex, Decode, Encode, Executor, IntoArguments, Type};

use crate::{
    domain::{
        Actor, Attendee, AttendeeId, Call, Caller, Content, LOBBY_CHANGED, LobbyChangedPayload,
        Message, NewMessage, OutboxEvent, Pins, ROOM_UPDATED, Room, RoomId, RoomUpdated,
        commands::{Announcement, AttendeeChange, BulkChange, Changes, RoomChange},
    },
    store::{
        Result,
        dialect::Dialect,
        engine::matched,
        rows::{OutboxRow, json, new_event_id},
        session::Session,
    },
};

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
        let Some(announcement) = &effects.announcement else {
            return Ok(Written { update: None, message: None });
        };
        let message = self.write_rows(before, effects, author, now).await?;
        let room = effects.room();
        let about = announcement.about.as_ref().map(|(actor, _name)| actor.clone());
        let update = RoomUpdated::of(room, announcement.reason, about);
        let mut events = vec![event(ROOM_UPDATED, room, json(&update), now)];
        if effects.publishes_lobby {
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
        let room = effects.room();
        if effects.deletes_room() {
            self.delete_room(room.id).await?;
            return Ok(None);
        }
        // The attendees first: whether there is a call depends on them.
        match &effects.attendee {
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
        self.write_room(before, room, effects.room_change()).await?;
        if let Some(announcement) = effects.announcement.as_ref().filter(|each| each.in_chat) {
            self.tell_chat(room.id, announcement, author, now).await?;
        }
        match &effects.message {
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
        let presence = new.presence.as_ref();
        let insert = sqlx::query(D::shared().insert_attendee)
            .bind(new.actor.kind.name().to_owned())
            .bind(new.actor.id.clone())
            .bind(new.display_name.clone())
            .bind(new.participant_type.number())
            .bind(new.permissions.bits())
            .bind(new.pin.clone())
            .bind(room.0)
            .bind(new.comments_read)
            .bind(presence.map(|presence| presence.session_id.clone()))
            .bind(new.call_flags().bits())
            .bind(presence.map_or(0, |presence| presence.last_ping))
            .bind(room.0);
        self.execute(insert).await.map(drop)
    }

    async fn update_attendee(&mut self, attendee: &Attendee) -> Result<()> {
        let presence = attendee.presence.as_ref();
        let update = sqlx::query(D::shared().update_attendee)
            .bind(attendee.display_name.clone())
            .bind(attendee.participant_type.number())
            .bind(attendee.permissions.bits())
            .bind(presence.map(|presence| presence.session_id.clone()))
            .bind(attendee.call_flags().bits())
            .bind(presence.map_or(0, |presence| presence.last_ping))
            .bind(attendee.id.0);
        matched(self.execute(update).await?, 1, "lobbyd_attendees")
    }

    async fn change_many(&mut self, room: RoomId, bulk: BulkChange) -> Result<()> {
        let sql = match bulk {
            BulkChange::AssignPins => return self.assign_pins(room).await,
            BulkChange::DropPins => D::shared().drop_pins,
            BulkChange::RemoveWaitingFromCall => D::shared().waiting_leave_call,
            BulkChange::RemoveAllFromCall => D::shared().everybody_leaves_call,
            BulkChange::RemoveUninvited => D::shared().uninvited_go,
        };
        self.execute(sqlx::query(sql).bind(room.0)).await.map(drop)
    }

    /// Gives each user without a PIN one that is not in use in the room.
    async fn assign_pins(&mut self, room: RoomId) -> Result<()> {
        let in_use = sqlx::query(D::shared().pins).bind(room.0);
        let in_use: Vec<(String,)> = self.fetch_all(in_use).await?;
        let mut pins = Pins::in_use(in_use.into_iter().map(|(pin,)| pin));
        let without = sqlx::query(D::shared().without_pin).bind(room.0);
        let without: Vec<(i64,)> = self.fetch_all(without).await?;
        for (attendee,) in without {
            let pin = pins.assign(rand::random_range);
            let set = sqlx::query(D::shared().set_pin).bind(pin).bind(attendee);
            matched(self.execute(set).await?, 1, "lobbyd_attendees")?;
        }
        Ok(())
    }

    /// Writes the room's own rows.
    async fn write_room(&mut self, before: &Room, room: &Room, change: &RoomChange) -> Result<()> {
        let (now, then) = (room.version.milliseconds(), before.version.milliseconds());
        let write = match change {
            RoomChange::Lobby(lobby) => sqlx::query(D::STATEMENTS.set_lobby)
                .bind(lobby.state.number())
                .bind(lobby.timer.map(|timer| timer.timestamp()))
                .bind(now)
                .bind(room.id.0)
                .bind(then),
            RoomChange::None | RoomChange::Settings(_) | RoomChange::Delete => {
                sqlx::query(D::shared().update_room)
                    .bind(room.room_type.number())
                    .bind(room.name.clone())
                    .bind(room.description.clone())
                    .bind(room.sip.number())
                    .bind(now)
                    .bind(room.id.0)
                    .bind(then)
            }
        };
        matched(self.execute(write).await?, 1, "lobbyd_rooms")?;

        let call = self.call_after(room).await?;
        let state = |sql| {
            sqlx::query(sql)
                .bind(room.password_hash.clone())
                .bind(call.map_or(0, |call| call.started_at))
                .bind(call.map_or(0, |call| call.flags.bits()))
                .bind(room.comments)
                .bind(room.changed_at)
                .bind(room.id.0)
        };
        if self.execute(state(D::shared().update_state)).await? == 0 {
            self.execute(state(D::shared().insert_state)).await?;
        }
        Ok(())
    }

    async fn call_after(&mut self, room: &Room) -> Result<Option<Call>> {
        let Some(call) = room.call else { return Ok(None) };
        let count = sqlx::query(D::shared().count_in_call).bind(room.id.0);
        let (in_call,): (i64,) = self.fetch_one(count).await?;
        Ok(call.with_participants(in_call))
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
            content: Content::Comment(said.body.clone()),
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
        announcement: &Announcement,
        author: &Author,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let message = Message {
            id: 0,
            actor: author.actor.clone(),
            actor_name: author.name.clone(),
            created_at: now.timestamp(),
            content: Content::System {
                reason: announcement.reason,
                about: announcement.about.clone(),
            },
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
        id: new_event_id(),
        event_type: event_type.to_owned(),
        token: room.token.clone(),
        data,
        created_at: now,
        due_at: None,
        attempt: 0,
    }
}
