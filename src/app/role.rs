//! What the roles of a process have, and what their readiness depends on.

use crate::health::Component;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Consumes events, opens rooms, publishes updates.
    Worker,
    Api,
    Both,
    /// Has a Nextcloud Talk open its rooms.
    Talk,
}

impl Role {
    pub(super) fn works(self) -> bool {
        matches!(self, Self::Worker | Self::Both)
    }

    pub(super) fn serves(self) -> bool {
        matches!(self, Self::Api | Self::Both)
    }

    /// Whether it opens the rooms of a Talk, if one is configured.
    pub(super) fn opens_talk(self) -> bool {
        self.works() || self == Self::Talk
    }

    /// The names under which PostgreSQL lists the connections of the tasks and those of the API.
    pub(super) fn applications(self) -> [&'static str; 2] {
        match self {
            Self::Worker | Self::Both => ["lobbyd worker", "lobbyd api"],
            Self::Api => ["lobbyd api", "lobbyd api"],
            Self::Talk => ["lobbyd talk", "lobbyd talk"],
        }
    }

    /// The components that its readiness depends on, with those of a Talk if `has_talk`, and those of
    /// signaling servers.
    pub(super) fn components(self, has_talk: bool, has_signaling: bool) -> Vec<Component> {
        let mut components = vec![Component::Database];
        components.extend((self != Self::Api).then_some(Component::Consumer));
        components.push(Component::Publisher);
        components.extend(self.serves().then_some(Component::Listener));
        components.extend(has_talk.then_some(Component::Talk));
        components.extend(has_signaling.then_some(Component::Signaling));
        components
    }
}
