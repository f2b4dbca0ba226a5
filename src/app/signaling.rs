//! The clients of Talk's signaling servers: built of the configuration, and given renewed secrets.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use secrecy::SecretString;

use crate::config::{Config, ConfigError, SignalingServer};
use crate::nextcloud::SignalingClient;

/// Width of the database's column.
const MAX_URL: usize = 255;

/// Clients of all servers, in their order. Nothing is connected yet.
pub(super) fn clients(
    servers: &[SignalingServer],
) -> Result<Vec<Arc<SignalingClient>>, ConfigError> {
    let mut known = BTreeSet::new();
    let client = |(index, server): (usize, &SignalingServer)| {
        let refuse = |key: &str, problem: &str| {
            ConfigError::new(&format!("signaling.servers[{index}].{key}"), problem)
        };
        let SignalingServer { url, backend, .. } = server;
        let secret = secret(server).ok_or_else(|| {
            refuse("secret", "expected the secret of the backend, or secret_file")
        })?;
        let client = SignalingClient::new(url.expose(), backend.expose(), secret)
            .map_err(|(key, problem)| refuse(key, &problem))?;
        if client.url().len() > MAX_URL {
            return Err(refuse("url", "at most 255 characters"));
        }
        if !known.insert(client.url().to_owned()) {
            return Err(refuse("url", "another entry has the same server"));
        }
        Ok(Arc::new(client))
    };
    servers.iter().enumerate().map(client).collect()
}

/// Gives the clients the secrets that their servers have in another configuration. Returns the servers
/// of those that have changed.
pub(super) fn renew_secrets(
    clients: &[Arc<SignalingClient>],
    servers: &[SignalingServer],
) -> Vec<String> {
    let mut changed = Vec::new();
    for server in servers {
        let client = clients.iter().find(|client| client.is_for(server.url.expose()));
        if let Some((client, secret)) = client.zip(secret(server))
            && client.use_secret(secret)
        {
            changed.push(client.url().to_owned());
        }
    }
    changed
}

fn secret(server: &SignalingServer) -> Option<SecretString> {
    let secret = server.secret.as_ref().map(|secret| secret.expose().to_owned());
    secret.filter(|secret| !secret.is_empty()).map(SecretString::from)
}

/// Tries each signaling server, and returns what it answers, by the key of the configuration.
pub async fn check_signaling(
    config: &Config,
) -> Result<Vec<(&'static str, Result<String, String>)>, ConfigError> {
    let clients = clients(&config.signaling.servers)?;
    let check = async |client: Arc<SignalingClient>| {
        let url = client.url();
        let answer = match client.check().await {
            Ok(()) => Ok(format!("{url} accepts the secret")),
            Err(fault) => Err(format!("{url}: {fault}")),
        };
        ("signaling.servers", answer)
    };
    Ok(join_all(clients.into_iter().map(check)).await)
}
