//! Hashes and proofs of passwords.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::{
    sync::{OnceCell, Semaphore},
    task::spawn_blocking,
};

use super::recent::Recent;

/// Argon2id with the parameters that the crate recommends: 19 MiB and some ten milliseconds each.
pub struct Passwords {
    /// Half of the cores at most, so that a crowd that logs in delays no timer, and takes no more
    /// memory than that many hashes.
    turns: Semaphore,
    /// Pairs of password and hash that were found to fit.
    proven: Recent<()>,
    nobody: OnceCell<String>,
}

impl Default for Passwords {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            turns: Semaphore::new((cores / 2).max(1)),
            proven: Recent::default(),
            nobody: OnceCell::new(),
        }
    }
}

impl Passwords {
    /// Hashes a password, with a salt of its own, in the PHC string format.
    ///
    /// # Panics
    ///
    /// The system gives no random numbers.
    pub async fn hash(&self, password: &str) -> String {
        let password = password.to_owned();
        self.in_turn(move || {
            let hash = Argon2::default().hash_password(password.as_bytes());
            hash.expect("the recommended parameters fit any password").to_string()
        })
        .await
    }

    /// Whether the password is the one that was hashed. Remembered for a minute if it is.
    pub async fn fits(&self, password: &str, hash: &str) -> bool {
        let pair = self.proven.key(&[hash, password]);
        if self.proven.get(&pair).is_some() {
            return true;
        }
        let (password, hash) = (password.to_owned(), hash.to_owned());
        let fits = self.in_turn(move || verify(&password, &hash)).await;
        if fits {
            self.proven.put(pair, ());
        }
        fits
    }

    /// A hash that no password fits: a login of nobody takes as long as one of somebody.
    pub(super) async fn of_nobody(&self) -> String {
        let random: [u8; 16] = rand::random();
        let password = random.map(char::from).iter().collect::<String>();
        self.nobody.get_or_init(async || self.hash(&password).await).await.clone()
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _turn = self.turns.acquire().await.expect("nobody closes the semaphore");
        spawn_blocking(work).await.expect("hashing does not panic")
    }
}

fn verify(password: &str, hash: &str) -> bool {
    match PasswordHash::new(hash) {
        Ok(hash) => Argon2::default().verify_password(password.as_bytes(), &hash).is_ok(),
        Err(error) => {
            tracing::error!(%error, "the database holds a password hash that cannot be read");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_password_that_was_hashed_fits() {
        let passwords = Passwords::default();
        let hash = passwords.hash("secret").await;
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert_ne!(hash, passwords.hash("secret").await, "each has a salt of its own");
        for _remembered in [false, true] {
            assert!(passwords.fits("secret", &hash).await);
            assert!(!passwords.fits("Secret", &hash).await);
        }
        assert!(!passwords.fits("secret", "no hash").await);
        assert!(!passwords.fits("", &passwords.of_nobody().await).await);
    }
}
