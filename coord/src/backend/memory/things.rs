//! Primitives and tables: what each operation does to one key.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::world::{Thing, Turn};
use crate::error::Error;
use crate::name::{Key, Name};
use crate::op::{Claimed, Effect, Expect, Op, Put, Reply, Value};

fn at(key: &Key) -> String {
    format!("k:{}", key.name())
}

fn wrong(thing: &Thing) -> Error {
    let what = match thing {
        Thing::Counter(_) => "a counter",
        Thing::Claim { .. } => "a claim",
        Thing::Set(_) => "a set",
        Thing::List(_) => "a list",
        Thing::Value(_) => "a value",
        Thing::Version { .. } => "a version",
        _ => "something else",
    };
    Error::WrongType(what.to_owned())
}

impl Turn<'_> {
    pub(super) fn things(&mut self, op: &Op) -> Result<Reply, Error> {
        match op {
            Op::Add { key, by } => self.add(key, *by).map(Reply::Count),
            Op::Count { key } => match self.get(&at(key)) {
                None => Ok(Reply::Count(0)),
                Some(Thing::Counter(count)) => Ok(Reply::Count(*count)),
                Some(other) => Err(wrong(other)),
            },
            Op::Claim { key, token, ttl } => {
                let place = at(key);
                let fence = match self.get(&place) {
                    None => None,
                    Some(Thing::Claim { token: held, fence }) if held == token => Some(*fence),
                    Some(Thing::Claim { token: held, .. }) => {
                        let by = held.clone();
                        return Ok(Reply::Claimed(Claimed::Held { by, left: self.left_of(&place) }));
                    }
                    Some(other) => return Err(wrong(other)),
                };
                let fence = fence.unwrap_or_else(|| self.next_fence());
                let end = Some(self.now + *ttl);
                self.put_until(place, Thing::Claim { token: token.clone(), fence }, end);
                Ok(Reply::Claimed(Claimed::Granted { fence }))
            }
            Op::Renew { key, token, ttl } => match self.get(&at(key)) {
                None => Err(Error::NotFound),
                Some(Thing::Claim { token: held, fence }) if held == token => {
                    let fence = *fence;
                    self.touch_for(&at(key), Some(*ttl));
                    Ok(Reply::Fence(fence))
                }
                Some(Thing::Claim { fence, .. }) => Err(Error::Fenced { current: *fence }),
                Some(other) => Err(wrong(other)),
            },
            Op::Release { key, token } => match self.get(&at(key)) {
                None => Ok(Reply::Found(false)),
                Some(Thing::Claim { token: held, .. }) => {
                    let ours = held == token;
                    Ok(Reply::Found(ours && self.remove(&at(key))))
                }
                Some(other) => Err(wrong(other)),
            },
            Op::Holder { key } => {
                let left = self.left_of(&at(key));
                match self.get(&at(key)) {
                    Some(Thing::Claim { token, fence }) => {
                        Ok(Reply::Holder(Some((token.clone(), *fence, left))))
                    }
                    _ => Ok(Reply::Holder(None)),
                }
            }
            Op::Join { key, members } => self.join(key, members).map(Reply::Size),
            Op::Part { key, members } => {
                let place = at(key);
                let size = match self.get(&place) {
                    None => return Ok(Reply::Size(0)),
                    Some(Thing::Set(set)) => {
                        set.retain(|member| !members.contains(member));
                        set.len()
                    }
                    Some(other) => return Err(wrong(other)),
                };
                if size == 0 {
                    self.remove(&place);
                } else {
                    self.touch(&place);
                }
                Ok(Reply::Size(size as u64))
            }
            Op::Members { key } => match self.get(&at(key)) {
                None => Ok(Reply::Values(Vec::new())),
                Some(Thing::Set(set)) => Ok(Reply::Values(set.iter().cloned().collect())),
                Some(other) => Err(wrong(other)),
            },
            Op::Push { key, value } => self.push(key, value).map(Reply::Size),
            Op::List { key } => match self.get(&at(key)) {
                None => Ok(Reply::Values(Vec::new())),
                Some(Thing::List(list)) => Ok(Reply::Values(list.clone())),
                Some(other) => Err(wrong(other)),
            },
            Op::Get { key } => match self.get(&at(key)) {
                None => Ok(Reply::Value(None)),
                Some(Thing::Value(value)) => Ok(Reply::Value(Some(value.clone()))),
                Some(other) => Err(wrong(other)),
            },
            Op::Put { key, value, expect, fence, ttl } => {
                let current = match self.get(&at(key)) {
                    None => None,
                    Some(Thing::Value(value)) => Some((value.version, value.fence)),
                    Some(other) => return Err(wrong(other)),
                };
                if let Some((_, written)) = current.filter(|(_, written)| written > fence) {
                    return Err(Error::Fenced { current: written });
                }
                let version = current.map(|(version, _)| version);
                let holds = match expect {
                    Expect::Any => true,
                    Expect::Absent => version.is_none(),
                    Expect::Version(expected) => version == Some(*expected),
                };
                if !holds {
                    return Ok(Reply::Put(Put::Conflict { current: version }));
                }
                let version = version.unwrap_or(0) + 1;
                let end = ttl.or(self.ttl).map(|ttl| self.now + ttl);
                let value = Value { bytes: value.clone(), version, fence: *fence };
                self.put_until(at(key), Thing::Value(value), end);
                Ok(Reply::Put(Put::Done { version }))
            }
            Op::Expire { key, ttl } => Ok(Reply::Found(self.touch_for(&at(key), Some(*ttl)))),
            Op::Delete { key } => Ok(Reply::Found(self.remove(&at(key)))),
            Op::Bump { key, token } => {
                let number = match self.get(&at(key)) {
                    None => 1,
                    Some(Thing::Version { number, token: last }) if last == token => {
                        return Ok(Reply::Count(*number));
                    }
                    Some(Thing::Version { number, .. }) => *number + 1,
                    Some(other) => return Err(wrong(other)),
                };
                // Without an end: work that waits for longer than any time to live must still find itself stale.
                self.put_until(at(key), Thing::Version { number, token: token.clone() }, None);
                Ok(Reply::Count(number))
            }
            Op::Version { key } => match self.get(&at(key)) {
                None => Ok(Reply::Count(0)),
                Some(Thing::Version { number, .. }) => Ok(Reply::Count(*number)),
                Some(other) => Err(wrong(other)),
            },
            Op::TablePut { table, field, value, stamp } => {
                Ok(Reply::Stamp(self.table_put(table, field, value, *stamp)))
            }
            Op::Table { table } => {
                let rows = match self.get(&format!("t:{table}")) {
                    Some(Thing::Table(rows)) => rows
                        .iter()
                        .map(|(field, (value, stamp))| (field.clone(), value.clone(), *stamp))
                        .collect(),
                    _ => Vec::new(),
                };
                Ok(Reply::Table(rows))
            }
            _ => unreachable!("the caller sorted the operations"),
        }
    }

    /// Whether an effect could be made; so that an acknowledgement is whole or not at all.
    pub(super) fn may(&mut self, effect: &Effect) -> Result<(), Error> {
        let Some(thing) = self.get(&at(effect.key())) else { return Ok(()) };
        match (effect, &*thing) {
            (Effect::Add { by, .. }, Thing::Counter(count)) => {
                count.checked_add(*by).map(drop).ok_or_else(overflow)
            }
            (Effect::Join { .. }, Thing::Set(_))
            | (Effect::Push { .. }, Thing::List(_))
            | (Effect::Put { .. }, Thing::Value(_)) => Ok(()),
            (_, other) => Err(wrong(other)),
        }
    }

    pub(super) fn effect(&mut self, effect: &Effect, fence: u64) -> Result<(), Error> {
        match effect {
            Effect::Add { key, by } => self.add(key, *by).map(drop),
            Effect::Join { key, member } => self.join(key, std::slice::from_ref(member)).map(drop),
            Effect::Push { key, value } => self.push(key, value).map(drop),
            Effect::Put { key, value } => {
                let (expect, ttl) = (Expect::Any, None);
                let put = Op::Put { key: key.clone(), value: value.clone(), expect, fence, ttl };
                self.things(&put).map(drop)
            }
        }
    }

    fn add(&mut self, key: &Key, by: i64) -> Result<i64, Error> {
        let count = match self.get(&at(key)) {
            None => by,
            Some(Thing::Counter(count)) => count.checked_add(by).ok_or_else(overflow)?,
            Some(other) => return Err(wrong(other)),
        };
        self.put(at(key), Thing::Counter(count));
        Ok(count)
    }

    fn join(&mut self, key: &Key, members: &[Bytes]) -> Result<u64, Error> {
        let mut set = match self.get(&at(key)) {
            None => BTreeSet::new(),
            Some(Thing::Set(set)) => std::mem::take(set),
            Some(other) => return Err(wrong(other)),
        };
        set.extend(members.iter().cloned());
        let size = set.len() as u64;
        if size > 0 {
            self.put(at(key), Thing::Set(set));
        }
        Ok(size)
    }

    fn push(&mut self, key: &Key, value: &Bytes) -> Result<u64, Error> {
        let mut list = match self.get(&at(key)) {
            None => Vec::new(),
            Some(Thing::List(list)) => std::mem::take(list),
            Some(other) => return Err(wrong(other)),
        };
        list.push(value.clone());
        let size = list.len() as u64;
        self.put(at(key), Thing::List(list));
        Ok(size)
    }

    fn table_put(&mut self, table: &Name, field: &Name, value: &Bytes, stamp: u64) -> u64 {
        let place = format!("t:{table}");
        let mut rows = match self.get(&place) {
            Some(Thing::Table(rows)) => std::mem::take(rows),
            _ => BTreeMap::new(),
        };
        let there = rows.get(field).map_or(0, |(_, stamp)| *stamp);
        let written = if stamp == 0 { (there + 1).max(self.now.as_micros() as u64) } else { stamp };
        let wins = written > there;
        if wins {
            rows.insert(field.clone(), (value.clone(), written));
        }
        // A table is what replicas agree on: it lives as long as the state does.
        self.put_until(place, Thing::Table(rows), None);
        if wins {
            self.tell(&["table", table.as_str()]);
        }
        written.max(there)
    }
}

fn overflow() -> Error {
    Error::Invalid("the counter would overflow".to_owned())
}
