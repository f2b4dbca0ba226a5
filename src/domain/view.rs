//! What a viewer sees of a room, and what they may do there.
//!
//! Participants see the room. While they wait in the lobby they see neither messages nor whether
//! a call is in progress. Non-members see what they need to join a public room.

use std::borrow::Cow;

use super::actor::{Actor, ClientId};
use super::attendee::{Attendee, ParticipantType, Session};
use super::lobby::Lobby;
use super::message::Message;
use super::permissions::Permissions;
use super::room::{Room, RoomOverview, SipState};

/// What depends on the server's configuration, the viewer's account and the viewer's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViewerContext<'a> {
    /// SIP is configured, and the viewer is in a group that may enable it.
    pub may_enable_sip: bool,
    pub client: Option<&'a ClientId>,
}

/// Viewers who see the same of a room, except for their own part in it, see
/// [`RoomView::is_personal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    NonMembers,
    /// Participants in the lobby.
    Waiting,
    Admitted,
}

impl Audience {
    pub fn of(room: &Room, viewer: Option<&Attendee>) -> Self {
        match viewer {
            None => Self::NonMembers,
            Some(me) if me.is_waiting(room) => Self::Waiting,
            Some(_) => Self::Admitted,
        }
    }
}

/// What one viewer may see of a room.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each a field of Talk's room")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomView<'a> {
    /// Hidden columns are empty.
    pub room: Cow<'a, Room>,
    pub has_password: bool,
    /// The viewer's attendee record; `None` for a non-member.
    pub attendee: Option<&'a Attendee>,
    /// The session of the viewer's client.
    pub session: Option<&'a Session>,
    /// The other user of a one-to-one room, with the display name.
    pub other: Option<&'a (Actor, String)>,
    pub last_message: Option<&'a Message>,
    /// Unix seconds of the last message, also if it is hidden.
    pub last_activity: i64,
    pub has_call: bool,
    pub unread_messages: i64,
    /// Whether an unread message mentions the viewer.
    pub unread_mention: bool,
    pub last_read_message: i64,
    pub can_start_call: bool,
    pub can_delete: bool,
    /// Whether the viewer may leave the room for good.
    pub can_leave: bool,
    pub can_enable_sip: bool,
}

impl<'a> RoomView<'a> {
    pub fn for_viewer(
        overview: &'a RoomOverview,
        attendee: Option<&'a Attendee>,
        context: ViewerContext<'_>,
    ) -> Self {
        let room = &overview.room;
        let Some(me) = attendee else { return Self::hidden(room, Cow::Owned(public_view(room))) };
        let last_message = overview.last_message.as_ref();
        let known = Self {
            attendee,
            session: me.session(context.client),
            other: overview.one_to_one.iter().find(|(actor, _)| *actor != me.actor),
            last_activity: last_message.map_or(0, |message| message.created_at),
            ..Self::hidden(room, Cow::Borrowed(room))
        };
        if me.is_waiting(room) {
            return known;
        }
        Self {
            last_message,
            has_call: room.call.is_some(),
            unread_messages: room.comments.saturating_sub(me.comments_read).max(0),
            unread_mention: me.last_mention > me.last_read_message,
            last_read_message: me.last_read_message,
            can_start_call: !room.read_only
                && me.effective_permissions(room).contains(Permissions::START_CALL),
            can_delete: can_delete(room, me),
            can_leave: can_leave(overview, me),
            can_enable_sip: context.may_enable_sip
                && can_delete(room, me)
                && room.token.is_dialable(),
            ..known
        }
    }

    /// Whether others of the same [`Audience`] see another name of the room, or another text of its
    /// last message.
    pub fn is_personal(&self) -> bool {
        let me = self.attendee.map(|attendee| &attendee.actor);
        let addresses = |message: &Message| me.is_some_and(|me| message.addresses(me));
        self.other.is_some() || self.last_message.is_some_and(addresses)
    }

    fn hidden(room: &Room, visible: Cow<'a, Room>) -> Self {
        Self {
            room: visible,
            has_password: room.has_password(),
            attendee: None,
            session: None,
            other: None,
            last_message: None,
            last_activity: 0,
            has_call: false,
            unread_messages: 0,
            unread_mention: false,
            last_read_message: 0,
            can_start_call: false,
            can_delete: false,
            can_leave: true,
            can_enable_sip: false,
        }
    }
}

/// What non-members see of a public room: its name and its lobby. Of a room with a password they
/// see only that it needs one.
fn public_view(room: &Room) -> Room {
    let protected = room.has_password();
    Room {
        name: if protected { String::new() } else { room.name.clone() },
        lobby: if protected { Lobby::OPEN } else { room.lobby },
        description: String::new(),
        object_type: String::new(),
        object_id: String::new(),
        sip: SipState::Disabled,
        call: None,
        ..room.clone()
    }
}

/// Moderators with an account, in rooms that have settings. They may enable SIP as well.
fn can_delete(room: &Room, me: &Attendee) -> bool {
    me.participant_type.is_moderator() && me.actor.is_user() && room.is_configurable()
}

/// The last moderator of a room cannot leave other users alone in it. As the only user, they can:
/// then the room is deleted.
fn can_leave(overview: &RoomOverview, me: &Attendee) -> bool {
    let is_counted =
        matches!(me.participant_type, ParticipantType::Owner | ParticipantType::Moderator);
    !is_counted
        || overview.moderators > 1
        || overview.is_single_user
        || !overview.room.is_configurable()
}

/// An entry in the list of participants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParticipantView<'a> {
    pub attendee: &'a Attendee,
    /// Effective permissions.
    pub permissions: Permissions,
    pub pin: Option<&'a str>,
}

/// The list of participants as one of them sees it. Guests without a session are left out. PINs
/// are visible to moderators with an account; others see their own.
pub fn participants_for<'a>(
    room: &'a Room,
    attendees: &'a [Attendee],
    viewer: &'a Actor,
) -> impl Iterator<Item = ParticipantView<'a>> {
    let sees_pins = attendees.iter().any(|each| each.actor == *viewer && each.sees_pins());
    attendees.iter().filter(|each| each.actor.is_user() || !each.sessions.is_empty()).map(
        move |attendee| {
            let visible = sees_pins || attendee.actor == *viewer;
            ParticipantView {
                attendee,
                permissions: attendee.effective_permissions(room),
                pin: attendee.pin.as_deref().filter(|_| visible),
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AttendeeId, LobbyState};

    fn overview(room: Room) -> RoomOverview {
        RoomOverview {
            room,
            last_message: None,
            moderators: 1,
            is_single_user: false,
            one_to_one: Vec::new(),
        }
    }

    fn attendee(participant_type: ParticipantType) -> Attendee {
        Attendee {
            id: AttendeeId(1),
            actor: Actor::user("alice"),
            display_name: "Alice".to_owned(),
            participant_type,
            permissions: Permissions::DEFAULT,
            pin: Some("1234567".to_owned()),
            last_read_message: 0,
            comments_read: 0,
            read_at: 0,
            last_mention: 0,
            sessions: Vec::new(),
        }
    }

    const SIP: ViewerContext<'_> = ViewerContext { may_enable_sip: true, client: None };

    #[test]
    fn a_non_member_sees_of_a_protected_room_only_that_it_has_a_password() {
        let closed = Lobby { state: LobbyState::NonModerators, timer: None };
        let room = Room { lobby: closed, description: "Figures".to_owned(), ..Room::example() };
        let open = overview(room.clone());
        let view = RoomView::for_viewer(&open, None, SIP);
        assert_eq!((view.room.name.as_str(), view.room.lobby), ("Webinar", closed));
        assert!(view.room.description.is_empty() && !view.has_password);
        let protected = overview(Room { password_hash: "hash".to_owned(), ..room });
        let view = RoomView::for_viewer(&protected, None, SIP);
        assert_eq!((view.room.name.as_str(), view.room.lobby), ("", Lobby::OPEN));
        assert!(view.has_password);
    }

    #[test]
    fn the_last_moderator_cannot_leave() {
        let mut overview = overview(Room::example());
        for (participant_type, moderators, can_leave) in [
            (ParticipantType::Owner, 1, false),
            (ParticipantType::Owner, 2, true),
            (ParticipantType::User, 1, true),
            (ParticipantType::GuestModerator, 1, true),
        ] {
            overview.moderators = moderators;
            let me = attendee(participant_type);
            let view = RoomView::for_viewer(&overview, Some(&me), SIP);
            assert_eq!(view.can_leave, can_leave, "{participant_type:?} of {moderators}");
        }
        (overview.moderators, overview.is_single_user) = (1, true);
        let me = attendee(ParticipantType::Owner);
        assert!(RoomView::for_viewer(&overview, Some(&me), SIP).can_leave);
    }

    #[test]
    fn a_waiting_participant_may_do_nothing_but_leave() {
        let lobby = Lobby { state: LobbyState::NonModerators, timer: None };
        let overview = overview(Room { lobby, comments: 3, ..Room::example() });
        let me = attendee(ParticipantType::User);
        let view = RoomView::for_viewer(&overview, Some(&me), SIP);
        assert!(view.can_leave && !view.can_start_call && !view.can_delete);
        assert_eq!(view.unread_messages, 0);
        let moderator = attendee(ParticipantType::Moderator);
        assert_eq!(RoomView::for_viewer(&overview, Some(&moderator), SIP).unread_messages, 3);
    }

    #[test]
    fn participants_see_their_own_pin_and_moderators_see_all() {
        let bob = Attendee { actor: Actor::user("bob"), ..attendee(ParticipantType::User) };
        let guest = Attendee { actor: Actor::guest("g"), ..attendee(ParticipantType::Guest) };
        let all = [attendee(ParticipantType::Owner), bob, guest];
        let pins = |viewer: &str| -> Vec<bool> {
            let viewer = Actor::user(viewer);
            participants_for(&Room::example(), &all, &viewer)
                .map(|entry| entry.pin.is_some())
                .collect()
        };
        assert_eq!((pins("alice"), pins("bob")), (vec![true, true], vec![false, true]));
    }
}
