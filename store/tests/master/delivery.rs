//! How orders reach nodes, and the life of a task.

use store::master::name::{Node, Tier};
use store::master::options::{Offload, Options};
use store::master::{Error, Later, Master, News, Order, Put, Quota, TaskId, Terms, Tried};

use crate::kit::{MIB, World, key, options};

/// A task that its holder has taken.
fn taken(world: &mut World, key: &[u8]) -> TaskId {
    world.cold(key, MIB);
    world.tried(key);
    assert!(matches!(world.tried(key), Some(Tried::Queued(_))));
    let tasks = world.take_tasks(0);
    assert_eq!(tasks.len(), 1);
    tasks[0].0
}

#[test]
fn orders_come_in_bounded_batches_and_leftovers_are_kept() {
    let mut world = World::new(options(), 100 * MIB);
    for number in 0..10 {
        world.cold(&key(number), MIB);
        world.tried(&key(number));
        world.tried(&key(number));
    }
    let mut sizes = Vec::new();
    while world.master.has_orders(world.node(0)) {
        sizes.push(world.take(0, 3 * MIB).len());
    }
    assert_eq!(sizes, [3, 3, 3, 1]);
    assert_eq!(world.take(0, 3 * MIB), []);
    // One that is larger than the budget still gets through, alone.
    world.cold(b"large", 20 * MIB);
    world.tried(b"large");
    world.tried(b"large");
    assert_eq!(world.take(0, MIB).len(), 1);
    assert_eq!(world.take(0, 0), []);
    world.checked();
}

#[test]
fn an_unknown_node_is_an_error() {
    let mut world = World::new(options(), 100 * MIB);
    let other = World::with_nodes(options(), &[MIB, MIB]);
    let stranger: Node = other.node(1);
    assert_eq!(world.master.take_orders(stranger, 1), Err(Error::UnknownNode));
    assert_eq!(world.master.away(stranger), Err(Error::UnknownNode));
    let task = taken(&mut world, b"k");
    assert_eq!(world.master.allocate(task, stranger, MIB, world.now), Err(Error::WrongHolder));
}

#[test]
fn the_hottest_comes_first_then_the_others_and_deadlines_before_all() {
    let mut world = World::new(Options { orders: 100, ..options() }, 100 * MIB);
    for (number, reads) in [(0_u32, 2), (1, 5), (2, 3)] {
        world.cold(&key(number), MIB);
        // Read while no promotion can begin: another put of the key is under way.
        let put = world.begin(&Put::new(world.tenant, &key(number), MIB)).unwrap();
        for _ in 0..reads {
            world.tried(&key(number));
        }
        world.master.revoke(put.put).unwrap();
    }
    world.cold(&key(3), MIB);
    let warm = world.master.warm(world.tenant, &[&key(3)], world.now.plus(1_000), world.now);
    assert_eq!(warm.pending(), 1);
    world.pass(10);
    assert_eq!(world.master.tick(world.now).admitted, 3);
    let order: Vec<Vec<u8>> = world.take_tasks(0).into_iter().map(|(_, key)| key).collect();
    assert_eq!(order, [key(3), key(1), key(2), key(0)]);
}

#[test]
fn tenants_have_equal_parts_of_the_copying_however_much_each_wants() {
    let mut world = World::new(options(), 1_000 * MIB);
    let (few, heavy) = (world.master.tenant("few").unwrap(), world.master.tenant("heavy").unwrap());
    world.master.set_quota(heavy, Quota { weight: 2, ..Quota::default() });
    for (tenant, many) in [(world.tenant, 60_u32), (few, 6), (heavy, 60)] {
        for number in 0..many {
            world.on_disk(0, tenant, &key(number), MIB);
            world.master.get(tenant, &key(number), world.now);
            world.master.get(tenant, &key(number), world.now);
        }
    }
    let mut taken = [0; 3];
    for order in world.take(0, 24 * MIB) {
        let Order::Promote(_, copying) = order else { panic!("{order:?}") };
        taken[usize::from(copying.name.tenant.number())] += 1;
    }
    assert_eq!(taken, [6, 6, 12], "by weight, and whoever wants little gets all of it");
}

#[test]
fn after_the_master_restarted_what_it_does_not_know_is_not_found_and_harmless() {
    let mut world = World::new(options(), 100 * MIB);
    let task = taken(&mut world, b"k");
    let put = world.begin(&Put::new(world.tenant, b"p", MIB)).unwrap();
    let again = World::new(Options { term: 2, ..options() }, 100 * MIB);
    let master: &Master = &again.master;
    assert_eq!(master.allocate(task, again.node(0), MIB, again.now), Err(Error::Stale));
    assert_eq!(master.promoted(task, again.node(0), again.now), Err(Error::Stale));
    assert_eq!(master.failed(task, again.node(0), "", again.now), Err(Error::Stale));
    assert_eq!(master.commit(put.put, &Terms::default(), again.now), Err(Error::Stale));
    assert_eq!(master.revoke(put.put), Err(Error::Stale));
    assert_eq!(master.counters().promotions, store::master::counters::Promotions::default());
    again.checked();
}

#[test]
fn failures_of_one_key_do_not_touch_others() {
    let mut world = World::new(options(), 100 * MIB);
    for number in 0..3 {
        world.cold(&key(number), MIB);
        world.tried(&key(number));
        world.tried(&key(number));
    }
    let tasks = world.take_tasks(0);
    let node = world.node(0);
    world.master.failed(tasks[1].0, node, "checksum", world.now).unwrap();
    for at in [0, 2] {
        world.master.allocate(tasks[at].0, node, MIB, world.now).unwrap();
        world.master.promoted(tasks[at].0, node, world.now).unwrap();
    }
    let memory: Vec<bool> = tasks.iter().map(|(_, key)| world.in_memory(key)).collect();
    assert_eq!(memory, [true, false, true]);
    let waits = world.look(&tasks[1].1).unwrap().candidate.unwrap();
    assert_eq!((waits.last_reason, waits.last_error.as_deref()), (Later::Failed, Some("checksum")));
    world.checked();
}

#[test]
fn memory_is_given_once_to_the_holder_for_the_right_size() {
    let mut world = World::with_nodes(options(), &[100 * MIB, 100 * MIB]);
    let task = taken(&mut world, b"k");
    let (holder, other, now) = (world.node(0), world.node(1), world.now);
    let master = world.master.clone();
    assert_eq!(master.allocate(task, other, MIB, now), Err(Error::WrongHolder));
    assert_eq!(master.allocate(task, holder, MIB + 1, now), Err(Error::WrongSize { expected: MIB }));
    assert_eq!(master.promoted(task, holder, now), Err(Error::Stale), "nothing is staged yet");
    assert_eq!(master.used(world.tenant, Tier::Memory), 0);
    let staging = master.allocate(task, holder, MIB, now).unwrap();
    assert_eq!(staging.target, holder);
    assert_eq!(master.used(world.tenant, Tier::Memory), MIB, "charged");
    assert_eq!(master.allocate(task, holder, MIB, now), Err(Error::Twice));
    assert_eq!(master.promoted(task, other, now), Err(Error::WrongHolder));
    assert!(!world.in_memory(b"k"), "what is staged is not to be seen");
    world.checked();
    master.promoted(task, holder, now).unwrap();
    assert_eq!(master.used(world.tenant, Tier::Memory), MIB, "settled");
    assert!(world.in_memory(b"k"));
    assert_eq!(master.promoted(task, holder, now), Err(Error::Stale));
    assert_eq!(master.allocate(task, holder, MIB, now), Err(Error::Stale));
    world.checked();
}

#[test]
fn a_task_that_fails_gives_back_quota_slot_and_pin_at_once() {
    let mut world = World::new(options(), 100 * MIB);
    let task = taken(&mut world, b"k");
    let (node, now) = (world.node(0), world.now);
    world.master.allocate(task, node, MIB, now).unwrap();
    world.master.failed(task, node, "read error", now).unwrap();
    assert_eq!(world.master.used(world.tenant, Tier::Memory), 0, "refunded");
    let space = world.look_node(0).memory;
    assert_eq!((space.reserved, space.leaving, space.promised), (0, 0, 0));
    assert_eq!(world.master.gauges().promotions, 0);
    assert_eq!(world.master.promoted(task, node, now), Err(Error::Stale));
    world.checked();
}

#[test]
fn a_quota_that_was_used_up_since_refuses_memory_charges_nothing_and_is_tried_again() {
    let mut world = World::new(options(), 100 * MIB);
    world.master.set_quota(world.tenant, Quota { memory: Some(2 * MIB), ..Quota::default() });
    let task = taken(&mut world, b"k");
    let (node, now) = (world.node(0), world.now);
    world.put(b"more", 2 * MIB);
    assert_eq!(world.master.allocate(task, node, MIB, now), Err(Error::NoMemory));
    assert_eq!(world.master.used(world.tenant, Tier::Memory), 2 * MIB);
    let space = world.look_node(0).memory;
    assert_eq!((space.reserved, space.promised), (0, 0));
    assert_eq!(world.master.allocate(task, node, MIB, now), Err(Error::Stale), "the task is ended");
    assert_eq!(world.look(b"k").unwrap().candidate.unwrap().last_reason, Later::NoMemory);
    world.checked();
    world.master.remove(world.tenant, b"more").unwrap();
    world.work(0);
    assert_eq!(world.master.tick(world.now).admitted, 1);
    world.work(0);
    assert!(world.in_memory(b"k"));
    assert_eq!(world.master.used(world.tenant, Tier::Memory), MIB);
    world.checked();
}

#[test]
fn the_deadline_begins_anew_at_allocation_and_a_late_commit_fails_cleanly() {
    let mut world = World::new(options(), 100 * MIB);
    let patience = options().promotion.patience;
    let task = taken(&mut world, b"k");
    let node = world.node(0);
    world.pass(patience - 1);
    assert_eq!(world.master.tick(world.now).reaped, 0);
    let staging = world.master.allocate(task, node, MIB, world.now).unwrap();
    assert_eq!(staging.deadline, world.now.plus(patience));
    world.pass(patience - 1);
    assert_eq!(world.master.tick(world.now).reaped, 0);
    world.pass(1);
    assert_eq!(world.master.tick(world.now).reaped, 1);
    assert_eq!(world.master.promoted(task, node, world.now), Err(Error::Stale));
    assert_eq!(world.master.allocate(task, node, MIB, world.now), Err(Error::Stale));
    let space = world.look_node(0).memory;
    assert_eq!((space.reserved, space.leaving), (0, MIB), "a late write may still land there");
    assert_eq!(world.master.counters().promotions.expired, 1);
    world.checked();
    world.work(0);
    assert_eq!(world.look_node(0).memory.leaving, 0);
    // It is a candidate, and gets there after all.
    world.pass(1_000);
    world.master.tick(world.now);
    world.work(0);
    assert!(world.in_memory(b"k"));
    world.checked();
}

#[test]
fn removal_holder_loss_and_segment_loss_cancel_a_task_at_each_stage() {
    for staged in [false, true] {
        for how in 0..3 {
            let mut world = World::new(options(), 100 * MIB);
            let task = taken(&mut world, b"k");
            let (node, now) = (world.node(0), world.now);
            if staged {
                world.master.allocate(task, node, MIB, now).unwrap();
            }
            match how {
                0 => drop(world.master.remove(world.tenant, b"k").unwrap()),
                1 => world.master.lost(node).unwrap(),
                _ => {
                    let ((version, tier), (name, _)) =
                        world.fakes[0].holds.pop_first().expect("it holds the copy");
                    world.tell(0, &News::Lost { name, version, tier }).unwrap();
                }
            }
            let done = world.master.counters().promotions;
            assert_eq!((done.admitted, done.cancelled), (1, 1), "staged {staged}, {how}");
            assert_eq!(world.master.promoted(task, node, now), Err(Error::Stale));
            assert_eq!(world.master.allocate(task, node, MIB, now), Err(Error::Stale));
            assert_eq!(world.master.candidates(), 0);
            world.checked();
            world.work_all();
            let space = world.look_node(0).memory;
            assert_eq!((space.here, space.reserved, space.leaving, space.promised), (0, 0, 0, 0));
        }
    }
}

#[test]
fn a_full_holder_lets_another_node_take_the_copy() {
    let mut world = World::with_nodes(options(), &[10 * MIB, 100 * MIB]);
    world.put_as(&Put { prefer: Some(world.node(0)), ..Put::new(world.tenant, b"full", 9 * MIB) });
    let task = taken(&mut world, b"k");
    let staging = world.master.allocate(task, world.node(0), MIB, world.now).unwrap();
    assert_eq!(staging.target, world.node(1));
    world.master.promoted(task, world.node(0), world.now).unwrap();
    assert_eq!(world.hit(b"k").memory.to_vec(), [world.node(1)]);
    assert_eq!(world.look_node(1).memory.here, MIB);
    world.checked();
}

#[test]
fn a_copy_is_not_staged_where_the_same_one_is_still_on_its_way_out() {
    let offload = Offload::AtCommit;
    let mut world = World::new(Options { offload, high: 800, low: 600, ..options() }, 10 * MIB);
    for number in 0..8 {
        world.put(&key(number), MIB);
        world.work(0);
    }
    world.put(&key(8), MIB);
    // The tick lets the first ones leave; their node has not answered.
    world.master.tick(world.now);
    assert!(!world.in_memory(&key(0)));
    world.tried(&key(0));
    assert!(matches!(world.tried(&key(0)), Some(Tried::Queued(_))));
    let (tasks, orders): (Vec<Order>, Vec<Order>) =
        world.take(0, u64::MAX).into_iter().partition(|order| matches!(order, Order::Promote(..)));
    let [Order::Promote(task, _)] = tasks[..] else { panic!("{tasks:?}") };
    let node = world.node(0);
    assert_eq!(world.master.allocate(task, node, MIB, world.now), Err(Error::NoMemory));
    world.checked();
    for order in orders {
        world.carry_out(0, order);
    }
    assert_eq!(world.master.tick(world.now).admitted, 1, "freed space wakes it");
    world.work(0);
    assert!(world.in_memory(&key(0)));
    world.checked();
}
