//! Bans: actors who may not join a room.

use super::actor::Actor;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    pub id: i64,
    pub actor: Actor,
    /// The actor's display name at that time; may be empty.
    pub display_name: String,
    /// The user who banned the actor, with the display name.
    pub moderator: (Actor, String),
    /// Only moderators see it.
    pub note: String,
    /// Unix seconds.
    pub created_at: i64,
}
