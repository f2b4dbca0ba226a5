//! The shapes of answers: Talk's names and types for what the domain knows.
//!
//! A participant who waits in the lobby sees of the room what Talk lets him see, no more.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    domain::{
        Actor, Attendee, ChatMessage, Content, Lobby, Message, ParticipantType, Permissions, Room,
        RoomToken, SipState,
    },
    rooms::View,
};

/// Talk's `sessionId` of somebody who is not connected.
const NO_SESSION: &str = "0";

/// A room, as the participant sees it who asks.
#[expect(clippy::struct_excessive_bools, reason = "these are the fields of Talk's answer")]
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Room)]
pub(super) struct RoomDto {
    /// Numeric id.
    id: i64,
    /// Name in every path.
    token: String,
    /// 1 one-to-one, 2 group, 3 public.
    r#type: i64,
    /// Name for people; for a room of two, the other one's id.
    name: String,
    /// The same; for a room of two, the other one's name.
    display_name: String,
    /// What it is about.
    description: String,
    /// What it belongs to.
    object_type: String,
    /// Which one of these.
    object_id: String,
    /// 1 owner, 2 moderator, 3 user, 4 guest, 5 self-joined user, 6 guest moderator.
    participant_type: i64,
    /// The own part in the room; 0 for none.
    attendee_id: i64,
    /// For the dial-in; empty for none.
    attendee_pin: String,
    /// `users` or `guests`; empty for none.
    actor_type: String,
    /// The own id.
    actor_id: String,
    /// What one may do.
    permissions: i64,
    /// What one was given; 0 for nothing of one's own.
    attendee_permissions: i64,
    /// Always 0.
    call_permissions: i64,
    /// Always 0.
    default_permissions: i64,
    /// Flags of the own session in the call.
    participant_flags: i64,
    /// Always 0.
    read_only: i64,
    /// Always 0.
    listable: i64,
    /// Always 0.
    message_expiration: i64,
    /// Unix seconds of the own session.
    last_ping: i64,
    /// The own session; `0` for none.
    session_id: String,
    /// Whether strangers need a password.
    has_password: bool,
    /// Whether a call goes on.
    has_call: bool,
    /// Flags of all who have been in the call.
    call_flag: i64,
    /// Unix seconds; 0 for none.
    call_start_time: i64,
    /// Always 0.
    call_recording: i64,
    /// Always 0.
    recording_consent: i64,
    /// Whether one may start a call.
    can_start_call: bool,
    /// Whether one may delete the room.
    can_delete_conversation: bool,
    /// Whether one may leave the room for good.
    can_leave_conversation: bool,
    /// Whether one may enable SIP dial-in.
    #[serde(rename = "canEnableSIP")]
    can_enable_sip: bool,
    /// Unix seconds of what was said or happened last.
    last_activity: i64,
    /// Always false.
    is_favorite: bool,
    /// Always 0, the default.
    notification_level: i64,
    /// Always 1, on.
    notification_calls: i64,
    /// 0 none, 1 others than moderators wait.
    lobby_state: i64,
    /// Unix seconds of the reset to no lobby; 0 for none.
    lobby_timer: i64,
    /// 0 off, 1 with a PIN per attendee, 2 without PIN.
    sip_enabled: i64,
    /// Chat messages that were not read.
    unread_messages: i64,
    /// Always false.
    unread_mention: bool,
    /// Always false.
    unread_mention_direct: bool,
    /// The last message that was read.
    last_read_message: i64,
    /// Always 0.
    last_common_read_message: i64,
    /// What was said or happened last; an empty list for nothing.
    last_message: LastMessage,
    /// Always 0.
    breakout_room_mode: i64,
    /// Always 0.
    breakout_room_status: i64,
    /// Always empty.
    avatar_version: String,
    /// Always false.
    is_custom_avatar: bool,
    /// Always 0.
    mention_permissions: i64,
    /// Always false.
    is_archived: bool,
    /// Always false.
    is_important: bool,
    /// Always false.
    is_sensitive: bool,
}

/// A message, or an empty list for none, as PHP writes it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum LastMessage {
    /// There is one.
    Said(Box<MessageDto>),
    /// There is none.
    Nothing(Vec<String>),
}

/// What of the room depends on how this server is configured.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct ViewerCapabilities {
    /// Whether SIP is configured, and the caller in a group that may enable it.
    pub(super) sip: bool,
}

impl RoomDto {
    /// The room as the viewer sees it.
    pub(super) fn of(view: &View, rights: ViewerCapabilities) -> Self {
        let summary = view.summary();
        let room = &summary.room;
        let Some(me) = view.attendee() else { return Self::for_non_member(&door(room)) };
        let mut shape = Self::for_non_member(room);
        shape.last_activity = summary.last_message.as_ref().map_or(0, |message| message.created_at);
        shape.add_own_part(me);
        shape.add_names(room, &summary.one_to_one, &me.actor);
        if me.is_waiting(room) {
            return shape;
        }
        let permissions = me.effective_permissions();
        let moderates = me.participant_type.is_moderator();
        shape.has_call = room.call.is_some();
        shape.can_start_call = permissions.contains(Permissions::START_CALL);
        shape.can_delete_conversation = moderates && me.actor.is_user() && room.is_configurable();
        let last = me.participant_type != ParticipantType::GuestModerator
            && moderates
            && summary.moderators <= 1;
        shape.can_leave_conversation = !last || !room.is_configurable();
        shape.can_enable_sip = moderates
            && rights.sip
            && me.actor.is_user()
            && room.is_configurable()
            && room.token.is_dialable();
        shape.unread_messages = room.comments.saturating_sub(me.comments_read).max(0);
        shape.last_read_message = me.last_read_message;
        if let Some(message) = &summary.last_message {
            shape.last_message = LastMessage::Said(Box::new(MessageDto::of(&room.token, message)));
        }
        shape
    }

    /// What anybody sees of a public room.
    fn for_non_member(room: &Room) -> Self {
        let has_password = !room.password_hash.is_empty();
        Self {
            id: room.id.number(),
            token: room.token.to_string(),
            r#type: room.room_type.number(),
            name: room.name.clone(),
            display_name: room.name.clone(),
            description: room.description.clone(),
            object_type: room.object_type.clone(),
            object_id: room.object_id.clone(),
            participant_type: ParticipantType::Guest.number(),
            attendee_id: 0,
            attendee_pin: String::new(),
            actor_type: String::new(),
            actor_id: String::new(),
            permissions: 0,
            attendee_permissions: 0,
            call_permissions: 0,
            default_permissions: 0,
            participant_flags: 0,
            read_only: 0,
            listable: 0,
            message_expiration: 0,
            last_ping: 0,
            session_id: NO_SESSION.to_owned(),
            has_password,
            has_call: false,
            call_flag: room.call.map_or(0, |call| call.flags.bits()),
            call_start_time: room.call.map_or(0, |call| call.started_at),
            call_recording: 0,
            recording_consent: 0,
            can_start_call: false,
            can_delete_conversation: false,
            can_leave_conversation: true,
            can_enable_sip: false,
            last_activity: 0,
            is_favorite: false,
            notification_level: 0,
            notification_calls: 1,
            lobby_state: room.lobby.state.number(),
            lobby_timer: room.lobby.timer.map_or(0, |timer| timer.timestamp()),
            sip_enabled: room.sip.number(),
            unread_messages: 0,
            unread_mention: false,
            unread_mention_direct: false,
            last_read_message: 0,
            last_common_read_message: 0,
            last_message: LastMessage::Nothing(Vec::new()),
            breakout_room_mode: 0,
            breakout_room_status: 0,
            avatar_version: String::new(),
            is_custom_avatar: false,
            mention_permissions: 0,
            is_archived: false,
            is_important: false,
            is_sensitive: false,
        }
    }

    fn add_own_part(&mut self, me: &Attendee) {
        self.participant_type = me.participant_type.number();
        self.attendee_id = me.id.0;
        self.attendee_pin = me.pin.clone().unwrap_or_default();
        me.actor.kind.name().clone_into(&mut self.actor_type);
        self.actor_id.clone_from(&me.actor.id);
        self.permissions = me.effective_permissions().bits();
        self.attendee_permissions = me.permissions.bits();
        if let Some(session) = &me.presence {
            self.participant_flags = session.in_call.bits();
            self.last_ping = session.last_ping;
            self.session_id.clone_from(&session.session_id);
        }
    }

    fn add_names(&mut self, room: &Room, pair: &[(Actor, String)], me: &Actor) {
        self.name.clone_from(&room.name);
        self.display_name.clone_from(&room.name);
        self.description.clone_from(&room.description);
        if let Some((other, name)) = pair.iter().find(|(actor, _)| actor != me) {
            self.name.clone_from(&other.id);
            self.display_name.clone_from(name);
        }
    }
}

/// The room as its door shows it: its name, and whether it is open; if a password keeps strangers
/// out, nothing but that.
fn door(room: &Room) -> Room {
    let keeps_out = !room.password_hash.is_empty();
    Room {
        name: if keeps_out { String::new() } else { room.name.clone() },
        lobby: if keeps_out { Lobby::OPEN } else { room.lobby },
        description: String::new(),
        object_type: String::new(),
        object_id: String::new(),
        sip: SipState::Disabled,
        call: None,
        ..room.clone()
    }
}

/// A message of the chat.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub(super) struct MessageDto {
    /// Grows within the room.
    id: i64,
    /// The room.
    token: String,
    /// `users` or `guests`.
    actor_type: String,
    /// Who said it.
    actor_id: String,
    /// The name at that time.
    actor_display_name: String,
    /// Unix seconds.
    timestamp: i64,
    /// Empty for somebody's words, else what happened.
    system_message: String,
    /// `comment` or `system`.
    message_type: &'static str,
    /// Whether it can be answered.
    is_replyable: bool,
    /// What its sender knows it by.
    reference_id: String,
    /// The text; names in braces stand in `messageParameters`.
    message: String,
    /// What the names in braces stand for.
    message_parameters: BTreeMap<&'static str, Parameter>,
    /// Always 0.
    expiration_timestamp: i64,
    /// Always empty.
    #[schema(value_type = Object)]
    reactions: BTreeMap<String, i64>,
    /// Whether the text may be shown as Markdown.
    markdown: bool,
    /// What it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    parent: Option<Box<MessageDto>>,
}

/// What a name in braces stands for.
#[derive(Serialize, ToSchema)]
pub(super) struct Parameter {
    /// `user` or `guest`.
    r#type: &'static str,
    /// Whom it means.
    id: String,
    /// The name for people.
    name: String,
}

impl Parameter {
    fn of(actor: &Actor, name: &str) -> Self {
        let (r#type, id) = if actor.is_user() {
            ("user", actor.id.clone())
        } else {
            ("guest", format!("guest/{}", actor.id))
        };
        Self { r#type, id, name: name.to_owned() }
    }
}

impl MessageDto {
    /// A message with what it answers.
    pub(super) fn with_parent(token: &RoomToken, chat: &ChatMessage) -> Self {
        let parent = chat.parent.as_ref().map(|parent| Box::new(Self::of(token, parent)));
        Self { parent, ..Self::of(token, &chat.message) }
    }

    fn of(token: &RoomToken, message: &Message) -> Self {
        let mut shape = Self {
            id: message.id,
            token: token.to_string(),
            actor_type: message.actor.kind.name().to_owned(),
            actor_id: message.actor.id.clone(),
            actor_display_name: message.actor_name.clone(),
            timestamp: message.created_at,
            system_message: String::new(),
            message_type: "comment",
            is_replyable: true,
            reference_id: message.reference_id.clone(),
            message: String::new(),
            message_parameters: BTreeMap::new(),
            expiration_timestamp: 0,
            reactions: BTreeMap::new(),
            markdown: true,
            parent: None,
        };
        match &message.content {
            Content::Comment(text) => shape.message.clone_from(text),
            Content::System { reason, about } => {
                let by_himself = about.as_ref().is_some_and(|(who, _)| *who == message.actor);
                let text = if by_himself { reason.self_action_text() } else { reason.text() };
                text.unwrap_or_default().clone_into(&mut shape.message);
                shape.system_message = reason.name();
                shape.message_type = "system";
                shape.is_replyable = false;
                shape.markdown = false;
                let actor = Parameter::of(&message.actor, &message.actor_name);
                shape.message_parameters.insert("actor", actor);
                if let Some((user, name)) = about.as_ref().filter(|_| !by_himself) {
                    shape.message_parameters.insert("user", Parameter::of(user, name));
                }
            }
        }
        shape
    }
}

/// Somebody who takes part in a room.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Participant)]
pub(super) struct ParticipantDto {
    /// The room.
    room_token: String,
    /// By which moderators name him.
    attendee_id: i64,
    /// `users` or `guests`.
    actor_type: String,
    /// Who it is.
    actor_id: String,
    /// Name for people; may be empty for guests.
    display_name: String,
    /// 1 owner, 2 moderator, 3 user, 4 guest, 5 self-joined user, 6 guest moderator.
    participant_type: i64,
    /// Unix seconds of the session; 0 for none.
    last_ping: i64,
    /// Flags in the call; 0 for not in it.
    in_call: i64,
    /// What he may do.
    permissions: i64,
    /// What he was given; 0 for nothing of his own.
    attendee_permissions: i64,
    /// For the dial-in; only moderators see it.
    attendee_pin: String,
    /// The session, if any.
    session_ids: Vec<String>,
}

impl ParticipantDto {
    /// A participant, for one who sees the PINs of others or not.
    pub(super) fn of(token: &RoomToken, attendee: &Attendee, sees_pin: bool) -> Self {
        let session = attendee.presence.as_ref();
        Self {
            room_token: token.to_string(),
            attendee_id: attendee.id.0,
            actor_type: attendee.actor.kind.name().to_owned(),
            actor_id: attendee.actor.id.clone(),
            display_name: attendee.display_name.clone(),
            participant_type: attendee.participant_type.number(),
            last_ping: session.map_or(0, |session| session.last_ping),
            in_call: attendee.call_flags().bits(),
            permissions: attendee.effective_permissions().bits(),
            attendee_permissions: attendee.permissions.bits(),
            attendee_pin: attendee.pin.clone().filter(|_| sees_pin).unwrap_or_default(),
            session_ids: session.map(|session| session.session_id.clone()).into_iter().collect(),
        }
    }
}

/// Somebody in the call.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Peer)]
pub(super) struct PeerDto {
    /// `users` or `guests`.
    actor_type: String,
    /// Who it is.
    actor_id: String,
    /// Name for people.
    display_name: String,
    /// The room.
    token: String,
    /// Unix seconds of the session.
    last_ping: i64,
    /// The session.
    session_id: String,
}

impl PeerDto {
    /// A participant of the call; `None` for one who is not in it.
    pub(super) fn of(token: &RoomToken, attendee: &Attendee) -> Option<Self> {
        let session = attendee.presence.as_ref().filter(|session| !session.in_call.is_empty())?;
        Some(Self {
            actor_type: attendee.actor.kind.name().to_owned(),
            actor_id: attendee.actor.id.clone(),
            display_name: attendee.display_name.clone(),
            token: token.to_string(),
            last_ping: session.last_ping,
            session_id: session.session_id.clone(),
        })
    }
}
