//! What is to be told, as it is written down until it was heard.

use queue::entry::Outcome;
use queue::name::EntryId;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::batches::{Id, Status};
use crate::shelf::Name;

/// Something that somebody is to be told, once it has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// Whose it is.
    pub(super) tenant: Option<String>,
    /// Whoever owns this tells it.
    pub(super) partition: u32,
    /// What has happened, or will.
    pub(super) about: About,
    /// When it had happened, as far as is known: milliseconds since 1970.
    pub(super) since_ms: u64,
    /// How often it was told and not heard.
    pub(super) tries: u32,
    /// Not to be told before this.
    pub(super) at_ms: u64,
}

/// What somebody is to be told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum About {
    /// A batch that has ended.
    Batch {
        /// Which.
        id: Id,
        /// How.
        status: Status,
    },
    /// A job, which may not have ended yet.
    Job {
        /// The name of its entry.
        entry: String,
    },
}

impl Notice {
    /// What the message is called: the same however often it is told.
    pub(super) fn id(&self) -> String {
        match &self.about {
            About::Batch { id, .. } => format!("evt_{id}"),
            About::Job { entry } => format!("evt_job_{entry}"),
        }
    }

    pub(super) fn entry(&self) -> Option<EntryId> {
        match &self.about {
            About::Batch { .. } => None,
            About::Job { entry } => entry.parse().ok(),
        }
    }

    /// Where it is written down.
    pub(super) fn place(&self) -> Name {
        let name = format!("{}/{}", folder(self.partition), self.id());
        Name::new(name).expect("made of parts that are names")
    }

    /// The message, in OpenAI's form.
    pub(super) fn message(&self, outcome: Option<Outcome>) -> String {
        let (kind, about) = match &self.about {
            About::Batch { id, status } => (format!("batch.{}", status.name()), id.to_string()),
            About::Job { entry } => {
                let status = match outcome {
                    Some(Outcome::Done) => "succeeded",
                    Some(Outcome::Cancelled) => "cancelled",
                    Some(Outcome::Expired) => "expired",
                    Some(Outcome::Failed) | None => "failed",
                };
                (format!("job.{status}"), format!("job_{entry}"))
            }
        };
        let (id, created_at) = (self.id(), self.since_ms / 1_000);
        json!({"id": id, "object": "event", "type": kind, "created_at": created_at, "data": {"id": about}})
            .to_string()
    }
}

/// Where all of a partition are.
pub(super) fn folder(partition: u32) -> Name {
    Name::new(format!("webhooks/{partition:08x}")).expect("made of parts that are names")
}
