//! Who holds one block: one holder in twelve bytes, more of them in a list of their own.

use blocks::Tier;

/// One worker's copies of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) slot: u16,
    /// Copies on each tier. An engine rarely has two; more than 255 are not told apart.
    pub(crate) copies: [u8; 4],
    /// Counted as held on the device because a request was sent, until an event says so or time runs out:
    /// tenths of a second since the origin, plus one; 0 if it is not. It lasts for thirteen years.
    pub(crate) expected_until: u32,
}

/// The holders of one block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Holders {
    One(Holder),
    /// Boxed twice, so that the common case stays small: a thin pointer.
    #[expect(
        clippy::box_collection,
        reason = "a vector is three words, and would make every node pay for them"
    )]
    Many(Box<Vec<Holder>>),
}

// === impl Holder ===

impl Holder {
    pub(crate) fn new(slot: u16) -> Self {
        Self { slot, copies: [0; 4], expected_until: 0 }
    }

    /// Whether there is anything to it.
    pub(crate) fn holds(self) -> bool {
        self.copies != [0; 4] || self.expected()
    }

    /// Whether it counts only because a request was sent.
    pub(crate) fn expected(self) -> bool {
        self.expected_until > 0
    }

    /// The nearest tier with a copy.
    pub(crate) fn nearest(self) -> Tier {
        if self.expected() {
            return Tier::Device;
        }
        Tier::ALL[self.copies.iter().position(|copies| *copies > 0).unwrap_or(Tier::ALL.len() - 1)]
    }
}

// === impl Holders ===

impl Holders {
    pub(crate) fn as_slice(&self) -> &[Holder] {
        match self {
            Self::One(holder) => std::slice::from_ref(holder),
            Self::Many(holders) => holders,
        }
    }

    pub(crate) fn of(&self, slot: u16) -> Option<&Holder> {
        self.as_slice().iter().find(|holder| holder.slot == slot)
    }

    pub(crate) fn of_mut(&mut self, slot: u16) -> Option<&mut Holder> {
        let holders = match self {
            Self::One(holder) => std::slice::from_mut(holder),
            Self::Many(holders) => holders.as_mut_slice(),
        };
        holders.iter_mut().find(|holder| holder.slot == slot)
    }

    /// The holder with this slot, added if it is not there.
    pub(crate) fn entry(&mut self, slot: u16) -> &mut Holder {
        if self.of(slot).is_none() {
            match self {
                Self::One(holder) => *self = Self::Many(Box::new(vec![*holder, Holder::new(slot)])),
                Self::Many(holders) => holders.push(Holder::new(slot)),
            }
        }
        self.of_mut(slot).unwrap_or_else(|| unreachable!("it was just added"))
    }

    /// Drops a holder; whether others are left.
    pub(crate) fn remove(&mut self, slot: u16) -> bool {
        match self {
            Self::One(holder) => holder.slot != slot,
            Self::Many(holders) => {
                holders.retain(|holder| holder.slot != slot);
                if let [last] = holders[..] {
                    *self = Self::One(last);
                }
                true
            }
        }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(holders) => size_of::<Vec<Holder>>() + holders.capacity() * size_of::<Holder>(),
        }
    }
}
