//! The promise that stands behind all others: whatever is asked, the backend answers as the memory of this house does.
//!
//! Random operations on a few keys go to both; answers are compared after what may differ (times, and the numbers of
//! fences) was made the same.

use std::time::Duration;

use bytes::Bytes;

use super::{Bench, Kept, Promise, promises};
use crate::backend::memory::Memory;
use crate::backend::{Answer, Call};
use crate::coord::Chance;
use crate::error::Error;
use crate::name::{Key, Name};
use crate::op::{Claimed, Effect, Expect, Op, Plan, Reply, Stats, Want};

const LONG: Duration = Duration::from_secs(1_000);

pub(super) fn all() -> Vec<Promise> {
    promises![any_history_is_answered_as_memory_answers_it]
}

/// Histories, and operations in each.
const HISTORIES: u64 = 20;
const STEPS: usize = 150;

async fn any_history_is_answered_as_memory_answers_it(bench: Bench) -> Kept {
    for history in 0..HISTORIES {
        let model = Memory::new(Some(LONG));
        let mut dice = Dice {
            chance: Chance::new(bench.seed ^ (history << 32)),
            prefix: format!("{}.{history}", bench.name("h")),
            fences: Vec::new(),
        };
        let (mut ours, mut theirs) = (Fences::default(), Fences::default());
        let mut log = Vec::new();
        for _ in 0..STEPS {
            let drawn = dice.op();
            let expected = match model.apply(Call { op: &Dice::with(&drawn, &ours), seen: None, new_life: 1 })
            {
                Answer::Done(_, reply) => Ok(reply),
                Answer::Refused(_, error) => Err(error),
                Answer::Lost(_) => return Err("the model lost its state".to_owned()),
            };
            let found = bench.raw(&Dice::with(&drawn, &theirs)).await;
            let (expected, found) = (ours.plain(&drawn, expected), theirs.plain(&drawn, found));
            dice.fences = (0..ours.0.len()).collect();
            log.push(format!("{drawn:?}"));
            if expected != found {
                let from = log.len().saturating_sub(12);
                return Err(format!(
                    "history {history} of seed {}: after\n  {}\nthe backend said {found:?}, memory {expected:?}",
                    bench.seed,
                    log[from..].join("\n  ")
                ));
            }
        }
    }
    Ok(())
}

/// Fences in the order of their appearance: their numbers are each backend's own.
#[derive(Default)]
struct Fences(Vec<u64>);

impl Fences {
    fn rank(&mut self, fence: u64) -> u64 {
        if let Some(rank) = self.0.iter().position(|known| *known == fence) {
            return rank as u64;
        }
        self.0.push(fence);
        self.0.len() as u64 - 1
    }

    /// The answer without what may differ.
    fn plain(&mut self, op: &Op, answer: Result<Reply, Error>) -> Result<Reply, Error> {
        let explicit = matches!(op, Op::Put { .. } | Op::Get { .. });
        match answer {
            Ok(Reply::Claimed(Claimed::Granted { fence })) => {
                Ok(Reply::Claimed(Claimed::Granted { fence: self.rank(fence) }))
            }
            Ok(Reply::Claimed(Claimed::Held { by, .. })) => {
                Ok(Reply::Claimed(Claimed::Held { by, left: Duration::ZERO }))
            }
            Ok(Reply::Holder(Some((token, fence, _)))) => {
                Ok(Reply::Holder(Some((token, self.rank(fence), Duration::ZERO))))
            }
            Ok(Reply::Fence(fence)) => Ok(Reply::Fence(self.rank(fence))),
            Ok(Reply::Stamp(_)) => Ok(Reply::Stamp(0)),
            Ok(Reply::Table(rows)) => {
                Ok(Reply::Table(rows.into_iter().map(|(field, value, _)| (field, value, 0)).collect()))
            }
            Ok(Reply::Swept(mut swept)) => {
                swept.tasks.sort_by(|a, b| a.job.cmp(&b.job));
                for task in &mut swept.tasks {
                    task.fence = self.rank(task.fence);
                }
                Ok(Reply::Swept(swept))
            }
            Ok(Reply::Job(Some(mut job))) => {
                job.holder = job.holder.map(|(name, fence)| (name, self.rank(fence)));
                (job.age, job.quiet, job.due) = (Duration::ZERO, Duration::ZERO, None);
                Ok(Reply::Job(Some(job)))
            }
            Ok(Reply::Value(Some(mut value))) if value.fence > 100 => {
                value.fence = 100;
                Ok(Reply::Value(Some(value)))
            }
            Err(Error::Fenced { current }) if explicit && current > 100 => {
                Err(Error::Fenced { current: 100 })
            }
            Err(Error::Fenced { current }) if !explicit && current > 100 => {
                Err(Error::Fenced { current: self.rank(current) })
            }
            Err(Error::WrongType(_)) => Err(Error::WrongType(String::new())),
            Err(Error::Invalid(_)) => Err(Error::Invalid(String::new())),
            other => other,
        }
    }
}

/// Draws operations on few enough names that they meet.
struct Dice {
    chance: Chance,
    prefix: String,
    fences: Vec<usize>,
}

impl Dice {
    fn roll(&self, sides: u64) -> u64 {
        self.chance.next() % sides
    }

    fn name(&self, kind: &str, sides: u64) -> Name {
        Name::new(format!("{}.{kind}{}", self.prefix, self.roll(sides))).expect("short words")
    }

    fn key(&self) -> Key {
        let shard = Name::new(format!("{}.shard", self.prefix)).expect("short words");
        Key::beside(&shard, self.name("k", 8).as_str()).expect("short words")
    }

    fn bytes(&self) -> Bytes {
        Bytes::from(format!("b{}", self.roll(4)))
    }

    fn job(&self) -> Name {
        self.name("j", 4)
    }

    fn parts(&self) -> Vec<Name> {
        (0..self.roll(4)).map(|_| self.name("p", 4)).collect()
    }

    /// A number of a fence that was seen, or one that never was.
    fn fence(&self) -> u64 {
        if self.fences.is_empty() { 99_999 } else { self.roll(self.fences.len() as u64 + 1) }
    }

    /// The operation with the fence that this backend gave, where one is meant by its number.
    fn with(op: &Op, fences: &Fences) -> Op {
        let real = |rank: u64| fences.0.get(rank as usize).copied().unwrap_or(1);
        match op.clone() {
            Op::Keep { job, epoch, fence, lease } => Op::Keep { job, epoch, fence: real(fence), lease },
            Op::Ack { job, epoch, fence, effects } => Op::Ack { job, epoch, fence: real(fence), effects },
            other => other,
        }
    }

    fn op(&self) -> Op {
        let key = self.key();
        let epoch = 1 + self.roll(2);
        match self.roll(35) {
            0 => Op::Add { key, by: self.roll(9) as i64 - 4 },
            1 => Op::Count { key },
            2 => Op::Claim { key, token: self.name("t", 2), ttl: LONG },
            3 => Op::Renew { key, token: self.name("t", 2), ttl: LONG },
            4 => Op::Release { key, token: self.name("t", 2) },
            5 => Op::Join { key, members: (0..=self.roll(2)).map(|_| self.bytes()).collect() },
            6 => Op::Part { key, members: (0..=self.roll(2)).map(|_| self.bytes()).collect() },
            7 => Op::Members { key },
            8 => Op::Push { key, value: self.bytes() },
            9 => Op::List { key },
            10 => Op::Get { key },
            11 | 12 => {
                let expect = match self.roll(3) {
                    0 => Expect::Any,
                    1 => Expect::Absent,
                    _ => Expect::Version(self.roll(3)),
                };
                Op::Put { key, value: self.bytes(), expect, fence: self.roll(4), ttl: None }
            }
            13 => Op::Delete { key },
            14 => Op::Bump { key, token: self.name("t", 3) },
            15 => Op::Version { key },
            16 => Op::TablePut {
                table: self.name("table", 2),
                field: self.name("f", 3),
                value: self.bytes(),
                stamp: 0,
            },
            17 => Op::Table { table: self.name("table", 2) },
            18 | 19 => {
                let plan = Plan {
                    owner: self.name("owner", 2),
                    handler: self.name("handler", 2),
                    payload: self.bytes(),
                    watchdog: Duration::ZERO,
                    lease: LONG,
                };
                Op::Open { job: self.job(), epoch, plan, parts: self.parts(), sealed: self.roll(2) == 0 }
            }
            20 => Op::AddParts { job: self.job(), epoch, parts: self.parts() },
            21 => Op::Seal { job: self.job(), epoch },
            22..=25 => Op::Settle { job: self.job(), epoch, part: self.name("p", 4) },
            26 | 27 => {
                let job = self.job();
                Op::Sweep {
                    shard: job.shard(),
                    instance: self.name("owner", 2),
                    can: vec![self.name("handler", 2)],
                    mine: vec![job],
                    lease: LONG,
                    most: 10,
                }
            }
            28 => Op::Keep { job: self.job(), epoch, fence: self.fence(), lease: LONG },
            29 => {
                let job = self.job();
                let key = Key::beside(&job, self.name("effect", 2).as_str()).expect("short words");
                let effects = match self.roll(5) {
                    0 => vec![Effect::Add { key, by: 1 }],
                    1 => vec![Effect::Join { key, member: self.bytes() }],
                    2 => vec![Effect::Push { key, value: self.bytes() }],
                    3 => vec![Effect::Put { key, value: self.bytes() }],
                    _ => Vec::new(),
                };
                Op::Ack { job, epoch, fence: self.fence(), effects }
            }
            30 => match self.roll(2) {
                0 => Op::Cancel { job: self.job(), epoch },
                _ => Op::LookAtJob { job: self.job() },
            },
            31 => {
                let (request, set) = (self.name("request", 2), self.name("set", 2));
                match self.roll(5) {
                    0 => Op::Await { request, set, members: self.parts() },
                    1 => {
                        let status = (self.roll(2) == 0).then(|| self.bytes());
                        Op::Arrive { request, set, member: self.name("p", 4), status }
                    }
                    2 => Op::Gate { request },
                    3 => Op::Statuses { request },
                    _ => Op::Clean { request },
                }
            }
            32 => {
                let (space, request) = (self.name("space", 2), self.name("request", 2));
                if self.roll(3) == 0 {
                    return Op::StatsTake { space, request, token: self.name("t", 3) };
                }
                let stats = Stats { processed: self.roll(3), errors: self.roll(2), requeues: 1 };
                Op::StatsAdd { space, request, from: self.name("from", 2), seq: self.roll(6), stats }
            }
            33 => Op::Holder { key },
            _ => {
                let want =
                    Want { pool: self.name("pool", 2), used: 1, need: 2, wish: 2, had: 2, part: 3, limit: 3 };
                Op::Hold { instance: self.name("nobody", 1), fence: 1, turn: 1, wants: vec![want] }
            }
        }
    }
}
