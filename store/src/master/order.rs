//! In which order copies leave: SIEVE, a queue with a hand that goes from the oldest to the newest.
//!
//! Whatever the hand meets either leaves or stays in its place, and the hand goes on. What was read since the hand came by
//! last is spared once. A copy that comes in is the newest. Everything is one step: nothing is scanned.
//!
//! Entries lie in pages that never move: a list that grows never copies what it has.

use super::name::Version;

/// Entries of many queues, by number.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pages: Vec<Box<[Entry; PAGE]>>,
    /// The first free entry.
    free: u32,
    used: usize,
}

/// Where an object is: its shard, and its row there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place(pub(super) u32);

/// One copy in a queue.
#[derive(Clone, Copy, Debug)]
struct Entry {
    older: u32,
    newer: u32,
    at: Place,
    /// The lower half of the version: enough to tell an object from what has its row later.
    version: u32,
}

/// The number of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(pub(super) u32);

/// One queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sieve {
    oldest: u32,
    newest: u32,
    /// What is looked at next; if none, the oldest.
    hand: u32,
    pub(super) len: u32,
    /// Looked at since something left.
    pub(super) fruitless: u32,
}

/// Entries in a page: 64 KiB.
const PAGE: usize = 4_096;
const NONE: u32 = u32::MAX;

impl Default for Sieve {
    fn default() -> Self {
        Self { oldest: NONE, newest: NONE, hand: NONE, len: 0, fruitless: 0 }
    }
}

impl Place {
    /// Bits of a row: four million objects a shard.
    const ROW: u32 = 22;

    pub(super) fn new(shard: usize, row: usize) -> Self {
        Self((shard as u32) << Self::ROW | row as u32)
    }

    pub(super) fn shard(self) -> usize {
        (self.0 >> Self::ROW) as usize
    }

    pub(super) fn row(self) -> usize {
        (self.0 & ((1 << Self::ROW) - 1)) as usize
    }

    /// Rows that a shard may have.
    pub(super) const ROWS: usize = 1 << Self::ROW;
    /// Shards that there may be.
    pub(super) const SHARDS: usize = 1 << (32 - Self::ROW);
}

impl Link {
    pub(super) const NONE: Self = Self(NONE);
}

impl Entries {
    /// The newest of a queue.
    pub(super) fn push(&mut self, queue: &mut Sieve, at: Place, version: Version) -> Link {
        let link = self.take();
        *self.get(link) = Entry { older: queue.newest, newer: NONE, at, version: version.0 as u32 };
        match queue.newest {
            NONE => queue.oldest = link,
            newest => self.get(newest).newer = link,
        }
        queue.newest = link;
        queue.len += 1;
        Link(link)
    }

    /// Out of its queue.
    pub(super) fn remove(&mut self, queue: &mut Sieve, link: Link) {
        let Entry { older, newer, .. } = *self.get(link.0);
        match older {
            NONE => queue.oldest = newer,
            older => self.get(older).newer = newer,
        }
        match newer {
            NONE => queue.newest = older,
            newer => self.get(newer).older = older,
        }
        if queue.hand == link.0 {
            queue.hand = newer;
        }
        queue.len -= 1;
        queue.fruitless = 0;
        self.get(link.0).newer = self.free;
        self.free = link.0;
        self.used -= 1;
    }

    /// What the hand is at; it goes on by one.
    pub(super) fn next(&mut self, queue: &mut Sieve) -> Option<(Link, Place, u32)> {
        let link = if queue.hand == NONE { queue.oldest } else { queue.hand };
        if link == NONE {
            return None;
        }
        let entry = *self.get(link);
        queue.hand = entry.newer;
        queue.fruitless = queue.fruitless.saturating_add(1);
        Some((Link(link), entry.at, entry.version))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Everything in a queue, oldest first; for checks.
    pub(super) fn list(&self, queue: &Sieve) -> Vec<(Link, Place, u32)> {
        let mut link = queue.oldest;
        let mut list = Vec::new();
        while link != NONE && list.len() <= self.used {
            let entry = &self.pages[link as usize / PAGE][link as usize % PAGE];
            list.push((Link(link), entry.at, entry.version));
            link = entry.newer;
        }
        list
    }

    fn take(&mut self) -> u32 {
        if self.used == self.pages.len() * PAGE {
            let first = (self.pages.len() * PAGE) as u32;
            let mut page = vec![Entry { older: NONE, newer: NONE, at: Place(0), version: 0 }; PAGE];
            for (entry, next) in page.iter_mut().zip(first + 1..) {
                entry.newer = next;
            }
            let Ok(page) = <Box<[Entry; PAGE]>>::try_from(page.into_boxed_slice()) else {
                unreachable!("a page has as many entries as a page has")
            };
            self.pages.push(page);
            self.free = first;
        }
        let link = self.free;
        self.free = self.get(link).newer;
        self.used += 1;
        link
    }

    fn get(&mut self, link: u32) -> &mut Entry {
        &mut self.pages[link as usize / PAGE][link as usize % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hand_goes_from_the_oldest_to_the_newest_and_begins_again() {
        let (mut entries, mut queue) = (Entries::default(), Sieve::default());
        let links: Vec<Link> =
            (0..5).map(|n| entries.push(&mut queue, Place(n), Version(n.into()))).collect();
        let look = |entries: &mut Entries, queue: &mut Sieve| entries.next(queue).map(|(_, at, _)| at.0);
        assert_eq!(
            (0..7).filter_map(|_| look(&mut entries, &mut queue)).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 0, 1]
        );
        entries.remove(&mut queue, links[2]);
        assert_eq!(
            look(&mut entries, &mut queue),
            Some(3),
            "what the hand was at is gone: it is at the next"
        );
        entries.push(&mut queue, Place(9), Version(9));
        assert_eq!((0..3).filter_map(|_| look(&mut entries, &mut queue)).collect::<Vec<_>>(), [4, 9, 0]);
        for (link, ..) in entries.list(&queue) {
            entries.remove(&mut queue, link);
        }
        assert_eq!((look(&mut entries, &mut queue), queue.len, entries.len()), (None, 0, 0));
    }

    #[test]
    fn many_queues_share_entries_and_none_is_lost_or_given_out_twice() {
        let (mut entries, mut queues) = (Entries::default(), [Sieve::default(); 7]);
        let mut model: Vec<Vec<(Link, u32)>> = vec![Vec::new(); 7];
        let mut chance = 42_u64;
        for step in 0..60_000_u32 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (queue, what) = ((chance >> 33) as usize % 7, (chance >> 40) as usize);
            // Long runs of growth and of shrinking.
            if (step / 10_000 % 2 == 0) == (what % 4 != 0) {
                model[queue].push((entries.push(&mut queues[queue], Place(step), Version(0)), step));
            } else if !model[queue].is_empty() {
                let at = what % model[queue].len();
                let (link, _) = model[queue].remove(at);
                entries.remove(&mut queues[queue], link);
            }
        }
        for (queue, expected) in queues.iter().zip(&model) {
            let found: Vec<_> = entries.list(queue).into_iter().map(|(link, at, _)| (link, at.0)).collect();
            assert_eq!(&found, expected);
        }
        assert_eq!(entries.len(), model.iter().map(Vec::len).sum::<usize>());
    }
}
