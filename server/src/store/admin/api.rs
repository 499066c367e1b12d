//! What the operator's door of a store says, in types that the command line reads as well.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Counters by their names; see docs/store.md.
pub type Counters = BTreeMap<String, u64>;

/// `GET /status`: everything at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of the binary.
    pub version: String,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Whether every node is known.
    pub ready: bool,
    /// What is waited for, if not.
    pub waiting_for: Option<String>,
    /// What somebody should look at, in words.
    pub trouble: Vec<String>,
    /// Who leads, if masters and nodes are several processes.
    pub link: Option<Link>,
    /// The node of this process, if it has one and that found its master.
    pub node: Option<NodeHere>,
    /// What the master says, if this process leads.
    #[serde(flatten)]
    pub led: Option<Led>,
    /// Clients of this node.
    pub clients: Option<Clients>,
    /// What is told of blocks as KV events, if that is on.
    pub events: Option<Events>,
}

/// Masters and nodes that are several processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Link {
    /// What this process does: `master`, `node`.
    pub roles: Vec<String>,
    /// Whether it leads.
    pub leads: bool,
    /// In which term it leads, or leads whom it follows; none if nobody is known to lead.
    pub term: Option<u32>,
    /// Where nodes reach the master that leads, as far as that is known here.
    pub leader: Option<String>,
    /// Answers of masters that came too late to be believed.
    pub late_answers: u64,
}

/// What the master says that leads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Led {
    /// What is there now: objects, candidates, promotions, puts, offloads, awaited.
    pub now: Counters,
    /// Reads by where they were found.
    pub reads: Reads,
    /// What it counted since it leads.
    pub counters: Counted,
    /// Every node that was ever named.
    pub nodes: Vec<NodeSeen>,
}

/// What is told of blocks as KV events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Events {
    /// Where subscribers connect.
    pub endpoint: String,
    /// Where replays and snapshots are asked for.
    pub replay: String,
    /// Different blocks that the store holds.
    pub blocks: u64,
    /// Objects that carry them.
    pub objects: u64,
    /// Blocks that are told of.
    pub told: u64,
    /// Blocks that are not, since one before them is not there.
    pub held_back: u64,
    /// Blocks whose change has not been looked at yet.
    pub pending: u64,
    /// Copies whose block is none: its hash is not that of its parent and its tokens.
    pub misfits: u64,
    /// Bytes on the heap.
    pub heap_bytes: u64,
}

/// What the master counted since it began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// Puts, copies, evictions, offloads.
    pub moves: Counters,
    /// Promotions.
    pub promotions: Counters,
    /// Tries to promote that met a gate.
    pub rejected: Counters,
    /// Candidates for promotion.
    pub candidates: Counters,
    /// Gates that candidates met again.
    pub again: Counters,
    /// What was warmed for those who wait.
    pub warmed: Counters,
}

/// Reads by where they were found.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Reads {
    /// In memory.
    pub memory: u64,
    /// On disk only.
    pub disk: u64,
    /// Nowhere.
    pub missed: u64,
    /// Part of all reads that found memory; none without reads.
    pub memory_ratio: Option<f64>,
    /// Part of all reads that found memory or disk; none without reads.
    pub ratio: Option<f64>,
}

/// The node of this process, as it sees itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeHere {
    /// Its stable name.
    pub id: String,
    /// Copies in memory.
    pub copies: u64,
    /// Values that are arriving.
    pub arriving: u64,
    /// Values of other nodes of which it is being found out what became of them.
    pub unclaimed: u64,
    /// Orders that are being carried out.
    pub working: u64,
    /// News that the master has not heard.
    pub unheard: u64,
    /// How its memory is used.
    pub arena: Arena,
    /// How its disk is used, if it has one.
    pub disk: Option<Disk>,
    /// What it has done.
    pub done: Counters,
}

/// How the memory of a node is used.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Arena {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that are set aside for values.
    pub set_aside: u64,
    /// Bytes of the values in it.
    pub asked: u64,
    /// The longest value that would fit now, in bytes.
    pub largest: u64,
    /// Into how many parts what is free is broken.
    pub parts: u64,
    /// Part of what is free that the longest value could not use: 0 is whole.
    pub fragmentation: f64,
}

/// How the disk of a node is used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes that may be used.
    pub budget: u64,
    /// Bytes of all files.
    pub on_disk: u64,
    /// Bytes of those that are needed.
    pub needed: u64,
    /// Bytes that compaction can make free.
    pub dead: u64,
    /// Files.
    pub segments: u64,
    /// Objects.
    pub objects: u64,
    /// Bytes that wait to be written.
    pub queued: u64,
    /// Why nothing is written any more, if so: it needs a restart, and somebody to look at the disk.
    pub poisoned: Option<String>,
    /// What it has done.
    pub done: Counters,
}

/// `GET /nodes`: a node as the master sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeSeen {
    /// Its stable name.
    pub id: String,
    /// Its number.
    pub number: u16,
    /// `recovering`, `exact`, `away` or `gone`.
    pub standing: String,
    /// Which life of it.
    pub life: u64,
    /// Its memory.
    pub memory: Space,
    /// Its disk.
    pub disk: Space,
    /// Puts that are arriving.
    pub puts: u32,
    /// Puts that wait for space.
    pub waiting_puts: u64,
    /// Copies that it was told to make and has not begun with.
    pub orders: u64,
    /// Copies that were dropped, and whose bytes are not free yet.
    pub leaving: u64,
    /// Nothing new comes to it, and what only its memory has goes to its disk.
    pub drain: Option<Drain>,
}

/// Bytes of a tier of a node: `capacity = here + reserved + leaving + free`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Space {
    /// All.
    pub capacity: u64,
    /// Of objects that can be read.
    pub here: u64,
    /// Set aside for what is being written.
    pub reserved: u64,
    /// Dropped, and perhaps still read by somebody.
    pub leaving: u64,
    /// The rest.
    pub free: u64,
}

/// How far a node is emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Objects that only its memory had when it was last looked through; none before that.
    pub only_in_memory: Option<u64>,
    /// Of those, how many could not be ordered to be written to disk: no space there, or a quota.
    pub refused: u64,
    /// It can be taken away: nothing would be lost that its disk does not have.
    pub done: bool,
}

/// Clients of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clients {
    /// Connections there are.
    pub connections: u64,
    /// Bytes of values that are arriving.
    pub arriving_bytes: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Bytes that went.
    pub sent_bytes: u64,
    /// Connections that were let in, turned away, or closed, by why.
    pub seen: Counters,
    /// Commands by name.
    pub commands: Counters,
    /// Refusals by code word.
    pub refusals: Counters,
}

/// `GET /objects/{tenant}/{key}`: where it is, and what is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Object {
    /// Whose.
    pub tenant: String,
    /// Percent-encoded.
    pub key: String,
    /// What was put by one put; a later one is greater.
    pub version: u64,
    /// How many.
    pub bytes: u64,
    /// Where.
    pub copies: Vec<Copy>,
    /// For so long it is not evicted because it was read.
    pub lease_ms: u64,
    /// How often it was read from memory lately.
    pub heat: u8,
    /// How often it was read from disk lately.
    pub disk_heat: u8,
    /// `none`, `soft` or `hard`.
    pub pin: Pin,
    /// With what it leaves memory.
    pub group: Option<u32>,
    /// When it ends by itself.
    pub ends_in_ms: Option<u64>,
    /// Which block it is.
    pub block: Option<Block>,
    /// It is on its way to memory.
    pub promoting: bool,
    /// It is on its way to disk.
    pub offloading: bool,
    /// It was refused a promotion and is tried again.
    pub candidate: Option<Waits>,
}

/// A copy of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// On which node.
    pub node: String,
    /// `memory` or `disk`.
    pub tier: String,
    /// Whether it can be read now.
    pub readable: bool,
}

/// Which block an object is, as `SET … BLOCK` said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Block {
    /// The hash of its prefix, in hexadecimal digits.
    pub hash: String,
    /// That of the block before it.
    pub parent: Option<String>,
    /// The hash of its own tokens.
    pub tokens: String,
}

/// Whether an object may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    /// When its turn comes.
    None,
    /// When nothing else can.
    Soft,
    /// Never.
    Hard,
}

/// The body of `POST /objects/{tenant}/{key}/pin`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinning {
    /// What it should be.
    pub pin: Pin,
}

/// What is known of a candidate for promotion.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Waits {
    /// The most reads lately that were seen.
    pub score: u8,
    /// How long ago it became one.
    pub first_seen_ms_ago: u64,
    /// How long ago it was read last.
    pub last_seen_ms_ago: u64,
    /// When it is tried next, unless what it waits for happens before.
    pub due_in_ms: u64,
    /// How often it was tried since it was read last.
    pub retries: u32,
    /// Why it was refused last.
    pub last_reason: String,
    /// What its node said last.
    pub last_error: Option<String>,
    /// How many wait for it.
    pub wanted: u64,
}

/// `GET /candidates`: one of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// Whose.
    pub tenant: String,
    /// Percent-encoded.
    pub key: String,
    /// How many.
    pub bytes: u64,
    /// What is known of it.
    #[serde(flatten)]
    pub waits: Waits,
}

/// `GET /tenants`: one of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its objects.
    pub objects: u64,
    /// In memory.
    pub memory: Share,
    /// On disk.
    pub disk: Share,
    /// Its part beside others.
    pub weight: u32,
}

/// What a tenant has of a tier.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Share {
    /// Bytes, with those that are reserved for it.
    pub used: u64,
    /// What it may have; none: no bound.
    pub quota: Option<u64>,
}
