//! What a participant may do in a room.

use bitflags::bitflags;
use serde::Serialize;

bitflags! {
    /// Talk's attendee permissions. No flags: the attendee has the defaults.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
    #[serde(transparent)]
    pub struct Permissions: i64 {
        /// The other flags apply, even if none of them is set.
        const CUSTOM = 1;
        const START_CALL = 2;
        const JOIN_CALL = 4;
        const IGNORE_LOBBY = 8;
        const AUDIO = 16;
        const VIDEO = 32;
        const SCREEN = 64;
        const CHAT = 128;
        /// Exists in the newest Talk only.
        const REACT = 256;
    }
}

impl Permissions {
    pub const DEFAULT: Self = Self::empty();
    /// What moderators have: every permission of Talk before [`Permissions::REACT`].
    pub const MODERATOR: Self = Self::all().difference(Self::CUSTOM).difference(Self::REACT);
    /// What other participants have by default.
    pub const PARTICIPANT: Self = Self::MODERATOR.difference(Self::IGNORE_LOBBY);

    /// As custom permissions. No flags mean the defaults.
    pub fn as_custom(self) -> Self {
        if self.is_empty() { Self::DEFAULT } else { self | Self::CUSTOM }
    }

    /// Checks a number that a client sent.
    pub fn parse(number: i64) -> Option<Self> {
        Self::from_bits(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_permissions_are_those_of_talk() {
        assert_eq!((Permissions::MODERATOR.bits(), Permissions::PARTICIPANT.bits()), (254, 246));
    }
}
