//! What every shelf does, whatever it is made of. The end-to-end tests hold a real S3 against the same by way of files.

use std::time::Duration;

use futures::StreamExt;
use tokio::task::JoinSet;

use super::*;

/// Larger than any buffer on the way: three parts of a bucket's upload, and a piece that is no multiple of anything.
const LARGE: usize = 20_000_003;

/// As late as can be: what lives is safe by its lock, not by its age.
const NOW: Duration = Duration::MAX;

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

/// Bytes that differ everywhere, so that an exchange of pieces shows.
fn large(size: usize) -> Vec<u8> {
    (0..size as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

async fn names(shelf: &Shelf, folder: &str, after: Option<&str>, most: usize) -> Vec<String> {
    let after = after.map(name);
    let found = shelf.list(&name(folder), after.as_ref(), most).await.unwrap();
    found.into_iter().map(|item| item.name.as_str().to_owned()).collect()
}

async fn whole(shelf: &Shelf, at: &str, range: Option<Range<u64>>) -> Option<(u64, Range<u64>, Vec<u8>)> {
    let mut reading = shelf.read(&name(at), range).await.unwrap()?;
    let mut bytes = Vec::new();
    while let Some(piece) = reading.stream.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    Some((reading.size, reading.range, bytes))
}

/// Everything that a shelf promises.
async fn check(shelf: &Shelf) {
    nothing_is_there(shelf).await;
    small_things(shelf).await;
    one_of_two_wins(shelf).await;
    large_things(shelf).await;
    nothing_shows_before_the_end(shelf).await;
    lists_are_in_order(shelf).await;
    folders_go_when_they_are_empty(shelf).await;
    assert_eq!(shelf.prove("x").await, Ok(()));
    assert_eq!(shelf.head(&name("proof/x")).await, Ok(None), "a proof leaves nothing");
}

async fn nothing_is_there(shelf: &Shelf) {
    assert_eq!(shelf.get(&name("a/none"), 10).await, Ok(None));
    assert_eq!(shelf.head(&name("a/none")).await, Ok(None));
    assert!(
        whole(shelf, "a/none", None).await.is_none() && whole(shelf, "a/none", Some(0..3)).await.is_none()
    );
    assert_eq!(names(shelf, "a", None, 10).await, Vec::<String>::new());
    assert_eq!(shelf.delete(&name("a/none")).await, Ok(()));
    assert_eq!(shelf.sweep(NOW).await, Ok(0));
}

async fn small_things(shelf: &Shelf) {
    let at = name("small/x.json");
    shelf.put(&at, Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(shelf.get(&at, 3).await, Ok(Some(Bytes::from_static(b"one"))));
    assert!(matches!(shelf.get(&at, 2).await, Err(Error::Damaged(why)) if why.contains("small/x.json")));
    shelf.put(&at, Bytes::from_static(b"twice")).await.unwrap();
    assert_eq!(shelf.get(&at, 9).await, Ok(Some(Bytes::from_static(b"twice"))), "put replaces");
    let item = shelf.head(&at).await.unwrap().unwrap();
    assert_eq!((item.name, item.size), (at.clone(), 5));
    assert!(item.modified > Duration::from_secs(1_700_000_000), "{:?}", item.modified);
    for (range, expected) in
        [(0..5, &b"twice"[..]), (1..3, b"wi"), (3..99, b"ce"), (2..2, b""), (5..9, b""), (9..12, b"")]
    {
        let (size, clamped, bytes) = whole(shelf, at.as_str(), Some(range.clone())).await.unwrap();
        assert_eq!((size, bytes.as_slice()), (5, expected), "{range:?}");
        assert_eq!(clamped.end - clamped.start, expected.len() as u64, "{range:?}");
    }
    shelf.put(&name("small/empty"), Bytes::new()).await.unwrap();
    assert_eq!(whole(shelf, "small/empty", None).await.unwrap().2, b"");
    shelf.delete(&at).await.unwrap();
    assert_eq!(shelf.get(&at, 9).await, Ok(None));
}

async fn one_of_two_wins(shelf: &Shelf) {
    let mut all = JoinSet::new();
    for i in 0..8_u8 {
        let shelf = shelf.clone();
        all.spawn(async move { (i, shelf.put_new(&name("new/one"), vec![i].into()).await.unwrap()) });
    }
    let won: Vec<u8> = all.join_all().await.into_iter().filter(|(_, won)| *won).map(|(i, _)| i).collect();
    assert_eq!(won.len(), 1, "one wins: {won:?}");
    assert_eq!(shelf.get(&name("new/one"), 1).await, Ok(Some(won.into())), "and it is the one that is there");
    assert_eq!(shelf.put_new(&name("new/one"), Bytes::new()).await, Ok(false));
    shelf.delete(&name("new/one")).await.unwrap();
    assert_eq!(shelf.put_new(&name("new/one"), Bytes::new()).await, Ok(true), "a name is free again");
}

async fn large_things(shelf: &Shelf) {
    let bytes = large(LARGE);
    for (size, step) in
        [(0, 1), (1, 1), (8 << 20, 8 << 20), (16 << 20, 1 << 20), (LARGE, 65_537), (LARGE, LARGE)]
    {
        let mut writer = shelf.writer(&name("large/x")).await.unwrap();
        for piece in bytes[..size].chunks(step) {
            writer.write(piece).await.unwrap();
        }
        writer.finish().await.unwrap();
        let (length, range, found) = whole(shelf, "large/x", None).await.unwrap();
        assert_eq!((length, range), (size as u64, 0..size as u64));
        assert!(found == bytes[..size], "{size} bytes in steps of {step} came back different");
    }
    let range = 262_000..16_777_300;
    let (_, _, found) = whole(shelf, "large/x", Some(range.clone())).await.unwrap();
    assert!(found == bytes[range.start as usize..range.end as usize]);
}

async fn nothing_shows_before_the_end(shelf: &Shelf) {
    let at = name("hidden/x");
    let bytes = large(LARGE);
    let mut writer = shelf.writer(&at).await.unwrap();
    writer.write(&bytes).await.unwrap();
    assert_eq!(shelf.head(&at).await, Ok(None), "not before its end");
    assert_eq!(names(shelf, "hidden", None, 10).await, Vec::<String>::new());
    assert_eq!(shelf.sweep(NOW).await, Ok(0), "a writer that lives is not litter");
    shelf.put(&at, Bytes::from_static(b"old")).await.unwrap();
    drop(writer);
    assert_eq!(
        shelf.get(&at, 3).await,
        Ok(Some(Bytes::from_static(b"old"))),
        "a writer that gives up changes nothing"
    );
    // A reader has what was there when it began.
    let mut reading = shelf.read(&at, None).await.unwrap().unwrap();
    let mut writer = shelf.writer(&at).await.unwrap();
    writer.write(b"newer").await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(reading.stream.next().await.unwrap().unwrap(), &b"old"[..]);
    assert_eq!(shelf.get(&at, 9).await, Ok(Some(Bytes::from_static(b"newer"))));
}

async fn lists_are_in_order(shelf: &Shelf) {
    // In the order of bytes `-` and `.` come before `/`, whatever a walk through folders would say.
    let all = ["l/a-/x", "l/a.b", "l/a/0", "l/a/1/z", "l/a/2", "l/a0", "l/b", "l/c/d"];
    for at in ["l/c/d", "l/a/2", "l/a0", "l/a.b", "l/b", "l/a/1/z", "l/a-/x", "l/a/0", "la", "l-/x"] {
        shelf.put(&name(at), Bytes::from_static(b"12")).await.unwrap();
    }
    assert_eq!(names(shelf, "l", None, 99).await, all);
    for most in [1, 2, 3, 7, 8] {
        let mut found: Vec<String> = Vec::new();
        loop {
            let page = names(shelf, "l", found.last().map(String::as_str), most).await;
            assert!(page.len() <= most);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, all, "in pages of {most}");
    }
    assert_eq!(
        names(shelf, "l/a", None, 9).await,
        ["l/a/0", "l/a/1/z", "l/a/2"],
        "a folder, not a beginning of names"
    );
    assert_eq!(names(shelf, "l", Some("l/a/1"), 2).await, ["l/a/1/z", "l/a/2"], "after what is not there");
    assert_eq!(names(shelf, "l/b", None, 2).await, Vec::<String>::new(), "what is no folder is empty");
    assert_eq!(shelf.list(&name("l/c"), None, 9).await.unwrap()[0].size, 2);
}

async fn folders_go_when_they_are_empty(shelf: &Shelf) {
    let (folder, at) = (name("f/a/b"), name("f/a/b/x"));
    assert_eq!(shelf.drop_folder(&folder).await, Ok(()), "it was never there");
    shelf.put(&at, Bytes::from_static(b"x")).await.unwrap();
    for folder in ["f/a", "f/a/b"] {
        assert_eq!(shelf.drop_folder(&name(folder)).await, Ok(()));
    }
    assert_eq!(shelf.get(&at, 1).await, Ok(Some(Bytes::from_static(b"x"))), "what is in it stays");
    shelf.delete(&at).await.unwrap();
    assert_eq!(shelf.drop_folder(&folder).await, Ok(()));
    assert_eq!(shelf.put_new(&at, Bytes::new()).await, Ok(true), "it comes again");
    // Whoever puts something in at the same time does so.
    let mut all = JoinSet::new();
    for i in 0..4 {
        let (shelf, at) = (shelf.clone(), name(&format!("f/c/d/{i}")));
        all.spawn(async move {
            for _ in 0..50 {
                assert_eq!(shelf.put_new(&at, Bytes::from_static(b"x")).await, Ok(true));
                assert_eq!(shelf.get(&at, 1).await, Ok(Some(Bytes::from_static(b"x"))));
                assert_eq!(shelf.delete(&at).await, Ok(()));
                for folder in ["f/c/d", "f/c"] {
                    assert_eq!(shelf.drop_folder(&name(folder)).await, Ok(()));
                }
            }
        });
    }
    all.join_all().await;
    assert_eq!(names(shelf, "f/c", None, 9).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_local_directory_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("made/when/needed");
    let shelf = Shelf::local(&root);
    nothing_is_there(&shelf).await;
    assert!(!root.exists(), "nothing is written before the first write");
    check(&shelf).await;
    let left: Vec<_> = std::fs::read_dir(root.join(".unfinished")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!root.join("f/c/d").exists(), "an empty folder is taken away");
}

#[tokio::test]
async fn a_bucket_keeps_the_contract() {
    check(&Shelf::memory()).await;
}

#[tokio::test]
async fn two_processes_share_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (Shelf::local(folder.path()), Shelf::local(folder.path()));
    one.put(&name("a/x"), Bytes::from_static(b"seen")).await.unwrap();
    assert_eq!(other.get(&name("a/x"), 9).await, Ok(Some(Bytes::from_static(b"seen"))));
    assert_eq!(other.put_new(&name("a/x"), Bytes::new()).await, Ok(false));
}

#[tokio::test]
async fn litter_of_the_dead_is_swept_and_that_of_the_living_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (Shelf::local(folder.path()), Shelf::local(folder.path()));
    let mut living = one.writer(&name("a/living")).await.unwrap();
    living.write(&large(1_000_000)).await.unwrap();
    let unfinished = folder.path().join(".unfinished");
    std::fs::write(unfinished.join("wDEAD"), b"half of it").unwrap();
    assert_eq!(other.sweep(NOW).await, Ok(1));
    assert!(!unfinished.join("wDEAD").exists());
    living.finish().await.unwrap();
    assert_eq!(one.head(&name("a/living")).await.unwrap().unwrap().size, 1_000_000);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let shelf = Shelf::local(file.join("below"));
    let error = shelf.put(&name("a"), Bytes::new()).await.unwrap_err();
    assert!(matches!(&error, Error::Denied(why) if why.contains("file/below")), "{error:?}");
    assert_eq!(shelf.sweep(NOW).await, Ok(0));
}

#[test]
fn no_room_is_told_apart_from_what_an_operator_must_change() {
    let root = std::path::Path::new("/data");
    for code in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
        let error = local::said(root, &std::io::Error::from_raw_os_error(code));
        assert_eq!(error, Error::Full("/data".to_owned()), "{code}");
    }
    for code in [libc::EACCES, libc::EROFS, libc::EIO, libc::ENOTDIR] {
        let error = local::said(root, &std::io::Error::from_raw_os_error(code));
        assert!(matches!(&error, Error::Denied(why) if why.contains("/data")), "{code}: {error:?}");
    }
}
