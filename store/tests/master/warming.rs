//! Warming: known demand needs no reads, keeps every other rule, and is counted once.

use store::master::counters::Warmed;
use store::master::name::Pin;
use store::master::options::{Options, Promotion};
use store::master::{Order, Put};

use crate::kit::{MIB, World, key, options};

fn warmed(world: &World) -> Warmed {
    world.master.counters().warmed
}

#[test]
fn what_somebody_waits_for_is_promoted_without_a_read_once_and_counted_in_time() {
    let mut world = World::new(options(), 100 * MIB);
    world.cold(b"k", MIB);
    world.put(b"warm already", MIB);
    let keys: [&[u8]; 3] = [b"k", b"warm already", b"none"];
    let by = world.now.plus(1_000);
    let one = world.master.warm(world.tenant, &keys, by, world.now);
    let two = world.master.warm(world.tenant, &keys, by, world.now);
    assert_eq!((one.pending(), two.pending()), (1, 1));
    let orders = world.take(0, u64::MAX);
    let [Order::Promote(_, copying)] = orders.as_slice() else { panic!("{orders:?}") };
    assert_eq!((copying.deadline, copying.heat), (Some(by), 0));
    world.checked();
    world.carry_out(0, orders[0].clone());
    let counted = warmed(&world);
    assert_eq!((counted.asked, counted.in_time, counted.gone), (6, 4, 2));
    world.master.cool(one);
    world.master.cool(two);
    assert_eq!(warmed(&world).cancelled, 0, "it was done by then");
    assert_eq!(world.master.counters().promotions.admitted, 1);
    world.checked();
}

#[test]
fn whoever_leaves_cancels_what_only_they_wanted_and_nobody_has_begun() {
    let mut world = World::new(options(), 100 * MIB);
    for number in 0..3 {
        world.cold(&key(number), MIB);
    }
    let by = world.now.plus(1_000);
    let one = world.master.warm(world.tenant, &[&key(0), &key(1), &key(2)], by, world.now);
    let two = world.master.warm(world.tenant, &[&key(1)], by, world.now);
    // Somebody reads the third, and it is hot.
    world.tried(&key(2));
    world.tried(&key(2));
    world.master.cool(one);
    world.checked();
    assert_eq!(warmed(&world).cancelled, 3);
    let left: Vec<Vec<u8>> = world.take_tasks(0).into_iter().map(|(_, key)| key).collect();
    assert_eq!(left, [key(1), key(2)]);
    assert_eq!(world.look_node(0).memory.promised, 2 * MIB);
    assert_eq!(world.master.counters().promotions.cancelled, 1);
    // What its holder has begun goes on.
    world.master.cool(two);
    assert_eq!(world.master.gauges().promotions, 2);
    assert_eq!(world.master.gauges().awaited, 0);
    world.checked();
}

#[test]
fn warming_obeys_watermark_and_caps_and_waits_as_a_candidate() {
    for leaves in [false, true] {
        let mut world = World::new(options(), 10 * MIB);
        world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"full", 9 * MIB) });
        world.cold(b"k", MIB);
        let warm = world.master.warm(world.tenant, &[b"k"], world.now.plus(60_000), world.now);
        assert_eq!((warm.pending(), world.master.candidates()), (1, 1));
        assert_eq!(world.look(b"k").unwrap().candidate.unwrap().wanted, 1);
        world.checked();
        if leaves {
            world.master.cool(warm);
            assert_eq!((world.master.candidates(), warmed(&world).cancelled), (0, 1));
        } else {
            world.master.remove(world.tenant, b"full").unwrap();
            world.work(0);
            assert_eq!(world.master.tick(world.now).admitted, 1);
            world.work(0);
            assert_eq!(warmed(&world).in_time, 1);
        }
        world.checked();
    }
}

#[test]
fn what_comes_too_late_is_counted_and_no_longer_tried_and_what_nobody_read_is_too() {
    let mut world = World::new(options(), 10 * MIB);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"full", 9 * MIB) });
    world.cold(b"refused", MIB);
    let warm = world.master.warm(world.tenant, &[b"refused"], world.now.plus(50), world.now);
    world.pass(51);
    world.master.tick(world.now);
    assert_eq!((world.master.candidates(), warmed(&world).too_late), (0, 1));
    world.master.cool(warm);
    world.checked();
    // Queued, but its holder takes nothing until it is too late.
    let mut world = World::new(options(), 10 * MIB);
    world.cold(b"queued", MIB);
    let warm = world.master.warm(world.tenant, &[b"queued"], world.now.plus(50), world.now);
    world.pass(51);
    world.master.tick(world.now);
    assert_eq!((world.master.gauges().promotions, warmed(&world).too_late), (0, 1));
    assert_eq!(world.take_tasks(0), []);
    world.master.cool(warm);
    world.checked();
    // In memory after the deadline, and evicted without ever being read.
    let mut world = World::new(options(), 10 * MIB);
    for name in [b"a", b"b"] {
        world.cold(name, MIB);
        drop(world.master.warm(world.tenant, &[name], world.now.plus(50), world.now));
    }
    let orders = world.take(0, u64::MAX);
    world.pass(51);
    for order in orders {
        world.carry_out(0, order);
    }
    assert_eq!((warmed(&world).too_late, warmed(&world).in_time), (2, 0));
    world.hit(b"a");
    world.master.remove(world.tenant, b"a").unwrap();
    world.master.remove(world.tenant, b"b").unwrap();
    assert_eq!(warmed(&world).never_used, 1);
    world.checked();
}

#[test]
fn without_room_for_another_candidate_or_with_promotion_off_warming_says_so_at_once() {
    let promotion = Promotion { candidates: 0, at_a_time: 0, ..options().promotion };
    for promotion in [promotion, Promotion { on: false, ..options().promotion }] {
        let mut world = World::new(Options { promotion, ..options() }, 10 * MIB);
        world.cold(b"k", MIB);
        let warm = world.master.warm(world.tenant, &[b"k"], world.now.plus(50), world.now);
        assert_eq!((warm.pending(), warmed(&world).too_late), (0, 1));
        world.checked();
    }
}

#[test]
fn what_somebody_will_read_and_is_in_memory_is_spared_once() {
    let mut world = World::new(Options { high: 800, low: 700, ..options() }, 10 * MIB);
    for number in 0..8 {
        world.put(&key(number), MIB);
    }
    drop(world.master.warm(world.tenant, &[&key(0)], world.now.plus(1_000), world.now));
    world.put(&key(8), MIB);
    assert_eq!(world.master.tick(world.now).evicted, 2 * MIB);
    let gone: Vec<u32> = (0..9).filter(|number| !world.in_memory(&key(*number))).collect();
    assert_eq!(gone, [1, 2], "the oldest is not the next to go");
    world.checked();
}
