//! What would start next, asked of a room that moves: the order in which it then starts, and nothing that is held back.

use std::sync::Arc;

use bytes::Bytes;
use queue::entry::{Cost, Entry, Outcome};
use queue::ledger::{Refused, What};
use queue::log::Memory;
use queue::name::{EntryId, QueueName};
use queue::room::{Hold, Started};
use queue::scheduler::{Next, Stands};

use crate::kit::{Dice, Place, World, entry, id, name};

/// What comes for the only target.
fn coming(world: &World, most: usize) -> Vec<Next> {
    world.room.ahead(most).into_iter().flat_map(|coming| coming.entries).collect()
}

fn ids(next: &[Next]) -> Vec<EntryId> {
    next.iter().map(|next| next.entry).collect()
}

/// It ends, and has cost what was expected.
fn as_expected(started: &Started<Place>) -> What {
    let Hold { id, lease, remembered } = started.hold();
    let (outcome, used, result) = (Outcome::Done, started.item.cost, Bytes::new());
    What::Finish { seq: id.seq, lease, remembered, outcome, used, result }
}

#[test]
fn it_starts_in_the_order_that_was_said() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let world = World::over(0, &Arc::new(Memory::new()));
        let mut held_back = Vec::new();
        for at in 0..40 {
            let queue =
                QueueName::new(["a", "b", "c"][dice.roll(3) as usize], ["x", "y"][dice.roll(2) as usize]);
            let cost = Cost { tokens: 1 + dice.roll(50) as u32, blocks: 1 };
            let mut entry = Entry { queue: queue.unwrap(), cost, ..entry("q", &at.to_string()) };
            let delayed = dice.roll(8) == 0;
            entry.not_before = delayed.then(|| world.time.pass(1).plus(1_000_000));
            let entry = world.enqueue(entry);
            let what = match dice.roll(10) {
                0 => What::Hold { seq: entry.seq },
                1 => What::Cancel { seq: entry.seq },
                _ if delayed => {
                    held_back.push(entry);
                    continue;
                }
                _ => continue,
            };
            world.ask(what).unwrap();
            held_back.push(entry);
        }
        let paused = QueueName::new("c", "y").unwrap();
        let pauses = world.room.queue(&paused).is_some();
        if pauses {
            world.ask(What::PauseQueue { name: paused.clone(), paused: true }).unwrap();
        }
        let most = [7, 64][seed as usize % 2];
        let changes = world.room.changes();
        let said = coming(&world, most);
        assert_eq!(
            (changes, &said),
            (world.room.changes(), &coming(&world, most)),
            "seed {seed}: it only looks"
        );
        assert!(said.len() <= most);
        for entry in ids(&said) {
            assert!(!held_back.contains(&entry), "seed {seed}: {entry} is held back");
            assert_ne!(world.room.show(entry).unwrap().entry.queue, paused, "seed {seed}");
        }
        // One after the other, as places become free.
        world.places(1);
        for next in &said {
            let started = world.notes.started();
            assert_eq!(started.id, next.entry, "seed {seed}");
            world.ask(as_expected(&started)).unwrap();
        }
        world.places(0);
        let left = coming(&world, 64);
        assert!(most == 7 || left.is_empty(), "seed {seed}: all that could start was said to");
    }
}

#[test]
fn what_became_of_it_can_be_asked() {
    let world = World::over(0, &Arc::new(Memory::new()));
    let [first, second, third, fourth] =
        ["a", "b", "c", "d"].map(|payload| world.enqueue(entry("q", payload)));
    let said = coming(&world, 10);
    assert_eq!(ids(&said), [first, second, third, fourth]);
    assert_eq!(world.room.stand_still(&said), [Stands::Waits; 4]);
    let changes = world.room.changes();
    world.places(1);
    let held = world.start();
    assert!(world.room.changes() > changes);
    world.places(0);
    world.ask(What::Cancel { seq: second.seq }).unwrap();
    world.ask(What::Hold { seq: third.seq }).unwrap();
    let became = [Stands::Started, Stands::Gone, Stands::Gone, Stands::Waits];
    assert_eq!(world.room.stand_still(&said), became);
    assert_eq!(ids(&coming(&world, 10)), [fourth]);
    world.finish(&held, Outcome::Done).unwrap();
    assert_eq!(world.room.stand_still(&said)[0], Stands::Gone);
    world.ask(What::PauseQueue { name: name("q"), paused: true }).unwrap();
    assert_eq!(world.room.stand_still(&said)[3], Stands::Gone);
    assert!(coming(&world, 10).is_empty());
    // A partition that is given up takes all of it along.
    world.ask(What::PauseQueue { name: name("q"), paused: false }).unwrap();
    assert_eq!(world.room.stand_still(&said)[3], Stands::Waits);
    world.room.give_up(crate::kit::PARTITION);
    assert_eq!(world.room.stand_still(&said), [Stands::Gone; 4]);
    assert!(coming(&world, 10).is_empty());
}

#[test]
fn what_it_is_can_be_read_while_it_waits() {
    let world = World::over(0, &Arc::new(Memory::new()));
    let waits = world.enqueue(entry("q", "what it is"));
    assert_eq!(world.room.payload(waits).unwrap(), "what it is");
    assert_eq!(world.room.payload(id(99)), Err(Refused::Unknown(id(99))));
    let elsewhere = EntryId { partition: 77, ..waits };
    assert_eq!(world.room.payload(elsewhere), Err(Refused::NotHere(77)));
}

#[test]
fn after_a_restart_it_is_read_for_whoever_asks() {
    let log = Arc::new(Memory::new());
    let world = World::over(0, &log);
    let all: Vec<EntryId> = (0..5).map(|at| world.enqueue(entry(&format!("q{at}"), "a"))).collect();
    let world = world.restart(&log);
    world.until("all of it is said to come", || {
        let mut said = ids(&coming(&world, 10));
        said.sort_unstable();
        said == all
    });
    assert_eq!(world.room.check(), Ok(()));
}
