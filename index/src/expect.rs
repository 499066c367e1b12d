//! What is expected: blocks that count as held because a request was sent, until an event says so or time runs out.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use blocks::{Tier, TokensHash, Worker};

use crate::names::Spot;
use crate::run::Plane;
use crate::{Index, shard};

/// Requests whose blocks are expected at a time; beyond it new ones are not. At 64 blocks each: 32 MiB.
const MOST: usize = 1 << 16;

/// What was expected of one worker when one request was sent.
pub(crate) struct Expected {
    until: Duration,
    slot: u16,
    generation: u32,
    spots: Vec<Spot>,
}

impl Index {
    /// A request was sent to `worker` that will create these blocks: count them as held until `until`, unless
    /// an event confirms them before.
    pub fn expect(&self, worker: Worker, chain: &[TokensHash], until: Duration) {
        let Some(root) = chain.first() else { return };
        let Ok(slot) = self.enter(worker) else { return };
        let mut names = slot.names.lock();
        let mut expected = self.expected.lock();
        if names.gone || expected.len() >= MOST {
            return;
        }
        let number = shard::of(root.as_root());
        let mut shard = self.shards[number].write();
        let mut cursor = None;
        let mut spots = Vec::new();
        for (done, tokens) in chain.iter().enumerate() {
            let next = shard.step(cursor, *tokens, chain.len() - done - 1);
            cursor = Some(next);
            let held = |tier| shard.holds(next.place, slot.number, Plane::Told(tier));
            if !Tier::ALL.into_iter().any(held) {
                shard.set(next.place, slot.number, Plane::Expected);
                let spot = Spot::new(number, next.place);
                let time = names.expected.entry(spot).or_default();
                *time = tenths(until).max(*time);
                spots.push(spot);
            }
        }
        if !spots.is_empty() {
            let at = expected.partition_point(|entry| entry.until <= until);
            expected.insert(at, Expected { until, slot: slot.number, generation: slot.generation, spots });
        }
    }

    /// Drops what was expected until `now` and has not been confirmed.
    pub fn expire(&self, now: Duration) {
        while let Some(entry) = self.due(now) {
            let slot = self.workers.read().at(entry.slot).cloned();
            let Some(slot) = slot.filter(|slot| slot.generation == entry.generation) else { continue };
            let mut names = slot.names.lock();
            let mut unconfirmed = 0;
            for spot in &entry.spots {
                // It may have been confirmed since, or expected for longer.
                if names.expected.get(spot).is_some_and(|until| *until <= tenths(now)) {
                    names.expected.remove(spot);
                    self.shards[spot.shard as usize].write().clear(
                        spot.place(),
                        slot.number,
                        Plane::Expected,
                    );
                    unconfirmed += 1;
                }
            }
            if names.expected.is_empty() {
                names.expected = std::collections::HashMap::new();
            }
            self.unconfirmed.fetch_add(unconfirmed, Relaxed);
        }
    }

    fn due(&self, now: Duration) -> Option<Expected> {
        self.expected.lock().pop_front_if(|entry| entry.until <= now)
    }
}

/// A time in a form that is small: tenths of a second, for thirteen years.
fn tenths(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / 100).unwrap_or(u32::MAX)
}
