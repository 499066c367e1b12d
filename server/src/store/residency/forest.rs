//! Which blocks may be told of, and what must be said when that changes: pure, and kept by one thread.
//!
//! A block can be used only with all before it, and an index refuses a block whose parent it does not know. So a block is
//! told while every block before it is there, and not otherwise: it is held back until they come, and taken back when one
//! of them leaves, the deepest first. What is told is therefore a whole tree at every moment, and a snapshot of it says
//! exactly what the stream said.
//!
//! Invariants, all proved by [`Forest::check`]:
//! - T1: a block is told on the tiers that it is on if it is a root or its parent is told, and on none otherwise.
//! - T2: a block that is nowhere is remembered only while others wait for it.
//! - T3: children are listed once, with their parent.

use std::collections::HashMap;

use blocks::{Block, EngineHash, Event, Stored, Tier, TokensHash};

/// What is on which tier: a bit for memory, one for disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct On(pub(super) u8);

/// A block as the store knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its prefix hash.
    pub(super) prefix: u64,
    /// That of the block before it.
    pub(super) parent: Option<u64>,
    /// What it says.
    pub(super) tokens: u64,
}

/// All blocks that are there, and those that they wait for.
#[derive(Debug, Default)]
pub(super) struct Forest {
    places: HashMap<u64, At>,
    /// By place; free ones are chained by `next`.
    nodes: Vec<Node>,
    free: Option<At>,
    pub(super) told: usize,
    pub(super) held_back: usize,
}

/// What is to be said, in order.
#[derive(Debug, Default)]
pub(super) struct Tale {
    pub(super) events: Vec<Event>,
    pub(super) blocks: usize,
}

/// A place in the list of nodes; never `u32::MAX`, so that none costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At(std::num::NonZeroU32);

/// One block: 40 bytes.
#[derive(Clone, Copy, Debug)]
struct Node {
    prefix: u64,
    tokens: u64,
    parent: Option<At>,
    first: Option<At>,
    next: Option<At>,
    previous: Option<At>,
    here: On,
    told: On,
    /// Whether it begins a prompt: then it waits for nobody.
    root: bool,
}

const _: () = assert!(size_of::<Node>() <= 40);

// === impl On ===

impl On {
    pub(super) const NOWHERE: Self = Self(0);
    /// In whose words a copy is told. Memory must be nearer than disk, or an index could not tell how far memory alone
    /// reaches: see the module's head.
    pub(super) const TIERS: [(u8, Tier); 2] = [(1, Tier::Host), (2, Tier::Disk)];

    fn is_nowhere(self) -> bool {
        self == Self::NOWHERE
    }

    /// The tiers that are here and not there.
    fn without(self, other: Self) -> impl Iterator<Item = Tier> {
        let more = self.0 & !other.0;
        Self::TIERS.into_iter().filter(move |(bit, _)| more & bit != 0).map(|(_, tier)| tier)
    }
}

// === impl At ===

impl At {
    fn new(place: usize) -> Self {
        let number =
            u32::try_from(place).ok().and_then(|place| std::num::NonZeroU32::new(place.wrapping_add(1)));
        Self(number.unwrap_or_else(|| unreachable!("four thousand million blocks do not fit any memory")))
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

// === impl Forest ===

impl Forest {
    /// A block is on these tiers from now on.
    pub(super) fn set(&mut self, block: Seen, here: On, tale: &mut Tale) {
        let known = self.places.get(&block.prefix).copied();
        if here.is_nowhere() && known.is_none() {
            return;
        }
        let at = known.unwrap_or_else(|| self.add(block.prefix));
        if self.node(at).here.is_nowhere() && !here.is_nowhere() {
            self.join(at, &block);
        }
        let before = self.node(at).here;
        self.count(at, false);
        self.node_mut(at).here = here;
        self.count(at, true);
        if before != here {
            self.settle(at, tale);
        }
        if here.is_nowhere() {
            self.part(at);
            self.drop_if_idle(at);
        }
    }

    /// Says what is to be said of a block, and of those that hang on it.
    fn settle(&mut self, at: At, tale: &mut Tale) {
        let node = *self.node(at);
        let now = if self.is_open(&node) { node.here } else { On::NOWHERE };
        match (node.told.is_nowhere(), now.is_nowhere()) {
            (true, true) => {}
            (true, false) => self.tell_all(at, tale),
            (false, true) => self.take_back_all(at, tale),
            (false, false) => self.tell(at, now, tale),
        }
    }

    /// It and everything that waited for it, parents first.
    fn tell_all(&mut self, from: At, tale: &mut Tale) {
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            let here = self.node(at).here;
            if here.is_nowhere() || !self.node(at).told.is_nowhere() {
                continue;
            }
            self.tell(at, here, tale);
            open.extend(self.children(at));
        }
    }

    /// It and everything behind it, the deepest first.
    fn take_back_all(&mut self, from: At, tale: &mut Tale) {
        let mut all = vec![from];
        let mut done = 0;
        while let Some(at) = all.get(done).copied() {
            done += 1;
            let told = |child: &At| !self.node(*child).told.is_nowhere();
            all.extend(self.children(at).filter(told).collect::<Vec<_>>());
        }
        for at in all.into_iter().rev() {
            self.tell(at, On::NOWHERE, tale);
        }
    }

    /// Where it is told from now on. What is new comes first: a block that only moved was never away.
    fn tell(&mut self, at: At, now: On, tale: &mut Tale) {
        self.count(at, false);
        let node = self.node_mut(at);
        let before = std::mem::replace(&mut node.told, now);
        let (prefix, tokens, parent) = (EngineHash(node.prefix), TokensHash(node.tokens), node.parent);
        self.count(at, true);
        let parent = parent.map(|parent| EngineHash(self.node(parent).prefix));
        for tier in now.without(before) {
            tale.stored(parent, Block { engine: prefix, tokens }, tier);
        }
        for tier in before.without(now) {
            tale.removed(prefix, tier);
        }
    }

    fn is_open(&self, node: &Node) -> bool {
        node.root || node.parent.is_some_and(|parent| !self.node(parent).told.is_nowhere())
    }

    /// Nowhere -> somewhere: who it is, and behind whom.
    fn join(&mut self, at: At, block: &Seen) {
        let node = self.node_mut(at);
        (node.tokens, node.root) = (block.tokens, block.parent.is_none());
        let Some(parent) = block.parent else { return };
        let parent = self.places.get(&parent).copied().unwrap_or_else(|| self.add(parent));
        let first = self.node_mut(parent).first.replace(at);
        if let Some(first) = first {
            self.node_mut(first).previous = Some(at);
        }
        let node = self.node_mut(at);
        (node.parent, node.next, node.previous) = (Some(parent), first, None);
    }

    /// Somewhere -> nowhere: whoever only waited with it is forgotten.
    fn part(&mut self, at: At) {
        let Node { parent, next, previous, .. } = *self.node(at);
        let node = self.node_mut(at);
        (node.parent, node.next, node.previous, node.root) = (None, None, None, false);
        let Some(parent) = parent else { return };
        match previous {
            Some(previous) => self.node_mut(previous).next = next,
            None => self.node_mut(parent).first = next,
        }
        if let Some(next) = next {
            self.node_mut(next).previous = previous;
        }
        self.drop_if_idle(parent);
    }

    /// T2.
    fn drop_if_idle(&mut self, at: At) {
        let node = *self.node(at);
        if node.here.is_nowhere() && node.first.is_none() {
            self.places.remove(&node.prefix);
            self.node_mut(at).next = self.free.replace(at);
        }
    }

    fn add(&mut self, prefix: u64) -> At {
        let node = Node {
            prefix,
            tokens: 0,
            parent: None,
            first: None,
            next: None,
            previous: None,
            here: On::NOWHERE,
            told: On::NOWHERE,
            root: false,
        };
        let at = if let Some(at) = self.free {
            self.free = self.node(at).next;
            *self.node_mut(at) = node;
            at
        } else {
            self.nodes.push(node);
            At::new(self.nodes.len() - 1)
        };
        self.places.insert(prefix, at);
        at
    }

    fn children(&self, at: At) -> impl Iterator<Item = At> {
        std::iter::successors(self.node(at).first, |child| self.node(*child).next)
    }

    fn count(&mut self, at: At, is: bool) {
        let node = self.node(at);
        let counter = match (node.here.is_nowhere(), node.told.is_nowhere()) {
            (_, false) => &mut self.told,
            (false, true) => &mut self.held_back,
            (true, true) => return,
        };
        *counter = if is { *counter + 1 } else { *counter - 1 };
    }

    fn node(&self, at: At) -> &Node {
        &self.nodes[at.place()]
    }

    fn node_mut(&mut self, at: At) -> &mut Node {
        &mut self.nodes[at.place()]
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.places.capacity() * (size_of::<(u64, At)>() + 1)
    }

    /// The invariants of the module's head, one line each. Looks at everything.
    #[cfg(test)]
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let ensure = |holds: bool, name| if holds { Ok(()) } else { Err(name) };
        let mut counted = (0, 0);
        for (prefix, at) in &self.places {
            let node = self.node(*at);
            ensure(node.prefix == *prefix, "T3")?;
            let target = if self.is_open(node) { node.here } else { On::NOWHERE };
            ensure(node.told == target, "T1")?;
            ensure(!node.here.is_nowhere() || node.first.is_some() && node.parent.is_none(), "T2")?;
            let listed = node.parent.map(|parent| self.children(parent).filter(|child| child == at).count());
            ensure(listed.is_none_or(|listed| listed == 1), "T3")?;
            ensure(self.children(*at).all(|child| self.node(child).parent == Some(*at)), "T3")?;
            counted.0 += usize::from(!node.told.is_nowhere());
            counted.1 += usize::from(node.told.is_nowhere() && !node.here.is_nowhere());
        }
        ensure(counted == (self.told, self.held_back), "the counts")
    }
}

// === impl Tale ===

impl Tale {
    fn stored(&mut self, parent: Option<EngineHash>, block: Block, tier: Tier) {
        self.blocks += 1;
        if let Some(Event::Stored(run)) = self.events.last_mut()
            && run.tier == tier
            && parent.is_some()
            && run.blocks.last().map(|last| last.engine) == parent
        {
            return run.blocks.push(block);
        }
        self.events.push(Event::Stored(Stored { parent, blocks: vec![block], tier }));
    }

    fn removed(&mut self, block: EngineHash, tier: Tier) {
        self.blocks += 1;
        match self.events.last_mut() {
            Some(Event::Removed { blocks, tier: on }) if *on == tier => blocks.push(block),
            _ => self.events.push(Event::Removed { blocks: vec![block], tier }),
        }
    }
}
