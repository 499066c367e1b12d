//! What the disk promises when nothing goes wrong, or one thing does.

use std::path::Path;
use std::sync::Arc;

use super::kit::*;
use crate::disk::core::Core;
use crate::disk::core::Done::{self, Absent, Deleted, Replaced, Stored};
use crate::disk::error::Error;
use crate::disk::files::{Faults, Files, Memory, Real};
use crate::disk::format::CHUNK;
use crate::disk::options::{Durability, Options};

/// The same on the machine's file system and on the one in memory.
fn on_both(check: impl Fn(Arc<dyn Files>, &Path)) {
    check(Arc::new(Memory::default()), Path::new(FOLDER));
    let folder = tempfile::TempDir::new().unwrap();
    check(Arc::new(Real), &folder.path().join("disk"));
}

#[test]
fn what_was_put_is_read_until_it_is_replaced_or_deleted_and_after_each_start() {
    on_both(|files, folder| {
        let large = Options { segment_bytes: 1 << 20, budget_bytes: 16 << 20, ..options() };
        let reopen = || Core::open(files.clone(), folder, large).unwrap();
        let (core, found) = reopen();
        assert_eq!((found.objects, found.segments), (0, 0));
        let long = value(1, 3 * CHUNK + 17);
        let answers = core.commit(vec![
            put("a", value(2, 100)),
            put("b", Vec::new()),
            put("long", long.clone()),
            put("a", value(3, 5000)),
            delete("b"),
            delete("never"),
        ]);
        let answers: Vec<Done> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, [Stored, Stored, Stored, Replaced, Deleted, Absent]);
        let check = |core: &Core| {
            assert_eq!(get(core, "a").unwrap(), Some(value(3, 5000)));
            assert_eq!(get(core, "b").unwrap(), None, "deleted");
            assert_eq!(get(core, "long").unwrap().as_ref(), Some(&long));
            assert!(core.find(b"other", b"a").is_none(), "another tenant's");
            core.check().unwrap();
        };
        check(&core);
        assert_eq!(commit(&core, put("empty", Vec::new())).unwrap(), Stored);
        assert_eq!(get(&core, "empty").unwrap(), Some(Vec::new()), "empty is not missing");
        drop(core);
        // Once without a sealed segment, once with one.
        for sealed in [false, true] {
            let (core, found) = reopen();
            assert_eq!((found.objects, found.walked, found.torn_bytes), (3, u64::from(!sealed), 0));
            assert_eq!(found.damage, []);
            check(&core);
            core.close().unwrap();
        }
    });
}

#[test]
fn any_part_of_a_value_can_be_read_alone_and_is_verified() {
    let files = Memory::default();
    let large = Options { segment_bytes: 4 << 20, budget_bytes: 64 << 20, ..options() };
    let (core, _) = open(&files, large);
    let whole = value(1, 3 * CHUNK + 17);
    commit(&core, put("long", whole.clone())).unwrap();
    commit(&core, put("short", value(2, 1000))).unwrap();
    let found = core.find(b"t", b"long").unwrap();
    for (from, len) in [
        (0, 1),
        (0, whole.len()),
        (CHUNK - 1, 2),
        (CHUNK, CHUNK),
        (5, 2 * CHUNK),
        (whole.len() - 1, 1),
        (7, 0),
    ] {
        let mut part = vec![0; len];
        found.read_part_now(from, &mut part).unwrap();
        assert_eq!(part, whole[from..from + len], "{len} bytes from {from}");
    }
    let mut part = vec![0; 10];
    core.find(b"t", b"short").unwrap().read_part_now(990, &mut part).unwrap();
    assert_eq!(part, value(2, 1000)[990..]);
    // One byte in the second chunk: the others can still be read.
    let path = Path::new(FOLDER).join("00000001.segment");
    let begins = found_at(&files.bytes(&path).unwrap(), &whole[..64]);
    files.tamper(&path, |bytes| bytes[begins + CHUNK + 100] ^= 1);
    let mut part = vec![0; 100];
    found.read_part_now(0, &mut part).unwrap();
    assert!(matches!(found.read_part_now(CHUNK, &mut part), Err(Error::Damaged { .. })));
    assert_eq!(part, [0; 100], "nothing of it is handed out");
    assert!(matches!(get(&core, "long"), Err(Error::Damaged { .. })));
    // Hashes of chunks that are damaged themselves hurt nobody as long as the value is whole.
    files.tamper(&path, |bytes| {
        bytes[begins + CHUNK + 100] ^= 1;
        bytes[begins - 9] ^= 1;
    });
    found.read_part_now(CHUNK, &mut part).unwrap();
    assert_eq!(part, whole[CHUNK..CHUNK + 100]);
}

fn found_at(all: &[u8], part: &[u8]) -> usize {
    all.windows(part.len()).position(|window| window == part).unwrap()
}

#[test]
fn one_process_at_a_time_has_it() {
    on_both(|files, folder| {
        let (first, _) = Core::open(files.clone(), folder, options()).unwrap();
        let second = Core::open(files.clone(), folder, options()).err().unwrap();
        assert!(matches!(second, Error::Locked(_)), "{second}");
        drop(first);
        Core::open(files, folder, options()).unwrap();
    });
}

#[test]
fn another_disks_segment_and_another_format_are_refused_and_left_alone() {
    let (files, other) = (Memory::default(), Memory::default());
    other.chance();
    for files in [&files, &other] {
        commit(&open(files, options()).0, put("a", "value")).unwrap();
    }
    let path = Path::new(FOLDER).join("00000001.segment");
    let foreign = other.bytes(&path).unwrap();
    files.tamper(&path, |bytes| bytes.clone_from(&foreign));
    files.kill();
    let refused = Core::open(Arc::new(files.clone()), Path::new(FOLDER), options()).err().unwrap();
    assert!(refused.to_string().contains("a segment of another disk"), "{refused}");
    assert_eq!(files.bytes(&path).unwrap(), foreign);
    files.kill();
    other.tamper(&Path::new(FOLDER).join("warmline-disk"), |bytes| {
        // A future format, well written.
        let mut one = bytes[..24].to_vec();
        one[11] = 2;
        let hash = xxhash_rust::xxh3::xxh3_64(&one);
        one.extend_from_slice(&hash.to_be_bytes());
        *bytes = one.repeat(2);
    });
    other.kill();
    let refused = Core::open(Arc::new(other), Path::new(FOLDER), options()).err().unwrap();
    assert_eq!(refused.to_string(), "/disk: its format is 2; this program knows format 1");
}

#[test]
fn a_lost_mark_is_made_again_from_any_segment() {
    let files = Memory::default();
    commit(&open(&files, options()).0, put("a", "value")).unwrap();
    files.tamper(&Path::new(FOLDER).join("warmline-disk"), Vec::clear);
    files.kill();
    assert_eq!(get(&open(&files, options()).0, "a").unwrap(), Some(b"value".to_vec()));
}

#[test]
fn a_value_that_looks_like_a_segment_is_only_a_value() {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    commit(&core, put("inner", "secret")).unwrap();
    commit(&core, delete("inner")).unwrap();
    let path = Path::new(FOLDER).join("00000001.segment");
    let copy = files.bytes(&path).unwrap()[..1000].to_vec();
    commit(&core, put("outer", copy.clone())).unwrap();
    drop(core);
    // The head of the outer one is gone, so everything behind it is searched for records.
    files.tamper(&path, |bytes| {
        let outer = bytes.windows(5).position(|name| name == b"outer").unwrap();
        bytes[outer] ^= 1;
    });
    files.kill();
    let (core, found) = open(&files, options());
    assert_eq!(get(&core, "inner").unwrap(), None);
    assert_eq!(get(&core, "outer").unwrap(), Some(copy), "its second head tells");
    assert_eq!((found.objects, found.damage), (1, vec![]));
}

// === Space ===

#[test]
fn the_budget_is_never_exceeded_and_a_full_disk_says_what_helps() {
    let files = Memory::default();
    let small = Options { budget_bytes: 8 * 16_384, ..options() };
    let (core, _) = open(&files, small);
    let mut keys = Vec::new();
    let refused = loop {
        let key = format!("key-{}", keys.len());
        match commit(&core, put(&key, value(1, 1000))) {
            Ok(_) => keys.push(key),
            Err(e) => break e,
        }
        assert!(files.occupied() <= small.budget_bytes + 64);
    };
    assert!(keys.len() > 60, "{}", keys.len());
    let Error::Full { budget, dead, .. } = refused else { panic!("{refused}") };
    assert_eq!(budget, small.budget_bytes);
    assert!(dead < 2000, "only what does not fit at the ends of segments: {dead}");
    for key in &keys {
        assert_eq!(get(&core, key).unwrap(), Some(value(1, 1000)), "nothing was lost");
    }
    // Deleting is always possible, and makes room.
    for key in keys.iter().take(40) {
        assert_eq!(commit(&core, delete(key)).unwrap(), Done::Deleted);
        assert!(files.occupied() <= small.budget_bytes + 64);
    }
    assert!(compact(&core) > 20_000);
    for key in keys.iter().take(20) {
        commit(&core, put(key, value(2, 1000))).unwrap();
    }
    assert!(core.poison().is_none());
}

#[test]
fn a_full_file_system_refuses_and_goes_on_when_there_is_room_again() {
    for (room, unreserved) in (0..40_000).step_by(977).flat_map(|room| [(room, false), (room, true)]) {
        let files = Memory::default();
        let (core, _) = open(&files, options());
        files.fail(Faults { room: Some(room), unreserved, ..Faults::default() });
        let (mut stored, mut refused) = (Vec::new(), Vec::new());
        for batch in 0..20 {
            // The later ones are smaller, so that what was refused would show behind them.
            let numbers = [3 * batch, 3 * batch + 1, 3 * batch + 2];
            let edit =
                |number: &u64| put(&format!("key-{number}"), value(*number, 1900 - 30 * *number as usize));
            for (number, answer) in numbers.iter().zip(core.commit(numbers.iter().map(edit).collect())) {
                match answer {
                    Ok(_) => stored.push((format!("key-{number}"), *number)),
                    Err(Error::NoSpace(_)) => refused.push(format!("key-{number}")),
                    // A footer that finds no room is a failure.
                    Err(Error::Io { .. } | Error::Poisoned(_)) if unreserved => {}
                    Err(e) => panic!("{room}: {e}"),
                }
            }
        }
        assert!(stored.len() < 60);
        files.fail(Faults::default());
        if core.poison().is_some() {
            continue;
        }
        commit(&core, put("after", "room")).unwrap();
        core.check().unwrap();
        drop(core);
        files.cut_power(&mut || false);
        let (core, _) = open(&files, options());
        for (key, number) in stored {
            let wanted = value(number, 1900 - 30 * number as usize);
            assert_eq!(get(&core, &key).unwrap(), Some(wanted), "room for {room}");
        }
        for key in refused {
            assert_eq!(get(&core, &key).unwrap(), None, "room for {room}: {key} was refused");
        }
        assert_eq!(get(&core, "after").unwrap(), Some(b"room".to_vec()));
    }
}

#[test]
fn writes_that_take_half_are_no_failure() {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    files.fail(Faults { short: true, ..Faults::default() });
    for number in 0..50 {
        commit(&core, put(&format!("key-{number}"), value(number, 700))).unwrap();
    }
    for number in 0..50 {
        assert_eq!(get(&core, &format!("key-{number}")).unwrap(), Some(value(number, 700)));
    }
}

// === Failures ===

#[test]
fn after_a_failed_write_or_sync_nothing_is_written_until_it_is_opened_again() {
    let faults =
        [Faults { sync: Some(0), ..Faults::default() }, Faults { write: Some(0), ..Faults::default() }];
    for fault in faults {
        let files = Memory::default();
        let (core, _) = open(&files, options());
        commit(&core, put("a", "first")).unwrap();
        files.fail(fault);
        let failed = commit(&core, put("a", "second")).unwrap_err();
        assert!(matches!(failed, Error::Io { .. }), "{failed}");
        files.fail(Faults::default());
        let poisoned = commit(&core, put("b", "third")).unwrap_err();
        assert!(matches!(&poisoned, Error::Poisoned(why) if why.contains("00000001.segment")), "{poisoned}");
        assert!(matches!(core.compact(&mut |_| true), Err(Error::Poisoned(_))));
        assert_eq!(get(&core, "a").unwrap(), Some(b"first".to_vec()), "what is durable can be read");
        drop(core);
        let (core, _) = open(&files, options());
        let a = get(&core, "a").unwrap().unwrap();
        assert!(a == b"first" || a == b"second", "{fault:?}");
        commit(&core, put("b", "third")).unwrap();
    }
}

/// A sync failed, and the disk was opened again on a machine that was never off: what it shows then must be on the disk,
/// not only in the system's cache.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_on_disk_before_it_is_shown() {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    files.fail(Faults { sync: Some(2), ..Faults::default() });
    let mut number = 0;
    while commit(&core, put(&format!("key-{number}"), value(number, 700))).is_ok() {
        number += 1;
    }
    drop(core);
    files.fail(Faults::default());
    let (core, _) = open(&files, options());
    let shown = get(&core, &format!("key-{number}")).unwrap();
    drop(core);
    files.cut_power(&mut || false);
    let (core, found) = open(&files, options());
    assert_eq!(get(&core, &format!("key-{number}")).unwrap(), shown);
    assert!(shown.is_some() && found.damage.is_empty());
}

#[test]
fn a_segment_that_cannot_be_read_is_left_alone_and_others_are_compacted() {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    for number in 0..40 {
        commit(&core, put(&format!("key-{number}"), value(number, 1000))).unwrap();
    }
    core.close().unwrap();
    for number in (0..40).filter(|number| number % 3 > 0) {
        commit(&core, delete(&format!("key-{number}"))).unwrap();
    }
    files.fail(Faults { read: Some(2), ..Faults::default() });
    assert_eq!(core.compact(&mut |_| true).unwrap(), None);
    files.fail(Faults::default());
    core.check().unwrap();
    assert!(compact(&core) > 0);
    for number in 0..40 {
        let wanted = (number % 3 == 0).then(|| value(number, 1000));
        assert_eq!(get(&core, &format!("key-{number}")).unwrap(), wanted);
    }
}

// === Compaction ===

#[test]
fn compaction_frees_what_is_dead_and_readers_do_not_notice() {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    for number in 0..100 {
        commit(&core, put(&format!("key-{number}"), value(number, 1000))).unwrap();
    }
    let held: Vec<_> =
        (0..100).map(|number| core.find(b"t", format!("key-{number}").as_bytes()).unwrap()).collect();
    for number in (0..100).filter(|number| number % 4 > 0) {
        commit(&core, delete(&format!("key-{number}"))).unwrap();
    }
    let before = core.space();
    assert!(before.dead > 50_000, "{before:?}");
    assert!(compact(&core) > 50_000);
    let after = core.space();
    assert!(after.dead < 10_000 && after.on_disk < before.on_disk - 50_000, "{before:?} {after:?}");
    for (number, found) in held.iter().enumerate() {
        let mut bytes = vec![0; 1000];
        found.read_now(&mut bytes).unwrap();
        assert_eq!(bytes, value(number as u64, 1000), "found before, read after");
        let wanted = number.is_multiple_of(4).then(|| value(number as u64, 1000));
        assert_eq!(get(&core, &format!("key-{number}")).unwrap(), wanted);
    }
}

#[test]
fn deletions_are_kept_as_long_as_anything_could_come_back_and_no_longer() {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    for round in 0..5 {
        for number in 0..60 {
            commit(&core, put(&format!("key-{number}"), value(round * 100 + number, 1000))).unwrap();
        }
    }
    for number in 0..60 {
        commit(&core, delete(&format!("key-{number}"))).unwrap();
    }
    assert_eq!(core.index.count(), (0, 60));
    core.close().unwrap();
    compact(&core);
    assert_eq!(core.index.count(), (0, 0), "everything that was deleted is gone from the disk");
    compact(&core);
    let space = core.space();
    assert!(space.on_disk < 32_768 && space.needed == 0, "{space:?}");
    drop(core);
    let (core, found) = open(&files, options());
    assert_eq!((found.objects, core.index.count()), (0, (0, 0)));
}

/// A segment is gone, its name comes back with a cut of power, and the deletion that covered what is in it does not.
#[test]
fn what_was_deleted_and_compacted_does_not_come_back_when_the_power_is_cut() {
    for seed in 0..60 {
        let (files, mut dice) = (Memory::default(), Dice(seed));
        let (core, _) = open(&files, options());
        for number in 0..40 {
            commit(&core, put(&format!("key-{number}"), value(number, 1000))).unwrap();
        }
        for number in 0..40 {
            commit(&core, delete(&format!("key-{number}"))).unwrap();
        }
        core.close().unwrap();
        compact(&core);
        drop(core);
        files.cut_power(&mut || dice.roll(2) == 0);
        let (core, found) = open(&files, options());
        assert_eq!((found.objects, found.damage), (0, vec![]), "seed {seed}");
        core.check().unwrap();
    }
}

/// The footer is written behind what it speaks of: if it is there, so is that.
#[test]
fn a_segment_whose_power_is_cut_while_it_is_sealed_shows_only_what_is_whole() {
    let loose = Options { durability: Durability::Write, ..options() };
    for seed in 0..60 {
        let (files, mut dice) = (Memory::default(), Dice(seed));
        let (core, _) = open(&files, loose);
        for number in 0..12 {
            commit(&core, put(&format!("key-{number}"), value(number, 1000))).unwrap();
        }
        files.fail(Faults { stop: Some(seed % 2), ..Faults::default() });
        core.close().unwrap_err();
        drop(core);
        files.cut_power(&mut || dice.roll(4) > 0);
        let (core, found) = open(&files, loose);
        assert_eq!(found.damage, [], "seed {seed}");
        for number in 0..12 {
            let there = get(&core, &format!("key-{number}")).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert!(there.is_none_or(|there| there == value(number, 1000)), "seed {seed}");
        }
    }
}

#[test]
fn a_compaction_that_is_told_to_stop_leaves_everything_as_it_was() {
    let files = Memory::default();
    let (core, _) = open(&files, options());
    for number in 0..60 {
        commit(&core, put(&format!("key-{number}"), value(number, 1000))).unwrap();
    }
    for number in (0..60).filter(|number| number % 3 > 0) {
        commit(&core, delete(&format!("key-{number}"))).unwrap();
    }
    let before = core.space();
    assert_eq!(core.compact(&mut |_| false).unwrap(), None);
    assert_eq!(core.space(), before);
    core.check().unwrap();
    assert_eq!(get(&core, "key-30").unwrap(), Some(value(30, 1000)));
}

#[test]
fn without_syncs_a_killed_process_loses_nothing_either() {
    let files = Memory::default();
    let loose = Options { durability: Durability::Write, ..options() };
    let (core, _) = open(&files, loose);
    for number in 0..40 {
        commit(&core, put(&format!("key-{number}"), value(number, 1000))).unwrap();
    }
    files.kill();
    let (core, found) = open(&files, loose);
    assert_eq!((found.objects, found.torn_bytes, found.damage), (40, 0, vec![]));
    assert_eq!(get(&core, "key-39").unwrap(), Some(value(39, 1000)));
}

#[test]
fn options_that_do_not_fit_are_refused_with_a_reason() {
    for (wrong, why) in [
        (Options { budget_bytes: 1 << 20, ..Options::default() }, "is less than eight segments"),
        (Options { segment_bytes: 100, ..options() }, "too small"),
        (Options { dead_percent: 100, ..options() }, "1 to 99"),
        (Options { readers: 0, ..options() }, "nobody may read"),
        (Options { max_value: 1 << 31, ..options() }, "are possible"),
    ] {
        let files = Arc::new(Memory::default());
        let refused = Core::open(files, Path::new(FOLDER), wrong).err().unwrap().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}
