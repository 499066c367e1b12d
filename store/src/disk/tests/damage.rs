//! One byte anywhere is flipped, or the last segment is cut anywhere: no wrong bytes, and nothing else is lost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::kit::*;
use crate::disk::core::Core;
use crate::disk::error::Error;
use crate::disk::files::{Files, Memory};
use crate::disk::report::Recovered;

/// What should be there: keys with the value that was put last, and all that were put before.
struct Written {
    files: Memory,
    live: BTreeMap<String, Vec<u8>>,
    gone: Vec<String>,
}

/// Two sealed segments and one that was being written, with objects that were replaced and deleted.
fn written(sealed: bool) -> Written {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    let mut live = BTreeMap::new();
    for round in 0..3_u64 {
        let mut edits = Vec::new();
        for number in 0..12 {
            let (key, value) =
                (format!("key-{number}"), value(round * 100 + number, 100 + 150 * number as usize));
            edits.push(put(&key, value.clone()));
            live.insert(key, value);
        }
        // In several batches.
        let later = edits.split_off(6);
        for batch in [edits, later] {
            assert!(core.commit(batch).iter().all(Result::is_ok));
        }
    }
    let gone: Vec<String> = ["key-3", "key-7"].map(str::to_owned).into();
    for key in &gone {
        commit(&core, delete(key)).unwrap();
        live.remove(key);
    }
    if sealed {
        core.close().unwrap();
    }
    drop(core);
    files.kill();
    Written { files, live, gone }
}

impl Written {
    fn segments(&self) -> Vec<PathBuf> {
        let mut names = self.files.list(Path::new(FOLDER)).unwrap();
        names.retain(|name| name.ends_with(".segment"));
        names.sort();
        names.iter().map(|name| Path::new(FOLDER).join(name)).collect()
    }

    /// All of it but at most one object, which is said to be damaged; nothing deleted or replaced comes back.
    fn check(&self, core: &Core, found: &Recovered, told: &str) {
        let mut missing = Vec::new();
        for (key, value) in &self.live {
            match get(core, key) {
                Ok(Some(bytes)) => assert_eq!(&bytes, value, "{told}: wrong bytes of {key}"),
                Ok(None) => panic!("{told}: {key} is gone without a word, {found:?}"),
                Err(Error::Damaged { .. }) => missing.push(key.clone()),
                Err(e) => panic!("{told}: {e}"),
            }
        }
        assert!(missing.len() <= 1, "{told}: {missing:?}");
        for key in &self.gone {
            assert_eq!(get(core, key).unwrap(), None, "{told}: {key} came back");
        }
        core.check().unwrap_or_else(|e| panic!("{told}: {e}"));
    }
}

#[test]
fn one_flipped_byte_anywhere_costs_one_object_at_most_which_is_said_to_be_damaged() {
    let mut damaged = 0;
    for sealed in [false, true] {
        let written = written(sealed);
        for path in written.segments() {
            let len = written.files.bytes(&path).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
            // Every seventh byte, and every one of the first and the last: all fields come up in one record or another.
            let places = (0..len).filter(|at| *at < 400 || at % 7 == 0 || *at + 120 > len);
            for at in places {
                let files = written.files.fork();
                files.tamper(&path, |bytes| bytes[at] ^= 1 << (at % 8));
                let (core, found) = open(&files, options());
                let told = format!("byte {at} of {}, sealed: {sealed}", path.display());
                written.check(&core, &found, &told);
                assert_eq!(found.torn_bytes, 0, "{told}: {found:?}");
                damaged += u64::from(!found.damage.is_empty());
            }
        }
        let mark = Path::new(FOLDER).join("warmline-disk");
        for at in 0..64 {
            let files = written.files.fork();
            files.tamper(&mark, |bytes| bytes[at] ^= 4);
            let (core, found) = open(&files, options());
            written.check(&core, &found, &format!("byte {at} of the mark"));
            drop(core);
            assert_eq!(files.bytes(&mark), written.files.bytes(&mark), "it is mended");
        }
    }
    assert!(damaged > 100, "{damaged}: the flips hit nothing that matters");
}

/// What is cut off is gone, and what is before it is not; each key shows its last put of those that are left.
#[test]
fn the_last_segment_cut_anywhere_keeps_everything_before_the_cut() {
    let files = Memory::default();
    let large = crate::disk::options::Options { segment_bytes: 32_768, ..options() };
    let (core, _) = open(&files, large);
    // After each change: how long the segment was, and what was there.
    let path = Path::new(FOLDER).join("00000001.segment");
    let mut states: Vec<(usize, BTreeMap<String, Vec<u8>>)> = vec![(128, BTreeMap::new())];
    let mut live = BTreeMap::new();
    for step in 0..40_u64 {
        let key = format!("key-{}", step % 9);
        if step % 5 == 4 {
            commit(&core, delete(&key)).unwrap();
            live.remove(&key);
        } else {
            let value = value(step, 50 + 37 * step as usize);
            commit(&core, put(&key, value.clone())).unwrap();
            live.insert(key, value);
        }
        let written = files.bytes(&path).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
        states.push((written.next_multiple_of(8), live.clone()));
    }
    drop(core);
    files.kill();
    let (len, _) = states[states.len() - 1].clone();
    for cut in (0..=len).step_by(11) {
        let (files, mut dice) = (files.fork(), Dice(cut as u64));
        // Cut off, or cut off and filled with what was never written.
        let filled = dice.roll(2) == 0;
        files.tamper(&path, |bytes| {
            bytes.truncate(cut);
            if filled {
                bytes.resize(32_768, 0);
            }
        });
        let (core, found) = open(&files, large);
        let last = states.iter().rposition(|(end, _)| *end <= cut.max(128)).unwrap();
        let told = format!("cut at {cut}, filled: {filled}");
        // Of the change that was cut all but the second head may be there: then it counts.
        let whole = filled
            && states.get(last + 1).is_some_and(|(_, next)| next.len() as u64 == found.objects)
            && states[last + 1].1.iter().all(|(key, value)| get(&core, key).unwrap().as_ref() == Some(value));
        let left = &states[last + usize::from(whole)];
        assert_eq!(found.objects, left.1.len() as u64, "{told}: {found:?}");
        for (key, value) in &left.1 {
            assert_eq!(get(&core, key).unwrap().as_ref(), Some(value), "{told}: {key}");
        }
        core.check().unwrap();
        // And it goes on.
        commit(&core, put("more", "of it")).unwrap();
        drop(core);
        assert_eq!(get(&open(&files, large).0, "more").unwrap(), Some(b"of it".to_vec()));
    }
}

/// A value of zeros looks as if it was never written; but a later batch says that it was on disk.
#[test]
fn what_was_on_disk_is_damaged_and_not_torn_even_if_it_is_zeros() {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    for key in ["first", "second"] {
        commit(&core, put(key, vec![0; 3000])).unwrap();
    }
    drop(core);
    files.kill();
    let path = Path::new(FOLDER).join("00000001.segment");
    files.tamper(&path, |bytes| bytes[1000] ^= 1);
    let (core, found) = open(&files, options());
    assert_eq!((found.objects, found.torn_bytes, found.damage.len()), (2, 0, 1), "{found:?}");
    assert_eq!(found.damage[0].key.as_deref(), Some(&b"first"[..]));
    assert!(matches!(get(&core, "first"), Err(Error::Damaged { .. })));
    assert_eq!(get(&core, "second").unwrap(), Some(vec![0; 3000]));
    // Deleting it, or putting it again, mends that.
    commit(&core, put("first", "again")).unwrap();
    assert_eq!(get(&core, "first").unwrap(), Some(b"again".to_vec()));
}

/// Both copies of a head are gone: nobody knows whose it was, but that something was there is said.
#[test]
fn what_cannot_even_be_named_is_reported_all_the_same() {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    for key in ["first", "second", "third"] {
        commit(&core, put(key, value(1, 2000))).unwrap();
    }
    drop(core);
    files.kill();
    let path = Path::new(FOLDER).join("00000001.segment");
    files.tamper(&path, |bytes| {
        let places: Vec<usize> =
            (0..bytes.len() - 6).filter(|at| &bytes[*at..*at + 6] == b"second").collect();
        for at in places {
            bytes[at] ^= 1;
        }
    });
    let (core, found) = open(&files, options());
    assert_eq!(found.objects, 2);
    assert_eq!(found.damage.len(), 1, "{found:?}");
    assert_eq!(found.damage[0].key, None);
    assert!(format!("{found:?}").contains("neither the head"), "{found:?}");
    assert_eq!(get(&core, "third").unwrap(), Some(value(1, 2000)));
}
