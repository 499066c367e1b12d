//! `warmline queue`: what waits, why, and an operator's hands on it.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::operate::{Door, line};
use super::output::{self, Failure};
use crate::admin::api::queues::{Done, EntryShown, PartitionStatus, QueueShown, QueueStatus, Queues};

/// What waits, why, and an operator's hands on it.
#[derive(Args)]
pub(super) struct Queue {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List lines and queues of all replicas: how many wait, for how long, and for what.
    Ls(Ls),
    /// Show one queue and what comes first in it.
    Show(Show),
    /// Hold a queue or an entry back; it stays so until it is resumed, also over restarts.
    Pause(One),
    /// Let a queue or an entry go on that was paused.
    Resume(One),
    /// Cancel an entry, or all that waits in a queue; what runs of it comes to its end.
    Cancel(Dangerous),
    /// Cancel all that waits in a queue, and forget what became of what is over.
    Purge(Dangerous),
    /// Try an entry again that ended badly, or all of a queue that did.
    Retry(Retry),
    /// Say everything about an entry, and why it does not run.
    Explain(Explain),
}

#[derive(Args)]
struct Common {
    #[command(flatten)]
    door: Door,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Ls {
    /// Those of this tenant only.
    #[arg(long)]
    tenant: Option<String>,
    /// Which come first: those that have waited longest, or those with the most entries.
    #[arg(long, value_enum, default_value_t = By::Age)]
    by: By,
    /// How many at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Age,
    Depth,
}

#[derive(Args)]
struct Show {
    /// The queue, as `queue ls` calls it: TENANT/KEY.
    queue: String,
    /// How many of its first entries.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct One {
    /// A queue (TENANT/KEY) or an entry (3-1f4, or job_3-1f4).
    what: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Dangerous {
    /// A queue (TENANT/KEY) or an entry (3-1f4, or job_3-1f4).
    what: String,
    /// Do it: without a terminal, and for more than ten entries, this must be said.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Retry {
    /// A queue (TENANT/KEY) or an entry (3-1f4, or job_3-1f4).
    what: String,
    /// Of a queue: those that ended so.
    #[arg(long, value_enum, default_value_t = Ended::Failed)]
    outcome: Ended,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ended {
    Failed,
    Cancelled,
    Expired,
}

#[derive(Args)]
struct Explain {
    /// The entry: 3-1f4, or job_3-1f4.
    entry: String,
    /// Show what it is, and what came of it.
    #[arg(long)]
    payload: bool,
    #[command(flatten)]
    common: Common,
}

/// What something is done to.
enum Subject {
    Queue { path: String, name: String },
    Entry { path: String },
}

/// Entries that may be lost by a slip of the hand.
const A_FEW: u64 = 10;

impl Queue {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Ls(command) => command.run(),
            What::Show(command) => command.run(),
            What::Pause(command) => command.run("pause"),
            What::Resume(command) => command.run("resume"),
            What::Cancel(command) => command.run("cancel"),
            What::Purge(command) => command.run("purge"),
            What::Retry(command) => command.run(),
            What::Explain(command) => command.run(),
        }
    }
}

impl Ls {
    fn run(self) -> Result<(), Failure> {
        let by = match self.by {
            By::Age => "age",
            By::Depth => "depth",
        };
        let tenant = self.tenant.map(|tenant| format!("&tenant={}", encoded(&tenant))).unwrap_or_default();
        let path = format!("/queues?by={by}&limit={}{tenant}", self.limit);
        let found: Queues = self.common.get(&path)?;
        if self.common.json { output::json(&found) } else { output::line(show_queues(&found).trim_end()) }
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let Subject::Queue { path, .. } = Subject::of(&self.queue)? else {
            return Err(Failure::Input(format!(
                "found {:?}; a queue is TENANT/KEY, as `warmline queue ls` lists them; for an entry, `warmline queue explain`",
                self.queue
            )));
        };
        let found: QueueShown = self.common.get(&format!("{path}?limit={}", self.limit))?;
        if self.common.json { output::json(&found) } else { output::line(show_queue(&found).trim_end()) }
    }
}

impl One {
    fn run(self, word: &str) -> Result<(), Failure> {
        self.common.act(&Subject::of(&self.what)?, word, "")
    }
}

impl Dangerous {
    fn run(self, word: &str) -> Result<(), Failure> {
        let subject = Subject::of(&self.what)?;
        let entries = match &subject {
            Subject::Queue { path, name } => {
                let shown: QueueShown = self.common.get(&format!("{path}?limit=1"))?;
                let entries: Option<u64> = shown.queues.iter().map(|queue| queue.entries).sum();
                (entries, format!("queue {name}"))
            }
            Subject::Entry { .. } if word == "purge" => {
                return Err(Failure::Input(format!(
                    "found {:?}; a queue is purged: TENANT/KEY, as `warmline queue ls` lists them",
                    self.what
                )));
            }
            Subject::Entry { .. } => (Some(1), format!("entry {}", self.what)),
        };
        let (entries, of) = entries;
        let few = entries.is_some_and(|entries| entries <= A_FEW) && std::io::stdin().is_terminal();
        if !self.yes && !few {
            let entries = entries.map_or("an unknown number of".to_owned(), |entries| entries.to_string());
            return Err(Failure::Input(format!(
                "this would {word} {of} with {entries} entries; say --yes if that is meant"
            )));
        }
        self.common.act(&subject, word, "")
    }
}

impl Retry {
    fn run(self) -> Result<(), Failure> {
        let subject = Subject::of(&self.what)?;
        let query = match (&subject, self.outcome) {
            (Subject::Entry { .. }, _) => "",
            (_, Ended::Failed) => "?outcome=failed",
            (_, Ended::Cancelled) => "?outcome=cancelled",
            (_, Ended::Expired) => "?outcome=expired",
        };
        self.common.act(&subject, "retry", query)
    }
}

impl Explain {
    fn run(self) -> Result<(), Failure> {
        let Subject::Entry { path } = Subject::of(&self.entry)? else {
            return Err(Failure::Input(format!(
                "found {:?}; an entry's id looks like 3-1f4; for a queue, `warmline queue show`",
                self.entry
            )));
        };
        let found: EntryShown = self.common.get(&format!("{path}?payload={}", self.payload))?;
        if self.common.json { output::json(&found) } else { output::line(show_entry(&found)?.trim_end()) }
    }
}

impl Common {
    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.door.client()?.get(path).and_then(|answer| answer.parse()).map_err(Failure::Work)
    }

    /// Does something until it is done to all: the server takes large queues in portions.
    fn act(&self, subject: &Subject, word: &str, query: &str) -> Result<(), Failure> {
        let (Subject::Queue { path, .. } | Subject::Entry { path }) = subject;
        let client = self.door.client()?;
        let mut all = Done::default();
        loop {
            let done: Done = client
                .post(&format!("{path}/{word}{query}"), b"")
                .and_then(|answer| answer.parse())
                .map_err(Failure::Work)?;
            all = Done { entries: all.entries + done.entries, ..done };
            // What fails again at once would be tried again for ever.
            if !all.more || word == "retry" {
                break;
            }
        }
        if self.json {
            return output::json(&all);
        }
        let mut said = match subject {
            Subject::Entry { .. } => all.done,
            Subject::Queue { name, .. } => format!("{}: {}, {} entries", name, all.done, all.entries),
        };
        if all.running > 0 {
            let _written = write!(said, "; {} run and come to their end", all.running);
        }
        if all.more {
            said += "; there are more: say it again";
        }
        output::line(&said)
    }
}

impl Subject {
    /// An entry has no `/` in its id, a queue always has one after its tenant.
    fn of(text: &str) -> Result<Self, Failure> {
        match text.split_once('/') {
            Some((tenant, key)) if !tenant.is_empty() && !key.is_empty() => Ok(Self::Queue {
                path: format!("/queues/{}/{}", encoded(tenant), encoded(key)),
                name: text.to_owned(),
            }),
            None if !text.is_empty() => Ok(Self::Entry { path: format!("/entries/{}", encoded(text)) }),
            _ => Err(Failure::Input(format!(
                "found {text:?}; a queue is TENANT/KEY, an entry's id looks like 3-1f4"
            ))),
        }
    }
}

/// A part of a path in which nothing means anything.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

// === As people read it ===

fn show_queues(found: &Queues) -> String {
    let mut out = String::new();
    if found.queues.is_empty() {
        line(&mut out, format_args!("nobody waits"));
    } else {
        show_rows(&mut out, &found.queues);
    }
    if found.left_off > 0 {
        line(&mut out, format_args!("and {} more (--limit)", found.left_off));
    }
    show_partitions(&mut out, &found.partitions);
    for missing in &found.missing {
        line(&mut out, format_args!("! {missing}"));
    }
    out
}

fn show_rows(out: &mut String, queues: &[QueueStatus]) {
    let name = |queue: &QueueStatus| format!("{}/{}", queue.tenant, queue.key);
    let wide = queues.iter().map(|queue| name(queue).chars().count()).max().unwrap_or(0).max(5);
    let target = queues.iter().map(|queue| queue.target.chars().count()).max().unwrap_or(0).max(5);
    line(
        out,
        format_args!(
            "{:<wide$}  {:<target$}  kind     waiting+running  oldest    replica, waits for",
            "queue", "model"
        ),
    );
    for queue in queues {
        let entries = queue.entries.map_or("counting".to_owned(), |entries| entries.to_string());
        let kind = if queue.durable { "durable" } else { "line" };
        let oldest = queue.oldest_s.map_or("-".to_owned(), seconds);
        line(
            out,
            format_args!(
                "{:<wide$}  {:<target$}  {kind:<7}  {:<15}  {oldest:<8}  {}{}",
                name(queue),
                queue.target,
                format!("{entries}, {} run", queue.running),
                queue.replica,
                if queue.paused { "  PAUSED" } else { "" }
            ),
        );
        for waits in &queue.waits_for {
            line(out, format_args!("{:wide$}  {} waits for {}", "", waits.class, waits.what));
        }
    }
}

/// Only what is wrong with them: what is right is in `warmline status`.
pub(super) fn show_partitions(out: &mut String, partitions: &[PartitionStatus]) {
    for one in partitions {
        let replica = one.replica.as_deref().unwrap_or("nobody");
        if let Some(why) = &one.poisoned {
            line(
                out,
                format_args!(
                    "! POISONED: the log {} of replica {replica} could not be written, takes nothing, and starts nothing \
                     until that replica is restarted: {why}",
                    one.partition
                ),
            );
        }
        if let Some(why) = &one.trouble {
            line(
                out,
                format_args!("! NO OWNER: the log {} lies here and cannot be opened: {why}", one.partition),
            );
        }
    }
}

fn show_queue(found: &QueueShown) -> String {
    let mut out = String::new();
    show_rows(&mut out, &found.queues);
    if !found.entries.is_empty() {
        let id = found.entries.iter().map(|entry| entry.id.len()).max().unwrap_or(0).max(5);
        line(&mut out, format_args!("\n{:<id$}  stage      class   ready for", "entry"));
        for entry in &found.entries {
            let age = entry.age_s;
            let age = if age < 0.0 { format!("in {}", seconds(-age)) } else { seconds(age) };
            line(&mut out, format_args!("{:<id$}  {:<9}  {:<6}  {age}", entry.id, entry.stage, entry.class));
        }
    }
    if found.more {
        line(&mut out, format_args!("and more (--limit)"));
    }
    out
}

fn show_entry(found: &EntryShown) -> Result<String, Failure> {
    let mut out = String::new();
    let stage = found.outcome.as_ref().unwrap_or(&found.stage);
    line(
        &mut out,
        format_args!(
            "entry {} of queue {}/{} for {}: {stage}",
            found.id, found.tenant, found.key, found.target
        ),
    );
    if let Some(why) = &found.waits_for {
        line(&mut out, format_args!("it waits for {why}"));
    }
    line(
        &mut out,
        format_args!(
            "came {} ago, {}, started {} times, expected to take {} tokens; on replica {}",
            seconds(found.age_s),
            found.class,
            found.attempts,
            found.tokens,
            found.replica
        ),
    );
    if let Some(before) = found.start_before {
        line(&mut out, format_args!("it is not started after {before:.3} (seconds since 1970)"));
    }
    if let Some(error) = &found.error {
        line(&mut out, format_args!("error: {error}"));
    }
    for (what, value) in [("payload", &found.payload), ("result", &found.result)] {
        if let Some(value) = value {
            let text =
                serde_json::to_string_pretty(value).map_err(|error| Failure::Work(error.to_string()))?;
            line(&mut out, format_args!("{what}: {text}"));
        }
    }
    Ok(out)
}

/// A time as people say it: two figures are enough.
fn seconds(seconds: f64) -> String {
    let time = Duration::from_secs_f64(seconds.clamp(0.0, 1e12));
    let whole = time.as_secs();
    match whole {
        0..10 => format!("{:.1}s", time.as_secs_f64()),
        10..120 => format!("{whole}s"),
        120..7_200 => format!("{}m{:02}s", whole / 60, whole % 60),
        7_200..172_800 => format!("{}h{:02}m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_told_by_its_form_and_names_come_through_unharmed() {
        let path = |text: &str| match Subject::of(text) {
            Ok(Subject::Queue { path, .. } | Subject::Entry { path }) => path,
            Err(_) => "wrong".to_owned(),
        };
        for (text, expected) in [
            ("acme/jobs/sim", "/queues/acme/jobs%2Fsim"),
            ("a b/ä?#%", "/queues/a%20b/%C3%A4%3F%23%25"),
            ("3-1f4", "/entries/3-1f4"),
            ("job_3-1f4", "/entries/job_3-1f4"),
            ("", "wrong"),
            ("/x", "wrong"),
            ("x/", "wrong"),
        ] {
            assert_eq!(path(text), expected, "{text}");
        }
    }

    #[test]
    fn times_are_said_with_what_matters_of_them() {
        for (time, said) in [
            (0.04, "0.0s"),
            (9.5, "9.5s"),
            (61.0, "61s"),
            (125.0, "2m05s"),
            (7_300.0, "2h01m"),
            (200_000.0, "2d07h"),
        ] {
            assert_eq!(seconds(time), said);
        }
        assert_eq!(seconds(f64::INFINITY), seconds(1e12), "nothing that a server says may end the program");
    }

    #[test]
    fn a_poisoned_log_and_one_without_an_owner_are_loud() {
        let partition = PartitionStatus {
            partition: "00000007".to_owned(),
            replica: Some("r1".to_owned()),
            queues: 0,
            entries: None,
            disk_bytes: 0,
            poisoned: Some("no space left".to_owned()),
            trouble: None,
        };
        let lost = PartitionStatus {
            replica: None,
            poisoned: None,
            trouble: Some("locked".to_owned()),
            ..partition.clone()
        };
        let mut out = String::new();
        show_partitions(&mut out, &[partition, lost]);
        assert!(
            out.contains("POISONED: the log 00000007 of replica r1") && out.contains("no space left"),
            "{out}"
        );
        assert!(out.contains("NO OWNER: the log 00000007") && out.contains("locked"), "{out}");
    }
}
