//! lobbyd
pub mod app;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod domain;
pub mod events;
pub mod health;
mod http;
pub mod shutdown;
pub mod store;
mod systemd;
pub mod telemetry;
mod worker;
