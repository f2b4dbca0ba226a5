//! What goes wrong in a simulated world, apart from its rows.

use std::{collections::BTreeSet, time::Duration};

/// Whether a server answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Server {
    #[default]
    Up,
    /// It refuses connections.
    Down,
    /// It takes requests and does not answer.
    Silent,
}

/// Probabilities are in thousandths.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub database: Server,
    pub broker: Server,
    /// The longest time that each part of a request takes.
    pub latency: Duration,
    /// That a request to the database fails, and changes nothing.
    pub fails: u32,
    /// That a commit happens, and its answer is lost.
    pub commit_unknown: u32,
    /// That a confirm is lost, whether the message is stored or not.
    pub confirm_lost: u32,
    /// That a connection to the broker is lost with an acknowledgement.
    pub acknowledgement_lost: u32,
    /// Rooms for whose updates there is no queue.
    pub unroutable: BTreeSet<String>,
}
