//! Histories of blocks against a model: nothing overlaps, everything comes back, and what is broken up stays within a bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// A length whose logarithm is evenly spread.
    fn length(&mut self, from: u64, to: u64) -> usize {
        let doublings = u64::from((to / from).ilog2());
        let low = from << self.roll(doublings);
        (low + self.roll(low)) as usize
    }
}

fn seeds(usual: u64) -> std::ops::Range<u64> {
    #[expect(clippy::disallowed_methods, reason = "how long a test looks is for whoever starts it")]
    let more = std::env::var("WARMLINE_SEEDS").map_or(1, |more| more.parse().expect("a number"));
    0..usual * more
}

fn filled(arena: &Arena, len: usize, with: u8) -> Option<Block> {
    let mut filling = arena.alloc(len)?;
    filling.unfilled().fill(with);
    filling.advance(len);
    Some(filling.freeze().expect("it is full"))
}

/// The part of the region that a block has.
fn part(block: &Block) -> (u64, u64) {
    (block.held.at as u64, rounded(block.held.len as u64))
}

#[test]
fn no_two_blocks_share_a_byte_and_every_byte_comes_back() {
    for seed in seeds(60) {
        let mut dice = Dice(seed);
        let arena = Arena::new(1 << 20).unwrap();
        // The model: what lies where, with the byte it was filled with.
        let mut model: BTreeMap<u64, (u64, Block, u8)> = BTreeMap::new();
        for step in 0..600_u64 {
            if dice.roll(3) > 0 {
                let len = dice.length(1, 1 << 17);
                let with = (step % 251) as u8;
                let Some(block) = filled(&arena, len, with) else {
                    assert!(
                        arena.space().largest < rounded(len as u64),
                        "seed {seed}: {len} would have fitted"
                    );
                    continue;
                };
                let (at, size) = part(&block);
                assert_eq!(at % GRAIN, 0, "seed {seed}: aligned");
                assert_eq!(
                    block.as_ref().as_ptr() as usize % GRAIN as usize,
                    0,
                    "seed {seed}: aligned in memory"
                );
                assert!(
                    size >= len as u64 && size <= len as u64 + (len as u64 / 32).max(GRAIN),
                    "{len} took {size}"
                );
                let before = model.range(..=at).next_back();
                assert!(
                    before.is_none_or(|(at_, (size, ..))| at_ + size <= at),
                    "seed {seed}: overlaps the one before"
                );
                assert!(
                    model.range(at..).next().is_none_or(|(next, _)| at + size <= *next),
                    "seed {seed}: overlaps"
                );
                model.insert(at, (size, block, with));
            } else if let Some(at) = model.keys().nth(dice.roll(model.len().max(1) as u64) as usize).copied()
            {
                let (_, block, with) = model.remove(&at).expect("it is there");
                assert!(
                    block.as_ref().iter().all(|byte| *byte == with),
                    "seed {seed}: somebody wrote over it"
                );
            }
            let space = arena.space();
            assert_eq!(space.set_aside, model.values().map(|(size, ..)| size).sum::<u64>(), "seed {seed}");
            assert_eq!(space.asked, model.values().map(|(_, block, _)| block.len() as u64).sum::<u64>());
            assert_eq!(space.blocks, model.len() as u64);
            assert_eq!(arena.check(), Ok(()), "seed {seed}");
        }
        for (_, block, with) in model.into_values() {
            assert!(block.as_ref().iter().all(|byte| *byte == with), "seed {seed}: somebody wrote over it");
        }
        let all = Space { capacity: 1 << 20, largest: 1 << 20, parts: 1, ..Space::default() };
        assert_eq!(arena.space(), all, "seed {seed}");
    }
}

/// What a node sees: blocks of 4 KiB to 16 MiB, nine tenths full, and whoever needs room lets others go in their order or
/// in none. `region` decides nothing here, so the free parts are looked at alone.
fn broken_up(seed: u64, capacity: u64, oldest_first: bool, sizes: impl Fn(&mut Dice) -> u64) -> Churn {
    let mut dice = Dice(seed);
    let mut extents = Extents::new(capacity);
    let (mut held, mut used) = (Vec::<(u64, u64)>::new(), 0);
    let mut churn = Churn { least: 100.0, ..Churn::default() };
    let (mut sum, mut times) = (0.0, 0_u64);
    for step in 0..30_000 {
        let len = sizes(&mut dice);
        // The watermark: nine tenths.
        while used + rounded(len) > capacity / 10 * 9 {
            let at = if oldest_first { 0 } else { dice.roll(held.len() as u64) as usize };
            let (at, len) = held.remove(at);
            extents.give_back(at, len);
            used -= rounded(len);
        }
        churn.asked += 1;
        let mut at = extents.take(len);
        churn.refused += u64::from(at.is_none());
        while at.is_none() {
            let out = if oldest_first { 0 } else { dice.roll(held.len() as u64) as usize };
            let (place, gone) = held.remove(out);
            extents.give_back(place, gone);
            used -= rounded(gone);
            at = extents.take(len);
        }
        held.push((at.expect("just seen"), len));
        used += rounded(len);
        if step > 3_000 {
            let fill = 100.0 * used as f64 / capacity as f64;
            churn.least = churn.least.min(fill);
            sum += fill;
            times += 1;
        }
    }
    churn.mean = sum / times as f64;
    churn.parts = extents.parts();
    assert_eq!(extents.check(), Ok(()));
    churn
}

#[derive(Debug, Default)]
struct Churn {
    /// How full it was, in hundredths: at least, and on the average.
    least: f64,
    mean: f64,
    asked: u64,
    /// Asked for below the watermark, and refused because no part was long enough.
    refused: u64,
    parts: usize,
}

#[test]
fn mixed_sizes_at_nine_tenths_break_up_little() {
    const GIB: u64 = 1 << 30;
    for oldest_first in [true, false] {
        let even = |dice: &mut Dice| dice.length(4 << 10, 16 << 20) as u64;
        // Mostly one size, as one model has, and some of all others.
        let mostly =
            |dice: &mut Dice| if dice.roll(10) > 0 { 1 << 20 } else { dice.length(4 << 10, 16 << 20) as u64 };
        let spread = broken_up(1, 4 * GIB, oldest_first, even);
        let usual = broken_up(2, 4 * GIB, oldest_first, mostly);
        println!("oldest first: {oldest_first}\n  4 KiB to 16 MiB: {spread:?}\n  mostly 1 MiB: {usual:?}");
        // The bound: whoever lets go below the watermark is refused once in fifty times at most, and if blocks go in the
        // order of their age, never.
        let bound = if oldest_first { 0 } else { spread.asked / 50 };
        assert!(spread.refused <= bound && spread.mean > 86.0 && spread.least > 65.0, "{spread:?}");
        assert!(usual.refused == 0 && usual.mean > 89.0, "{usual:?}");
    }
}

#[test]
fn threads_that_share_an_arena_never_see_each_others_bytes() {
    let told = Arc::new(AtomicU64::new(0));
    let hears = told.clone();
    let arena = Arena::telling(8 << 20, move |bytes| {
        hears.fetch_add(bytes, Ordering::Relaxed);
    })
    .unwrap();
    let given = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (arena, given) = (arena.clone(), &given);
            scope.spawn(move || {
                let mut dice = Dice(thread);
                let mut held = Vec::new();
                for step in 0..3_000_u64 {
                    let with = (thread * 60 + step % 60) as u8;
                    if let Some(block) = filled(&arena, dice.length(16, 1 << 18), with) {
                        given.fetch_add(rounded(block.len() as u64), Ordering::Relaxed);
                        // Half are let go elsewhere, as a socket does.
                        let bytes = block.bytes();
                        held.push((block, bytes, with));
                    }
                    if held.len() > 12 || (arena.space().largest < 1 << 19 && !held.is_empty()) {
                        let (block, bytes, with) = held.swap_remove(dice.roll(held.len() as u64) as usize);
                        drop(block);
                        assert!(bytes.iter().all(|byte| *byte == with));
                    }
                }
            });
        }
    });
    assert_eq!(arena.check(), Ok(()));
    assert_eq!(arena.space(), Space { capacity: 8 << 20, largest: 8 << 20, parts: 1, ..Space::default() });
    assert_eq!(
        told.load(Ordering::Relaxed),
        given.load(Ordering::Relaxed),
        "every byte that came back was told of"
    );
}

#[test]
fn a_filling_is_filled_piece_by_piece_and_only_a_full_one_is_frozen() {
    let arena = Arena::new(4096).unwrap();
    let mut filling = arena.alloc(10).unwrap();
    assert_eq!(filling.unfilled(), [0; 10]);
    filling.unfilled()[..4].copy_from_slice(b"abcd");
    filling.advance(4);
    assert_eq!(filling.filled(), b"abcd");
    let refused = filling.freeze().unwrap_err();
    assert_eq!(refused.to_string(), "4 of 10 bytes are there: fill the rest, or drop it");
    let mut filling = *refused.filling;
    assert_eq!(filling.take_from(b"efghijkl"), 6);
    assert!(filling.is_full() && filling.unfilled().is_empty());
    let block = filling.freeze().unwrap();
    assert_eq!(block.as_ref(), b"abcdefghij");
    assert_eq!(arena.alloc(0).unwrap().freeze().unwrap().as_ref(), b"");
}

#[test]
#[should_panic(expected = "more was written than there is room for")]
fn nobody_advances_beyond_the_end() {
    Arena::new(4096).unwrap().alloc(10).unwrap().advance(11);
}

#[test]
fn a_reader_keeps_memory_from_being_used_again() {
    let arena = Arena::new(4096).unwrap();
    let block = filled(&arena, 4096, 7).unwrap();
    let slice = block.bytes().slice(100..200);
    assert_eq!(slice.as_ptr(), block.as_ref()[100..].as_ptr(), "nothing was copied");
    assert_eq!(block.holders(), 2);
    drop(block);
    assert!(arena.alloc(1).is_none(), "somebody still reads it");
    assert_eq!(slice, vec![7; 100]);
    drop(slice);
    assert!(arena.alloc(4096).is_some());
}

#[test]
fn a_block_outlives_its_arena() {
    let block = filled(&Arena::new(4096).unwrap(), 100, 3).unwrap();
    assert_eq!(block.as_ref(), [3; 100]);
}

#[tokio::test]
async fn whoever_waits_for_room_gets_it_in_turn() {
    let arena = Arena::new(64 << 10).unwrap();
    let wrong = arena.obtain(65 << 10).await.unwrap_err();
    assert_eq!(wrong.to_string(), "a block of 66560 bytes does not fit into a memory of 65536");
    let halves = [arena.alloc(32 << 10).unwrap(), arena.alloc(32 << 10).unwrap()];
    let order = Arc::new(Mutex::new(Vec::new()));
    let waits = |len: usize| {
        let (arena, order) = (arena.clone(), order.clone());
        tokio::spawn(async move {
            let filling = arena.obtain(len).await.unwrap();
            order.lock().push(len);
            drop(filling);
        })
    };
    let all = waits(64 << 10);
    tokio::task::yield_now().await;
    let some = waits(1 << 10);
    tokio::task::yield_now().await;
    let [first, second] = halves;
    drop(first);
    tokio::task::yield_now().await;
    assert!(order.lock().is_empty(), "the first in line needs more, and nobody overtakes it");
    drop(second);
    all.await.unwrap();
    some.await.unwrap();
    assert_eq!(*order.lock(), [64 << 10, 1 << 10]);
}

#[tokio::test]
async fn whoever_gives_up_leaves_the_line() {
    let arena = Arena::new(4096).unwrap();
    let held = arena.alloc(4096).unwrap();
    let gone = tokio::spawn({
        let arena = arena.clone();
        async move { drop(arena.obtain(4096).await) }
    });
    tokio::task::yield_now().await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    drop(held);
    assert!(arena.obtain(4096).await.is_ok());
}

#[test]
fn sizes_are_rounded_by_less_than_a_thirty_second() {
    for len in (1..70_000_u64).chain((1..200).map(|i| i * 555_555)) {
        let size = rounded(len);
        assert!(size >= len && size.is_multiple_of(GRAIN) && size == rounded(size), "{len}: {size}");
        assert!(size - len < GRAIN.max(len / 32), "{len}: {size}");
    }
}
