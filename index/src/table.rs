//! A set of numbers, found by the hash of what they stand for: each question touches one cache line.

use crate::arena::Id;

/// Numbers by a hash of what they stand for, which the table does not keep: whoever asks looks it up.
///
/// A line of memory holds twelve numbers and a byte of each one's hash. A number that does not fit its own line lies
/// in one of the next, and every line that it passed counts it, so that a search knows when to stop.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: Vec<Line>,
    len: usize,
}

/// One cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Line {
    /// A byte of each one's hash, 0 where there is none; the last four bytes are nobody's.
    tags: [u8; 16],
    ids: [Id; WIDTH],
}

/// Numbers a line.
const WIDTH: usize = 12;

/// Where a line keeps how many numbers passed it: two bytes behind the tags.
const PASSED: std::ops::Range<usize> = 12..14;

/// Numbers a line on average, at most. More, and too many pass their own line.
const FULL: usize = 10;

/// Where a number is, until the table changes.
#[derive(Clone, Copy)]
pub(crate) struct At {
    line: usize,
    lane: usize,
}

/// A hash, as the table reads it.
#[derive(Clone, Copy)]
struct Hashed {
    home: usize,
    tag: u8,
}

// === impl Table ===

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where the number with this hash is that `is` it.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(Id) -> bool) -> Option<At> {
        if self.lines.is_empty() {
            return None;
        }
        let Hashed { home, tag } = self.hashed(hash);
        let mut at = home;
        loop {
            let line = &self.lines[at];
            let mut same = line.with(tag);
            while same != 0 {
                let lane = same.trailing_zeros() as usize / 8;
                if lane < WIDTH && is(line.ids[lane]) {
                    return Some(At { line: at, lane });
                }
                same &= same - 1;
            }
            if !line.is_passed() {
                return None;
            }
            at = self.next(at);
            if at == home {
                return None;
            }
        }
    }

    #[inline]
    pub(crate) fn id(&self, at: At) -> Id {
        self.lines[at.line].ids[at.lane]
    }

    /// Reads something of the line that a hash belongs to.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) -> u8 {
        self.lines.get(self.hashed(hash).home).map_or(0, |line| line.tags[0])
    }

    /// Whether another number needs more memory; then [`Table::rebuild`].
    pub(crate) fn is_full(&self) -> bool {
        self.len >= self.lines.len() * FULL
    }

    /// Whether most of the memory is unused; then [`Table::rebuild`].
    pub(crate) fn is_sparse(&self) -> bool {
        self.lines.len() > 8 && self.len < self.lines.len() * FULL / 8
    }

    /// Exchanges everything for these numbers and their hashes, with room for as many again.
    pub(crate) fn rebuild(&mut self, ids: impl Iterator<Item = (u64, Id)>) {
        let lines = if self.len == 0 && self.lines.is_empty() { 1 } else { (self.len * 2).div_ceil(FULL) };
        *self = Self { lines: vec![Line::default(); lines], len: 0 };
        ids.for_each(|(hash, id)| self.insert(hash, id));
    }

    /// Adds a number that is not there. There must be room.
    pub(crate) fn insert(&mut self, hash: u64, id: Id) {
        let Hashed { home, tag } = self.hashed(hash);
        let mut at = home;
        loop {
            let line = &mut self.lines[at];
            let lane = line.with(0).trailing_zeros() as usize / 8;
            if lane < WIDTH {
                line.tags[lane] = tag;
                line.ids[lane] = id;
                self.len += 1;
                return;
            }
            line.pass(1);
            at = self.next(at);
        }
    }

    /// Removes the number with this hash that was found there.
    pub(crate) fn remove(&mut self, hash: u64, At { line: found, lane }: At) {
        self.lines[found].tags[lane] = 0;
        let mut at = self.hashed(hash).home;
        while at != found {
            self.lines[at].pass(-1);
            at = self.next(at);
        }
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    /// Whether every number lies in its own line or behind full ones, and all that passed a line are counted there.
    pub(crate) fn is_whole(&self, hash: impl Fn(Id) -> u64) -> bool {
        let mut passed = vec![0_u16; self.lines.len()];
        let mut len = 0;
        for (number, line) in self.lines.iter().enumerate() {
            for lane in (0..WIDTH).filter(|lane| line.tags[*lane] != 0) {
                let Hashed { home, tag } = self.hashed(hash(line.ids[lane]));
                let mut at = home;
                while at != number {
                    passed[at] += 1;
                    at = self.next(at);
                }
                len += usize::from(tag == line.tags[lane]);
            }
        }
        let counted = self
            .lines
            .iter()
            .map(|line| u16::from_le_bytes([line.tags[PASSED.start], line.tags[PASSED.start + 1]]));
        len == self.len && counted.eq(passed)
    }

    fn hashed(&self, hash: u64) -> Hashed {
        let home = (u128::from(hash) * self.lines.len() as u128) >> 64;
        Hashed { home: home as usize, tag: (hash as u8).max(1) }
    }

    fn next(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
    }
}

// === impl Line ===

impl Line {
    /// The lanes with this tag, as the top bit of a byte each. Exact: a lane that is empty may name nothing any more.
    #[inline]
    fn with(&self, tag: u8) -> u128 {
        const ONES: u128 = u128::from_ne_bytes([1; 16]);
        const LOW: u128 = ONES * 0x7f;
        let different = u128::from_le_bytes(self.tags) ^ (ONES * u128::from(tag));
        !(((different & LOW) + LOW) | different | LOW)
    }

    fn is_passed(&self) -> bool {
        self.tags[PASSED] != [0; 2]
    }

    fn pass(&mut self, by: i16) {
        let passed = u16::from_le_bytes([self.tags[PASSED.start], self.tags[PASSED.start + 1]]);
        self.tags[PASSED].copy_from_slice(&passed.wrapping_add_signed(by).to_le_bytes());
    }
}
