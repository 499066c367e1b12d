//! Operations as scripts: which one, on which keys, with which arguments. One call each: one round trip, atomic.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;

use crate::backend::Call;
use crate::backend::memory::{MAX_STATS, REMEMBERED, TAKEN_FOR};
use crate::name::{Key, Name, SHARDS, Shard};
use crate::op::{Class, Effect, Expect, Job, Op, Want};

/// A script and what it is called with.
pub(super) struct Invocation {
    pub(super) script: &'static Script,
    pub(super) keys: Vec<String>,
    pub(super) args: Vec<Vec<u8>>,
}

/// A script as the server knows it.
pub(super) struct Script {
    pub(super) code: String,
    pub(super) hash: String,
}

/// What keys are called: one hash tag a shard, so that all keys of an operation lie in one slot of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefixes: Vec<String>,
    ttl: String,
}

macro_rules! scripts {
    ($($name:literal: $($part:literal)+;)+) => {
        [$(($name, concat!($(include_str!(concat!("lua/", $part, ".lua"))),+))),+]
    };
}

/// What every script does that changes something.
const COUNTS: &str = "changes = changes + 1";

static SCRIPTS: LazyLock<HashMap<&'static str, Script>> = LazyLock::new(|| {
    let scripts = scripts! {
        "add": "prelude" "count_change" "known" "write" "acts" "add";
        "count": "prelude" "read" "known" "count";
        "claim": "prelude" "count_change" "known" "write" "acts" "claim";
        "renew": "prelude" "count_change" "known" "write" "acts" "renew";
        "release": "prelude" "count_change" "known" "write" "acts" "release";
        "holder": "prelude" "read" "known" "holder";
        "join": "prelude" "count_change" "known" "write" "acts" "join";
        "part": "prelude" "count_change" "known" "write" "acts" "part";
        "members": "prelude" "read" "known" "members";
        "push": "prelude" "count_change" "known" "write" "acts" "push";
        "list": "prelude" "read" "known" "list";
        "get": "prelude" "read" "known" "get";
        "put": "prelude" "count_change" "known" "write" "acts" "put";
        "expire": "prelude" "count_change" "known" "write" "acts" "expire";
        "delete": "prelude" "count_change" "known" "write" "acts" "delete";
        "table_put": "prelude" "count_change" "known" "write" "acts" "table_put";
        "table": "prelude" "read" "known" "table";
        "beat": "prelude" "count_change" "known" "write" "acts" "members_of" "beat";
        "leave": "prelude" "count_change" "known" "write" "acts" "members_of" "leave";
        "hold": "prelude" "count_change" "known" "write" "acts" "members_of" "hold";
        "draw": "prelude" "count_change" "known" "write" "acts" "draw";
        "open": "prelude" "count_change" "known" "write" "acts" "jobs" "open";
        "add_parts": "prelude" "count_change" "known" "write" "acts" "jobs" "add_parts";
        "seal": "prelude" "count_change" "known" "write" "acts" "jobs" "seal";
        "settle": "prelude" "count_change" "known" "write" "settle" "acts" "jobs" "last";
        "sweep": "prelude" "count_change" "known" "write" "acts" "jobs" "sweep";
        "keep": "prelude" "count_change" "known" "write" "acts" "jobs" "held" "keep";
        "ack": "prelude" "count_change" "known" "write" "acts" "jobs" "effects" "held" "ack";
        "cancel": "prelude" "count_change" "known" "write" "acts" "jobs" "cancel";
        "look_at_job": "prelude" "read" "known" "look_at_job";
        "await": "prelude" "count_change" "known" "write" "acts" "await";
        "arrive": "prelude" "count_change" "known" "write" "acts" "arrive";
        "gate": "prelude" "read" "known" "gate";
        "statuses": "prelude" "read" "known" "statuses";
        "clean": "prelude" "count_change" "known" "write" "acts" "delete";
        "bump": "prelude" "count_change" "known" "write" "acts" "bump";
        "version": "prelude" "read" "known" "version";
        "stats_add": "prelude" "count_change" "known" "write" "acts" "stats_add";
        "stats_take": "prelude" "count_change" "known" "write" "acts" "stats_take";
        "tell": "prelude" "count_change" "known" "write" "acts" "tell";
        "probe": "prelude" "read" "known" "probe";
    };
    let made = scripts.into_iter().map(|(name, code)| {
        // A script that says what it is and not that it never writes is refused by replicas: without this a master that
        // became one would go on answering questions, with what it knows. A full server still answers them.
        let writes = code.contains(COUNTS);
        let code = format!("#!lua{}\n{code}", if writes { "" } else { " flags=allow-oom" });
        let hash = redis::Script::new(&code).get_hash().to_owned();
        (name, Script { code, hash })
    });
    made.collect()
});

// === impl Names ===

impl Names {
    pub(super) fn new(prefix: &str, ttl: Option<Duration>) -> Self {
        // The prefix is part of the tag, so that two deployments do not share their sixteen slots.
        let tag = xxhash_rust::xxh3::xxh3_64(prefix.as_bytes()) as u32;
        let prefixes = (0..SHARDS).map(|shard| format!("{prefix}{{{tag:08x}.{shard:02}}}:")).collect();
        Self { prefixes, ttl: ttl.map_or(0, |ttl| ttl.as_millis()).to_string() }
    }

    /// The key that tells of a shard's life; its slot is the shard's.
    pub(super) fn head(&self, shard: Shard) -> String {
        self.at(shard, "head")
    }

    pub(super) fn channel(&self, shard: Shard) -> String {
        self.at(shard, "notices")
    }

    /// The slot of a shard in a cluster.
    pub(super) fn slot(&self, shard: Shard) -> u16 {
        let key = &self.prefixes[shard.number()];
        let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(tag, _)| tag);
        crc16(tag.as_bytes()) % 16_384
    }

    fn at(&self, shard: Shard, name: &str) -> String {
        format!("{}{name}", self.prefixes[shard.number()])
    }

    fn key(&self, key: &Key) -> String {
        self.at(key.shard(), &format!("k:{}", key.name()))
    }

    /// The call as a script's.
    pub(super) fn invoke(&self, call: &Call<'_>) -> Invocation {
        let shard = call.op.shard();
        let mut made =
            Made { names: self, shard, keys: vec![self.head(shard)], args: Vec::with_capacity(10) };
        match call.seen {
            Some(seen) => made.text(&format!("{:016x}", seen.life)).number(seen.changes),
            None => made.text("").text("0"),
        };
        made.text(&format!("{:016x}", call.new_life)).text(&self.ttl).text(&self.channel(shard));
        made.op(call.op);
        let script = &SCRIPTS[call.op.name()];
        debug_assert_eq!(
            script.code.contains(COUNTS),
            call.op.class() != Class::Read,
            "what changes something counts it"
        );
        Invocation { script, keys: made.keys, args: made.args }
    }
}

/// The checksum by which a cluster finds a key's slot (CRC-16/XMODEM).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

struct Made<'a> {
    names: &'a Names,
    shard: Shard,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Made<'_> {
    fn text(&mut self, text: &str) -> &mut Self {
        self.args.push(text.as_bytes().to_vec());
        self
    }

    fn bytes(&mut self, bytes: &Bytes) -> &mut Self {
        self.args.push(bytes.to_vec());
        self
    }

    fn number(&mut self, number: impl ToString) -> &mut Self {
        self.text(&number.to_string())
    }

    fn millis(&mut self, time: Duration) -> &mut Self {
        self.number(time.as_millis())
    }

    fn words(&mut self, names: &[Name]) -> &mut Self {
        for name in names {
            self.text(name.as_str());
        }
        self
    }

    fn key(&mut self, key: &Key) -> &mut Self {
        self.keys.push(self.names.key(key));
        self
    }

    fn at(&mut self, name: &str) -> &mut Self {
        self.keys.push(self.names.at(self.shard, name));
        self
    }

    fn job(&mut self, job: &Name, epoch: u64) -> &mut Self {
        self.at("jobs").at(&format!("j:{job}")).text(job.as_str()).number(epoch)
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Add { key, by } => self.key(key).number(by),
            Op::Claim { key, token, ttl } | Op::Renew { key, token, ttl } => {
                self.key(key).text(token.as_str()).millis((*ttl).max(Duration::from_millis(1)))
            }
            Op::Release { key, token } | Op::Bump { key, token } => self.key(key).text(token.as_str()),
            Op::Join { key, members } | Op::Part { key, members } => {
                self.key(key);
                for member in members {
                    self.bytes(member);
                }
                self
            }
            Op::Push { key, value } => self.key(key).bytes(value),
            Op::Count { key }
            | Op::Holder { key }
            | Op::Members { key }
            | Op::List { key }
            | Op::Get { key }
            | Op::Delete { key }
            | Op::Version { key } => self.key(key),
            Op::Put { key, value, expect, fence, ttl } => {
                self.key(key).bytes(value);
                match expect {
                    Expect::Any => self.text("any"),
                    Expect::Absent => self.text("absent"),
                    Expect::Version(version) => self.number(version),
                };
                self.number(fence);
                match ttl {
                    Some(ttl) => self.millis(*ttl),
                    None => self.text(""),
                }
            }
            Op::Expire { key, ttl } => self.key(key).millis(*ttl),
            Op::TablePut { table, field, value, stamp } => {
                self.at(&format!("t:{table}"));
                self.text(table.as_str()).text(field.as_str()).bytes(value).number(stamp)
            }
            Op::Table { table } => self.at(&format!("t:{table}")),
            Op::Beat { instance, life, ttl, info, cells } => {
                self.at("members").text(instance.as_str()).number(life).millis(*ttl).bytes(info);
                for (cell, value) in cells {
                    self.text(cell.as_str()).number(value);
                }
                self
            }
            Op::Leave { instance, fence } => self.at("members").text(instance.as_str()).number(fence),
            Op::Hold { instance, fence, turn, wants } => {
                self.at("members").at("pools").text(instance.as_str()).number(fence).number(turn);
                for Want { pool, used, need, wish, had, part, limit } in wants {
                    self.text(pool.as_str())
                        .number(used)
                        .number(need)
                        .number(wish)
                        .number(had)
                        .number(part)
                        .number(limit);
                }
                self
            }
            Op::Draw { bucket, per_second, burst, least, most } => {
                self.at(&format!("u:{bucket}"));
                self.number(per_second).number(burst).number(least).number(most)
            }
            Op::Open { job, epoch, plan, parts, sealed } => {
                self.job(job, *epoch)
                    .text(plan.owner.as_str())
                    .text(plan.handler.as_str())
                    .bytes(&plan.payload);
                self.millis(plan.watchdog).millis(plan.lease).number(u8::from(*sealed)).words(parts)
            }
            Op::AddParts { job, epoch, parts } => self.job(job, *epoch).words(parts),
            Op::Seal { job, epoch } | Op::Cancel { job, epoch } => self.job(job, *epoch),
            Op::Settle { job, epoch, part } => self.job(job, *epoch).text(part.as_str()),
            Op::Sweep { instance, can, mine, lease, most, .. } => {
                let jobs = self.names.at(self.shard, "j:");
                self.at("jobs").text(&jobs).text(instance.as_str()).millis(*lease).number(most);
                self.number(can.len()).words(can).words(&mine[..mine.len().min(*most)])
            }
            Op::Keep { job, epoch, fence, lease } => self.job(job, *epoch).number(fence).millis(*lease),
            Op::Ack { job, epoch, fence, effects } => {
                self.job(job, *epoch).number(fence).millis(REMEMBERED);
                for effect in effects {
                    self.key(effect.key());
                    match effect {
                        Effect::Add { by, .. } => self.text("counter").number(by),
                        Effect::Join { member, .. } => self.text("set").bytes(member),
                        Effect::Push { value, .. } => self.text("list").bytes(value),
                        Effect::Put { value, .. } => self.text("value").bytes(value),
                    };
                }
                self
            }
            Op::LookAtJob { job } => self.at(&format!("j:{job}")).number(Job::SHOWN),
            Op::Await { request, set, members } => {
                self.at(&format!("w:{request}")).text(request.as_str()).text(set.as_str()).words(members)
            }
            Op::Arrive { request, set, member, status } => {
                self.at(&format!("w:{request}"))
                    .text(request.as_str())
                    .text(set.as_str())
                    .text(member.as_str());
                match status {
                    Some(status) => self.text("1").bytes(status),
                    None => self.text("0").text(""),
                }
            }
            Op::Gate { request } | Op::Statuses { request } | Op::Clean { request } => {
                self.at(&format!("w:{request}"))
            }
            Op::StatsAdd { space, request, from, seq, stats } => {
                let (key, prefix) = (format!("{space} {request}"), self.names.at(self.shard, "s:"));
                self.at(&format!("s:{key}"))
                    .at("stats")
                    .text(&key)
                    .text(&prefix)
                    .text(from.as_str())
                    .number(seq);
                self.number(stats.processed).number(stats.errors).number(stats.requeues).number(MAX_STATS)
            }
            Op::StatsTake { space, request, token } => {
                let key = format!("{space} {request}");
                self.at(&format!("s:{key}"))
                    .at("stats")
                    .at(&format!("r:{key} {token}"))
                    .text(&key)
                    .millis(TAKEN_FOR)
            }
            Op::Tell { notice, .. } => self.bytes(notice),
            Op::Probe { .. } => self,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // `CLUSTER KEYSLOT` of Redis 7 says so.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b"foo") % 16_384, 12_182);
        let names = Names::new("warmline:coord:", None);
        let slots: std::collections::BTreeSet<u16> = Shard::all().map(|shard| names.slot(shard)).collect();
        assert_eq!(slots.len(), usize::from(SHARDS), "each shard has a slot of its own");
    }
}
