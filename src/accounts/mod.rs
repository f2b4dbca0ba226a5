//! Who logs in: users and their passwords.
//!
//! A password is hashed with Argon2id, which is slow by design, so a credential that was found right
//! is remembered for a short time: a client that polls costs neither a hash nor a use of the
//! database. Failed logins are slowed down for the address that they come from. No password is kept
//! in memory, and nothing tells an unknown user from a wrong password.

mod passwords;
mod recent;
mod throttle;

use std::{net::IpAddr, sync::Arc, time::Duration};

pub use self::passwords::Passwords;
use self::{
    recent::{Key, Recent},
    throttle::Throttle,
};
use crate::{
    store::{Database, StoreError, User},
    telemetry,
};

/// Why nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// There is no such user, or the password is another one.
    #[error("user or password is wrong")]
    Wrong,
    /// Too many logins from this address have failed.
    #[error("too many failed logins, wait {0:?}")]
    Throttled(Duration),
    /// The database is away.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The users, as they log in.
pub struct Accounts {
    database: Arc<dyn Database>,
    passwords: Arc<Passwords>,
    throttle: Throttle,
    /// By a digest of name and password.
    logins: Recent<User>,
    /// By a digest of the name.
    known: Recent<User>,
}

impl Accounts {
    /// Looks users up in this database.
    #[must_use]
    pub fn new(database: Arc<dyn Database>, passwords: Arc<Passwords>) -> Self {
        Self {
            database,
            passwords,
            throttle: Throttle::default(),
            logins: Recent::default(),
            known: Recent::default(),
        }
    }

    /// Logs a user in. A change of the password is heard of within a minute.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub async fn log_in(&self, id: &str, password: &str, from: IpAddr) -> Result<User, LoginError> {
        let login = self.logins.key(&[id, password]);
        if let Some(user) = self.logins.get(&login) {
            // Also while others guess from the same address.
            return Ok(user);
        }
        if let Some(wait) = self.throttle.wait(from) {
            count("throttled");
            return Err(LoginError::Throttled(wait));
        }
        let (user, hash) = match self.database.user(id).await? {
            Some((user, hash)) => (Some(user), hash),
            None => (None, self.passwords.of_nobody().await),
        };
        let fits = self.passwords.fits(password, &hash).await;
        match user {
            Some(user) if fits => {
                count("ok");
                self.logins.put(login, user.clone());
                Ok(user)
            }
            Some(_) | None => {
                count("wrong");
                self.throttle.failed(from);
                tracing::info!(client.address = %from, "login failed");
                Err(LoginError::Wrong)
            }
        }
    }

    /// A user by name, whom somebody else has authenticated.
    ///
    /// # Errors
    ///
    /// The database is away.
    pub async fn known(&self, id: &str) -> Result<Option<User>, StoreError> {
        let key: Key = self.known.key(&[id]);
        if let Some(user) = self.known.get(&key) {
            return Ok(Some(user));
        }
        let user = self.database.user(id).await?.map(|(user, _hash)| user);
        if let Some(user) = &user {
            self.known.put(key, user.clone());
        }
        Ok(user)
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(telemetry::LOGINS, "outcome" => outcome).increment(1);
}
