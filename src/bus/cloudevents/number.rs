//! Numbers, as scripts write them.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A whole number, which may be written as `1`, `1.0` or `"1"`. A fraction is refused: a time that
/// is rounded down would be early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WholeNumber(pub(super) i64);

struct Whole;

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Whole).map(WholeNumber)
    }
}

impl Visitor<'_> for Whole {
    type Value = i64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<i64, E> {
        Ok(number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<i64, E> {
        i64::try_from(number).map_err(|_too_large| E::custom(format!("{number} is too large")))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<i64, E> {
        if number.fract() != 0.0 {
            return Err(E::custom(format!("{number} is not a whole number")));
        }
        // Without its point it is the text of an integer.
        let digits = format!("{number:.0}");
        digits.parse().map_err(|_too_large| E::custom(format!("{number} is too large")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<i64, E> {
        let not_a_number = || E::custom(format!("{text:?} is not a whole number"));
        match text.parse() {
            Ok(number) => Ok(number),
            Err(_not_an_integer) => {
                self.visit_f64(text.parse().map_err(|_not_a_number| not_a_number())?)
            }
        }
    }
}
