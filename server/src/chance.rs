//! Numbers by chance, for what must be unlike any other, or unknown to those outside.
//!
//! They come from no seam: nothing that a simulation drives may depend on them.

use std::hash::{BuildHasher, RandomState};

/// Another number each time.
pub(crate) fn number() -> u64 {
    // The standard library asks the system for chance once a thread, for its tables, and counts from there.
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn no_number_comes_twice_on_any_thread() {
        let some = || (0..1_000).map(|_| super::number()).collect::<Vec<u64>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(some)).collect();
        let all: BTreeSet<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.len(), 4_000);
    }
}
