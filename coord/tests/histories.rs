//! Seeded histories of jobs and shares: instances die, stall and return, requests and replies are lost, the state is emptied
//! or goes back in time; what was promised is held against a witness of what was really done.
//!
//! Time is the runtime's and paused: it passes only while everybody waits, so a history of minutes takes milliseconds.
//! `WARMLINE_SEEDS=100000` asks for more than the ten thousand of every run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coord::backend::memory::Memory;
use coord::backend::{Answer, Backend};
use coord::clock::Clock;
use coord::coord::Chance;
use coord::jobs::{Handler, Jobs, Options};
use coord::kit::faulty::{Faulty, Odds, Witness};
use coord::kit::point::Points;
use coord::op::{Claimed, Effect, End, Op, Reply, Settled, Task};
use coord::replicas::{Place, Pulse, Replicas, Voice};
use coord::{Coord, Error, Key, Name};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

const START: Duration = Duration::from_secs(1_700_000_000);

/// How many seeds, and which.
#[expect(clippy::disallowed_methods, reason = "a test has no settings")]
fn seeds(default: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("WARMLINE_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    0..asked.unwrap_or(default)
}

/// Runs each seed in a runtime of its own, two at a time; a failure names its seed.
fn each<F, T>(seeds: std::ops::Range<u64>, history: F)
where
    F: Fn(u64) -> T + Send + Sync + Copy + 'static,
    T: Future<Output = Result<(), String>>,
{
    let (first, last) = (seeds.start, seeds.end);
    let run = move |from: u64| {
        for seed in (first + from..last).step_by(2) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime");
            if let Err(why) = runtime.block_on(history(seed)) {
                panic!("seed {seed}: {why}");
            }
        }
    };
    let halves = [0, 1].map(|from| std::thread::spawn(move || run(from)));
    for half in halves {
        if let Err(panic) = half.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn name(word: &str) -> Name {
    Name::new(word).unwrap()
}

// === Jobs ===

/// What was really done, as a witness at the backend saw it.
#[derive(Default)]
struct Truth {
    /// Parts that were settled, of each job and epoch.
    settled: HashMap<(Name, u64), BTreeSet<Name>>,
    lasts: HashMap<(Name, u64), u32>,
    acks: HashMap<(Name, u64), u32>,
    /// The last fence of each shard.
    fences: HashMap<usize, u64>,
    complaints: Vec<String>,
    losses: u32,
}

impl Truth {
    fn see(&mut self, parts: &BTreeSet<Name>, op: &Op, answer: &Answer) {
        let Answer::Done(_, reply) = answer else {
            self.losses += u32::from(matches!(answer, Answer::Lost(_)));
            return;
        };
        match (op, reply) {
            (Op::Settle { job, epoch, part }, Reply::Settled(Settled::Accepted { .. } | Settled::Last)) => {
                let at = (job.clone(), *epoch);
                self.settled.entry(at.clone()).or_default().insert(part.clone());
                if *reply == Reply::Settled(Settled::Last) {
                    *self.lasts.entry(at).or_default() += 1;
                }
            }
            (Op::Sweep { shard, .. }, Reply::Swept(swept)) => {
                for task in &swept.tasks {
                    self.fence(shard.number(), task.fence);
                    let settled = self.settled.get(&(task.job.clone(), task.epoch));
                    let all = settled.is_some_and(|settled| settled == parts);
                    if task.end == End::Complete && !all {
                        self.complaints.push(format!("{task:?} was completed with only {settled:?} settled"));
                    }
                }
            }
            (Op::Claim { key, .. }, Reply::Claimed(Claimed::Granted { fence })) => {
                self.fence(key.shard().number(), *fence);
            }
            (Op::Ack { job, epoch, .. }, Reply::Found(true)) => {
                *self.acks.entry((job.clone(), *epoch)).or_default() += 1;
            }
            _ => {}
        }
    }

    fn fence(&mut self, shard: usize, fence: u64) {
        let last = self.fences.insert(shard, fence).unwrap_or(0);
        if fence <= last {
            self.complaints.push(format!("fence {fence} came after {last} in shard {shard}"));
        }
    }
}

/// Takes a while, fails at times, and counts in one step with its acknowledgement.
struct Effective {
    chance: Chance,
    effect: Key,
}

impl Handler for Effective {
    fn finish<'a>(&'a self, _task: &'a Task) -> BoxFuture<'a, Result<Vec<Effect>, String>> {
        Box::pin(async move {
            sleep(Duration::from_millis(self.chance.next() % 15_000)).await;
            if self.chance.next().is_multiple_of(5) {
                return Err("failed on purpose".to_owned());
            }
            Ok(vec![Effect::Add { key: self.effect.clone(), by: 1 }])
        })
    }
}

struct Instance {
    coord: Coord,
    jobs: Jobs,
}

fn instance(backend: &Arc<dyn Backend>, who: &str, effect: &Key, seed: u64) -> Instance {
    let coord = Coord::new(backend.clone(), name(who), seed);
    let options = Options {
        lease: Duration::from_secs(10),
        poll: Duration::from_secs(1),
        sweep: Duration::from_secs(5),
        watchdog: Duration::ZERO,
        handlers: 4,
        points: Points::none(),
    };
    let handler = Effective { chance: Chance::new(seed ^ 5), effect: effect.clone() };
    let handlers = vec![(name("count"), Arc::new(handler) as Arc<dyn Handler>)];
    Instance { jobs: Jobs::begin(&coord, handlers, options), coord }
}

/// One history of one job with three instances. `loses`: whether the state may be lost as well.
async fn job_history(seed: u64, loses: bool) -> Result<(), String> {
    let chance = Chance::new(seed);
    let roll = |sides: u64| chance.next() % sides;
    let memory = Memory::on(Clock::of_runtime(START), Some(Duration::from_hours(1)));
    let parts: BTreeSet<Name> = (0..=roll(8)).map(|i| name(&format!("p{i}"))).collect();
    let truth: Arc<Mutex<Truth>> = Arc::default();
    let witness: Witness = {
        let (truth, parts) = (truth.clone(), parts.clone());
        Arc::new(move |op, answer| truth.lock().see(&parts, op, answer))
    };
    let odds = Odds {
        refused: roll(100),
        cut_request: roll(100),
        cut_reply: roll(200),
        slow: roll(100),
        deaf: roll(1_000),
    };
    let faulty = Arc::new(Faulty::new(Arc::new(memory.clone()), seed, odds, witness));
    let backend: Arc<dyn Backend> = faulty.clone();
    let job = name("job");
    let effect = Key::beside(&job, "effect").unwrap();
    let names = ["a", "b", "c"];
    let mut alive: Vec<Option<Instance>> = names
        .iter()
        .map(|who| Some(instance(&backend, who, &effect, seed ^ u64::from(who.as_bytes()[0]))))
        .collect();
    let listed: Vec<Name> = parts.iter().cloned().collect();

    let mut epoch = 1;
    let mut snapshot = None;
    let mut to_open = true;
    let mut queue: Vec<Name> = Vec::new();
    let mut steps = 0;
    let ends = Instant::now() + Duration::from_mins(20);
    loop {
        steps += 1;
        // What happens to instances and to the state.
        match roll(60) {
            0 if steps < 60 => alive[roll(3) as usize] = None,
            1..=6 => {
                let at = roll(3) as usize;
                if alive[at].is_none() {
                    alive[at] = Some(instance(&backend, names[at], &effect, seed ^ steps));
                }
            }
            7 if loses && steps < 60 => memory.flush(),
            8 if loses && steps < 60 => snapshot = Some(memory.snapshot()),
            9 if loses && steps < 60 => {
                if let Some(world) = snapshot.take() {
                    memory.restore(world);
                }
            }
            10..=20 => sleep(Duration::from_millis(roll(3_000))).await,
            _ => {}
        }
        if steps == 60 {
            // From here on everything heals, so that there must be an end.
            faulty.set(Odds::default());
            for (at, who) in names.iter().enumerate() {
                if alive[at].is_none() {
                    alive[at] = Some(instance(&backend, who, &effect, seed ^ (900 + at as u64)));
                }
            }
        }
        let Some(Some(someone)) = alive.get(roll(3) as usize) else { continue };
        let mut lost = false;
        if to_open {
            match someone.jobs.open(&job, epoch, &name("count"), Bytes::new(), &listed, true).await {
                Ok(coord::op::Opened::StaleEpoch { current }) => epoch = current + 1,
                Ok(_) => {
                    to_open = false;
                    // Each part comes three times, in any order.
                    queue =
                        listed.iter().flat_map(|part| [part.clone(), part.clone(), part.clone()]).collect();
                    for i in (1..queue.len()).rev() {
                        queue.swap(i, roll(i as u64 + 1) as usize);
                    }
                }
                Err(Error::StateLost { .. }) => lost = true,
                Err(_) => {}
            }
        } else if let Some(part) = queue.pop() {
            match someone.jobs.settle(&job, epoch, &part).await {
                Ok(Settled::Unknown | Settled::StaleEpoch { .. }) if loses => lost = true,
                Ok(Settled::Unknown | Settled::StaleEpoch { .. } | Settled::TooLate) => {
                    return Err(format!("{part} of epoch {epoch} was not known, and nothing was lost"));
                }
                Ok(_) => {}
                Err(Error::StateLost { .. }) => lost = true,
                // Whoever delivers does not know, and delivers again.
                Err(_) => queue.insert(0, part),
            }
        } else {
            let acked = truth.lock().acks.contains_key(&(job.clone(), epoch));
            let told = someone.jobs.look(&job).await;
            match told {
                Ok(Some(found)) if acked && found.stage == coord::op::Stage::Acknowledged => break,
                Ok(None) | Err(Error::StateLost { .. }) => lost = true,
                _ => sleep(Duration::from_secs(1)).await,
            }
        }
        if lost {
            if !loses {
                return Err("state was lost that nobody took".to_owned());
            }
            // Built again from what is durable: the next epoch, and every part once more.
            (epoch, to_open) = (epoch + 1, true);
        }
        if Instant::now() > ends {
            return Err(format!("it did not end: epoch {epoch}, {} parts to deliver", queue.len()));
        }
    }
    faulty.set(Odds::default());
    let someone = alive.iter().flatten().next().ok_or("nobody lives")?;
    let effects = someone.coord.count(&effect).await;
    let truth = truth.lock();
    if let Some(complaint) = truth.complaints.first() {
        return Err(complaint.clone());
    }
    let at = (job, epoch);
    let (lasts, acks) = (truth.lasts.get(&at).copied(), truth.acks.get(&at).copied());
    if !loses && (lasts, acks, &effects, epoch) != (Some(1), Some(1), &Ok(1), 1) {
        return Err(format!("{lasts:?} lasts, {acks:?} acknowledged, {effects:?} effects, epoch {epoch}"));
    }
    Ok(())
}

#[test]
fn a_job_completes_once_whatever_is_lost_on_the_way() {
    each(seeds(5_000), |seed| job_history(seed, false));
}

#[test]
fn a_job_is_never_complete_with_a_part_unsettled_also_when_the_state_is_lost() {
    each(seeds(5_000), |seed| job_history(seed ^ 0x5EED_0000, true));
}

// === Shares of a limit ===

struct Silent;

impl Voice for Silent {
    fn info(&self) -> Bytes {
        Bytes::new()
    }
    fn cells(&self) -> Vec<(Name, i64)> {
        Vec::new()
    }
}

/// Three instances with one limit; each lets requests in and out. While the coordinator can be reached and nothing was
/// lost, the limit holds exactly; otherwise the stated bound does; at the end everything is free again.
async fn share_history(seed: u64, away: bool) -> Result<(), String> {
    let chance = Arc::new(Chance::new(seed));
    let roll = |sides: u64| chance.next() % sides;
    let memory = Memory::on(Clock::of_runtime(START), None);
    let odds =
        Odds { cut_reply: roll(100), cut_request: roll(50), slow: roll(30), deaf: roll(600), refused: 0 };
    let witness: Witness = Arc::new(|_, _| {});
    let faulty = Arc::new(Faulty::new(Arc::new(memory.clone()), seed, odds, witness));
    let backend: Arc<dyn Backend> = faulty.clone();
    let pulse = Pulse { expected: 3, lease: Duration::from_secs(3), beat: Duration::from_millis(500) };
    let limit = 3 + roll(12);
    let pool = name("tenant");
    let lives = AtomicU64::new(0);
    let begin = |who: &str| {
        let life = lives.fetch_add(1, Ordering::Relaxed);
        Replicas::begin(&Coord::new(backend.clone(), name(who), seed ^ life), life, pulse, Arc::new(Silent))
    };
    let names = ["a", "b", "c"];
    let mut alive: Vec<Replicas> = names.iter().map(|who| begin(who)).collect();
    // All have heard of each other before the first request comes.
    sleep(Duration::from_secs(2)).await;
    let mut inside: BTreeMap<u64, (usize, Place)> = BTreeMap::new();
    let (mut most, mut number) = (0, 0);
    let mut dark = false;
    for step in 0..150 {
        match roll(40) {
            0 => {
                // One dies, with everything that it let in, and begins again.
                let at = roll(3) as usize;
                inside.retain(|_, (who, _)| *who != at);
                alive[at] = begin(names[at]);
            }
            1 if away && step < 100 => {
                dark = !dark;
                faulty.set(if dark { Odds { refused: 1_000, ..odds } } else { odds });
            }
            2 if away && step < 100 => memory.flush(),
            3..=12 => sleep(Duration::from_millis(roll(400))).await,
            13..=22 => {
                let oldest: Vec<u64> = inside.keys().copied().take(roll(4) as usize).collect();
                for number in oldest {
                    inside.remove(&number);
                }
            }
            _ => {
                let at = roll(3) as usize;
                let door = alive[at].pool(&pool, limit);
                if let Some(place) = alive[at].enter(&door, Duration::from_millis(100)).await {
                    number += 1;
                    inside.insert(number, (at, place));
                }
            }
        }
        most = most.max(inside.len() as u64);
        if !away && most > limit {
            return Err(format!("step {step}: {most} were in, {limit} may be"));
        }
    }
    if most > 2 * limit + 3 {
        return Err(format!("{most} were in; the stated bound is twice {limit} and one each"));
    }
    // All leave, the network heals; then the whole limit can be had by one again.
    inside.clear();
    faulty.set(Odds::default());
    sleep(Duration::from_secs(10)).await;
    let door = alive[0].pool(&pool, limit);
    for i in 0..limit {
        match alive[0].enter(&door, Duration::from_secs(5)).await {
            Some(place) => drop(inside.insert(i, (0, place))),
            None => {
                return Err(format!(
                    "only {i} of {limit} could be had by one at the end: {:?}",
                    door.stand()
                ));
            }
        }
    }
    let one_more = alive[1].pool(&pool, limit);
    match alive[1].enter(&one_more, Duration::from_secs(2)).await {
        Some(_) => Err("one more than the limit was let in".to_owned()),
        None => Ok(()),
    }
}

#[test]
fn together_they_let_in_no_more_than_the_limit_whoever_dies() {
    each(seeds(1_000), |seed| share_history(seed, false));
}

#[test]
fn without_the_coordinator_the_stated_bound_holds_and_everything_heals() {
    each(seeds(1_000), |seed| share_history(seed ^ 0xA3A7, true));
}
