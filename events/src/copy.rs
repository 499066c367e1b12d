//! A view on its way from one process to another: batches in the compact form, each behind its length.

use blocks::Event;

use crate::codec::{self, Batch, Malformed, Said};
use crate::publish::snapshot::BATCH_BLOCKS;
use crate::translate::Translator;

/// Why bytes are no view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// They end too early.
    #[error("it ends in the middle of a batch")]
    Short,
    /// One of the batches cannot be read.
    #[error("a batch in it cannot be read: {0}")]
    Batch(#[from] Malformed),
}

/// The bytes of a view that these events build.
pub fn encode(events: &[Event], block_size: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut said, mut blocks) = (Vec::new(), 0);
    for (at, event) in events.iter().enumerate() {
        blocks += match event {
            Event::Stored(stored) => stored.blocks.len(),
            Event::Removed { blocks, .. } => blocks.len(),
            Event::Cleared => 1,
        };
        said.push(Said::of(event, block_size));
        if blocks >= BATCH_BLOCKS || at + 1 == events.len() {
            let batch = codec::compact(&Batch { said: std::mem::take(&mut said), ..Batch::default() });
            bytes.extend((batch.len() as u32).to_le_bytes());
            bytes.extend(batch);
            blocks = 0;
        }
    }
    bytes
}

/// The events behind such bytes.
///
/// # Errors
/// [`Broken`].
pub fn decode(mut bytes: &[u8]) -> Result<Vec<Event>, Broken> {
    let mut translator = Translator::default();
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk().ok_or(Broken::Short)?;
        let batch = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(Broken::Short)?;
        bytes = batch.1;
        let said = codec::decode(batch.0)?.said;
        events.extend(said.into_iter().filter_map(|said| translator.translate(said, |_| {})));
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use blocks::{Block, EngineHash, Stored, Tier, TokensHash};

    use super::*;

    #[test]
    fn what_was_copied_is_read_back_and_what_was_cut_is_not() {
        let block = |name: u64| Block { engine: EngineHash(name), tokens: TokensHash(!name) };
        let stored = |from: u64, to: u64, parent: Option<u64>, tier| {
            let blocks = (from..to).map(block).collect();
            Event::Stored(Stored { parent: parent.map(EngineHash), blocks, tier })
        };
        let events = vec![
            stored(0, 1_500, None, Tier::Device),
            stored(1_500, 1_600, Some(3), Tier::Host),
            Event::Removed { blocks: vec![EngineHash(7)], tier: Tier::Device },
        ];
        let bytes = encode(&events, 16);
        assert_eq!(decode(&bytes), Ok(events));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), Err(Broken::Short));
        assert_eq!(decode(&bytes[..3]), Err(Broken::Short));
        assert!(matches!(decode(&[1, 0, 0, 0, 0xc1]), Err(Broken::Batch(_))));
        assert_eq!((encode(&[], 16), decode(&[])), (vec![], Ok(vec![])));
    }
}
