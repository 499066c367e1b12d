//! Promises about jobs of many parts: settled in any order, any number of times, complete once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Bench, Kept, Promise, holds, promises, said, same, until, words};
use crate::coord::Coord;
use crate::error::Error;
use crate::jobs::{Handler, Jobs, Options};
use crate::name::{Key, Name};
use crate::op::{Effect, End, Job, Left, Op, Opened, Plan, Reply, Settled, Stage, Swept, Task};

const LEASE: Duration = Duration::from_millis(150);

pub(super) fn all() -> Vec<Promise> {
    promises![
        each_part_counts_once_and_the_last_is_the_last,
        a_part_nobody_has_heard_of_settles_nothing,
        a_later_epoch_shuts_out_an_earlier_one,
        parts_may_come_until_it_is_sealed,
        a_job_without_parts_is_complete_at_once,
        a_completion_is_its_owners_and_then_anybodys,
        an_acknowledgement_and_its_effects_are_one_step,
        a_stalled_job_is_given_up_also_without_its_owner,
        what_comes_after_the_end_is_told_apart,
        a_job_can_be_looked_at,
        a_job_is_forgotten_when_it_is_cancelled,
        the_handler_runs_on_the_owner_when_another_settles_last,
        another_takes_over_when_the_owner_is_gone,
        a_handler_that_fails_is_tried_again,
        an_extra_settle_does_not_run_it_again,
        a_large_job_is_registered_whole,
    ]
}

struct Raw {
    bench: Bench,
    job: Name,
}

impl Raw {
    fn new(bench: &Bench, job: &str) -> Self {
        Self { bench: bench.clone(), job: bench.name(job) }
    }

    async fn open(&self, epoch: u64, parts: &[&str], sealed: bool) -> Result<Opened, String> {
        self.open_with(epoch, parts, sealed, Duration::ZERO).await
    }

    async fn open_with(
        &self,
        epoch: u64,
        parts: &[&str],
        sealed: bool,
        watchdog: Duration,
    ) -> Result<Opened, String> {
        let plan = Plan {
            owner: self.bench.name("owner"),
            handler: self.bench.name("handler"),
            payload: Bytes::from_static(b"pay\0load"),
            watchdog,
            lease: LEASE,
        };
        let op = Op::Open { job: self.job.clone(), epoch, plan, parts: words(parts), sealed };
        match said(self.bench.raw(&op).await)? {
            Reply::Opened(opened) => Ok(opened),
            other => Err(format!("open was answered with {other:?}")),
        }
    }

    async fn settle(&self, epoch: u64, part: &str) -> Result<Settled, String> {
        let op = Op::Settle { job: self.job.clone(), epoch, part: words(&[part]).remove(0) };
        match said(self.bench.raw(&op).await)? {
            Reply::Settled(settled) => Ok(settled),
            other => Err(format!("settle was answered with {other:?}")),
        }
    }

    async fn left(&self, op: Op) -> Result<Left, String> {
        match said(self.bench.raw(&op).await)? {
            Reply::Left(left) => Ok(left),
            other => Err(format!("{} was answered with {other:?}", op.name())),
        }
    }

    async fn sweep(&self, who: &str, can: &[&str], mine: bool) -> Result<Swept, Error> {
        let op = Op::Sweep {
            shard: self.job.shard(),
            instance: self.bench.name(who),
            can: can.iter().map(|handler| self.bench.name(handler)).collect(),
            mine: if mine { vec![self.job.clone()] } else { Vec::new() },
            lease: LEASE,
            most: 50,
        };
        match self.bench.raw(&op).await? {
            Reply::Swept(swept) => Ok(swept),
            other => Err(Error::Invalid(format!("a sweep was answered with {other:?}"))),
        }
    }

    /// Sweeps as somebody until this job falls to it.
    async fn take(&self, who: &str, mine: bool) -> Result<Task, String> {
        until(&format!("{who} takes the completion"), || async move {
            let swept = self.sweep(who, &["handler"], mine).await?;
            Ok(swept.tasks.into_iter().find(|task| task.job == self.job))
        })
        .await
    }

    async fn ack(&self, epoch: u64, fence: u64, effects: Vec<Effect>) -> Result<Reply, Error> {
        self.bench.raw(&Op::Ack { job: self.job.clone(), epoch, fence, effects }).await
    }

    async fn look(&self) -> Result<Option<Job>, String> {
        match said(self.bench.raw(&Op::LookAtJob { job: self.job.clone() }).await)? {
            Reply::Job(job) => Ok(job),
            other => Err(format!("a look was answered with {other:?}")),
        }
    }
}

async fn each_part_counts_once_and_the_last_is_the_last(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    same("open", job.open(1, &["a", "b", "c", "b"], true).await?, Opened::New(Left::Sealed(3)))?;
    same("a", job.settle(1, "a").await?, Settled::Accepted { left: 2 })?;
    same("a again", job.settle(1, "a").await?, Settled::Duplicate)?;
    same("open again", job.open(1, &["a", "b", "c"], true).await?, Opened::Joined(Left::Sealed(2)))?;
    same("c", job.settle(1, "c").await?, Settled::Accepted { left: 1 })?;
    same("b", job.settle(1, "b").await?, Settled::Last)?;
    same("b again", job.settle(1, "b").await?, Settled::Duplicate)
}

async fn a_part_nobody_has_heard_of_settles_nothing(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    same("no job", job.settle(1, "a").await?, Settled::Unknown)?;
    same("nor is it made", job.look().await?, None)?;
    job.open(1, &["a"], true).await?;
    same("no such part", job.settle(1, "x").await?, Settled::Unknown)?;
    same("no such epoch yet", job.settle(2, "a").await?, Settled::Unknown)?;
    same("the part is still there", job.settle(1, "a").await?, Settled::Last)
}

async fn a_later_epoch_shuts_out_an_earlier_one(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    job.open(3, &["a", "b"], true).await?;
    job.settle(3, "a").await?;
    same("a later epoch", job.open(5, &["a", "b"], true).await?, Opened::New(Left::Sealed(2)))?;
    same("begins anew", job.settle(5, "a").await?, Settled::Accepted { left: 1 })?;
    same("a settle of the old", job.settle(3, "b").await?, Settled::StaleEpoch { current: 5 })?;
    same("an old one", job.open(3, &["a"], true).await?, Opened::StaleEpoch { current: 5 })?;
    let seal = Op::Seal { job: job.job.clone(), epoch: 3 };
    same("a seal of the old", job.left(seal).await?, Left::StaleEpoch(5))
}

async fn parts_may_come_until_it_is_sealed(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    let add = |parts: &[&str]| Op::AddParts { job: job.job.clone(), epoch: 1, parts: words(parts) };
    let seal = || Op::Seal { job: job.job.clone(), epoch: 1 };
    same("no job to add to", job.left(add(&["a"])).await?, Left::Unknown)?;
    same("open", job.open(1, &["a"], false).await?, Opened::New(Left::Open(1)))?;
    same("a, the only one, is not the last", job.settle(1, "a").await?, Settled::Accepted { left: 0 })?;
    same("more come", job.left(add(&["a", "b", "c"])).await?, Left::Open(2))?;
    same("b", job.settle(1, "b").await?, Settled::Accepted { left: 1 })?;
    same("sealed", job.left(seal()).await?, Left::Sealed(1))?;
    same("too late for more", job.left(add(&["d"])).await?, Left::Sealed(1))?;
    same("c", job.settle(1, "c").await?, Settled::Last)?;
    same("d was never there", job.settle(1, "d").await?, Settled::Unknown)?;
    same("sealed again", job.left(seal()).await?, Left::Sealed(0))
}

async fn a_job_without_parts_is_complete_at_once(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    same("open", job.open(1, &[], true).await?, Opened::New(Left::Sealed(0)))?;
    same("its end", job.take("owner", true).await?.end, End::Complete)?;
    let job = Raw::new(&bench, "other");
    same("open, unsealed", job.open(1, &[], false).await?, Opened::New(Left::Open(0)))?;
    let seal = Op::Seal { job: job.job.clone(), epoch: 1 };
    same("sealed", job.left(seal).await?, Left::Sealed(0))?;
    same("its end", job.take("owner", true).await?.end, End::Complete)
}

async fn a_completion_is_its_owners_and_then_anybodys(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    job.open(1, &["a"], true).await?;
    let swept = said(job.sweep("owner", &["handler"], true).await)?;
    same("nothing before its end", swept.tasks, vec![])?;
    job.settle(1, "a").await?;
    let early = said(job.sweep("other", &["handler"], false).await)?;
    holds("the owner comes first", early.tasks.iter().all(|task| task.job != job.job))?;
    let swept = said(job.sweep("owner", &["another"], true).await)?;
    same("not who cannot run it", swept.tasks, vec![])?;
    let first = job.take("owner", true).await?;
    same("payload", first.payload.clone(), Bytes::from_static(b"pay\0load"))?;
    let again = said(job.sweep("owner", &["handler"], true).await)?;
    same("it is taken once", again.tasks, vec![])?;
    let second = job.take("other", false).await?;
    holds("fences grow", second.fence > first.fence)?;
    same("attempts", (first.attempt, second.attempt), (1, 2))?;
    let keep = |fence| Op::Keep { job: job.job.clone(), epoch: 1, fence, lease: LEASE };
    let late = bench.raw(&keep(first.fence)).await;
    same("the first has lost it", late, Err(Error::Fenced { current: second.fence }))?;
    same(
        "and cannot end it",
        job.ack(1, first.fence, vec![]).await,
        Err(Error::Fenced { current: second.fence }),
    )?;
    same("the second keeps it", bench.raw(&keep(second.fence)).await, Ok(Reply::Fence(second.fence)))?;
    same("and ends it", job.ack(1, second.fence, vec![]).await, Ok(Reply::Found(true)))?;
    same("an answer that was lost", job.ack(1, second.fence, vec![]).await, Ok(Reply::Found(false)))?;
    tokio::time::sleep(LEASE * 2).await;
    let swept = said(job.sweep("other", &["handler"], true).await)?;
    same("whoever asks about it hears that it is over", swept.over, vec![(job.job.clone(), 1)])?;
    same("nothing is left to run", swept.tasks, vec![])
}

async fn an_acknowledgement_and_its_effects_are_one_step(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    let key =
        |word: &str| Key::beside(&job.job, format!("{}.{word}", bench.name("x"))).map_err(|e| e.to_string());
    job.open(1, &[], true).await?;
    let task = job.take("owner", true).await?;
    let coord = bench.coord("a");
    let (counter, set, list, value) = (key("counter")?, key("set")?, key("list")?, key("value")?);
    let word = Bytes::from_static(b"w");
    said(coord.push(&list, word.clone()).await)?;
    let bad = vec![
        Effect::Add { key: counter.clone(), by: 2 },
        Effect::Join { key: list.clone(), member: word.clone() },
    ];
    let refused = job.ack(1, task.fence, bad).await;
    holds(&format!("a set is no list: {refused:?}"), matches!(refused, Err(Error::WrongType(_))))?;
    same("none of it was done", said(coord.count(&counter).await)?, 0)?;
    let good = vec![
        Effect::Add { key: counter.clone(), by: 2 },
        Effect::Join { key: set.clone(), member: word.clone() },
        Effect::Push { key: list.clone(), value: word.clone() },
        Effect::Put { key: value.clone(), value: word.clone() },
    ];
    same("whole", job.ack(1, task.fence, good.clone()).await, Ok(Reply::Found(true)))?;
    same("again", job.ack(1, task.fence, good).await, Ok(Reply::Found(false)))?;
    same("counter", said(coord.count(&counter).await)?, 2)?;
    same("set", said(coord.members(&set).await)?, vec![word.clone()])?;
    same("list", said(coord.list(&list).await)?.len(), 2)?;
    let found = said(coord.get(&value).await)?.map(|value| (value.bytes, value.fence));
    same("value and fence", found, Some((word, task.fence)))
}

async fn a_stalled_job_is_given_up_also_without_its_owner(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    job.open_with(1, &["a", "b", "c"], true, Duration::from_millis(80)).await?;
    same("a", job.settle(1, "a").await?, Settled::Accepted { left: 2 })?;
    let task = job.take("other", false).await?;
    same("its end", task.end, End::Stalled { left: 2 })?;
    same("b comes too late", job.settle(1, "b").await?, Settled::TooLate)?;
    same("a came before", job.settle(1, "a").await?, Settled::Duplicate)?;
    same("acknowledged", job.ack(1, task.fence, vec![]).await, Ok(Reply::Found(true)))?;
    same("b is still too late", job.settle(1, "b").await?, Settled::TooLate)
}

async fn what_comes_after_the_end_is_told_apart(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    job.open(4, &["a"], true).await?;
    job.settle(4, "a").await?;
    same("open again", job.open(4, &["a"], true).await?, Opened::Over)?;
    let task = job.take("owner", true).await?;
    said(job.ack(4, task.fence, vec![]).await)?;
    same("settle again", job.settle(4, "a").await?, Settled::Duplicate)?;
    same("open again", job.open(4, &["a"], true).await?, Opened::Over)?;
    same("an older one", job.open(3, &["a"], true).await?, Opened::StaleEpoch { current: 4 })?;
    same("the next", job.open(5, &["a"], true).await?, Opened::New(Left::Sealed(1)))
}

async fn a_job_can_be_looked_at(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    let names: Vec<String> = (0..30).map(|i| format!("p{i:02}")).collect();
    let parts: Vec<&str> = names.iter().map(String::as_str).collect();
    job.open_with(2, &parts, true, Duration::from_secs(100)).await?;
    job.settle(2, "p00").await?;
    let Some(found) = job.look().await? else { return Err("it is not there".to_owned()) };
    same("stage", found.stage, Stage::Open)?;
    same("counts", (found.epoch, found.left, found.parts, found.sealed), (2, 29, 30, true))?;
    same("pending", found.pending.len(), Job::SHOWN)?;
    same("the first of them", found.pending[0].as_str(), "p01")?;
    same("owner", found.owner.clone(), bench.name("owner"))?;
    same("nobody holds it", (found.holder, found.attempts), (None, 0))?;
    let due = found.due.ok_or("its watchdog is not told")?;
    holds("its watchdog", due <= Duration::from_secs(100) && due > Duration::from_secs(50))?;
    for part in &parts[1..] {
        job.settle(2, part).await?;
    }
    let task = job.take("owner", true).await?;
    let Some(found) = job.look().await? else { return Err("it is gone".to_owned()) };
    same("stage", found.stage, Stage::Ended(End::Complete))?;
    same("holder", found.holder, Some((bench.name("owner"), task.fence)))?;
    said(job.ack(2, task.fence, vec![]).await)?;
    same("stage", job.look().await?.map(|job| job.stage), Some(Stage::Acknowledged))
}

async fn a_job_is_forgotten_when_it_is_cancelled(bench: Bench) -> Kept {
    let job = Raw::new(&bench, "job");
    job.open(2, &["a"], true).await?;
    let cancel = |epoch| Op::Cancel { job: job.job.clone(), epoch };
    same("an older epoch", said(bench.raw(&cancel(1)).await)?, Reply::Found(false))?;
    same("cancelled", said(bench.raw(&cancel(2)).await)?, Reply::Found(true))?;
    same("again", said(bench.raw(&cancel(2)).await)?, Reply::Found(false))?;
    same("a part of it", job.settle(2, "a").await?, Settled::Unknown)?;
    same("nothing to see", job.look().await?, None)
}

// --- With workers ---

/// Counts, in the same step as the acknowledgement, and fails as often as it should before.
struct Count {
    key: Key,
    failures: AtomicUsize,
    begun: Arc<AtomicUsize>,
}

impl Handler for Count {
    fn finish<'a>(&'a self, _task: &'a Task) -> BoxFuture<'a, Result<Vec<Effect>, String>> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let fails = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        let effects = vec![Effect::Add { key: self.key.clone(), by: 1 }];
        Box::pin(std::future::ready(if fails { Err("failed on purpose".to_owned()) } else { Ok(effects) }))
    }
}

struct Crew {
    coord: Coord,
    jobs: Jobs,
    begun: Arc<AtomicUsize>,
    key: Key,
}

fn crew(bench: &Bench, who: &str, job: &Name, failures: usize) -> Result<Crew, String> {
    let coord = bench.coord(who);
    let key = Key::beside(job, format!("{}.effect", bench.name("x"))).map_err(|error| error.to_string())?;
    let begun = Arc::new(AtomicUsize::new(0));
    let handler = Count { key: key.clone(), failures: failures.into(), begun: begun.clone() };
    let options = Options {
        lease: LEASE * 2,
        poll: Duration::from_millis(50),
        sweep: Duration::from_millis(50),
        ..Options::default()
    };
    let handlers = vec![(bench.name("count"), Arc::new(handler) as Arc<dyn Handler>)];
    Ok(Crew { jobs: Jobs::begin(&coord, handlers, options), coord, begun, key })
}

impl Crew {
    async fn effect(&self, promised: i64) -> Kept {
        until("the effect", || async { Ok((self.coord.count(&self.key).await? == promised).then_some(())) })
            .await
    }
}

async fn the_handler_runs_on_the_owner_when_another_settles_last(bench: Bench) -> Kept {
    let job = bench.name("job");
    let (owner, other) = (crew(&bench, "a", &job, 0)?, crew(&bench, "b", &job, 0)?);
    let parts = words(&["p", "q"]);
    said(owner.jobs.open(&job, 1, &bench.name("count"), Bytes::new(), &parts, true).await)?;
    said(owner.jobs.settle(&job, 1, &parts[0]).await)?;
    same("the last part, elsewhere", said(other.jobs.settle(&job, 1, &parts[1]).await)?, Settled::Last)?;
    owner.effect(1).await?;
    let ran = (owner.begun.load(Ordering::SeqCst), other.begun.load(Ordering::SeqCst));
    same("who ran it", ran, (1, 0))?;
    until("the owner has seen its end", || async { Ok((owner.jobs.mine() == 0).then_some(())) }).await
}

async fn another_takes_over_when_the_owner_is_gone(bench: Bench) -> Kept {
    let job = bench.name("job");
    let other = crew(&bench, "b", &job, 0)?;
    let parts = words(&["p"]);
    let plan = Plan {
        owner: bench.name("gone"),
        handler: bench.name("count"),
        payload: Bytes::new(),
        watchdog: Duration::ZERO,
        lease: LEASE,
    };
    said(
        bench.raw(&Op::Open { job: job.clone(), epoch: 1, plan, parts: parts.clone(), sealed: true }).await,
    )?;
    said(other.jobs.settle(&job, 1, &parts[0]).await)?;
    other.effect(1).await?;
    same("who ran it", other.begun.load(Ordering::SeqCst), 1)
}

async fn a_handler_that_fails_is_tried_again(bench: Bench) -> Kept {
    let job = bench.name("job");
    let owner = crew(&bench, "a", &job, 2)?;
    said(owner.jobs.open(&job, 1, &bench.name("count"), Bytes::new(), &[], true).await)?;
    owner.effect(1).await?;
    same("attempts", owner.begun.load(Ordering::SeqCst), 3)
}

async fn an_extra_settle_does_not_run_it_again(bench: Bench) -> Kept {
    let job = bench.name("job");
    let owner = crew(&bench, "a", &job, 0)?;
    let parts = words(&["p"]);
    said(owner.jobs.open(&job, 1, &bench.name("count"), Bytes::new(), &parts, true).await)?;
    same("last", said(owner.jobs.settle(&job, 1, &parts[0]).await)?, Settled::Last)?;
    owner.effect(1).await?;
    for _ in 0..3 {
        same("extra", said(owner.jobs.settle(&job, 1, &parts[0]).await)?, Settled::Duplicate)?;
    }
    tokio::time::sleep(LEASE * 3).await;
    same("the effect", said(owner.coord.count(&owner.key).await)?, 1)?;
    same("begun", owner.begun.load(Ordering::SeqCst), 1)
}

async fn a_large_job_is_registered_whole(bench: Bench) -> Kept {
    let job = bench.name("job");
    let owner = crew(&bench, "a", &job, 0)?;
    let parts: Vec<Name> = (0..2_500).map(|i| Name::new(format!("p{i}")).expect("a short word")).collect();
    let opened = said(owner.jobs.open(&job, 1, &bench.name("count"), Bytes::new(), &parts, true).await)?;
    same("opened", opened, Opened::New(Left::Sealed(2_500)))?;
    let Some(found) = said(owner.jobs.look(&job).await)? else { return Err("it is not there".to_owned()) };
    same("parts", (found.parts, found.left, found.sealed), (2_500, 2_500, true))?;
    said(owner.jobs.cancel(&job, 1).await).map(drop)
}
