//! Queues as operators see them: they come and go, are paused, changed, listed and explained.

use std::ops::ControlFlow;
use std::sync::Arc;

use queue::entry::{Entry, Outcome, Stage, Terms};
use queue::format;
use queue::ledger::{Done, Refused, What};
use queue::limits::{Limits, Narrow};
use queue::log::{Log, Memory, Patience, Table};
use queue::name::QueueName;
use queue::room::{First, LogSeen, Wish};
use queue::scheduler::{Held, Tenancy, Why};

use crate::kit::{PARTITION, World, at_most, block, class, entry, fifo, name};

fn pause(world: &World, paused: bool) -> Result<Done, Refused> {
    world.ask(What::PauseQueue { name: name("q"), paused })
}

#[test]
fn a_queue_is_forgotten_when_empty_and_comes_back() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    for round in 0..20 {
        let id = world.enqueue(entry("q", "a"));
        let seen = world.room.queue(&name("q")).unwrap();
        assert_eq!((seen.partition, seen.paused), (PARTITION, false), "round {round}");
        let held = world.start();
        assert_eq!(held.id, id);
        world.finish(&held, Outcome::Done).unwrap();
        world.until("the queue is forgotten", || world.room.queue(&name("q")).is_none());
    }
    world.is_empty();
    let world = world.restart(&log);
    world.is_empty();
}

#[test]
fn a_paused_queue_starts_nothing_also_after_a_restart() {
    let log = Arc::new(Memory::new());
    let world = World::over(0, &log);
    assert_eq!(pause(&world, true), Err(Refused::NoQueue(name("q"))));
    let first = world.enqueue(entry("q", "a"));
    assert_eq!(pause(&world, true), Ok(Done::Moved));
    world.places(2);
    let second = world.enqueue(entry("q", "b"));
    let other = world.enqueue(entry("r", "c"));
    let held = world.start();
    assert_eq!(held.id, other, "only the other queue goes on");
    world.finish(&held, Outcome::Done).unwrap();
    assert_eq!(world.room.show(first).unwrap().why, Some(Why::Paused));
    let seen = world.room.queue(&name("q")).unwrap();
    assert_eq!((seen.paused, seen.why.clone()), (true, vec![(class(1), Why::Paused)]), "{seen:?}");

    let world = world.restart(&log);
    world.places(2);
    let third = world.enqueue(entry("q", "d"));
    let other = world.enqueue(entry("r", "c"));
    let held = world.start();
    assert_eq!(held.id, other, "only the other queue goes on");
    world.finish(&held, Outcome::Done).unwrap();
    assert!(world.notes.is_quiet());
    pause(&world, false).unwrap();
    for id in [first, second, third] {
        let held = world.start();
        assert_eq!(held.id, id);
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn a_paused_queue_that_is_empty_stays_until_it_goes_on() {
    let log = Arc::new(Memory::new());
    let world = World::over(0, &log);
    let id = world.enqueue(entry("q", "a"));
    pause(&world, true).unwrap();
    world.ask(What::Cancel { seq: id.seq }).unwrap();
    let world = world.restart(&log);
    world.until("it is counted", || world.room.queue(&name("q")).unwrap().entries == Some(0));
    assert!(world.room.queue(&name("q")).unwrap().paused);
    pause(&world, false).unwrap();
    world.is_empty();
}

#[test]
fn what_a_queue_is_can_be_changed_and_stays() {
    let log = Arc::new(Memory::new());
    let world = World::over(10, &log);
    let set = |world: &World, terms: Terms| world.ask(What::SetTerms { name: name("q"), terms });
    assert_eq!(set(&world, at_most(2)), Ok(Done::Moved));
    world.until("the count is over", || world.room.totals().logs[0].entries == Some(0));
    let all: Vec<Entry> = (0..5).map(|_| entry("q", "a")).collect();
    block(world.room.enqueue_all(PARTITION, all)).unwrap();
    let held = [world.start(), world.start()];
    let head = world.room.queue(&name("q")).unwrap();
    assert_eq!((head.running, head.entries), (2, Some(5)));
    world.until("the third waits for the limit", || {
        world.room.queue(&name("q")).unwrap().why == [(class(1), Why::Held(Held::Queue, Narrow::Running))]
    });
    assert!(world.notes.is_quiet());
    set(&world, at_most(4)).unwrap();
    let more = [world.start(), world.start()];
    assert_eq!(world.room.queue(&name("q")).unwrap().running, 4);
    set(&world, fifo()).unwrap();
    let last = world.start();
    for held in held.iter().chain(&more).chain([&last]) {
        world.finish(held, Outcome::Done).unwrap();
    }
    let world = world.restart(&log);
    world.until("it is counted", || world.room.queue(&name("q")).unwrap().entries == Some(0));
    assert_eq!(world.room.queue(&name("q")).unwrap().terms, fifo(), "it stays although it is empty");
    let mut other = fifo();
    other.target = "n".into();
    assert!(matches!(set(&world, other), Err(Refused::Invalid(_))));
}

#[test]
fn queues_are_listed_with_their_depths_and_reasons() {
    let log = Arc::new(Memory::new());
    let world = World::over(0, &log);
    world.until("the count is over", || world.room.totals().logs[0].entries == Some(0));
    let first = world.enqueue(entry("a", "1"));
    let second = world.enqueue(entry("a", "2"));
    world.enqueue(entry("b", "3"));
    world.until("the count is over", || world.room.totals().logs[0].entries == Some(3));
    let queues = world.room.queues();
    let seen: Vec<_> = queues.iter().map(|queue| (&*queue.name.key, queue.entries, queue.running)).collect();
    assert_eq!(seen, [("a", Some(2), 0), ("b", Some(1), 0)]);
    assert_eq!(queues[0].oldest, Some(world.time.pass(0)));
    world.until("the engines are full", || world.room.show(second).unwrap().why == Some(Why::NoPlace));
    assert_eq!(world.room.list(&name("a"), 1), Ok(vec![first]));
    assert_eq!(world.room.list(&name("a"), 9), Ok(vec![first, second]));
    let totals = world.room.totals();
    assert_eq!((totals.depth.queues, totals.depth.cached, totals.depth.running), (2, 3, 0));
    let log = LogSeen { partition: PARTITION, queues: 2, entries: Some(3), poisoned: None };
    assert_eq!(totals.logs, [log]);
    world.places(1);
    let started = world.notes.started();
    world.until("the others wait for its place", || {
        world.room.show(second).unwrap().why == Some(Why::NoPlace)
    });
    world.finish(&started.hold(), Outcome::Done).unwrap();
    drop(started);
    for _ in 0..2 {
        let held = world.start();
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn a_depth_is_right_from_the_start_of_a_log_that_is_full() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let many = |key: &'static str, many: usize| (0..many).map(move |_| entry(key, "x")).collect::<Vec<_>>();
    block(world.room.enqueue_all(PARTITION, many("a", 200))).unwrap();
    block(world.room.enqueue_all(PARTITION, many("b", 90))).unwrap();
    let later = Some(world.time.pass(0).plus(5_000));
    world.enqueue(Entry { not_before: later, ..entry("b", "later") });
    let held = world.start();
    let world = world.restart(&log);
    world.until("all are counted", || {
        let depths: Vec<_> = world.room.queues().iter().map(|queue| queue.entries).collect();
        depths == [Some(200), Some(91)]
    });
    world.places(4);
    let again = (0..291).map(|number| {
        if number == 290 {
            world.time.pass(5_000);
        }
        let held = world.start();
        world.finish(&held, Outcome::Done).unwrap();
        held.id
    });
    assert!(again.collect::<Vec<_>>().contains(&held.id));
    world.is_empty();
}

#[test]
fn a_tenant_that_waits_for_its_own_limit_is_told_so() {
    let log = Arc::new(Memory::new());
    let world = World::over(5, &log);
    let limits = Limits { running: Some(1), ..Limits::default() };
    world.room.tenancy("t", Tenancy { weight: 1, limits });
    world.enqueue(entry("a", "1"));
    let held = world.start();
    let second = world.enqueue(entry("b", "2"));
    world.until("it waits for the tenant's limit", || {
        world.room.show(second).unwrap().why == Some(Why::Held(Held::Tenant, Narrow::Running))
    });
    world.room.tenancy("t", Tenancy::default());
    let next = world.start();
    assert_eq!(next.id, second, "a limit that is lifted lets it go on");
    for held in [held, next] {
        world.finish(&held, Outcome::Done).unwrap();
    }
    world.is_empty();
}

#[test]
fn an_overview_holds_those_that_come_first_and_counts_the_others() {
    let world = World::over(0, &Arc::new(Memory::new()));
    world.until("the count is over", || world.room.totals().logs[0].entries == Some(0));
    for (queue, entries) in [("a", 1), ("b", 3), ("c", 2)] {
        for number in 0..entries {
            world.enqueue(entry(queue, &format!("{queue}{number}")));
        }
        world.time.pass(10);
    }
    let seen = |first, most, tenant: Option<&str>| {
        let overview = world.room.overview(&Wish { tenant: tenant.map(Into::into), first, most });
        let names: Vec<String> = overview.queues.iter().map(|queue| queue.name.key.to_string()).collect();
        (names.join(""), overview.left_off)
    };
    let tenant = &*name("a").tenant;
    for (first, most, of, expected) in [
        (First::Oldest, 9, None, ("abc", 0)),
        (First::Deepest, 9, None, ("bca", 0)),
        (First::Oldest, 2, None, ("ab", 1)),
        (First::Deepest, 1, Some(tenant), ("b", 2)),
        (First::Oldest, 0, None, ("", 3)),
        (First::Oldest, 9, Some("nobody"), ("", 0)),
    ] {
        let (names, left_off) = seen(first, most, of);
        assert_eq!((names.as_str(), left_off), expected, "{first:?} {most} {of:?}");
    }
}

#[test]
fn an_overview_knows_what_runs_of_each_queue() {
    let world = World::over(6, &Arc::new(Memory::new()));
    for (queue, entries) in [("a", 1), ("b", 3), ("c", 2), ("d", 1)] {
        for _ in 0..entries {
            world.enqueue(entry(queue, "runs"));
        }
    }
    let mut started: Vec<_> = (0..6).map(|_| world.notes.started()).collect();
    for queue in world.room.overview(&Wish { most: 9, ..Wish::default() }).queues {
        let mut runs: Vec<_> = queue.runs.iter().map(|run| run.seq).collect();
        let of_it = started.iter().filter(|started| started.queue == queue.name);
        let mut expected: Vec<_> = of_it.map(|started| started.id.seq).collect();
        runs.sort_unstable();
        expected.sort_unstable();
        assert_eq!((runs, queue.running), (expected.clone(), expected.len()), "{}", queue.name);
        let alone = world.room.queue(&queue.name).unwrap();
        assert_eq!((alone.running, alone.runs.len()), (expected.len(), expected.len()));
    }
    started.drain(..).for_each(|started| drop(world.finish(&started.hold(), Outcome::Done)));
    let held = world.start();
    world.finish(&held, Outcome::Done).unwrap();
    world.is_empty();
}

#[test]
fn pages_of_any_size_hold_each_entry_once_whatever_its_stage() {
    let world = World::over(0, &Arc::new(Memory::new()));
    let kept = |number| Entry { keep: 60_000, ..entry("q", &format!("{number}")) };
    let ready: Vec<_> = (0..5).map(|number| world.enqueue(kept(number))).collect();
    let now = world.time.pass(0);
    let later = world.enqueue(Entry { not_before: Some(now.plus(60_000)), ..entry("q", "later") });
    world.enqueue(Entry { not_before: Some(now.plus(60_000)), ..entry("other", "not this one") });
    world.ask(What::Hold { seq: ready[1].seq }).unwrap();
    world.ask(What::Cancel { seq: ready[3].seq }).unwrap();
    let expected = [
        (ready[0].seq, Stage::Inbox),
        (ready[2].seq, Stage::Inbox),
        (ready[4].seq, Stage::Inbox),
        (ready[1].seq, Stage::Paused),
        (ready[3].seq, Stage::Finished),
        (later.seq, Stage::Scheduled),
    ];
    for most in 1..=7 {
        let mut found = Vec::new();
        let mut from = None;
        loop {
            let page = world.room.page(PARTITION, &name("q"), from.as_ref(), most, |_| true).unwrap();
            assert!(page.found.len() <= most);
            found.extend(page.found.iter().map(|listed| (listed.seq, listed.stage)));
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "pages of {most}");
    }
    let paused = world.room.page(PARTITION, &name("q"), None, 9, |stage| stage == Stage::Paused).unwrap();
    assert_eq!(paused.found.iter().map(|listed| listed.seq).collect::<Vec<_>>(), [ready[1].seq]);
}

#[test]
fn tenants_that_come_and_go_leave_no_debts_behind() {
    let log = Arc::new(Memory::new());
    let world = World::over(1, &log);
    let debts = || {
        let mut rows = 0;
        let mut visit = |_: &[u8], _: &[u8]| {
            rows += 1;
            ControlFlow::Continue(())
        };
        log.scan(&format::all(Table::Debts), Patience::Wait, &mut visit).unwrap();
        rows
    };
    let of = |tenant: usize, number: u8| {
        let queue = QueueName::new(&format!("t{tenant}"), "q").unwrap();
        Entry { queue, class: class(number), ..entry("q", "a") }
    };
    for tenant in 0..300 {
        // Two at a time, so that one always owes the other.
        for number in 0..4 {
            world.enqueue(of(tenant, number));
            world.enqueue(of(tenant + 1, number));
        }
        for _ in 0..8 {
            let started = world.notes.started();
            world.finish(&started.hold(), Outcome::Done).unwrap();
        }
    }
    // How soon is a matter of who came when; but every queue that closes takes some along.
    world.until("the debts of 301 tenants are off the books", || {
        world.enqueue(of(301, 0));
        let started = world.notes.started();
        world.finish(&started.hold(), Outcome::Done).unwrap();
        debts() <= 2
    });
    world.is_empty();
    assert!(world.room.totals().sizes.tenants < 10, "{:?}", world.room.totals().sizes);
}
