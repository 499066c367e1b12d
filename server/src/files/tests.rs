//! Files on a shelf in memory and on a local one: what is there is whole, belongs to one tenant, and goes away entirely.

use futures::StreamExt;

use std::time::Duration;

use super::*;

fn on(shelf: Shelf, change: impl FnOnce(&mut settings::Files)) -> Files {
    let mut settings = settings::Files::default();
    change(&mut settings);
    Files::on(shelf, settings, Clock::start())
}

fn facts(filename: &str) -> Facts {
    Facts { filename: filename.to_owned(), purpose: Purpose::Batch, expires_after: None }
}

async fn store(files: &Files, tenant: Option<&str>, content: &[u8]) -> Result<File, Error> {
    let mut upload = files.upload(tenant).await?;
    upload.write(content).await?;
    upload.finish(facts("in.jsonl")).await
}

async fn content(files: &Files, file: &File) -> Vec<u8> {
    let mut reading = files.read(file, None).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = reading.stream.next().await {
        all.extend_from_slice(&piece.unwrap());
    }
    all
}

/// Everything on the shelf, by name.
async fn names(files: &Files) -> Vec<String> {
    let mut all = Vec::new();
    for folder in [card::CARDS, card::CONTENTS] {
        let items = files.0.shelf.list(&shelf::Name::new(folder).unwrap(), None, 1_000).await.unwrap();
        all.extend(items.into_iter().map(|item| item.name.as_str().to_owned()));
    }
    all
}

async fn ids(files: &Files, wanted: &Wanted) -> (Vec<Id>, bool) {
    let page = files.list(None, wanted).await.unwrap();
    (page.files.iter().map(|file| file.id.clone()).collect(), page.more)
}

#[tokio::test]
async fn a_file_is_found_read_and_deleted_by_its_tenant_only() {
    let folder = tempfile::tempdir().unwrap();
    for shelf in [Shelf::memory(), Shelf::local(folder.path())] {
        let files = on(shelf, |_| {});
        let file = store(&files, Some("a"), b"one\ntwo\n").await.unwrap();
        assert_eq!((file.bytes, file.filename.as_str(), file.purpose), (8, "in.jsonl", Purpose::Batch));
        assert_eq!(files.find(Some("a"), &file.id).await.unwrap().as_ref(), Some(&file));
        assert_eq!(content(&files, &file).await, b"one\ntwo\n");
        let mut lines = files.lines(&file, 10).await.unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap().text.as_deref(), Ok("one"));
        for other in [Some("b"), None] {
            assert_eq!(files.find(other, &file.id).await, Ok(None));
            assert_eq!(files.delete(other, &file.id).await, Ok(false));
            let all = Wanted { purpose: None, after: None, limit: 10, newest_first: true };
            assert_eq!(files.list(other, &all).await, Ok(Page::default()));
        }
        assert_eq!(files.delete(Some("a"), &file.id).await, Ok(true));
        assert_eq!(files.delete(Some("a"), &file.id).await, Ok(false));
        assert_eq!(files.find(Some("a"), &file.id).await, Ok(None));
        assert_eq!(files.read(&file, None).await.err(), Some(Error::Gone(file.id.clone())));
        assert_eq!(names(&files).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_output_is_made_once_however_often_it_is_made() {
    let files = on(Shelf::memory(), |settings| settings.max_file_bytes = 2);
    let id = Id::derived(Duration::from_hours(500_000), "batch_1/output");
    let make = async |content: &[u8]| {
        let mut upload = files.output(Some("a"), id.clone()).await?;
        upload.write(content).await?;
        upload.finish(Facts { purpose: Purpose::BatchOutput, ..facts("out.jsonl") }).await
    };
    let first = make(b"more than a client may send").await.unwrap();
    assert_eq!((first.id.clone(), first.created_at), (id.clone(), 1_800_000_000));
    assert_eq!(
        make(b"more than a client may send").await.as_ref(),
        Ok(&first),
        "the same again is the same file"
    );
    assert_eq!(make(b"something else").await, Err(Error::Taken(id.clone())));
    assert_eq!(names(&files).await.len(), 2, "one card and one content are left");
    assert_eq!(content(&files, &first).await, b"more than a client may send");
    files.delete(Some("a"), &id).await.unwrap();
    assert_eq!(
        make(b"something else").await.map(|file| file.bytes),
        Ok(14),
        "what was deleted can be made again"
    );
}

#[tokio::test]
async fn limits_are_kept_and_what_is_refused_leaves_nothing() {
    let files = on(Shelf::memory(), |settings| {
        settings.max_file_bytes = 10;
        settings.max_total_bytes = Some(25);
    });
    assert_eq!(store(&files, Some("a"), &[0; 11]).await, Err(Error::TooLarge { limit: 10 }));
    let first = store(&files, Some("a"), &[0; 10]).await.unwrap();
    store(&files, Some("a"), &[0; 10]).await.unwrap();
    assert_eq!(store(&files, Some("a"), &[0; 6]).await, Err(Error::Quota { limit: 25 }));
    store(&files, Some("b"), &[0; 10]).await.unwrap();
    // Two that fit alone but not together, begun at the same time.
    let (mut one, mut other) =
        (files.upload(Some("a")).await.unwrap(), files.upload(Some("a")).await.unwrap());
    one.write(&[0; 4]).await.unwrap();
    other.write(&[0; 4]).await.unwrap();
    let ends = tokio::join!(one.finish(facts("x")), other.finish(facts("y")));
    let refused =
        [&ends.0, &ends.1].into_iter().filter(|end| **end == Err(Error::Quota { limit: 25 })).count();
    assert_eq!(refused, 1, "{ends:?}");
    store(&files, Some("a"), &[0; 1]).await.unwrap();
    assert!(
        matches!(files.upload(Some("a")).await.err(), Some(Error::Quota { .. })),
        "no room at all is said at once"
    );
    let mut output = files.output(Some("a"), files.mint()).await.unwrap();
    output.write(&[0; 99]).await.unwrap();
    assert!(output.finish(facts("out")).await.is_ok(), "what we made for somebody is not refused");
    files.delete(Some("a"), &first.id).await.unwrap();
    assert_eq!(names(&files).await.len(), 10, "five files, each a card and a content");
}

#[tokio::test]
async fn lists_have_pages_in_both_directions() {
    let folder = tempfile::tempdir().unwrap();
    let files = on(Shelf::local(folder.path()), |_| {});
    let mut all = Vec::new();
    for i in 0..7_u64 {
        let id = Id::derived(Duration::from_secs(1_700_000_000 + i), "x");
        let mut upload = files.output(None, id).await.unwrap();
        upload.write(b"x").await.unwrap();
        let purpose = if i % 3 == 0 { Purpose::Batch } else { Purpose::UserData };
        all.push(upload.finish(Facts { purpose, ..facts("x") }).await.unwrap().id);
    }
    for newest_first in [false, true] {
        let mut expected = all.clone();
        if newest_first {
            expected.reverse();
        }
        let batches: Vec<Id> = [0, 3, 6].map(|i: usize| expected[i].clone()).into();
        for (purpose, expected) in
            [(None, &expected), (Some(Purpose::Batch), &batches), (Some(Purpose::Evals), &vec![])]
        {
            for limit in [1, 2, 3, 7, 100] {
                let (mut found, mut after) = (Vec::new(), None);
                loop {
                    let wanted = Wanted { purpose, after: after.clone(), limit, newest_first };
                    let (page, more) = ids(&files, &wanted).await;
                    assert!(page.len() <= limit);
                    found.extend(page);
                    after = found.last().cloned();
                    assert_eq!(more, found.len() < expected.len(), "{wanted:?}");
                    if !more {
                        break;
                    }
                }
                assert_eq!(&found, expected, "{purpose:?} in pages of {limit}, newest first: {newest_first}");
            }
        }
        // The place where a page begins may be gone: ids still say what comes after it.
        let gone = Id::derived(Duration::from_secs(1_700_000_003), "gone");
        let wanted = Wanted { purpose: None, after: Some(gone), limit: 100, newest_first };
        let found = ids(&files, &wanted).await.0.len();
        assert!((3..=4).contains(&found), "{found}");
    }
}

#[tokio::test]
async fn a_card_that_comes_again_with_another_content_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let id = Id::derived(Duration::from_secs(1_700_000_000), "x");
    let wanted = Wanted { purpose: None, after: None, limit: 9, newest_first: true };
    for shelf in [Shelf::memory(), Shelf::local(folder.path())] {
        let files = on(shelf, |_| {});
        // The same length at the same moment: neither tells the two apart.
        for bytes in [1_usize, 2] {
            let mut upload = files.output(None, id.clone()).await.unwrap();
            upload.write(&vec![0; bytes]).await.unwrap();
            upload.finish(facts("x")).await.unwrap();
            assert_eq!(files.list(None, &wanted).await.unwrap().files[0].bytes, bytes as u64);
            files.delete(None, &id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn files_expire_when_their_owner_or_the_operator_says() {
    let files = on(Shelf::memory(), |settings| settings.keep = Some(settings::Span::seconds(7_200)));
    let made = files.0.clock.unix();
    for (asked, expected) in [(None, 7_200), (Some(3_600), 3_600), (Some(90_000), 7_200)] {
        let mut upload = files.upload(None).await.unwrap();
        upload.write(b"x").await.unwrap();
        let expires_after = asked.map(Duration::from_secs);
        let file = upload.finish(Facts { expires_after, ..facts("x") }).await.unwrap();
        let left = file.expires_at.unwrap() - file.created_at;
        assert!((expected - 1..=expected).contains(&left), "{asked:?}: {left}");
    }
    // One that was made long ago.
    let old = Id::derived(made.saturating_sub(Duration::from_secs(7_201)), "old");
    let mut upload = files.output(None, old.clone()).await.unwrap();
    upload.write(b"x").await.unwrap();
    upload.finish(facts("old")).await.unwrap();
    assert_eq!(files.find(None, &old).await, Ok(None), "what has expired is not found");
    let wanted = Wanted { purpose: None, after: None, limit: 9, newest_first: true };
    assert_eq!(ids(&files, &wanted).await.0.len(), 3);
    assert_eq!(names(&files).await.len(), 8, "but it is there until it is tidied");
    assert_eq!(files.tidy(made).await, Ok(1));
    assert_eq!(names(&files).await.len(), 6);
    assert_eq!(files.tidy(made + Duration::from_secs(3_700)).await, Ok(1));
    assert_eq!(files.tidy(made + Duration::from_secs(7_300)).await, Ok(2));
    assert_eq!(names(&files).await, Vec::<String>::new());
}

#[tokio::test]
async fn content_without_a_card_is_litter_when_it_is_old() {
    let files = on(Shelf::memory(), |_| {});
    let now = files.0.clock.unix();
    let day = Duration::from_hours(25);
    let mut kept = Vec::new();
    for tenant in [None, Some("a"), Some("b")] {
        kept.push((tenant, store(&files, tenant, b"kept").await.unwrap()));
        // One that died before its card was there, and one that lost against another under the same id.
        let id = files.mint();
        files.0.shelf.put(&card::fresh(tenant, &id), "lost".into()).await.unwrap();
        let (_, file) = kept.last().unwrap();
        files.0.shelf.put(&card::fresh(tenant, &file.id), "lost".into()).await.unwrap();
    }
    assert_eq!(names(&files).await.len(), 12);
    assert_eq!(files.tidy(now).await, Ok(0), "it may be about to get its card");
    assert_eq!(files.tidy(now + day).await, Ok(6));
    assert_eq!(files.tidy(now + day).await, Ok(0));
    for (tenant, file) in &kept {
        assert_eq!(files.find(*tenant, &file.id).await.unwrap().as_ref(), Some(file));
        assert_eq!(content(&files, file).await, b"kept");
    }
}

#[tokio::test]
async fn content_that_is_not_what_was_stored_is_said_to_be_damaged() {
    let files = on(Shelf::memory(), |_| {});
    let file = store(&files, None, b"whole").await.unwrap();
    files.0.shelf.put(&file.content, "half".into()).await.unwrap();
    assert!(matches!(files.read(&file, None).await.err(), Some(Error::Shelf(shelf::Error::Damaged(_)))));
}

#[tokio::test]
async fn an_answer_that_gets_lost_loses_no_content() {
    for lost in [card::CARDS, card::CONTENTS] {
        let faults = Arc::default();
        let files = on(Shelf::forgetful(&faults), |_| {});
        let id = Id::derived(Duration::from_hours(500_000), "batch_1/output");
        let make = async || {
            let mut upload = files.output(Some("a"), id.clone()).await?;
            upload.write(b"answers").await?;
            upload.finish(Facts { purpose: Purpose::BatchOutput, ..facts("out.jsonl") }).await
        };
        faults.lose(lost);
        assert!(matches!(make().await, Err(Error::Shelf(shelf::Error::Away(_)))) && faults.lost());
        if let Some(file) = files.find(Some("a"), &id).await.unwrap() {
            assert_eq!(content(&files, &file).await, b"answers", "a file that exists has its content");
        }
        let file = make().await.unwrap();
        assert_eq!(files.find(Some("a"), &id).await.unwrap().as_ref(), Some(&file));
        assert_eq!(content(&files, &file).await, b"answers");
        let day = files.0.clock.unix() + Duration::from_hours(25);
        files.tidy(day).await.unwrap();
        assert_eq!(content(&files, &file).await, b"answers");
        assert_eq!(names(&files).await.len(), 2, "what it left is taken away when it is old");
    }
}

#[tokio::test]
async fn an_upload_whose_card_was_put_and_not_answered_is_a_file_with_its_content() {
    let faults = Arc::default();
    let files = on(Shelf::forgetful(&faults), |_| {});
    faults.lose(card::CARDS);
    assert!(store(&files, None, b"whole").await.is_err());
    let all = Wanted { purpose: None, after: None, limit: 9, newest_first: true };
    let page = files.list(None, &all).await.unwrap();
    assert_eq!(content(&files, &page.files[0]).await, b"whole");
}

#[tokio::test]
async fn a_card_whose_content_is_gone_is_made_whole_when_the_file_is_made_again() {
    let files = on(Shelf::memory(), |_| {});
    let id = Id::derived(Duration::from_hours(500_000), "batch_1/output");
    let make = async || {
        let mut upload = files.output(None, id.clone()).await?;
        upload.write(b"answers").await?;
        upload.finish(facts("out.jsonl")).await
    };
    let first = make().await.unwrap();
    files.0.shelf.delete(&first.content).await.unwrap();
    make().await.unwrap();
    let found = files.find(None, &id).await.unwrap().unwrap();
    assert_eq!(content(&files, &found).await, b"answers");
}

#[tokio::test]
async fn an_output_is_the_same_when_the_operator_has_changed_how_long_files_are_kept() {
    let shelf = Shelf::memory();
    let id = Id::derived(Duration::from_hours(500_000), "batch_1/output");
    for keep in [None, Some(7_200), Some(3_600)] {
        let files = on(shelf.clone(), |settings| settings.keep = keep.map(settings::Span::seconds));
        let mut upload = files.output(None, id.clone()).await.unwrap();
        upload.write(b"answers").await.unwrap();
        let file = upload.finish(facts("out.jsonl")).await.unwrap();
        assert_eq!(file.expires_at, None, "the first card says what holds");
    }
}

#[tokio::test]
async fn a_card_that_cannot_be_read_holds_up_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    for shelf in [Shelf::memory(), Shelf::local(folder.path())] {
        let files = on(shelf, |_| {});
        let (good, bad) =
            (store(&files, None, b"good").await.unwrap(), store(&files, None, b"bad").await.unwrap());
        files.0.shelf.put(&card::place(None, &bad.id), "{".into()).await.unwrap();
        let mut expires = files.upload(None).await.unwrap();
        expires.write(b"x").await.unwrap();
        let soon = Facts { expires_after: Some(Duration::from_hours(1)), ..facts("x") };
        let expired = expires.finish(soon).await.unwrap();
        let all = Wanted { purpose: None, after: None, limit: 9, newest_first: true };
        let (found, _) = ids(&files, &all).await;
        assert!(found.contains(&good.id) && found.contains(&expired.id) && found.len() == 2, "{found:?}");
        let later = files.0.clock.unix() + Duration::from_hours(25);
        assert_eq!(files.tidy(later).await, Ok(1), "what has expired is taken away");
        assert_eq!(ids(&files, &all).await.0, [good.id]);
        assert!(
            files.0.shelf.head(&bad.content).await.unwrap().is_some(),
            "nobody knows whose content it is"
        );
    }
}

/// Needs one file.
struct One(Id);

impl Needed for One {
    fn by<'a>(&'a self, space: &'a str, id: &'a Id) -> BoxFuture<'a, Result<Option<String>, shelf::Error>> {
        let needed = space == "t-a" && *id == self.0;
        Box::pin(std::future::ready(Ok(needed.then(|| "somebody".to_owned()))))
    }
}

#[tokio::test]
async fn what_is_needed_is_neither_deleted_nor_tidied_and_no_file_of_others_is() {
    let (shelf, old) = (Shelf::memory(), Id::derived(Duration::from_hours(400_000), "x"));
    let files = on(shelf.clone(), |settings| settings.keep = Some(settings::Span::seconds(7_200)));
    let needed = store(&files, Some("a"), b"needed").await.unwrap();
    let other = store(&files, Some("a"), b"other").await.unwrap();
    files.ask_first(Arc::new(One(needed.id.clone())));
    let by = "somebody".to_owned();
    assert_eq!(files.delete(Some("a"), &needed.id).await, Err(Error::Needed { id: needed.id.clone(), by }));
    assert_eq!(files.delete(Some("a"), &other.id).await, Ok(true));
    // Its time is over: clients do not see it, and who needs it does.
    let files = on(shelf.clone(), |settings| settings.keep = Some(settings::Span::seconds(7_200)));
    for tenant in [Some("a"), Some("b")] {
        let mut upload = files.output(tenant, old.clone()).await.unwrap();
        upload.write(b"needed").await.unwrap();
        upload.finish(facts("old")).await.unwrap();
    }
    files.ask_first(Arc::new(One(old.clone())));
    assert_eq!(files.tidy(files.0.clock.unix()).await, Ok(1), "that of the other tenant is not needed");
    assert_eq!(files.find(Some("a"), &old).await, Ok(None));
    let found = files.find_old(Some("a"), &old).await.unwrap().unwrap();
    assert_eq!(content(&files, &found).await, b"needed");
}
