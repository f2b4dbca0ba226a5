//! PINs with which users dial in to a room by telephone.

use std::collections::BTreeSet;
use std::ops::Range;

/// PINs have seven digits, as in Talk.
const PINS: Range<u32> = 1_000_000..10_000_000;

/// The PINs in use in one room. A PIN identifies one participant of the room.
#[derive(Debug, Default)]
pub struct Pins(BTreeSet<String>);

impl Pins {
    pub fn in_use(pins: impl IntoIterator<Item = String>) -> Self {
        Self(pins.into_iter().collect())
    }

    /// Draws a PIN that is not in use, and counts it as used from then on. As in Talk, no digit
    /// follows itself: participants mistype it. `random` returns a number of the range that it is
    /// given.
    pub fn assign(&mut self, mut random: impl FnMut(Range<u32>) -> u32) -> String {
        loop {
            let pin = random(PINS).to_string();
            let mut pairs = pin.as_bytes().windows(2);
            let has_double_digit = pairs.any(|pair| pair.first() == pair.last());
            if !has_double_digit && self.0.insert(pin.clone()) {
                return pin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_that_is_in_use_or_has_a_double_digit_is_drawn_again() {
        let mut pins = Pins::in_use(["1010101".to_owned()]);
        let mut numbers = [1_010_101, 1_234_566, 7_654_321].into_iter();
        assert_eq!(pins.assign(|_range| numbers.next().unwrap()), "7654321");
        let mut numbers = [7_654_321, 1_234_567].into_iter();
        assert_eq!(pins.assign(|_range| numbers.next().unwrap()), "1234567");
    }
}
