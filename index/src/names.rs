//! What one worker calls its blocks: where the block behind each engine hash lies, and how many copies there are.

use std::collections::HashMap;

use blocks::{EngineHash, Tier};

use crate::arena::{Arena, Id};
use crate::shard::Place;
use crate::table::Table;

/// One name of one worker: its chunk's number, and which of the chunk's names it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Name(u32);

/// Where a block lies among all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub(crate) shard: u8,
    pub(crate) at: u8,
    pub(crate) run: Id,
}

/// The names of one worker.
///
/// A name costs eight bytes for itself, two for its share of a chunk, and a number of four bytes in the table.
#[derive(Debug, Default)]
pub(crate) struct Names {
    table: Table,
    chunks: Arena<Chunk>,
    /// Copies of one name on one tier beyond the first. Engines rarely have them.
    more: HashMap<(Name, Tier), u32>,
    /// Names of one block on one tier beyond the first. Rarer still.
    twins: HashMap<(Spot, Tier), u32>,
    /// Blocks that count as held because a request was sent, until when in tenths of a second.
    pub(crate) expected: HashMap<Spot, u32>,
    /// Set when the worker's slot has been given up: whoever still holds the names must not write.
    pub(crate) gone: bool,
}

/// Names of up to eight blocks of one run that stand side by side.
#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    run: Id,
    shard: u8,
    /// The place of the first block, in eighths.
    group: u8,
    /// On which tiers each of them has a copy. A block without any has no name here.
    tiers: [u8; 4],
    names: [u64; WIDTH as usize],
}

/// Names a chunk: an eighth of a run's word of bits, and as many as fit a mask of one byte.
const WIDTH: u8 = 8;

/// What is left after a copy went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The block still has a copy there.
    Held,
    /// It was the last one on that tier.
    Gone,
}

// === impl Spot ===

impl Spot {
    pub(crate) fn new(shard: usize, place: Place) -> Self {
        Self { shard: shard as u8, at: place.at, run: place.run }
    }

    pub(crate) fn place(self) -> Place {
        Place { run: self.run, at: self.at }
    }
}

// === impl Name ===

impl Name {
    fn new(chunk: Id, lane: u8) -> Self {
        Self(chunk * u32::from(WIDTH) + u32::from(lane))
    }

    fn chunk(self) -> Id {
        self.0 / u32::from(WIDTH)
    }

    fn lane(self) -> u8 {
        (self.0 % u32::from(WIDTH)) as u8
    }
}

// === impl Names ===

impl Names {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    #[inline]
    pub(crate) fn find(&self, engine: EngineHash) -> Option<Name> {
        let at = self.table.find(spread(engine.0), |id| self.engine(Name(id)) == engine)?;
        Some(Name(self.table.id(at)))
    }

    /// Looks all these names up and forgets the answers: nothing hangs on one of them, so the processor waits for
    /// their memory at the same time, and not for one after the other when they are needed.
    pub(crate) fn warm(&self, engines: impl Iterator<Item = EngineHash> + Clone) {
        let lines = engines.clone().map(|engine| self.table.touch(spread(engine.0)));
        let names = engines.map(|engine| self.find(engine).map_or(0, |name| name.0));
        std::hint::black_box(lines.fold(0, |all, line| all ^ line));
        std::hint::black_box(names.fold(0, |all, name| all ^ name));
    }

    pub(crate) fn engine(&self, name: Name) -> EngineHash {
        EngineHash(self.chunk(name).names[name.lane() as usize])
    }

    pub(crate) fn spot(&self, name: Name) -> Spot {
        let chunk = self.chunk(name);
        Spot { shard: chunk.shard, at: chunk.group * WIDTH + name.lane(), run: chunk.run }
    }

    pub(crate) fn is_on(&self, name: Name, tier: Tier) -> bool {
        self.chunk(name).tiers[tier as usize] & (1 << name.lane()) != 0
    }

    /// Copies of a name on a tier.
    pub(crate) fn copies(&self, name: Name, tier: Tier) -> u32 {
        let more = if self.more.is_empty() { 0 } else { self.more.get(&(name, tier)).copied().unwrap_or(0) };
        u32::from(self.is_on(name, tier)) + more
    }

    /// A new name for a block, with one copy on a tier. `near` is a name given just before: probably a neighbour.
    pub(crate) fn insert(&mut self, engine: EngineHash, spot: Spot, tier: Tier, near: Option<Name>) -> Name {
        let lane = spot.at % WIDTH;
        let fits = |chunk: &Chunk| {
            (chunk.run, chunk.shard, chunk.group) == (spot.run, spot.shard, spot.at / WIDTH)
                && chunk.used() & (1 << lane) == 0
        };
        let near = near.map(Name::chunk).filter(|id| self.chunks.get(*id).is_some_and(fits));
        let id = near.unwrap_or_else(|| {
            let empty =
                Chunk { run: spot.run, shard: spot.shard, group: spot.at / WIDTH, ..Chunk::default() };
            self.chunks.insert(empty)
        });
        if let Some(chunk) = self.chunks.get_mut(id) {
            chunk.names[lane as usize] = engine.0;
            chunk.tiers[tier as usize] |= 1 << lane;
        }
        let name = Name::new(id, lane);
        if self.table.is_full() {
            self.rebuild(); // the new name is in its chunk already
        } else {
            self.table.insert(spread(engine.0), name.0);
        }
        name
    }

    /// One more copy of a name on a tier; whether it is the first there.
    pub(crate) fn add(&mut self, name: Name, tier: Tier) -> bool {
        if self.is_on(name, tier) {
            *self.more.entry((name, tier)).or_default() += 1;
            return false;
        }
        if let Some(chunk) = self.chunks.get_mut(name.chunk()) {
            chunk.tiers[tier as usize] |= 1 << name.lane();
        }
        true
    }

    /// One copy less of what an engine calls so, and where that is. A name without copies is forgotten.
    pub(crate) fn subtract(&mut self, engine: EngineHash, tier: Tier) -> Option<(Spot, Left)> {
        let hash = spread(engine.0);
        let at = self.table.find(hash, |id| self.engine(Name(id)) == engine)?;
        let name = Name(self.table.id(at));
        let spot = self.spot(name);
        let chunk = self.chunks.get_mut(name.chunk())?;
        let bit = 1 << name.lane();
        if chunk.tiers[tier as usize] & bit == 0 {
            return None;
        }
        if !self.more.is_empty()
            && let Some(more) = self.more.get_mut(&(name, tier))
        {
            *more -= 1;
            if *more == 0 {
                self.more.remove(&(name, tier));
                give_back(&mut self.more);
            }
            return Some((spot, Left::Held));
        }
        chunk.tiers[tier as usize] &= !bit;
        let used = chunk.used();
        if used & bit == 0 {
            self.table.remove(hash, at);
            if used == 0 {
                self.chunks.take(name.chunk());
            }
            if self.table.is_sparse() {
                self.rebuild();
            }
        }
        Some((spot, if self.untwin(spot, tier) { Left::Held } else { Left::Gone }))
    }

    /// Forgets a name with all its copies; the tiers on which its block is held no longer.
    pub(crate) fn forget(&mut self, engine: EngineHash, name: Name) -> impl Iterator<Item = Tier> + use<> {
        let copies = Tier::ALL.map(|tier| (tier, self.copies(name, tier)));
        let mut last = |(tier, copies)| {
            (0..copies).any(|_| self.subtract(engine, tier).is_some_and(|(_, left)| left == Left::Gone))
        };
        let gone = copies.map(&mut last);
        Tier::ALL.into_iter().filter(move |tier| gone[*tier as usize])
    }

    /// Another name holds this block on this tier already.
    pub(crate) fn twin(&mut self, spot: Spot, tier: Tier) {
        *self.twins.entry((spot, tier)).or_default() += 1;
    }

    /// Takes one name of a block away; whether another one is left.
    fn untwin(&mut self, spot: Spot, tier: Tier) -> bool {
        if self.twins.is_empty() {
            return false;
        }
        let Some(more) = self.twins.get_mut(&(spot, tier)) else { return false };
        *more -= 1;
        if *more == 0 {
            self.twins.remove(&(spot, tier));
            give_back(&mut self.twins);
        }
        true
    }

    fn rebuild(&mut self) {
        let mut table = std::mem::take(&mut self.table);
        table.rebuild(self.iter().map(|name| (spread(self.engine(name).0), name.0)));
        self.table = table;
    }

    /// Every name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Name> {
        self.chunks.iter().flat_map(|(id, chunk)| {
            let used = chunk.used();
            (0..WIDTH).filter(move |lane| used & (1 << lane) != 0).map(move |lane| Name::new(id, lane))
        })
    }

    /// Every block with a copy on a tier, sorted by shard, once a name. All names are forgotten; expectations stay.
    pub(crate) fn take(&mut self) -> Vec<(Spot, Tier)> {
        let mut all = Vec::with_capacity(self.len());
        for name in self.iter() {
            let on = Tier::ALL.into_iter().filter(|tier| self.is_on(name, *tier));
            all.extend(on.map(|tier| (self.spot(name), tier)));
        }
        all.sort_unstable_by_key(|(spot, _)| spot.shard);
        *self = Self { expected: std::mem::take(&mut self.expected), gone: self.gone, ..Self::default() };
        all
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let side = self.more.capacity() * size_of::<((Name, Tier), u32)>()
            + self.twins.capacity() * size_of::<((Spot, Tier), u32)>()
            + self.expected.capacity() * size_of::<(Spot, u32)>();
        self.table.heap_bytes() + self.chunks.heap_bytes() + side
    }

    /// Every name is found by its engine hash, and the table holds nothing else.
    pub(crate) fn is_whole(&self) -> bool {
        self.iter().count() == self.table.len()
            && self.table.is_whole(|id| spread(self.engine(Name(id)).0))
            && self.iter().all(|name| self.find(self.engine(name)) == Some(name))
            && self.more.iter().all(|((name, tier), more)| *more > 0 && self.is_on(*name, *tier))
    }

    /// Names of a block on a tier beyond the first.
    pub(crate) fn twins(&self, spot: Spot, tier: Tier) -> u32 {
        self.twins.get(&(spot, tier)).copied().unwrap_or(0)
    }

    fn chunk(&self, name: Name) -> &Chunk {
        self.chunks.get(name.chunk()).unwrap_or_else(|| unreachable!("a name in use has a chunk"))
    }
}

// === impl Chunk ===

impl Chunk {
    fn used(&self) -> u8 {
        self.tiers.iter().fold(0, |used, tier| used | tier)
    }
}

fn give_back<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>) {
    if map.is_empty() {
        *map = HashMap::new();
    }
}

/// Engine hashes are an engine's to choose; small numbers must not crowd one corner of the table.
fn spread(engine: u64) -> u64 {
    let wide = u128::from(engine ^ 0x2545_f491_4f6c_dd1d) * 0x9e37_79b9_7f4a_7c15;
    (wide >> 64) as u64 ^ wide as u64
}
