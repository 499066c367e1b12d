//! What an operator sees and does: candidates, quotas, and a node that is emptied.

use std::sync::atomic::Ordering;

use store::master::name::{Pin, Tier};
use store::master::options::{Offload, Options};
use store::master::{Put, Quota, Refused, WaitFor};

use crate::kit::{MIB, World, key, options};

/// A world whose memory is full of what never leaves.
fn full() -> World {
    let mut world = World::new(options(), 10 * MIB);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"full", 9 * MIB) });
    world
}

#[test]
fn the_hottest_candidates_are_shown_first_and_no_more_than_were_asked_for() {
    let mut world = full();
    for (number, reads) in [(0, 2), (1, 5), (2, 3), (3, 2)] {
        world.cold(&key(number), MIB + u64::from(number));
        world.pass(1);
        for _ in 0..reads {
            world.tried(&key(number));
        }
    }
    let shown = |most| {
        let all = world.master.hottest(most);
        all.into_iter().map(|one| (one.name.key.into_vec(), one.waits.score, one.size)).collect::<Vec<_>>()
    };
    // Of the two that are as hot, the one that was read last.
    let all = [(key(1), 5, MIB + 1), (key(2), 3, MIB + 2), (key(3), 2, MIB + 3), (key(0), 2, MIB)];
    assert_eq!(shown(10), all);
    assert_eq!(shown(3), all[..3]);
    assert_eq!(shown(0), []);
    assert_eq!(world.master.hottest(1)[0].name.tenant, world.tenant);
    world.checked();
}

#[test]
fn what_candidates_met_again_is_counted_by_gate_and_cleared_with_them() {
    let mut world = full();
    world.cold(b"k", MIB);
    for _ in 0..2 {
        world.tried(b"k");
    }
    for _ in 0..3 {
        world.pass(10_000);
        world.master.tick(world.now);
    }
    let counters = world.master.counters();
    assert_eq!((counters.again.watermark, counters.candidates.admission_rejected), (3, 3));
    world.master.set_quota(world.tenant, Quota { memory: Some(9 * MIB), ..Quota::default() });
    world.pass(10_000);
    world.master.tick(world.now);
    assert_eq!(world.master.counters().again.list().iter().map(|(_, times)| times).sum::<u64>(), 4);
    assert_eq!(world.master.counters().again.quota, 1);
    world.checked();
    world.master.clear_candidates();
    let counters = world.master.counters();
    assert_eq!((counters.again, counters.candidates), Default::default());
    assert!(world.master.hottest(10).is_empty());
    world.checked();
}

#[test]
fn a_quota_is_shown_as_it_was_set_and_nobody_is_named_by_a_question() {
    let world = World::new(options(), 10 * MIB);
    assert_eq!(world.master.quota(world.tenant), Quota::default());
    let quota = Quota { memory: Some(0), disk: None, weight: 7 };
    world.master.set_quota(world.tenant, quota);
    assert_eq!(world.master.quota(world.tenant), quota);
    assert_eq!(world.master.tenant_named("a"), Some(world.tenant));
    assert_eq!(world.master.tenant_named("nobody"), None);
    assert_eq!(world.master.tenant_list().len(), 1);
}

fn flush(world: &World, fake: usize) -> (u64, u64, u64) {
    let (mut sum, mut cursor) = ((0, 0, 0), 0);
    loop {
        let step = world.master.flush(world.node(fake), cursor, world.now).unwrap();
        assert_eq!(step.left(), step.ordered + step.under_way + step.refused);
        sum = (sum.0 + step.ordered, sum.1 + step.under_way, sum.2 + step.refused);
        cursor = step.next;
        if cursor == 0 {
            return sum;
        }
    }
}

#[test]
fn a_node_that_is_drained_takes_nothing_new_and_writes_what_only_its_memory_has() {
    let mut world = World::new(Options { offload: Offload::AtEviction, ..options() }, 10 * MIB);
    for number in 0..5 {
        world.put(&key(number), MIB);
    }
    world.cold(b"cold", MIB);
    world.master.drain(world.node(0), true).unwrap();
    assert!(world.reserve(&Put::new(world.tenant, b"new", MIB)).is_err());
    assert_eq!(flush(&world, 0), (5, 0, 0), "what lies on disk already is not written again");
    assert_eq!(flush(&world, 0), (0, 5, 0), "what is on its way is not ordered again");
    world.work(0);
    assert_eq!(flush(&world, 0), (0, 0, 0));
    for number in 0..5 {
        let copies = world.look(&key(number)).unwrap().copies;
        assert_eq!(copies.len(), 2, "it is read from memory as before: {copies:?}");
        assert!(copies.contains(&(world.node(0), Tier::Disk)));
    }
    world.checked();
}

#[test]
fn a_flush_says_what_it_cannot_write_and_does_when_it_can() {
    let mut world = World::new(Options { offload: Offload::AtEviction, ..options() }, 10 * MIB);
    for number in 0..3 {
        world.put(&key(number), MIB);
    }
    world.master.set_quota(world.tenant, Quota { disk: Some(MIB), ..Quota::default() });
    world.master.drain(world.node(0), true).unwrap();
    let (ordered, under_way, refused) = flush(&world, 0);
    assert_eq!((ordered, under_way, refused), (1, 0, 2));
    world.master.set_quota(world.tenant, Quota::default());
    world.work(0);
    assert_eq!(flush(&world, 0), (2, 0, 0));
    world.work(0);
    assert_eq!(flush(&world, 0), (0, 0, 0));
    world.checked();
}

#[test]
fn a_copy_in_memory_elsewhere_counts_only_where_it_stays() {
    let two = || {
        let options = Options { offload: Offload::AtEviction, ..options() };
        let mut world = World::with_nodes(options, &[10 * MIB, 10 * MIB]);
        let version = world.put_as(&Put { prefer: Some(world.node(0)), ..Put::new(world.tenant, b"k", MIB) });
        world.also(1, b"k", version, MIB);
        world.master.drain(world.node(0), true).unwrap();
        world
    };
    assert_eq!(flush(&two(), 0), (0, 0, 0), "the other node keeps it");
    let world = two();
    world.master.drain(world.node(1), true).unwrap();
    assert_eq!(flush(&world, 0), (1, 0, 0), "the other node goes as well");
    let world = two();
    world.master.away(world.node(1)).unwrap();
    assert_eq!(flush(&world, 0), (1, 0, 0), "nobody knows whether the other node comes back");
    world.checked();
}

#[test]
fn a_put_that_waits_for_its_tenants_quota_hears_of_the_object_that_can_leave() {
    // Once it heard of nothing, and stood there until its patience was over: seconds for each of many puts.
    let mut world = World::new(Options { offload: Offload::AtCommit, ..options() }, 10 * MIB);
    world.master.set_quota(world.tenant, Quota { memory: Some(MIB), ..Quota::default() });
    world.put(b"first", MIB);
    let second = Put::new(world.tenant, b"second", MIB);
    let refused = world.reserve(&second);
    assert!(
        matches!(refused, Err(Refused::Wait(wait)) if wait.what == WaitFor::Quota),
        "the first is still on its way to disk: {refused:?}"
    );
    let before = world.ears.spaces.load(Ordering::Relaxed);
    world.work(0);
    assert!(world.ears.spaces.load(Ordering::Relaxed) > before);
    world.put_as(&second);
    assert!(!world.in_memory(b"first"));
    world.checked();
}
