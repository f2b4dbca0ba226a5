//! Hashes of passwords, of users and of rooms.
//!
//! A hash takes tens of milliseconds of a core and 19 MiB, on purpose. So it is made beside the
//! threads that keep the timers, and only a few are made at once. No password is kept: what is
//! remembered is a digest of it, with a key that ends with the process.

use std::{
    net::IpAddr,
    sync::{Arc, Once},
    thread,
    time::Duration,
};

use argon2::{
    Argon2,
    password_hash::{Error, PasswordHasher, PasswordVerifier},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{expiring_cache::ExpiringCache, throttle::Throttle};

/// How long something that was found good is good without another look. Clients poll every few
/// seconds, each time with the password, so nearly all hashes are saved; a password that was changed
/// and a user that was removed are good for that long still.
pub(super) const REMEMBERED: Duration = Duration::from_mins(1);

/// The hash of no password: nobody finds one that gives 32 bytes of zeros. It costs what a real one
/// costs.
pub(super) const DUMMY_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                                     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Stands for a name and a password without telling either.
pub(super) type Digest = [u8; 32];

/// Makes and verifies hashes of passwords: Argon2id with the parameters that OWASP recommends, as
/// strings in PHC format. It takes a password of any length; whoever takes it from outside bounds
/// it.
pub struct Passwords {
    turns: Arc<Semaphore>,
    key: [u8; 32],
    fitting: ExpiringCache<Digest, ()>,
}

impl Passwords {
    /// Remembers nothing yet.
    pub fn new() -> Self {
        // The other half of the cores is left for the timers.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            turns: Arc::new(Semaphore::new((cores / 2).max(1))),
            key: rand::random(),
            fitting: ExpiringCache::new(REMEMBERED),
        }
    }

    /// Hashes a password with a new salt.
    ///
    /// # Panics
    ///
    /// The system has no random numbers or no memory.
    pub async fn hash(&self, password: &str) -> String {
        let password = password.to_owned();
        let hash = move || Argon2::default().hash_password(password.as_bytes());
        let hash = self.turn().await.take(hash).await;
        hash.expect("the system has random numbers and memory").to_string()
    }

    /// Whether it is the password that was hashed. That it is gets remembered, so that the next
    /// look costs nothing; that it is not counts as a failure of the address that it comes from.
    ///
    /// # Errors
    ///
    /// Too many failures from there; it may try again after this time.
    pub async fn fits(
        &self,
        password: &str,
        hash: &str,
        from: IpAddr,
        throttle: &Throttle,
    ) -> Result<bool, Duration> {
        let pair = self.digest(hash, password);
        let without_hash = || match (self.fitting.get(&pair), throttle.wait(from)) {
            (Some(()), _) => Ok(true),
            (None, Some(wait)) => Err(wait),
            (None, None) => Ok(false),
        };
        if without_hash()? {
            return Ok(true);
        }
        let turn = self.turn().await;
        // Again: of many who come with the same password at once, few need a hash, and of many
        // guesses at once the first ones count.
        if without_hash()? {
            return Ok(true);
        }
        let fits = turn.verify(password, hash).await;
        if fits {
            self.fitting.put(pair, ());
        } else {
            throttle.failed(from);
        }
        Ok(fits)
    }

    /// Waits for a turn to hash: they come in the order of asking. Whoever does not want to wait
    /// any more drops the future.
    pub(super) async fn turn(&self) -> Turn {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        Turn(Arc::new(turn.expect("the semaphore is never closed")))
    }

    /// A key under which to remember something about a name and a password.
    pub(super) fn digest(&self, name: &str, password: &str) -> Digest {
        Sha256::new_with_prefix(self.key)
            // Where the name ends, so that no other pair reads the same.
            .chain_update(name.len().to_le_bytes())
            .chain_update(name)
            .chain_update(password)
            .finalize()
            .into()
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

/// The right to the core and the memory for a hash. Held by who waits for it and by the hash, so
/// that it is given back when both are done: a hash goes on when nobody waits for it any more.
pub(super) struct Turn(Arc<OwnedSemaphorePermit>);

impl Turn {
    /// Whether it is the password that was hashed.
    pub(super) async fn verify(&self, password: &str, hash: &str) -> bool {
        let (password, hash) = (password.to_owned(), hash.to_owned());
        let verify = move || Argon2::default().verify_password(password.as_bytes(), hash.as_str());
        match self.take(verify).await {
            Ok(()) => true,
            Err(Error::PasswordInvalid) => false,
            Err(error) => {
                // Once, or whoever tries again and again would fill the log.
                static COMPLAINT: Once = Once::new();
                COMPLAINT.call_once(|| {
                    tracing::error!(%error, "password hash invalid, no password will match it");
                });
                false
            }
        }
    }

    async fn take<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let held = Arc::clone(&self.0);
        let work = move || {
            let done = work();
            drop(held);
            done
        };
        tokio::task::spawn_blocking(work).await.expect("hashing does not panic")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::time::{advance, timeout};

    use super::*;

    /// Takes all turns, so that from now on a hash is waited for in vain.
    fn all_turns(passwords: &Passwords) -> Vec<Turn> {
        std::iter::from_fn(|| passwords.turn().now_or_never()).collect()
    }

    async fn fits_at_once(passwords: &Passwords, password: &str, hash: &str) -> bool {
        timeout(Duration::from_secs(1), fits(passwords, password, hash)).await == Ok(true)
    }

    /// Without a throttle that would remember.
    async fn fits(passwords: &Passwords, password: &str, hash: &str) -> bool {
        let from = IpAddr::from([192, 0, 2, 1]);
        passwords.fits(password, hash, from, &Throttle::new()).await.unwrap()
    }

    #[tokio::test]
    async fn many_guesses_at_once_are_counted_before_the_next() {
        let (passwords, throttle) = (Passwords::new(), Throttle::new());
        let from = IpAddr::from([192, 0, 2, 1]);
        let guesses: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        let guess = |guess| passwords.fits(guess, DUMMY_HASH, from, &throttle);
        let answers = futures_util::future::join_all(guesses.iter().map(|each| guess(each))).await;
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        assert!(refused > 20, "{answers:?}");
    }

    #[tokio::test]
    async fn only_the_password_that_was_hashed_fits() {
        let passwords = Passwords::new();
        let hash = passwords.hash("correct horse").await;
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, passwords.hash("correct horse").await, "the salt is new");
        assert!(fits(&passwords, "correct horse", &hash).await);
        assert!(!fits(&passwords, "correct horsf", &hash).await);
        assert!(!fits(&passwords, "", &hash).await);
    }

    #[tokio::test]
    async fn nothing_fits_what_is_no_hash() {
        let passwords = Passwords::new();
        for hash in ["", "secret", "$argon2id$", "$2b$12$abc", "$argon2id$v=19$m=1,t=0,p=0$AA$AA"] {
            assert!(!fits(&passwords, "secret", hash).await, "{hash}");
        }
    }

    #[tokio::test]
    async fn the_hash_of_no_password_costs_what_a_real_one_costs() {
        let real = Passwords::new().hash("secret").await;
        let parameters = |hash: &str| hash.rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(parameters(DUMMY_HASH), parameters(&real));
        assert_eq!(DUMMY_HASH.len(), real.len());
        let verified = Argon2::default().verify_password(b"secret", DUMMY_HASH);
        assert_eq!(verified, Err(Error::PasswordInvalid), "it was computed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_fits_is_remembered_for_a_while_and_needs_no_turn() {
        let passwords = Passwords::new();
        let hash = passwords.hash("secret").await;
        assert!(fits(&passwords, "secret", &hash).await);
        assert!(!fits(&passwords, "wrong", &hash).await);
        let turns = all_turns(&passwords);
        assert!(!turns.is_empty());
        assert!(fits_at_once(&passwords, "secret", &hash).await);
        assert!(!fits_at_once(&passwords, "wrong", &hash).await);
        advance(REMEMBERED).await;
        assert!(!fits_at_once(&passwords, "secret", &hash).await, "it is looked at again");
        drop(turns);
        assert!(fits(&passwords, "secret", &hash).await);
    }

    #[tokio::test]
    async fn what_was_found_meanwhile_needs_no_hash() {
        let passwords = Passwords::new();
        let turns = all_turns(&passwords);
        let mut waiting = pin!(fits(&passwords, "secret", DUMMY_HASH));
        assert_eq!(waiting.as_mut().now_or_never(), None, "it waits for its turn");
        passwords.fitting.put(passwords.digest(DUMMY_HASH, "secret"), ());
        drop(turns);
        assert!(waiting.await);
    }

    #[tokio::test]
    async fn a_turn_comes_back_although_nobody_waits_for_the_hash() {
        let passwords = Passwords::new();
        let turns = all_turns(&passwords);
        let count = turns.len();
        for turn in turns {
            assert!(turn.verify("secret", DUMMY_HASH).now_or_never().is_none());
        }
        let back: Vec<Turn> =
            futures_util::future::join_all((0..count).map(|_| passwords.turn())).await;
        assert_eq!(back.len(), count);
    }

    #[test]
    fn digests_tell_pairs_and_processes_apart() {
        let passwords = Passwords::new();
        let digest = passwords.digest("ab", "c");
        assert_eq!(digest, passwords.digest("ab", "c"));
        assert_ne!(digest, passwords.digest("a", "bc"));
        assert_ne!(digest, Passwords::new().digest("ab", "c"));
    }
}
