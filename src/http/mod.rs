//! HTTP: the API, the ops listener, and the server under both.

pub mod api;
pub mod ops;
mod server;

pub use server::Limits;
