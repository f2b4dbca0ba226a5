//! The JSON of responses: Talk's names and types for what the domain knows.
//!
//! Conversions only: what a viewer sees, and what they may do, is decided by
//! [`RoomView`](crate::domain::RoomView) and [`participants_for`](crate::domain::participants_for).
//! Handlers pass the results to [`ocs`](super::ocs).

mod ban;
mod message;
mod participant;
mod room;

pub(super) use self::ban::BanDto;
pub(super) use self::message::MessageDto;
pub(super) use self::participant::{ParticipantDto, PeerDto};
pub(super) use self::room::RoomDto;
