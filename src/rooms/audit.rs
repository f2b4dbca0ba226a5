//! The log of who changed what.

use chrono::DateTime;
use tracing::Level;

use crate::domain::{Actor, Reason, RoomToken, RoomUpdated};

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
                // As texts, in which the log escapes line breaks.
                actor = actor.to_string(),
                about = update.about.as_ref().map(ToString::to_string),
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

/// Writes a line for a change that the database did not answer in time. It may have been made.
pub(super) fn record_unknown(token: &RoomToken, actor: &Actor) {
    tracing::event!(
        target: "lobbyd::audit",
        Level::INFO,
        room.token = %token,
        actor = actor.to_string(),
        "outcome of a change unknown"
    );
}

fn timer(update: &RoomUpdated) -> Option<impl std::fmt::Display> {
    let timer = DateTime::from_timestamp(update.lobby_timer, 0)?;
    (update.lobby_timer != 0).then(|| timer.format("%FT%TZ"))
}

fn is_moderation(reason: Reason) -> bool {
    match reason {
        Reason::LobbyTimerReached
        | Reason::LobbyNone
        | Reason::LobbyNonModerators
        | Reason::LobbyTimerChanged
        | Reason::SipChanged
        | Reason::ConversationCreated
        | Reason::ConversationDeleted
        | Reason::ConversationRenamed
        | Reason::DescriptionSet
        | Reason::DescriptionRemoved
        | Reason::PasswordSet
        | Reason::PasswordRemoved
        | Reason::GuestsAllowed
        | Reason::GuestsDisallowed
        | Reason::UserAdded
        | Reason::UserRemoved
        | Reason::ModeratorPromoted
        | Reason::ModeratorDemoted
        | Reason::GuestModeratorPromoted
        | Reason::GuestModeratorDemoted
        | Reason::PermissionsChanged
        | Reason::DefaultPermissionsChanged
        | Reason::ReadOnly
        | Reason::ReadOnlyOff
        | Reason::ParticipantBanned
        | Reason::ParticipantUnbanned
        | Reason::MessageDeleted
        | Reason::CallEndedEveryone => true,
        Reason::ParticipantJoined
        | Reason::ParticipantLeft
        | Reason::DisplayNameChanged
        | Reason::MessageSent
        | Reason::CallStarted
        | Reason::CallJoined
        | Reason::CallFlagsChanged
        | Reason::CallLeft
        | Reason::CallEnded => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt;

    use super::*;

    #[test]
    fn no_actor_breaks_a_line() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let target = Arc::clone(&written);
        let writer = move || Written(Arc::clone(&target));
        let log = fmt().with_writer(writer).with_ansi(false).finish();
        let forger = Actor::user("x\n<6>lobbyd::audit: room changed actor=users/admin");
        let update = RoomUpdated {
            token: "abc".to_owned(),
            room_type: 3,
            lobby_state: 0,
            lobby_timer: 0,
            sip_enabled: 0,
            version: 1,
            reason: Reason::ParticipantBanned,
            about: Some(forger.clone()),
            mentioned: Vec::new(),
            due_at: None,
            fired_at: None,
        };
        tracing::subscriber::with_default(log, || record(&update, &forger));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(text.matches(r"users/x\n<6>").count(), 2, "{text}");
    }

    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
