//! Which blocks of one run are held, where that is not simply its beginning.

/// Blocks of one run at most: what fits a byte, and four words of bits.
pub(crate) const MOST: usize = 256;

/// A bit for each block of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bits([u64; MOST / 64]);

// === impl Bits ===

impl Bits {
    /// The first `len` blocks.
    pub(crate) fn upto(len: usize) -> Self {
        let word = |at: usize| match len.saturating_sub(at * 64) {
            0 => 0,
            some @ 1..64 => (1 << some) - 1,
            _ => u64::MAX,
        };
        Self(std::array::from_fn(word))
    }

    pub(crate) fn get(&self, at: u8) -> bool {
        self.0[at as usize / 64] & (1 << (at % 64)) != 0
    }

    pub(crate) fn set(&mut self, at: u8) {
        self.0[at as usize / 64] |= 1 << (at % 64);
    }

    pub(crate) fn clear(&mut self, at: u8) {
        self.0[at as usize / 64] &= !(1 << (at % 64));
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Blocks before the first that is missing.
    pub(crate) fn leading(&self) -> usize {
        let full = self.0.iter().take_while(|word| **word == u64::MAX).count();
        full * 64 + self.0.get(full).map_or(0, |word| word.trailing_ones() as usize)
    }

    /// One more than the last block.
    pub(crate) fn top(&self) -> usize {
        let last = self.0.iter().rposition(|word| *word != 0);
        last.map_or(0, |at| at * 64 + 64 - self.0[at].leading_zeros() as usize)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_count_from_the_first_block() {
        for len in [0, 1, 63, 64, 65, 200, 256] {
            let bits = Bits::upto(len);
            assert_eq!((bits.leading(), bits.top(), bits.count()), (len, len, len));
        }
        let mut bits = Bits::upto(130);
        bits.clear(70);
        bits.set(255);
        assert_eq!((bits.leading(), bits.top(), bits.count()), (70, 256, 130));
        assert!(bits.get(69) && !bits.get(70) && bits.get(255));
        assert_eq!(bits.or(Bits::upto(71)).leading(), 130);
    }
}
