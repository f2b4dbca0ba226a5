//! Tries the servers that a configuration names, for `lobbyd config check --connect`.

use super::{existing, open_bus, open_existing_database};
use crate::config::{Config, ConfigError, SecretUrl, SecretUrls};
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
    let mut refusals = Vec::new();
    for (url, shown) in existing(config).iter().zip(config.database.url.iter()) {
        if let Err(error) = database.try_urls(&[url]).await {
            refusals.push(refusal(shown, &error));
        }
    }
    let answer = database.check_writable().await.map_err(|error| logging::causes(&error));
    database.close().await;
    Ok(summary("connected, and can be written", answer, &refusals, &config.database.url))
}

async fn try_bus(config: &Config) -> Result<Result<String, String>, ConfigError> {
    let bus = open_bus(config)?;
    if config.events.url.is_in_process() {
        return Ok(Ok("inside the process".to_owned()));
    }
    let mut refusals = Vec::new();
    for url in config.events.url.iter() {
        if let Err(error) = bus.try_urls(&[url.expose()]).await {
            refusals.push(refusal(url, &error));
        }
    }
    let answer = match bus.publish(&[]).await.map(|_none| bus.missing_queue()) {
        Ok(looking) => match looking.await {
            Ok(None) => Ok(()),
            Ok(Some(queue)) => Err(format!("required queue {queue} does not exist")),
            Err(error) => Err(logging::causes(&error)),
        },
        Err(error) => Err(logging::causes(&error)),
    };
    bus.close().await;
    Ok(summary("connected", answer, &refusals, &config.events.url))
}

/// What one server of several answers.
fn refusal(url: &SecretUrl, error: &dyn std::error::Error) -> String {
    format!("{}: {}", url.redacted(), logging::causes(error))
}

/// The answer of a whole list. One server that can be used is enough, and the others are named.
fn summary(
    success: &str,
    answer: Result<(), String>,
    refusals: &[String],
    urls: &SecretUrls,
) -> Result<String, String> {
    let others = if urls.iter().count() > 1 { refusals } else { &[] };
    let text = [&[success.to_owned()], others].concat().join("; not ");
    answer.map(|()| text)
}
