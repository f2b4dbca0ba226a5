//! lobbyd
pub mod app;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod domain;
pub mod events;
pub mod health;
pub mod http;
pub mod shutdown;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod worker;
