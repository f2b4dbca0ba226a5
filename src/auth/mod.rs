//! Authenticates users stored in the database, and recognises guests by their secrets.
//!
//! Authentication must not slow down the timers, reveal whether a user exists, or allow fast
//! guessing. So hashing runs on the blocking pool, a few at a time; verified credentials are cached
//! without another hash; an unknown user costs a hash as well; and those who fail wait longer and
//! longer, see `throttle`. A user who was removed, or has another password, is refused within a
//! second: each process compares the version of the users that often, and requests that wait check
//! their [`Credential`] again before they show something. The HTTP API calls [`Accounts`];
//! [`rooms`](crate::rooms) uses [`Passwords`] and [`Throttle`] for the passwords of rooms. Callers bound
//! the length of names and passwords. Nothing here knows HTTP.

mod clients;
mod expiring_cache;
mod log_rate;
mod passwords;
mod throttle;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use parking_lot::Mutex;
use tokio::time::Instant;

pub use clients::{ClientSecret, ClientSecrets};
pub use log_rate::LogRate;
pub use passwords::Passwords;
pub use throttle::Throttle;
pub(crate) use throttle::network;

use self::expiring_cache::ExpiringCache;
use self::passwords::{DUMMY_HASH, Digest, VERIFIED_TTL};
use crate::domain::User;
use crate::store::{StoreError, Users};

/// Upper bound of a password that a client sends: anything longer is hardly meant as one.
pub const MAX_PASSWORD_BYTES: usize = 4096;

/// How long a user is used as it was read, unless the version of the users has changed. Clients poll
/// every few seconds, each time with the password.
const USER_TTL: Duration = Duration::from_mins(1);

/// How often the version of the users is read: a removed user, or an old password, is refused within
/// this time.
const VERSION_TTL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Unknown user or wrong password; a client must not learn which.
    #[error("wrong user or password")]
    Wrong,
    /// Too many failures from this address.
    #[error("too many failed logins, retry after {0:?}")]
    Throttled(Duration),
    #[error("users could not be read")]
    Store(#[from] StoreError),
}

pub struct Accounts {
    users: Arc<dyn Users>,
    passwords: Arc<Passwords>,
    throttle: Throttle,
    /// By the credentials. Apart from `by_name`, because there a client has proved no password.
    logins: ExpiringCache<Digest, Arc<Login>>,
    by_name: ExpiringCache<String, Arc<Login>>,
    version: Mutex<KnownVersion>,
    failures_logged: LogRate,
    /// Kept, because each poll of a user counts as a login.
    succeeded: Counter,
}

/// A user who was authenticated. Verified credentials are exempt from throttling: another client that
/// guesses from the same address must not lock them out.
struct Login {
    user: User,
    /// The hash that the password matches. As long as it is the user's, no other hash is computed. `None`
    /// if a trusted proxy has authenticated the user.
    hash: Option<String>,
    read_at: Instant,
    /// The version of the users when this one was read.
    version: i64,
}

/// The proof of a user's login: valid until they are removed or have another password.
#[derive(Clone)]
pub struct Credential {
    login: Arc<Login>,
    /// The version of the users with which it was valid.
    version: i64,
}

impl Credential {
    pub fn user(&self) -> &User {
        &self.login.user
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Credential").field(&self.user().id).finish()
    }
}

impl Login {
    fn is_current(&self, version: i64) -> bool {
        self.version == version && self.read_at.elapsed() < USER_TTL
    }
}

/// The version of the users as it was last read.
#[derive(Default)]
struct KnownVersion {
    number: i64,
    read_at: Option<Instant>,
}

impl Accounts {
    /// `passwords` is shared with everything else that hashes, because it bounds how many hashes are
    /// computed at once.
    pub fn new(users: Arc<dyn Users>, passwords: Arc<Passwords>) -> Self {
        Self {
            users,
            passwords,
            throttle: Throttle::logins(),
            logins: ExpiringCache::new(VERIFIED_TTL),
            by_name: ExpiringCache::new(USER_TTL),
            version: Mutex::default(),
            failures_logged: LogRate::default(),
            succeeded: metrics::counter!(crate::metrics::LOGINS, "outcome" => "ok"),
        }
    }

    /// Returns the user if the password is right. The future may be dropped at any point.
    pub async fn log_in(
        &self,
        id: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<Credential, LoginError> {
        let login = self.verify(id, password, from).await;
        match &login {
            Ok(_login) => self.succeeded.increment(1),
            Err(LoginError::Wrong) => {
                if let Some(omitted) = self.failures_logged.permit() {
                    tracing::info!(client.address = %from, omitted, "login failed");
                }
                metrics::counter!(crate::metrics::LOGINS, "outcome" => "wrong").increment(1);
            }
            Err(LoginError::Throttled(_wait)) => {
                metrics::counter!(crate::metrics::LOGINS, "outcome" => "throttled").increment(1);
            }
            Err(LoginError::Store(_error)) => {}
        }
        login
    }

    /// Returns a user that a trusted proxy has authenticated.
    pub async fn find_user(&self, id: &str) -> Result<Option<Credential>, LoginError> {
        let version = self.users_version().await;
        let cached = self.by_name.get(&id.to_owned());
        if let Some(login) = cached.filter(|login| login.version == version) {
            return Ok(Some(Credential { login, version }));
        }
        let Some((user, _hash)) = self.users.user(id).await? else { return Ok(None) };
        let login = Arc::new(Login { user, hash: None, read_at: Instant::now(), version });
        self.by_name.insert(id.to_owned(), Arc::clone(&login));
        Ok(Some(Credential { login, version }))
    }

    /// Fails if a credential is no longer valid.
    pub async fn check(&self, credential: &mut Credential) -> Result<(), LoginError> {
        let version = self.users_version().await;
        if credential.version == version {
            return Ok(());
        }
        let Login { user, hash, .. } = &*credential.login;
        let (_user, current) = self.users.user(&user.id).await?.ok_or(LoginError::Wrong)?;
        if hash.as_ref().is_some_and(|hash| *hash != current) {
            return Err(LoginError::Wrong);
        }
        credential.version = version;
        Ok(())
    }

    async fn verify(
        &self,
        id: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<Credential, LoginError> {
        // Before the user is read: what changes afterwards has another version.
        let version = self.users_version().await;
        let credentials = self.passwords.digest(id, password);
        let verified = self.logins.get(&credentials);
        if let Some(login) = verified.as_ref().filter(|login| login.is_current(version)) {
            return Ok(Credential { login: Arc::clone(login), version });
        }
        // The name may be of any length.
        let account = self.passwords.name(id);
        let throttled =
            |wait: Option<Duration>| wait.map_or(Ok(()), |wait| Err(LoginError::Throttled(wait)));
        if verified.is_none() {
            throttled(self.throttle.retry_after(from, &account))?;
        }
        let (user, hash) = match self.users.user(id).await? {
            Some((user, hash)) => (Some(user), hash),
            None => (None, DUMMY_HASH.to_owned()),
        };
        let is_same = |login: &Arc<Login>| login.hash.as_ref() == Some(&hash);
        if let Some(user) = user.as_ref().filter(|_user| verified.as_ref().is_some_and(is_same)) {
            return Ok(self.keep_login(credentials, user.clone(), hash, version));
        }
        let permit = self.passwords.permit().await;
        // Again: of many clients with the same credentials, few need a hash. Many guesses at once
        // would all pass before the first of them has failed; the permit is held until the failure is
        // recorded, so that the next guess sees it.
        if let Some(login) = self.logins.get(&credentials).filter(|login| login.is_current(version))
        {
            return Ok(Credential { login, version });
        }
        if verified.is_none() {
            throttled(self.throttle.begin(from, &account))?;
        }
        let verified = permit.verify(password, &hash).await;
        if let Some(user) = user.filter(|_user| verified) {
            self.throttle.record_success(from, &account);
            Ok(self.keep_login(credentials, user, hash, version))
        } else {
            self.logins.remove(&credentials);
            self.throttle.record_failure(from, &account);
            Err(LoginError::Wrong)
        }
    }

    fn keep_login(
        &self,
        credentials: Digest,
        user: User,
        hash: String,
        version: i64,
    ) -> Credential {
        let login = Arc::new(Login { user, hash: Some(hash), read_at: Instant::now(), version });
        self.logins.insert(credentials, Arc::clone(&login));
        Credential { login, version }
    }

    /// The version of the users, at most [`VERSION_TTL`] old. While the database is unavailable, the
    /// last known one.
    async fn users_version(&self) -> i64 {
        let known = {
            let mut version = self.version.lock();
            if version.read_at.is_some_and(|read_at| read_at.elapsed() < VERSION_TTL) {
                return version.number;
            }
            // Meanwhile the others use the known one.
            version.read_at = Some(Instant::now());
            version.number
        };
        match self.users.users_version().await {
            Ok(number) => {
                self.version.lock().number = number;
                number
            }
            Err(error) => {
                tracing::debug!(%error, "version of the users not read");
                // Not at once again: that may take seconds while the database does not answer.
                self.version.lock().read_at = Some(Instant::now());
                known
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use chrono::{DateTime, Utc};
    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use tokio::time::{advance, timeout};

    use super::passwords::HashPermit;
    use super::*;
    use crate::store::Result;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    /// One user, alice, and the number of reads.
    struct UserTable {
        hash: Mutex<String>,
        reads: AtomicUsize,
        version: AtomicI64,
        unavailable: bool,
    }

    #[async_trait]
    impl Users for UserTable {
        async fn add_user(&self, _user: &User, _password_hash: &str) -> Result<bool> {
            unreachable!("a login only reads")
        }

        async fn remove_user(&self, _id: &str, _now: DateTime<Utc>) -> Result<bool> {
            unreachable!("a login only reads")
        }

        async fn set_user_password(&self, _id: &str, _password_hash: &str) -> Result<bool> {
            unreachable!("a login only reads")
        }

        async fn user(&self, id: &str) -> Result<Option<(User, String)>> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.unavailable {
                return Err(StoreError::TimedOut(Duration::from_secs(1)));
            }
            Ok((id == "alice").then(|| (alice(), self.hash.lock().clone())))
        }

        async fn users_version(&self) -> Result<i64> {
            Ok(self.version.load(Ordering::Relaxed))
        }

        async fn client_key(&self, _proposed: &str) -> Result<String> {
            unreachable!("a login needs no key")
        }

        async fn users(&self) -> Result<Vec<User>> {
            unreachable!("a login reads one user")
        }
    }

    fn alice() -> User {
        User { id: "alice".to_owned(), display_name: "Alice".to_owned(), groups: Vec::new() }
    }

    fn bob() -> User {
        User { id: "bob".to_owned(), ..alice() }
    }

    async fn accounts(unavailable: bool) -> (Accounts, Arc<UserTable>) {
        let passwords = Arc::new(Passwords::new());
        let hash = passwords.hash("secret").await;
        let table = Arc::new(UserTable {
            hash: Mutex::new(hash),
            reads: AtomicUsize::new(0),
            version: AtomicI64::new(0),
            unavailable,
        });
        (Accounts::new(Arc::<UserTable>::clone(&table), passwords), table)
    }

    /// Takes all permits: from now on no hash can be computed.
    fn take_permits(accounts: &Accounts) -> Vec<HashPermit> {
        std::iter::from_fn(|| accounts.passwords.permit().now_or_never()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_is_cached_for_any_address() {
        let (accounts, table) = accounts(false).await;
        assert_eq!(accounts.log_in("alice", "secret", HERE).await.unwrap().user(), &alice());
        let permits = take_permits(&accounts);
        assert_eq!(accounts.log_in("alice", "secret", ELSEWHERE).await.unwrap().user(), &alice());
        assert_eq!(table.reads.load(Ordering::Relaxed), 1);
        // Later the user is read again, and the hash is not computed again.
        advance(USER_TTL).await;
        assert_eq!(accounts.log_in("alice", "secret", HERE).await.unwrap().user(), &alice());
        assert_eq!(table.reads.load(Ordering::Relaxed), 2);
        drop(permits);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_password_counts_within_a_second() {
        let (accounts, table) = accounts(false).await;
        let mut credential = accounts.log_in("alice", "secret", HERE).await.unwrap();
        let mut from_proxy = accounts.find_user("alice").await.unwrap().unwrap();
        table.version.store(1, Ordering::Relaxed);
        advance(VERSION_TTL).await;
        accounts.check(&mut credential).await.expect("another user has changed");
        let hash = accounts.passwords.hash("new").await;
        *table.hash.lock() = hash;
        table.version.store(2, Ordering::Relaxed);
        advance(VERSION_TTL).await;
        let checked = accounts.check(&mut credential).await;
        assert!(matches!(checked, Err(LoginError::Wrong)), "{checked:?}");
        accounts.check(&mut from_proxy).await.expect("it has no password");
        let login = accounts.log_in("alice", "secret", HERE).await;
        assert!(matches!(login, Err(LoginError::Wrong)), "{login:?}");
        assert_eq!(accounts.log_in("alice", "new", HERE).await.unwrap().user(), &alice());
        let reads = table.reads.load(Ordering::Relaxed);
        accounts.find_user("alice").await.unwrap();
        assert_eq!(table.reads.load(Ordering::Relaxed), reads + 1, "it is read again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_was_cached_meanwhile_needs_no_hash() {
        let (accounts, _table) = accounts(false).await;
        let permits = take_permits(&accounts);
        let mut login = pin!(accounts.log_in("alice", "secret", HERE));
        assert!(login.as_mut().now_or_never().is_none(), "it waits for a permit");
        let credentials = accounts.passwords.digest("alice", "secret");
        accounts.keep_login(credentials, bob(), "hash".to_owned(), 0);
        drop(permits);
        assert_eq!(login.await.unwrap().user(), &bob(), "as cached, not as read");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_and_an_unknown_user_look_alike() {
        let (accounts, _table) = accounts(false).await;
        for (id, password) in [("alice", "guess"), ("bob", "secret"), ("bob", "")] {
            let permits = take_permits(&accounts);
            let login = accounts.log_in(id, password, HERE);
            assert!(
                timeout(Duration::from_secs(1), login).await.is_err(),
                "{id}: no hash was computed"
            );
            drop(permits);
            let login = accounts.log_in(id, password, HERE).await;
            assert!(matches!(login, Err(LoginError::Wrong)), "{id}: {login:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn guessing_is_throttled_but_verified_credentials_at_the_same_address_are_not() {
        let (accounts, table) = accounts(false).await;
        accounts.log_in("alice", "secret", HERE).await.unwrap();
        for _ in 0..5 {
            let login = accounts.log_in("alice", "guess", HERE).await;
            assert!(matches!(login, Err(LoginError::Wrong)), "{login:?}");
        }
        let reads = table.reads.load(Ordering::Relaxed);
        let permits = take_permits(&accounts);
        let login = accounts.log_in("alice", "guess", HERE).await;
        assert!(
            matches!(login, Err(LoginError::Throttled(wait)) if wait == Duration::from_secs(1)),
            "{login:?}"
        );
        assert_eq!(table.reads.load(Ordering::Relaxed), reads, "it is refused before any work");
        assert_eq!(accounts.log_in("alice", "secret", HERE).await.unwrap().user(), &alice());
        drop(permits);
        let login = accounts.log_in("alice", "guess", ELSEWHERE).await;
        assert!(matches!(login, Err(LoginError::Wrong)), "{login:?}");
        advance(Duration::from_secs(1)).await;
        let login = accounts.log_in("alice", "guess", HERE).await;
        assert!(matches!(login, Err(LoginError::Wrong)), "{login:?}");
        // Also after the cached login has expired, while the guessing goes on.
        advance(USER_TTL).await;
        let login = accounts.log_in("alice", "guess", HERE).await;
        assert!(matches!(login, Err(LoginError::Wrong)), "{login:?}");
        let login = accounts.log_in("alice", "guess", HERE).await;
        assert!(matches!(login, Err(LoginError::Throttled(_))), "{login:?}");
        assert_eq!(accounts.log_in("alice", "secret", HERE).await.unwrap().user(), &alice());
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_guesses_are_throttled_too() {
        let (accounts, _table) = accounts(false).await;
        let permits = take_permits(&accounts).len();
        let guesses = (0..5 + permits + 20).map(|_| accounts.log_in("alice", "guess", HERE));
        let logins = join_all(guesses).await;
        let wrong = logins.iter().filter(|login| matches!(login, Err(LoginError::Wrong))).count();
        // Only the guesses that hold a permit when the fifth one fails are verified beyond it.
        assert!((5..5 + permits).contains(&wrong), "{wrong} guesses were verified");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unavailable_database_is_not_a_failed_login() {
        let (accounts, _table) = accounts(true).await;
        for _ in 0..10 {
            let login = accounts.log_in("alice", "secret", HERE).await;
            assert!(matches!(login, Err(LoginError::Store(_))), "{login:?}");
        }
        assert!(accounts.find_user("alice").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn found_users_are_cached_and_unknown_ones_are_not() {
        let (accounts, table) = accounts(false).await;
        for (id, reads) in [("alice", 1), ("alice", 1), ("bob", 2), ("bob", 3)] {
            let found = accounts.find_user(id).await.unwrap();
            assert_eq!(found.map(|found| found.user().clone()), (id == "alice").then(alice));
            assert_eq!(table.reads.load(Ordering::Relaxed), reads, "{id}");
        }
        advance(USER_TTL).await;
        assert_eq!(accounts.find_user("alice").await.unwrap().unwrap().user(), &alice());
        assert_eq!(table.reads.load(Ordering::Relaxed), 4);
    }
}
