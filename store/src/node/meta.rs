//! What lies beside a value on disk, so that a master that knows nothing can be told of it.

use crate::master::name::{Block, Group, Pin, Version};

/// What is known of a copy besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Which version.
    pub version: Version,
    /// Whether it may be evicted.
    pub pin: Pin,
    /// With what it leaves memory.
    pub group: Group,
    /// When it ends by itself, if it does: milliseconds since 1970.
    pub ends: Option<u64>,
    /// Which block it is. Few objects carry one where nobody asks for events, so it is kept apart.
    pub block: Option<Box<Block>>,
}

/// The first byte; another one is another way of writing.
const FORM: u8 = 1;
const ENDS: u8 = 1;
const BLOCK: u8 = 2;
const PARENT: u8 = 4;

impl Meta {
    /// As bytes: form, what there is, pin, group, version, then what there is; numbers are little-endian.
    pub fn write(&self) -> Vec<u8> {
        let mut there = 0;
        let mut rest = Vec::new();
        if let Some(ends) = self.ends {
            there |= ENDS;
            rest.extend(ends.to_le_bytes());
        }
        if let Some(block) = &self.block {
            there |= BLOCK;
            rest.extend(block.hash);
            rest.extend(block.tokens.to_le_bytes());
            if let Some(parent) = block.parent {
                there |= PARENT;
                rest.extend(parent);
            }
        }
        let pin = match self.pin {
            Pin::None => 0,
            Pin::Soft => 1,
            Pin::Hard => 2,
        };
        let mut bytes = vec![FORM, there, pin];
        bytes.extend(self.group.0.to_le_bytes());
        bytes.extend(self.version.0.to_le_bytes());
        bytes.extend(rest);
        bytes
    }

    /// What [`Meta::write`] wrote; `None` if it is something else.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = From(bytes);
        let [form, there, pin] = from.take()?;
        let pin = match pin {
            0 => Pin::None,
            1 => Pin::Soft,
            2 => Pin::Hard,
            _ => return None,
        };
        let group = Group(u32::from_le_bytes(from.take()?));
        let version = Version(u64::from_le_bytes(from.take()?));
        let ends = if there & ENDS == 0 { None } else { Some(u64::from_le_bytes(from.take()?)) };
        let block = if there & BLOCK == 0 {
            None
        } else {
            let (hash, tokens) = (from.take()?, u64::from_le_bytes(from.take()?));
            let parent = if there & PARENT == 0 { None } else { Some(from.take()?) };
            Some(Box::new(Block { hash, parent, tokens }))
        };
        let known = form == FORM && there <= ENDS | BLOCK | PARENT && from.0.is_empty();
        known.then_some(Self { version, pin, group, ends, block })
    }
}

struct From<'a>(&'a [u8]);

impl From<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_else_is(
            version: u64,
            pin in prop_oneof![Just(Pin::None), Just(Pin::Soft), Just(Pin::Hard)],
            group: u32,
            ends: Option<u64>,
            block: Option<([u8; 32], Option<[u8; 32]>, u64)>,
            cut in 0_usize..200,
        ) {
            let block = block.map(|(hash, parent, tokens)| Box::new(Block { hash, parent, tokens }));
            let meta = Meta { version: Version(version), pin, group: Group(group), ends, block };
            let bytes = meta.write();
            prop_assert_eq!(Meta::read(&bytes), Some(meta.clone()));
            prop_assert_eq!(Meta::read(&bytes[..cut.min(bytes.len() - 1)]), None);
            prop_assert_eq!(Meta::read(&[&bytes[..], &[0]].concat()), None);
            prop_assert_eq!(Meta::read(&[&[9], &bytes[1..]].concat()), None);
        }
    }
}
