//! lobbyd beside a real signaling server of Nextcloud Talk, with websocket clients. [`front`] is
//! between the two, where it records requests and adds faults.

mod delivery;
#[cfg(feature = "failpoints")]
mod failpoints;
mod front;
mod harness;
mod outages;
mod secrets;
mod site;
mod store;
