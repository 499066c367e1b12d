//! A frequency sketch: roughly how often each key was touched lately, in eight bytes a key.
//!
//! It remembers a fingerprint of each key beside its [`Heat`], in buckets of eight. It grows with the keys that it is asked about,
//! up to a bound; past that the coldest of a bucket makes room. A count-min sketch errs upwards when it is too full: keys
//! that were read once look hot. This one errs downwards: a key that had to make room starts again.
//!
//! Two keys share a count if they share a bucket and the other bits of their 32: of `n` keys in buckets of eight, one touch
//! meets another key's count with a chance of about `n / 2^32`.

use crate::master::heat::{Heat, Moment};

/// How often each key was touched lately.
#[derive(Debug, Default)]
pub struct Sketch {
    /// A power of two, or none.
    buckets: Vec<Bucket>,
    used: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket([Entry; WAYS]);

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// 32 bits of the key's hash. The lower ones choose the bucket.
    mark: u32,
    /// Cold if the entry is free.
    heat: Heat,
}

const WAYS: usize = 8;

/// Where it begins: 64 entries, 512 bytes.
const LEAST: usize = 8;

impl Sketch {
    /// One touch of the key with this hash; how often it was touched lately, with this touch.
    ///
    /// `keys` is how many there may be: the sketch grows to at most four entries for each.
    pub fn touch(&mut self, hash: u64, keys: usize, now: Moment) -> u8 {
        let mark = mark(hash);
        if self.buckets.is_empty() {
            self.buckets.resize(LEAST, Bucket::default());
        }
        let at = self.bucket(mark);
        if let Some(entry) = self.buckets[at].0.iter_mut().find(|e| e.mark == mark && !e.free()) {
            entry.heat.touch(now);
            return entry.heat.score(now);
        }
        self.insert(Entry { mark, heat: Heat::first(now) }, keys, now);
        1
    }

    /// How often the key with this hash was touched lately.
    pub fn score(&self, hash: u64, now: Moment) -> u8 {
        let mark = mark(hash);
        let Some(bucket) = self.buckets.get(self.bucket(mark)) else { return 0 };
        bucket.0.iter().find(|e| e.mark == mark && !e.free()).map_or(0, |e| e.heat.score(now))
    }

    /// Bytes that it uses.
    pub fn bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }

    fn insert(&mut self, new: Entry, keys: usize, now: Moment) {
        let (at, entries) = (self.bucket(new.mark), self.buckets.len() * WAYS);
        let may_grow = entries < keys.saturating_mul(2) && self.used * 2 > entries;
        let coldest = self.buckets[at].0.iter_mut().min_by_key(|e| e.warmth(now));
        let Some(coldest) = coldest else { return };
        if coldest.warmth(now) > 0 && may_grow {
            self.grow(now);
            return self.insert(new, keys, now);
        }
        self.used += usize::from(coldest.free());
        *coldest = new;
    }

    /// Twice as many buckets: one more bit of each mark chooses.
    fn grow(&mut self, now: Moment) {
        let old = std::mem::take(&mut self.buckets);
        self.buckets.resize(old.len() * 2, Bucket::default());
        self.used = 0;
        for entry in old.iter().flat_map(|bucket| bucket.0).filter(|e| e.warmth(now) > 0) {
            let at = self.bucket(entry.mark);
            if let Some(free) = self.buckets[at].0.iter_mut().find(|e| e.free()) {
                *free = entry;
                self.used += 1;
            }
        }
    }

    fn bucket(&self, mark: u32) -> usize {
        mark as usize & self.buckets.len().wrapping_sub(1)
    }
}

impl Entry {
    fn free(self) -> bool {
        self.heat == Heat::default()
    }

    fn warmth(self, now: Moment) -> u8 {
        if self.free() { 0 } else { self.heat.score(now) }
    }
}

/// Bits that chose neither the shard (the upper ones) nor the row of its table (the lower ones).
fn mark(hash: u64) -> u32 {
    (hash >> 16) as u32
}

#[cfg(test)]
mod tests;
