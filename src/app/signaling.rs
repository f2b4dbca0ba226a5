//! The clients of Talk's signaling servers: built of the configuration, and given renewed secrets.

use std::collections::BTreeSet;
use std::sync::Arc;

use secrecy::SecretString;

use crate::config::{ConfigError, SignalingServer};
use crate::nextcloud::SignalingClient;

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
        if !known.insert(client.url().to_owned()) {
            return Err(refuse("url", "another entry has the same server"));
        }
        Ok(Arc::new(client))
    };
    servers.iter().enumerate().map(client).collect()
}

/// Has each client use the secret that its server has now, which ends a stop because of the former one.
pub(super) fn renew_secrets(clients: &[Arc<SignalingClient>], servers: &[SignalingServer]) {
    for (client, server) in clients.iter().zip(servers) {
        if let Some(secret) = secret(server) {
            client.use_secret(secret);
        }
    }
}

fn secret(server: &SignalingServer) -> Option<SecretString> {
    let secret = server.secret.as_ref().map(|secret| secret.expose().to_owned());
    secret.filter(|secret| !secret.is_empty()).map(SecretString::from)
}
