//! Tries the servers that a configuration names, for `lobbyd config check --connect`.

use super::{existing, open_bus, open_existing_database};
use crate::config::{Config, ConfigError};
use crate::logging;

/// Connects to database and broker as a start would, and returns what each of them answers. Nothing
/// is migrated; at the broker, exchanges and queues are declared.
pub async fn try_servers(
    config: &Config,
) -> Result<[(&'static str, Result<String, String>); 2], ConfigError> {
    let (database, events) = tokio::join!(try_database(config), try_bus(config));
    Ok([("database.url", database?), ("events.url", events?)])
}

async fn try_database(config: &Config) -> Result<Result<String, String>, ConfigError> {
    let database = open_existing_database(config, "lobbyd config check")?;
    let urls = existing(config);
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let tried = async {
        database.try_urls(&urls).await?;
        database.check_writable().await
    };
    let answer = tried.await.map_err(|error| logging::causes(&error));
    database.close().await;
    Ok(answer.map(|()| "connected, and can be written".to_owned()))
}

async fn try_bus(config: &Config) -> Result<Result<String, String>, ConfigError> {
    let bus = open_bus(config)?;
    if config.events.url.is_in_process() {
        return Ok(Ok("inside the process".to_owned()));
    }
    let tried = async {
        bus.try_urls(&config.events.url.expose()).await?;
        bus.missing_queue().await
    };
    let answer = match tried.await {
        Ok(None) => Ok("connected".to_owned()),
        Ok(Some(queue)) => Err(format!("required queue {queue} does not exist")),
        Err(error) => Err(logging::causes(&error)),
    };
    bus.close().await;
    Ok(answer)
}
