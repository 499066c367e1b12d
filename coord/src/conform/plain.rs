//! Promises about primitives: one key, one answer.

use std::time::Duration;

use bytes::Bytes;

use super::{Bench, Kept, Promise, holds, promises, said, same, until};
use crate::error::Error;
use crate::name::Key;
use crate::once::{Freshness, Offered};
use crate::op::{Claimed, Expect, Op, Put, Reply, Stats};

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(60);

pub(super) fn all() -> Vec<Promise> {
    promises![
        counters_start_at_zero,
        counters_add_up_under_eight_at_once,
        a_counter_that_would_overflow_says_so_and_stays,
        sets_ignore_doubles,
        lists_keep_their_order,
        a_value_is_written_only_over_what_was_expected,
        a_later_fence_shuts_out_an_earlier_one,
        a_claim_is_one_tokens_until_its_time_is_over,
        claims_are_renewed_and_released_by_their_token_alone,
        a_claim_is_granted_to_one_of_many,
        fences_only_grow,
        one_type_a_key,
        delete_clears_every_type,
        what_expires_is_gone,
        bytes_come_back_as_they_went_in,
        tables_keep_the_newest_row,
        versions_only_grow_and_a_retry_keeps_its_own,
        an_offer_covers_others_until_the_work_begins,
        statistics_merge_and_are_taken_once,
        the_same_addition_counts_once,
    ]
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn counters_start_at_zero(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("counter"));
    same("before", said(coord.count(&key).await)?, 0)?;
    same("plus 5", said(coord.add(&key, 5).await)?, 5)?;
    same("minus 7", said(coord.add(&key, -7).await)?, -2)?;
    same("after", said(coord.count(&key).await)?, -2)
}

async fn counters_add_up_under_eight_at_once(bench: Bench) -> Kept {
    let key = bench.key("counter");
    let adding = (0..8).map(|i| {
        let (coord, key) = (bench.coord(&format!("{i}")), key.clone());
        tokio::spawn(async move {
            for _ in 0..1_000 {
                coord.add(&key, 1).await?;
            }
            Ok::<_, Error>(())
        })
    });
    for done in futures::future::join_all(adding).await {
        said(done.map_err(|error| error.to_string())?)?;
    }
    same("8 x 1,000", said(bench.coord("a").count(&key).await)?, 8_000)
}

async fn a_counter_that_would_overflow_says_so_and_stays(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("counter"));
    same("to the end", said(coord.add(&key, i64::MAX).await)?, i64::MAX)?;
    let over = coord.add(&key, 1).await;
    holds("one more is refused as invalid", matches!(over, Err(Error::Invalid(_))))?;
    same("and nothing changed", said(coord.count(&key).await)?, i64::MAX)
}

async fn sets_ignore_doubles(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("set"));
    same("of nothing", said(coord.members(&key).await)?, vec![])?;
    same("two", said(coord.join(&key, vec![text("b"), text("a")]).await)?, 2)?;
    same("one known, one new", said(coord.join(&key, vec![text("b"), text("c")]).await)?, 3)?;
    same("all, sorted", said(coord.members(&key).await)?, vec![text("a"), text("b"), text("c")])?;
    same("one leaves twice", said(coord.part(&key, vec![text("a"), text("a"), text("x")]).await)?, 2)?;
    same("the rest leaves", said(coord.part(&key, vec![text("b"), text("c")]).await)?, 0)?;
    same("an empty set is no set", said(coord.delete(&key).await)?, false)
}

async fn lists_keep_their_order(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("list"));
    same("of nothing", said(coord.list(&key).await)?, vec![])?;
    for (i, word) in ["z", "a", "z", ""].iter().enumerate() {
        same("length", said(coord.push(&key, text(word)).await)?, i as u64 + 1)?;
    }
    same("all", said(coord.list(&key).await)?, vec![text("z"), text("a"), text("z"), text("")])
}

async fn a_value_is_written_only_over_what_was_expected(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("value"));
    same("nothing", said(coord.get(&key).await)?, None)?;
    let put = async |word: &str, expect| said(coord.put(&key, text(word), expect, 0).await);
    same("a version of nothing", put("x", Expect::Version(1)).await?, Put::Conflict { current: None })?;
    same("absent", put("a", Expect::Absent).await?, Put::Done { version: 1 })?;
    same("absent again", put("b", Expect::Absent).await?, Put::Conflict { current: Some(1) })?;
    same("version 1", put("b", Expect::Version(1)).await?, Put::Done { version: 2 })?;
    same("version 1 again", put("c", Expect::Version(1)).await?, Put::Conflict { current: Some(2) })?;
    same("anything", put("d", Expect::Any).await?, Put::Done { version: 3 })?;
    let found = said(coord.get(&key).await)?;
    same("what is there", found.map(|value| (value.bytes, value.version)), Some((text("d"), 3)))
}

async fn a_later_fence_shuts_out_an_earlier_one(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("value"));
    let put = async |fence| coord.put(&key, text("x"), Expect::Any, fence).await;
    same("fence 7", put(7).await, Ok(Put::Done { version: 1 }))?;
    same("fence 6", put(6).await, Err(Error::Fenced { current: 7 }))?;
    same("fence 7 again", put(7).await, Ok(Put::Done { version: 2 }))?;
    same("fence 9", put(9).await, Ok(Put::Done { version: 3 }))
}

async fn a_claim_is_one_tokens_until_its_time_is_over(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("claim"));
    let (one, two) = (bench.name("one"), bench.name("two"));
    let first = match said(coord.claim(&key, &one, LONG).await)? {
        Claimed::Granted { fence } => fence,
        held @ Claimed::Held { .. } => return Err(format!("the first claim found {held:?}")),
    };
    same(
        "again, by the same",
        said(coord.claim(&key, &one, SHORT).await)?,
        Claimed::Granted { fence: first },
    )?;
    let again = until("the claim re-arms after its time", || async {
        Ok(match coord.claim(&key, &two, LONG).await? {
            Claimed::Granted { fence } => Some(fence),
            Claimed::Held { .. } => None,
        })
    });
    holds("with a greater fence", again.await? > first)?;
    match said(coord.claim(&key, &one, LONG).await)? {
        Claimed::Held { by, left } => {
            same("by", by, two)?;
            holds("its time is told", left <= LONG && left > LONG / 2)
        }
        granted @ Claimed::Granted { .. } => Err(format!("the first token got it back: {granted:?}")),
    }
}

async fn claims_are_renewed_and_released_by_their_token_alone(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("claim"));
    let (one, two) = (bench.name("one"), bench.name("two"));
    same("renewing nothing", coord.renew(&key, &one, LONG).await, Err(Error::NotFound))?;
    same("releasing nothing", coord.release(&key, &one).await, Ok(false))?;
    let Claimed::Granted { fence } = said(coord.claim(&key, &one, LONG).await)? else {
        return Err("the first claim was not granted".to_owned());
    };
    same("renewed", coord.renew(&key, &one, LONG).await, Ok(fence))?;
    same("by another", coord.renew(&key, &two, LONG).await, Err(Error::Fenced { current: fence }))?;
    same("released by another", coord.release(&key, &two).await, Ok(false))?;
    same("released", coord.release(&key, &one).await, Ok(true))?;
    same("released again", coord.release(&key, &one).await, Ok(false))
}

async fn a_claim_is_granted_to_one_of_many(bench: Bench) -> Kept {
    let key = bench.key("claim");
    let claiming = (0..16).map(|i| {
        let (coord, key, token) = (bench.coord(&format!("{i}")), key.clone(), bench.name(&format!("t{i}")));
        tokio::spawn(async move { coord.claim(&key, &token, LONG).await })
    });
    let mut granted = 0;
    for claimed in futures::future::join_all(claiming).await {
        let claimed = said(claimed.map_err(|error| error.to_string())?)?;
        granted += usize::from(matches!(claimed, Claimed::Granted { .. }));
    }
    same("of sixteen", granted, 1)
}

async fn fences_only_grow(bench: Bench) -> Kept {
    let coord = bench.coord("a");
    let shard = bench.name("here");
    let mut last = 0;
    for i in 0..50 {
        let key = said(Key::beside(&shard, format!("{}.{}", bench.name("claim"), i % 5)))?;
        let token = bench.name(&format!("t{i}"));
        if let Claimed::Granted { fence } = said(coord.claim(&key, &token, LONG).await)? {
            holds(&format!("fence {fence} after {last}"), fence > last)?;
            last = fence;
        }
        said(coord.release(&key, &token).await)?;
    }
    holds("claims were granted", last > 0)
}

async fn one_type_a_key(bench: Bench) -> Kept {
    let coord = bench.coord("a");
    let (one, bytes) = (bench.name("t"), vec![text("m")]);
    let ops = |key: &Key| {
        let (key, bytes) = (key.clone(), bytes.clone());
        let value = text("v");
        vec![
            Op::Add { key: key.clone(), by: 1 },
            Op::Claim { key: key.clone(), token: one.clone(), ttl: LONG },
            Op::Join { key: key.clone(), members: bytes },
            Op::Push { key: key.clone(), value: value.clone() },
            Op::Put { key: key.clone(), value, expect: Expect::Any, fence: 0, ttl: None },
            Op::Bump { key, token: one.clone() },
        ]
    };
    let count = ops(&bench.key("x")).len();
    for first in 0..count {
        let key = bench.key(&format!("key{first}"));
        for (second, op) in ops(&key).iter().enumerate().cycle().skip(first).take(count) {
            let found = coord.ask(op).await;
            if second == first {
                said(found)?;
            } else {
                let refused = matches!(found, Err(Error::WrongType(_)));
                holds(
                    &format!("`{}` on what `{}` made: {found:?}", op.name(), ops(&key)[first].name()),
                    refused,
                )?;
            }
        }
    }
    Ok(())
}

async fn delete_clears_every_type(bench: Bench) -> Kept {
    let (coord, one) = (bench.coord("a"), bench.name("t"));
    let key = |word: &str| bench.key(word);
    said(coord.add(&key("counter"), 1).await)?;
    said(coord.claim(&key("claim"), &one, LONG).await)?;
    said(coord.join(&key("set"), vec![text("m")]).await)?;
    said(coord.push(&key("list"), text("v")).await)?;
    said(coord.put(&key("value"), text("v"), Expect::Any, 9).await)?;
    said(coord.next_version(&key("version"), &one).await)?;
    for word in ["counter", "claim", "set", "list", "value", "version"] {
        same(word, said(coord.delete(&key(word)).await)?, true)?;
        same(word, said(coord.delete(&key(word)).await)?, false)?;
    }
    same("counter", said(coord.count(&key("counter")).await)?, 0)?;
    same("set", said(coord.members(&key("set")).await)?, vec![])?;
    same(
        "value",
        said(coord.put(&key("value"), text("v"), Expect::Absent, 1).await)?,
        Put::Done { version: 1 },
    )
}

async fn what_expires_is_gone(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("counter"));
    same("nothing to expire", said(coord.expire(&key, SHORT).await)?, false)?;
    said(coord.add(&key, 3).await)?;
    same("expires", said(coord.expire(&key, SHORT).await)?, true)?;
    until("the counter expires", || async { Ok((coord.count(&key).await? == 0).then_some(())) }).await?;
    let key = bench.key("value");
    let ttl = Some(SHORT);
    let put = Op::Put { key: key.clone(), value: text("v"), expect: Expect::Any, fence: 0, ttl };
    said(coord.ask(&put).await)?;
    until("the value expires", || async { Ok(coord.get(&key).await?.is_none().then_some(())) }).await
}

async fn bytes_come_back_as_they_went_in(bench: Bench) -> Kept {
    let coord = bench.coord("a");
    let all: Bytes = (0..=255_u8).collect();
    let odd = [all, Bytes::new(), text("a b\r\n\0"), Bytes::from(vec![b'x'; 100_000])];
    for (i, bytes) in odd.iter().enumerate() {
        let key = bench.key(&format!("value{i}"));
        said(coord.put(&key, bytes.clone(), Expect::Any, 0).await)?;
        let back = said(coord.get(&key).await)?.map(|value| value.bytes);
        holds(&format!("value {i}"), back.as_ref() == Some(bytes))?;
        let key = bench.key(&format!("set{i}"));
        said(coord.join(&key, vec![bytes.clone()]).await)?;
        holds(&format!("member {i}"), said(coord.members(&key).await)? == vec![bytes.clone()])?;
        let (table, field) = (bench.name("table"), bench.name(&format!("f{i}")));
        said(coord.table_put(&table, &field, bytes.clone(), 0).await)?;
        let rows = said(coord.table(&table).await)?;
        holds(&format!("row {i}"), rows.iter().any(|(name, value, _)| *name == field && value == bytes))?;
    }
    Ok(())
}

async fn tables_keep_the_newest_row(bench: Bench) -> Kept {
    let (coord, table) = (bench.coord("a"), bench.name("table"));
    let (a, b) = (bench.name("a"), bench.name("b"));
    same("nothing", said(coord.table(&table).await)?, vec![])?;
    let first = said(coord.table_put(&table, &a, text("1"), 0).await)?;
    let second = said(coord.table_put(&table, &a, text("2"), 0).await)?;
    holds("stamps grow", second > first)?;
    same("an older row does not win", said(coord.table_put(&table, &a, text("old"), first).await)?, second)?;
    same("the same does not either", said(coord.table_put(&table, &a, text("x"), second).await)?, second)?;
    same("a newer one does", said(coord.table_put(&table, &a, text("3"), second + 5).await)?, second + 5)?;
    let third = said(coord.table_put(&table, &b, text("b"), 0).await)?;
    let rows = vec![(a, text("3"), second + 5), (b, text("b"), third)];
    same("all", said(coord.table(&table).await)?, rows)
}

async fn versions_only_grow_and_a_retry_keeps_its_own(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("version"));
    let (one, two) = (bench.name("one"), bench.name("two"));
    same("of nothing", said(coord.freshness(&key, 1).await)?, Freshness::Latest)?;
    same("first", said(coord.next_version(&key, &one).await)?, 1)?;
    same("a retry", said(coord.next_version(&key, &one).await)?, 1)?;
    same("second", said(coord.next_version(&key, &two).await)?, 2)?;
    same("the first is overtaken", said(coord.freshness(&key, 1).await)?, Freshness::Overtaken { by: 2 })?;
    same("the second is not", said(coord.freshness(&key, 2).await)?, Freshness::Latest)
}

async fn an_offer_covers_others_until_the_work_begins(bench: Bench) -> Kept {
    let (coord, key) = (bench.coord("a"), bench.key("work"));
    let (one, two) = (bench.name("one"), bench.name("two"));
    let offer = async |work| said(coord.offer(&key, work, LONG).await);
    same("first", offer(&one).await?, Offered::Fresh)?;
    same("the same again is not its own duplicate", offer(&one).await?, Offered::Fresh)?;
    same("another", offer(&two).await?, Offered::Covered { by: one.clone() })?;
    same("the work begins", said(coord.begun(&key, &one).await)?, true)?;
    same("the last of the burst", offer(&two).await?, Offered::Fresh)?;
    same("which could not be handed on", said(coord.withdraw(&key, &two).await)?, true)?;
    same("so the next is fresh", offer(&one).await?, Offered::Fresh)
}

async fn statistics_merge_and_are_taken_once(bench: Bench) -> Kept {
    let (space, request) = (bench.name("space"), bench.name("request"));
    let (a, b) = (bench.coord("a"), bench.coord("b"));
    let one = Stats { processed: 3, errors: 1, requeues: 0 };
    let two = Stats { processed: 2, errors: 0, requeues: 4 };
    same("one", said(a.stats_add(&space, &request, 1, one).await)?, one)?;
    same("and two", said(b.stats_add(&space, &request, 1, two).await)?, one.plus(two))?;
    let other = bench.name("other");
    same("another space", said(a.stats_take(&other, &request).await)?, None)?;
    let token = a.token();
    let take = Op::StatsTake { space: space.clone(), request: request.clone(), token };
    same("taken", said(bench.raw(&take).await)?, Reply::Taken(Some(one.plus(two))))?;
    same("the same take again", said(bench.raw(&take).await)?, Reply::Taken(Some(one.plus(two))))?;
    same("by another", said(b.stats_take(&space, &request).await)?, None)
}

async fn the_same_addition_counts_once(bench: Bench) -> Kept {
    let (space, request) = (bench.name("space"), bench.name("request"));
    let coord = bench.coord("a");
    let one = Stats { processed: 1, errors: 0, requeues: 0 };
    for (number, sum) in [(1, 1), (1, 1), (2, 2), (2, 2), (5, 3), (4, 3)] {
        let found = said(coord.stats_add(&space, &request, number, one).await)?;
        same(&format!("addition {number}"), found.processed, sum)?;
    }
    Ok(())
}
