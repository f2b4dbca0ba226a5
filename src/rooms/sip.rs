//! The dial-in of this server: what its users are told, and which of them may enable it.

use crate::domain::User;

/// Dial-in as it is configured.
#[derive(Debug, Clone, Default)]
pub struct Sip {
    /// Whether there is a dial-in at all.
    pub configured: bool,
    /// Dial-in instructions shown to users.
    pub dialin_info: String,
    /// Groups whose members may enable dial-in; empty for all users.
    pub groups: Vec<String>,
}

impl Sip {
    pub fn may_enable(&self, user: &User) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|group| user.groups.contains(group))
    }
}
