//! Secrets by which clients are recognised: those of users, and guests.
//!
//! A secret carries a message authentication code, so a client cannot choose one: a page of another
//! site could otherwise give visitors a cookie that it knows. The key is in the database, because all
//! API processes have to recognise each other's clients, also after a restart.

use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use rand::distr::{Alphanumeric, SampleString};
use sha2::Sha256;

/// Random letters and digits of a secret: 131 bits.
const RANDOM_LENGTH: usize = 22;

/// Bytes of the code, which follows them in hexadecimal digits.
const CODE_BYTES: usize = 20;

const SECRET_LENGTH: usize = RANDOM_LENGTH + 2 * CODE_BYTES;

/// Letters and digits of a new key: 256 bits.
const KEY_LENGTH: usize = 43;

/// Makes secrets of clients, and recognises them.
#[derive(Debug, Clone)]
pub struct ClientSecrets(Hmac<Sha256>);

/// A secret that this server has made.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSecret(String);

impl ClientSecrets {
    pub fn new(key: &str) -> Self {
        Self(Hmac::new_from_slice(key.as_bytes()).expect("a key may have any length"))
    }

    /// A new key, for a database without one.
    pub fn random_key() -> String {
        Alphanumeric.sample_string(&mut rand::rng(), KEY_LENGTH)
    }

    pub fn create(&self) -> ClientSecret {
        let random = Alphanumeric.sample_string(&mut rand::rng(), RANDOM_LENGTH);
        let code = self.0.clone().chain_update(&random).finalize().into_bytes();
        let mut secret = random;
        for byte in code.iter().take(CODE_BYTES) {
            write!(secret, "{byte:02x}").expect("a String takes any text");
        }
        ClientSecret(secret)
    }

    /// Returns the secret if this server has made it.
    pub fn recognise(&self, secret: &str) -> Option<ClientSecret> {
        let (random, code) = secret.split_at_checked(RANDOM_LENGTH)?;
        let mut bytes = [0; CODE_BYTES];
        let digits = code.as_bytes().chunks(2);
        if secret.len() != SECRET_LENGTH || digits.len() != bytes.len() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(digits) {
            *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        }
        let verified = self.0.clone().chain_update(random).verify_truncated_left(&bytes);
        verified.is_ok().then(|| ClientSecret(secret.to_owned()))
    }
}

impl ClientSecret {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secrets_of_the_same_key_are_recognised() {
        let secrets = ClientSecrets::new("key");
        let secret = secrets.create();
        assert_eq!(secret.as_str().len(), SECRET_LENGTH);
        assert!(secrets.recognise(secret.as_str()) == Some(secret.clone()));
        assert!(ClientSecrets::new("key").recognise(secret.as_str()).is_some());
        assert!(ClientSecrets::new("other").recognise(secret.as_str()).is_none());
        assert!(secrets.create() != secret);
        let (random, code) = secret.as_str().split_at(RANDOM_LENGTH);
        for invented in [
            String::new(),
            "a".repeat(SECRET_LENGTH),
            "0".repeat(SECRET_LENGTH),
            "\u{e9}".repeat(SECRET_LENGTH / 2),
            format!("{}{code}", "a".repeat(RANDOM_LENGTH)),
            format!("{random}{}", &code[2..]),
            format!("{random}{code}0"),
        ] {
            assert!(secrets.recognise(&invented).is_none(), "{invented}");
        }
    }
}
