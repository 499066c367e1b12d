//! The master learns everything from its nodes, and says so as long as it does not know everything.

use store::master::name::{Name, Tier, Version};
use store::master::options::{Offload, Options};
use store::master::{
    Error, Found, Inventory, Item, Joining, News, Presence, Put, Reckoned, Standing, Terms, When,
};

use crate::kit::{MIB, World, key, options};

fn offloading() -> Options {
    Options { offload: Offload::AtCommit, ..options() }
}

/// A world whose master forgot everything: a new one, of a later term, with the same nodes.
fn restart_master(mut world: World) -> World {
    let mut again = World::with_nodes(Options { term: 2, ..world.master.options().clone() }, &[]);
    again.now = world.now;
    let ids: Vec<&str> = world.fakes.iter().map(|fake| fake.id.as_str()).collect();
    again.master.expect(&ids).unwrap();
    again.fakes.append(&mut world.fakes);
    for fake in &mut again.fakes {
        // What was under way with the old master is given up.
        fake.open.clear();
        fake.todo.clear();
    }
    again
}

fn join(world: &mut World, fake: usize) -> Inventory {
    let (id, life) = (world.fakes[fake].id.clone(), world.fakes[fake].life);
    let (memory, disk) = (world.fakes[fake].memory, world.fakes[fake].disk);
    let joined = world.master.join(&Joining { id: &id, life, memory, disk }).unwrap();
    world.fakes[fake].node = joined.node;
    joined.inventory
}

#[test]
fn a_restarted_master_knows_nothing_until_it_has_been_told_and_then_everything_that_nodes_hold() {
    let mut world = World::with_nodes(offloading(), &[100 * MIB, 100 * MIB]);
    let mut versions = Vec::new();
    for number in 0..20 {
        let prefer = Some(world.node(number as usize % 2));
        versions.push(world.put_as(&Put { prefer, ..Put::new(world.tenant, &key(number), MIB) }));
    }
    world.work_all();
    let mut world = restart_master(world);
    assert_eq!(world.get(&key(0)), Found::Unknown);
    assert_eq!(world.master.exists(world.tenant, b"none"), Presence::Unknown);
    assert_eq!(join(&mut world, 0), Inventory::Snapshot);
    let node = world.node(0);
    world.master.begin_inventory(node, 1).unwrap();
    let items = world.fakes[0].items();
    world.master.inventory(node, 1, &items).unwrap();
    assert_eq!(world.get(&key(0)), Found::Unknown, "nothing is read before the snapshot is complete");
    assert_eq!(world.master.remove(world.tenant, b"none"), Err(Error::Absent));
    let position = world.fakes[0].position;
    world.master.end_inventory(node, 1, position, world.now).unwrap();
    assert_eq!(world.hit(&key(0)).version, versions[0]);
    assert_eq!(world.get(&key(1)), Found::Unknown, "the other node may have it");
    join(&mut world, 1);
    world.snapshot(1);
    for number in 0..20_u32 {
        assert_eq!(world.hit(&key(number)).version, versions[number as usize]);
    }
    assert_eq!(world.get(b"none"), Found::Absent);
    let newer = world.put(&key(0), MIB);
    assert!(newer > versions[0], "a later term gives out greater versions");
    world.checked();
}

#[test]
fn a_restarted_node_is_readopted_by_its_id_with_what_its_disk_has_and_without_its_memory() {
    let mut world = World::new(offloading(), 100 * MIB);
    world.put(b"durable", MIB);
    world.work(0);
    world.put(b"memory only", MIB);
    let put = world.begin(&Put::new(world.tenant, b"under way", MIB)).unwrap();
    world.cold(b"promoting", MIB);
    world.tried(b"promoting");
    world.tried(b"promoting");
    let node = world.node(0);
    let fake = &mut world.fakes[0];
    fake.life = 2;
    fake.position = 0;
    fake.holds.retain(|(_, tier), _| *tier == Tier::Disk);
    fake.open.clear();
    assert_eq!(join(&mut world, 0), Inventory::Snapshot);
    assert_eq!(world.node(0), node, "the same number");
    assert_eq!(world.master.commit(put.put, &Terms::default(), world.now), Err(Error::Stale));
    assert_eq!(world.get(b"durable"), Found::Unknown);
    let old = News::Released { version: Version(1), tier: Tier::Disk };
    assert_eq!(world.master.tell(node, 1, 9, &old, world.now), Err(Error::OldLife));
    world.snapshot(0);
    let durable = world.hit(b"durable");
    assert_eq!((durable.memory.len(), durable.disk.len()), (0, 1));
    assert_eq!(world.get(b"memory only"), Found::Absent);
    let space = world.look_node(0).memory;
    assert_eq!((space.here, space.reserved, space.leaving, space.promised), (0, 0, 0, 0));
    assert_eq!(world.master.counters().promotions.cancelled, 1);
    assert_eq!(world.look_node(0).disk.here, 2 * MIB);
    world.checked();
}

#[test]
fn a_gap_is_noticed_at_once_and_repaired_by_a_snapshot() {
    let mut world = World::new(offloading(), 100 * MIB);
    let version = world.put(b"k", MIB);
    let name = Name { tenant: world.tenant, key: b"k".as_slice().into() };
    world.work(0);
    world.fakes[0].position += 1;
    // Lost on the way: the copy in memory is gone.
    world.fakes[0].holds.remove(&(version, Tier::Memory));
    let expected = world.look_node(0).position + 1;
    let news = News::Lost { name, version, tier: Tier::Disk };
    assert_eq!(world.tell(0, &news), Err(Error::Gap { expected }));
    assert_eq!(world.look_node(0).standing, Standing::Recovering);
    assert_eq!(world.get(b"k"), Found::Unknown);
    assert_eq!(world.tell(0, &news), Err(Error::NotExact));
    world.snapshot(0);
    assert_eq!((world.hit(b"k").memory.len(), world.hit(b"k").disk.len()), (0, 1));
    // Going back is no old news either.
    world.fakes[0].position -= 1;
    assert!(matches!(world.tell(0, &news), Err(Error::Gap { .. })));
    world.checked();
}

#[test]
fn a_node_that_was_away_and_missed_nothing_is_read_again_at_once() {
    let mut world = World::with_nodes(offloading(), &[100 * MIB, 100 * MIB]);
    world.put_as(&Put { prefer: Some(world.node(0)), ..Put::new(world.tenant, b"k", MIB) });
    world.master.away(world.node(0)).unwrap();
    assert_eq!(world.get(b"k"), Found::Unknown);
    assert_eq!(world.take(0, u64::MAX), [], "nobody is there to take orders");
    let position = world.fakes[0].position;
    assert_eq!(join(&mut world, 0), Inventory::From(position + 1));
    assert_eq!(world.hit(b"k").memory.len(), 1);
    world.work(0);
    assert_eq!(world.hit(b"k").disk.len(), 1);
    world.checked();
    world.master.lost(world.node(0)).unwrap();
    assert_eq!(world.get(b"k"), Found::Absent, "what is lost is not waited for");
    assert_eq!(world.look_node(0).standing, Standing::Gone);
    world.checked();
    assert_eq!(join(&mut world, 0), Inventory::Snapshot);
    world.snapshot(0);
    assert_eq!(world.hit(b"k").disk.len(), 1, "but is welcome");
    world.checked();
}

#[test]
fn a_duplicate_is_counted_once_and_an_older_version_is_dropped() {
    let mut world = World::with_nodes(options(), &[100 * MIB, 100 * MIB]);
    world.cold(b"k", MIB);
    let item = world.fakes[0].items().remove(0);
    world.tell(0, &News::Adopted(item.clone())).unwrap();
    assert_eq!((world.look_node(0).disk.here, world.hit(b"k").disk.len()), (MIB, 1));
    world.tell(1, &News::Adopted(item.clone())).unwrap();
    assert_eq!(world.hit(b"k").disk.len(), 2, "another node's copy is another copy");
    let newer = world.put(b"k", MIB);
    world.work_all();
    assert!(newer > item.version);
    world.tell(1, &News::Adopted(item.clone())).unwrap();
    assert_eq!(world.hit(b"k").version, newer);
    assert_eq!(world.look_node(1).disk.leaving, MIB, "it is dropped");
    let newest = Item { version: Version(newer.0 + 100), ..item };
    world.tell(1, &News::Adopted(newest.clone())).unwrap();
    assert_eq!(world.hit(b"k").version, newest.version, "a newer one replaces what is here");
    assert!(world.put(b"k", MIB) > newest.version);
    world.checked();
}

#[test]
fn what_is_removed_while_a_node_is_not_known_does_not_come_back_with_it() {
    let mut world = World::with_nodes(offloading(), &[100 * MIB, 100 * MIB]);
    world.put_as(&Put { prefer: Some(world.node(0)), ..Put::new(world.tenant, b"k", MIB) });
    world.work_all();
    let mut world = restart_master(world);
    assert_eq!(world.master.remove(world.tenant, b"k"), Err(Error::Absent));
    for fake in 0..2 {
        join(&mut world, fake);
        world.snapshot(fake);
        world.checked();
    }
    assert_eq!(world.get(b"k"), Found::Absent);
    world.work_all();
    assert_eq!(world.fakes[0].holds.len(), 0, "and its copies are dropped");
    world.put(b"k", MIB);
    assert_eq!(world.hit(b"k").size, MIB);
    world.checked();
    // It cannot remember everything: then it says so.
    let world = restart_master(world);
    let refused = (0..20_000).find_map(|number| {
        let removed = world.master.remove(world.tenant, &key(number));
        (removed != Err(Error::Absent)).then_some(removed)
    });
    assert_eq!(refused, Some(Err(Error::NotExact)));
}

#[test]
fn drops_that_were_not_confirmed_are_ordered_again_when_a_node_is_back() {
    let mut world = World::new(offloading(), 100 * MIB);
    world.put(b"k", MIB);
    world.work(0);
    world.master.remove(world.tenant, b"k").unwrap();
    // Taken, and lost with the life of the node: its disk still has the copy.
    assert_eq!(world.take(0, u64::MAX).len(), 2);
    let fake = &mut world.fakes[0];
    (fake.life, fake.position) = (2, 0);
    fake.holds.retain(|(_, tier), _| *tier == Tier::Disk);
    join(&mut world, 0);
    world.snapshot(0);
    assert_eq!(world.get(b"k"), Found::Absent, "what was removed does not come back");
    let space = world.look_node(0);
    assert_eq!((space.memory.leaving, space.disk.leaving), (0, MIB));
    world.work(0);
    assert_eq!((world.fakes[0].holds.len(), world.look_node(0).disk.leaving), (0, 0));
    world.checked();
}

#[test]
fn what_is_open_is_ordered_once_however_often_a_node_comes_back() {
    let mut world = World::new(offloading(), 100 * MIB);
    world.put(b"k", MIB);
    world.work(0);
    world.begin(&Put::new(world.tenant, b"under way", MIB)).unwrap();
    world.master.remove(world.tenant, b"k").unwrap();
    for _ in 0..3 {
        world.master.away(world.node(0)).unwrap();
        assert!(matches!(join(&mut world, 0), Inventory::From(_)));
    }
    world.snapshot(0);
    world.snapshot(0);
    // A second order for the same copy could take away what is written in its place after the first.
    let orders = world.take(0, u64::MAX);
    assert_eq!(orders.len(), 3, "two copies and a transfer: {orders:?}");
    for order in orders {
        world.carry_out(0, order);
    }
    let looked = world.look_node(0);
    assert_eq!((looked.leaving, looked.memory.free(), world.fakes[0].open.len()), (0, 100 * MIB, 0));
    world.checked();
}

/// The node tells everything anew and has not heard of any condition that it held, however often it begins.
fn tell_in_doubt(world: &mut World, times: usize) {
    let node = world.node(0);
    let items: Vec<Item> =
        world.fakes[0].items().into_iter().map(|item| Item { doubtful: true, ..item }).collect();
    for _ in 0..times {
        world.master.begin_inventory(node, 1).unwrap();
        world.master.inventory(node, 1, &items[..items.len() / 2]).unwrap();
    }
    world.master.inventory(node, 1, &items).unwrap();
    let position = world.fakes[0].position;
    world.master.end_inventory(node, 1, position, world.now).unwrap();
}

fn put_if_absent(world: &mut World, key: &[u8]) -> Version {
    let reserved = world.begin(&Put::new(world.tenant, key, MIB)).unwrap();
    let version = reserved.put.version();
    let terms = Terms { when: When::Absent, ..Terms::default() };
    world.master.commit(reserved.put, &terms, world.now).unwrap();
    let bytes = world.fakes[0].open.remove(&version).unwrap();
    world.fakes[0].holds.insert((version, Tier::Memory), bytes);
    version
}

#[test]
fn a_condition_that_held_is_remembered_for_a_node_that_has_not_heard_of_it() {
    let mut world = World::new(Options { offload: Offload::Off, ..options() }, 100 * MIB);
    let versions: Vec<Version> =
        (0..6).map(|number| put_if_absent(&mut world, format!("{number}").as_bytes())).collect();
    for times in [1, 3] {
        tell_in_doubt(&mut world, times);
        for (number, version) in versions.iter().enumerate() {
            let key = format!("{number}");
            assert_eq!(world.hit(key.as_bytes()).version, *version);
            let name = Name { tenant: world.tenant, key: key.as_bytes().into() };
            assert_eq!(world.master.reckons_with(world.node(0), &name, *version), Reckoned::Shown);
        }
        world.checked();
    }
    // A master that did not decide takes them for nothing, and has them dropped.
    let mut world = restart_master(world);
    join(&mut world, 0);
    tell_in_doubt(&mut world, 2);
    let name = Name { tenant: world.tenant, key: b"0".as_slice().into() };
    assert_eq!(world.get(b"0"), Found::Absent);
    assert_eq!(world.master.reckons_with(world.node(0), &name, versions[0]), Reckoned::Pending);
    world.work(0);
    assert_eq!(world.master.reckons_with(world.node(0), &name, versions[0]), Reckoned::No);
    assert_eq!((world.fakes[0].holds.len(), world.look_node(0).memory.free()), (0, 100 * MIB));
    world.checked();
}

#[test]
fn a_condition_that_was_not_decided_when_its_node_told_everything_anew_has_not_held() {
    let mut world = World::new(Options { offload: Offload::Off, ..options() }, 100 * MIB);
    let reserved = world.begin(&Put::new(world.tenant, b"k", MIB)).unwrap();
    let name = Name { tenant: world.tenant, key: b"k".as_slice().into() };
    let version = reserved.put.version();
    assert_eq!(world.master.reckons_with(world.node(0), &name, version), Reckoned::Pending);
    let item = |world: &World| Item { doubtful: true, ..world.fakes[0].items().remove(0) };
    world.fakes[0].holds.insert((version, Tier::Memory), (name.clone(), MIB));
    let node = world.node(0);
    world.master.begin_inventory(node, 1).unwrap();
    let told = item(&world);
    world.master.inventory(node, 1, &[told]).unwrap();
    let position = world.fakes[0].position;
    world.master.end_inventory(node, 1, position, world.now).unwrap();
    let terms = Terms { when: When::Absent, ..Terms::default() };
    assert_eq!(world.master.commit(reserved.put, &terms, world.now), Err(Error::Stale));
    assert_eq!(world.get(b"k"), Found::Absent);
}
