//! What is written down about a batch, and where on the shelf: any replica can answer from it.
//!
//! Each note is written once and never changes, except [`Progress`], which only its owner writes. So a batch is what its
//! notes say, whoever reads them and whoever has died meanwhile:
//! - N1: the marker is written first and holds the whole request; it goes last. As long as it is there, somebody goes on.
//! - N2: a part is written before anything that it was made of is forgotten.
//! - N3: `ended` is written once, after the files that it names.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Id;
use crate::files::{self, space};
use crate::shelf::{self, Name, Shelf};

/// The largest note: a batch's metadata of 16 pairs and a thousand names of models are far below.
const MAX: u64 = 1 << 20;

/// A batch as its client asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Its id, which says when.
    pub id: Id,
    /// Whose it is; without tenants nobody's.
    pub tenant: Option<String>,
    /// The log in which its lines wait: whoever owns that goes on with the batch.
    pub partition: u32,
    /// Its lines.
    pub input: files::Id,
    /// The path that each line asks.
    pub endpoint: String,
    /// In how many seconds from its making it must be done.
    pub window_s: u64,
    /// The same, as the client wrote it.
    pub window: String,
    /// Whatever the client wants to read later.
    pub metadata: Option<BTreeMap<String, String>>,
    /// How long the client wants its results, in seconds.
    pub keep_s: Option<u64>,
}

/// Its lines were counted, and those who serve them are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Lines that are not empty.
    pub total: u64,
    /// Models that its lines may ask. A line that asks another is wrong, now and whenever it is read again.
    pub models: Vec<String>,
}

/// Somebody does not want it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cancel {
    /// When, in seconds since 1970.
    pub at: u64,
}

/// How far its owner has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Lines with a good answer.
    pub completed: u64,
    /// Lines without one.
    pub failed: u64,
    /// Chunks from this one on were never put into a queue.
    pub fed: u32,
}

/// Every line is over, and the files are being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Final {
    /// When, in milliseconds since 1970: the time of the files.
    pub at_ms: u64,
    /// When somebody cancelled it, if anybody had by then.
    pub cancelled_at: Option<u64>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What it is now.
    pub status: Status,
    /// When, in seconds since 1970.
    pub at: u64,
    /// When its lines began to run.
    pub begun_at: Option<u64>,
    /// When somebody cancelled it.
    pub cancelling_at: Option<u64>,
    /// When every line was over.
    pub finalizing_at: Option<u64>,
    /// Its lines.
    pub counts: Counts,
    /// Tokens of all answers.
    pub usage: Tokens,
    /// What is wrong with all of it.
    pub problems: Vec<Problem>,
    /// The good answers.
    pub output: Option<files::Id>,
    /// Everything else.
    pub errors: Option<files::Id>,
}

/// Where a batch stands, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its lines are read for the first time.
    Validating,
    /// Not one line could be used, or the file was gone.
    Failed,
    /// Its lines run.
    InProgress,
    /// The files are being made.
    Finalizing,
    /// Every line had its chance.
    Completed,
    /// Some lines could not start in time.
    Expired,
    /// What runs is being stopped.
    Cancelling,
    /// Somebody did not want it any more.
    Cancelled,
}

/// Lines of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All.
    pub total: u64,
    /// With a good answer.
    pub completed: u64,
    /// Over, without one.
    pub failed: u64,
}

/// Tokens of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Of prompts.
    pub input: u64,
    /// Of these, found in a cache.
    pub cached: u64,
    /// Of answers.
    pub output: u64,
}

/// What is wrong with a batch or one of its lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// In which line.
    pub line: Option<u64>,
}

/// A kind of note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Made,
    Begun,
    Cancel,
    Progress,
    Final,
    Ended,
}

// === impls ===

impl Made {
    /// When its time is over.
    pub fn expires(&self) -> Duration {
        self.id.time() + Duration::from_secs(self.window_s)
    }
}

impl Status {
    /// As OpenAI writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Made, Self::Begun, Self::Cancel, Self::Progress, Self::Final, Self::Ended];

    const fn folder(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Begun => "begun",
            Self::Cancel => "cancel",
            Self::Progress => "progress",
            Self::Final => "final",
            Self::Ended => "ended",
        }
    }

    /// Where the note of this kind is that belongs to the same batch as another one.
    pub(super) fn beside(self, note: &Name) -> Name {
        named(format!("batches/{}/{}", self.folder(), whose(note)))
    }

    /// Where a note of this kind is.
    pub(super) fn of(self, tenant: Option<&str>, id: &Id) -> Name {
        self.at(&space(tenant), id)
    }

    /// The same, by the space of the tenant.
    pub(super) fn at(self, space: &str, id: &Id) -> Name {
        named(format!("{}/{id}", self.all_in(space)))
    }

    /// Where all notes of this kind are, the newest first.
    pub(super) fn all_in(self, space: &str) -> Name {
        named(format!("batches/{}/{space}", self.folder()))
    }
}

/// The ends of all batches of all tenants.
pub(super) fn ended() -> Name {
    named("batches/ended".to_owned())
}

/// Where the requests of a tenant's batches are, the newest first.
pub(super) fn all_of(tenant: Option<&str>) -> Name {
    Kind::Made.all_in(&space(tenant))
}

/// Where one part of the results is.
pub(super) fn part(made: &Made, number: u32) -> Name {
    named(format!("{}/{number:05}", parts(made)))
}

/// Where all parts of the results are.
pub(super) fn parts(made: &Made) -> Name {
    named(format!("batches/parts/{}/{}", space(made.tenant.as_deref()), made.id))
}

/// Where the parts of the results are of the batch that this note belongs to.
pub(super) fn parts_beside(note: &Name) -> Name {
    named(format!("batches/parts/{}", whose(note)))
}

/// Space and id of the batch that a note belongs to.
fn whose(note: &Name) -> &str {
    note.as_str().splitn(3, '/').nth(2).unwrap_or_default()
}

/// Says to whoever owns the partition that the batch must be gone on with.
pub(super) fn marker(partition: u32, id: &Id) -> Name {
    named(format!("{}/{id}", markers(partition)))
}

/// All markers of a partition.
pub(super) fn markers(partition: u32) -> Name {
    named(format!("batches/open/{partition:08x}"))
}

/// Reads a note, if it is there.
pub(super) async fn read<Note: DeserializeOwned>(
    shelf: &Shelf,
    name: &Name,
) -> Result<Option<Note>, shelf::Error> {
    let Some(bytes) = shelf.get(name, MAX).await? else { return Ok(None) };
    let damaged = |error| shelf::Error::Damaged(format!("{name} cannot be read: {error}"));
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Writes a note that changes.
pub(super) async fn write(shelf: &Shelf, name: &Name, note: &impl Serialize) -> Result<(), shelf::Error> {
    shelf.put(name, bytes(note)).await
}

/// Writes a note that is written once, and says which one is there now.
pub(super) async fn write_once<Note: Serialize + DeserializeOwned>(
    shelf: &Shelf,
    name: &Name,
    note: Note,
) -> Result<(Note, bool), shelf::Error> {
    if shelf.put_new(name, bytes(&note)).await? {
        return Ok((note, true));
    }
    let there = read(shelf, name).await?;
    there.map(|note| (note, false)).ok_or_else(|| shelf::Error::Away(format!("{name} comes and goes")))
}

fn bytes(note: &impl Serialize) -> Bytes {
    serde_json::to_vec(note).expect("strings and numbers always serialise").into()
}

fn named(name: String) -> Name {
    Name::new(name).expect("made of parts that are names")
}
