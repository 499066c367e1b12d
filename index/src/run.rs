//! A run: blocks one behind the other, and who holds which of them.

use blocks::{PrefixHash, Tier, TokensHash};
use smallvec::SmallVec;

use crate::arena::Arena;
use crate::bits::{Bits, MOST};

/// Blocks one behind the other, without a fork. Other runs may begin behind any of them.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// The prefix that ends with the first block; runs are found by it.
    pub(crate) head: u64,
    /// The prefix that ends with the last block.
    tail: u64,
    /// The prefix before the first block, if `depth` is not 0.
    before: u64,
    /// Blocks before the first.
    pub(crate) depth: u32,
    /// What the blocks say. The last ones may be held by nobody; see [`Run::trim`].
    tokens: Vec<TokensHash>,
    /// Where other runs were seen to begin, and the prefixes that end there: only to save their computation.
    #[expect(clippy::box_collection, reason = "a vector is three words, and most runs have no fork")]
    forks: Option<Box<Vec<Fork>>>,
    /// Sorted by slot and plane.
    pub(crate) holdings: SmallVec<[Holding; 2]>,
}

/// A block of a run behind which other runs begin, and the prefix that ends with it.
#[derive(Clone, Copy, Debug)]
struct Fork {
    at: u8,
    prefix: PrefixHash,
}

/// Which blocks of a run one worker holds on one plane. Eight bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) slot: u16,
    pub(crate) plane: Plane,
    /// If not, the first `value` blocks are held; if so, `value` is the number of their [`Bits`].
    sparse: bool,
    value: u32,
}

/// Where a worker holds a block: on a tier, or nowhere yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Plane {
    /// Counted as held on the device because a request was sent, until an event says so or time runs out.
    Expected,
    Told(Tier),
}

/// The sparse holdings of a shard.
pub(crate) type Sparse = Arena<Bits>;

// === impl Run ===

impl Run {
    /// A run of one block.
    pub(crate) fn new(behind: Option<(PrefixHash, u32)>, tokens: TokensHash, capacity: usize) -> Self {
        let head = PrefixHash::after(behind.map(|(prefix, _)| prefix), tokens).0;
        let mut run = Self {
            head,
            tail: head,
            before: behind.map_or(0, |(prefix, _)| prefix.0),
            depth: behind.map_or(0, |(_, depth)| depth),
            tokens: Vec::with_capacity(capacity.clamp(1, MOST)),
            forks: None,
            holdings: SmallVec::new(),
        };
        run.tokens.push(tokens);
        run
    }

    pub(crate) fn tokens(&self) -> &[TokensHash] {
        &self.tokens
    }

    /// The prefix before the first block; `None` if that is a root.
    pub(crate) fn before(&self) -> Option<PrefixHash> {
        (self.depth > 0).then_some(PrefixHash(self.before))
    }

    /// The prefix that ends with a block.
    pub(crate) fn prefix(&self, at: usize) -> PrefixHash {
        if at + 1 == self.tokens.len() {
            return PrefixHash(self.tail);
        }
        if let Some(fork) = self.forks().iter().find(|fork| fork.at as usize == at) {
            return fork.prefix;
        }
        let rest = &self.tokens[1..=at];
        rest.iter().fold(PrefixHash(self.head), |prefix, tokens| prefix.then(*tokens))
    }

    /// Remembers a prefix that will be asked for again.
    pub(crate) fn fork(&mut self, at: u8, prefix: PrefixHash) {
        let forks = self.forks.get_or_insert_default();
        if forks.iter().all(|fork| fork.at != at) {
            forks.push(Fork { at, prefix });
        }
    }

    fn forks(&self) -> &[Fork] {
        self.forks.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Adds a block at the end, if there is room. `more` are likely to follow.
    pub(crate) fn push(&mut self, tokens: TokensHash, prefix: PrefixHash, more: usize) -> bool {
        let len = self.tokens.len();
        if len == MOST {
            return false;
        }
        if len == self.tokens.capacity() {
            self.tokens.reserve_exact((more + 1).max(len / 4).min(MOST - len));
        }
        self.tokens.push(tokens);
        self.tail = prefix.0;
        true
    }

    /// Gives back the end that nobody holds, once it is half of the run: so a block that goes pays for one hash.
    pub(crate) fn trim(&mut self, sparse: &Sparse) {
        let half = self.tokens.len() / 2;
        if half == 0 || self.holdings.iter().any(|holding| holding.top(sparse) > half) {
            return;
        }
        let top = self.holdings.iter().map(|holding| holding.top(sparse)).max().unwrap_or(0).max(1);
        self.tail = self.prefix(top - 1).0;
        if let Some(forks) = &mut self.forks {
            forks.retain(|fork| (fork.at as usize) < top);
        }
        self.tokens.truncate(top);
        self.tokens.shrink_to_fit();
    }

    /// Blocks that anybody holds.
    pub(crate) fn held(&self, sparse: &Sparse) -> usize {
        let all = self.holdings.iter().map(|holding| holding.bits(sparse));
        all.fold(Bits::default(), Bits::or).count()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let spilled = if self.holdings.spilled() { self.holdings.capacity() } else { 0 };
        let forks =
            self.forks.as_ref().map_or(0, |forks| size_of_val(forks) + forks.capacity() * size_of::<Fork>());
        self.tokens.capacity() * size_of::<TokensHash>() + spilled * size_of::<Holding>() + forks
    }

    pub(crate) fn find(&self, slot: u16, plane: Plane) -> Result<usize, usize> {
        // Nearly always there are few, and the first is it.
        if let [only] = self.holdings[..] {
            return match (only.slot, only.plane).cmp(&(slot, plane)) {
                std::cmp::Ordering::Equal => Ok(0),
                std::cmp::Ordering::Less => Err(1),
                std::cmp::Ordering::Greater => Err(0),
            };
        }
        self.holdings.binary_search_by_key(&(slot, plane), |holding| (holding.slot, holding.plane))
    }

    pub(crate) fn holds(&self, at: u8, slot: u16, plane: Plane, sparse: &Sparse) -> bool {
        self.find(slot, plane).is_ok_and(|found| self.holdings[found].bits(sparse).get(at))
    }

    /// A worker holds a block from now on; whether it held it already.
    pub(crate) fn set(&mut self, at: u8, slot: u16, plane: Plane, sparse: &mut Sparse) -> bool {
        match self.find(slot, plane) {
            Ok(found) => self.holdings[found].set(at, sparse),
            Err(place) => {
                let mut holding = Holding { slot, plane, sparse: false, value: 0 };
                holding.set(at, sparse);
                self.holdings.insert(place, holding);
                false
            }
        }
    }

    /// A worker holds a block no longer; whether it did.
    pub(crate) fn clear(&mut self, at: u8, slot: u16, plane: Plane, sparse: &mut Sparse) -> bool {
        let Ok(found) = self.find(slot, plane) else { return false };
        let holding = &mut self.holdings[found];
        let held = holding.clear(at, sparse);
        if !holding.sparse && holding.value == 0 {
            self.holdings.remove(found);
            if self.holdings.spilled() && self.holdings.len() <= self.holdings.capacity() / 4 {
                self.holdings.shrink_to_fit();
            }
        }
        if held && (at as usize) < self.tokens.len() / 2 {
            self.trim(sparse);
        }
        held
    }
}

// === impl Holding ===

impl Holding {
    /// Blocks from the first on that are held, if these are all.
    pub(crate) fn dense(self) -> Option<usize> {
        (!self.sparse).then_some(self.value as usize)
    }

    pub(crate) fn bits(self, sparse: &Sparse) -> Bits {
        if self.sparse {
            sparse.get(self.value).copied().unwrap_or_default()
        } else {
            Bits::upto(self.value as usize)
        }
    }

    /// One more than the last block that is held.
    fn top(self, sparse: &Sparse) -> usize {
        self.dense().unwrap_or_else(|| self.bits(sparse).top())
    }

    fn set(&mut self, at: u8, sparse: &mut Sparse) -> bool {
        let value = self.value;
        if self.sparse {
            let Some(bits) = sparse.get_mut(value) else { return false };
            let held = bits.get(at);
            bits.set(at);
            self.settle(sparse);
            return held;
        }
        match u32::from(at).cmp(&value) {
            std::cmp::Ordering::Less => return true,
            std::cmp::Ordering::Equal => self.value += 1,
            std::cmp::Ordering::Greater => {
                let mut bits = Bits::upto(value as usize);
                bits.set(at);
                (self.sparse, self.value) = (true, sparse.insert(bits));
            }
        }
        false
    }

    fn clear(&mut self, at: u8, sparse: &mut Sparse) -> bool {
        let value = self.value;
        if self.sparse {
            let Some(bits) = sparse.get_mut(value) else { return false };
            let held = bits.get(at);
            bits.clear(at);
            self.settle(sparse);
            return held;
        }
        if u32::from(at) >= value {
            return false;
        }
        if u32::from(at) + 1 == value {
            self.value -= 1;
        } else {
            let mut bits = Bits::upto(value as usize);
            bits.clear(at);
            (self.sparse, self.value) = (true, sparse.insert(bits));
        }
        true
    }

    /// Sparse -> dense, if there is no hole any more.
    fn settle(&mut self, sparse: &mut Sparse) {
        let bits = self.bits(sparse);
        if bits.leading() == bits.top() {
            sparse.take(self.value);
            (self.sparse, self.value) = (false, bits.top() as u32);
        }
    }

    /// Whether the shorter form is used wherever it can be.
    pub(crate) fn is_settled(self, sparse: &Sparse) -> bool {
        let bits = self.bits(sparse);
        !bits.is_empty() && self.sparse == (bits.leading() != bits.top())
    }
}

// === impl Plane ===

impl Plane {
    /// The nearest tier that this plane counts for.
    pub(crate) fn nearest(self) -> usize {
        match self {
            Self::Expected => 0,
            Self::Told(tier) => tier as usize,
        }
    }
}
