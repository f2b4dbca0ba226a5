//! HTTP: the API, the ops listener, the pages of both, and the server under them.
//!
//! The only place that knows axum, status codes and Talk's field names. It imports `rooms`, `auth`,
//! `health` and `domain`; database and broker are behind these. [`app`](crate::app) starts both
//! listeners.

pub mod api;
mod connections;
pub mod ops;
mod pages;
mod sending;
mod server;

pub use connections::Limits;
pub use pages::JoinUrl;
pub use server::PROBE_FILES;
