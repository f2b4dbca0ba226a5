//! Identities: who acts, and on whose behalf a request is made.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A user of this server or a guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Actor {
    #[serde(rename = "actorType")]
    pub kind: ActorKind,
    /// A user's id, or a guest's public id, from which the guest's cookie cannot be derived.
    #[serde(rename = "actorId")]
    pub id: String,
}

/// Talk's actor types, as far as they exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActorKind {
    /// Has an account.
    Users,
    /// Has only a cookie.
    Guests,
    /// Had an account. The id is the same for all of them.
    #[serde(rename = "deleted_users")]
    DeletedUsers,
}

impl ActorKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Guests => "guests",
            Self::DeletedUsers => "deleted_users",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Users, Self::Guests, Self::DeletedUsers].into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Actor {
    /// For the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.id)
    }
}

impl Actor {
    pub fn user(id: impl Into<String>) -> Self {
        Self { kind: ActorKind::Users, id: id.into() }
    }

    pub fn guest(id: impl Into<String>) -> Self {
        Self { kind: ActorKind::Guests, id: id.into() }
    }

    /// lobbyd itself, written as Talk writes it in the chat.
    pub fn system() -> Self {
        Self::guest("system")
    }

    pub fn is_user(&self) -> bool {
        self.kind == ActorKind::Users
    }
}

/// Identifies a client program among those of one actor. Only the server knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ClientId(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub actor: Actor,
    /// `None` for a client that keeps no cookies, or has none yet.
    pub client: Option<ClientId>,
    /// The account's display name. A guest's display name is in the room's list of participants.
    pub display_name: String,
    /// Whether the user is in one of the groups that may enable SIP.
    pub may_enable_sip: bool,
}

/// A user of this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub id: String,
    pub display_name: String,
    /// Decide whether the user may enable SIP.
    pub groups: Vec<String>,
}
