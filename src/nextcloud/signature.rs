//! The signature of requests that know a shared secret: those of Talk's SIP bridge, and those of a
//! backend to its signaling servers.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Length of the random text in bytes; Talk requires 32 characters.
const RANDOM_BYTES: usize = 32;

/// A new random text, and the checksum of it and `data`: HMAC-SHA256, in hexadecimal digits.
pub(super) fn sign(secret: &str, data: &str) -> (String, String) {
    let random = hex(&rand::random::<[u8; RANDOM_BYTES]>());
    let checksum = checksum(secret, &random, data);
    (random, checksum)
}

fn checksum(secret: &str, random: &str, data: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key may have any length");
    mac.update(random.as_bytes());
    mac.update(data.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String accepts any text");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_random_text_and_token() {
        // By `printf %s RANDOMTOKEN | openssl dgst -sha256 -hmac SECRET`.
        let random = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            checksum("the shared secret", random, "abc123"),
            "b68b2534c93fc1b801bd376f9ee32af2566a48826bc0af0852b7ba9f0fe2ee30"
        );
        let (random, signed) = sign("the shared secret", "abc123");
        assert_eq!(random.len(), 64);
        assert_eq!(signed, checksum("the shared secret", &random, "abc123"));
    }
}
