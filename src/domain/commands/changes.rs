//! What a command changes. The store writes all of it in one transaction.

use chrono::{DateTime, Utc};

use crate::domain::{
    Actor, Attendee, AttendeeId, Call, Lobby, NewMessage, Permissions, Reason, Room, RoomType,
    RoomUpdated, Session, SipState, Version,
};

/// What changes in the room's own row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomChange {
    /// Only the version.
    None,
    Settings(RoomSettings),
    Lobby(Lobby),
    /// The room is deleted with everything that belongs to it.
    Delete,
}

/// What moderators can configure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomSettings {
    pub room_type: RoomType,
    pub name: String,
    pub description: String,
    pub sip: SipState,
}

impl RoomSettings {
    pub fn of(room: &Room) -> Self {
        Self {
            room_type: room.room_type,
            name: room.name.clone(),
            description: room.description.clone(),
            sip: room.sip,
        }
    }
}

/// What changes in one attendee's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttendeeChange {
    /// The store assigns the id.
    New(Attendee),
    Changed(Attendee),
    Removed(Attendee),
}

impl AttendeeChange {
    /// The attendee after the change, or before the removal.
    pub fn attendee(&self) -> &Attendee {
        match self {
            Self::New(attendee) | Self::Changed(attendee) | Self::Removed(attendee) => attendee,
        }
    }
}

/// What changes in one session's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionChange {
    Started {
        actor: Actor,
        session: Session,
    },
    /// The session has other flags in the call.
    CallFlags(Session),
    Ended(Session),
}

/// What changes in the bans of the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BanChange {
    /// Replaces an earlier ban of the same actor.
    Add {
        actor: Actor,
        name: String,
        note: String,
    },
    Remove(i64),
}

/// What changes in the rows of many attendees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkChange {
    /// Users without a PIN get one.
    AssignPins,
    DropPins,
    /// Custom permissions are removed.
    ResetPermissions,
    RemoveWaitingFromCall,
    RemoveAllFromCall,
    /// Participants who joined by the public link are removed.
    RemoveUninvited,
}

/// What the events and the chat say about a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub reason: Reason,
    /// Whether the chat shows a system message.
    pub in_chat: bool,
    /// The participant that it is about, if it is about exactly one, with the display name.
    pub about: Option<(Actor, String)>,
}

impl Announcement {
    pub(super) fn of(reason: Reason) -> Self {
        Self { reason, in_chat: reason.text().is_some(), about: None }
    }

    pub(super) fn about(reason: Reason, attendee: &Attendee) -> Self {
        let about = Some((attendee.actor.clone(), attendee.display_name.clone()));
        Self { about, ..Self::of(reason) }
    }
}

/// What is to be written in one transaction. Without an announcement nothing changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    room: Room,
    room_change: RoomChange,
    pub attendee: Option<AttendeeChange>,
    pub sessions: Vec<SessionChange>,
    /// In this order.
    pub bulk: Vec<BulkChange>,
    /// A chat message and its sender, who has read the messages before it.
    pub message: Option<(AttendeeId, NewMessage)>,
    /// The participants that it mentions.
    pub mentioned: Vec<Attendee>,
    /// The comment to delete; the announcement's system message refers to it.
    pub deleted_message: Option<i64>,
    pub ban: Option<BanChange>,
    pub announcement: Option<Announcement>,
    /// Whether a `lobby.changed` event is published: for a lobby that did not come in as one.
    pub publishes_lobby: bool,
}

impl Changes {
    pub(super) fn none(room: &Room) -> Self {
        Self {
            room: room.clone(),
            room_change: RoomChange::None,
            attendee: None,
            sessions: Vec::new(),
            bulk: Vec::new(),
            message: None,
            mentioned: Vec::new(),
            deleted_message: None,
            ban: None,
            announcement: None,
            publishes_lobby: false,
        }
    }

    /// A change of the room's row. The room takes the next version: a change that was made
    /// elsewhere and is dated by the clock is still newer.
    pub(super) fn of(
        before: &Room,
        room_change: RoomChange,
        announcement: Announcement,
        now: DateTime<Utc>,
    ) -> Self {
        let mut room = before.clone();
        match &room_change {
            RoomChange::None | RoomChange::Delete => {}
            RoomChange::Lobby(lobby) => room.lobby = *lobby,
            RoomChange::Settings(settings) => {
                let RoomSettings { room_type, name, description, sip } = settings.clone();
                room = Room { room_type, name, description, sip, ..room };
            }
        }
        room.version = before.version.next();
        if !announcement.in_chat {
            // Lists of rooms that changed since some time find it by this.
            room.changed_at = now.timestamp();
        }
        Self { room, room_change, announcement: Some(announcement), ..Self::none(before) }
    }

    pub fn room(&self) -> &Room {
        &self.room
    }

    /// What is announced about the change.
    pub fn update(&self) -> Option<RoomUpdated> {
        let Announcement { reason, about, .. } = self.announcement.as_ref()?;
        let about = about.as_ref().map(|(actor, _name)| actor.clone());
        let mentioned = self.mentioned.iter().map(|attendee| attendee.actor.clone()).collect();
        Some(RoomUpdated { mentioned, ..RoomUpdated::of(&self.room, *reason, about) })
    }

    pub fn into_room(self) -> Room {
        self.room
    }

    pub fn room_change(&self) -> &RoomChange {
        &self.room_change
    }

    pub(super) fn version(mut self, version: Version) -> Self {
        self.room.version = version;
        self
    }

    pub(super) fn password_hash(mut self, hash: &str) -> Self {
        hash.clone_into(&mut self.room.password_hash);
        self
    }

    pub(super) fn call(mut self, call: Call) -> Self {
        self.room.call = Some(call);
        self
    }

    pub(super) fn attendee(self, attendee: AttendeeChange) -> Self {
        Self { attendee: Some(attendee), ..self }
    }

    pub(super) fn sessions(self, sessions: impl IntoIterator<Item = SessionChange>) -> Self {
        Self { sessions: sessions.into_iter().collect(), ..self }
    }

    pub(super) fn bulk(mut self, bulk: BulkChange) -> Self {
        self.bulk.push(bulk);
        self
    }

    /// Publishes a `lobby.changed` event for the workers.
    pub(super) fn publish_lobby(self) -> Self {
        Self { publishes_lobby: true, ..self }
    }

    pub(super) fn default_permissions(mut self, permissions: Permissions) -> Self {
        self.room.default_permissions = permissions;
        self
    }

    pub(super) fn read_only(mut self, read_only: bool) -> Self {
        self.room.read_only = read_only;
        self
    }

    pub(super) fn message(
        mut self,
        sender: AttendeeId,
        message: NewMessage,
        mentioned: &[Attendee],
    ) -> Self {
        self.room.comments += 1;
        Self { message: Some((sender, message)), mentioned: mentioned.to_vec(), ..self }
    }

    pub(super) fn delete_message(self, message: i64) -> Self {
        Self { deleted_message: Some(message), ..self }
    }

    pub(super) fn ban(self, ban: BanChange) -> Self {
        Self { ban: Some(ban), ..self }
    }
}
