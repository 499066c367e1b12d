//! A relay: follows a stock engine and tells all of it again, so that whoever comes late gets everything at once.
//!
//! Engines then serve one subscriber instead of many, and nobody has to patch one. A relay that is not in step with its
//! engine says so with all that it says, and listeners believe it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use blocks::{EngineHash, Event, View, Worker};

use crate::codec::Said;
use crate::follow::{Follower, Settings, Source, Status};
use crate::publish::snapshot::BATCH_BLOCKS;
use crate::publish::{self, Publisher, StartError};
use crate::sink::{Root, Sink, UnknownParent};

/// A running relay of one source, until dropped.
pub struct Relay {
    follower: Follower,
    teller: Arc<Teller>,
}

/// What a follower tells, told again: a sink that may stand beside another one, as in a gateway that relays.
pub struct Teller {
    publisher: Publisher,
    block_size: AtomicU32,
    held: Mutex<Held>,
    /// What the follower last said of its view.
    view: Mutex<View>,
}

/// Copies of each block on each tier: whoever publishes must refuse what its listeners would refuse, and nothing else.
#[derive(Default)]
struct Held(HashMap<EngineHash, [u32; 4]>);

// === impl Relay ===

impl Relay {
    /// Follows a source and publishes what it says. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`], if the relay's own endpoints cannot be had.
    pub fn start(source: Source, settings: publish::Settings) -> Result<Self, StartError> {
        let teller = Teller::start(settings)?;
        let follower = Follower::start(source, teller.clone(), Settings::default());
        Ok(Self { follower, teller })
    }

    /// Where subscribers connect, with the port that was chosen.
    pub fn endpoint(&self) -> &str {
        self.teller.endpoint()
    }

    /// Where replays and snapshots are asked for.
    pub fn replay_endpoint(&self) -> &str {
        self.teller.replay_endpoint()
    }

    /// How it is doing with its source.
    pub fn status(&self) -> Status {
        self.follower.status()
    }
}

// === impl Held ===

impl Held {
    fn take(&mut self, event: &Event) -> Result<(), UnknownParent> {
        match event {
            Event::Stored(stored) => {
                if stored.parent.is_some_and(|parent| !self.0.contains_key(&parent)) {
                    return Err(UnknownParent);
                }
                for block in &stored.blocks {
                    self.0.entry(block.engine).or_default()[stored.tier as usize] += 1;
                }
            }
            Event::Removed { blocks, tier } => {
                for block in blocks {
                    // Where there is no copy none goes away: some engines tell of the end of copies that they never told of.
                    if let Some(copies) = self.0.get_mut(block) {
                        copies[*tier as usize] = copies[*tier as usize].saturating_sub(1);
                        if *copies == [0; 4] {
                            self.0.remove(block);
                        }
                    }
                }
            }
            Event::Cleared => self.0 = HashMap::new(),
        }
        Ok(())
    }
}

// === impl Teller ===

impl Teller {
    /// Binds, and says that nothing has been heard yet.
    ///
    /// # Errors
    /// [`StartError`], if an endpoint cannot be had.
    pub fn start(settings: publish::Settings) -> Result<Arc<Self>, StartError> {
        let block_size = settings.block_size.into();
        let publisher = Publisher::start(settings)?;
        publisher.state(View::Recovering);
        let view = Mutex::new(View::Recovering);
        Ok(Arc::new(Self { publisher, block_size, held: Mutex::default(), view }))
    }

    /// Where subscribers connect, with the port that was chosen.
    pub fn endpoint(&self) -> &str {
        self.publisher.endpoint()
    }

    /// Where replays and snapshots are asked for.
    pub fn replay_endpoint(&self) -> &str {
        self.publisher.replay_endpoint()
    }

    fn said(&self, event: &Event) -> Said {
        Said::of(event, self.block_size.load(Ordering::Relaxed))
    }

    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Sink for Teller {
    fn apply(&self, _: Worker, event: &Event) -> Result<(), UnknownParent> {
        self.held().take(event)?;
        self.publisher.batch(vec![self.said(event)]);
        Ok(())
    }

    /// Listeners cannot take a whole view in one step from a live stream: until all of it is told, nothing is exact.
    fn replace(&self, _: Worker, events: &[Event]) {
        let mut held = Held::default();
        let view = *self.view();
        self.publisher.state(view.max(View::Recovering));
        let (mut said, mut blocks) = (vec![Said::Cleared], 0);
        for event in events {
            // What the new view refuses is left out, as everywhere.
            if held.take(event).is_err() {
                continue;
            }
            said.push(self.said(event));
            blocks += if let Event::Stored(stored) = event { stored.blocks.len() } else { 1 };
            if blocks >= BATCH_BLOCKS {
                self.publisher.batch(std::mem::take(&mut said));
                blocks = 0;
            }
        }
        if !said.is_empty() {
            self.publisher.batch(said);
        }
        *self.held() = held;
        // The follower only says what changes; while this went on it was no better than recovering.
        self.publisher.state(view);
    }

    fn forget(&self, _: Worker) {
        *self.held() = Held::default();
        self.publisher.state(View::Recovering);
        self.publisher.cleared();
    }

    fn set_view(&self, _: Worker, view: View) {
        *self.view() = view;
        self.publisher.state(view);
    }

    fn saw_root(&self, _: Worker, root: &Root<'_>) {
        self.block_size.store(root.block_size, Ordering::Relaxed);
    }
}
