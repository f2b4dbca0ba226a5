//! Who may let people dial in to a room by telephone.

use crate::domain::User;

/// Dial-in as it is configured on this server.
#[derive(Debug, Clone, Default)]
pub struct Sip {
    /// Whether there is a dial-in at all.
    pub configured: bool,
    /// What its users are told.
    pub dialin_info: String,
    /// Groups that may enable it; empty for everybody.
    pub groups: Vec<String>,
}

impl Sip {
    /// Whether the user is in one of the groups that may enable dial-in.
    pub fn may_enable(&self, user: &User) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|group| user.groups.contains(group))
    }
}
