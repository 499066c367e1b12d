//! Promises about instances among each other: who lives, what is shared, what is heard, what was lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::broadcast;

use super::{Bench, Kept, PATIENCE, Promise, holds, promises, said, same, until, words};
use crate::backend::{Answer, Backend, Call, Heard, Stand};
use crate::coord::{Chance, Coord};
use crate::error::Error;
use crate::name::{Name, Shard};
use crate::op::{Beaten, Held, Left, Op, Reply, Want};
use crate::wait::{Waited, Waits};

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(60);

pub(super) fn all() -> Vec<Promise> {
    promises![
        who_beats_lives_and_who_is_silent_is_gone,
        a_second_life_shuts_out_the_first,
        cells_are_summed_over_those_who_live,
        shares_never_exceed_the_limit,
        the_share_of_the_dead_is_free_again,
        what_was_wished_earlier_and_comes_later_is_refused,
        a_bucket_gives_no_more_than_it_has,
        notices_are_heard_by_others,
        state_that_was_seen_and_is_not_there_is_lost,
        waiting_ends_when_the_last_member_arrives_elsewhere,
        waiting_for_what_is_unknown_says_so,
        waiting_times_out_with_what_is_pending,
        waiting_retries_what_passes_and_gives_up_on_what_stays,
        cleaning_up_leaves_nothing_and_nothing_comes_back,
        a_waiter_asks_nothing_between_polls,
    ]
}

async fn beat(
    bench: &Bench,
    who: &str,
    life: u64,
    ttl: Duration,
    cells: &[(&str, i64)],
) -> Result<Beaten, Error> {
    let cells = cells.iter().map(|(cell, value)| (bench.name(cell), *value)).collect();
    let op = Op::Beat { instance: bench.name(who), life, ttl, info: Bytes::from(who.to_owned()), cells };
    match bench.raw(&op).await? {
        Reply::Beaten(beaten) => Ok(beaten),
        other => Err(Error::Invalid(format!("a beat was answered with {other:?}"))),
    }
}

/// Those of this promise: others may live on the same backend.
fn ours(bench: &Bench, beaten: &Beaten) -> Vec<String> {
    let prefix = bench.name("x");
    let prefix = prefix.as_str().trim_end_matches('x');
    let ours = beaten.members.iter().filter_map(|member| member.instance.as_str().strip_prefix(prefix));
    ours.map(str::to_owned).collect()
}

async fn who_beats_lives_and_who_is_silent_is_gone(bench: Bench) -> Kept {
    said(beat(&bench, "a", 0, SHORT, &[]).await)?;
    let b = said(beat(&bench, "b", 0, LONG, &[]).await)?;
    holds("b is told of itself", ours(&bench, &b).contains(&"b".to_owned()))?;
    let bench = &bench;
    let fence = b.fence;
    until("the silent one is gone", || async move {
        let beaten = beat(bench, "b", 0, LONG, &[]).await?;
        Ok((ours(bench, &beaten) == ["b"]).then_some(()))
    })
    .await?;
    let kept = said(beat(bench, "b", 0, LONG, &[]).await)?;
    same("the fence of a life stays", kept.fence, fence)?;
    let me = kept.members.iter().find(|member| member.instance == bench.name("b"));
    same("what it says of itself", me.map(|member| member.info.clone()), Some(Bytes::from_static(b"b")))?;
    let leave = Op::Leave { instance: bench.name("b"), fence };
    same("an orderly end", said(bench.raw(&leave).await)?, Reply::Found(true))?;
    same("once", said(bench.raw(&leave).await)?, Reply::Found(false))
}

async fn a_second_life_shuts_out_the_first(bench: Bench) -> Kept {
    let first = said(beat(&bench, "a", 7, LONG, &[]).await)?.fence;
    same("a beat that comes twice", said(beat(&bench, "a", 7, LONG, &[]).await)?.fence, first)?;
    let second = said(beat(&bench, "a", 9, LONG, &[]).await)?.fence;
    holds("fences grow", second > first)?;
    same(
        "the first",
        beat(&bench, "a", 7, LONG, &[]).await.map(drop),
        Err(Error::Fenced { current: second }),
    )?;
    same("the second", said(beat(&bench, "a", 9, LONG, &[]).await)?.fence, second)
}

async fn cells_are_summed_over_those_who_live(bench: Bench) -> Kept {
    said(beat(&bench, "a", 0, LONG, &[("x", 3), ("y", -1)]).await)?;
    said(beat(&bench, "b", 0, LONG, &[("x", 4)]).await)?;
    said(beat(&bench, "dead", 0, SHORT, &[("x", 100)]).await)?;
    let (bench, x, y) = (&bench, bench.name("x"), bench.name("y"));
    let (x, y) = (&x, &y);
    until("the dead one's cells are gone by themselves", || async move {
        let beaten = beat(bench, "b", 0, LONG, &[("x", 4)]).await?;
        let sum = |cell: &Name| beaten.others.iter().find(|(name, _)| name == cell).map(|(_, sum)| *sum);
        Ok((sum(x) == Some(3) && sum(y) == Some(-1)).then_some(()))
    })
    .await?;
    let c = said(beat(bench, "c", 0, LONG, &[]).await)?;
    let sum = c.others.iter().find(|(name, _)| name == x).map(|(_, sum)| *sum);
    same("a newcomer sees the sum", sum, Some(7))
}

async fn hold(bench: &Bench, who: &str, fence: u64, used: u64, wish: u64, limit: u64) -> Result<Held, Error> {
    hold_in_turn(bench, who, fence, 0, (used, wish, limit)).await
}

async fn hold_in_turn(
    bench: &Bench,
    who: &str,
    fence: u64,
    turn: u64,
    (used, wish, limit): (u64, u64, u64),
) -> Result<Held, Error> {
    let want = Want { pool: bench.name("pool"), used, need: wish, wish, had: wish, part: limit, limit };
    match bench.raw(&Op::Hold { instance: bench.name(who), fence, turn, wants: vec![want] }).await? {
        Reply::Held(held) if held.len() == 1 => Ok(held[0]),
        other => Err(Error::Invalid(format!("a wish was answered with {other:?}"))),
    }
}

async fn shares_never_exceed_the_limit(bench: Bench) -> Kept {
    let chance = Chance::new(bench.seed);
    let mut fences = Vec::new();
    for who in ["a", "b", "c"] {
        fences.push((who, said(beat(&bench, who, 0, LONG, &[]).await)?.fence));
    }
    let mut held = [0_u64; 3];
    for _ in 0..200 {
        let at = chance.next() as usize % 3;
        let (who, fence) = fences[at];
        // What is in use can shrink, and grow only within the share.
        let used = chance.next() % (held[at] + 1);
        let wish = used + chance.next() % 12;
        let got = said(hold(&bench, who, fence, used, wish, 10).await)?;
        held[at] = got.mine;
        holds(
            &format!("{who} uses {used} and was left {}", got.mine),
            got.mine >= used && got.mine <= wish.max(used),
        )?;
        same("the total", got.total, held.iter().sum())?;
        holds(&format!("{} of 10 are held", got.total), got.total <= 10)?;
    }
    let stranger = hold(&bench, "stranger", 1, 0, 1, 10).await;
    same("who does not beat holds nothing", stranger, Err(Error::NotFound))
}

async fn the_share_of_the_dead_is_free_again(bench: Bench) -> Kept {
    let dead = said(beat(&bench, "dead", 0, Duration::from_millis(500), &[]).await)?.fence;
    same("all of it", said(hold(&bench, "dead", dead, 5, 5, 5).await)?.mine, 5)?;
    let b = said(beat(&bench, "b", 0, LONG, &[]).await)?.fence;
    let first = said(hold(&bench, "b", b, 0, 4, 5).await)?;
    let bench = &bench;
    holds("nothing while it lives", first.mine == 0 || first.total <= 5)?;
    until("what it held is free", || async move {
        Ok((hold(bench, "b", b, 0, 4, 5).await?.mine == 4).then_some(()))
    })
    .await
}

async fn what_was_wished_earlier_and_comes_later_is_refused(bench: Bench) -> Kept {
    let fence = said(beat(&bench, "a", 0, LONG, &[]).await)?.fence;
    let hold = |turn, wish| hold_in_turn(&bench, "a", fence, turn, (0, wish, 9));
    same("turn 5", said(hold(5, 4).await)?.mine, 4)?;
    same("turn 5 again", said(hold(5, 4).await)?.mine, 4)?;
    same("turn 4", hold(4, 8).await, Err(Error::Fenced { current: 5 }))?;
    said(beat(&bench, "a", 0, LONG, &[]).await)?;
    same("also after a beat", hold(4, 8).await, Err(Error::Fenced { current: 5 }))?;
    same("turn 6", said(hold(6, 2).await)?.mine, 2)
}

async fn a_bucket_gives_no_more_than_it_has(bench: Bench) -> Kept {
    let bucket = bench.name("bucket");
    let draw = async |per_second: f64, least: f64, most: f64| {
        let op = Op::Draw { bucket: bucket.clone(), per_second, burst: 10.0, least, most };
        match said(bench.raw(&op).await)? {
            Reply::Drawn(drawn) => Ok::<_, String>(drawn),
            other => Err(format!("a draw was answered with {other:?}")),
        }
    };
    same("a full bucket", draw(0.0, 1.0, 6.0).await?.granted, 6.0)?;
    same("what is left", draw(0.0, 1.0, 6.0).await?.granted, 4.0)?;
    same("nothing", draw(0.0, 1.0, 6.0).await?.granted, 0.0)?;
    let empty = draw(0.001, 1.0, 6.0).await?;
    holds("a wait is told", empty.granted == 0.0 && empty.wait > Duration::from_secs(100))?;
    let (bench, bucket) = (&bench, &bucket);
    until("it fills again", || async move {
        let op = Op::Draw { bucket: bucket.clone(), per_second: 100.0, burst: 10.0, least: 1.0, most: 1.0 };
        Ok(matches!(bench.raw(&op).await?, Reply::Drawn(drawn) if drawn.granted >= 1.0).then_some(()))
    })
    .await
}

async fn notices_are_heard_by_others(bench: Bench) -> Kept {
    let mut heard = bench.backend.hear();
    let text = Bytes::from(format!("hello {}", bench.name("x")));
    // A backend without notices says so by a gap and nothing else; the ones that have them must deliver.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let shard = Shard::all().nth(5).unwrap_or(Shard::REPLICAS);
        said(bench.raw(&Op::Tell { shard, notice: text.clone() }).await)?;
        let next = tokio::time::timeout(Duration::from_millis(200), async {
            loop {
                if let Ok(Heard::Notice(from, found)) = heard.recv().await
                    && found == text
                {
                    return from;
                }
            }
        });
        if let Ok(from) = next.await {
            return same("its shard", from, shard);
        }
        holds("a notice is heard", tokio::time::Instant::now() < deadline)?;
    }
}

async fn state_that_was_seen_and_is_not_there_is_lost(bench: Bench) -> Kept {
    let op = Op::Count { key: bench.key("counter") };
    let Answer::Done(stand, _) = said(bench.call(&op, None).await)? else {
        return Err("a first question was not answered".to_owned());
    };
    let known = said(bench.call(&op, Some(stand)).await)?;
    holds("what was seen is there", matches!(known, Answer::Done(..)))?;
    let other = Stand { life: stand.life ^ 1, changes: 0 };
    let lost = said(bench.call(&op, Some(other)).await)?;
    holds(&format!("another life is a loss: {lost:?}"), matches!(lost, Answer::Lost(_)))?;
    let add = Op::Add { key: bench.key("counter"), by: 1 };
    let lost = said(bench.call(&add, Some(other)).await)?;
    holds("and nothing is done", matches!(lost, Answer::Lost(_)))?;
    same("nothing", said(bench.coord("fresh").count(&bench.key("counter")).await)?, 0)?;
    // Last, since this ends the life of the shard for all who use it.
    let ahead = Stand { life: stand.life, changes: stand.changes + 1_000_000 };
    let Answer::Lost(next) = said(bench.call(&op, Some(ahead)).await)? else {
        return Err("going back in time is a loss".to_owned());
    };
    holds("and begins another life", next.life != stand.life)
}

fn member(i: usize) -> Name {
    Name::new(format!("m{i}")).expect("a short word")
}

async fn waiting_ends_when_the_last_member_arrives_elsewhere(bench: Bench) -> Kept {
    let (a, b) = (bench.coord("a"), bench.coord("b"));
    let (here, there) = (Waits::begin(&a), Waits::begin(&b));
    let request = bench.name("request");
    let sets = words(&["embedding", "semantic"]);
    for set in &sets {
        said(here.expect(&request, set, (0..3).map(member).collect()).await)?;
    }
    let waiting = tokio::spawn({
        let (here, request) = (here.clone(), request.clone());
        async move { here.wait(&request, PATIENCE).await }
    });
    for set in &sets {
        for i in 0..3 {
            let status = Some(Bytes::from(format!("{set} {i}")));
            let left = said(there.arrive(&request, set, &member(i), status.clone()).await)?;
            said(there.arrive(&request, set, &member(i), status).await)?;
            let more = if *set == sets[0] { 3 } else { 0 };
            same("left", left, Left::Open(2 - i as u64 + more))?;
        }
    }
    let waited = waiting.await.map_err(|error| error.to_string())?;
    let told = vec![
        (sets[0].clone(), Bytes::from_static(b"embedding 2")),
        (sets[1].clone(), Bytes::from_static(b"semantic 2")),
    ];
    same("what each set said last", waited, Waited::Done(told.clone()))?;
    same("and again, on the other", there.wait(&request, SHORT).await, Waited::Done(told))?;
    here.clean(&request).await;
    Ok(())
}

async fn waiting_for_what_is_unknown_says_so(bench: Bench) -> Kept {
    let waits = Waits::begin(&bench.coord("a"));
    same("nobody has heard of it", waits.wait(&bench.name("request"), SHORT).await, Waited::Unknown)
}

async fn waiting_times_out_with_what_is_pending(bench: Bench) -> Kept {
    let waits = Waits::begin(&bench.coord("a"));
    let request = bench.name("request");
    let set = words(&["set"]).remove(0);
    said(waits.expect(&request, &set, vec![member(0), member(1)]).await)?;
    said(waits.arrive(&request, &set, &member(0), None).await)?;
    same("pending", waits.wait(&request, SHORT).await, Waited::TimedOut(vec![(set, 1)]))?;
    waits.clean(&request).await;
    Ok(())
}

/// A backend that answers nothing for its first so many questions.
struct Mute {
    inner: Arc<dyn Backend>,
    left: std::sync::atomic::AtomicUsize,
    asked: std::sync::atomic::AtomicUsize,
}

impl Backend for Mute {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, Error>> {
        use std::sync::atomic::Ordering::SeqCst;
        self.asked.fetch_add(1, SeqCst);
        if self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Box::pin(std::future::ready(Err(Error::Unavailable("mute on purpose".to_owned()))));
        }
        self.inner.call(call)
    }

    fn hear(&self) -> broadcast::Receiver<Heard> {
        self.inner.hear()
    }

    fn describe(&self) -> String {
        "mute for a while".to_owned()
    }
}

fn mute(bench: &Bench, times: usize) -> (Arc<Mute>, Coord) {
    let inner = bench.backend.clone();
    let mute = Arc::new(Mute { inner, left: times.into(), asked: 0.into() });
    let coord = Coord::new(mute.clone(), bench.name("mute"), bench.seed);
    (mute, coord)
}

async fn waiting_retries_what_passes_and_gives_up_on_what_stays(bench: Bench) -> Kept {
    let request = bench.name("request");
    let set = words(&["set"]).remove(0);
    let waits = Waits::begin(&bench.coord("a"));
    said(waits.expect(&request, &set, Vec::new()).await)?;
    let (_mute, coord) = mute(&bench, 2);
    same(
        "after two failures",
        Waits::begin(&coord).wait(&request, PATIENCE).await,
        Waited::Done(Vec::new()),
    )?;
    let (_mute, coord) = mute(&bench, usize::MAX);
    let waited = Waits::begin(&coord).wait(&request, Duration::from_millis(300)).await;
    holds(&format!("without any answer: {waited:?}"), matches!(waited, Waited::CannotKnow(_)))
}

async fn cleaning_up_leaves_nothing_and_nothing_comes_back(bench: Bench) -> Kept {
    let waits = Waits::begin(&bench.coord("a"));
    let request = bench.name("request");
    let set = words(&["set"]).remove(0);
    said(waits.expect(&request, &set, vec![member(0)]).await)?;
    waits.clean(&request).await;
    let late = waits.arrive(&request, &set, &member(0), Some(Bytes::from_static(b"late"))).await;
    same("what arrives late", late, Err(Error::NotFound))?;
    same("is not brought back", waits.wait(&request, SHORT).await, Waited::Unknown)
}

async fn a_waiter_asks_nothing_between_polls(bench: Bench) -> Kept {
    let (mute, coord) = mute(&bench, 0);
    let waits = Waits::begin(&coord);
    let request = bench.name("request");
    let set = words(&["set"]).remove(0);
    said(waits.expect(&request, &set, vec![member(0)]).await)?;
    let asked = || mute.asked.load(std::sync::atomic::Ordering::SeqCst);
    let before = asked();
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (waits, request) = (waits.clone(), request.clone());
            tokio::spawn(async move { waits.wait(&request, PATIENCE).await })
        })
        .collect();
    let asked_once = || async { Ok((asked() >= before + 50).then_some(())) };
    until("every waiter looks once", asked_once).await?;
    same("waited for", waits.waited_for(), 1)?;
    // A gap (a new subscription, say) may make all look once more; a busy loop would ask thousands of times.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let more = asked() - before - 50;
    holds(&format!("{more} questions by 50 waiters in half a second"), more <= 100)?;
    said(waits.arrive(&request, &set, &member(0), None).await)?;
    for waited in futures::future::join_all(waiting).await {
        same("all are woken", waited.map_err(|error| error.to_string())?, Waited::Done(Vec::new()))?;
    }
    waits.clean(&request).await;
    same("nobody is remembered", waits.waited_for(), 0)
}
