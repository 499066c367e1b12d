//! Candidates: what is refused for a reason that passes is tried again, within bounds, and counted.

use std::sync::atomic::Ordering;

use store::master::counters::Candidates;
use store::master::name::{Name, Pin, Tier};
use store::master::options::{Options, Promotion};
use store::master::{Later, Never, News, Presence, Put, Quota, Refused, Tried};

use crate::kit::{MIB, World, key, options};

fn with(promotion: Promotion) -> Options {
    Options { promotion, ..options() }
}

/// A world whose memory is full of what never leaves.
fn full(promotion: Promotion) -> World {
    let mut world = World::new(with(promotion), 10 * MIB);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"full", 9 * MIB) });
    world
}

/// On disk, and read so often.
fn read(world: &mut World, key: &[u8], reads: u32) -> Tried {
    if world.look(key).is_none() {
        world.cold(key, MIB);
    }
    let mut tried = None;
    for _ in 0..reads {
        tried = world.tried(key);
    }
    tried.unwrap()
}

fn candidates(world: &World) -> Candidates {
    world.master.counters().candidates
}

#[test]
fn a_refusal_by_the_watermark_records_one_candidate_and_a_second_get_refreshes_it() {
    let mut world = full(options().promotion);
    let began = world.now;
    assert_eq!(read(&mut world, b"k", 2), Tried::Later(Later::Watermark));
    let waits = world.look(b"k").unwrap().candidate.unwrap();
    assert_eq!((waits.score, waits.retries, waits.last_reason), (2, 0, Later::Watermark));
    assert_eq!((waits.first_seen, waits.last_seen, waits.retry_after), (began, began, began.plus(10)));
    world.pass(10);
    assert_eq!(world.master.tick(world.now).tried, 1);
    let waits = world.look(b"k").unwrap().candidate.unwrap();
    assert_eq!((waits.retries, waits.retry_after), (1, world.now.plus(20)), "the backoff doubles");
    assert_eq!((candidates(&world).recorded, candidates(&world).admission_rejected), (1, 1));
    world.pass(5);
    read(&mut world, b"k", 1);
    let waits = world.look(b"k").unwrap().candidate.unwrap();
    assert_eq!((waits.score, waits.retries), (3, 0), "a fresh hit gives a fresh budget");
    assert_eq!((waits.first_seen, waits.last_seen, waits.retry_after), (began, world.now, world.now));
    assert_eq!((candidates(&world).recorded, world.master.candidates()), (1, 1));
    world.checked();
}

#[test]
fn retries_do_not_inflate_the_sketch_nor_count_as_reads() {
    // Nothing cools down meanwhile.
    let mut world = World::new(Options { half_life: 1 << 40, ..options() }, 10 * MIB);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"full", 9 * MIB) });
    read(&mut world, b"k", 2);
    let before = (world.look(b"k").unwrap().disk_heat, world.master.counters().moves.hits_disk);
    for _ in 0..30 {
        world.pass(5_000);
        world.master.tick(world.now);
    }
    assert!(candidates(&world).admission_rejected > 20);
    let after = (world.look(b"k").unwrap().disk_heat, world.master.counters().moves.hits_disk);
    assert_eq!(before, after);
    assert_eq!(world.look(b"k").unwrap().candidate.unwrap().score, 2);
}

#[test]
fn a_refusal_by_the_cap_is_admitted_when_a_slot_frees_without_another_get_and_before_its_backoff() {
    let mut world = World::new(with(Promotion { at_a_time: 1, ..options().promotion }), 100 * MIB);
    assert!(matches!(read(&mut world, b"first", 2), Tried::Queued(_)));
    assert_eq!(read(&mut world, b"k", 2), Tried::Later(Later::Cap));
    assert_eq!(world.master.tick(world.now).tried, 0, "nothing has changed");
    let woken = world.ears.ticks.load(Ordering::Relaxed);
    world.work(0);
    assert!(world.ears.ticks.load(Ordering::Relaxed) > woken, "the tick is woken");
    let ticked = world.master.tick(world.now);
    assert_eq!((ticked.tried, ticked.admitted), (1, 1));
    assert_eq!((candidates(&world).admitted, world.master.candidates()), (1, 0));
    world.work(0);
    assert!(world.in_memory(b"k"));
    world.checked();
}

#[test]
fn freed_space_and_a_holder_that_is_back_wake_whoever_waits_for_them() {
    let mut world = full(options().promotion);
    read(&mut world, b"k", 2);
    world.master.remove(world.tenant, b"full").unwrap();
    world.work(0);
    assert_eq!(world.master.tick(world.now).admitted, 1, "before its backoff is over");
    // The holder is away: the object is neither there nor gone, and the candidate waits.
    let mut world = World::with_nodes(options(), &[100 * MIB, 100 * MIB]);
    world.cold(b"k", MIB);
    let put = world.begin(&Put::new(world.tenant, b"k", MIB)).unwrap();
    read(&mut world, b"k", 2);
    world.master.revoke(put.put).unwrap();
    world.master.away(world.node(0)).unwrap();
    assert_eq!(world.master.exists(world.tenant, b"k"), Presence::Unknown);
    world.pass(10);
    world.master.tick(world.now);
    assert_eq!(world.look(b"k").unwrap().candidate.unwrap().last_reason, Later::HolderAway);
    assert_eq!(world.master.tick(world.now).tried, 0);
    let (id, life) = (world.fakes[0].id.clone(), world.fakes[0].life);
    let joining = store::master::Joining { id: &id, life, memory: 100 * MIB, disk: 100 * MIB };
    world.master.join(&joining).unwrap();
    assert_eq!(world.master.tick(world.now).admitted, 1);
    world.checked();
}

#[test]
fn tries_because_something_happened_do_not_use_up_the_budget() {
    let mut world = full(Promotion { retries: 3, backoff: 1_000, ..options().promotion });
    read(&mut world, b"k", 2);
    for number in 0..20 {
        world.put(&key(number), 1);
        world.master.remove(world.tenant, &key(number)).unwrap();
        world.work(0);
        assert_eq!(world.master.tick(world.now).tried, 1);
    }
    assert_eq!(world.look(b"k").unwrap().candidate.unwrap().retries, 0);
    assert_eq!(world.master.candidates(), 1);
}

#[test]
fn a_hit_gives_a_fresh_budget_wherever_the_promotion_is_then() {
    // Once only a hit that was refused did. What had been used before one that promoted at once, or that found a promotion under
    // way, was still used when that failed; and the life was counted from the hit before.
    for under_way in [false, true] {
        let promotion = Promotion { retries: 4, ttl: 100_000, ..options().promotion };
        let mut world = World::new(with(promotion), 100 * MIB);
        let node = world.node(0);
        read(&mut world, b"k", 2);
        for round in 1..=3 {
            let tasks = world.take_tasks(0);
            world.master.failed(tasks[0].0, node, "disk", world.now).unwrap();
            assert_eq!(world.look(b"k").unwrap().candidate.unwrap().retries, round);
            world.pass(5_000);
            if round < 3 || under_way {
                assert_eq!(world.master.tick(world.now).admitted, 1);
            }
        }
        let hit_at = world.now;
        let tried = world.tried(b"k");
        assert_eq!(tried == Some(Tried::Never(Never::InFlight)), under_way, "{tried:?}");
        world.pass(90_000);
        let tasks = world.take_tasks(0);
        world.master.failed(tasks[0].0, node, "disk", world.now).unwrap();
        let waits = world.look(b"k").unwrap().candidate.expect("it has a whole budget again");
        assert_eq!((waits.retries, waits.last_seen), (1, hit_at), "under way: {under_way}");
        world.checked();
    }
}

#[test]
fn the_highest_score_is_kept_when_later_hits_find_less() {
    let mut world = World::new(Options { half_life: 10_000, ..options() }, 10 * MIB);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"full", 9 * MIB) });
    read(&mut world, b"k", 6);
    world.pass(20_000);
    read(&mut world, b"k", 1);
    let look = world.look(b"k").unwrap();
    assert_eq!((look.disk_heat, look.candidate.unwrap().score), (3, 6));
}

#[test]
fn by_default_a_candidate_is_tried_sixty_four_times_at_doubling_distances_of_up_to_five_seconds() {
    let defaults = Promotion::default();
    let told = (defaults.threshold, defaults.candidates, defaults.retries, defaults.ttl);
    assert_eq!(told, (2, 50_000, 64, 300_000));
    assert_eq!((defaults.shards_a_tick, defaults.tries_a_tick), (64, 128));
    let mut world = full(Promotion { on: true, ..defaults });
    read(&mut world, b"k", 2);
    let mut distances = Vec::new();
    while let Some(waits) = world.look(b"k").unwrap().candidate {
        distances.push(waits.retry_after.since(world.now));
        world.now = waits.retry_after;
        assert_eq!(world.master.tick(world.now).tried, 1);
    }
    let expected: Vec<u64> = (0..64).map(|tries: u32| (10_u64 << tries.min(20)).min(5_000)).collect();
    assert_eq!(distances, expected);
    assert!(distances.iter().sum::<u64>() < 300_000, "the budget lasts nearly as long as the life");
    assert_eq!((candidates(&world).expired_evaluated, candidates(&world).admission_rejected), (1, 64));
}

#[test]
fn a_line_of_orders_and_a_quota_with_room_again_wake_whoever_waits_for_them() {
    let mut world = World::new(Options { orders: 1, ..options() }, 100 * MIB);
    assert!(matches!(read(&mut world, b"first", 2), Tried::Queued(_)));
    assert_eq!(read(&mut world, b"k", 2), Tried::Later(Later::PushFailed));
    assert_eq!(world.master.tick(world.now).tried, 0, "nothing has changed");
    let woken = world.ears.ticks.load(Ordering::Relaxed);
    assert_eq!(world.take_tasks(0).len(), 1);
    assert!(world.ears.ticks.load(Ordering::Relaxed) > woken, "the tick is woken");
    assert_eq!(world.master.tick(world.now).admitted, 1, "before its backoff is over");
    world.checked();
    let mut world = World::new(options(), 100 * MIB);
    world.master.set_quota(world.tenant, Quota { memory: Some(MIB), ..Quota::default() });
    read(&mut world, b"first", 2);
    world.work(0);
    assert_eq!(read(&mut world, b"k", 2), Tried::Later(Later::Quota));
    assert_eq!(world.master.tick(world.now).tried, 0, "nothing has changed");
    world.master.remove(world.tenant, b"first").unwrap();
    let woken = world.ears.ticks.load(Ordering::Relaxed);
    world.work(0);
    assert!(world.ears.ticks.load(Ordering::Relaxed) > woken, "the tick is woken");
    assert_eq!(world.master.tick(world.now).admitted, 1, "before its backoff is over");
    world.checked();
}

#[test]
fn what_somebody_waits_for_is_tried_first_and_of_that_what_is_due_first() {
    let mut world = full(Promotion { tries_a_tick: 1, ..options().promotion });
    read(&mut world, &key(0), 9);
    for (number, within) in [(1, 60_000), (2, 30_000)] {
        world.cold(&key(number), MIB);
        let by = world.now.plus(within);
        drop(world.master.warm(world.tenant, &[&key(number)], by, world.now));
    }
    world.pass(10);
    let retries =
        |world: &World| [0, 1, 2].map(|number| world.look(&key(number)).unwrap().candidate.unwrap().retries);
    for expected in [[0, 0, 1], [0, 1, 1], [1, 1, 1]] {
        assert_eq!(world.master.tick(world.now).tried, 1);
        assert_eq!(retries(&world), expected);
    }
}

#[test]
fn a_node_that_is_lost_to_a_promotion_is_no_end_of_it_where_another_disk_has_the_object() {
    // Once its candidate was forgotten, and whoever waited was told that the object was gone.
    for lost in ["its holder", "its copy on the holder's disk", "the node it was to come to"] {
        let mut world = World::with_nodes(options(), &[10 * MIB, 10 * MIB]);
        let version = world.cold(b"k", MIB);
        if lost == "the node it was to come to" {
            let (prefer, pin) = (Some(world.node(0)), Pin::Hard);
            world.put_as(&Put { prefer, pin, ..Put::new(world.tenant, b"full", 9 * MIB) });
        } else {
            world.same_on_disk(1, b"k", version, MIB);
        }
        let warm = world.master.warm(world.tenant, &[b"k"], world.now.plus(60_000), world.now);
        assert_eq!((read(&mut world, b"k", 2), warm.pending()), (Tried::Never(Never::InFlight), 1));
        match lost {
            "its holder" => world.master.lost(world.node(0)).unwrap(),
            "its copy on the holder's disk" => {
                let name = Name { tenant: world.tenant, key: b"k".as_slice().into() };
                world.fakes[0].holds.remove(&(version, Tier::Disk));
                world.tell(0, &News::Lost { name, version, tier: Tier::Disk }).unwrap();
            }
            _ => world.master.lost(world.node(1)).unwrap(),
        }
        world.checked();
        let counted = world.master.counters();
        assert_eq!((counted.promotions.cancelled, counted.warmed.gone), (1, 0), "{lost}");
        assert_eq!(world.look(b"k").unwrap().candidate.unwrap().wanted, 1, "{lost}");
        if lost == "the node it was to come to" {
            world.master.remove(world.tenant, b"full").unwrap();
        }
        world.work_all();
        assert_eq!(world.master.tick(world.now).admitted, 1, "{lost}: at once");
        world.work_all();
        assert_eq!(world.hit(b"k").memory.len(), 1, "{lost}");
        assert_eq!(world.master.counters().warmed.in_time, 1);
        world.checked();
    }
}

#[test]
fn exhausted_candidates_are_erased_and_counted_by_whether_they_were_ever_tried() {
    let mut world = full(Promotion { retries: 3, ..options().promotion });
    read(&mut world, b"k", 2);
    for _ in 0..3 {
        assert_eq!((world.master.candidates(), candidates(&world).expired_evaluated), (1, 0));
        world.pass(5_000);
        world.master.tick(world.now);
    }
    assert_eq!((world.master.candidates(), candidates(&world).expired_evaluated), (0, 1));
    world.checked();
    // Too old, after a try.
    let mut world = full(Promotion { ttl: 1_000, ..options().promotion });
    read(&mut world, b"k", 2);
    world.pass(900);
    world.master.tick(world.now);
    world.pass(101);
    assert_eq!(world.master.tick(world.now).expired, 1);
    assert_eq!((candidates(&world).expired_evaluated, candidates(&world).expired_unevaluated), (1, 0));
    // Too old, and never tried: even if it was read again and again before.
    let mut world = full(Promotion { ttl: 1_000, ..options().promotion });
    read(&mut world, b"k", 2);
    world.pass(900);
    read(&mut world, b"k", 1);
    world.pass(900);
    assert_eq!(world.look(b"k").unwrap().candidate.unwrap().score, 3, "a hit extends its life");
    world.pass(101);
    assert_eq!(world.master.tick(world.now).expired, 1);
    assert_eq!((candidates(&world).expired_evaluated, candidates(&world).expired_unevaluated), (0, 1));
    world.checked();
}

#[test]
fn an_object_that_is_removed_while_it_is_retried_leaves_no_false_admission() {
    let mut world = full(options().promotion);
    read(&mut world, b"k", 2);
    read(&mut world, b"other", 2);
    world.master.remove(world.tenant, b"k").unwrap();
    assert_eq!((world.master.candidates(), candidates(&world).settled), (1, 1), "erased at once");
    world.master.remove(world.tenant, b"full").unwrap();
    world.pass(100);
    let ticked = world.master.tick(world.now);
    assert_eq!((ticked.tried, ticked.admitted), (1, 1));
    assert_eq!(candidates(&world).admitted, 1);
    world.checked();
}

#[test]
fn keys_are_independent_and_the_gauge_is_right() {
    let mut world = full(options().promotion);
    for number in 0..20 {
        read(&mut world, &key(number), 2);
        assert_eq!(world.master.gauges().candidates, u64::from(number) + 1);
    }
    assert_eq!(candidates(&world).recorded, 20);
    world.master.remove(world.tenant, &key(3)).unwrap();
    assert_eq!(world.master.gauges().candidates, 19);
    assert!(world.look(&key(4)).unwrap().candidate.is_some());
    world.checked();
}

#[test]
fn what_is_set_anew_counts_at_once_and_what_the_old_settings_chose_is_forgotten() {
    let mut world = full(options().promotion);
    for number in 0..10 {
        read(&mut world, &key(number), 2);
    }
    assert_eq!(world.master.candidates(), 10);
    let now = Promotion { candidates: 3, threshold: 2, shards_a_tick: usize::MAX, ..options().promotion };
    world.master.set_promotion(now);
    assert_eq!((world.master.candidates(), candidates(&world)), (0, Candidates::default()));
    for number in 0..10 {
        read(&mut world, &key(number), 1);
    }
    assert_eq!(world.master.candidates(), 3, "there may be only so many from now on; what is hot still is");
    assert_eq!(candidates(&world).dropped_limit, 7);
    world.pass(60_000);
    world.master.tick(world.now);
    world.checked();
    world.master.set_promotion(Promotion { on: false, ..options().promotion });
    for number in 0..10 {
        assert_eq!(world.tried(&key(number)), None);
    }
    assert_eq!((world.master.candidates(), candidates(&world).recorded), (0, 0));
    world.checked();
}

#[test]
fn reload_clears_candidates_and_their_counters_even_while_others_record() {
    let mut world = full(options().promotion);
    for number in 0..100 {
        read(&mut world, &key(number), 1);
    }
    let (master, tenant, now) = (&world.master, world.tenant, world.now);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for round in 0..20 {
                for number in 0..100 {
                    master.get(tenant, &key(number), now.plus(round));
                }
            }
        });
        for _ in 0..50 {
            master.clear_candidates();
        }
    });
    world.checked();
    world.master.clear_candidates();
    assert_eq!((world.master.candidates(), candidates(&world)), (0, Candidates::default()));
    assert_eq!(world.master.tick(world.now).tried, 0);
    world.checked();
    read(&mut world, &key(0), 1);
    assert_eq!((world.master.candidates(), candidates(&world).recorded), (1, 1));
    world.checked();
}

#[test]
fn past_the_limit_candidates_are_dropped_and_counted() {
    let mut world = full(Promotion { candidates: 3, ..options().promotion });
    for number in 0..5 {
        read(&mut world, &key(number), 2);
    }
    assert_eq!(world.master.candidates(), 3);
    assert_eq!((candidates(&world).recorded, candidates(&world).dropped_limit), (3, 2));
    world.master.remove(world.tenant, &key(0)).unwrap();
    read(&mut world, &key(4), 1);
    assert_eq!(candidates(&world).recorded, 4);
    world.checked();
}

#[test]
fn every_shard_has_its_turn_and_a_tick_tries_a_bounded_number_the_hottest_first() {
    let promotion =
        Promotion { shards_a_tick: 2, tries_a_tick: 5, backoff: 10, backoff_most: 10, ..options().promotion };
    let mut world = World::new(Options { shards: 16, ..with(promotion) }, 10 * MIB);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"full", 9 * MIB) });
    for number in 0..64 {
        read(&mut world, &key(number), 2);
    }
    world.pass(10);
    let mut tried = 0;
    for _ in 0..8 {
        let ticked = world.master.tick(world.now);
        assert!(ticked.shards == 2 && ticked.tried <= 5);
        tried += ticked.tried;
    }
    assert!(tried >= 24, "{tried}");
    let was_tried = |world: &World, number| world.look(&key(number)).unwrap().candidate.unwrap().retries > 0;
    for _ in 0..12 {
        for _ in 0..8 {
            world.master.tick(world.now);
        }
    }
    assert!((0..64).all(|number| was_tried(&world, number)), "one round after the other reaches all");
    // One tick over all shards: the hottest come first.
    let promotion = Promotion { tries_a_tick: 3, ..options().promotion };
    let mut world = full(promotion);
    for number in 0..6 {
        read(&mut world, &key(number), 2 + number);
    }
    world.pass(10);
    assert_eq!(world.master.tick(world.now).tried, 3);
    let tried: Vec<u32> = (0..6).filter(|number| was_tried(&world, *number)).collect();
    assert_eq!(tried, [3, 4, 5]);
}

#[test]
fn an_idle_tick_leaves_at_once() {
    let mut world = World::new(options(), 100 * MIB);
    world.put(b"k", MIB);
    assert_eq!(world.master.tick(world.now), store::master::Ticked::default());
}

#[test]
fn under_pressure_what_is_colder_makes_room_and_what_is_not_stays() {
    let mut world = World::new(Options { high: 900, low: 900, ..options() }, 10 * MIB);
    for number in 0..9 {
        world.put(&key(number), MIB);
        // The last five are read as often as the candidate will be.
        (0..if number >= 4 { 3 } else { 0 }).for_each(|_| drop(world.hit(&key(number))));
    }
    for number in 20..26 {
        read(&mut world, &key(number), 3);
    }
    for _ in 0..20 {
        world.pass(5_000);
        world.master.tick(world.now);
        world.work(0);
        world.checked();
    }
    let memory: Vec<u32> = (0..30).filter(|number| world.in_memory(&key(*number))).collect();
    assert!((4..9).all(|number| memory.contains(&number)), "{memory:?}: nothing hotter was displaced");
    assert_eq!(memory.iter().filter(|number| **number >= 20).count(), 4, "{memory:?}");
    assert!((0..4).all(|number| world.look(&key(number)).is_none()));
    assert_eq!(world.look_node(0).memory.here, 9 * MIB);
}

#[test]
fn without_exchange_candidates_wait_until_there_is_room_and_displace_nothing() {
    let promotion = Promotion { exchange: false, ..options().promotion };
    let mut world = World::new(Options { high: 900, low: 900, ..with(promotion) }, 10 * MIB);
    for number in 0..9 {
        world.put(&key(number), MIB);
    }
    read(&mut world, b"k", 5);
    for _ in 0..10 {
        world.pass(5_000);
        assert_eq!(world.master.tick(world.now).admitted, 0);
        world.work(0);
    }
    assert!((0..9).all(|number| world.in_memory(&key(number))), "nothing has left, however cold");
    assert_eq!(world.look(b"k").unwrap().candidate.unwrap().last_reason, Later::Watermark);
    world.master.remove(world.tenant, &key(0)).unwrap();
    world.work(0);
    assert_eq!(world.master.tick(world.now).admitted, 1, "room is what it waits for");
    world.checked();
}

#[test]
fn what_was_promoted_keeps_the_heat_that_brought_it_and_yields_only_to_what_is_hotter() {
    let mut world = World::new(Options { high: 900, low: 900, ..options() }, 10 * MIB);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"rest", 8 * MIB) });
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"full", MIB) });
    assert_eq!(read(&mut world, b"k", 5), Tried::Later(Later::Watermark));
    world.master.remove(world.tenant, b"full").unwrap();
    world.work(0);
    assert_eq!(world.master.tick(world.now).admitted, 1);
    world.work(0);
    for (key, reads, displaces) in [(b"colder", 3, false), (b"hotter", 9, true)] {
        assert_eq!(read(&mut world, key, reads), Tried::Later(Later::Watermark));
        world.pass(10);
        world.master.tick(world.now);
        assert_eq!(world.in_memory(b"k"), !displaces);
    }
    world.checked();
}

#[test]
fn memory_that_puts_wait_for_is_not_promised_to_a_promotion() {
    let mut world = World::new(Options { high: 1_000, low: 1_000, ..options() }, 10 * MIB);
    world.put_as(&Put { pin: Pin::Hard, ..Put::new(world.tenant, b"rest", 6 * MIB) });
    let waits = world.reserve(&Put::new(world.tenant, b"large", 5 * MIB));
    let Err(Refused::Wait(wait)) = waits else { panic!("{waits:?}") };
    assert_eq!(read(&mut world, b"k", 2), Tried::Later(Later::Watermark), "four are free, but not for it");
    world.master.forget_ticket(wait.ticket.unwrap());
    world.pass(10);
    assert_eq!(world.master.tick(world.now).admitted, 1);
    // Somebody comes to wait after it was ordered.
    let waits = world.reserve(&Put::new(world.tenant, b"large", 5 * MIB));
    assert!(matches!(waits, Err(Refused::Wait(_))), "{waits:?}");
    let (task, _) = world.take_tasks(0)[0].clone();
    let refused = world.master.allocate(task, world.node(0), MIB, world.now);
    assert_eq!(refused, Err(store::master::Error::NoMemory));
    world.checked();
}

#[test]
fn the_last_error_is_shown_until_there_is_another_and_whoever_waits_extends_the_life() {
    let mut world = World::new(with(Promotion { ttl: 1_000, ..options().promotion }), 100 * MIB);
    read(&mut world, b"k", 2);
    let (task, _) = world.take_tasks(0)[0].clone();
    world.master.failed(task, world.node(0), "disk", world.now).unwrap();
    world.master.drain(world.node(0), true).unwrap();
    world.pass(100);
    assert_eq!(world.master.tick(world.now).tried, 1);
    let waits = world.look(b"k").unwrap().candidate.unwrap();
    assert_eq!((waits.last_reason, waits.last_error.as_deref()), (Later::Watermark, Some("disk")));
    world.master.drain(world.node(0), false).unwrap();
    world.pass(40);
    assert_eq!(world.master.tick(world.now).admitted, 1);
    world.pass(30_000);
    world.master.tick(world.now);
    assert_eq!(world.master.candidates(), 0, "it was not read for too long");
    let mut world = full(Promotion { ttl: 1_000, ..options().promotion });
    world.cold(b"k", MIB);
    for _ in 0..3 {
        drop(world.master.warm(world.tenant, &[b"k"], world.now.plus(60_000), world.now));
        world.pass(900);
        assert_eq!(world.master.tick(world.now).expired, 0);
    }
    world.pass(101);
    assert_eq!(world.master.tick(world.now).expired, 1);
    world.checked();
}

#[test]
fn nothing_is_promoted_into_a_node_that_is_drained() {
    let mut world = World::with_nodes(options(), &[10 * MIB, 10 * MIB]);
    world.master.drain(world.node(0), true).unwrap();
    assert!(matches!(read(&mut world, b"k", 2), Tried::Queued(_)));
    let (task, _) = world.take_tasks(0)[0].clone();
    let staging = world.master.allocate(task, world.node(0), MIB, world.now).unwrap();
    assert_eq!(staging.target, world.node(1));
    world.checked();
}

#[test]
fn a_tick_looks_for_what_is_colder_once_however_many_candidates_want_it() {
    let mut world = World::new(Options { high: 900, low: 900, steps: 2, ..options() }, 10 * MIB);
    for number in 0..9 {
        world.put(&key(number), MIB);
        // All are hotter than any candidate, but for the fifth.
        (0..if number == 4 { 0 } else { 9 }).for_each(|_| drop(world.hit(&key(number))));
    }
    for number in 20..26 {
        read(&mut world, &key(number), 3);
    }
    world.pass(10);
    let ticked: Vec<(usize, bool)> = (0..3)
        .map(|_| {
            let admitted = world.master.tick(world.now).admitted;
            world.pass(5_000);
            (admitted, world.in_memory(&key(4)))
        })
        .collect();
    // Two steps a tick: the first and second, the third and fourth, the fifth.
    assert_eq!(ticked, [(0, true), (0, true), (1, false)]);
    world.checked();
}

#[test]
fn failures_while_it_is_carried_out_are_retried_within_the_same_budget() {
    let mut world = World::new(with(Promotion { retries: 4, ..options().promotion }), 100 * MIB);
    read(&mut world, b"k", 2);
    let node = world.node(0);
    for round in 0..4 {
        let tasks = world.take_tasks(0);
        assert_eq!(tasks.len(), 1, "round {round}");
        world.master.failed(tasks[0].0, node, &"e".repeat(1_000), world.now).unwrap();
        world.checked();
        if round < 3 {
            let waits = world.look(b"k").unwrap().candidate.unwrap();
            assert_eq!(waits.retries, round + 1);
            assert_eq!(waits.last_error.unwrap().len(), 200);
        }
        world.pass(5_000);
        world.master.tick(world.now);
    }
    assert_eq!(world.master.candidates(), 0);
    assert_eq!(candidates(&world).expired_evaluated, 1);
    let done = world.master.counters().promotions;
    assert_eq!((done.admitted, done.failed), (4, 4));
    // No memory when it comes to it.
    let mut world = World::new(Options { high: 1_000, low: 1_000, ..options() }, 10 * MIB);
    read(&mut world, b"k", 2);
    let tasks = world.take_tasks(0);
    let pin = Pin::Hard;
    world.put_as(&Put { pin, ..Put::new(world.tenant, b"full", 10 * MIB) });
    let no = world.master.allocate(tasks[0].0, node, MIB, world.now);
    assert_eq!(no, Err(store::master::Error::NoMemory));
    assert_eq!(world.look(b"k").unwrap().candidate.unwrap().last_reason, Later::NoMemory);
    assert_eq!(world.master.used(world.tenant, Tier::Memory), 10 * MIB);
    world.checked();
}
