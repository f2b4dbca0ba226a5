//! lobbyd beside a real signaling server of Nextcloud Talk, with websocket clients. [`front`] is
//! between the two where a test needs faults or the requests themselves.

mod front;
mod harness;
