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
    /// Unix seconds of the beginning of the newest session; 0 for none.
    last_ping: i64,
    /// Flags of all sessions in the call; 0 if the participant is not in it.
    in_call: i64,
    /// Effective permissions.
    permissions: i64,
    /// Custom permissions; 0 for none.
    attendee_permissions: i64,
    /// For the dial-in; empty if there is none, or if only moderators see it.
    attendee_pin: String,
    /// One for each client of the participant.
    session_ids: Vec<String>,
}

impl ParticipantDto {
    pub(in crate::http::api) fn of(token: &RoomToken, view: ParticipantView<'_>) -> Self {
        let ParticipantView { attendee, permissions, pin } = view;
        let sessions = &attendee.sessions;
        Self {
            room_token: token.to_string(),
            attendee_id: attendee.id.0,
            actor_type: attendee.actor.kind.name(),
            actor_id: attendee.actor.id.clone(),
            display_name: attendee.display_name.clone(),
            participant_type: attendee.participant_type.number(),
            last_ping: sessions.last().map_or(0, |session| session.last_ping),
            in_call: attendee.call_flags().bits(),
            permissions: permissions.bits(),
            attendee_permissions: attendee.permissions.bits(),
            attendee_pin: pin.unwrap_or_default().to_owned(),
            session_ids: sessions.iter().map(|session| session.id.clone()).collect(),
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
    /// Unix seconds of the beginning of the session.
    last_ping: i64,
    session_id: String,
}

impl PeerDto {
    /// The attendee's sessions in the call.
    pub(in crate::http::api) fn all_of(
        token: &RoomToken,
        attendee: &Attendee,
    ) -> impl Iterator<Item = Self> {
        let in_call = attendee.sessions.iter().filter(|session| !session.in_call.is_empty());
        in_call.map(move |session| Self {
            actor_type: attendee.actor.kind.name(),
            actor_id: attendee.actor.id.clone(),
            display_name: attendee.display_name.clone(),
            token: token.to_string(),
            last_ping: session.last_ping,
            session_id: session.id.clone(),
        })
    }
}
