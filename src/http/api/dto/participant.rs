//! Participants of a room, and of its call.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Attendee, ParticipantView, RoomToken};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Participant)]
pub(in crate::http::api) struct ParticipantDto {
    room_token: String,
    /// Identifies the participant in requests of moderators.
    attendee_id: i64,
    /// `users` or `guests`.
    actor_type: &'static str,
    actor_id: String,
    /// May be empty for guests.
    display_name: String,
    /// 1 owner, 2 moderator, 3 user, 4 guest, 5 self-joined user, 6 guest moderator.
    participant_type: i64,
    /// Unix seconds of the session's last activity; 0 for none.
    last_ping: i64,
    /// Flags in the call; 0 if the participant is not in it.
    in_call: i64,
    /// Effective permissions.
    permissions: i64,
    /// Custom permissions; 0 for none.
    attendee_permissions: i64,
    /// For the dial-in; empty if there is none, or if only moderators see it.
    attendee_pin: String,
    session_ids: Vec<String>,
}

impl ParticipantDto {
    pub(in crate::http::api) fn of(token: &RoomToken, view: ParticipantView<'_>) -> Self {
        let ParticipantView { attendee, pin } = view;
        let presence = attendee.presence.as_ref();
        Self {
            room_token: token.to_string(),
            attendee_id: attendee.id.0,
            actor_type: attendee.actor.kind.name(),
            actor_id: attendee.actor.id.clone(),
            display_name: attendee.display_name.clone(),
            participant_type: attendee.participant_type.number(),
            last_ping: presence.map_or(0, |presence| presence.last_ping),
            in_call: attendee.call_flags().bits(),
            permissions: attendee.effective_permissions().bits(),
            attendee_permissions: attendee.permissions.bits(),
            attendee_pin: pin.unwrap_or_default().to_owned(),
            session_ids: presence.map(|presence| presence.session_id.clone()).into_iter().collect(),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Peer)]
pub(in crate::http::api) struct PeerDto {
    /// `users` or `guests`.
    actor_type: &'static str,
    actor_id: String,
    display_name: String,
    /// Token of the room.
    token: String,
    /// Unix seconds of the session's last activity.
    last_ping: i64,
    session_id: String,
}

impl PeerDto {
    /// `None` if the attendee is not in the call.
    pub(in crate::http::api) fn of(token: &RoomToken, attendee: &Attendee) -> Option<Self> {
        let presence = attendee.presence.as_ref().filter(|_presence| attendee.is_in_call())?;
        Some(Self {
            actor_type: attendee.actor.kind.name(),
            actor_id: attendee.actor.id.clone(),
            display_name: attendee.display_name.clone(),
            token: token.to_string(),
            last_ping: presence.last_ping,
            session_id: presence.session_id.clone(),
        })
    }
}
