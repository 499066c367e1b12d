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
        /// How it ended, if it has.
        #[serde(default)]
        end: Option<End>,
    },
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    Succeeded,
    Failed,
    Cancelled,
    Expired,
}

impl Notice {
    /// What the message is called: the same however often it is told.
    pub(super) fn id(&self) -> String {
        match &self.about {
            About::Batch { id, .. } => format!("evt_{id}"),
            About::Job { entry, .. } => format!("evt_job_{entry}"),
        }
    }

    pub(super) fn entry(&self) -> Option<EntryId> {
        match &self.about {
            About::Batch { .. } => None,
            About::Job { entry, .. } => entry.parse().ok(),
        }
    }

    /// Whether it has happened, as far as is known.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(self.about, About::Job { end: None, .. })
    }

    /// Its job has ended.
    pub(super) fn ends(&mut self, outcome: Outcome) {
        if let About::Job { end, .. } = &mut self.about {
            *end = Some(match outcome {
                Outcome::Done => End::Succeeded,
                Outcome::Failed => End::Failed,
                Outcome::Cancelled => End::Cancelled,
                Outcome::Expired => End::Expired,
            });
        }
    }

    /// Its job has not ended after all.
    pub(super) fn runs_again(&mut self) {
        if let About::Job { end, .. } = &mut self.about {
            *end = None;
        }
    }

    /// Where it is written down.
    pub(super) fn place(&self) -> Name {
        let name = format!("{}/{}", folder(self.partition), self.id());
        Name::new(name).expect("made of parts that are names")
    }

    /// The message, in OpenAI's form.
    pub(super) fn message(&self) -> String {
        let (kind, about) = match &self.about {
            About::Batch { id, status } => (format!("batch.{}", status.name()), id.to_string()),
            About::Job { entry, end } => {
                (format!("job.{}", end.unwrap_or(End::Failed).name()), format!("job_{entry}"))
            }
        };
        let (id, created_at) = (self.id(), self.since_ms / 1_000);
        json!({"id": id, "object": "event", "type": kind, "created_at": created_at, "data": {"id": about}})
            .to_string()
    }
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Where all of a partition are.
pub(super) fn folder(partition: u32) -> Name {
    Name::new(format!("webhooks/{partition:08x}")).expect("made of parts that are names")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Notice {
        let about = About::Job { entry: "3-1f4".to_owned(), end: None };
        Notice { tenant: None, partition: 3, about, since_ms: 7_000, tries: 0, at_ms: 7_000 }
    }

    #[test]
    fn how_a_job_ended_is_written_down_with_it() {
        let cases = [
            (Outcome::Done, "job.succeeded"),
            (Outcome::Failed, "job.failed"),
            (Outcome::Cancelled, "job.cancelled"),
            (Outcome::Expired, "job.expired"),
        ];
        for (outcome, kind) in cases {
            let mut notice = job();
            assert!(!notice.has_ended());
            notice.ends(outcome);
            let read: Notice = serde_json::from_slice(&serde_json::to_vec(&notice).unwrap()).unwrap();
            assert!(read == notice && read.has_ended());
            let message: serde_json::Value = serde_json::from_str(&read.message()).unwrap();
            assert_eq!((&message["type"], &message["data"]["id"]), (&kind.into(), &"job_3-1f4".into()));
            assert_eq!((&message["created_at"], &message["id"]), (&7.into(), &"evt_job_3-1f4".into()));
            notice.runs_again();
            assert_eq!(notice, job());
        }
    }

    #[test]
    fn a_notice_of_the_time_before_ends_were_written_down_is_understood() {
        let old = r#"{"tenant": null, "partition": 3, "about": {"job": {"entry": "3-1f4"}}, "since_ms": 7000, "tries": 0, "at_ms": 7000}"#;
        assert_eq!(serde_json::from_str::<Notice>(old).unwrap(), job());
    }
}
