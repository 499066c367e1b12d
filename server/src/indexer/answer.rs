//! What an indexer answers: how many tokens of the question each worker holds, as JSON or as bare rows.

use std::collections::BTreeMap;

use blocks::{BlockSize, Tier, View};
use index::{Match, Matches};
use serde::Serialize;

/// The answer in JSON. Counts are tokens.
#[derive(Serialize)]
struct Answer {
    /// Tokens on the device, by instance and rank; whoever holds none there is not listed.
    scores: BTreeMap<String, BTreeMap<String, u32>>,
    /// Empty; it is there because clients of other indexers look for it.
    frequencies: [u32; 0],
    instances: BTreeMap<String, Instance>,
}

/// One engine.
#[derive(Default, Serialize)]
struct Instance {
    /// The most that any rank holds, anywhere.
    longest_matched: u32,
    /// The most that any rank holds on its device.
    gpu: u32,
    /// Tokens on the device, by rank.
    dp: BTreeMap<String, u32>,
    /// In host memory or nearer.
    cpu: u32,
    /// Anywhere.
    disk: u32,
    /// How far what is known of each rank can be trusted.
    views: BTreeMap<String, &'static str>,
}

/// Bytes of a row: instance (8), rank, view, tokens on the device, in host memory or nearer, on disk or nearer, and
/// anywhere (4 each), least byte first.
const ROW: usize = 32;

/// The answer in JSON.
pub(super) fn json(found: &Matches, block_size: BlockSize) -> Vec<u8> {
    let tokens = |found: &Match, tier| tokens(found, tier, block_size);
    let (mut scores, mut instances) = (BTreeMap::new(), BTreeMap::new());
    for one in found.iter() {
        let (name, rank) = (one.worker.instance.to_string(), one.worker.rank.to_string());
        let [gpu, cpu, disk] = [Tier::Device, Tier::Host, Tier::Store].map(|tier| tokens(one, tier));
        let instance: &mut Instance = instances.entry(name.clone()).or_default();
        instance.gpu = instance.gpu.max(gpu);
        instance.cpu = instance.cpu.max(cpu);
        instance.disk = instance.disk.max(disk);
        instance.longest_matched = instance.disk;
        instance.dp.insert(rank.clone(), gpu);
        instance.views.insert(rank.clone(), one.view.name());
        if gpu > 0 {
            scores.entry(name).or_insert_with(BTreeMap::new).insert(rank, gpu);
        }
    }
    serde_json::to_vec(&Answer { scores, frequencies: [], instances }).unwrap_or_default()
}

/// The answer in rows.
pub(super) fn bare(found: &Matches, block_size: BlockSize) -> Vec<u8> {
    let mut rows = Vec::with_capacity(found.iter().len() * ROW);
    for one in found.iter() {
        rows.extend(one.worker.instance.to_le_bytes());
        let view = match one.view {
            View::Exact => 0_u32,
            View::Recovering => 1,
            View::Stale => 2,
        };
        rows.extend(one.worker.rank.to_le_bytes());
        rows.extend(view.to_le_bytes());
        for tier in Tier::ALL {
            rows.extend(tokens(one, tier, block_size).to_le_bytes());
        }
    }
    rows
}

fn tokens(found: &Match, tier: Tier, block_size: BlockSize) -> u32 {
    u32::try_from(found.on(tier) * block_size.get()).unwrap_or(u32::MAX)
}
