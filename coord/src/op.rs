//! Everything that a backend can be asked, and everything that it can answer. A backend is a function from one to the
//! other, atomic in its shard; whoever writes one matches on [`Op`] and passes the conformance suite.

use std::time::Duration;

use bytes::Bytes;

use crate::name::{Key, Name, Shard};

/// What a lost answer means for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Changes nothing.
    Read,
    /// Done twice it leaves what it leaves when done once.
    Idempotent,
    /// Done twice it would do something twice: never repeated here, the caller finds out.
    Resolve,
}

/// One atomic operation. Its fields are named after what they are.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each operation has its sentence; its fields are named after what they are")]
pub enum Op {
    // --- Primitives ---
    /// Adds to a counter; it starts at zero. -> [`Reply::Count`]
    Add { key: Key, by: i64 },
    /// What a counter stands at. -> [`Reply::Count`]
    Count { key: Key },
    /// Takes or renews a claim: the lease of one token on a key. -> [`Reply::Claimed`]
    Claim { key: Key, token: Name, ttl: Duration },
    /// Renews a claim that is still held; never takes one. -> [`Reply::Fence`], or `NotFound`, or `Fenced`
    Renew { key: Key, token: Name, ttl: Duration },
    /// Lets a claim go, if this token holds it. -> [`Reply::Found`]
    Release { key: Key, token: Name },
    /// Who holds a claim, its fence, and for how long. -> [`Reply::Holder`]
    Holder { key: Key },
    /// Puts members into a set. -> [`Reply::Size`], the size of the set
    Join { key: Key, members: Vec<Bytes> },
    /// Takes members out of a set. -> [`Reply::Size`]
    Part { key: Key, members: Vec<Bytes> },
    /// The members of a set, sorted. -> [`Reply::Values`]
    Members { key: Key },
    /// Appends to a list. -> [`Reply::Size`], the length of the list
    Push { key: Key, value: Bytes },
    /// A list, in order. -> [`Reply::Values`]
    List { key: Key },
    /// A value. -> [`Reply::Value`]
    Get { key: Key },
    /// Writes a value, if what is expected holds and no later fence has written. -> [`Reply::Put`], or `Fenced`
    Put { key: Key, value: Bytes, expect: Expect, fence: u64, ttl: Option<Duration> },
    /// Sets how long a key lives from now. -> [`Reply::Found`]
    Expire { key: Key, ttl: Duration },
    /// Removes a key of whatever type. -> [`Reply::Found`]
    Delete { key: Key },

    // --- Tables: small maps that replicas hold in common; the newest stamp wins ---
    /// Writes a field. Stamp 0: now. Another stamp: only if what is there is older. -> [`Reply::Stamp`], of what is there
    TablePut { table: Name, field: Name, value: Bytes, stamp: u64 },
    /// The whole table. -> [`Reply::Table`]
    Table { table: Name },

    // --- Replicas ---
    /// An instance lives. `life` is greater for a process that began later; the first beat of a life ends all earlier
    /// ones. -> [`Reply::Beaten`], or `Fenced` if a later life beats
    Beat { instance: Name, life: u64, ttl: Duration, info: Bytes, cells: Vec<(Name, i64)> },
    /// An instance ends in order. -> [`Reply::Found`]
    Leave { instance: Name, fence: u64 },
    /// Shares of common limits that an instance would hold. What was said earlier and comes later (a smaller `turn`) is
    /// refused as `Fenced`. -> [`Reply::Held`], or `NotFound` if it does not beat
    Hold { instance: Name, fence: u64, turn: u64, wants: Vec<Want> },
    /// Takes from a bucket that fills at a rate. -> [`Reply::Drawn`]
    Draw { bucket: Name, per_second: f64, burst: f64, least: f64, most: f64 },

    // --- Barriers: completion of many parts ---
    /// Registers a job. -> [`Reply::Opened`]
    Open { job: Name, epoch: u64, plan: Plan, parts: Vec<Name>, sealed: bool },
    /// Adds parts to a job that is not sealed. -> [`Reply::Left`]
    AddParts { job: Name, epoch: u64, parts: Vec<Name> },
    /// No more parts will come. -> [`Reply::Left`]
    Seal { job: Name, epoch: u64 },
    /// A part is done. -> [`Reply::Settled`]
    Settle { job: Name, epoch: u64, part: Name },
    /// Looks after the jobs of a shard that are due, and after `mine`; takes completions that `instance` may run.
    /// -> [`Reply::Swept`]
    Sweep { shard: Shard, instance: Name, can: Vec<Name>, mine: Vec<Name>, lease: Duration, most: usize },
    /// Goes on holding a completion. -> [`Reply::Fence`], or `Fenced`, or `NotFound`
    Keep { job: Name, epoch: u64, fence: u64, lease: Duration },
    /// The handler is done: its effects and the end of the job, in one step. -> [`Reply::Found`] (`false`: it was
    /// acknowledged before), or `Fenced`, or `NotFound`
    Ack { job: Name, epoch: u64, fence: u64, effects: Vec<Effect> },
    /// Forgets a job. -> [`Reply::Found`]
    Cancel { job: Name, epoch: u64 },
    /// Everything about a job. -> [`Reply::Job`]
    LookAtJob { job: Name },

    // --- Waits for a request ---
    /// Work that a request waits for. -> [`Reply::Left`]
    Await { request: Name, set: Name, members: Vec<Name> },
    /// A member of a set is done; never makes what is not there. -> [`Reply::Left`], or `NotFound`
    Arrive { request: Name, set: Name, member: Name, status: Option<Bytes> },
    /// Whether anything is pending. -> [`Reply::Pending`], or `NotFound`
    Gate { request: Name },
    /// What each set said last. -> [`Reply::Statuses`], or `NotFound`
    Statuses { request: Name },
    /// Forgets a request. -> [`Reply::Found`]
    Clean { request: Name },

    // --- Latest and statistics ---
    /// The next version of a key; the same token gets the same again as long as it is the last. -> [`Reply::Count`]
    Bump { key: Key, token: Name },
    /// The newest version; 0 if there is none. -> [`Reply::Count`]
    Version { key: Key },
    /// Adds to a request's statistics; the same `seq` of the same `from` counts once. -> [`Reply::Stats`]
    StatsAdd { space: Name, request: Name, from: Name, seq: u64, stats: Stats },
    /// Takes a request's statistics away; the same token gets them again. -> [`Reply::Taken`]
    StatsTake { space: Name, request: Name, token: Name },

    // --- Notices ---
    /// Tells everybody who listens; may be lost. -> [`Reply::Found`]
    Tell { shard: Shard, notice: Bytes },
    /// Whether the shard is there and is what it was. -> [`Reply::Found`]
    Probe { shard: Shard },
}

/// What must hold for a value to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// Nothing is there.
    Absent,
    /// This version is there.
    Version(u64),
}

/// How a job ends: who is asked first, with what, and how long silence is taken for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The instance that registered it.
    pub owner: Name,
    /// The handler to run, known by this name on every instance that can run it.
    pub handler: Name,
    /// What the handler needs to know.
    pub payload: Bytes,
    /// Without a settled part for so long the job is stalled; zero: never.
    pub watchdog: Duration,
    /// How long the owner alone may run the handler before any other may.
    pub lease: Duration,
}

/// A change that is made in the same step as an acknowledgement. Its key lies in the shard of the job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub enum Effect {
    /// Adds to a counter.
    Add { key: Key, by: i64 },
    /// Puts a member into a set.
    Join { key: Key, member: Bytes },
    /// Appends to a list.
    Push { key: Key, value: Bytes },
    /// Writes a value.
    Put { key: Key, value: Bytes },
}

/// The share of a common limit that an instance has, needs and would like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The limit's name.
    pub pool: Name,
    /// In use now: cannot be given back.
    pub used: u64,
    /// In use or waited for now: what others are asked to give up for.
    pub need: u64,
    /// Would like to hold: what is needed, and a little ahead of it.
    pub wish: u64,
    /// Held before, as this instance remembers: while others may not have come back after a loss, it gets no more.
    pub had: u64,
    /// Its equal part, as this instance knows of others: while the state is young, others may not have said anything yet.
    pub part: u64,
    /// What all together may hold.
    pub limit: u64,
}

/// Work of a request so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Done.
    pub processed: u64,
    /// Failed.
    pub errors: u64,
    /// Tried again.
    pub requeues: u64,
}

/// The answer to an [`Op`].
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A number.
    Count(i64),
    /// A size.
    Size(u64),
    /// A fence.
    Fence(u64),
    /// A stamp.
    Stamp(u64),
    /// Whether there was something, or something happened.
    Found(bool),
    /// Who holds a claim.
    Claimed(Claimed),
    /// Who holds a claim, its fence, and for how long unless renewed.
    Holder(Option<(Name, u64, Duration)>),
    /// Members of a set or a list.
    Values(Vec<Bytes>),
    /// A value, if there is one.
    Value(Option<Value>),
    /// Whether a value was written.
    Put(Put),
    /// Field, value and stamp of each row, sorted by field.
    Table(Vec<(Name, Bytes, u64)>),
    /// Who lives.
    Beaten(Beaten),
    /// What is held of each pool, in the order of the wants.
    Held(Vec<Held>),
    /// What was taken from a bucket.
    Drawn(Drawn),
    /// How a job was registered.
    Opened(Opened),
    /// Parts or members that are left.
    Left(Left),
    /// What settling a part did.
    Settled(Settled),
    /// Completions to run.
    Swept(Swept),
    /// A job as it stands.
    Job(Option<Job>),
    /// How many members of each set are pending, sorted; empty if nothing is.
    Pending(Vec<(Name, u64)>),
    /// What each set said, sorted.
    Statuses(Vec<(Name, Bytes)>),
    /// Statistics.
    Stats(Stats),
    /// Statistics that were taken, if there were any.
    Taken(Option<Stats>),
}

/// Who holds a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// You do.
    Granted {
        /// Grows with each new holder of anything in the shard.
        fence: u64,
    },
    /// Somebody else does.
    Held {
        /// Who.
        by: Name,
        /// For how long, unless renewed.
        left: Duration,
    },
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its bytes.
    pub bytes: Bytes,
    /// Grows with each write.
    pub version: u64,
    /// The fence of its last writer.
    pub fence: u64,
}

/// Whether a value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was.
    Done {
        /// Its version now.
        version: u64,
    },
    /// Something else is there than was expected.
    Conflict {
        /// Its version; none: nothing is there.
        current: Option<u64>,
    },
}

/// Who lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beaten {
    /// The fence of this life of the instance.
    pub fence: u64,
    /// All who live, sorted by name.
    pub members: Vec<Member>,
    /// The cells of everybody else, summed by name, sorted.
    pub others: Vec<(Name, i64)>,
}

/// An instance that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub instance: Name,
    /// The fence of its life.
    pub fence: u64,
    /// How long it has lived.
    pub age: Duration,
    /// How long it lives on without another beat.
    pub left: Duration,
    /// What it says of itself.
    pub info: Bytes,
}

/// What is held of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// By this instance, now.
    pub mine: u64,
    /// By all.
    pub total: u64,
    /// What others need and did not get.
    pub wanted: u64,
}

/// What was taken from a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// At least what was asked at least, or nothing.
    pub granted: f64,
    /// Until at least that much will be there.
    pub wait: Duration,
}

/// How a job was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is new.
    New(Left),
    /// The same epoch was there already; missing parts were added if it was not sealed.
    Joined(Left),
    /// The same epoch was there and is over.
    Over,
    /// A later epoch is there.
    StaleEpoch {
        /// Which.
        current: u64,
    },
}

/// What is left of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// So many, with more to come perhaps.
    Open(u64),
    /// So many and no more; with zero it is complete.
    Sealed(u64),
    /// Nobody has heard of it.
    Unknown,
    /// A later epoch is there.
    StaleEpoch(u64),
    /// It is over: complete, or given up.
    Over,
}

/// What settling a part did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The part is done.
    Accepted {
        /// Parts that are not.
        left: u64,
    },
    /// The part is done, and with it the job: its completion is on record.
    Last,
    /// The part was done before.
    Duplicate,
    /// A later epoch of the job is there.
    StaleEpoch {
        /// Which.
        current: u64,
    },
    /// Nobody has heard of the job or the part.
    Unknown,
    /// The job was given up before this part was done.
    TooLate,
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Completions that the caller must run now.
    pub tasks: Vec<Task>,
    /// Jobs whose state was gone: their time was over, or it was lost.
    pub vanished: Vec<Name>,
    /// Jobs of the caller's own that somebody has acknowledged, and the epoch in which: it need not look at them again.
    pub over: Vec<(Name, u64)>,
}

/// A completion that an instance holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The job.
    pub job: Name,
    /// Its epoch.
    pub epoch: u64,
    /// The right to run it.
    pub fence: u64,
    /// Which handler.
    pub handler: Name,
    /// For the handler.
    pub payload: Bytes,
    /// Why it ended.
    pub end: End,
    /// How often somebody has begun to run it, this time included.
    pub attempt: u64,
}

/// Why a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every part is settled.
    Complete,
    /// No part was settled for as long as the watchdog allows.
    Stalled {
        /// Parts that were not.
        left: u64,
    },
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Parts are out.
    Open,
    /// Its end is on record and not acknowledged.
    Ended(End),
    /// Its handler was acknowledged.
    Acknowledged,
}

/// A job as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its epoch.
    pub epoch: u64,
    /// Where it stands.
    pub stage: Stage,
    /// Whether more parts may come.
    pub sealed: bool,
    /// Parts that are not settled.
    pub left: u64,
    /// All parts.
    pub parts: u64,
    /// Some of those that are not settled, sorted; at most [`Job::SHOWN`].
    pub pending: Vec<Name>,
    /// Who registered it.
    pub owner: Name,
    /// Its handler.
    pub handler: Name,
    /// Who runs the handler, and the fence.
    pub holder: Option<(Name, u64)>,
    /// Handlers that were begun.
    pub attempts: u64,
    /// Since it was registered.
    pub age: Duration,
    /// Since a part was settled, or since it was registered.
    pub quiet: Duration,
    /// Until something happens by itself: the watchdog, or another instance's right to run the handler.
    pub due: Option<Duration>,
}

impl Job {
    /// Pending parts that are shown.
    pub const SHOWN: usize = 20;
}

// === impl Op ===

impl Op {
    /// What a lost answer means.
    pub fn class(&self) -> Class {
        match self {
            Self::Count { .. }
            | Self::Holder { .. }
            | Self::Members { .. }
            | Self::List { .. }
            | Self::Get { .. }
            | Self::Table { .. }
            | Self::LookAtJob { .. }
            | Self::Gate { .. }
            | Self::Statuses { .. }
            | Self::Version { .. }
            | Self::Probe { .. } => Class::Read,
            Self::Add { .. } | Self::Push { .. } | Self::Draw { .. } | Self::Sweep { .. } => Class::Resolve,
            Self::Put { expect, .. } if *expect != Expect::Any => Class::Resolve,
            _ => Class::Idempotent,
        }
    }

    /// The word for errors, metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Count { .. } => "count",
            Self::Claim { .. } => "claim",
            Self::Renew { .. } => "renew",
            Self::Release { .. } => "release",
            Self::Holder { .. } => "holder",
            Self::Join { .. } => "join",
            Self::Part { .. } => "part",
            Self::Members { .. } => "members",
            Self::Push { .. } => "push",
            Self::List { .. } => "list",
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::Expire { .. } => "expire",
            Self::Delete { .. } => "delete",
            Self::TablePut { .. } => "table_put",
            Self::Table { .. } => "table",
            Self::Beat { .. } => "beat",
            Self::Leave { .. } => "leave",
            Self::Hold { .. } => "hold",
            Self::Draw { .. } => "draw",
            Self::Open { .. } => "open",
            Self::AddParts { .. } => "add_parts",
            Self::Seal { .. } => "seal",
            Self::Settle { .. } => "settle",
            Self::Sweep { .. } => "sweep",
            Self::Keep { .. } => "keep",
            Self::Ack { .. } => "ack",
            Self::Cancel { .. } => "cancel",
            Self::LookAtJob { .. } => "look_at_job",
            Self::Await { .. } => "await",
            Self::Arrive { .. } => "arrive",
            Self::Gate { .. } => "gate",
            Self::Statuses { .. } => "statuses",
            Self::Clean { .. } => "clean",
            Self::Bump { .. } => "bump",
            Self::Version { .. } => "version",
            Self::StatsAdd { .. } => "stats_add",
            Self::StatsTake { .. } => "stats_take",
            Self::Tell { .. } => "tell",
            Self::Probe { .. } => "probe",
        }
    }

    /// Where it happens.
    pub fn shard(&self) -> Shard {
        match self {
            Self::Add { key, .. }
            | Self::Count { key }
            | Self::Claim { key, .. }
            | Self::Renew { key, .. }
            | Self::Release { key, .. }
            | Self::Holder { key }
            | Self::Join { key, .. }
            | Self::Part { key, .. }
            | Self::Members { key }
            | Self::Push { key, .. }
            | Self::List { key }
            | Self::Get { key }
            | Self::Put { key, .. }
            | Self::Expire { key, .. }
            | Self::Delete { key }
            | Self::Bump { key, .. }
            | Self::Version { key } => key.shard(),
            Self::TablePut { table: name, .. }
            | Self::Table { table: name }
            | Self::Draw { bucket: name, .. }
            | Self::Open { job: name, .. }
            | Self::AddParts { job: name, .. }
            | Self::Seal { job: name, .. }
            | Self::Settle { job: name, .. }
            | Self::Keep { job: name, .. }
            | Self::Ack { job: name, .. }
            | Self::Cancel { job: name, .. }
            | Self::LookAtJob { job: name }
            | Self::Await { request: name, .. }
            | Self::Arrive { request: name, .. }
            | Self::Gate { request: name }
            | Self::Statuses { request: name }
            | Self::Clean { request: name }
            | Self::StatsAdd { request: name, .. }
            | Self::StatsTake { request: name, .. } => name.shard(),
            Self::Beat { .. } | Self::Leave { .. } | Self::Hold { .. } => Shard::REPLICAS,
            Self::Sweep { shard, .. } | Self::Tell { shard, .. } | Self::Probe { shard } => *shard,
        }
    }
}

impl Effect {
    /// What it changes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Add { key, .. }
            | Self::Join { key, .. }
            | Self::Push { key, .. }
            | Self::Put { key, .. } => key,
        }
    }
}

impl Stats {
    /// Both together.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            processed: self.processed + more.processed,
            errors: self.errors + more.errors,
            requeues: self.requeues + more.requeues,
        }
    }
}
