//! What leaves memory and disk, and what stays.

use store::master::name::{Group, Pin, Tier};
use store::master::options::{Offload, Options, Promotion};
use store::master::{Error, News, Put, Quota, Refused, WaitFor};

use crate::kit::{MIB, World, key, options};

fn evicting() -> Options {
    Options { high: 800, low: 600, ..options() }
}

/// Keys that are in memory.
fn memory(world: &World) -> Vec<u32> {
    (0..100).filter(|number| world.in_memory(&key(*number))).collect()
}

#[test]
fn the_oldest_that_nobody_read_leave_until_the_low_watermark_and_their_bytes_are_free_when_the_node_says_so()
{
    let mut world = World::new(evicting(), 10 * MIB);
    for number in 0..8 {
        world.put(&key(number), MIB);
    }
    world.master.tick(world.now);
    assert_eq!(memory(&world), (0..8).collect::<Vec<_>>(), "at the high watermark, not above");
    world.get(&key(0));
    world.put(&key(8), MIB);
    assert_eq!(world.master.tick(world.now).evicted, 3 * MIB);
    assert_eq!(memory(&world), [0, 4, 5, 6, 7, 8], "what was read is spared once");
    let space = world.look_node(0).memory;
    assert_eq!((space.here, space.leaving, space.free()), (6 * MIB, 3 * MIB, MIB));
    world.checked();
    world.work(0);
    assert_eq!(world.look_node(0).memory.free(), 4 * MIB);
    assert_eq!(world.fakes[0].bytes(Tier::Memory), 6 * MIB);
    world.checked();
}

#[test]
fn hard_pins_never_leave_and_soft_ones_only_when_nothing_else_can() {
    let mut world = World::new(evicting(), 10 * MIB);
    for (number, pin) in [(0, Pin::Hard), (1, Pin::Soft), (2, Pin::None), (3, Pin::Soft), (4, Pin::None)] {
        world.put_as(&Put { pin, ..Put::new(world.tenant, &key(number), 2 * MIB) });
    }
    world.master.tick(world.now);
    assert_eq!(memory(&world), [0, 1, 3], "first what is not pinned");
    world.work(0);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, &key(5), 4 * MIB) });
    world.master.tick(world.now);
    assert_eq!(memory(&world), [0, 5], "then what is pinned softly");
    world.work(0);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, &key(6), 4 * MIB) });
    for _ in 0..10 {
        assert_eq!(world.master.tick(world.now).evicted, 0);
    }
    assert_eq!(memory(&world), [0, 5, 6], "what is pinned hard never");
    world.master.pin(world.tenant, &key(5), Pin::None).unwrap();
    world.checked();
    world.master.tick(world.now);
    assert_eq!(memory(&world), [0, 6], "until it is no longer");
    world.checked();
}

#[test]
fn what_is_leased_or_a_source_of_a_copy_stays() {
    let mut world = World::new(Options { offload: Offload::AtEviction, ..evicting() }, 10 * MIB);
    world.put(&key(0), 3 * MIB);
    world.put(&key(1), 3 * MIB);
    world.put(&key(2), 3 * MIB);
    world.master.lease(world.tenant, &key(0), 1_000, world.now).unwrap();
    assert_eq!(world.master.tick(world.now).evicted, 0, "without a copy on disk nothing leaves yet");
    assert_eq!(memory(&world), [0, 1, 2]);
    assert_eq!(world.master.gauges().offloads, 2, "not of the one that is leased");
    world.checked();
    world.work(0);
    assert_eq!(memory(&world), [0, 2], "once it is on disk it leaves");
    world.pass(1_001);
    world.put(&key(3), 3 * MIB);
    for _ in 0..3 {
        world.master.tick(world.now);
    }
    world.work(0);
    assert!(!world.in_memory(&key(2)));
    assert!(world.master.counters().moves.evicted_last == 0, "nothing was lost");
    world.checked();
    // A copy on disk that is being promoted stays on disk.
    let mut world = World::with_nodes(evicting(), &[]);
    world.add_node("n", 100 * MIB, 10 * MIB);
    world.cold(&key(0), 5 * MIB);
    world.tried(&key(0));
    world.tried(&key(0));
    assert_eq!(world.master.gauges().promotions, 1);
    world.cold(&key(1), 2 * MIB);
    world.tried(&key(1));
    // The hand spares the first two once, takes the third, and comes back to the first.
    world.cold(&key(2), 2 * MIB);
    let on_disk: Vec<u32> = (0..3).filter(|number| world.look(&key(*number)).is_some()).collect();
    assert_eq!(on_disk, [0], "the others had to go");
    assert_eq!(world.master.gauges().promotions, 1);
    world.checked();
}

/// Everything else in a node's memory that is nearly full stays for ever.
fn only_one_can_leave(world: &mut World) {
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"rest", 8 * MIB) });
}

fn ticks(world: &World) {
    for _ in 0..4 {
        world.master.tick(world.now);
    }
}

#[test]
fn what_was_just_read_or_promoted_is_not_the_next_victim() {
    let mut world = World::new(Options { lease: 500, ..evicting() }, 10 * MIB);
    world.put(&key(0), MIB);
    world.hit(&key(0));
    only_one_can_leave(&mut world);
    ticks(&world);
    world.pass(499);
    ticks(&world);
    assert_eq!(memory(&world), [0]);
    world.pass(1);
    ticks(&world);
    assert_eq!(memory(&world), [], "but it may leave when its time is over");
    // A promotion leases what it brought, though nobody has read it there.
    let promotion = Promotion { lease: 5_000, ..options().promotion };
    let mut world = World::new(Options { promotion, ..evicting() }, 10 * MIB);
    world.cold(&key(0), MIB);
    world.tried(&key(0));
    world.tried(&key(0));
    world.work(0);
    only_one_can_leave(&mut world);
    ticks(&world);
    world.pass(4_999);
    ticks(&world);
    assert_eq!(memory(&world), [0]);
    world.pass(1);
    ticks(&world);
    assert_eq!(memory(&world), []);
    world.checked();
}

#[test]
fn what_is_on_its_way_to_disk_stays_in_memory_until_it_is_there_whatever_it_earned() {
    let options = Options { offload: Offload::AtCommit, offload_heat: 9, ..evicting() };
    let mut world = World::new(options, 10 * MIB);
    world.put(&key(0), MIB);
    only_one_can_leave(&mut world);
    assert_eq!(world.master.gauges().offloads, 2);
    ticks(&world);
    assert_eq!((memory(&world), world.master.gauges().offloads), (vec![0], 2));
    world.work(0);
    ticks(&world);
    assert_eq!(memory(&world), []);
    assert_eq!(world.hit(&key(0)).disk.to_vec(), [world.node(0)]);
    world.checked();
}

#[test]
fn an_object_with_a_copy_on_disk_frees_memory_at_once_and_can_still_be_read() {
    let mut world = World::new(Options { offload: Offload::AtCommit, ..evicting() }, 10 * MIB);
    for number in 0..8 {
        world.put(&key(number), MIB);
    }
    world.work(0);
    world.put(&key(8), MIB);
    assert_eq!(world.master.tick(world.now).evicted, 3 * MIB);
    for number in 0..8 {
        assert_eq!(world.hit(&key(number)).disk.to_vec(), [world.node(0)]);
    }
    world.checked();
}

#[test]
fn what_did_not_earn_a_place_on_disk_is_dropped_and_what_did_is_written_first() {
    let mut world =
        World::new(Options { offload: Offload::AtEviction, offload_heat: 2, ..evicting() }, 10 * MIB);
    for number in 0..9 {
        world.put(&key(number), MIB);
        if number == 0 {
            world.get(&key(0));
            world.get(&key(0));
        }
    }
    for _ in 0..5 {
        world.master.tick(world.now);
        world.work(0);
    }
    assert_eq!(world.fakes[0].keys(Tier::Disk).into_iter().collect::<Vec<_>>(), Vec::<Vec<u8>>::new());
    for number in [20, 21] {
        world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, &key(number), 4 * MIB) });
        for _ in 0..5 {
            world.master.tick(world.now);
            world.work(0);
        }
    }
    assert_eq!(world.fakes[0].keys(Tier::Disk).into_iter().collect::<Vec<_>>(), [key(0)]);
    assert!(world.look(&key(1)).is_none(), "dropped");
    world.checked();
}

#[test]
fn a_group_leaves_as_a_whole_or_not_at_all() {
    let mut world = World::new(evicting(), 10 * MIB);
    for number in 0..4 {
        world.put_as(&Put { group: Group(7), ..Put::new(world.tenant, &key(number), MIB) });
    }
    for number in 4..9 {
        world.put(&key(number), MIB);
    }
    world.master.lease(world.tenant, &key(2), 1_000, world.now).unwrap();
    world.master.tick(world.now);
    assert_eq!(memory(&world), [0, 1, 2, 3, 7, 8], "one of them is leased, so all stay");
    world.pass(1_001);
    world.work(0);
    world.put(&key(9), 3 * MIB);
    (7..10).for_each(|number| drop(world.hit(&key(number))));
    world.master.tick(world.now);
    assert_eq!(memory(&world), [7, 8, 9], "now all have left");
    world.checked();
    world.master.remove(world.tenant, &key(7)).unwrap();
    world.checked();
}

#[test]
fn a_tenant_over_its_quota_evicts_only_its_own() {
    let mut world = World::new(options(), 100 * MIB);
    let other = world.master.tenant("b").unwrap();
    world.master.set_quota(world.tenant, Quota { memory: Some(3 * MIB), ..Quota::default() });
    world.put_as(&Put::new(other, b"theirs", 50 * MIB));
    for number in 0..6 {
        world.put(&key(number), MIB);
        world.checked();
    }
    assert_eq!(memory(&world), [3, 4, 5]);
    assert_eq!(world.master.used(world.tenant, Tier::Memory), 3 * MIB);
    assert_eq!(world.master.used(other, Tier::Memory), 50 * MIB);
    for number in 3..6 {
        world.master.pin(world.tenant, &key(number), Pin::Hard).unwrap();
    }
    let refused = world.reserve(&Put::new(world.tenant, b"more", MIB)).unwrap_err();
    assert!(matches!(refused, Refused::Wait(wait) if wait.what == WaitFor::Quota), "{refused:?}");
    let refused = world.reserve(&Put::new(world.tenant, b"more", 4 * MIB)).unwrap_err();
    assert_eq!(refused, Refused::TooLarge { size: 4 * MIB, most: 3 * MIB });
    world.checked();
}

#[test]
fn under_pressure_the_tenant_that_has_most_for_its_weight_gives_first() {
    let mut world = World::new(evicting(), 20 * MIB);
    let (small, heavy) = (world.master.tenant("small").unwrap(), world.master.tenant("heavy").unwrap());
    world.master.set_quota(heavy, Quota { weight: 4, ..Quota::default() });
    for (tenant, many) in [(small, 2_u32), (heavy, 8), (world.tenant, 7)] {
        for number in 0..many {
            world.put_as(&Put::new(tenant, &key(number), MIB));
        }
    }
    world.master.tick(world.now);
    let used = |tenant| world.master.used(tenant, Tier::Memory) / MIB;
    assert_eq!([used(world.tenant), used(small), used(heavy)], [2, 2, 8]);
    world.checked();
}

#[test]
fn a_copy_that_its_node_lost_is_told_and_the_last_one_takes_the_object_along() {
    let mut world = World::new(Options { offload: Offload::AtCommit, ..options() }, 100 * MIB);
    let version = world.put(b"k", MIB);
    world.work(0);
    let name = store::master::name::Name { tenant: world.tenant, key: b"k".as_slice().into() };
    let lost = |tier| News::Lost { name: name.clone(), version, tier };
    world.tell(0, &lost(Tier::Memory)).unwrap();
    assert_eq!(world.hit(b"k").memory.len(), 0);
    assert_eq!(world.tell(0, &lost(Tier::Memory)), Err(Error::Stale), "twice is harmless");
    world.tell(0, &lost(Tier::Disk)).unwrap();
    assert_eq!(world.get(b"k"), store::master::Found::Absent);
    assert_eq!(world.master.counters().moves.lost, 2);
    world.checked();
}

#[test]
fn disk_is_evicted_by_the_master_and_what_is_in_memory_stays_there() {
    let mut world = World::with_nodes(Options { offload: Offload::AtCommit, ..evicting() }, &[]);
    world.add_node("n", 100 * MIB, 10 * MIB);
    for number in 0..9 {
        world.put(&key(number), MIB);
        world.work(0);
    }
    world.master.tick(world.now);
    world.work(0);
    assert_eq!(world.fakes[0].bytes(Tier::Disk), 6 * MIB);
    assert_eq!(memory(&world).len(), 9);
    assert_eq!(world.master.counters().moves.evicted_disk, 3);
    world.checked();
}
