//! What the operator's API says of lines, queues and entries, in types that the command line shares.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /queues`: what waits, and for what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Queues {
    /// Those that come first.
    pub queues: Vec<QueueStatus>,
    /// How many more there are.
    pub left_off: usize,
    /// The logs that are open somewhere, and those here that nobody has open.
    pub partitions: Vec<PartitionStatus>,
    /// What could not be asked, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// One line or durable queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Whether it is in a log, or in memory with the connections of those who stand in it.
    pub durable: bool,
    /// Whose.
    pub tenant: String,
    /// Which of theirs.
    pub key: String,
    /// What it runs on: a model.
    pub target: String,
    /// Entries in whatever stage, or requests that stand in line; none: they are still being counted.
    pub entries: Option<u64>,
    /// Of these, how many run.
    pub running: usize,
    /// Seconds since the first that is ready has been ready.
    pub oldest_s: Option<f64>,
    /// Held back by an operator.
    pub paused: bool,
    /// What the first of each class waits for.
    pub waits_for: Vec<Waits>,
    /// The log that it is in.
    pub partition: Option<String>,
    /// The replica that has it.
    pub replica: String,
}

/// What something waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Waits {
    /// How urgent it is: `urgent`, `normal`, `job`, `batch`.
    pub class: String,
    /// In words.
    pub what: String,
}

/// One log of durable queues.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its name, and that of its directory.
    pub partition: String,
    /// The replica that has it open; none: nobody.
    pub replica: Option<String>,
    /// Queues in it.
    pub queues: usize,
    /// Entries in whatever stage; none: they are still being counted.
    pub entries: Option<u64>,
    /// What it takes on disk.
    pub disk_bytes: u64,
    /// Why it writes no more until the next start.
    pub poisoned: Option<String>,
    /// Why it cannot be opened here.
    pub trouble: Option<String>,
}

/// `GET /queues/{tenant}/{key}`: one queue, and what comes first in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueShown {
    /// The queue, as it stands in each log that has it.
    pub queues: Vec<QueueStatus>,
    /// Its first entries.
    pub entries: Vec<EntryLine>,
    /// Whether there are more.
    pub more: bool,
}

/// An entry in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryLine {
    /// Its id.
    pub id: String,
    /// `waiting`, `scheduled`, `running`, `suspended`, `paused` or `finished`.
    pub stage: String,
    /// How urgent it is.
    pub class: String,
    /// Seconds since it could run; less than nothing: so long until it may.
    pub age_s: f64,
}

/// `GET /entries/{id}`: everything about an entry, and why it does not run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryShown {
    /// Its id.
    pub id: String,
    /// Whose.
    pub tenant: String,
    /// In which queue.
    pub key: String,
    /// What it runs on.
    pub target: String,
    /// `waiting`, `scheduled`, `running`, `suspended`, `paused` or `finished`.
    pub stage: String,
    /// How urgent it is.
    pub class: String,
    /// How it ended: `done`, `failed`, `cancelled` or `expired`.
    pub outcome: Option<String>,
    /// Why it does not run, in words.
    pub waits_for: Option<String>,
    /// Seconds since it came.
    pub age_s: f64,
    /// Seconds since 1970 from when it may run.
    pub not_before: f64,
    /// Seconds since 1970 after which it is too late to start.
    pub start_before: Option<f64>,
    /// How often it was started.
    pub attempts: u16,
    /// Tokens that it is expected to take.
    pub tokens: u32,
    /// What went wrong last, if it is over.
    pub error: Option<Value>,
    /// The replica that has it.
    pub replica: String,
    /// What it is, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// What came of it, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// What was done to a queue or an entry.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// What.
    pub done: String,
    /// Entries that it was done to.
    pub entries: u64,
    /// Whether there may be more: then ask again.
    pub more: bool,
    /// Entries that run; they come to their end.
    pub running: usize,
}

/// What waits, in `GET /status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Waiting {
    /// Requests that stand in line with their connection.
    pub standing: usize,
    /// What runs that had to wait for its turn.
    pub running: usize,
    /// Durable queues that are not empty.
    pub queues: usize,
    /// Durable entries in whatever stage; none: they are still being counted.
    pub entries: Option<u64>,
    /// The logs that are open here, and those that should be.
    pub partitions: Vec<PartitionStatus>,
}
