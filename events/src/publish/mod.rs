//! The engine's side of the stream: publishes what its cache does, and can always tell all of it again.
//!
//! Four threads, no lock between them: the engine's own, which only puts words into a queue; the *voice*, which gives
//! each batch its sequence, sends it and keeps the last ones; the *memory*, which applies the same batches to a tree and
//! makes snapshots of it; and the *desk*, where questions come in and answers go out. A snapshot of a million blocks
//! is the memory's work to make and the desk's to send, so the voice never waits for it; and because questions reach the
//! memory through the voice, behind all that was said before them, an answer is never older than what the questioner
//! has already heard.

mod desk;
mod memory;
mod ring;
pub(crate) mod snapshot;
mod tree;
mod voice;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blocks::{EngineHash, Tier, TokensHash, View};
use tokio::sync::mpsc;

use crate::codec::{Content, Said, Stored};

/// How a publisher is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where subscribers connect, such as `tcp://0.0.0.0:5557` or `ipc:///tmp/kv`.
    pub endpoint: String,
    /// Where replays and snapshots are asked for.
    pub replay: String,
    /// The topic of every message.
    pub topic: String,
    /// Tokens in a block.
    pub block_size: u32,
    /// Batches that can be given back one by one; whoever lacks more gets a snapshot.
    pub buffer_steps: usize,
    /// How often an empty batch says that the publisher is alive, and which life it is.
    pub heartbeat: Duration,
    /// The data-parallel rank.
    pub rank: Option<u32>,
    /// What blocks say on the wire.
    pub form: Form,
}

impl Settings {
    /// What suits a relay: the compact form, a ring as large as a stock engine's, a sign of life each second.
    pub fn of_relay(endpoint: String, replay: String, block_size: u32) -> Self {
        Self {
            endpoint,
            replay,
            topic: "kv-events".to_owned(),
            block_size,
            buffer_steps: 10_000,
            heartbeat: Duration::from_secs(1),
            rank: None,
            form: Form::Compact,
        }
    }
}

/// What blocks say on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// What it was given: token ids, if the engine gave those.
    AsGiven,
    /// One hash a block, computed here: a third of the bytes at block size 16.
    Compact,
}

/// A publisher. It ends when this is dropped, after what was said before has gone out.
pub struct Publisher {
    words: Option<mpsc::Sender<Word>>,
    endpoint: String,
    replay: String,
    epoch: u64,
    longest_turn: Arc<AtomicU64>,
    voice: Option<std::thread::JoinHandle<()>>,
}

/// Why a publisher could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An endpoint is taken or makes no sense.
    #[error("cannot listen on {endpoint}: {trouble}")]
    Bind {
        /// Which.
        endpoint: String,
        /// What the socket says.
        trouble: String,
    },
    /// The system gives no thread or no socket.
    #[error("cannot start the publisher's threads: {0}")]
    Thread(#[from] std::io::Error),
}

/// Blocks that came in.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The engine's name of the block before the first.
    pub parent: Option<EngineHash>,
    /// The engine's names, in order.
    pub blocks: &'a [EngineHash],
    /// What they say.
    pub content: Says<'a>,
    /// The LoRA adapter.
    pub lora: Option<&'a str>,
    /// The cache salt.
    pub salt: Option<&'a str>,
    /// Where they lie.
    pub tier: Tier,
}

/// What blocks say.
#[derive(Clone, Copy, Debug)]
pub enum Says<'a> {
    /// Token ids, all blocks one after the other.
    Tokens(&'a [u32]),
    /// One hash a block.
    Hashes(&'a [TokensHash]),
}

/// What the engine's thread hands over.
enum Word {
    Said(Said),
    /// Sent as one batch.
    Batch(Vec<Said>),
    State(View),
}

/// Words that may wait. An engine that is so far ahead waits for its publisher: a lost word would be a lost view.
const WORDS: usize = 100_000;

// === impl Publisher ===

impl Publisher {
    /// Binds both sockets and begins a life at sequence 0. Returns once both listen.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let (words, inbox) = mpsc::channel(WORDS);
        let epoch = random();
        let longest_turn = Arc::new(AtomicU64::new(0));
        let turn = longest_turn.clone();
        let (bound, told) = std::sync::mpsc::sync_channel(1);
        let voice = std::thread::Builder::new()
            .name("kv-events".to_owned())
            .spawn(move || voice::run(settings, epoch, inbox, &bound, turn))?;
        // A thread that ends without a word has panicked; that is a socket library's doing, not the caller's.
        let died = || StartError::Thread(std::io::Error::other("the publisher's thread ended"));
        let (endpoint, replay) = told.recv().map_err(|_| died())??;
        Ok(Self { words: Some(words), endpoint, replay, epoch, longest_turn, voice: Some(voice) })
    }

    /// Blocks came in. Returns at once, unless a hundred thousand words are waiting.
    pub fn stored(&self, run: &Run<'_>) {
        let content = match run.content {
            Says::Tokens(ids) => Content::Tokens(ids.to_vec()),
            Says::Hashes(hashes) => Content::Hashes(hashes.to_vec()),
        };
        self.say(Word::Said(Said::Stored(Box::new(Stored {
            hashes: run.blocks.to_vec(),
            parent: run.parent,
            content,
            lora_name: run.lora.map(str::to_owned),
            cache_salt: run.salt.map(str::to_owned),
            medium: Some(run.tier.medium().to_owned()),
            ..Stored::default()
        }))));
    }

    /// One copy of each of these blocks went away.
    pub fn removed(&self, blocks: &[EngineHash], tier: Tier) {
        let medium = Some(tier.medium().to_owned());
        self.say(Word::Said(Said::Removed { hashes: blocks.to_vec(), medium, group: None }));
    }

    /// Everything went away.
    pub fn cleared(&self) {
        self.say(Word::Said(Said::Cleared));
    }

    /// Several words as one batch, in the words of the stream.
    pub fn batch(&self, said: Vec<Said>) {
        self.say(Word::Batch(said));
    }

    /// How far what is told here is in step with what it tells of. An engine always is; a relay says how far it is.
    pub fn state(&self, state: View) {
        self.say(Word::State(state));
    }

    /// Where subscribers connect, with the port that was chosen.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where replays are asked for, with the port that was chosen.
    pub fn replay_endpoint(&self) -> &str {
        &self.replay
    }

    /// Names this life of the publisher.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The longest that the voice was busy with one thing since this was last asked: what is said waits no longer than
    /// that for what was asked.
    pub fn longest_turn(&self) -> Duration {
        Duration::from_micros(self.longest_turn.swap(0, Ordering::Relaxed))
    }

    fn say(&self, word: Word) {
        let Some(words) = &self.words else { return };
        if let Err(mpsc::error::TrySendError::Full(mut word)) = words.try_send(word) {
            // Not `blocking_send`: an engine may call from within a runtime of its own.
            loop {
                std::thread::yield_now();
                match words.try_send(word) {
                    Err(mpsc::error::TrySendError::Full(back)) => word = back,
                    _ => return,
                }
            }
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.words = None;
        if let Some(voice) = self.voice.take() {
            // It ends by itself once the words have; a panic in it has been said already.
            let _ = voice.join();
        }
    }
}

/// A number that no other life has, with the highest bit set, by which it is known on the wire.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds each of these from the system.
    std::collections::hash_map::RandomState::new().build_hasher().finish() | 1 << 63
}
