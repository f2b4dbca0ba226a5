//! The call of a room.

use bitflags::bitflags;
use serde::Serialize;

bitflags! {
    /// Talk's flags of a participant in the call. No flags: not in the call.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
    #[serde(transparent)]
    pub struct CallFlags: i64 {
        const IN_CALL = 1;
        const AUDIO = 2;
        const VIDEO = 4;
        const PHONE = 8;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Call {
    /// Unix seconds.
    pub started_at: i64,
    /// Flags of all participants who have been in it.
    pub flags: CallFlags,
}

impl Call {
    /// A call lasts while at least one participant is in it.
    pub fn with_participants(self, participants: i64) -> Option<Self> {
        (participants > 0).then_some(self)
    }
}
