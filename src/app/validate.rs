//! Checks of configured values that only the parts can judge, before any of them starts.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::{Role, signaling};
use crate::config::{Config, ConfigError, HttpConfig, Secret};
use crate::http::JoinUrl;
use crate::http::api::{Hosts, Origins, Proxies, UserHeader};
use crate::nextcloud::SignalingClient;
use crate::tasks::housekeeping::check_schedule;
use crate::traces::Exporter;

/// A connection has to be established within `database.timeout`.
const MIN_DATABASE_TIMEOUT: Duration = Duration::from_millis(100);

/// A worker that waits for the lock of a room needs another connection for the rooms that are due.
const MIN_CONNECTIONS: u32 = 2;

/// One request that hangs must not hold up all others, and ten refused ones at once lock lobbyd out.
const TALK_CONCURRENCY: RangeInclusive<usize> = 2..=8;

/// A larger batch would hold its locks for longer than a use of the database may take.
const MAX_BATCH: u32 = 10_000;

/// Longest age that is subtracted from the present time: 100 years, so that the result stays within
/// the calendar.
const MAX_AGE: Duration = Duration::from_hours(100 * 366 * 24);

/// Parts that are built of configured values on the way.
pub(super) struct Validated {
    pub(super) proxies: Proxies,
    pub(super) hosts: Hosts,
    pub(super) origins: Origins,
    pub(super) join_url: Option<JoinUrl>,
    pub(super) exporter: Option<Exporter>,
    pub(super) signaling: Vec<Arc<SignalingClient>>,
}

/// Refuses values that cannot be used.
pub(super) fn validate(config: &Config) -> Result<Validated, ConfigError> {
    check_durations(config)?;
    check_sizes(config)?;
    for (key, schedule) in [
        ("housekeeping.prune", &config.housekeeping.prune),
        ("housekeeping.summary", &config.housekeeping.summary),
        ("housekeeping.sessions", &config.housekeeping.sessions),
    ] {
        check_schedule(schedule).map_err(|problem| ConfigError::new(key, problem))?;
    }
    let proxies =
        proxies(&config.http).map_err(|problem| ConfigError::new("http.user_header", problem))?;
    let hosts = Hosts::new(&config.http.hosts)
        .map_err(|problem| ConfigError::new("http.hosts", problem))?;
    let origins = Origins::new(&config.http.allowed_origins)
        .map_err(|problem| ConfigError::new("http.allowed_origins", problem))?;
    let join_url = config.http.join_url.as_deref().map(JoinUrl::new).transpose();
    let join_url = join_url.map_err(|problem| ConfigError::new("http.join_url", problem))?;
    let exporter = config.traces.endpoint.as_ref().map(|url| Exporter::new(url.expose()));
    let exporter = exporter.transpose();
    let exporter = exporter.map_err(|problem| ConfigError::new("traces.endpoint", problem))?;
    let signaling = signaling::clients(&config.signaling.servers)?;
    Ok(Validated { proxies, hosts, origins, join_url, exporter, signaling })
}

fn proxies(config: &HttpConfig) -> Result<Proxies, String> {
    let secret = config.user_header_secret.as_ref().map(Secret::expose);
    if secret.is_some_and(str::is_empty) {
        return Err("http.user_header_secret is empty".to_owned());
    }
    let header = config.user_header.as_deref().map(|name| UserHeader::new(name, secret));
    Proxies::new(&config.trusted_proxies, header.transpose()?)
}

/// Refuses a configuration that does not have what the role needs.
pub(super) fn check_role(config: &Config, role: Role) -> Result<(), ConfigError> {
    if role == Role::Api && config.events.url.is_in_process() {
        return Err(ConfigError::new(
            "events.url",
            "memory: is a bus inside one process, on which an API process receives nothing from \
             workers; name the broker (amqp://…), or use `lobbyd run`, which is both in one process",
        ));
    }
    if role == Role::Talk && config.talk.url.is_none() {
        return Err(ConfigError::new(
            "talk.url",
            "`lobbyd talk` needs the address of the Nextcloud",
        ));
    }
    Ok(())
}

fn check_sizes(config: &Config) -> Result<(), ConfigError> {
    if config.database.max_connections.get() < MIN_CONNECTIONS {
        let problem = format!("at least {MIN_CONNECTIONS}");
        return Err(ConfigError::new("database.max_connections", problem));
    }
    if config.timers.batch.get() > MAX_BATCH {
        return Err(ConfigError::new("timers.batch", format!("at most {MAX_BATCH}")));
    }
    if !TALK_CONCURRENCY.contains(&config.talk.concurrency.get()) {
        return Err(ConfigError::new("talk.concurrency", "expected 2 to 8"));
    }
    Ok(())
}

fn check_durations(config: &Config) -> Result<(), ConfigError> {
    if config.database.timeout < MIN_DATABASE_TIMEOUT {
        let problem = format!("at least {MIN_DATABASE_TIMEOUT:?}");
        return Err(ConfigError::new("database.timeout", problem));
    }
    for (key, age) in [
        ("outbox.history", config.outbox.history),
        ("outbox.dead_after", config.outbox.dead_after),
        ("http.session_timeout", config.http.session_timeout),
        ("signaling.give_up_after", config.signaling.give_up_after),
    ] {
        if age > MAX_AGE {
            return Err(ConfigError::new(key, "at most 100 years"));
        }
    }
    Ok(())
}
