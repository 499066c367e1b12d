//! A hash for small numbers that we gave out ourselves: nobody can choose them so that they collide.

use std::hash::{BuildHasherDefault, Hasher};

/// Builds [`Mix`].
pub(crate) type Spread = BuildHasherDefault<Mix>;

/// Multiplies and folds, a few instructions a number.
#[derive(Default)]
pub(crate) struct Mix(u64);

/// An odd number whose bits look like chance: 2^64 over the golden ratio.
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        let wide = u128::from(self.0 ^ number ^ SCATTER) * u128::from(SCATTER);
        self.0 = (wide as u64) ^ (wide >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
