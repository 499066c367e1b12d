//! What the tests share: a disk in memory, small segments, and values that tell who they are.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::core::{Change, Core, Done, Edit};
use crate::disk::error::Error;
use crate::disk::files::Memory;
use crate::disk::options::{Durability, Options};
use crate::disk::report::Recovered;

pub(super) const FOLDER: &str = "/disk";

pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

pub(super) fn seeds(usual: u64) -> std::ops::Range<u64> {
    #[expect(clippy::disallowed_methods, reason = "how long a test looks is for whoever starts it")]
    let more = std::env::var("WARMLINE_SEEDS").map_or(1, |more| more.parse().expect("a number"));
    0..usual * more
}

pub(super) fn options() -> Options {
    let (budget_bytes, segment_bytes) = (64 * 16_384, 16_384);
    Options { budget_bytes, segment_bytes, durability: Durability::Disk, ..Options::default() }
}

pub(super) fn open(files: &Memory, options: Options) -> (Core, Recovered) {
    Core::open(Arc::new(files.clone()), Path::new(FOLDER), options).unwrap()
}

pub(super) fn put(key: &str, value: impl Into<Bytes>) -> Edit {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let meta = Bytes::from([b"of ", &key[..]].concat());
    Edit { tenant: Bytes::from_static(b"t"), key, change: Change::Put { meta, value: value.into() } }
}

pub(super) fn delete(key: &str) -> Edit {
    Edit {
        tenant: Bytes::from_static(b"t"),
        key: Bytes::copy_from_slice(key.as_bytes()),
        change: Change::Delete,
    }
}

pub(super) fn commit(core: &Core, edit: Edit) -> Result<Done, Error> {
    core.commit(vec![edit]).remove(0)
}

/// The value, or what is said instead of it.
pub(super) fn get(core: &Core, key: &str) -> Result<Option<Vec<u8>>, Error> {
    let Some(found) = core.find(b"t", key.as_bytes()) else { return Ok(None) };
    assert_eq!(found.meta(), [b"of ", key.as_bytes()].concat());
    let mut value = vec![0; found.len()];
    found.read_now(&mut value)?;
    Ok(Some(value))
}

/// Bytes that nobody else would write: no zero is among them, so no sector looks as if it was never written.
pub(super) fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = Dice(seed.wrapping_mul(77_777));
    (0..len).map(|_| dice.roll(255) as u8 + 1).collect()
}

pub(super) fn compact(core: &Core) -> u64 {
    let mut freed = 0;
    while let Some(one) = core.compact(&mut |_| true).unwrap() {
        freed += one.freed;
    }
    core.check().unwrap();
    freed
}
