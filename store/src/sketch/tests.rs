//! That keys which were read once do not look hot, whatever the number of keys; beside what a fixed sketch makes of them.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::*;
use crate::master::name::Millis;

const WINDOWS: usize = 20;
const KEYS: usize = 4_000;
const THRESHOLD: u8 = 2;

/// A count-min sketch of four rows that never grows and never forgets.
struct Fixed {
    rows: [Vec<u8>; 4],
}

impl Fixed {
    fn new(width: usize) -> Self {
        Self { rows: std::array::from_fn(|_| vec![0; width]) }
    }

    fn touch(&mut self, key: u64) -> u8 {
        let mut least = u8::MAX;
        for (seed, row) in self.rows.iter_mut().enumerate() {
            let at = xxh3_64_with_seed(&key.to_le_bytes(), seed as u64) as usize % row.len();
            row[at] = row[at].saturating_add(1);
            least = least.min(row[at]);
        }
        least
    }
}

fn moment(seconds: u64) -> Moment {
    Moment::of(Millis(seconds * 1_000), 300_000)
}

/// Keys of that window that pass the threshold although each is touched once.
fn passed(mut touch: impl FnMut(u64) -> u8) -> Vec<usize> {
    (0..WINDOWS)
        .map(|window| (0..KEYS).filter(|key| touch((window * KEYS + key) as u64 + 1) >= THRESHOLD).count())
        .collect()
}

#[test]
fn keys_that_are_read_once_do_not_pass_a_threshold_of_two() {
    let mut sketch = Sketch::default();
    let mut seen = 0;
    let ours = passed(|key| {
        seen += 1;
        // Ten seconds a window: hardly any of it is forgotten meanwhile.
        sketch.touch(xxh3_64_with_seed(&key.to_le_bytes(), 7), seen, moment(seen as u64 / 400))
    });
    let share = |passed: &[usize]| 100.0 * passed.iter().sum::<usize>() as f64 / (WINDOWS * KEYS) as f64;
    let last = |passed: &[usize]| 100.0 * passed[WINDOWS - 1] as f64 / KEYS as f64;
    println!("one-touch keys that pass a threshold of two, {WINDOWS} windows of {KEYS}: all, last window");
    println!("  ours, {} KiB: {:.3} %, {:.3} %", sketch.bytes() / 1024, share(&ours), last(&ours));
    for width in [4_096, 16_384, 65_536] {
        let mut fixed = Fixed::new(width);
        let theirs = passed(|key| fixed.touch(key));
        println!("  count-min, 4 x {width}: {:.1} %, {:.1} %", share(&theirs), last(&theirs));
        assert!(width > 16_384 || last(&theirs) > 50.0, "the comparison compares nothing");
    }
    assert!(last(&ours) < 5.0 && share(&ours) < 1.0, "{ours:?}");
}

#[test]
fn a_second_touch_is_seen_however_many_keys_there_are() {
    for keys in [10_usize, 1_000, 50_000] {
        let mut sketch = Sketch::default();
        let hash = |key: usize| xxh3_64_with_seed(&key.to_le_bytes(), 3);
        (0..keys).for_each(|key| {
            sketch.touch(hash(key), keys, moment(0));
        });
        let seen = (0..keys).filter(|key| sketch.touch(hash(*key), keys, moment(60)) == 2).count();
        assert!(seen * 100 >= keys * 97, "{seen} of {keys}");
    }
}

#[test]
fn it_never_grows_past_four_entries_a_key_and_the_cold_make_room() {
    let mut sketch = Sketch::default();
    for key in 0..100_000_u64 {
        sketch.touch(xxh3_64_with_seed(&key.to_le_bytes(), 5), 1_000, moment(0));
    }
    assert!(sketch.bytes() <= 4 * 1_000 * size_of::<Entry>(), "{}", sketch.bytes());
    let hot = xxh3_64_with_seed(b"hot", 5);
    for round in 0..3_000_u64 {
        sketch.touch(hot, 1_000, moment(0));
        sketch.touch(xxh3_64_with_seed(&round.to_be_bytes(), 6), 1_000, moment(0));
    }
    assert_eq!(
        sketch.score(hot, moment(0)),
        255,
        "one that is hot is not pushed out by those that are read once"
    );
    assert_eq!(sketch.score(hot, moment(300 * 20)), 0, "and is forgotten in time");
}
