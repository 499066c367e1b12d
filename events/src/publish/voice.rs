//! The thread that publishes: gives each batch its sequence, sends it, keeps the last ones, and takes questions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blocks::{Event, View};
use bytes::Bytes;
use tokio::sync::mpsc;

use super::desk::Desk;
use super::memory::{Job, Memory};
use super::ring::Ring;
use super::snapshot::END;
use super::{Form, Settings, StartError, Word};
use crate::codec::{self, Batch, Content, Said};
use crate::translate::Translator;
use crate::wire::Broadcast;

/// Words that go out as one batch if they are waiting together.
const TOGETHER: usize = 256;

type Bound = Result<(String, String), StartError>;

struct Voice {
    settings: Settings,
    epoch: u64,
    topic: Bytes,
    live: Broadcast,
    ring: Ring,
    memory: Memory,
    translator: Translator,
    state: View,
    /// In microseconds.
    longest_turn: Arc<AtomicU64>,
}

/// Publishes until there are no more words.
pub(super) fn run(
    settings: Settings,
    epoch: u64,
    inbox: mpsc::Receiver<Word>,
    bound: &SyncSender<Bound>,
    longest_turn: Arc<AtomicU64>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever started it waits for this word; if it does not, nobody does.
            let _ = bound.send(Err(error.into()));
            return;
        }
    };
    runtime.block_on(async {
        match bind(settings, epoch, longest_turn).await {
            Ok((voice, questions, endpoints)) => {
                let _ = bound.send(Ok(endpoints));
                voice.speak(inbox, questions).await;
            }
            Err(error) => drop(bound.send(Err(error))),
        }
    });
}

type Asked = mpsc::Receiver<Vec<Bytes>>;

async fn bind(
    settings: Settings,
    epoch: u64,
    longest_turn: Arc<AtomicU64>,
) -> Result<(Voice, Asked, (String, String)), StartError> {
    let wrong = |trouble| StartError::Bind { endpoint: settings.endpoint.clone(), trouble };
    let (live, endpoint) = Broadcast::bind(&settings.endpoint).await.map_err(wrong)?;
    let Desk { replies, questions, endpoint: replay } = Desk::open(&settings.replay)?;
    let topic: Bytes = settings.topic.clone().into();
    let memory = Memory::start(replies, topic.clone(), epoch, settings.block_size)?;
    let ring = Ring::new(settings.buffer_steps);
    let voice = Voice {
        settings,
        epoch,
        topic,
        live,
        ring,
        memory,
        translator: Translator::default(),
        state: View::Exact,
        longest_turn,
    };
    Ok((voice, questions, (endpoint, replay)))
}

impl Voice {
    async fn speak(mut self, mut inbox: mpsc::Receiver<Word>, mut questions: Asked) {
        let mut heartbeat = tokio::time::interval(self.settings.heartbeat.max(Duration::from_millis(1)));
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        heartbeat.tick().await;
        let mut words = Vec::with_capacity(TOGETHER);
        loop {
            let begun = tokio::select! {
                count = inbox.recv_many(&mut words, TOGETHER) => {
                    if count == 0 {
                        return;
                    }
                    let begun = now();
                    self.say_all(&mut words).await;
                    begun
                }
                Some(question) = questions.recv() => {
                    let begun = now();
                    self.asked(&question);
                    begun
                }
                _ = heartbeat.tick() => {
                    let begun = now();
                    self.publish(Vec::new(), Some(self.epoch)).await;
                    begun
                }
            };
            self.longest_turn.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
    }

    async fn say_all(&mut self, words: &mut Vec<Word>) {
        let mut together = Vec::new();
        for word in words.drain(..) {
            match word {
                Word::Said(said) => together.push(said),
                Word::State(state) => {
                    self.say_together(&mut together).await;
                    self.state = state;
                    self.memory.give(Job::State(state));
                    self.publish(Vec::new(), Some(self.epoch)).await;
                }
                Word::Batch(said) => {
                    self.say_together(&mut together).await;
                    self.publish(said, None).await;
                }
            }
        }
        self.say_together(&mut together).await;
    }

    async fn say_together(&mut self, said: &mut Vec<Said>) {
        if !said.is_empty() {
            self.publish(std::mem::take(said), None).await;
        }
    }

    async fn publish(&mut self, said: Vec<Said>, epoch: Option<u64>) {
        // A change of state is a heartbeat of its own: whoever has the ring has heard it, and a snapshot says it, too.
        let state = epoch.map(|_| self.state);
        let mut batch = Batch { timestamp: timestamp(), said, rank: self.settings.rank, epoch, state };
        let mut events = Vec::with_capacity(batch.said.len());
        for said in &mut batch.said {
            if let Said::Stored(stored) = said
                && stored.block_size == 0
            {
                stored.block_size = self.settings.block_size;
            }
            let event = self.translator.translate(said.clone(), |_| {});
            if self.settings.form == Form::Compact
                && let (Said::Stored(stored), Some(Event::Stored(hashed))) = (said, &event)
            {
                // What went into the hashes need not be said again.
                stored.content = Content::Hashes(hashed.blocks.iter().map(|block| block.tokens).collect());
                stored.extras.clear();
                stored.cache_salt = None;
            }
            events.extend(event);
        }
        let payload: Bytes = codec::compact(&batch).into();
        let sequence = self.ring.push(payload.clone());
        let frames = vec![self.topic.clone(), Bytes::copy_from_slice(&sequence.to_be_bytes()), payload];
        if let Err(trouble) = self.live.send(frames).await {
            // Nobody hears it; whoever comes later asks.
            tracing::debug!(trouble, "a batch was not published");
        }
        self.memory.give(Job::Step { sequence, events });
    }

    /// Who asks, an empty delimiter, and the first sequence that it lacks.
    fn asked(&mut self, question: &[Bytes]) {
        let [who, delimiter, start] = question else { return };
        let Some(start) = start[..].try_into().ok().map(u64::from_be_bytes).filter(|_| delimiter.is_empty())
        else {
            return;
        };
        // Below zero: from the beginning.
        let start = if start >= END - 1 { 0 } else { start };
        let steps = self.ring.since(start).map(|steps| steps.map(|(at, step)| (at, step.clone())).collect());
        self.memory.give(match steps {
            Some(steps) => Job::Replay { who: who.clone(), steps },
            None => Job::Snapshot { who: who.clone() },
        });
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell is where time comes in")]
fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970; only people read it.
fn timestamp() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "the shell is where time comes in")]
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
