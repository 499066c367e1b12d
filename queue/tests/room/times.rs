//! What happens at a time: entries that are scheduled, that expire, whose outcomes are forgotten.

use std::sync::Arc;

use queue::entry::{Entry, Outcome, Stage};
use queue::format::{self, Due};
use queue::ledger::{Refused, What};
use queue::log::{Batch, Log, Memory, Sync, Table};
use queue::name::Millis;

use crate::kit::{World, entry};

const YEAR: u64 = 365 * 24 * 3_600 * 1_000;

#[test]
fn a_damaged_row_does_not_stop_the_time_of_its_partition() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let now = world.time.pass(0);
    let due =
        |world: &World, after| world.enqueue(Entry { not_before: Some(now.plus(after)), ..entry("q", "a") });
    let (lost, late, good) = (due(&world, 100), due(&world, 9_000), due(&world, 200));
    let ready = |after: u64| format::timer(now.plus(after), Due::Ready, lost.seq);
    let mut strange = ready(103).to_vec();
    strange[8] = 9;
    let mut batch = Batch::default();
    // What becomes ready, an entry that is too late, and two times of nobody knows what.
    batch.put(Table::Timers, ready(100), "damaged");
    batch.put(Table::Timers, format::timer(now.plus(101), Due::Expire, late.seq), "");
    batch.put(Table::Entries, format::number(late.seq.0), "damaged");
    batch.put(Table::Timers, ready(102).slice(..9), "");
    batch.put(Table::Timers, strange, "");
    log.commit(batch, Sync::Write).unwrap();
    world.time.pass(200);
    let held = world.start();
    assert_eq!(held.id, good);
    world.finish(&held, Outcome::Done).unwrap();
    let world = world.restart(&log);
    world.places(1);
    let next = due(&world, 300);
    world.time.pass(100);
    let held = world.start();
    assert_eq!(held.id, next, "also after a restart");
    world.finish(&held, Outcome::Done).unwrap();
}

#[test]
fn what_is_scheduled_starts_when_its_time_has_come() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let now = world.time.pass(0);
    let at = |millis| Some(now.plus(millis));
    let late = world.enqueue(Entry { not_before: at(2_000), ..entry("q", "late") });
    let soon = world.enqueue(Entry { not_before: at(1_000), ..entry("q", "soon") });
    let first = world.enqueue(entry("q", "first"));
    for (id, wait) in [(first, 0), (soon, 1_000), (late, 1_000)] {
        assert!(wait == 0 || world.notes.is_quiet(), "{id} is early");
        world.time.pass(wait);
        let held = world.start();
        assert_eq!(held.id, id);
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn a_delay_of_years_is_a_delay_like_any_other() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let now = world.time.pass(0);
    let far = world.enqueue(Entry { not_before: Some(now.plus(30 * YEAR)), ..entry("q", "a") });
    let end = world.enqueue(Entry { not_before: Some(Millis(u64::MAX)), ..entry("q", "never") });
    let near = world.enqueue(entry("q", "b"));
    let held = world.start();
    assert_eq!(held.id, near);
    world.finish(&held, Outcome::Done).unwrap();
    let world = world.restart(&log);
    world.places(1);
    world.time.pass(30 * YEAR);
    let held = world.start();
    assert_eq!(held.id, far);
    world.finish(&held, Outcome::Done).unwrap();
    world.ask(What::Cancel { seq: end.seq }).unwrap();
    world.is_empty();
}

#[test]
fn what_cannot_start_in_time_is_told_at_once_and_not_only_when_its_turn_comes() {
    let log = Arc::new(Memory::new());
    let world = World::over(0, &log);
    let deadline = Some(world.time.pass(0).plus(1_000));
    let hundred: Vec<_> = (0..100).map(|_| world.enqueue(entry("q", "before"))).collect();
    // Far behind all that is in memory.
    let ready = world.enqueue(Entry { deadline, ..entry("q", "a") });
    let kept = world.enqueue(Entry { deadline, keep: 5_000, ..entry("q", "b") });
    world.time.pass(999);
    assert_eq!(world.room.show(ready).unwrap().entry.stage, Stage::Inbox);
    world.time.pass(1);
    assert_eq!(world.notes.over(ready), Outcome::Expired);
    assert_eq!(world.notes.over(kept), Outcome::Expired);
    assert_eq!(world.room.show(ready).unwrap_err(), Refused::Unknown(ready));
    let seen = world.room.show(kept).unwrap().entry;
    assert_eq!((seen.stage, seen.outcome), (Stage::Finished, Some(Outcome::Expired)));
    world.time.pass(5_000);
    world.until("its outcome is forgotten", || world.room.show(kept).is_err());
    world.places(1);
    for id in hundred {
        let held = world.start();
        assert_eq!(held.id, id);
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn what_is_scheduled_past_its_deadline_is_refused_and_what_becomes_late_expires() {
    let log = Arc::new(Memory::new());
    let world = World::over(0, &log);
    let now = world.time.pass(0);
    let later =
        Entry { not_before: Some(now.plus(1_000)), deadline: Some(now.plus(1_500)), ..entry("q", "a") };
    // Not first in its queue, so that nobody finds out by its turn.
    world.enqueue(entry("q", "first"));
    let id = world.enqueue(later.clone());
    let never = Entry { deadline: Some(now.plus(900)), ..later };
    assert!(matches!(world.ask(What::Enqueue(Box::new(never))), Err(Refused::Invalid(_))));
    // Both times pass while nobody looks.
    world.time.pass(10_000);
    assert_eq!(world.notes.over(id), Outcome::Expired);
    world.places(1);
    let held = world.start();
    let back = world.time.pass(0).plus(2_000);
    world.finish(&held, Outcome::Done).unwrap();

    // Given back until after its deadline: it expires at the deadline, not when it would be ready.
    let id = world.enqueue(Entry { deadline: Some(back), ..entry("q", "a") });
    let held = world.start();
    world.ask(crate::kit::give_back(&held, Some(back.plus(100_000)))).unwrap();
    assert_eq!(world.room.show(id).unwrap().entry.stage, Stage::Scheduled);
    world.time.pass(2_000);
    assert_eq!(world.notes.over(id), Outcome::Expired);
    world.is_empty();
}

#[test]
fn a_deadline_is_about_starting_and_holds_again_for_what_is_given_back() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let deadline = Some(world.time.pass(0).plus(1_000));
    let id = world.enqueue(Entry { deadline, ..entry("q", "a") });
    let started = world.notes.started();
    world.time.pass(5_000);
    // Something that happens after the deadline has passed: the deadline has been looked at.
    let other = world.enqueue(Entry { not_before: Some(world.time.pass(0).plus(1)), ..entry("r", "b") });
    world.time.pass(1);
    world.until("the other is ready", || world.room.show(other).unwrap().entry.stage == Stage::Inbox);
    assert_eq!(world.room.show(id).unwrap().entry.stage, Stage::Running, "it started in time");
    world.ask(crate::kit::give_back(&started.hold(), None)).unwrap();
    assert_eq!(world.notes.over(id), Outcome::Expired);
    drop(started);
    let held = world.start();
    assert_eq!(held.id, other);
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn what_expired_while_the_process_was_away_is_told_when_it_is_back() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let deadline = Some(world.time.pass(0).plus(1_000));
    let ran = world.enqueue(Entry { deadline, ..entry("q", "ran") });
    let _held = world.start();
    world.engines.set(crate::kit::TARGET, 0);
    let waited = world.enqueue(Entry { deadline, ..entry("q", "waited") });
    world.time.pass(2_000);
    let world = world.restart(&log);
    for id in [ran, waited] {
        assert_eq!(world.notes.over(id), Outcome::Expired);
    }
    world.is_empty();
}

#[test]
fn a_thousand_that_become_due_together_all_start() {
    let log = Arc::new(Memory::new());
    let world = World::over(8, &log);
    let at = Some(world.time.pass(0).plus(100));
    let entries =
        (0..1_000).map(|number| Entry { not_before: at, ..entry(&format!("q{}", number % 7), "a") });
    let asked: Vec<_> =
        entries.map(|entry| world.room.send(crate::kit::PARTITION, What::Enqueue(Box::new(entry)))).collect();
    for asked in asked {
        crate::kit::wait(asked).unwrap();
    }
    assert!(world.notes.is_quiet());
    world.time.pass(100);
    for _ in 0..1_000 {
        let held = world.start();
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}
