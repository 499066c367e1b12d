//! The tier behind an engine's cache, as real bytes: what is wanted is read, what was computed is written, and whatever
//! goes wrong is counted and costs no answer.
//!
//! This crate knows no store: whoever has one hands in an [`Offload`].

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use blocks::PrefixHash;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::actor::Command;
use crate::engine::Text;
use crate::engine::second::Kept;

/// An answer that must be waited for; an error is in words, for the log.
pub type Soon<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// Where blocks are kept.
pub trait Offload: Send + Sync + 'static {
    /// How many of these blocks, from the first on, are there.
    fn look(&self, blocks: Vec<PrefixHash>) -> Soon<usize>;
    /// The bytes of these blocks, from the first on, as many as are there.
    fn get(&self, blocks: Vec<PrefixHash>) -> Soon<Vec<Bytes>>;
    /// Writes blocks, each for itself, unless it is there.
    fn put(&self, blocks: Vec<(Kept, Bytes)>) -> Soon<Written>;
}

/// What became of blocks that were to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// They are there now.
    pub stored: usize,
    /// They were there.
    pub known: usize,
    /// There was no room for them.
    pub refused: usize,
}

/// The tier of one engine.
#[derive(Clone)]
pub struct Behind {
    /// Where blocks are kept.
    pub offload: Arc<dyn Offload>,
    /// Bytes of keys and values a token; at least one.
    pub bytes_a_token: usize,
}

/// What was done, for `/metrics`.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) loaded_tokens: AtomicUsize,
    pub(super) stopped: AtomicUsize,
    pub(super) failed: AtomicUsize,
    pub(super) wrong: AtomicUsize,
    pub(super) stored: AtomicUsize,
    pub(super) known: AtomicUsize,
    pub(super) refused: AtomicUsize,
}

/// Blocks that are read or written at a time.
const BATCH: usize = 32;
/// Blocks that wait to be written, without their bytes; what comes beyond them is not offloaded.
const WAITING: usize = 16_384;

/// The engine's side of it.
pub(super) struct Errands {
    behind: Behind,
    block_bytes: usize,
    commands: mpsc::UnboundedSender<Command>,
    counts: Arc<Counts>,
    puts: mpsc::Sender<Kept>,
    /// Loads under way, and the word that ends each after its batch.
    loads: HashMap<u64, Arc<AtomicBool>>,
}

impl Errands {
    pub(super) fn start(
        behind: Behind,
        block_size: usize,
        commands: mpsc::UnboundedSender<Command>,
        counts: Arc<Counts>,
    ) -> Self {
        let block_bytes = block_size * behind.bytes_a_token.max(1);
        let (puts, inbox) = mpsc::channel(WAITING);
        tokio::spawn(write(behind.offload.clone(), block_bytes, inbox, counts.clone()));
        Self { behind, block_bytes, commands, counts, puts, loads: HashMap::new() }
    }

    /// A job wants these blocks: what is there is told to the engine as it comes.
    pub(super) fn load(&mut self, job: u64, text: &Text, first: usize, blocks: usize) {
        let ended = Arc::new(AtomicBool::new(false));
        self.loads.insert(job, ended.clone());
        let load = Load {
            job,
            wanted: text.prefix_hashes[first..first + blocks].to_vec(),
            offload: self.behind.offload.clone(),
            block_bytes: self.block_bytes,
            commands: self.commands.clone(),
            counts: self.counts.clone(),
            ended,
        };
        tokio::spawn(load.run());
    }

    /// A job goes on with what has come, or is gone.
    pub(super) fn end(&mut self, job: u64) {
        if let Some(ended) = self.loads.remove(&job) {
            ended.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn stopped(&mut self, job: u64) {
        self.counts.stopped.fetch_add(1, Ordering::Relaxed);
        self.end(job);
    }

    pub(super) fn offload(&self, blocks: Vec<Kept>) {
        for kept in blocks {
            if self.puts.try_send(kept).is_err() {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

struct Load {
    job: u64,
    wanted: Vec<PrefixHash>,
    offload: Arc<dyn Offload>,
    block_bytes: usize,
    commands: mpsc::UnboundedSender<Command>,
    counts: Arc<Counts>,
    ended: Arc<AtomicBool>,
}

impl Load {
    async fn run(self) {
        let mut arrived = 0;
        if let Err(why) = self.fetch(&mut arrived).await {
            tracing::warn!(why, "blocks could not be loaded; they are computed");
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
        }
        // Nothing more comes; if everything has, nobody waits for this.
        let _ = self.commands.send(Command::Found(self.job, arrived));
    }

    async fn fetch(&self, arrived: &mut usize) -> Result<(), String> {
        let found = self.offload.look(self.wanted.clone()).await?.min(self.wanted.len());
        // The engine outlives its loads.
        let _ = self.commands.send(Command::Found(self.job, found));
        for part in self.wanted[..found].chunks(BATCH) {
            if self.ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            let values = self.offload.get(part.to_vec()).await?;
            let is_right =
                |(prefix, value): &(&PrefixHash, &Bytes)| is_block(**prefix, value, self.block_bytes);
            let right = part.iter().zip(&values).take_while(is_right).count();
            *arrived += right;
            let _ = self.commands.send(Command::Loaded(self.job, *arrived));
            if right < values.len().min(part.len()) {
                self.counts.wrong.fetch_add(1, Ordering::Relaxed);
                return Err("a block has other bytes than were put".to_owned());
            }
            if right < part.len() {
                return Ok(());
            }
        }
        Ok(())
    }
}

async fn write(
    offload: Arc<dyn Offload>,
    block_bytes: usize,
    mut inbox: mpsc::Receiver<Kept>,
    counts: Arc<Counts>,
) {
    let mut kept = Vec::with_capacity(BATCH);
    while inbox.recv_many(&mut kept, BATCH).await > 0 {
        let all = kept.len();
        let blocks = kept.drain(..).map(|kept| (kept, block(kept.prefix, block_bytes))).collect();
        let written = offload.put(blocks).await.unwrap_or_else(|why| {
            tracing::warn!(why, blocks = all, "blocks could not be offloaded");
            Written { refused: all, ..Written::default() }
        });
        counts.stored.fetch_add(written.stored, Ordering::Relaxed);
        counts.known.fetch_add(written.known, Ordering::Relaxed);
        counts.refused.fetch_add(written.refused, Ordering::Relaxed);
    }
}

/// The bytes of a block: its name again and again, so that those of another block are known for what they are.
fn block(prefix: PrefixHash, len: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.put_u64_le(prefix.0);
    }
    bytes.truncate(len);
    bytes.freeze()
}

fn is_block(prefix: PrefixHash, value: &[u8], len: usize) -> bool {
    let name = prefix.0.to_le_bytes();
    value.len() == len && value.chunks(8).all(|part| *part == name[..part.len()])
}
