//! Password hashes of users and of rooms.
//!
//! A hash takes tens of milliseconds of a core and 19 MiB, on purpose. So it runs on the blocking
//! pool, away from the threads of the timers, and only a few run at a time. No password is kept: the
//! cache holds digests, made with a key that ends with the process.

use std::net::IpAddr;
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::{Error, PasswordHasher, PasswordVerifier};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::expiring_cache::ExpiringCache;
use super::throttle::Throttle;

/// How long it is remembered that a password matches a hash, which stays true. This saves nearly all
/// hashes, because clients send the password with each poll.
pub(super) const VERIFIED_TTL: Duration = Duration::from_hours(24);

/// Most logins that are hashed at the same time, for their memory.
const MAX_LOGINS: usize = 4;

/// Dummy hash for unknown users, so that they take as long as known ones. No password is known that
/// hashes to 32 bytes of zeros.
pub(super) const DUMMY_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                                     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Identifies a pair of texts, one of them a password, without revealing either.
pub(super) type Digest = [u8; 32];

/// Hashes and verifies passwords: Argon2id with the parameters that OWASP recommends, as strings in
/// PHC format. It does not limit the length of a password; its callers do.
pub struct Passwords {
    permits: Arc<Semaphore>,
    /// For the passwords of rooms, so that those who set and guess them delay no login.
    room_permits: Arc<Semaphore>,
    key: [u8; 32],
    verified: ExpiringCache<Digest, ()>,
}

impl Passwords {
    pub fn new() -> Self {
        // The other half of the cores is left for the timers.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            permits: Arc::new(Semaphore::new((cores / 2).clamp(1, MAX_LOGINS))),
            room_permits: Arc::new(Semaphore::new(1)),
            key: rand::random(),
            verified: ExpiringCache::new(VERIFIED_TTL),
        }
    }

    /// Hashes a password with a new salt.
    pub async fn hash(&self, password: &str) -> String {
        let password = password.to_owned();
        let hash = move || Argon2::default().hash_password(password.as_bytes());
        let hash = HashPermit::of(&self.room_permits).await.run(hash).await;
        hash.expect("the system has random numbers and memory").to_string()
    }

    /// Whether `hash`, that of the room, was made from `password`. A success is cached, and then
    /// exempt from throttling; a failure counts against the address and the room. The error is the
    /// time that has to pass after too many failures.
    pub async fn verify(
        &self,
        password: &str,
        hash: &str,
        room: &str,
        from: IpAddr,
        throttle: &Throttle,
    ) -> Result<bool, Duration> {
        let pair = self.digest(hash, password);
        if self.verified.get(&pair).is_some() {
            return Ok(true);
        }
        throttle.retry_after(from, room).map_or(Ok(()), Err)?;
        let permit = HashPermit::of(&self.room_permits).await;
        // Again: of many clients that send the same password at once, few need a hash, and of many
        // guesses at once the first ones count.
        if self.verified.get(&pair).is_some() {
            return Ok(true);
        }
        throttle.begin(from, room).map_or(Ok(()), Err)?;
        let verified = permit.verify(password, hash).await;
        if verified {
            self.verified.insert(pair, ());
            throttle.record_success(from, room);
        } else {
            throttle.record_failure(from, room);
        }
        Ok(verified)
    }

    /// Waits for the right to compute a hash for a login, first come, first served. A caller that stops waiting
    /// drops the future.
    pub(super) async fn permit(&self) -> HashPermit {
        HashPermit::of(&self.permits).await
    }

    /// A text of bounded length by which a name is known while the process runs.
    pub(super) fn name(&self, name: &str) -> String {
        let digest = self.digest(name, "");
        let (half, _rest) = digest.split_first_chunk().expect("it has 32 bytes");
        format!("{:032x}", u128::from_be_bytes(*half))
    }

    /// The key under which something about a name, or a hash, and a password is cached.
    pub(super) fn digest(&self, name: &str, password: &str) -> Digest {
        Sha256::new_with_prefix(self.key)
            // The length shows where the name ends, so that no other pair has the same bytes.
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

/// The right to the core and the memory for a hash. Shared by the caller and by the hash, so that it
/// is released when both are done: a hash that was begun goes on after its caller has left.
pub(super) struct HashPermit(Arc<OwnedSemaphorePermit>);

impl HashPermit {
    async fn of(permits: &Arc<Semaphore>) -> Self {
        let permit = Arc::clone(permits).acquire_owned().await;
        Self(Arc::new(permit.expect("the semaphore is never closed")))
    }

    /// Whether `hash` was made from `password`.
    pub(super) async fn verify(&self, password: &str, hash: &str) -> bool {
        let (password, hash) = (password.to_owned(), hash.to_owned());
        let verify = move || Argon2::default().verify_password(password.as_bytes(), hash.as_str());
        match self.run(verify).await {
            Ok(()) => true,
            Err(Error::PasswordInvalid) => false,
            Err(error) => {
                // Once, or a client that tries again and again would fill the log.
                static LOGGED: Once = Once::new();
                LOGGED.call_once(|| {
                    tracing::error!(%error, "password hash invalid, no password will match it");
                });
                false
            }
        }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = Arc::clone(&self.0);
        let work = move || {
            let done = work();
            drop(permit);
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

    /// Takes all permits: from now on no hash can be computed.
    fn take_permits(passwords: &Passwords) -> Vec<HashPermit> {
        std::iter::from_fn(|| HashPermit::of(&passwords.room_permits).now_or_never()).collect()
    }

    async fn verify_at_once(passwords: &Passwords, password: &str, hash: &str) -> bool {
        timeout(Duration::from_secs(1), verify(passwords, password, hash)).await == Ok(true)
    }

    /// With a throttle of its own, which has no failures yet.
    async fn verify(passwords: &Passwords, password: &str, hash: &str) -> bool {
        let from = IpAddr::from([192, 0, 2, 1]);
        passwords.verify(password, hash, "room", from, &Throttle::room_passwords()).await.unwrap()
    }

    #[tokio::test]
    async fn concurrent_guesses_are_counted_one_after_another() {
        let (passwords, throttle) = (Passwords::new(), Throttle::room_passwords());
        let from = IpAddr::from([192, 0, 2, 1]);
        let guesses: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        let guess = |guess| passwords.verify(guess, DUMMY_HASH, "room", from, &throttle);
        let answers = futures_util::future::join_all(guesses.iter().map(|each| guess(each))).await;
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        assert!(refused > 20, "{answers:?}");
    }

    #[tokio::test]
    async fn only_the_hashed_password_is_verified() {
        let passwords = Passwords::new();
        let hash = passwords.hash("correct horse").await;
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, passwords.hash("correct horse").await, "the salt is new");
        assert!(verify(&passwords, "correct horse", &hash).await);
        assert!(!verify(&passwords, "correct horsf", &hash).await);
        assert!(!verify(&passwords, "", &hash).await);
    }

    #[tokio::test]
    async fn no_password_matches_an_invalid_hash() {
        let passwords = Passwords::new();
        for hash in ["", "secret", "$argon2id$", "$2b$12$abc", "$argon2id$v=19$m=1,t=0,p=0$AA$AA"] {
            assert!(!verify(&passwords, "secret", hash).await, "{hash}");
        }
    }

    #[tokio::test]
    async fn the_dummy_hash_costs_as_much_as_a_real_one() {
        let real = Passwords::new().hash("secret").await;
        let parameters = |hash: &str| hash.rsplitn(3, '$').last().map(str::to_owned);
        assert_eq!(parameters(DUMMY_HASH), parameters(&real));
        assert_eq!(DUMMY_HASH.len(), real.len());
        let verified = Argon2::default().verify_password(b"secret", DUMMY_HASH);
        assert_eq!(verified, Err(Error::PasswordInvalid), "it was computed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_verified_password_is_cached_and_needs_no_permit() {
        let passwords = Passwords::new();
        let hash = passwords.hash("secret").await;
        assert!(verify(&passwords, "secret", &hash).await);
        assert!(!verify(&passwords, "wrong", &hash).await);
        let permits = take_permits(&passwords);
        assert!(!permits.is_empty());
        assert!(verify_at_once(&passwords, "secret", &hash).await);
        assert!(!verify_at_once(&passwords, "wrong", &hash).await);
        advance(VERIFIED_TTL).await;
        assert!(!verify_at_once(&passwords, "secret", &hash).await, "it is verified again");
        drop(permits);
        assert!(verify(&passwords, "secret", &hash).await);
    }

    #[tokio::test]
    async fn a_password_that_was_verified_meanwhile_needs_no_hash() {
        let passwords = Passwords::new();
        let permits = take_permits(&passwords);
        let mut waiting = pin!(verify(&passwords, "secret", DUMMY_HASH));
        assert_eq!(waiting.as_mut().now_or_never(), None, "it waits for a permit");
        passwords.verified.insert(passwords.digest(DUMMY_HASH, "secret"), ());
        drop(permits);
        assert!(waiting.await);
    }

    #[tokio::test]
    async fn a_permit_is_released_although_the_caller_has_left() {
        let passwords = Passwords::new();
        let permits = take_permits(&passwords);
        let count = permits.len();
        for permit in permits {
            assert!(permit.verify("secret", DUMMY_HASH).now_or_never().is_none());
        }
        let released = futures_util::future::join_all((0..count).map(|_| passwords.permit())).await;
        assert_eq!(released.len(), count);
    }

    #[test]
    fn digests_differ_between_pairs_and_processes() {
        let passwords = Passwords::new();
        let digest = passwords.digest("ab", "c");
        assert_eq!(digest, passwords.digest("ab", "c"));
        assert_ne!(digest, passwords.digest("a", "bc"));
        assert_ne!(digest, Passwords::new().digest("ab", "c"));
    }
}
