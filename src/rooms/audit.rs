//! The log of who changed what.

use chrono::DateTime;
use tracing::Level;

use crate::domain::{Actor, Reason, RoomUpdated};

/// Writes a line for a change that somebody made by the API, in the span of the request. What every
/// participant may do, such as joining, is written at debug. No line has a text or a password.
pub(super) fn record(update: &RoomUpdated, actor: &Actor) {
    macro_rules! record {
        ($level:expr) => {
            tracing::event!(
                target: "lobbyd::audit",
                $level,
                room.token = update.token,
                version = update.version,
                reason = update.reason.name(),
                actor = %actor,
                about = update.about.as_ref().map(tracing::field::display),
                lobby.state = update.lobby_state,
                lobby.timer = timer(update).map(tracing::field::display),
                sip = update.sip_enabled,
                "room changed"
            )
        };
    }
    if is_moderation(update.reason) {
        record!(Level::INFO);
    } else {
        record!(Level::DEBUG);
    }
}

fn timer(update: &RoomUpdated) -> Option<impl std::fmt::Display> {
    let timer = DateTime::from_timestamp(update.lobby_timer, 0)?;
    (update.lobby_timer != 0).then(|| timer.format("%FT%TZ"))
}

fn is_moderation(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::ParticipantJoined
            | Reason::ParticipantLeft
            | Reason::DisplayNameChanged
            | Reason::MessageSent
            | Reason::CallStarted
            | Reason::CallJoined
            | Reason::CallFlagsChanged
            | Reason::CallLeft
            | Reason::CallEnded
    )
}
