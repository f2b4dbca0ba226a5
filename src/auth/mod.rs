//! Who is who: log-ins of the users that the database holds.
//!
//! A log-in must not cost the timers anything, tell whether a name exists, or be guessed quickly. So
//! hashes are made aside and few at once, good log-ins are remembered for a minute, an unknown name
//! costs a hash as well, and an address that fails waits longer and longer. This module knows no
//! HTTP; whoever calls it has bounded names and passwords.

/// Longest password that is taken from outside, in bytes: what is longer is hardly meant as one.
pub const MAX_PASSWORD_BYTES: usize = 4096;

mod expiring_cache;
mod passwords;
mod throttle;

use std::{net::IpAddr, sync::Arc, time::Duration};

pub use passwords::Passwords;
pub use throttle::Throttle;
pub(crate) use throttle::network;

use self::{
    expiring_cache::ExpiringCache,
    passwords::{DUMMY_HASH, Digest, REMEMBERED},
};
use crate::{
    domain::User,
    store::{StoreError, Users},
};

/// Why somebody is not logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// There is no such user, or the password is another; which one is not told.
    #[error("name or password is wrong")]
    Wrong,
    /// Too many failures from this address. It may try again after this time.
    #[error("too many failed log-ins, the next may come in {0:?}")]
    Throttled(Duration),
    /// Nobody knows.
    #[error("users cannot be read")]
    Store(#[from] StoreError),
}

/// How long credentials that fitted are no guess: they are checked again, but do not have to wait.
const PROVEN: Duration = Duration::from_hours(24);

/// Logs users in.
pub struct Accounts {
    users: Arc<dyn Users>,
    passwords: Arc<Passwords>,
    throttle: Throttle,
    logins: ExpiringCache<Digest, User>,
    /// Credentials that fitted when they were last tried.
    proven: ExpiringCache<Digest, ()>,
    known: ExpiringCache<String, User>,
}

impl Accounts {
    /// Nobody has logged in yet. Whatever else hashes passwords shares `passwords`, and so its
    /// bound.
    pub fn new(users: Arc<dyn Users>, passwords: Arc<Passwords>) -> Self {
        Self {
            users,
            passwords,
            throttle: Throttle::new(),
            logins: ExpiringCache::new(REMEMBERED),
            proven: ExpiringCache::new(PROVEN),
            known: ExpiringCache::new(REMEMBERED),
        }
    }

    /// Returns the user of this name, if it is the user's password. May be dropped at any point.
    pub async fn log_in(&self, id: &str, password: &str, from: IpAddr) -> Result<User, LoginError> {
        let login = self.checked(id, password, from).await;
        let outcome = match &login {
            Ok(_user) => "ok",
            Err(LoginError::Wrong) => {
                tracing::info!(client.address = %from, "login failed");
                "wrong"
            }
            Err(LoginError::Throttled(_wait)) => "throttled",
            Err(LoginError::Store(_error)) => return login,
        };
        metrics::counter!(crate::metrics::LOGINS, "outcome" => outcome).increment(1);
        login
    }

    /// Returns the user of this name, whose identity somebody else vouches for. A user that was
    /// removed is known a while longer.
    pub async fn known(&self, id: &str) -> Result<Option<User>, StoreError> {
        if let Some(user) = self.known.get(&id.to_owned()) {
            return Ok(Some(user));
        }
        let user = self.users.user(id).await?.map(|(user, _hash)| user);
        if let Some(user) = &user {
            self.known.put(id.to_owned(), user.clone());
        }
        Ok(user)
    }

    async fn checked(&self, id: &str, password: &str, from: IpAddr) -> Result<User, LoginError> {
        let credentials = self.passwords.digest(id, password);
        if let Some(user) = self.without_hash(&credentials, from)? {
            return Ok(user);
        }
        let (user, hash) = match self.users.user(id).await? {
            Some((user, hash)) => (Some(user), hash),
            None => (None, DUMMY_HASH.to_owned()),
        };
        let turn = self.passwords.turn().await;
        // Again, or many guesses at once would all pass before the first of them has failed. The
        // turn is held until the failure is noted, so that the next one sees it.
        if let Some(user) = self.without_hash(&credentials, from)? {
            return Ok(user);
        }
        let fits = turn.verify(password, &hash).await;
        if let Some(user) = user.filter(|_user| fits) {
            self.logins.put(credentials, user.clone());
            self.proven.put(credentials, ());
            Ok(user)
        } else {
            self.proven.forget(&credentials);
            self.throttle.failed(from);
            Err(LoginError::Wrong)
        }
    }

    /// Answers if no hash is needed: somebody is remembered, or the address has to wait.
    fn without_hash(&self, credentials: &Digest, from: IpAddr) -> Result<Option<User>, LoginError> {
        // Before the throttle: one guesser must not lock out who shares the address.
        if let Some(user) = self.logins.get(credentials) {
            return Ok(Some(user));
        }
        if self.proven.get(credentials).is_some() {
            return Ok(None);
        }
        self.throttle.wait(from).map_or(Ok(None), |wait| Err(LoginError::Throttled(wait)))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use async_trait::async_trait;
    use chrono::{DateTime, Utc};
    use futures_util::{FutureExt, future::join_all};
    use tokio::time::{advance, timeout};

    use super::{passwords::Turn, *};
    use crate::store::Result;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    /// One user, alice, and a count of the looks at the table.
    struct Table {
        hash: String,
        reads: AtomicUsize,
        away: bool,
    }

    #[async_trait]
    impl Users for Table {
        async fn add_user(&self, _user: &User, _password_hash: &str) -> Result<bool> {
            unreachable!("a log-in only reads")
        }

        async fn remove_user(&self, _id: &str, _now: DateTime<Utc>) -> Result<bool> {
            unreachable!("a log-in only reads")
        }

        async fn set_user_password(&self, _id: &str, _password_hash: &str) -> Result<bool> {
            unreachable!("a log-in only reads")
        }

        async fn user(&self, id: &str) -> Result<Option<(User, String)>> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.away {
                return Err(StoreError::TimedOut(Duration::from_secs(1)));
            }
            Ok((id == "alice").then(|| (alice(), self.hash.clone())))
        }

        async fn users(&self) -> Result<Vec<User>> {
            unreachable!("a log-in reads one user")
        }
    }

    fn alice() -> User {
        User { id: "alice".to_owned(), display_name: "Alice".to_owned(), groups: Vec::new() }
    }

    fn bob() -> User {
        User { id: "bob".to_owned(), ..alice() }
    }

    async fn accounts(away: bool) -> (Accounts, Arc<Table>) {
        let passwords = Arc::new(Passwords::new());
        let hash = passwords.hash("secret").await;
        let table = Arc::new(Table { hash, reads: AtomicUsize::new(0), away });
        (Accounts::new(Arc::<Table>::clone(&table), passwords), table)
    }

    /// Takes all turns, so that from now on a hash is waited for in vain.
    fn all_turns(accounts: &Accounts) -> Vec<Turn> {
        std::iter::from_fn(|| accounts.passwords.turn().now_or_never()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_log_in_is_remembered_as_a_whole_for_a_while() {
        let (accounts, table) = accounts(false).await;
        assert_eq!(accounts.log_in("alice", "secret", HERE).await.unwrap(), alice());
        let turns = all_turns(&accounts);
        assert_eq!(accounts.log_in("alice", "secret", ELSEWHERE).await.unwrap(), alice());
        assert_eq!(table.reads.load(Ordering::Relaxed), 1);
        drop(turns);
        advance(REMEMBERED).await;
        assert_eq!(accounts.log_in("alice", "secret", HERE).await.unwrap(), alice());
        assert_eq!(table.reads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_logged_in_meanwhile_needs_no_hash() {
        let (accounts, _table) = accounts(false).await;
        let turns = all_turns(&accounts);
        let mut login = pin!(accounts.log_in("alice", "secret", HERE));
        assert!(login.as_mut().now_or_never().is_none(), "it waits for its turn");
        accounts.logins.put(accounts.passwords.digest("alice", "secret"), bob());
        drop(turns);
        assert_eq!(login.await.unwrap(), bob(), "as remembered, not as read");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_and_an_unknown_name_cost_and_say_the_same() {
        let (accounts, _table) = accounts(false).await;
        for (id, password) in [("alice", "guess"), ("bob", "secret"), ("bob", "")] {
            let turns = all_turns(&accounts);
            let login = accounts.log_in(id, password, HERE);
            assert!(timeout(Duration::from_secs(1), login).await.is_err(), "{id}: no hash is made");
            drop(turns);
            let login = accounts.log_in(id, password, HERE).await;
            assert!(matches!(login, Err(LoginError::Wrong)), "{id}: {login:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_waits_and_those_who_share_the_address_do_not() {
        let (accounts, table) = accounts(false).await;
        accounts.log_in("alice", "secret", HERE).await.unwrap();
        for _ in 0..5 {
            let login = accounts.log_in("alice", "guess", HERE).await;
            assert!(matches!(login, Err(LoginError::Wrong)), "{login:?}");
        }
        let reads = table.reads.load(Ordering::Relaxed);
        let turns = all_turns(&accounts);
        let login = accounts.log_in("alice", "guess", HERE).await;
        assert!(
            matches!(login, Err(LoginError::Throttled(wait)) if wait == Duration::from_secs(1)),
            "{login:?}"
        );
        assert_eq!(table.reads.load(Ordering::Relaxed), reads, "it is refused before all work");
        assert_eq!(accounts.log_in("alice", "secret", HERE).await.unwrap(), alice());
        drop(turns);
        let login = accounts.log_in("alice", "guess", ELSEWHERE).await;
        assert!(matches!(login, Err(LoginError::Wrong)), "{login:?}");
        advance(Duration::from_secs(1)).await;
        let login = accounts.log_in("alice", "guess", HERE).await;
        assert!(matches!(login, Err(LoginError::Wrong)), "{login:?}");
        // Also when the login is not remembered any more, and somebody goes on guessing.
        advance(REMEMBERED).await;
        let login = accounts.log_in("alice", "guess", HERE).await;
        assert!(matches!(login, Err(LoginError::Wrong)), "{login:?}");
        let login = accounts.log_in("alice", "guess", HERE).await;
        assert!(matches!(login, Err(LoginError::Throttled(_))), "{login:?}");
        assert_eq!(accounts.log_in("alice", "secret", HERE).await.unwrap(), alice());
    }

    #[tokio::test(start_paused = true)]
    async fn many_guesses_at_once_are_throttled_too() {
        let (accounts, _table) = accounts(false).await;
        let turns = all_turns(&accounts).len();
        let guesses = (0..5 + turns + 20).map(|_| accounts.log_in("alice", "guess", HERE));
        let logins = join_all(guesses).await;
        let wrong = logins.iter().filter(|login| matches!(login, Err(LoginError::Wrong))).count();
        // Those that have a turn when the fifth fails are the only ones beyond it.
        assert!((5..5 + turns).contains(&wrong), "{wrong} guesses were looked at");
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_is_away_is_no_failure_of_the_user() {
        let (accounts, _table) = accounts(true).await;
        for _ in 0..10 {
            let login = accounts.log_in("alice", "secret", HERE).await;
            assert!(matches!(login, Err(LoginError::Store(_))), "{login:?}");
        }
        assert!(accounts.known("alice").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_user_is_remembered_and_an_unknown_one_is_not() {
        let (accounts, table) = accounts(false).await;
        for (id, reads) in [("alice", 1), ("alice", 1), ("bob", 2), ("bob", 3)] {
            let known = accounts.known(id).await.unwrap();
            assert_eq!(known, (id == "alice").then(alice));
            assert_eq!(table.reads.load(Ordering::Relaxed), reads, "{id}");
        }
        advance(REMEMBERED).await;
        assert_eq!(accounts.known("alice").await.unwrap(), Some(alice()));
        assert_eq!(table.reads.load(Ordering::Relaxed), 4);
    }
}
