//! What scripts answer, as replies.

use std::time::Duration;

use bytes::Bytes;
use redis::Value as Wire;

use crate::backend::{Answer, Stand};
use crate::error::Error;
use crate::name::Name;
use crate::op::{
    Beaten, Claimed, Drawn, End, Held, Job, Left, Member, Op, Opened, Put, Reply, Settled, Stage, Stats,
    Swept, Task, Value,
};

/// Reads a script's answer from left to right.
struct Reader {
    values: std::vec::IntoIter<Wire>,
}

/// An answer that no script of ours gives.
#[derive(Debug)]
pub(super) struct Garbled;

type Read<T> = Result<T, Garbled>;

/// The answer to `op`.
pub(super) fn answer(op: &Op, wire: Wire) -> Read<Answer> {
    let mut reader = Reader::of(wire)?;
    let life = u64::from_str_radix(&reader.text()?, 16).map_err(|_| Garbled)?;
    let stand = Stand { life, changes: reader.number()? };
    let refused = |error| Ok(Answer::Refused(stand, error));
    match reader.text()?.as_str() {
        "OK" => Ok(Answer::Done(stand, reader.reply(op)?)),
        "LOST" => Ok(Answer::Lost(stand)),
        "NOTFOUND" => refused(Error::NotFound),
        "FENCED" => refused(Error::Fenced { current: reader.number()? }),
        "WRONGTYPE" => refused(Error::WrongType(reader.text()?)),
        "INVALID" => refused(Error::Invalid(reader.text()?)),
        _ => Err(Garbled),
    }
}

impl Reader {
    fn of(wire: Wire) -> Read<Self> {
        match wire {
            Wire::Array(values) | Wire::Set(values) => Ok(Self { values: values.into_iter() }),
            Wire::Map(pairs) => {
                let flat: Vec<Wire> = pairs.into_iter().flat_map(|(key, value)| [key, value]).collect();
                Ok(Self { values: flat.into_iter() })
            }
            _ => Err(Garbled),
        }
    }

    fn is_empty(&self) -> bool {
        self.values.len() == 0
    }

    fn list(&mut self) -> Read<Self> {
        Self::of(self.values.next().ok_or(Garbled)?)
    }

    fn bytes(&mut self) -> Read<Bytes> {
        match self.values.next().ok_or(Garbled)? {
            Wire::BulkString(bytes) => Ok(bytes.into()),
            Wire::SimpleString(text) => Ok(text.into()),
            Wire::Okay => Ok(Bytes::from_static(b"OK")),
            Wire::Int(number) => Ok(number.to_string().into()),
            _ => Err(Garbled),
        }
    }

    fn text(&mut self) -> Read<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Garbled)
    }

    fn parse<T: std::str::FromStr>(&mut self) -> Read<T> {
        self.text()?.parse().map_err(|_| Garbled)
    }

    fn number(&mut self) -> Read<u64> {
        self.parse()
    }

    fn name(&mut self) -> Read<Name> {
        Name::new(self.text()?).map_err(|_| Garbled)
    }

    /// Times that are over already are zero.
    fn millis(&mut self) -> Read<Duration> {
        let millis: f64 = self.parse()?;
        Ok(Duration::from_secs_f64(millis.clamp(0.0, 1e15) / 1e3))
    }

    fn rows<T>(&mut self, mut row: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let mut list = self.list()?;
        let mut rows = Vec::new();
        while !list.is_empty() {
            rows.push(row(&mut list)?);
        }
        Ok(rows)
    }

    fn sorted<T>(
        &mut self,
        row: impl FnMut(&mut Self) -> Read<T>,
        by: impl Fn(&T, &T) -> std::cmp::Ordering,
    ) -> Read<Vec<T>> {
        let mut rows = self.rows(row)?;
        rows.sort_by(by);
        Ok(rows)
    }

    fn left(&mut self) -> Read<Left> {
        let (word, number) = (self.text()?, self.number()?);
        Ok(match word.as_str() {
            "open" => Left::Open(number),
            "sealed" => Left::Sealed(number),
            "unknown" => Left::Unknown,
            "stale" => Left::StaleEpoch(number),
            "over" => Left::Over,
            _ => return Err(Garbled),
        })
    }

    fn stats(&mut self) -> Read<Stats> {
        Ok(Stats { processed: self.number()?, errors: self.number()?, requeues: self.number()? })
    }

    fn reply(&mut self, op: &Op) -> Read<Reply> {
        Ok(match op {
            Op::Add { .. } | Op::Count { .. } | Op::Bump { .. } | Op::Version { .. } => {
                Reply::Count(self.parse()?)
            }
            Op::Claim { .. } => match self.text()?.as_str() {
                "granted" => Reply::Claimed(Claimed::Granted { fence: self.number()? }),
                "held" => Reply::Claimed(Claimed::Held { by: self.name()?, left: self.millis()? }),
                _ => return Err(Garbled),
            },
            Op::Renew { .. } | Op::Keep { .. } => Reply::Fence(self.number()?),
            Op::Release { .. }
            | Op::Expire { .. }
            | Op::Delete { .. }
            | Op::Leave { .. }
            | Op::Ack { .. }
            | Op::Cancel { .. }
            | Op::Clean { .. }
            | Op::Tell { .. }
            | Op::Probe { .. } => Reply::Found(self.number()? > 0),
            Op::Join { .. } | Op::Part { .. } | Op::Push { .. } => Reply::Size(self.number()?),
            Op::Holder { .. } if self.is_empty() => Reply::Holder(None),
            Op::Holder { .. } => Reply::Holder(Some((self.name()?, self.number()?, self.millis()?))),
            Op::Members { .. } => Reply::Values(self.sorted(Self::bytes, Ord::cmp)?),
            Op::List { .. } => Reply::Values(self.rows(Self::bytes)?),
            Op::Get { .. } if self.is_empty() => Reply::Value(None),
            Op::Get { .. } => Reply::Value(Some(Value {
                bytes: self.bytes()?,
                version: self.number()?,
                fence: self.number()?,
            })),
            Op::Put { .. } => match self.text()?.as_str() {
                "done" => Reply::Put(Put::Done { version: self.number()? }),
                "conflict" => Reply::Put(Put::Conflict { current: self.text()?.parse().ok() }),
                _ => return Err(Garbled),
            },
            Op::TablePut { .. } => Reply::Stamp(self.number()?),
            Op::Table { .. } => {
                let row = |list: &mut Self| {
                    let (field, row) = (list.name()?, list.bytes()?);
                    let space = row.iter().position(|byte| *byte == b' ').ok_or(Garbled)?;
                    let stamp = std::str::from_utf8(&row[..space]).ok().and_then(|stamp| stamp.parse().ok());
                    Ok((field, row.slice(space + 1..), stamp.ok_or(Garbled)?))
                };
                Reply::Table(self.sorted(row, |a: &(Name, Bytes, u64), b| a.0.cmp(&b.0))?)
            }
            Op::Beat { .. } => Reply::Beaten(Beaten {
                fence: self.number()?,
                members: self.sorted(Self::member, |a: &Member, b| a.instance.cmp(&b.instance))?,
                others: self.sorted(|list| Ok((list.name()?, list.parse()?)), Ord::cmp)?,
            }),
            Op::Hold { .. } => Reply::Held(self.rows(|list| {
                Ok(Held { mine: list.number()?, total: list.number()?, wanted: list.number()? })
            })?),
            Op::Draw { .. } => {
                let (granted, wait): (f64, f64) = (self.parse()?, self.parse()?);
                Reply::Drawn(Drawn { granted, wait: Duration::from_secs_f64(wait.clamp(0.0, 1e9)) })
            }
            Op::Open { .. } => Reply::Opened(match self.text()?.as_str() {
                "new" => Opened::New(self.left()?),
                "joined" => Opened::Joined(self.left()?),
                "over" => Opened::Over,
                "stale" => Opened::StaleEpoch { current: self.number()? },
                _ => return Err(Garbled),
            }),
            Op::AddParts { .. } | Op::Seal { .. } => Reply::Left(self.left()?),
            Op::Await { .. } | Op::Arrive { .. } => Reply::Left(Left::Open(self.number()?)),
            Op::Settle { .. } => Reply::Settled(match self.text()?.as_str() {
                "accepted" => Settled::Accepted { left: self.number()? },
                "last" => Settled::Last,
                "duplicate" => Settled::Duplicate,
                "stale" => Settled::StaleEpoch { current: self.number()? },
                "unknown" => Settled::Unknown,
                "late" => Settled::TooLate,
                _ => return Err(Garbled),
            }),
            Op::Sweep { .. } => {
                let (tasks, vanished) = (self.rows(Self::task)?, self.rows(Self::name)?);
                let over = self.rows(|list| Ok((list.name()?, list.number()?)))?;
                Reply::Swept(Swept { tasks, vanished, over })
            }
            Op::LookAtJob { .. } if self.is_empty() => Reply::Job(None),
            Op::LookAtJob { .. } => Reply::Job(Some(self.job()?)),
            Op::Gate { .. } => {
                Reply::Pending(self.sorted(|list| Ok((list.name()?, list.number()?)), Ord::cmp)?)
            }
            Op::Statuses { .. } => {
                Reply::Statuses(self.sorted(|list| Ok((list.name()?, list.bytes()?)), Ord::cmp)?)
            }
            Op::StatsAdd { .. } => Reply::Stats(self.stats()?),
            Op::StatsTake { .. } if self.is_empty() => Reply::Taken(None),
            Op::StatsTake { .. } => Reply::Taken(Some(self.stats()?)),
        })
    }

    fn member(&mut self) -> Read<Member> {
        Ok(Member {
            instance: self.name()?,
            fence: self.number()?,
            age: self.millis()?,
            left: self.millis()?,
            info: self.bytes()?,
        })
    }

    fn task(&mut self) -> Read<Task> {
        let (job, epoch, fence) = (self.name()?, self.number()?, self.number()?);
        let (handler, payload, stage) = (self.name()?, self.bytes()?, self.text()?);
        let (left, attempt) = (self.number()?, self.number()?);
        let end = if stage == "stalled" { End::Stalled { left } } else { End::Complete };
        Ok(Task { job, epoch, fence, handler, payload, end, attempt })
    }

    fn job(&mut self) -> Read<Job> {
        let (epoch, stage, sealed) = (self.number()?, self.text()?, self.text()? == "1");
        let (left, parts, owner, handler) = (self.number()?, self.number()?, self.name()?, self.name()?);
        let holder = (self.text()?, self.text()?);
        let attempts = self.number()?;
        let (age, quiet, due) = (self.millis()?, self.millis()?, self.text()?);
        let due: Option<f64> = due.parse().ok();
        Ok(Job {
            epoch,
            stage: match stage.as_str() {
                "open" => Stage::Open,
                "complete" => Stage::Ended(End::Complete),
                "stalled" => Stage::Ended(End::Stalled { left }),
                "acknowledged" => Stage::Acknowledged,
                _ => return Err(Garbled),
            },
            sealed,
            left,
            parts,
            pending: self.rows(Self::name)?,
            owner,
            handler,
            holder: Name::new(holder.0).ok().zip(holder.1.parse().ok()),
            attempts,
            age,
            quiet,
            due: due.map(|due| Duration::from_secs_f64(due.clamp(0.0, 1e15) / 1e3)),
        })
    }
}
