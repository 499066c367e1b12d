//! The thread that remembers: keeps a tree in step with what was published, and answers whoever asks for it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use blocks::{Event, View};
use bytes::Bytes;

use super::StartError;
use super::snapshot::{self, END, Header, SNAPSHOT};
use super::tree::Tree;
use crate::wire::Replies;

/// What the memory is told and asked, in the order in which it happened.
pub(super) enum Job {
    /// A batch was published.
    Step { sequence: u64, events: Vec<Event> },
    /// How far the publisher is in step with what it tells of.
    State(View),
    /// Somebody lacks these, and only these.
    Replay { who: Bytes, steps: Vec<(u64, Bytes)> },
    /// Somebody lacks more than there is in the ring.
    Snapshot { who: Bytes },
}

/// The way to the thread. It ends with this.
pub(super) struct Memory {
    jobs: Option<SyncSender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Keeper {
    replies: Replies,
    topic: Bytes,
    epoch: u64,
    block_size: u32,
    tree: Tree,
    /// The last batch that the tree contains.
    version: Option<u64>,
    state: View,
}

struct Told {
    version: u64,
    header: Bytes,
    batches: Vec<Bytes>,
}

/// Jobs that may wait. A snapshot of a million blocks takes half a second, in which a busy engine says some
/// thousand batches; and the voice would rather wait than forget.
const JOBS: usize = 1 << 17;
/// Jobs that are looked at before a snapshot is made: an engine that never pauses does not keep listeners waiting.
const MORE: usize = 20_000;
/// How long one message may wait for one peer before that peer is given up.
const PATIENCE: Duration = Duration::from_secs(2);

// === impl Memory ===

impl Memory {
    pub(super) fn start(
        replies: Replies,
        topic: Bytes,
        epoch: u64,
        block_size: u32,
    ) -> Result<Self, StartError> {
        let (jobs, inbox) = sync_channel(JOBS);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let keeper = Keeper {
            replies,
            topic,
            epoch,
            block_size,
            tree: Tree::default(),
            version: None,
            state: View::Exact,
        };
        let thread = std::thread::Builder::new()
            .name("kv-memory".to_owned())
            .spawn(move || keeper.run(&inbox, &runtime))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    pub(super) fn give(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A memory that is gone has panicked; the stream goes on without it.
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Keeper ===

impl Keeper {
    fn run(mut self, inbox: &Receiver<Job>, runtime: &tokio::runtime::Runtime) {
        // Who waits for a snapshot. All of them get the same one, made once nothing else is waiting.
        let mut waiting = Vec::new();
        while let Ok(job) = inbox.recv() {
            let (mut next, mut more) = (Some(job), MORE);
            while let Some(job) = next.take() {
                match job {
                    Job::Step { sequence, events } => {
                        for event in &events {
                            self.tree.apply(event);
                        }
                        self.version = Some(sequence);
                    }
                    Job::State(state) => self.state = state,
                    Job::Replay { who, steps } => runtime.block_on(self.replay(&who, steps)),
                    Job::Snapshot { who } => waiting.push(who),
                }
                more -= 1;
                next = if more > 0 { inbox.try_recv().ok() } else { None };
            }
            if !waiting.is_empty() {
                let told = self.tell();
                for who in waiting.drain(..) {
                    runtime.block_on(self.send_snapshot(&who, &told));
                }
            }
        }
    }

    /// The snapshot of now.
    fn tell(&mut self) -> Told {
        // Before the first batch there is nothing: -1, and nothing missing.
        let version = self.version.unwrap_or(END);
        let snapshot = self.tree.snapshot();
        let batches = snapshot::batches(&snapshot, self.block_size, 0.0);
        let header = Header {
            version,
            epoch: Some(self.epoch),
            blocks: Some(snapshot.blocks as u64),
            orphans: snapshot.orphans as u64,
            state: self.state,
            batches: Some(batches.len() as u64),
            broken: snapshot.broken.clone(),
        };
        Told { version, header: header.encode(), batches }
    }

    async fn replay(&mut self, who: &Bytes, steps: Vec<(u64, Bytes)>) {
        for (sequence, step) in steps {
            if !self.send(who, sequence, step).await {
                return;
            }
        }
        self.send(who, END, Bytes::new()).await;
    }

    async fn send_snapshot(&mut self, who: &Bytes, told: &Told) {
        if !self.send(who, SNAPSHOT, told.header.clone()).await {
            return;
        }
        for batch in &told.batches {
            if !self.send(who, told.version, batch.clone()).await {
                return;
            }
        }
        self.send(who, END, Bytes::new()).await;
    }

    /// Whether it is on its way. Whoever does not read, or has left, is not waited for: it can ask again.
    async fn send(&mut self, who: &Bytes, sequence: u64, payload: Bytes) -> bool {
        let number = Bytes::copy_from_slice(&sequence.to_be_bytes());
        let topic = if sequence == END { Bytes::new() } else { self.topic.clone() };
        let frames = vec![who.clone(), Bytes::new(), topic, number, payload];
        match tokio::time::timeout(PATIENCE, self.replies.send(frames)).await {
            Ok(Ok(())) => true,
            Ok(Err(trouble)) => {
                tracing::debug!(trouble, "whoever asked has left");
                false
            }
            Err(_) => {
                tracing::warn!("somebody asks for a replay and does not read it; it is given up");
                false
            }
        }
    }
}
