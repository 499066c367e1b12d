//! What of the store is warmed for whom: pure. Who stands in line comes in, and what to ask and what to take back goes out.
//!
//! Whoever waits, a request in line or an entry of a log, is a promise: these blocks will be read, at about that time. Each is asked for once, for the
//! request whose turn comes first, and taken back when that request leaves the line for whatever reason; whoever else
//! waits for the same blocks then asks for what is still cold. What is on its way is bounded, so that the last of a long
//! line does not push out what was warmed for the first.
//!
//! Invariants, all proved by [`Plan::check`]:
//! - W1: a block is on its way for one request at a time.
//! - W2: blocks on their way never exceed the budget.
//! - W3: whatever was asked is asked for somebody in line, and is taken back by its id when they leave.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use queue::name::EntryId;

use crate::admin::api::{WarmingCounts, WarmingEnds};

/// A block of a prompt that the store has on disk only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cold {
    /// Its prefix hash.
    pub(super) prefix: u64,
    /// Its place in the prompt.
    pub(super) at: u32,
}

/// A request in line.
#[derive(Clone, Debug)]
pub(super) struct InLine {
    /// Its number.
    pub(super) who: EntryId,
    /// When its turn will come, as far as one can tell.
    pub(super) turn_in: Duration,
    /// What of its prompt is cold now, in order.
    pub(super) cold: Vec<Cold>,
}

/// A request that left the line.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    /// Its number.
    pub(super) who: EntryId,
    /// Whether it had its turn.
    pub(super) turned: bool,
    /// What of its prompt is cold still.
    pub(super) cold: Vec<Cold>,
}

/// Blocks to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// By which it is taken back.
    pub(super) id: u64,
    /// Within which time they will be read.
    pub(super) within: Duration,
    /// Which.
    pub(super) blocks: Vec<Cold>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// To be taken back.
    pub(super) cool: Vec<u64>,
    /// To be asked for, the first to be read first.
    pub(super) ask: Vec<Ask>,
}

/// What is on its way, and for whom.
#[derive(Debug)]
pub(super) struct Plan {
    budget: usize,
    last: u64,
    waits: BTreeMap<EntryId, Waits>,
    /// Whose each block on its way is.
    on_the_way: HashMap<u64, EntryId>,
    pub(super) counts: WarmingCounts,
}

/// What is known of a request that was looked at.
#[derive(Debug, Default)]
struct Waits {
    asked: Vec<Asked>,
    /// All that was ever asked for it.
    ever: HashSet<u64>,
    /// What another replica asks for, and until when it is left to it.
    elsewhere: HashMap<u64, Duration>,
    /// Whether what others ask for it has been counted.
    counted: bool,
    /// Whether it was said that there was no room for it.
    squeezed: bool,
}

#[derive(Debug)]
struct Asked {
    id: u64,
    /// Those that are still on their way.
    blocks: Vec<u64>,
    /// By then the store has given up.
    until: Duration,
}

/// No estimate of a turn is worth asking for less: the line may halt.
const LEAST: Duration = Duration::from_secs(1);
/// Blocks that are asked for at once: 17 KiB on the wire.
const AT_ONCE: usize = 1_024;

// === impl Plan ===

impl Plan {
    pub(super) fn new(budget: usize) -> Self {
        let (waits, on_the_way) = (BTreeMap::new(), HashMap::new());
        Self { budget, last: 0, waits, on_the_way, counts: WarmingCounts::default() }
    }

    /// Whether something was asked for it.
    pub(super) fn knows(&self, who: EntryId) -> bool {
        self.waits.contains_key(&who)
    }

    /// Everybody for whom something was asked.
    pub(super) fn known(&self) -> impl Iterator<Item = EntryId> {
        self.waits.keys().copied()
    }

    /// Requests in line for which something is on its way, and entries of logs.
    pub(super) fn warmed(&self) -> [usize; 2] {
        let warmed = self.waits.iter().filter(|(_, waits)| !waits.asked.is_empty());
        let (requests, jobs): (Vec<_>, Vec<_>) = warmed.partition(|(who, _)| who.seq.is_volatile());
        [requests.len(), jobs.len()]
    }

    /// Blocks that are on their way.
    pub(super) fn blocks(&self) -> usize {
        self.on_the_way.len()
    }

    /// What is to be done now. `line` is in the order of turns, and names everybody who is known and still waits.
    pub(super) fn step(&mut self, now: Duration, line: &[InLine], gone: &[Gone]) -> Steps {
        let mut steps = Steps::default();
        for one in gone {
            self.leave(one, &mut steps);
        }
        let here: HashSet<EntryId> = line.iter().map(|one| one.who).collect();
        let vanished: Vec<EntryId> = self.known().filter(|who| !here.contains(who)).collect();
        for who in vanished {
            self.leave(&Gone { who, turned: false, cold: Vec::new() }, &mut steps);
        }
        for one in line {
            self.settle(now, one, &mut steps);
        }
        for one in line {
            self.want(now, one, &mut steps);
        }
        debug_assert_eq!(self.check(), Ok(()));
        steps
    }

    /// Another replica asks for some of what was to be asked.
    pub(super) fn elsewhere(&mut self, ask: &mut Ask, blocks: &[Cold], until: Duration) {
        let asks = |waits: &Waits| waits.asked.iter().any(|one| one.id == ask.id);
        let Some((who, waits)) = self.waits.iter_mut().find(|(_, waits)| asks(waits)) else { return };
        let who = *who;
        let theirs: HashSet<u64> = blocks.iter().map(|block| block.prefix).collect();
        ask.blocks.retain(|block| !theirs.contains(&block.prefix));
        for asked in &mut waits.asked {
            asked.blocks.retain(|block| !theirs.contains(block));
        }
        waits.asked.retain(|asked| !asked.blocks.is_empty());
        let given = theirs.len() as u64;
        for block in theirs {
            self.on_the_way.remove(&block);
            waits.ever.remove(&block);
            waits.elsewhere.insert(block, until);
        }
        self.counts.elsewhere_blocks += given;
        self.count(who, |ends| ends.asked_blocks -= given);
    }

    /// The store is away: it has forgotten all that it was asked.
    pub(super) fn forget(&mut self) {
        self.on_the_way.clear();
        self.waits.values_mut().for_each(|waits| waits.asked.clear());
    }

    /// In line -> gone.
    fn leave(&mut self, gone: &Gone, steps: &mut Steps) {
        let Some(waits) = self.waits.remove(&gone.who) else { return };
        for asked in waits.asked {
            steps.cool.push(asked.id);
            for block in asked.blocks {
                self.on_the_way.remove(&block);
            }
        }
        let all = waits.ever.len() as u64;
        let late = gone.cold.iter().filter(|block| waits.ever.contains(&block.prefix)).count() as u64;
        self.count(gone.who, |ends| {
            if gone.turned {
                ends.late_blocks += late;
                ends.in_time_blocks += all - late;
            } else {
                ends.unused_blocks += all;
            }
        });
    }

    /// What has come to memory, or will not come any more, is no longer on its way.
    fn settle(&mut self, now: Duration, one: &InLine, steps: &mut Steps) {
        let Some(waits) = self.waits.get_mut(&one.who) else { return };
        let cold: HashSet<u64> = one.cold.iter().map(|block| block.prefix).collect();
        for asked in &mut waits.asked {
            let over = asked.until <= now;
            asked.blocks.retain(|block| {
                let stays = !over && cold.contains(block);
                if !stays {
                    self.on_the_way.remove(block);
                }
                stays
            });
            if asked.blocks.is_empty() {
                steps.cool.push(asked.id);
            }
        }
        waits.asked.retain(|asked| !asked.blocks.is_empty());
        waits.elsewhere.retain(|_, until| *until > now);
    }

    /// Asks for what nobody asks for yet.
    fn want(&mut self, now: Duration, one: &InLine, steps: &mut Steps) {
        if one.cold.is_empty() {
            return;
        }
        let waits = self.waits.entry(one.who).or_default();
        let mut blocks = Vec::new();
        let mut shared = 0;
        let mut named = HashSet::new();
        for block in &one.cold {
            match self.on_the_way.get(&block.prefix) {
                Some(whose) => shared += u64::from(*whose != one.who),
                None if waits.elsewhere.contains_key(&block.prefix) => {}
                None => {
                    if named.insert(block.prefix) {
                        blocks.push(*block);
                    }
                }
            }
        }
        if !std::mem::replace(&mut waits.counted, true) {
            self.counts.shared_blocks += shared;
        }
        let room = self.budget.saturating_sub(self.on_the_way.len());
        if blocks.len() > room && !std::mem::replace(&mut waits.squeezed, true) {
            self.counts.over_budget += 1;
        }
        // The beginning of a prompt is worth most: nothing behind a hole can be used.
        blocks.truncate(room);
        if blocks.is_empty() {
            return;
        }
        let within = one.turn_in.max(LEAST);
        let mut fresh = 0;
        for blocks in blocks.chunks(AT_ONCE) {
            self.last += 1;
            let prefixes: Vec<u64> = blocks.iter().map(|block| block.prefix).collect();
            for prefix in &prefixes {
                self.on_the_way.insert(*prefix, one.who);
                // What went cold again before its turn is asked for again, and counts once.
                fresh += u64::from(waits.ever.insert(*prefix));
            }
            waits.asked.push(Asked { id: self.last, blocks: prefixes, until: now + within });
            steps.ask.push(Ask { id: self.last, within, blocks: blocks.to_vec() });
        }
        self.count(one.who, |ends| ends.asked_blocks += fresh);
    }

    /// Counts for all, and again for entries of logs.
    fn count(&mut self, who: EntryId, count: impl Fn(&mut WarmingEnds)) {
        let WarmingCounts { asked_blocks, in_time_blocks, late_blocks, unused_blocks, .. } = self.counts;
        let mut ends = WarmingEnds { asked_blocks, in_time_blocks, late_blocks, unused_blocks };
        count(&mut ends);
        let WarmingEnds { asked_blocks, in_time_blocks, late_blocks, unused_blocks } = ends;
        self.counts =
            WarmingCounts { asked_blocks, in_time_blocks, late_blocks, unused_blocks, ..self.counts };
        if !who.seq.is_volatile() {
            count(&mut self.counts.of_jobs);
        }
    }

    /// The invariants of the module's head, one line each.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let ensure = |holds: bool, name| if holds { Ok(()) } else { Err(name) };
        let mut asked = 0;
        for (who, waits) in &self.waits {
            for block in waits.asked.iter().flat_map(|asked| &asked.blocks) {
                asked += 1;
                ensure(self.on_the_way.get(block) == Some(who), "W1")?;
                ensure(waits.ever.contains(block), "W3")?;
            }
            ensure(waits.asked.iter().all(|asked| !asked.blocks.is_empty()), "W3")?;
        }
        ensure(asked == self.on_the_way.len(), "W1")?;
        ensure(asked <= self.budget, "W2")
    }
}

#[cfg(test)]
impl Plan {
    /// Blocks that are on their way.
    pub(super) fn owned(&self) -> std::collections::BTreeSet<u64> {
        self.on_the_way.keys().copied().collect()
    }

    /// Whether it is left to another replica.
    pub(super) fn is_elsewhere(&self, who: EntryId, block: u64) -> bool {
        self.waits.get(&who).is_some_and(|waits| waits.elsewhere.contains_key(&block))
    }
}
