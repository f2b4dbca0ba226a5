//! The loops of the daemon: what comes in, what comes due, what goes out, what the API hears, and
//! housekeeping.
//!
//! Each is one struct with a `run` that ends with the stop token, handed to the supervisor. They
//! meet in two places only: the [`Intake`] rings the [`TimerLoop`] when a timer was armed, and the
//! [`TimerLoop`] hands what it fired to the [`Relay`]. Both are hints; what counts is in the
//! database.

pub mod housekeeping;
mod intake;
mod relay;
mod timers;
mod updates;

pub use intake::Intake;
pub use relay::{Handoff, Relay};
pub use timers::TimerLoop;
pub use updates::Updates;
