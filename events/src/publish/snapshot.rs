//! A snapshot as it goes out: a header, a clear, every block, an end.

use blocks::{EngineHash, View};
use bytes::Bytes;

use super::tree::Snapshot;
use crate::codec::{self, Batch, Said, Stored};

/// The sequence of a snapshot's header.
pub(crate) const SNAPSHOT: u64 = -2_i64 as u64;
/// The sequence that ends every replay.
pub(crate) const END: u64 = u64::MAX;
/// Blocks a batch: a socket drops what overruns its mark silently, and one message a block would.
pub(crate) const BATCH_BLOCKS: usize = 1_000;

/// What a snapshot's header says: numbers of eight bytes, big-endian. Who knows only the first reads that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The last sequence that the snapshot contains.
    pub(crate) version: u64,
    /// The publisher's life.
    pub(crate) epoch: Option<u64>,
    /// Different blocks that follow.
    pub(crate) blocks: Option<u64>,
    /// Blocks that are left out because one before them is gone.
    pub(crate) orphans: u64,
    /// How far the publisher itself is in step with what it tells of.
    pub(crate) state: View,
    /// Batches that follow: a socket may lose some on their way, and their blocks may be told more than once.
    pub(crate) batches: Option<u64>,
    /// Those that are gone: when one of them is stored again, blocks below it can be used that this snapshot lacks.
    pub(crate) broken: Vec<EngineHash>,
}

/// The batches of a snapshot: a clear, then every run, parents first.
pub(crate) fn batches(snapshot: &Snapshot, block_size: u32, timestamp: f64) -> Vec<Bytes> {
    let mut all = vec![encode(vec![Said::Cleared], timestamp)];
    let (mut said, mut room) = (Vec::new(), BATCH_BLOCKS);
    for run in &snapshot.runs {
        let mut parent = run.parent;
        let mut rest = &run.blocks[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(room));
            said.push(Said::Stored(Box::new(Stored::hashed(parent, now, run.tier, block_size))));
            parent = now.last().map(|block| block.engine);
            (rest, room) = (later, room - now.len());
            if room == 0 {
                all.push(encode(std::mem::take(&mut said), timestamp));
                room = BATCH_BLOCKS;
            }
        }
    }
    if !said.is_empty() {
        all.push(encode(said, timestamp));
    }
    all
}

fn encode(said: Vec<Said>, timestamp: f64) -> Bytes {
    codec::compact(&Batch { timestamp, said, ..Batch::default() }).into()
}

// === impl Header ===

impl Header {
    pub(crate) fn encode(&self) -> Bytes {
        let numbers = [
            self.version,
            self.epoch.unwrap_or(0),
            self.blocks.unwrap_or(0),
            self.orphans,
            self.state as u64,
            self.batches.unwrap_or(0),
        ];
        numbers
            .into_iter()
            .chain(self.broken.iter().map(|name| name.0))
            .flat_map(u64::to_be_bytes)
            .collect::<Vec<u8>>()
            .into()
    }

    /// `None`: these are not a header's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at * 8..at * 8 + 8)?.try_into().ok()?));
        Some(Self {
            version: number(0)?,
            epoch: number(1),
            blocks: number(2),
            orphans: number(3).unwrap_or(0),
            state: number(4).map_or(View::Exact, codec::view),
            batches: number(5).filter(|batches| *batches > 0),
            broken: (6..).map_while(number).map(EngineHash).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use blocks::{Block, Tier, TokensHash};

    use super::*;

    #[test]
    fn a_header_is_read_back_and_a_short_one_too() {
        let broken = vec![EngineHash(4), EngineHash(5)];
        let header = Header {
            version: 7,
            epoch: Some(9),
            blocks: Some(3),
            orphans: 1,
            state: View::Stale,
            batches: Some(4),
            broken,
        };
        assert_eq!(Header::decode(&header.encode()), Some(header.clone()));
        let short = Header {
            version: 7,
            epoch: None,
            blocks: None,
            orphans: 0,
            state: View::Exact,
            batches: None,
            broken: vec![],
        };
        assert_eq!(Header::decode(&7_u64.to_be_bytes()), Some(short));
        assert_eq!(Header::decode(&[0; 7]), None);
    }

    #[test]
    fn no_batch_has_more_blocks_than_it_may_and_none_is_lost() {
        let block = |name: u64| Block { engine: EngineHash(name), tokens: TokensHash(name) };
        let run = |from: u64, to: u64, parent: Option<u64>| blocks::Stored {
            parent: parent.map(EngineHash),
            blocks: (from..to).map(block).collect(),
            tier: Tier::Device,
        };
        let runs = vec![run(0, 2_500, None), run(2_500, 2_501, Some(3)), run(2_501, 4_000, Some(2_500))];
        let all = batches(&Snapshot { runs, blocks: 4_000, ..Snapshot::default() }, 16, 0.0);
        let mut names = Vec::new();
        for (at, bytes) in all.iter().enumerate() {
            let batch = codec::decode(bytes).unwrap();
            if at == 0 {
                assert_eq!(batch.said, [Said::Cleared]);
                continue;
            }
            let before = names.len();
            for said in batch.said {
                let Said::Stored(stored) = said else { panic!("only stored runs follow") };
                let known = stored.parent.is_none_or(|parent| names.contains(&parent.0));
                assert!(known, "parents come first");
                names.extend(stored.hashes.iter().map(|hash| hash.0));
            }
            assert!(names.len() - before <= BATCH_BLOCKS);
        }
        assert_eq!((all.len(), names), (5, (0..4_000).collect()));
    }
}
