//! The load of the benchmarks: chains that share their beginnings, told run by run, asked for, and evicted.

use std::collections::HashSet;

use blocks::{PrefixHash, TokensHash};

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) blocks: usize,
    pub(crate) workers: u64,
    /// Blocks a chain, and how many of them sixteen chains in a row have in common.
    pub(crate) chain: usize,
    pub(crate) shared: usize,
    /// Workers that hold each chain.
    pub(crate) holders: u64,
    /// Blocks an event.
    pub(crate) event: usize,
    pub(crate) removal: Removal,
    pub(crate) asked: Ask,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Removal {
    /// As engines evict: the last run of everything goes before the first.
    Tail,
    /// Any block of any worker: what no engine does, and no index should mind.
    Random,
}

/// How much of a question is known to anybody.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ask {
    Whole,
    /// At least the first half.
    Half,
    Miss,
}

/// Blocks of one worker behind a parent: the name of each, and what it says.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) worker: u64,
    pub(crate) parent: Option<u64>,
    /// Blocks before the first; one of the peers wants to know.
    #[allow(dead_code, reason = "ours does not")]
    pub(crate) from: usize,
    pub(crate) blocks: Vec<(u64, u64)>,
}

/// A question, and how deep the best answer is.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) chain: Vec<TokensHash>,
    pub(crate) depth: usize,
}

pub(crate) struct Load {
    pub(crate) told: Vec<Told>,
    pub(crate) removals: Vec<(u64, Vec<u64>)>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) held: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            blocks: 1_000_000,
            workers: 16,
            chain: 64,
            shared: 16,
            holders: 1,
            event: 16,
            removal: Removal::Tail,
            asked: Ask::Whole,
        }
    }
}

impl Load {
    pub(crate) fn new(plan: &Plan) -> Self {
        let own = plan.chain - plan.shared;
        let count = (plan.blocks / (own + plan.shared / 16).max(1) / plan.holders as usize).max(1);
        let mut told = Vec::new();
        let mut chains = Vec::new();
        let mut seen = HashSet::new();
        for chain in 0..count as u64 {
            // Sixteen chains in a row share their beginning, and lie with the same workers.
            let family = chain / 16;
            let own =
                |i: usize| mix(if i < plan.shared { family | 1 << 40 } else { chain | 1 << 50 }, i as u64);
            let tokens: Vec<TokensHash> = (0..plan.chain).map(|i| TokensHash(own(i))).collect();
            let prefix = PrefixHash::chain(&tokens);
            for holder in 0..plan.holders {
                let worker = (mix(family, 7) + holder) % plan.workers;
                // One of the peers believes that engines name blocks as it does itself; so all of them do here.
                let engine = |i: usize| prefix[i].0;
                let first = (0..plan.chain).find(|i| seen.insert((worker, engine(*i)))).unwrap_or(plan.chain);
                seen.extend((first..plan.chain).map(|i| (worker, engine(i))));
                for from in (first..plan.chain).step_by(plan.event) {
                    let to = (from + plan.event).min(plan.chain);
                    let blocks = (from..to).map(|i| (engine(i), tokens[i].0)).collect();
                    told.push(Told { worker, parent: from.checked_sub(1).map(engine), from, blocks });
                }
            }
            chains.push(tokens);
        }
        let asked = chains.iter().enumerate().map(|(number, chain)| ask(plan, number, chain)).collect();
        Self { held: seen.len(), removals: removals(plan, &told), told, asked }
    }
}

fn ask(plan: &Plan, number: usize, chain: &[TokensHash]) -> Asked {
    let depth = match plan.asked {
        Ask::Whole => plan.chain,
        Ask::Half => plan.chain / 2 + number % (plan.chain / 2),
        Ask::Miss => 0,
    };
    let strange = (depth..plan.chain).map(|at| TokensHash(mix(number as u64 | 1 << 60, at as u64)));
    Asked { chain: chain[..depth].iter().copied().chain(strange).collect(), depth }
}

fn removals(plan: &Plan, told: &[Told]) -> Vec<(u64, Vec<u64>)> {
    let names = |told: &Told| told.blocks.iter().rev().map(|(engine, _)| *engine).collect::<Vec<u64>>();
    let mut removals: Vec<(u64, Vec<u64>)> = Vec::new();
    if plan.removal == Removal::Random {
        let mut of_worker: Vec<Vec<u64>> = vec![Vec::new(); plan.workers as usize];
        for one in told {
            of_worker[one.worker as usize].extend(names(one));
        }
        for (worker, blocks) in of_worker.iter_mut().enumerate() {
            blocks.sort_unstable_by_key(|hash| mix(*hash, 11));
            removals.extend(blocks.chunks(plan.event).map(|hashes| (worker as u64, hashes.to_vec())));
        }
        removals.sort_unstable_by_key(|(_, hashes)| mix(hashes[0], 13));
    } else {
        removals.extend(told.iter().rev().map(|told| (told.worker, names(told))));
    }
    removals
}

/// A number that looks random, the same for the same two.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let b = b.wrapping_add(0x2545_f491_4f6c_dd1d).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut mixed = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
