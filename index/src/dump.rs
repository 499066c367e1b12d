//! What one worker holds, as events that would build it again: as far as prompts can use it, or all of it.

use std::collections::{HashMap, HashSet};

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
    /// Names that stand for blocks that are gone, so that those below them can be told; `None`: those are left out.
    bridges: Option<HashSet<EngineHash>>,
    /// Blocks that could not be told.
    left_out: usize,
}

/// All that one worker holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// What builds it again. Blocks that are gone and have others below them come in under a name of ours and go away.
    pub events: Vec<Event>,
    /// Blocks that no event can tell of, because nothing is known any more of those before them.
    pub left_out: usize,
}

impl Index {
    /// Everything that `worker` holds, as events that would build it again: parents come before their children.
    /// What lies below a hole is left out: whoever learned it would refuse it.
    pub fn dump(&self, worker: Worker) -> Vec<Event> {
        let mut telling = Telling::default();
        self.tell_all(worker, &mut telling);
        telling.events
    }

    /// The same, with what lies below holes: what comes back may make it usable again.
    pub fn copy(&self, worker: Worker) -> Copy {
        let mut telling = Telling { bridges: Some(HashSet::new()), ..Telling::default() };
        self.tell_all(worker, &mut telling);
        let Telling { mut events, bridges, left_out, .. } = telling;
        let blocks: Vec<_> = bridges.unwrap_or_default().into_iter().collect();
        if !blocks.is_empty() {
            events.push(Event::Removed { blocks, tier: Tier::Device });
        }
        Copy { events, left_out }
    }

    fn tell_all(&self, worker: Worker, telling: &mut Telling) {
        let Some(slot) = self.workers.read().slot(worker).cloned() else { return };
        let names = slot.names.lock();
        let mut held: Vec<Held> = names.iter().map(|name| Held::new(&names, name)).collect();
        held.sort_unstable_by_key(|held| (held.spot.shard, held.spot.run, held.spot.at, held.engine));
        let same_run = |a: &Held, b: &Held| (a.spot.shard, a.spot.run) == (b.spot.shard, b.spot.run);
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
            self.tell_run(&names, held, telling);
        }
    }

    /// Tells the blocks of one run, up to the first hole that is not bridged.
    fn tell_run(&self, names: &Names, held: &[Held], telling: &mut Telling) {
        let shard = self.shards[held[0].spot.shard as usize].read();
        let run = shard.run(held[0].spot.run);
        let mut parent = match run.before().map(|fork| telling.forks.get(&fork).copied().flatten()) {
            Some(None) => {
                telling.left_out += held.len();
                return;
            }
            Some(known) => known,
            None => None,
        };
        let mut prefix: Option<PrefixHash> = run.before();
        let mut blocks = held.chunk_by(|a, b| a.spot.at == b.spot.at).peekable();
        for (at, tokens) in run.tokens().iter().copied().enumerate() {
            let Some(next) = blocks.peek() else { return };
            if next[0].spot.at as usize == at {
                for held in *next {
                    telling.tell(parent, Block { engine: held.engine, tokens }, held.copies);
                }
                parent = Some(next[0].engine);
                blocks.next();
            } else {
                let Some(bridge) = telling.bridge(names, prefix) else {
                    telling.left_out += blocks.map(<[Held]>::len).sum::<usize>();
                    return;
                };
                telling.tell(parent, Block { engine: bridge, tokens }, [1, 0, 0, 0]);
                parent = Some(bridge);
            }
            let reached = PrefixHash::after(prefix, tokens);
            prefix = Some(reached);
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
    /// A name that the worker has for no block of its own.
    fn bridge(&mut self, names: &Names, behind: Option<PrefixHash>) -> Option<EngineHash> {
        let bridges = self.bridges.as_mut()?;
        // Any number would do that is not taken; this one is different for each copy of each hole.
        let mut name = EngineHash(behind.map_or(0, |prefix| prefix.0) ^ !(bridges.len() as u64));
        while names.find(name).is_some() || bridges.contains(&name) {
            name.0 = name.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        }
        bridges.insert(name);
        Some(name)
    }

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
