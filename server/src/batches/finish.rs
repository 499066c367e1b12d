//! The last step of a batch, on any replica: its parts become an output file and an error file, and one note says so.
//!
//! It may be done twice at the same time: both make the same files under the same ids, and the note is written once.

use coord::jobs::Handler;
use coord::op::{Effect, Task};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

use super::note::{self, Begun, Cancel, Counts, Ended, Final, Kind, Made, Status, Tokens};
use super::part::{self, Sort};
use super::{Counters, drive};
use crate::clock::Clock;
use crate::files::lines::Lines;
use crate::files::{self, Facts, Files, Purpose, Upload};
use crate::gateway::usage;

/// Makes files out of parts.
#[derive(Clone)]
pub(super) struct Finisher {
    files: Files,
    clock: Clock,
    counters: Arc<Counters>,
}

/// A file that is made only if something belongs into it.
struct Lazy<'a> {
    made: &'a Made,
    files: &'a Files,
    kind: &'static str,
    id: files::Id,
    upload: Option<Upload>,
}

impl Handler for Finisher {
    fn finish<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Vec<Effect>, String>> {
        Box::pin(async move {
            let made: Made = serde_json::from_slice(&task.payload).map_err(|error| error.to_string())?;
            self.make(&made).await?;
            Ok(Vec::new())
        })
    }
}

impl Finisher {
    pub(super) fn new(files: Files, clock: Clock, counters: Arc<Counters>) -> Self {
        Self { files, clock, counters }
    }

    /// Makes the files, unless they are made.
    ///
    /// # Errors
    /// What is missing or could not be read or written, in words: try again.
    pub(super) async fn make(&self, made: &Made) -> Result<(), String> {
        let (shelf, tenant) = (self.files.shelf(), made.tenant.as_deref());
        let words = |error: crate::shelf::Error| error.to_string();
        let begun = note::read::<Begun>(shelf, &Kind::Begun.of(tenant, &made.id)).await.map_err(words)?;
        let cancel = note::read::<Cancel>(shelf, &Kind::Cancel.of(tenant, &made.id)).await.map_err(words)?;
        let Some(begun) = begun else { return self.must_be_over(made, "its beginning").await };
        let last = Final {
            at_ms: self.clock.unix().as_millis() as u64,
            cancelled_at: cancel.map(|cancel| cancel.at),
        };
        let (last, _) =
            note::write_once(shelf, &Kind::Final.of(tenant, &made.id), last).await.map_err(words)?;
        // Later ends come from the notes that are there, so that it is the same whoever does this.
        let at = Duration::from_millis(last.at_ms);
        let lazy = |kind: &'static str| Lazy {
            made,
            files: &self.files,
            kind,
            id: files::Id::derived(at, &format!("{}/{kind}", made.id)),
            upload: None,
        };
        let (mut output, mut errors) = (lazy("output"), lazy("errors"));
        let mut counts = Counts { total: begun.total, ..Counts::default() };
        let (mut used, mut late) = (Tokens::default(), false);
        for number in 0..drive::chunks(begun.total) {
            let Some(reading) = shelf.read(&note::part(made, number), None).await.map_err(words)? else {
                return self.must_be_over(made, &format!("part {number} of its results")).await;
            };
            let mut lines = Lines::new(reading.stream, part::MAX_LINE);
            let mut first = true;
            while let Some(line) = lines.next().await.map_err(words)? {
                if std::mem::take(&mut first) {
                    continue;
                }
                let text = line.text.map_err(|fault| fault.to_string())?;
                let (sort, record) = Sort::read(&text)?;
                if let Some(usage) = usage::in_answer(record.as_bytes()) {
                    used.input += u64::from(usage.prompt);
                    used.cached += u64::from(usage.cached.unwrap_or(0));
                    used.output += u64::from(usage.completion);
                }
                late |= sort == Sort::Late;
                let file = match sort {
                    Sort::Good => {
                        counts.completed += 1;
                        &mut output
                    }
                    Sort::Bad | Sort::Late => {
                        counts.failed += 1;
                        &mut errors
                    }
                };
                file.write(record).await?;
            }
        }
        let status = match (last.cancelled_at, late) {
            (Some(_), _) => Status::Cancelled,
            (_, true) => Status::Expired,
            _ => Status::Completed,
        };
        let ended = Ended {
            status,
            at: self.clock.unix().as_secs(),
            begun_at: Some(begun.at),
            cancelling_at: last.cancelled_at,
            finalizing_at: Some(last.at_ms / 1_000),
            counts,
            usage: used,
            problems: Vec::new(),
            output: output.finish().await?,
            errors: errors.finish().await?,
        };
        self.end(made, ended).await
    }

    /// Writes down how it ended, if nobody has.
    pub(super) async fn end(&self, made: &Made, ended: Ended) -> Result<(), String> {
        let name = Kind::Ended.of(made.tenant.as_deref(), &made.id);
        let written = note::write_once(self.files.shelf(), &name, ended).await;
        let (ended, won) = written.map_err(|error| error.to_string())?;
        if won {
            self.counters.ended(&ended);
            tracing::info!(
                batch = %made.id,
                status = ended.status.name(),
                total = ended.counts.total,
                completed = ended.counts.completed,
                failed = ended.counts.failed,
                "a batch has ended"
            );
        }
        Ok(())
    }

    /// What is not there was taken away because everything is done, or it is missing.
    async fn must_be_over(&self, made: &Made, missing: &str) -> Result<(), String> {
        let name = Kind::Ended.of(made.tenant.as_deref(), &made.id);
        match note::read::<Ended>(self.files.shelf(), &name).await.map_err(|error| error.to_string())? {
            Some(_) => Ok(()),
            None => Err(format!("{missing} is missing")),
        }
    }
}

// === impl Lazy ===

impl Lazy<'_> {
    async fn write(&mut self, record: &str) -> Result<(), String> {
        if self.upload.is_none() {
            let begun = self.files.output(self.made.tenant.as_deref(), self.id.clone()).await;
            self.upload = Some(begun.map_err(|error| error.to_string())?);
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        upload.write(record.as_bytes()).await.map_err(|error| error.to_string())?;
        upload.write(b"\n").await.map_err(|error| error.to_string())
    }

    async fn finish(self) -> Result<Option<files::Id>, String> {
        let Some(upload) = self.upload else { return Ok(None) };
        let facts = Facts {
            filename: format!("{}_{}.jsonl", self.made.id, self.kind),
            purpose: Purpose::BatchOutput,
            expires_after: self.made.keep_s.map(Duration::from_secs),
        };
        upload.finish(facts).await.map(|file| Some(file.id)).map_err(|error| error.to_string())
    }
}
