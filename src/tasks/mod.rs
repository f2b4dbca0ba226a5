//! The loops of the daemon: what comes in, what comes due, what goes out, what the API hears, and
//! housekeeping.
//!
//! Each is one struct with a `run` that ends with the stop token, handed to the supervisor. They
//! meet in two places only: the [`LobbyConsumer`] rings the [`TimerTask`] when a timer was armed, and the
//! [`TimerTask`] hands what it fired to the [`OutboxRelay`]. Both are hints; what counts is in the
//! database.

pub mod housekeeping;
mod lobby_consumer;
mod outbox_relay;
mod timers;

pub use lobby_consumer::LobbyConsumer;
pub use outbox_relay::{OutboxRelay, RelayHandle};
pub use timers::TimerTask;
