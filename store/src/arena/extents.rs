//! Which parts of a region are free: best fit, and neighbours that are free are one part.
//!
//! Pure: numbers only, no memory is touched here. Sizes are rounded to one of 64 steps between powers of two, so that what a
//! block of a megabyte leaves behind takes the next one; that wastes less than one part in 32, and less than [`GRAIN`] for
//! small ones. Small blocks take the low end of their hole and large ones the high end, which keeps the small and long-lived
//! from breaking up the room that large ones need.
//!
//! Invariants, all proved by [`Extents::check`]:
//! - X1: both orders hold the same parts.
//! - X2: parts lie inside the region and do not touch each other.
//! - X3: `free` is the sum of the parts.

use std::collections::{BTreeMap, BTreeSet};

/// The smallest part, and what every part begins at a multiple of: a line of the processor's cache.
pub const GRAIN: u64 = 64;

/// Steps of sizes between one power of two and the next.
const STEPS: u64 = 64;

/// From this size on a block takes the high end of its hole.
const LARGE: u64 = 256 * 1024;

/// The free parts of a region.
#[derive(Clone, Debug)]
pub(super) struct Extents {
    capacity: u64,
    free: u64,
    by_place: BTreeMap<u64, u64>,
    by_size: BTreeSet<(u64, u64)>,
}

/// Bytes that are set aside for a block of so many.
pub const fn rounded(len: u64) -> u64 {
    let len = if len < GRAIN { GRAIN } else { len };
    let step = (1 << len.ilog2()) / STEPS;
    len.next_multiple_of(if step < GRAIN { GRAIN } else { step })
}

impl Extents {
    /// All free; a rest that is no whole grain is never given away.
    #[must_use]
    pub(super) fn new(capacity: u64) -> Self {
        let capacity = capacity / GRAIN * GRAIN;
        let mut extents = Self { capacity, free: 0, by_place: BTreeMap::new(), by_size: BTreeSet::new() };
        if capacity > 0 {
            extents.insert(0, capacity);
        }
        extents
    }

    /// Takes a part for `len` bytes and says where it begins; it has [`rounded`] bytes.
    pub(super) fn take(&mut self, len: u64) -> Option<u64> {
        let wanted = rounded(len);
        let (size, at) = *self.by_size.range((wanted, 0)..).next()?;
        self.remove(at, size);
        let rest = size - wanted;
        let (given, left) = if wanted >= LARGE { (at + rest, at) } else { (at, at + wanted) };
        if rest > 0 {
            self.insert(left, rest);
        }
        debug_assert!(self.capacity > 1 << 20 || self.check() == Ok(()), "{:?}", self.check());
        Some(given)
    }

    /// Gives a part back that [`Extents::take`] gave for `len` bytes.
    pub(super) fn give_back(&mut self, at: u64, len: u64) {
        let (mut at, mut size) = (at, rounded(len));
        let before = self.by_place.range(..at).next_back().map(|(at, size)| (*at, *size));
        if let Some((place, more)) = before
            && place + more == at
        {
            self.remove(place, more);
            (at, size) = (place, size + more);
        }
        if let Some(more) = self.by_place.get(&(at + size)).copied() {
            self.remove(at + size, more);
            size += more;
        }
        self.insert(at, size);
        debug_assert!(self.capacity > 1 << 20 || self.check() == Ok(()), "{:?}", self.check());
    }

    /// Bytes that are free, wherever they lie.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// The most that can be had now in one part.
    pub(super) fn largest(&self) -> u64 {
        self.by_size.last().map_or(0, |(size, _)| *size)
    }

    /// Into how many parts what is free is broken.
    pub(super) fn parts(&self) -> usize {
        self.by_place.len()
    }

    /// What can be given away at all.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The invariants of the module header.
    ///
    /// # Errors
    /// The name of the first invariant that does not hold.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let same = self.by_place.iter().all(|(at, size)| self.by_size.contains(&(*size, *at)));
        ensure(same && self.by_place.len() == self.by_size.len(), "X1")?;
        let mut end = None;
        for (at, size) in &self.by_place {
            ensure(end.is_none_or(|end| end < *at) && *size > 0 && at + size <= self.capacity, "X2")?;
            end = Some(at + size);
        }
        ensure(self.by_place.values().sum::<u64>() == self.free, "X3")
    }

    fn insert(&mut self, at: u64, size: u64) {
        self.by_place.insert(at, size);
        self.by_size.insert((size, at));
        self.free += size;
    }

    fn remove(&mut self, at: u64, size: u64) {
        self.by_place.remove(&at);
        self.by_size.remove(&(size, at));
        self.free -= size;
    }
}

fn ensure(holds: bool, name: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(name) }
}
