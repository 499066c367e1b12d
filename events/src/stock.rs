//! A publisher that behaves as a stock vLLM does, replay's gaps included; for simulated engines and tests.
//!
//! It has a ring and nothing more: a replay whose start has left the ring silently begins later, and a
//! question without the empty delimiter is never answered.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::codec::{self, Batch};
use crate::wire::{Answers, Broadcast};

/// How a publisher is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where subscribers connect, such as `tcp://127.0.0.1:0`.
    pub endpoint: String,
    /// Where replays are asked for; none: there is no replay.
    pub replay: Option<String>,
    /// The topic of every message.
    pub topic: String,
    /// Batches that a replay can give back.
    pub buffer_steps: usize,
}

/// A running publisher; it stops when dropped, and its sockets close.
pub struct Publisher {
    batches: mpsc::UnboundedSender<Bytes>,
    endpoint: String,
    replay: Option<String>,
    task: JoinHandle<()>,
}

// === impl Publisher ===

impl Publisher {
    /// Binds both sockets and begins at sequence 0.
    ///
    /// # Errors
    /// An endpoint that cannot be bound, in words.
    pub async fn start(settings: Settings) -> Result<Self, String> {
        let (live, endpoint) = Broadcast::bind(&settings.endpoint).await?;
        let (answers, replay) = match &settings.replay {
            Some(endpoint) => {
                let (answers, endpoint) = Answers::bind(endpoint).await?;
                (Some(answers), Some(endpoint))
            }
            None => (None, None),
        };
        // Unbounded as in the engine, whose queue of 100,000 never fills; the ring bounds what is kept.
        let (batches, inbox) = mpsc::unbounded_channel();
        let ring = Ring {
            topic: settings.topic.into(),
            steps: VecDeque::new(),
            size: settings.buffer_steps,
            next: 0,
        };
        Ok(Self { batches, endpoint, replay, task: tokio::spawn(run(live, answers, inbox, ring)) })
    }

    /// Publishes a batch; never waits.
    pub fn publish(&self, batch: &Batch) {
        self.publish_raw(codec::stock(batch).into());
    }

    /// Publishes bytes as they are: for tests of what follows.
    pub fn publish_raw(&self, payload: Bytes) {
        // A publisher whose task has ended is being shut down with its engine.
        let _ = self.batches.send(payload);
    }

    /// Where subscribers connect, with the port that was chosen.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where replays are asked for.
    pub fn replay_endpoint(&self) -> Option<&str> {
        self.replay.as_deref()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Ring {
    topic: Bytes,
    steps: VecDeque<(u64, Bytes)>,
    size: usize,
    next: u64,
}

async fn run(
    mut live: Broadcast,
    mut answers: Option<Answers>,
    mut inbox: mpsc::UnboundedReceiver<Bytes>,
    mut ring: Ring,
) {
    loop {
        let question = async {
            match &mut answers {
                Some(answers) => answers.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            payload = inbox.recv() => {
                let Some(payload) = payload else { return };
                let frames = ring.push(payload);
                if let Err(trouble) = live.send(frames).await {
                    tracing::debug!(trouble, "a batch was not published");
                }
            }
            question = question => match (question, &mut answers) {
                (Ok(question), Some(answers)) => ring.answer(&question, answers).await,
                (Err(trouble), _) => {
                    tracing::debug!(trouble, "a question was not understood");
                    // An error of the socket repeats at once; give others a turn.
                    tokio::task::yield_now().await;
                }
                _ => {}
            },
        }
    }
}

impl Ring {
    fn push(&mut self, payload: Bytes) -> Vec<Bytes> {
        let sequence = self.next;
        self.next += 1;
        if self.size > 0 {
            if self.steps.len() == self.size {
                self.steps.pop_front();
            }
            self.steps.push_back((sequence, payload.clone()));
        }
        vec![self.topic.clone(), number(sequence), payload]
    }

    async fn answer(&self, question: &[Bytes], answers: &mut Answers) {
        let [who, delimiter, start] = question else { return };
        if !delimiter.is_empty() {
            return;
        }
        let start = start.iter().fold(0_u64, |start, byte| start.saturating_mul(256) | u64::from(*byte));
        for (sequence, payload) in self.steps.iter().filter(|(sequence, _)| *sequence >= start) {
            let frames =
                vec![who.clone(), Bytes::new(), self.topic.clone(), number(*sequence), payload.clone()];
            if answers.send(frames).await.is_err() {
                return;
            }
        }
        let end = vec![who.clone(), Bytes::new(), Bytes::new(), number(u64::MAX), Bytes::new()];
        // Whoever asked may have left; the next one asks for itself.
        let _ = answers.send(end).await;
    }
}

fn number(sequence: u64) -> Bytes {
    Bytes::copy_from_slice(&sequence.to_be_bytes())
}
