//! Tokens for new rooms.

use sha2::{Digest, Sha256};

use crate::domain::RoomToken;

/// Letters and digits without those that look alike: 32, so that all are equally likely.
const ALPHABET: &str = "abcdefghijkmnopqrstuvwxyz2345679";

/// Length of a token of letters and digits: about 10^12 of them.
const LENGTH: usize = 8;

/// Length of a token that a telephone can dial: nearly 10^11 of them.
const DIALABLE_LENGTH: usize = 12;

/// Length of the token of a one-to-one room, which is derived from its name.
const ONE_TO_ONE_LENGTH: usize = 16;

/// A random token, one that a telephone can dial if there is a dial-in.
pub(super) fn random(dialable: bool) -> RoomToken {
    let mut token = String::new();
    if dialable {
        while token.len() < DIALABLE_LENGTH {
            let digit = char::from(rand::random_range(b'1'..=b'9'));
            if !token.ends_with(digit) {
                token.push(digit);
            }
        }
    } else {
        token.extend(rand::random::<[u8; LENGTH]>().map(letter));
    }
    parsed(&token)
}

/// The token of the one-to-one room of this name, after `number` former ones. It is unique, so that
/// two requests at once create one room.
pub(super) fn one_to_one(name: &str, number: u32) -> RoomToken {
    let digest = Sha256::digest(format!("{number} {name}").as_bytes());
    parsed(&digest.iter().take(ONE_TO_ONE_LENGTH).map(|byte| letter(*byte)).collect::<String>())
}

fn letter(byte: u8) -> char {
    ALPHABET.chars().nth(usize::from(byte % 32)).expect("the alphabet has 32 letters")
}

fn parsed(token: &str) -> RoomToken {
    RoomToken::parse(token).expect("letters and digits are a token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_can_be_dialed_if_there_is_a_dial_in() {
        for _ in 0..1000 {
            let dialable = random(true);
            assert!(dialable.is_dialable() && dialable.as_str().len() == DIALABLE_LENGTH);
            assert_eq!(random(false).as_str().len(), LENGTH);
        }
        assert_ne!(random(false), random(false));
        assert_eq!(ALPHABET.len(), 32);
    }

    #[test]
    fn two_users_have_one_token() {
        assert_eq!(one_to_one("a", 0), one_to_one("a", 0));
        assert_ne!(one_to_one("a", 0), one_to_one("b", 0));
        assert_ne!(one_to_one("a", 0), one_to_one("a", 1));
    }
}
