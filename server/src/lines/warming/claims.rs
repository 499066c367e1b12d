//! One replica asks for what several would: a claim for each stretch of a prompt, for as long as it is wanted.
//!
//! Stretches begin at the same blocks of a prompt wherever it waits, and are called by the last block in them that is cold:
//! two replicas with the same prompt name them alike. A claim only spares the store a question that it would answer "on
//! its way already"; so whoever cannot know asks.

use std::collections::HashMap;
use std::time::Duration;

use coord::op::{Claimed, Op, Reply};
use coord::{Coord, Key};
use futures::future::join_all;

use super::plan::{Ask, Cold};

/// The claims of this replica.
pub(super) struct Claims {
    coord: Coord,
    /// By the id of what was asked.
    held: HashMap<u64, Vec<Key>>,
}

/// What another replica asks for.
pub(super) struct Taken {
    pub(super) blocks: Vec<Cold>,
    /// For how long.
    pub(super) left: Duration,
}

/// Blocks in a stretch: 64 claims for all that may be on its way by default.
const STRETCH: u32 = 64;
/// How long a claim may take. Nobody waits for it but what is warmed.
const PATIENCE: Duration = Duration::from_millis(100);
/// A claim outlives the time within which its blocks will be read by so much.
const GRACE: Duration = Duration::from_secs(1);

impl Claims {
    pub(super) fn new(coord: Coord) -> Self {
        Self { coord, held: HashMap::new() }
    }

    /// Claims what is to be asked: what others have, and how many claims had no answer.
    pub(super) async fn take(&mut self, ask: &Ask) -> (Vec<Taken>, u64) {
        let stretches: Vec<&[Cold]> =
            ask.blocks.chunk_by(|one, next| one.at / STRETCH == next.at / STRETCH).collect();
        let asked = stretches.iter().filter_map(|blocks| {
            let key = Key::new(format!("warm/{:016x}", blocks.last()?.prefix)).ok()?;
            Some((key, *blocks))
        });
        let asked: Vec<(Key, &[Cold])> = asked.collect();
        let coord = &self.coord;
        let claims = asked.iter().map(|(key, _)| {
            let (key, token) = (key.clone(), coord.instance().clone());
            async move {
                let op = Op::Claim { key, token, ttl: ask.within + GRACE };
                coord.ask_within(&op, PATIENCE).await
            }
        });
        let answers = join_all(claims).await;
        let (mut taken, mut unsure) = (Vec::new(), 0);
        let mut held = Vec::new();
        for ((key, blocks), answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(Reply::Claimed(Claimed::Granted { .. })) => held.push(key),
                Ok(Reply::Claimed(Claimed::Held { left, .. })) => {
                    taken.push(Taken { blocks: blocks.to_vec(), left });
                }
                _ => unsure += 1,
            }
        }
        self.held.insert(ask.id, held);
        (taken, unsure)
    }

    /// Lets go of what is no longer asked for.
    pub(super) async fn release(&mut self, ids: impl Iterator<Item = u64>) {
        let keys: Vec<Key> = ids.filter_map(|id| self.held.remove(&id)).flatten().collect();
        let (coord, token) = (&self.coord, self.coord.instance().clone());
        let release = |key| {
            let op = Op::Release { key, token: token.clone() };
            async move { coord.ask_within(&op, PATIENCE).await }
        };
        // One that is not heard ends by itself.
        let _ = join_all(keys.into_iter().map(release)).await;
    }

    /// All that were asked.
    pub(super) fn all(&self) -> Vec<u64> {
        self.held.keys().copied().collect()
    }
}
