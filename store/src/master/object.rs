//! What is known of an object: as little as will do, for there are millions.

use smallvec::SmallVec;

use super::heat::Heat;
use super::name::{Block, Group, Millis, Name, Node, Pin, Tenant, Tier, Version};
use super::order::Link;

/// What is known of an object: 96 bytes, and its key.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) key: Box<[u8]>,
    pub(super) version: Version,
    /// Readable copies.
    pub(super) copies: SmallVec<[Copy; 2]>,
    /// Until then it is not evicted.
    pub(super) lease: Millis,
    pub(super) block: Option<Box<Block>>,
    pub(super) size: u32,
    pub(super) heat: Heat,
    pub(super) group: Group,
    pub(super) tenant: Tenant,
    pub(super) pin: Pin,
    pub(super) flags: Flags,
}

/// A readable copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) node: Node,
    pub(super) tier: Tier,
    pub(super) list: List,
    pub(super) link: Link,
}

/// In which queue of its node a copy waits for its turn to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// Among all.
    Main,
    /// Among those that leave when nothing else can.
    Soft,
    /// In none: it stays.
    Kept,
}

/// Yes and no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    /// Read since the hand of its memory came by.
    pub(super) const READ_MEMORY: u8 = 1;
    /// Read since the hand of its disk came by.
    pub(super) const READ_DISK: u8 = 2;
    /// Brought to memory for somebody, and not read yet.
    pub(super) const WARMED: u8 = 4;
    /// Being promoted: there is a task.
    pub(super) const PROMOTING: u8 = 8;
    /// Being offloaded.
    pub(super) const OFFLOADING: u8 = 16;
    /// A candidate for promotion.
    pub(super) const CANDIDATE: u8 = 32;
    /// Put on a condition that held: the node that has it may not have heard that.
    pub(super) const DECIDED: u8 = 64;

    pub(super) fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    pub(super) fn set(&mut self, flag: u8) {
        self.0 |= flag;
    }

    /// Whether it was set.
    pub(super) fn clear(&mut self, flag: u8) -> bool {
        let was = self.has(flag);
        self.0 &= !flag;
        was
    }

    /// Read since the hand came by.
    pub(super) fn read(tier: Tier) -> u8 {
        match tier {
            Tier::Memory => Self::READ_MEMORY,
            Tier::Disk => Self::READ_DISK,
        }
    }
}

impl Pin {
    pub(super) fn list(self) -> List {
        match self {
            Self::None => List::Main,
            Self::Soft => List::Soft,
            Self::Hard => List::Kept,
        }
    }
}

impl Object {
    pub(super) fn bytes(&self) -> u64 {
        self.size.into()
    }

    pub(super) fn name(&self) -> Name {
        Name { tenant: self.tenant, key: self.key.clone() }
    }

    pub(super) fn in_tier(&self, tier: Tier) -> impl Iterator<Item = &Copy> {
        self.copies.iter().filter(move |copy| copy.tier == tier)
    }

    pub(super) fn copy(&self, node: Node, tier: Tier) -> Option<usize> {
        self.copies.iter().position(|copy| copy.node == node && copy.tier == tier)
    }
}

const _: () = assert!(size_of::<Object>() <= 96 && size_of::<Copy>() == 12 - 4);
