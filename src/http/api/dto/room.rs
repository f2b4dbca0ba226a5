//! A room, as one viewer sees it.

use serde::Serialize;
use utoipa::ToSchema;

use super::MessageDto;
use crate::cache::View;
use crate::domain::{Attendee, ParticipantType, Room, RoomView, Session, ViewerContext};

/// Talk's `sessionId` of a viewer without a session.
const NO_SESSION: &str = "0";

#[derive(Serialize, ToSchema)]
#[schema(as = Room)]
pub(in crate::http::api) struct RoomDto {
    #[serde(flatten)]
    shared: SharedFields,
    #[serde(flatten)]
    own: OwnFields,
}

/// What a whole [`Audience`](crate::domain::Audience) sees, unless the view
/// [is personal](RoomView::is_personal).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SharedFields {
    id: i64,
    /// Identifies the room in paths.
    token: String,
    /// 1 one-to-one, 2 group, 3 public.
    r#type: i64,
    /// Of a one-to-one room: the id of the other user.
    name: String,
    /// Of a one-to-one room: the display name of the other user.
    display_name: String,
    description: String,
    /// Type of the object that the room belongs to.
    object_type: String,
    /// Id of that object.
    object_id: String,
    has_password: bool,
    /// 0 none, 1 non-moderators wait.
    lobby_state: i64,
    /// Unix seconds at which the lobby is removed; 0 for none.
    lobby_timer: i64,
    /// 0 disabled, 1 with a PIN per attendee, 2 without PIN.
    sip_enabled: i64,
    /// Permissions of participants who have none of their own; 0 for those of Talk.
    default_permissions: i64,
    /// 0 no, 1 yes.
    read_only: i64,
    /// Whether a call is in progress.
    has_call: bool,
    /// Flags of all who have been in the call.
    call_flag: i64,
    /// Unix seconds; 0 for none.
    call_start_time: i64,
    /// Unix seconds of the last message.
    last_activity: i64,
    /// A text of more than 1,000 characters is cut to its first 1,000 and `…`.
    last_message: LastMessage,
    #[serde(flatten)]
    fixed: TalkDefaults,
}

/// What each viewer has for themselves.
#[expect(clippy::struct_excessive_bools, reason = "these are the fields of Talk's response")]
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OwnFields {
    unread_messages: i64,
    /// Whether an unread message mentions the viewer.
    unread_mention: bool,
    /// Equal to `unreadMention`.
    unread_mention_direct: bool,
    last_read_message: i64,
    can_start_call: bool,
    can_delete_conversation: bool,
    /// Whether the viewer may leave the room for good.
    can_leave_conversation: bool,
    #[serde(rename = "canEnableSIP")]
    can_enable_sip: bool,
    #[serde(flatten)]
    viewer: Viewer,
}

/// The viewer's part in the room. Non-members have the values of a guest without a session.
#[derive(Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Viewer {
    /// 1 owner, 2 moderator, 3 user, 4 guest, 5 self-joined user, 6 guest moderator.
    participant_type: i64,
    /// 0 for none.
    attendee_id: i64,
    /// For the dial-in; empty for none.
    attendee_pin: String,
    /// `users` or `guests`; empty for none.
    actor_type: &'static str,
    actor_id: String,
    /// Effective permissions.
    permissions: i64,
    /// Custom permissions; 0 for none.
    attendee_permissions: i64,
    /// Flags of the session in the call.
    participant_flags: i64,
    /// Unix seconds of the beginning of the session; 0 for none.
    last_ping: i64,
    /// The session of this client; `0` for none.
    session_id: String,
}

/// Fields of Talk's features that lobbyd does not have, with Talk's default values.
#[expect(clippy::struct_excessive_bools, reason = "these are the fields of Talk's response")]
#[derive(Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TalkDefaults {
    call_permissions: i64,
    listable: i64,
    message_expiration: i64,
    call_recording: i64,
    recording_consent: i64,
    is_favorite: bool,
    notification_level: i64,
    notification_calls: i64,
    last_common_read_message: i64,
    breakout_room_mode: i64,
    breakout_room_status: i64,
    avatar_version: String,
    is_custom_avatar: bool,
    mention_permissions: i64,
    is_archived: bool,
    is_important: bool,
    is_sensitive: bool,
}

/// A message, or an empty list for none, as PHP writes it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum LastMessage {
    Some(Box<MessageDto>),
    None(Vec<String>),
}

impl RoomDto {
    pub(in crate::http::api) fn of(view: &View, viewer: ViewerContext<'_>) -> Self {
        let room = RoomView::for_viewer(view.overview(), view.attendee(), viewer);
        Self { shared: SharedFields::of(&room), own: OwnFields::of(&room) }
    }

    /// The same as JSON. What a whole audience sees is written once for all of it.
    pub(in crate::http::api) fn json(view: &View, viewer: ViewerContext<'_>) -> String {
        let room = RoomView::for_viewer(view.overview(), view.attendee(), viewer);
        let own = json(&OwnFields::of(&room));
        let write_shared = || json(&SharedFields::of(&room));
        if room.is_personal() {
            return join(&write_shared(), &own);
        }
        join(view.shared_text(write_shared), &own)
    }
}

fn json(fields: &impl Serialize) -> String {
    serde_json::to_string(fields).expect("fields have text keys")
}

/// One JSON object with the members of two, neither of which is empty.
fn join(one: &str, other: &str) -> String {
    let (one, other) = (one.strip_suffix('}'), other.strip_prefix('{'));
    [one.unwrap_or_default(), ",", other.unwrap_or_default()].concat()
}

impl SharedFields {
    fn of(view: &RoomView<'_>) -> Self {
        let room = &view.room;
        let (name, display_name) = match view.other {
            Some((other, display_name)) => (&other.id, display_name),
            None => (&room.name, &room.name),
        };
        let viewer = view.attendee.map(|attendee| &attendee.actor);
        let last_message = match view.last_message {
            Some(message) => {
                LastMessage::Some(Box::new(MessageDto::of(&room.token, message, viewer)))
            }
            None => LastMessage::None(Vec::new()),
        };
        Self {
            id: room.id.number(),
            token: room.token.to_string(),
            r#type: room.room_type.number(),
            name: name.clone(),
            display_name: display_name.clone(),
            description: room.description.clone(),
            object_type: room.object_type.clone(),
            object_id: room.object_id.clone(),
            has_password: view.has_password,
            lobby_state: room.lobby.state.number(),
            lobby_timer: room.lobby.timer.map_or(0, |timer| timer.timestamp()),
            sip_enabled: room.sip.number(),
            default_permissions: room.default_permissions.bits(),
            read_only: i64::from(room.read_only),
            has_call: view.has_call,
            call_flag: room.call.map_or(0, |call| call.flags.bits()),
            call_start_time: room.call.map_or(0, |call| call.started_at),
            last_activity: view.last_activity,
            last_message,
            fixed: TalkDefaults { notification_calls: 1, ..TalkDefaults::default() },
        }
    }
}

impl OwnFields {
    fn of(view: &RoomView<'_>) -> Self {
        Self {
            unread_messages: view.unread_messages,
            unread_mention: view.unread_mention,
            unread_mention_direct: view.unread_mention,
            last_read_message: view.last_read_message,
            can_start_call: view.can_start_call,
            can_delete_conversation: view.can_delete,
            can_leave_conversation: view.can_leave,
            can_enable_sip: view.can_enable_sip,
            viewer: Viewer::of(&view.room, view.attendee, view.session),
        }
    }
}

impl Viewer {
    fn of(room: &Room, attendee: Option<&Attendee>, session: Option<&Session>) -> Self {
        let Some(me) = attendee else {
            let participant_type = ParticipantType::Guest.number();
            return Self { participant_type, session_id: NO_SESSION.to_owned(), ..Self::default() };
        };
        Self {
            participant_type: me.participant_type.number(),
            attendee_id: me.id.0,
            attendee_pin: me.pin.clone().unwrap_or_default(),
            actor_type: me.actor.kind.name(),
            actor_id: me.actor.id.clone(),
            permissions: me.effective_permissions(room).bits(),
            attendee_permissions: me.permissions.bits(),
            participant_flags: session.map_or(0, |session| session.in_call.bits()),
            last_ping: session.map_or(0, |session| session.last_ping),
            session_id: session.map_or(NO_SESSION, |session| &session.id).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::domain::{
        Actor, AttendeeId, Content, Lobby, LobbyState, Message, Permissions, Reason, RoomOverview,
    };

    const CONTEXT: ViewerContext<'_> = ViewerContext { may_enable_sip: true, client: None };

    fn attendee(name: &str, participant_type: ParticipantType) -> Attendee {
        Attendee {
            id: AttendeeId(1),
            actor: Actor::user(name),
            display_name: name.to_owned(),
            participant_type,
            permissions: Permissions::DEFAULT,
            pin: Some("1234567".to_owned()),
            last_read_message: 2,
            comments_read: 0,
            read_at: 0,
            last_mention: 0,
            sessions: Vec::new(),
        }
    }

    /// A room that alice has just renamed.
    fn overview(lobby: Lobby) -> RoomOverview {
        let content = Content::System { reason: Reason::ConversationRenamed, about: None };
        let message = Message {
            id: 7,
            actor: Actor::user("alice"),
            actor_name: "Alice".to_owned(),
            created_at: 5,
            content,
            mentions: Vec::new(),
            reference_id: String::new(),
            parent_id: None,
        };
        RoomOverview {
            room: Room { lobby, description: "Line\nand \"}\"".to_owned(), ..Room::example() },
            last_message: Some(message),
            moderators: 1,
            is_single_user: false,
            one_to_one: Vec::new(),
        }
    }

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_viewer_is_told_what_they_would_read() {
        let closed = Lobby { state: LobbyState::NonModerators, timer: None };
        let bob_and_carol = [("bob", "Bob"), ("carol", "Carol")]
            .map(|(id, name)| (Actor::user(id), name.to_owned()));
        for (lobby, one_to_one) in
            [(Lobby::OPEN, Vec::new()), (closed, Vec::new()), (Lobby::OPEN, bob_and_carol.to_vec())]
        {
            let overview = RoomOverview { one_to_one, ..overview(lobby) };
            let room = View::new(overview, None);
            for viewer in [
                Some(attendee("bob", ParticipantType::User)),
                Some(attendee("alice", ParticipantType::Owner)),
                Some(attendee("carol", ParticipantType::User)),
                Some(attendee("dave", ParticipantType::Moderator)),
                None,
            ] {
                let view = room.for_another(viewer);
                let read = parsed(&json(&RoomDto::of(&view, CONTEXT)));
                assert_eq!(parsed(&RoomDto::json(&view, CONTEXT)), read);
            }
        }
    }

    /// Half of the viewers wait in the lobby, and one has done what the last message says.
    #[test]
    fn what_an_audience_sees_is_written_once() {
        let closed = Lobby { state: LobbyState::NonModerators, timer: None };
        let room = View::new(overview(closed), None);
        let texts: Vec<*const str> = (0..2_000)
            .map(|number| {
                let kind = [ParticipantType::User, ParticipantType::Moderator][number % 2];
                let view = room.for_another(Some(attendee(&format!("user {number}"), kind)));
                assert!(!RoomDto::json(&view, CONTEXT).is_empty());
                std::ptr::from_ref(view.shared_text(|| unreachable!("it is written already")))
            })
            .collect();
        assert!(texts.iter().skip(2).zip(&texts).all(|(next, first)| std::ptr::eq(*next, *first)));
        assert!(!std::ptr::eq(texts[0], texts[1]));
        // The words of the last message for alice are for nobody else.
        let alice = room.for_another(Some(attendee("alice", ParticipantType::Owner)));
        assert!(RoomDto::json(&alice, CONTEXT).contains("You renamed"));
        let dave = room.for_another(Some(attendee("dave", ParticipantType::Moderator)));
        assert!(RoomDto::json(&dave, CONTEXT).contains("{actor} renamed"));
    }
}
