//! Writes what the rules decided: rows, the chat's message, and the events about it.
//!
//! No rule is here: each part of [`Changes`] has its statement.

use chrono::{DateTime, Utc};

use super::connection::{Transaction, expect_rows};
use super::dialect::Dialect;
use super::error::Result;
use super::tables::outbox::{Progress, new_event};
use crate::domain::commands::{Announcement, AttendeeChange, Changes, RoomChange};
use crate::domain::{
    Actor, Attendee, AttendeeId, Caller, Content, LOBBY_CHANGED, LobbyChangedPayload, Message,
    NewMessage, ROOM_UPDATED, Reason, Room, RoomId, RoomUpdated,
};

/// Who makes a change, with the display name.
pub(super) struct Author {
    actor: Actor,
    name: String,
}

impl Author {
    /// The caller, by their display name in the room.
    pub(super) fn of(caller: &Caller, me: Option<&Attendee>) -> Self {
        let name = me.map_or(&caller.display_name, |me| &me.display_name).clone();
        Self { actor: caller.actor.clone(), name }
    }

    fn message(&self, content: Content, now: DateTime<Utc>) -> Message {
        Message {
            id: 0,
            actor: self.actor.clone(),
            actor_name: self.name.clone(),
            created_at: now.timestamp(),
            content,
            reference_id: String::new(),
            mentions: Vec::new(),
            parent_id: None,
        }
    }
}

/// What was written.
pub(super) struct Written {
    /// The room after the change; `None` if it was deleted.
    pub(super) room: Option<Room>,
    /// The chat message of a participant, or the one that says that it was deleted.
    pub(super) message: Option<Message>,
}

impl<D: Dialect> Transaction<D> {
    /// Writes changes of a room, which is locked and was read as `before`.
    pub(super) async fn write(
        &mut self,
        before: &Room,
        changes: &Changes,
        author: &Author,
        now: DateTime<Utc>,
    ) -> Result<Written> {
        let mut room = changes.room().clone();
        match changes.room_change() {
            RoomChange::None => self.update_version(before, room.version).await?,
            RoomChange::Settings(settings) => {
                self.update_settings(before, settings, room.version).await?;
            }
            RoomChange::Lobby(lobby) => self.update_lobby(before, *lobby, room.version).await?,
            RoomChange::Delete => {
                self.delete_all_of(room.id).await?;
                return Ok(Written { room: None, message: None });
            }
        }
        match &changes.attendee {
            Some(AttendeeChange::New(new)) => self.insert_attendee(room.id, new).await?,
            Some(AttendeeChange::Changed(attendee)) => self.update_attendee(attendee).await?,
            Some(AttendeeChange::Removed(attendee)) => self.delete_attendee(attendee.id).await?,
            None => {}
        }
        for change in &changes.sessions {
            self.change_session(room.id, change).await?;
        }
        for bulk in &changes.bulk {
            self.change_attendees(&room, *bulk).await?;
        }
        if let Some(ban) = &changes.ban {
            let moderator = (&author.actor, author.name.as_str());
            self.change_ban(room.id, moderator, ban, now).await?;
        }
        // After the attendees: whether the call lasts depends on them.
        if let Some(call) = room.call {
            room.call = call.with_participants(self.count_in_call(room.id).await?);
        }
        self.write_state(&room).await?;
        let mut message = None;
        if let Some(Announcement { reason, about, in_chat: true }) = &changes.announcement {
            let content = Content::System { reason: *reason, about: about.clone() };
            let parent_id = changes.deleted_message;
            let mut announced = Message { parent_id, ..author.message(content, now) };
            announced.id = self.insert_message(room.id, &announced).await?;
            if let Some(deleted) = changes.deleted_message {
                self.delete_comment(deleted, (&author.actor, &author.name)).await?;
                message = Some(announced);
            }
        }
        if let Some((sender, new)) = &changes.message {
            let sent = self.send(&room, *sender, author, new, &changes.mentioned, now).await?;
            message = Some(sent);
        }
        Ok(Written { room: Some(room), message })
    }

    /// Stores the events about changes of a room, which is `after` unless it was deleted.
    pub(super) async fn announce(
        &mut self,
        before: &Room,
        after: Option<&Room>,
        changes: &Changes,
        now: DateTime<Utc>,
    ) -> Result<Option<RoomUpdated>> {
        let Some(update) = changes.update() else {
            return Ok(None);
        };
        let room = changes.room();
        let mut events = vec![new_event(ROOM_UPDATED, &room.token, &update, now)];
        let is_new = update.reason == Reason::ConversationCreated;
        if after.is_some_and(|after| is_new || !after.is_told_as(before)) {
            self.pass_to_signaling(&events).await?;
        }
        if changes.publishes_lobby {
            let payload = LobbyChangedPayload::of(&room.token, room.lobby, Some(room.version));
            events.push(new_event(LOBBY_CHANGED, &room.token, &payload, now));
        }
        self.insert_events(events, Progress::available_at(now)).await?;
        Ok(Some(update))
    }

    /// Adds a chat message, which its sender has read.
    async fn send(
        &mut self,
        room: &Room,
        sender: AttendeeId,
        author: &Author,
        new: &NewMessage,
        mentioned: &[Attendee],
        now: DateTime<Utc>,
    ) -> Result<Message> {
        let named = |attendee: &Attendee| (attendee.actor.clone(), attendee.display_name.clone());
        let mut message = Message {
            mentions: mentioned.iter().map(named).collect(),
            reference_id: new.reference_id.clone(),
            parent_id: new.reply_to,
            ..author.message(Content::Comment(new.body.clone()), now)
        };
        message.id = self.insert_message(room.id, &message).await?;
        for attendee in mentioned {
            self.mention(attendee.id, message.id).await?;
        }
        let marked = self.mark_read(sender, message.id, room.comments, now).await?;
        expect_rows(marked, 1, "lobbyd_attendees")?;
        Ok(message)
    }

    async fn delete_all_of(&mut self, room: RoomId) -> Result<()> {
        self.delete_messages(room).await?;
        self.delete_bans(room).await?;
        self.delete_attendees(room).await?;
        self.delete_room(room).await
    }
}
