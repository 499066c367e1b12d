//! Seeded histories over connections that are cut at any byte: whatever is lost, bytes are right and accounts agree at the end.

use std::collections::HashMap;

use store::master::options::Options;
use store::resp::contract::{Only, Put, Store, Written};
use store::resp::refusal::Code;

use crate::chance::Chance;
use crate::kit::{Bridge, Chief, Home, MIB, Plan, checked, key, options, settle, value};

/// What may be there: the last acknowledged value, and whatever was tried since and not refused for certain.
#[derive(Default)]
struct May {
    turns: Vec<Option<usize>>,
}

impl May {
    fn be(&mut self, turn: Option<usize>) {
        self.turns = vec![turn];
    }

    fn also_be(&mut self, turn: Option<usize>) {
        if self.turns.is_empty() {
            self.turns.push(None);
        }
        self.turns.push(turn);
    }
}

fn size(number: usize, turn: usize) -> usize {
    [3, 900, 20_000, 200_000][(number + turn) % 4]
}

async fn history(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut chance = Chance(seed);
    // What a node asked for and never heard of is given up by that.
    let chief = Chief::begin(1, Options { put_patience: 1_000, ..options() }).await;
    let mut bridges = Vec::new();
    let mut homes: Vec<Home> = Vec::new();
    for (id, memory) in [("a", 64 * MIB), ("b", 64 * MIB), ("c", 0)] {
        let bridge = Bridge::to(chief.address).await;
        let masters = vec![bridge.address.to_string()];
        let plan = Plan { masters, ..Plan::new(id, memory, &[]).on(folder.path()) };
        homes.push(plan.begin().await);
        bridges.push(bridge);
    }
    let mut known: HashMap<usize, May> = HashMap::new();
    for turn in 0..150 {
        let number = chance.below(12);
        let home = &homes[chance.below(homes.len())];
        if chance.below(6) == 0 {
            bridges[chance.below(bridges.len())].cut_after(chance.below(3_000));
        }
        let may = known.entry(number).or_default();
        match chance.below(10) {
            0..=3 => {
                let only = [Only::Always, Only::Always, Only::Absent, Only::Present][chance.below(4)];
                let put = Put { only, ..Put::default() };
                match home.put_as(&key(number), &value(number, turn, size(number, turn)), put).await {
                    Ok(Written::Stored) => may.be(Some(turn)),
                    Ok(Written::Unchanged) => {}
                    Err(refused) => {
                        let fits = matches!(
                            refused.code,
                            Code::Unavailable | Code::Busy | Code::Loading | Code::Full
                        );
                        assert!(fits, "seed {seed}, turn {turn}: {refused}");
                        may.also_be(Some(turn));
                        // It may have taken the place of what was there, and be forgotten with its condition.
                        may.also_be(None);
                    }
                }
            }
            4 => match home.node.remove(&home.tenant, &key(number)).wait().await {
                Ok(_) => may.be(None),
                Err(_) => may.also_be(None),
            },
            _ => {
                if let Ok(found) = home.get(&key(number)).await {
                    agrees(seed, number, may, found.as_deref());
                }
            }
        }
    }
    for bridge in &bridges {
        bridge.cut_after(i64::MAX as usize);
    }
    let all: Vec<&Home> = homes.iter().collect();
    settle(&chief, &all).await;
    for (number, may) in &known {
        let found = homes[number % 3].find(&key(*number)).await;
        agrees(seed, *number, may, found.as_deref());
    }
    checked(&chief, &all).await;
}

fn agrees(seed: u64, number: usize, may: &May, found: Option<&[u8]>) {
    let fits = |turn: &Option<usize>| match (turn, found) {
        (Some(turn), Some(found)) => found == value(number, *turn, size(number, *turn)),
        (None, None) => true,
        _ => false,
    };
    let never = may.turns.is_empty() && found.is_none();
    let is =
        (0..150).find(|turn| found.is_some_and(|found| found == value(number, *turn, size(number, *turn))));
    let is = found.map(|found| (found.len(), is));
    assert!(never || may.turns.iter().any(fits), "seed {seed}: {number} is {is:?}, none of {:?}", may.turns);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_over_connections_that_break_keep_every_acknowledged_value_and_every_account() {
    for seed in 0..6 {
        history(seed).await;
    }
}
