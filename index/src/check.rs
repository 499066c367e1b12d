//! The proof that everything adds up.

use std::collections::{HashMap, HashSet};

use blocks::{PrefixHash, Tier};

use crate::Index;
use crate::names::Spot;
use crate::run::{Plane, Run};
use crate::shard::{Place, Shard};

impl Index {
    /// The invariants of [`Index`], one line each. Takes as long as everything is large, and expects silence.
    ///
    /// # Errors
    /// The name of the first invariant that does not hold, and where.
    pub fn check(&self) -> Result<(), String> {
        let mut told: HashMap<(Spot, u16, Plane), u32> = HashMap::new();
        for slot in self.workers.read().all() {
            let names = slot.names.lock();
            ensure(names.is_whole(), || format!("I1: a name of slot {} is lost", slot.number))?;
            for name in names.iter() {
                for tier in Tier::ALL.into_iter().filter(|tier| names.is_on(name, *tier)) {
                    *told.entry((names.spot(name), slot.number, Plane::Told(tier))).or_default() += 1;
                }
            }
            for ((spot, plane), named) in
                told.iter().filter(|(key, _)| key.1 == slot.number).map(|(key, n)| ((key.0, key.2), n))
            {
                let Plane::Told(tier) = plane else { continue };
                ensure(*named == 1 + names.twins(spot, tier), || format!("I1: {spot:?} has {named} names"))?;
            }
            told.extend(names.expected.keys().map(|spot| ((*spot, slot.number, Plane::Expected), 1)));
        }
        let mut held = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            let shard = shard.read();
            ensure(shard.is_whole(), || format!("I3: a run of shard {number} is not found"))?;
            let mut prefixes = HashSet::new();
            for (id, run) in shard.runs() {
                check_run(&shard, id, run, &mut prefixes)
                    .map_err(|what| format!("{what}, in shard {number}"))?;
                for holding in &run.holdings {
                    for at in (0..run.tokens().len()).map(|at| at as u8) {
                        let place = Place { run: id, at };
                        if shard.holds(place, holding.slot, holding.plane) {
                            let key = (Spot::new(number, place), holding.slot, holding.plane);
                            ensure(told.contains_key(&key), || format!("I1: nobody named {key:?}"))?;
                            held += 1;
                        }
                    }
                }
            }
        }
        ensure(held == told.len(), || format!("I1: {} are named, {held} are held", told.len()))
    }
}

fn check_run(shard: &Shard, id: u32, run: &Run, prefixes: &mut HashSet<PrefixHash>) -> Result<(), String> {
    let sorted = run.holdings.is_sorted_by_key(|holding| (holding.slot, holding.plane));
    let settled = run.holdings.iter().all(|holding| holding.is_settled(shard.sparse()));
    ensure(!run.holdings.is_empty() && sorted && settled, || format!("I2: the holdings of run {id}"))?;
    let mut prefix = run.before();
    ensure(PrefixHash::after(prefix, run.tokens()[0]).0 == run.head, || format!("I3: the head of run {id}"))?;
    for (at, tokens) in run.tokens().iter().enumerate() {
        let reached = PrefixHash::after(prefix, *tokens);
        ensure(run.prefix(at) == reached, || format!("I3: prefix {at} of run {id}"))?;
        ensure(prefixes.insert(reached), || format!("I4: block {at} of run {id} lies in two places"))?;
        prefix = Some(reached);
    }
    Ok(())
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}
