//! Which hits promote, and which gate stops the others.

use store::master::name::{Group, Millis, Name, Pin, Tier};
use store::master::options::{Offload, Options, Promotion};
use store::master::{Glance, Item, Joining, Later, Never, News, Presence, Put, Quota, Tried};

use crate::kit::{MIB, World, key, options};

#[test]
fn promotion_is_off_by_default_and_inert() {
    assert!(!Options::default().promotion.on);
    let mut world = World::new(Options { shards: 4, ..Options::default() }, 100 * MIB);
    world.cold(b"k", MIB);
    for _ in 0..10 {
        assert_eq!(world.tried(b"k"), None);
    }
    let look = world.look(b"k").unwrap();
    assert_eq!((look.disk_heat, look.promoting, look.candidate), (0, false, None));
    assert_eq!(world.take_tasks(0), []);
    let counted = world.master.counters();
    assert_eq!((counted.rejected, counted.candidates, counted.promotions), Default::default());
    world.checked();
}

#[test]
fn the_second_read_of_what_is_only_on_disk_promotes_it_and_what_is_in_memory_is_never_promoted() {
    let mut world = World::new(Options { offload: Offload::AtCommit, ..options() }, 100 * MIB);
    world.put(b"memory and disk", MIB);
    world.work(0);
    world.cold(b"disk", MIB);
    let mut off = World::new(options(), 100 * MIB);
    off.put(b"memory", MIB);
    for _ in 0..5 {
        assert_eq!(world.tried(b"memory and disk"), None);
        assert_eq!(off.tried(b"memory"), None);
    }
    assert_eq!(world.tried(b"disk"), Some(Tried::Never(Never::Cold)));
    assert!(matches!(world.tried(b"disk"), Some(Tried::Queued(_))));
    assert_eq!(world.look_node(0).memory.promised, MIB);
    world.checked();
    world.work(0);
    assert_eq!(world.hit(b"disk").memory.to_vec(), [world.node(0)]);
    assert_eq!(world.hit(b"disk").disk.to_vec(), [world.node(0)], "the copy on disk stays");
    let done = world.master.counters().promotions;
    assert_eq!((done.admitted, done.completed, done.completed_bytes), (1, 1, MIB));
    world.checked();
}

#[test]
fn single_gets_and_batches_promote_and_the_threshold_is_what_was_set() {
    for (threshold, expected) in [(0_u8, 1), (1, 1), (2, 2), (3, 3), (255, 255)] {
        let promotion = Promotion { threshold, ..options().promotion };
        let mut world = World::new(Options { promotion, ..options() }, 100 * MIB);
        world.cold(b"one", MIB);
        world.cold(b"two", MIB);
        let mut reads = 0;
        while world.take_tasks(0).is_empty() {
            reads += 1;
            assert!(reads <= 300);
            let found = world.master.get_many(world.tenant, &[b"one", b"two", b"none"], world.now);
            assert_eq!(found.len(), 3);
        }
        assert_eq!(reads, expected, "threshold {threshold}");
        assert_eq!(world.master.gauges().promotions, 2);
    }
}

#[test]
fn questions_neither_count_nor_promote_nor_lease() {
    let mut world = World::new(Options { lease: 500, ..options() }, 100 * MIB);
    world.cold(b"k", MIB);
    world.put(b"m", MIB);
    let (master, tenant, now) = (world.master.clone(), world.tenant, world.now);
    let before = (world.look(b"k"), world.look(b"m"));
    world.pass(100);
    for _ in 0..10 {
        for key in [b"k", b"m"] {
            assert_eq!(master.exists(tenant, key), Presence::Here);
            assert_eq!(master.size(tenant, key), Some(MIB));
            assert_eq!(master.glance(tenant, key, world.now), Glance::Here { size: MIB, ends: None });
        }
        let mut each = Vec::new();
        master.exists_many(tenant, &[b"k", b"m"], &mut each);
        assert_eq!((each, master.hottest(10)), (vec![Presence::Here; 2], Vec::new()));
        assert_eq!((world.look_node(0).orders, master.tenant_list().len()), (0, 1));
        assert_eq!((world.look(b"k"), world.look(b"m")), before);
        assert_eq!(master.scan(tenant, 0, 10).1.len(), 2);
        assert_eq!(master.count(tenant), 2);
    }
    assert_eq!(world.tried(b"k"), Some(Tried::Never(Never::Cold)), "this is the first read");
    let counted = master.counters();
    assert_eq!((counted.promotions.admitted, counted.moves.hits_disk), (0, 1));
    // It is seen that a read does all of that.
    world.hit(b"m");
    assert_eq!(before.1.unwrap().lease, now);
    assert_eq!(world.look(b"m").map(|look| (look.lease, look.heat)), Some((world.now.plus(500), 1)));
}

#[test]
fn reads_count_for_the_tenant_who_reads_and_decay_with_time() {
    let mut world = World::new(options(), 100 * MIB);
    let other = world.master.tenant("b").unwrap();
    world.cold(b"k", MIB);
    world.on_disk(0, other, b"k", MIB);
    assert_eq!(world.tried(b"k"), Some(Tried::Never(Never::Cold)));
    let store::master::Found::Here(hit) = world.master.get(other, b"k", world.now) else { panic!() };
    assert_eq!(hit.promotion, Some(Tried::Never(Never::Cold)), "the same key of another tenant is another");
    world.pass(10 * world.master.options().half_life);
    assert_eq!(world.tried(b"k"), Some(Tried::Never(Never::Cold)), "the first read is forgotten");
    assert!(matches!(world.tried(b"k"), Some(Tried::Queued(_))));
}

#[test]
fn keys_that_are_read_once_are_not_promoted_however_many_come() {
    let (windows, keys) = (20_u32, 4_000_u32);
    let mut world = World::new(Options { shards: 64, ..options() }, 100 * MIB);
    let mut promoted = Vec::new();
    for window in 0..windows {
        let before = world.master.counters().promotions.admitted;
        for number in window * keys..(window + 1) * keys {
            world.cold(&key(number), 1);
            world.tried(&key(number));
        }
        // Ten seconds a window: hardly anything is forgotten meanwhile.
        world.pass(10_000);
        promoted.push(world.master.counters().promotions.admitted - before);
    }
    let reads = world.master.counters().moves.hits_disk;
    assert_eq!(reads, u64::from(windows * keys));
    assert!(promoted.iter().all(|many| many * 100 < u64::from(keys) * 5), "{promoted:?}");
    assert!(promoted.iter().sum::<u64>() * 100 < reads * 5, "{promoted:?}");
    // It is not that nothing is ever promoted: a second read of the last window is enough.
    for number in (windows - 1) * keys..windows * keys {
        world.tried(&key(number));
    }
    let again = world.master.counters().promotions.admitted - promoted.iter().sum::<u64>();
    assert!(again * 100 > u64::from(keys) * 95, "{again} of {keys}");
}

/// Reads until it is hot; what came of the last.
fn heat(world: &World, key: &[u8]) -> Tried {
    world.tried(key);
    world.tried(key).unwrap()
}

#[test]
fn each_gate_has_its_own_counter() {
    let with = |promotion: Promotion| Options { promotion, ..options() };
    let base = || options().promotion;
    // Above the watermark.
    let mut world = World::new(options(), 10 * MIB);
    world.put(b"full", 9 * MIB);
    world.cold(b"k", MIB);
    assert_eq!(heat(&world, b"k"), Tried::Later(Later::Watermark));
    assert_eq!(world.master.counters().rejected.watermark, 1);
    // At the cap.
    let mut world = World::new(with(Promotion { at_a_time: 1, ..base() }), 100 * MIB);
    world.cold(b"first", MIB);
    world.cold(b"k", MIB);
    assert!(matches!(heat(&world, b"first"), Tried::Queued(_)));
    assert_eq!(heat(&world, b"k"), Tried::Later(Later::Cap));
    assert_eq!(world.master.counters().rejected.cap, 1);
    // In flight.
    assert_eq!(world.tried(b"first"), Some(Tried::Never(Never::InFlight)));
    assert_eq!(world.master.counters().rejected.in_flight, 1);
    // Below the threshold: the first read of each.
    assert_eq!(world.master.counters().rejected.cold, 2);
    // The line of orders of the holder is full.
    let mut world = World::new(Options { orders: 1, ..options() }, 100 * MIB);
    world.cold(b"first", MIB);
    world.cold(b"k", MIB);
    assert!(matches!(heat(&world, b"first"), Tried::Queued(_)));
    assert_eq!(heat(&world, b"k"), Tried::Later(Later::PushFailed));
    assert_eq!(world.master.counters().rejected.push_failed, 1);
    assert_eq!(world.look_node(0).memory.promised, MIB, "what was promised to the second is taken back");
    world.checked();
    // The tenant's quota.
    let mut world = World::new(options(), 100 * MIB);
    world.master.set_quota(world.tenant, Quota { memory: Some(MIB / 2), ..Quota::default() });
    world.cold(b"k", MIB);
    assert_eq!(heat(&world, b"k"), Tried::Later(Later::Quota));
    assert_eq!(world.master.counters().rejected.quota, 1);
    world.checked();
}

#[test]
fn gates_that_only_retries_and_warming_meet_are_counted_as_well() {
    // Off.
    let mut world = World::new(Options { promotion: Promotion::default(), ..options() }, 100 * MIB);
    world.cold(b"k", MIB);
    let warm = world.master.warm(world.tenant, &[b"k"], world.now.plus(1_000), world.now);
    assert_eq!((warm.pending(), world.master.counters().rejected.off), (0, 1));
    // A candidate whose holder is away, and that comes to memory by itself.
    let mut world = World::with_nodes(options(), &[10 * MIB, 10 * MIB]);
    for (fake, name) in [(0, b"first"), (1, b"other")] {
        let (prefer, pin) = (Some(world.node(fake)), Pin::Hard);
        world.put_as(&Put { prefer, pin, ..Put::new(world.tenant, name, 9 * MIB) });
    }
    let version = world.cold(b"k", MIB);
    assert_eq!(heat(&world, b"k"), Tried::Later(Later::Watermark));
    world.master.away(world.node(0)).unwrap();
    world.pass(10);
    assert_eq!(world.master.tick(world.now).tried, 1);
    assert_eq!(world.master.counters().rejected.holder_away, 1);
    // Otherwise it would leave again at once.
    world.master.lease(world.tenant, b"k", 60_000, world.now).unwrap();
    let name = Name { tenant: world.tenant, key: b"k".as_slice().into() };
    let (pin, group, tier) = (Pin::None, Group::NONE, Tier::Memory);
    let item = Item { name, version, size: MIB, tier, pin, group, block: None, ends: None, doubtful: false };
    world.tell(1, &News::Adopted(item)).unwrap();
    assert_eq!((world.master.candidates(), world.master.counters().candidates.settled), (0, 1), "at once");
    // That copy's node is away, the other one back: a candidate again, until the copy is back as well.
    let back = |world: &World, fake: usize| {
        let joining = Joining { id: &world.fakes[fake].id, life: 1, memory: 10 * MIB, disk: 1_000 * MIB };
        world.master.join(&joining).unwrap();
    };
    back(&world, 0);
    world.master.away(world.node(1)).unwrap();
    assert_eq!(world.tried(b"k"), Some(Tried::Later(Later::Watermark)));
    back(&world, 1);
    world.pass(5_000);
    assert_eq!(world.master.tick(world.now).admitted, 0);
    let counted = world.master.counters();
    assert_eq!((counted.rejected.in_memory, counted.candidates.settled), (1, 2));
    assert_eq!((counted.candidates.admitted, world.master.candidates()), (0, 0));
    world.checked();
}

#[test]
fn many_readers_make_one_task_and_one_pin() {
    let mut world = World::new(options(), 100 * MIB);
    world.cold(b"k", MIB);
    let (master, tenant) = (world.master.clone(), world.tenant);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let master = master.clone();
            scope.spawn(move || (0..500).for_each(|_| drop(master.get(tenant, b"k", Millis(1_000_000)))));
        }
    });
    assert_eq!(world.take_tasks(0).len(), 1);
    let counted = world.master.counters();
    assert_eq!((counted.promotions.admitted, world.master.gauges().promotions), (1, 1));
    assert_eq!(counted.moves.hits_disk, 4_000);
    world.checked();
}

#[test]
fn an_active_write_blocks_admission_and_its_end_decides() {
    let mut world = World::new(options(), 100 * MIB);
    world.cold(b"k", MIB);
    let put = world.begin(&Put::new(world.tenant, b"k", 2 * MIB)).unwrap();
    assert_eq!(heat(&world, b"k"), Tried::Later(Later::BeingPut));
    assert_eq!(world.master.counters().rejected.being_put, 1);
    assert_eq!(world.master.candidates(), 1);
    // It fails: the candidate is admitted without another read.
    world.master.revoke(put.put).unwrap();
    world.fakes[0].open.clear();
    world.pass(10);
    assert_eq!(world.master.tick(world.now).admitted, 1);
    world.work(0);
    assert!(world.in_memory(b"k"));
    // It succeeds: what was there is gone, and with it the candidate.
    world.cold(b"other", MIB);
    let put = world.begin(&Put::new(world.tenant, b"other", 2 * MIB)).unwrap();
    heat(&world, b"other");
    assert_eq!(world.master.candidates(), 1);
    world.commit(put.put).unwrap();
    assert_eq!(world.master.candidates(), 0);
    assert_eq!(world.master.counters().candidates.settled, 1);
    world.checked();
    world.work(0);
    assert_eq!(world.fakes[0].bytes(Tier::Disk), MIB, "the old copy left the disk");
}

#[test]
fn a_key_that_is_not_there_is_no_error_and_promotes_nothing() {
    let world = World::new(options(), 100 * MIB);
    for _ in 0..3 {
        assert_eq!(world.get(b"none"), store::master::Found::Absent);
    }
    assert_eq!(world.master.counters().moves.misses, 3);
    assert_eq!(world.master.candidates(), 0);
}
