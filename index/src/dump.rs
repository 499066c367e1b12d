//! What one worker holds, as events that would build it again.

use std::collections::HashMap;

use blocks::{Block, EngineHash, Event, PrefixHash, Stored, Tier, Worker};

use crate::Index;
use crate::names::{Name, Names, Spot};

/// One name of a block, and its copies on each tier.
struct Held {
    spot: Spot,
    engine: EngineHash,
    copies: [u32; 4],
}

/// The events so far, and what may still be referred to.
#[derive(Default)]
struct Telling {
    events: Vec<Event>,
    /// Names of blocks that other runs begin behind: `None` until told.
    forks: HashMap<PrefixHash, Option<EngineHash>>,
}

impl Index {
    /// Everything that `worker` holds, as events that would build it again: parents come before their children.
    /// What lies below a hole is left out: whoever learned it would refuse it.
    pub fn dump(&self, worker: Worker) -> Vec<Event> {
        let Some(slot) = self.workers.read().slot(worker).cloned() else { return Vec::new() };
        let names = slot.names.lock();
        let mut held: Vec<Held> = names.iter().map(|name| Held::new(&names, name)).collect();
        held.sort_unstable_by_key(|held| (held.spot.shard, held.spot.run, held.spot.at, held.engine));
        let same_run = |a: &Held, b: &Held| (a.spot.shard, a.spot.run) == (b.spot.shard, b.spot.run);
        let mut telling = Telling::default();
        let mut runs: Vec<(u32, &[Held])> = Vec::new();
        for of_one in held.chunk_by(same_run) {
            let shard = self.shards[of_one[0].spot.shard as usize].read();
            let run = shard.run(of_one[0].spot.run);
            telling.forks.extend(run.before().map(|fork| (fork, None)));
            runs.push((run.depth, of_one));
        }
        // A run's parent lies in a run that begins before it.
        runs.sort_by_key(|(depth, _)| *depth);
        for (_, held) in runs {
            self.tell_run(held, &mut telling);
        }
        telling.events
    }

    /// Tells the blocks of one run, up to the first hole.
    fn tell_run(&self, held: &[Held], telling: &mut Telling) {
        let shard = self.shards[held[0].spot.shard as usize].read();
        let run = shard.run(held[0].spot.run);
        let mut parent = match run.before().map(|fork| telling.forks.get(&fork).copied().flatten()) {
            Some(None) => return,
            Some(known) => known,
            None => None,
        };
        let mut prefix: Option<PrefixHash> = run.before();
        for (at, names) in held.chunk_by(|a, b| a.spot.at == b.spot.at).enumerate() {
            if names[0].spot.at as usize != at {
                return;
            }
            let tokens = run.tokens()[at];
            for held in names {
                telling.tell(parent, Block { engine: held.engine, tokens }, held.copies);
            }
            let reached = PrefixHash::after(prefix, tokens);
            prefix = Some(reached);
            parent = Some(names[0].engine);
            if let Some(fork) = telling.forks.get_mut(&reached) {
                *fork = parent;
            }
        }
    }
}

// === impl Held ===

impl Held {
    fn new(names: &Names, name: Name) -> Self {
        let copies = Tier::ALL.map(|tier| names.copies(name, tier));
        Self { spot: names.spot(name), engine: names.engine(name), copies }
    }
}

// === impl Telling ===

impl Telling {
    /// Tells all copies of one block, in the event before if that is one run on one tier.
    fn tell(&mut self, parent: Option<EngineHash>, block: Block, copies: [u32; 4]) {
        let mut copies =
            Tier::ALL.into_iter().zip(copies).flat_map(|(tier, copies)| (0..copies).map(move |_| tier));
        let Some(first) = copies.next() else { return };
        match self.events.last_mut() {
            Some(Event::Stored(last))
                if last.tier == first
                    && parent.is_some()
                    && last.blocks.last().map(|last| last.engine) == parent =>
            {
                last.blocks.push(block);
            }
            _ => self.events.push(Event::Stored(Stored { parent, blocks: vec![block], tier: first })),
        }
        for tier in copies {
            self.events.push(Event::Stored(Stored { parent, blocks: vec![block], tier }));
        }
    }
}
