//! What an entry can do in its life, through the whole room, over memory and over a disk.

use std::sync::Arc;

use bytes::Bytes;
use queue::entry::{Cost, Entry, MAX_PAYLOAD, MAX_RESULT, Outcome, Stage, Terms};
use queue::ledger::{Done, Refused, What};
use queue::log::fjall::Options;
use queue::log::{Fjall, Log, Memory};
use queue::name::QueueName;
use queue::scheduler::Why;
use tempfile::TempDir;

use crate::kit::{PARTITION, World, at_most, block, entry, finish, give_back, id, name, until, wait};

fn memory(places: usize) -> (World, Arc<Memory>) {
    let log = Arc::new(Memory::new());
    (World::over(places, &log), log)
}

fn stage(world: &World, id: queue::name::EntryId) -> Stage {
    world.room.show(id).unwrap().entry.stage
}

#[test]
fn what_is_enqueued_starts_and_finishes() {
    let (world, _) = memory(1);
    let id = world.enqueue(entry("q", "payload"));
    let started = world.notes.started();
    assert_eq!((started.id, &started.queue, started.item.attempt), (id, &name("q"), 0));
    let seen = world.room.show(id).unwrap();
    assert_eq!((seen.entry.stage, seen.why), (Stage::Running, Some(Why::Running)));
    assert_eq!(seen.entry.payload, Bytes::from("payload"));
    let held = started.hold();
    drop(started);
    assert_eq!(world.finish(&held, Outcome::Done), Ok(Done::Over(id, Outcome::Done)));
    assert_eq!(world.notes.over(id), Outcome::Done);
    assert_eq!(world.finish(&held, Outcome::Done), Err(Refused::Stale(id)));
    assert_eq!(world.room.show(id).unwrap_err(), Refused::Unknown(id));
    world.is_empty();
}

#[test]
fn what_is_enqueued_together_starts_in_its_order() {
    let (world, _) = memory(1);
    let many: Vec<Entry> = (0..100).map(|number| entry("q", &number.to_string())).collect();
    let done = block(world.room.enqueue_all(PARTITION, many)).unwrap();
    for done in done {
        let held = world.start();
        assert_eq!(done, Done::Enqueued(held.id));
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn one_of_several_that_is_refused_is_told_and_the_others_are_taken() {
    let (world, _) = memory(0);
    let long = Some("x".repeat(256).into_boxed_str());
    let many = vec![entry("q", "1"), Entry { once: long, ..entry("q", "2") }, entry("q", "3")];
    let Err(Refused::Invalid(why)) = block(world.room.enqueue_all(PARTITION, many)) else { panic!("taken") };
    assert_eq!(why, "the idempotency key: found 256 bytes; allowed are 255");
    until("the others are there", || world.room.queue(&name("q")).unwrap().entries == Some(2));
}

#[test]
fn the_same_idempotency_key_runs_once_and_answers_twice() {
    let log = Arc::new(Memory::new());
    let world = World::over(0, &log);
    let once = |payload: &str| Entry { once: Some("key".into()), keep: 1_000, ..entry("q", payload) };
    let first = world.enqueue(once("a"));
    let ask = |world: &World, payload| world.ask(What::Enqueue(Box::new(once(payload))));
    assert_eq!(ask(&world, "a"), Ok(Done::Known(first)));
    let Err(Refused::Invalid(why)) = ask(&world, "b") else { panic!("another request was taken") };
    assert_eq!(why, "the idempotency key \"key\" was used for another request of queue t/q");

    let world = world.restart(&log);
    assert_eq!(ask(&world, "a"), Ok(Done::Known(first)));
    world.places(1);
    let held = world.start();
    assert_eq!(held.id, first);
    assert_eq!(ask(&world, "a"), Ok(Done::Known(first)), "while it runs");
    world.finish(&held, Outcome::Done).unwrap();
    assert_eq!(ask(&world, "a"), Ok(Done::Known(first)), "while its outcome is kept");
    let world = world.restart(&log);
    assert_eq!(ask(&world, "a"), Ok(Done::Known(first)), "also after a restart");

    world.time.pass(1_000);
    world.is_empty();
    let second = world.enqueue(once("b"));
    assert_ne!(second, first, "once forgotten the key is free");
}

#[test]
fn the_same_idempotency_key_at_the_same_time_is_one_entry() {
    let (world, _) = memory(0);
    let asked: Vec<_> = std::thread::scope(|scope| {
        let ask = || {
            let once = Entry { once: Some("key".into()), ..entry("q", "a") };
            world.ask(What::Enqueue(Box::new(once)))
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    let made: Vec<_> = asked.iter().filter(|done| matches!(done, Done::Enqueued(_))).collect();
    let [Done::Enqueued(id)] = made[..] else { panic!("{asked:?}") };
    assert_eq!(asked.iter().filter(|done| **done == Done::Known(*id)).count(), 15);
}

#[test]
fn an_entry_can_be_cancelled_at_every_stage() {
    let (world, _) = memory(0);
    let cancel = |id: queue::name::EntryId| world.ask(What::Cancel { seq: id.seq });
    let ready = world.enqueue(entry("q", "ready"));
    let later = world.time.pass(0).plus(1_000);
    let scheduled = world.enqueue(Entry { not_before: Some(later), ..entry("q", "later") });
    let paused = world.enqueue(entry("q", "paused"));
    assert_eq!(world.ask(What::Hold { seq: paused.seq }), Ok(Done::Moved));
    for (id, at) in [(ready, Stage::Inbox), (scheduled, Stage::Scheduled), (paused, Stage::Paused)] {
        assert_eq!(stage(&world, id), at);
        assert_eq!(cancel(id), Ok(Done::Over(id, Outcome::Cancelled)), "{at:?}");
        assert_eq!(world.notes.over(id), Outcome::Cancelled);
        assert_eq!(cancel(id), Err(Refused::Unknown(id)), "{at:?}");
    }
    world.is_empty();

    let suspended = world.enqueue(entry("q", "suspended"));
    world.places(1);
    let held = world.start();
    let used = Cost { tokens: 3, blocks: 1 };
    block(world.room.suspend(&held, used)).unwrap();
    assert_eq!(stage(&world, suspended), Stage::Suspended);
    assert_eq!(cancel(suspended), Ok(Done::Over(suspended, Outcome::Cancelled)));

    let kept = world.enqueue(Entry { keep: 1_000, ..entry("q", "kept") });
    let held = world.start();
    world.finish(&held, Outcome::Done).unwrap();
    let finished = Refused::Stage { id: kept, stage: Stage::Finished, to: "cancelled" };
    assert_eq!(cancel(kept), Err(finished.clone()));
    assert_eq!(finished.to_string(), format!("entry {kept} is finished, and cannot be cancelled"));
    world.time.pass(1_000);
    world.is_empty();
}

#[test]
fn cancelling_what_runs_revokes_it_and_its_lease_is_stale() {
    let (world, _) = memory(1);
    let id = world.enqueue(entry("q", "a"));
    let started = world.notes.started();
    let held = started.hold();
    assert_eq!(world.ask(What::Cancel { seq: id.seq }), Ok(Done::Over(id, Outcome::Cancelled)));
    assert_eq!(world.notes.revoked(), (id, held.lease));
    assert_eq!(world.finish(&held, Outcome::Done), Err(Refused::Stale(id)));
    assert_eq!(world.ask(give_back(&held, None)), Err(Refused::Stale(id)));
    assert_eq!(block(world.room.suspend(&held, Cost::default())), Err(Refused::Stale(id)));
    drop(started);
    world.is_empty();
}

#[test]
fn what_is_given_back_runs_again_at_its_old_place() {
    let (world, _) = memory(1);
    let first = world.enqueue(entry("q", "a"));
    let started = world.notes.started();
    let second = world.enqueue(entry("q", "b"));
    let before = started.hold();
    assert_eq!(block(world.room.give_back(&before, None, Cost::default(), true)), Ok(Done::Moved));
    assert_eq!(world.finish(&before, Outcome::Done), Err(Refused::Stale(first)), "its lease is another's");
    drop(started);
    let again = world.notes.started();
    assert_eq!((again.id, again.item.attempt), (first, 1), "it goes first, and knows that it has run");
    assert_ne!(again.lease, before.lease);
    let held = again.hold();
    block(world.room.give_back(&held, None, Cost::default(), false)).unwrap();
    // Not before: the place would be taken by the one behind it.
    drop(again);
    let again = world.notes.started();
    assert_eq!((again.id, again.item.attempt), (first, 1), "nothing came of it that counts");
    let held = again.hold();
    drop(again);
    world.finish(&held, Outcome::Done).unwrap();
    let held = world.start();
    assert_eq!(held.id, second);
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn what_was_started_before_still_was_after_it_was_held() {
    let (world, log) = memory(1);
    let id = world.enqueue(Entry { keep: 9_000, ..entry("q", "a") });
    let started = world.notes.started();
    world.engines.shut(true);
    block(world.room.give_back(&started.hold(), None, Cost::default(), true)).unwrap();
    drop(started);
    let attempt = |world: &World| world.room.show(id).unwrap().entry.attempt;
    assert_eq!(attempt(&world), 1);
    for what in [What::Hold { seq: id.seq }, What::Resume { seq: id.seq }] {
        assert_eq!(world.ask(what), Ok(Done::Moved));
        assert_eq!(attempt(&world), 1);
    }
    world.engines.shut(false);
    world.places(1);
    let started = world.notes.started();
    assert_eq!(started.item.attempt, 1);
    drop(started);
    // It ran when the process ended.
    let world = world.restart(&log);
    assert_eq!(attempt(&world), 2);
    assert_eq!(world.ask(What::Cancel { seq: id.seq }), Ok(Done::Over(id, Outcome::Cancelled)));
    assert_eq!(attempt(&world), 2);
    assert_eq!(world.ask(What::Retry { seq: id.seq }), Ok(Done::Moved));
    world.places(1);
    drop(world.notes.started());
    assert_eq!(world.ask(What::Cancel { seq: id.seq }), Ok(Done::Over(id, Outcome::Cancelled)));
    assert_eq!(attempt(&world), 1, "it began anew, and was cancelled while it ran");
    world.time.pass(9_000);
    world.is_empty();
}

#[test]
fn what_is_given_back_until_later_waits_until_then() {
    let (world, _) = memory(1);
    let first = world.enqueue(entry("q", "a"));
    let held = world.start();
    let until = world.time.pass(0).plus(500);
    world.ask(give_back(&held, Some(until))).unwrap();
    assert_eq!(stage(&world, first), Stage::Scheduled);
    let second = world.enqueue(entry("q", "b"));
    let held = world.start();
    assert_eq!(held.id, second, "others go on meanwhile");
    world.finish(&held, Outcome::Done).unwrap();
    world.time.pass(500);
    let held = world.start();
    assert_eq!(held.id, first);
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn what_is_suspended_waits_for_its_event_also_across_a_restart() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let id = world.enqueue(entry("q", "a"));
    let held = world.start();
    block(world.room.suspend(&held, Cost { tokens: 5, blocks: 0 })).unwrap();
    let world = world.restart(&log);
    world.places(1);
    assert_eq!(stage(&world, id), Stage::Suspended);
    assert_eq!(world.room.list(&name("q"), 10), Ok(vec![id]));
    assert!(world.notes.is_quiet());
    assert_eq!(world.ask(What::Resume { seq: id.seq }), Ok(Done::Moved));
    let started = world.notes.started();
    assert_eq!((started.id, started.item.attempt), (id, 1));
    let held = started.hold();
    drop(started);
    let wrong = world.ask(What::Resume { seq: id.seq });
    assert_eq!(wrong, Err(Refused::Stage { id, stage: Stage::Running, to: "resumed" }));
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn what_is_held_back_waits_for_an_operator() {
    let (world, _) = memory(0);
    let first = world.enqueue(entry("q", "a"));
    let second = world.enqueue(entry("q", "b"));
    assert_eq!(world.ask(What::Hold { seq: first.seq }), Ok(Done::Moved));
    assert_eq!(stage(&world, first), Stage::Paused);
    world.places(1);
    let held = world.start();
    assert_eq!(held.id, second);
    let running = Refused::Stage { id: second, stage: Stage::Running, to: "paused" };
    assert_eq!(world.ask(What::Hold { seq: second.seq }), Err(running));
    world.finish(&held, Outcome::Done).unwrap();
    world.ask(What::Resume { seq: first.seq }).unwrap();
    let held = world.start();
    assert_eq!(held.id, first);
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn what_failed_can_be_tried_again_and_what_is_done_cannot() {
    let (world, _) = memory(1);
    let id = world.enqueue(Entry { keep: 10_000, ..entry("q", "a") });
    let held = world.start();
    world.finish(&held, Outcome::Failed).unwrap();
    let seen = world.room.show(id).unwrap().entry;
    assert_eq!((seen.stage, seen.outcome), (Stage::Finished, Some(Outcome::Failed)));
    assert_eq!((seen.payload, seen.result), (Bytes::from("a"), Bytes::from("result")));
    assert_eq!(world.ask(What::Retry { seq: id.seq }), Ok(Done::Moved));
    let started = world.notes.started();
    assert_eq!((started.id, started.item.attempt), (id, 0));
    let held = started.hold();
    drop(started);
    let early = world.ask(What::Retry { seq: id.seq }).unwrap_err();
    assert!(matches!(early, Refused::Stage { .. }), "{early:?}");
    world.finish(&held, Outcome::Done).unwrap();
    let done = world.ask(What::Retry { seq: id.seq }).unwrap_err().to_string();
    assert_eq!(done, format!("entry {id} is finished, and cannot be tried again, since it is done"));
    assert_eq!(world.room.show(id).unwrap().entry.outcome, Some(Outcome::Done));
    assert_eq!(world.ask(What::Forget { seq: id.seq }), Ok(Done::Moved));
    assert_eq!(world.room.show(id).unwrap_err(), Refused::Unknown(id));
    world.is_empty();
}

#[test]
fn what_ran_when_the_process_ended_runs_again_and_first() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let first = world.enqueue(entry("q", "a"));
    let second = world.enqueue(entry("q", "b"));
    let before = world.start();
    assert_eq!(before.id, first);
    let world = world.restart(&log);
    world.places(1);
    let started = world.notes.started();
    assert_eq!((started.id, started.item.attempt), (first, 1));
    let held = started.hold();
    drop(started);
    world.finish(&held, Outcome::Done).unwrap();
    let held = world.start();
    assert_eq!(held.id, second);
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn every_move_is_on_the_disk_once_it_is_acknowledged() {
    let folder = TempDir::new().unwrap();
    let small = Options { write_buffer_bytes: 1 << 20, cache_bytes: 1 << 20, ..Options::default() };
    let open = || Arc::new(Fjall::open(folder.path(), small).unwrap());
    let world = World::over(1, &open());
    let done = world.enqueue(Entry { keep: 1_000, ..entry("q", "done") });
    let held = world.start();
    world.finish(&held, Outcome::Done).unwrap();
    let runs = world.enqueue(entry("q", "runs"));
    let _runs = world.start();
    let waits = world.enqueue(Entry { terms: at_most(1), ..entry("r", "waits") });
    let paused = world.enqueue(entry("q", "paused"));
    world.ask(What::Hold { seq: paused.seq }).unwrap();
    drop(world);
    let world = World::over(1, &open());
    let stages = [done, runs, paused].map(|id| stage(&world, id));
    assert_eq!(stages[0], Stage::Finished);
    assert_eq!(stages[2], Stage::Paused);
    // Which of two queues is read first is chance, and so is which goes first.
    let held = world.start();
    world.finish(&held, Outcome::Done).unwrap();
    let first = held.id;
    let held = world.start();
    assert!([(runs, waits), (waits, runs)].contains(&(first, held.id)), "{first} and {}", held.id);
    world.finish(&held, Outcome::Done).unwrap();
    world.ask(What::Cancel { seq: paused.seq }).unwrap();
    world.time.pass(1_000);
    world.is_empty();
}

#[test]
fn bad_requests_are_refused_with_what_was_found() {
    let (world, _) = memory(0);
    let now = world.time.pass(0);
    let refused = |entry: Entry| match world.ask(What::Enqueue(Box::new(entry))) {
        Err(Refused::Invalid(why)) => why,
        other => panic!("{other:?}"),
    };
    let late = Entry { deadline: Some(now), ..entry("q", "a") };
    assert_eq!(refused(late), format!("the entry may not start before {} and not after {}", now.0, now.0));
    let hint = Some(vec![0; 513].into());
    assert_eq!(refused(Entry { hint, ..entry("q", "a") }), "the hint: found 513 bytes; allowed are 512");
    let empty = Entry { once: Some("".into()), ..entry("q", "a") };
    assert_eq!(refused(empty), "the idempotency key: found 0 bytes; allowed are 255");
    world.enqueue(entry("q", "a"));
    let mut other = entry("q", "b");
    other.terms.target = "n".into();
    assert_eq!(refused(other), "queue t/q runs on \"m\"; found \"n\"");
    let unknown = world.ask(What::Cancel { seq: queue::name::Seq(99) }).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no entry 3-63, or it is known no longer");
    let elsewhere = wait(world.room.send(4, What::Enqueue(Box::new(entry("q", "a"))))).unwrap_err();
    assert_eq!(elsewhere, Refused::NotHere(4));
    assert_eq!(elsewhere.to_string(), "partition 4 is not open here; ask its owner");
    let foreign = queue::name::EntryId { partition: 4, ..id(1) };
    assert_eq!(world.room.show(foreign).unwrap_err(), Refused::NotHere(4));
    assert_eq!(world.room.list(&name("none"), 5), Err(Refused::NoQueue(name("none"))));
}

#[test]
fn what_no_log_takes_is_refused_at_the_door_and_the_partition_goes_on() {
    let (world, _) = memory(1);
    let long = "x".repeat(70_000);
    let too_long = |what: &str, found: usize, allowed: usize| {
        Err(Refused::Invalid(format!("{what}: found {found} bytes; allowed are {allowed}")))
    };
    let ask = |entry: Entry| world.ask(What::Enqueue(Box::new(entry)));
    // Names that nobody has checked.
    let (tenant, key) = ("t".into(), long.as_str().into());
    assert_eq!(
        ask(Entry { queue: QueueName { tenant, key }, ..entry("q", "a") }),
        too_long("the queue", 70_000, 255)
    );
    let (tenant, key) = (long.as_str().into(), "q".into());
    assert_eq!(
        ask(Entry { queue: QueueName { tenant, key }, ..entry("q", "a") }),
        too_long("the tenant", 70_000, 255)
    );
    let terms = Terms::of(&long);
    assert_eq!(ask(Entry { terms: terms.clone(), ..entry("q", "a") }), too_long("the target", 70_000, 255));
    assert_eq!(world.ask(What::SetTerms { name: name("q"), terms }), too_long("the target", 70_000, 255));
    let payload = Bytes::from(vec![0; MAX_PAYLOAD + 1]);
    assert_eq!(
        ask(Entry { payload, ..entry("q", "a") }),
        too_long("the payload", MAX_PAYLOAD + 1, MAX_PAYLOAD)
    );
    world.enqueue(entry("q", "a"));
    let held = world.start();
    let result = Bytes::from(vec![0; MAX_RESULT + 1]);
    let finished = block(world.room.finish(&held, Outcome::Done, Cost::default(), result));
    assert_eq!(finished, too_long("the result", MAX_RESULT + 1, MAX_RESULT));
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn who_asks_and_leaves_has_asked() {
    let (world, log) = memory(0);
    drop(world.room.send(PARTITION, What::Enqueue(Box::new(entry("q", "a")))));
    until("it is there", || world.room.totals().logs[0].entries == Some(1));
    assert!(log.get(queue::log::Table::Meta, b"next").unwrap().is_some());
    world.places(1);
    let held = world.start();
    drop(world.room.send(PARTITION, finish(&held, Outcome::Done)));
    world.is_empty();
}
