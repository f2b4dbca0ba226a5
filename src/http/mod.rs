//! HTTP: the ops listener, and the server under it.

pub mod ops;
mod server;
