//! Putting: what is reserved, what waits, and what becomes of puts that nobody ends.

use store::master::name::{Tier, Version};
use store::master::options::{Offload, Options};
use store::master::{Committed, Error, Found, Glance, Life, Put, Refused, Terms, Wait, WaitFor, When};

use crate::kit::{MIB, World, block, key, options};

fn wait(refused: Result<store::master::Reserved, Refused>) -> Wait {
    match refused {
        Err(Refused::Wait(wait)) => wait,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_object_shows_as_a_whole_or_not_at_all_and_missing_is_not_empty() {
    let mut world = World::new(options(), 10 * MIB);
    let put = world.begin(&Put::new(world.tenant, b"k", MIB)).unwrap();
    assert_eq!(world.get(b"k"), Found::Absent);
    world.checked();
    let version = world.commit(put.put).unwrap();
    let hit = world.hit(b"k");
    assert_eq!((hit.version, hit.size, hit.memory.to_vec()), (version, MIB, vec![world.node(0)]));
    world.put(b"empty", 0);
    assert_eq!(world.hit(b"empty").size, 0);
    assert_eq!(world.commit(put.put), Err(Error::Stale), "once");
    let failed = world.begin(&Put::new(world.tenant, b"f", MIB)).unwrap();
    world.master.revoke(failed.put).unwrap();
    assert_eq!(world.get(b"f"), Found::Absent);
    assert_eq!(world.look_node(0).memory.reserved, 0);
    assert_eq!(world.master.used(world.tenant, Tier::Memory), MIB);
    world.checked();
}

#[test]
fn a_second_put_of_a_key_replaces_the_first_and_a_duplicate_can_be_refused() {
    let mut world = World::new(Options { offload: Offload::AtCommit, ..options() }, 10 * MIB);
    let first = world.put(b"k", MIB);
    world.work(0);
    let only_new = Put { only_new: true, ..Put::new(world.tenant, b"k", MIB) };
    assert_eq!(world.reserve(&only_new).unwrap_err(), Refused::Exists(first));
    world.checked();
    let second = world.put(b"k", 2 * MIB);
    assert!(second > first);
    assert_eq!((world.hit(b"k").version, world.hit(b"k").size), (second, 2 * MIB));
    assert_eq!(world.hit(b"k").disk.len(), 0, "what is on disk is the old version");
    world.checked();
    world.work(0);
    let versions: Vec<Version> = world.fakes[0].holds.keys().map(|(version, _)| *version).collect();
    assert_eq!(versions, [second, second]);
    world.checked();
}

#[test]
fn a_put_that_nobody_ends_is_displaced_after_its_patience_and_its_bytes_are_free_when_no_late_write_can_land()
{
    assert_eq!(Options::default().put_patience, 30_000);
    let mut world = World::new(options(), 10 * MIB);
    let patience = options().put_patience;
    let lost = world.begin(&Put::new(world.tenant, b"k", MIB)).unwrap();
    world.pass(patience - 1);
    assert_eq!(world.master.tick(world.now).reaped, 0, "not before");
    world.pass(1);
    assert_eq!(world.master.tick(world.now).reaped, 1);
    let second = world.begin(&Put::new(world.tenant, b"k", MIB)).unwrap();
    assert_eq!(world.commit(lost.put), Err(Error::Stale));
    let space = world.look_node(0).memory;
    assert_eq!((space.reserved, space.leaving), (MIB, MIB));
    assert_eq!(world.master.used(world.tenant, Tier::Memory), MIB, "the tenant pays for one");
    world.checked();
    world.work(0);
    assert_eq!(world.look_node(0).memory.leaving, 0);
    world.commit(second.put).unwrap();
    // Without another put of the key the tick does it.
    world.begin(&Put::new(world.tenant, b"other", MIB)).unwrap();
    world.pass(patience);
    assert_eq!(world.master.tick(world.now).reaped, 1);
    assert_eq!(world.master.gauges().puts, 0);
    world.work(0);
    assert_eq!(world.look_node(0).memory.free(), 9 * MIB);
    world.checked();
    // Somebody who has not the buffer gives up.
    let given_up = world.begin(&Put::new(world.tenant, b"third", MIB)).unwrap();
    world.master.abandon(given_up.put).unwrap();
    assert_eq!(world.look_node(0).memory.leaving, MIB);
    world.work(0);
    assert_eq!(world.look_node(0).memory.free(), 9 * MIB);
    world.checked();
}

#[test]
fn of_several_puts_of_a_key_the_one_that_began_last_stays() {
    let mut world = World::new(options(), 10 * MIB);
    let first = world.begin(&Put::new(world.tenant, b"k", MIB)).unwrap();
    let second = world.begin(&Put::new(world.tenant, b"k", 2 * MIB)).unwrap();
    assert_eq!(world.look_node(0).memory.reserved, 3 * MIB);
    let always = Terms::default();
    let stored = world.master.commit(second.put, &always, world.now);
    assert_eq!(stored, Ok(Committed::Stored(second.put.version())));
    assert_eq!(world.master.commit(first.put, &always, world.now), Ok(Committed::Overtaken));
    assert_eq!(world.hit(b"k").size, 2 * MIB);
    assert_eq!(world.look_node(0).memory.free(), 8 * MIB);
    world.checked();
}

#[test]
fn the_condition_of_a_put_decides_when_it_is_committed() {
    let mut world = World::new(options(), 10 * MIB);
    let terms = |when| Terms { when, ..Terms::default() };
    let put = |world: &mut World, when| {
        let begun = world.begin(&Put::new(world.tenant, b"k", MIB)).unwrap();
        world.master.commit(begun.put, &terms(when), world.now).unwrap()
    };
    assert_eq!(put(&mut world, When::Present), Committed::Unchanged);
    let Committed::Stored(first) = put(&mut world, When::Absent) else { panic!("nothing was there") };
    assert_eq!(put(&mut world, When::Absent), Committed::Unchanged);
    assert_eq!(world.hit(b"k").version, first);
    assert!(matches!(put(&mut world, When::Present), Committed::Stored(second) if second > first));
    world.work(0);
    assert_eq!(world.look_node(0).memory.free(), 9 * MIB);
    world.checked();
}

#[test]
fn what_has_a_life_is_gone_when_it_is_over_whoever_looks_first() {
    let mut world = World::new(options(), 10 * MIB);
    let put = |world: &mut World, key: &[u8], life| {
        let begun = world.begin(&Put::new(world.tenant, key, MIB)).unwrap();
        world.master.commit(begun.put, &Terms { life, ..Terms::default() }, world.now).unwrap()
    };
    let ends = world.now.plus(100);
    for key in [b"read", b"seen", b"left", b"kept", b"open"] {
        put(&mut world, key, Life::Until(ends));
    }
    put(&mut world, b"kept", Life::Kept);
    put(&mut world, b"open", Life::Open);
    let glance = |world: &World, key: &[u8]| world.master.glance(world.tenant, key, world.now);
    assert_eq!(glance(&world, b"kept"), Glance::Here { size: MIB, ends: Some(ends) });
    assert_eq!(glance(&world, b"open"), Glance::Here { size: MIB, ends: None });
    world.checked();
    world.pass(100);
    assert_eq!(world.master.get(world.tenant, b"read", world.now), Found::Absent);
    assert_eq!(glance(&world, b"seen"), Glance::Absent);
    for _ in 0..16 {
        world.master.tick(world.now);
    }
    assert_eq!((world.master.gauges().objects, world.master.counters().moves.ended), (1, 4));
    world.checked();
    world.work(0);
    assert_eq!(world.look_node(0).memory.free(), 9 * MIB);
    world.checked();
}

#[test]
fn when_memory_is_full_a_put_waits_for_what_is_leaving_already_and_later_ones_do_not_go_past_it() {
    let mut world = World::new(Options { high: 1_000, low: 1_000, ..options() }, 10 * MIB);
    for number in 0..10 {
        world.put(&key(number), MIB);
    }
    let large = wait(world.reserve(&Put::new(world.tenant, b"large", 4 * MIB)));
    assert_eq!((large.what, large.node), (WaitFor::Space, Some(world.node(0))));
    assert_eq!(world.look_node(0).memory.leaving, 4 * MIB, "eviction has been started");
    let small = wait(world.reserve(&Put::new(world.tenant, b"small", MIB)));
    assert!(small.ticket > large.ticket);
    let orders = world.take(0, u64::MAX);
    let spaces = world.ears.spaces.load(std::sync::atomic::Ordering::Relaxed);
    for order in orders.into_iter().take(2) {
        world.carry_out(0, order);
    }
    assert!(world.ears.spaces.load(std::sync::atomic::Ordering::Relaxed) > spaces, "who waits is woken");
    let again = Put { ticket: small.ticket, ..Put::new(world.tenant, b"small", MIB) };
    assert_eq!(wait(world.reserve(&again)), small, "two are free, but the large one came first");
    world.checked();
    world.fakes[0].todo.clear();
    let leaving: Vec<Version> = world.fakes[0].holds.keys().map(|(version, _)| *version).collect();
    for version in leaving {
        let tier = Tier::Memory;
        if world.look_node(0).memory.leaving > 0 {
            let told = world.tell(0, &store::master::News::Released { version, tier });
            if told.is_ok() {
                world.fakes[0].holds.remove(&(version, tier));
            }
        }
    }
    let large = Put { ticket: large.ticket, ..Put::new(world.tenant, b"large", 4 * MIB) };
    world.put_as(&large);
    world.put_as(&again);
    assert_eq!(world.look_node(0).waits, 0);
    world.checked();
}

#[test]
fn the_line_for_space_is_bounded_in_length_and_in_time() {
    let mut world = World::new(Options { waits: 2, ..options() }, 2 * MIB);
    world.put_as(&Put { pin: store::master::name::Pin::Hard, ..Put::new(world.tenant, b"kept", 2 * MIB) });
    let first = wait(world.reserve(&Put::new(world.tenant, &key(1), MIB)));
    let second = wait(world.reserve(&Put::new(world.tenant, &key(2), MIB)));
    assert_eq!(world.reserve(&Put::new(world.tenant, &key(3), MIB)), Err(Refused::Full));
    world.master.forget_ticket(second.ticket.unwrap());
    wait(world.reserve(&Put::new(world.tenant, &key(3), MIB)));
    assert_eq!(first.until, world.now.plus(options().wait_patience));
    world.pass(options().wait_patience + 1);
    let name = key(1);
    let late = Put { ticket: first.ticket, ..Put::new(world.tenant, &name, MIB) };
    assert_eq!(world.reserve(&late), Err(Refused::Full));
    assert_eq!(world.master.used(world.tenant, Tier::Memory), 2 * MIB, "who is refused pays nothing");
    world.checked();
}

#[test]
fn slots_bound_transfers_and_what_can_never_fit_is_refused_at_once() {
    let mut world = World::new(Options { slots: 2, largest: 5 * MIB, ..options() }, 4 * MIB);
    let first = world.begin(&Put::new(world.tenant, &key(0), MIB)).unwrap();
    world.begin(&Put::new(world.tenant, &key(1), MIB)).unwrap();
    let waits = wait(world.reserve(&Put::new(world.tenant, &key(2), MIB)));
    assert_eq!(waits.what, WaitFor::Slot);
    world.commit(first.put).unwrap();
    world.put_as(&Put { ticket: waits.ticket, ..Put::new(world.tenant, &key(2), MIB) });
    let refuse = |size| world.reserve(&Put::new(world.tenant, b"large", size)).unwrap_err();
    assert_eq!(refuse(5 * MIB), Refused::TooLarge { size: 5 * MIB, most: 4 * MIB });
    assert_eq!(refuse(6 * MIB), Refused::TooLarge { size: 6 * MIB, most: 5 * MIB });
    world.master.drain(world.node(0), true).unwrap();
    assert_eq!(refuse(1), Refused::NoNode);
    world.checked();
}

#[test]
fn puts_go_where_they_are_wanted_or_where_most_is_free() {
    let mut world = World::with_nodes(options(), &[10 * MIB, 20 * MIB]);
    let at = |world: &World, prefer| {
        world.reserve(&Put { prefer, ..Put::new(world.tenant, &key(world.master.gauges().puts as u32), MIB) })
    };
    assert_eq!(at(&world, None).unwrap().node, world.node(1));
    assert_eq!(at(&world, Some(world.node(0))).unwrap().node, world.node(0));
    world.master.drain(world.node(1), true).unwrap();
    assert_eq!(at(&world, Some(world.node(1))).unwrap().node, world.node(0));
    world.master.drain(world.node(1), false).unwrap();
    world.put_as(&Put { prefer: Some(world.node(1)), ..Put::new(world.tenant, b"l", 15 * MIB) });
    assert_eq!(at(&world, None).unwrap().node, world.node(0));
    world.checked();
}

#[test]
fn offloads_are_pushed_at_once_and_each_is_durable_or_reported() {
    let mut world = World::with_nodes(Options { offload: Offload::AtCommit, ..options() }, &[]);
    world.add_node("n", 100 * MIB, 2 * MIB);
    let before = world.ears.orders.load(std::sync::atomic::Ordering::Relaxed);
    for number in 0..3 {
        world.put(&key(number), MIB);
    }
    assert!(world.ears.orders.load(std::sync::atomic::Ordering::Relaxed) > before, "its node is woken");
    assert!(world.master.has_orders(world.node(0)), "one is enough: nothing waits for a batch");
    let moves = world.master.counters().moves;
    assert_eq!(
        (moves.offloads, moves.offloads_refused),
        (2, 1),
        "the third has no room on disk, and that is told"
    );
    world.work(0);
    assert_eq!(world.master.counters().moves.offloaded, 2);
    world.checked();
    // Where there is no disk nothing is refused: nobody expects it.
    let mut world = World::with_nodes(Options { offload: Offload::AtCommit, ..options() }, &[]);
    world.add_node("n", 100 * MIB, 0);
    world.put(&key(0), MIB);
    assert_eq!(world.master.counters().moves.offloads_refused, 0);
    // One that its node never answers is given up, and what it may have written is dropped.
    let mut world = World::new(Options { offload: Offload::AtCommit, ..options() }, 100 * MIB);
    let version = world.put(b"k", MIB);
    let taken = world.take(0, u64::MAX);
    assert_eq!(taken.len(), 1);
    world.pass(options().offload_patience);
    assert_eq!(world.master.tick(world.now).reaped, 1);
    assert_eq!(world.look_node(0).disk.leaving, MIB);
    let name = store::master::name::Name { tenant: world.tenant, key: b"k".as_slice().into() };
    let late = store::master::News::Offloaded { name, version };
    assert_eq!(world.tell(0, &late), Err(Error::Stale));
    world.work(0);
    assert_eq!(world.look_node(0).disk.free(), 1_000 * MIB);
    assert_eq!(world.master.counters().moves.offloads_failed, 1);
    world.checked();
}

#[test]
fn where_blocks_are_is_told_in_order_and_only_of_objects_that_carry_one() {
    let mut world = World::new(Options { offload: Offload::AtCommit, ..options() }, 100 * MIB);
    let version = world.put_as(&Put { block: Some(block(1)), ..Put::new(world.tenant, b"b", MIB) });
    world.put(b"plain", MIB);
    world.work(0);
    world.master.remove(world.tenant, b"b").unwrap();
    let changes: Vec<(Version, Tier, bool)> =
        world.ears.changes.lock().unwrap().iter().map(|(_, v, _, tier, here)| (*v, *tier, *here)).collect();
    let mut gone = changes[2..].to_vec();
    gone.sort_unstable();
    assert_eq!(changes[..2], [(version, Tier::Memory, true), (version, Tier::Disk, true)]);
    assert_eq!(gone, [(version, Tier::Memory, false), (version, Tier::Disk, false)]);
}

#[test]
fn removing_by_prefix_takes_the_tenants_own_and_nothing_else() {
    let mut world = World::new(options(), 100 * MIB);
    let other = world.master.tenant("b").unwrap();
    for number in 0..30 {
        world.put(format!("a/{number}").as_bytes(), 1);
        world.put(format!("b/{number}").as_bytes(), 1);
    }
    world.put_as(&Put::new(other, b"a/0", 1));
    let (mut cursor, mut removed) = (0, 0);
    loop {
        let (some, next) = world.master.remove_prefix(world.tenant, b"a/", cursor).unwrap();
        removed += some;
        cursor = next;
        if next == 0 {
            break;
        }
    }
    assert_eq!((removed, world.master.count(world.tenant), world.master.count(other)), (30, 30, 1));
    assert_eq!(world.get(b"a/3"), Found::Absent);
    let (mut cursor, mut keys) = (0, Vec::new());
    loop {
        let (next, some) = world.master.scan(world.tenant, cursor, 5);
        keys.extend(some);
        cursor = next;
        if next == 0 {
            break;
        }
    }
    assert_eq!(keys.len(), 30);
    world.checked();
}
