//! Guesses of room passwords and of room tokens: throttled, counted and logged.

use std::net::IpAddr;

use super::error::{Limit, Result, RoomError};
use crate::auth::{LogRate, Passwords, Throttle};
use crate::cache::View;
use crate::domain::commands::Refusal;
use crate::domain::{Actor, Room};
use crate::metrics::ROOM_PASSWORDS;

pub(super) struct Guesses {
    passwords: Throttle,
    passwords_logged: LogRate,
    tokens: Throttle,
    tokens_logged: LogRate,
}

impl Default for Guesses {
    fn default() -> Self {
        Self {
            passwords: Throttle::room_passwords(),
            passwords_logged: LogRate::default(),
            tokens: Throttle::room_tokens(),
            tokens_logged: LogRate::default(),
        }
    }
}

impl Guesses {
    /// Whether it is the room's password.
    pub(super) async fn check_password(
        &self,
        passwords: &Passwords,
        password: &str,
        room: &Room,
        from: IpAddr,
    ) -> Result<bool> {
        let token = room.token.as_str();
        let verified =
            passwords.verify(password, &room.password_hash, token, from, &self.passwords).await;
        let outcome = match verified {
            Ok(true) => "ok",
            Ok(false) => "wrong",
            Err(_wait) => "throttled",
        };
        metrics::counter!(ROOM_PASSWORDS, "outcome" => outcome).increment(1);
        if verified == Ok(false)
            && let Some(omitted) = self.passwords_logged.permit()
        {
            let room = &room.token;
            tracing::info!(client.address = %from, room.token = %room, omitted, "wrong room password");
        }
        verified.map_err(RoomError::Throttled)
    }

    /// Passes on what a request for a token has found. Of anonymous visitors and guests, only those who
    /// take part in the room learn it while their network has to wait: others may be guessing tokens.
    pub(super) fn check_token<T>(
        &self,
        found: Result<T>,
        view: impl Fn(&T) -> &View,
        actor: Option<&Actor>,
        from: IpAddr,
    ) -> Result<T> {
        let is_user = actor.is_some_and(Actor::is_user);
        if is_user || found.as_ref().is_ok_and(|found| view(found).attendee().is_some()) {
            return found;
        }
        if let Some(wait) = self.tokens.begin(from, "") {
            if let Some(omitted) = self.tokens_logged.permit() {
                tracing::info!(client.address = %from, omitted, "too many unknown room tokens");
            }
            return Err(RoomError::Limited { limit: Limit::UnknownRooms, wait });
        }
        if matches!(found, Err(RoomError::Refused(Refusal::NoRoom))) {
            self.tokens.record_failure(from, "");
        }
        found
    }
}
