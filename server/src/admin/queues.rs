//! An operator's hands on lines, queues and entries: of this replica, and as far as looking goes of all others.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Method, StatusCode};
use queue::entry::{Outcome, Stage};
use queue::ledger::Listed;
use queue::name::{Class, EntryId, Millis, QueueName};
use queue::room::{First, LineSeen, QueueSeen, Wish};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::queues::{
    Done, EntryLine, EntryShown, PartitionStatus, QueueShown, QueueStatus, Queues, Waiting, Waits,
};
use super::{Admin, failure};
use crate::error::ApiError;
use crate::gateway::{Gateway, decoded};
use crate::http::{Answer, json as respond};
use crate::replicas::{Answering, Answers, Replicas};
use crate::settings::Priority;
use crate::work::{Errand, ErrandResult, Owner, Sweep, Swept, name_of, why_in_words};

/// Looks at what waits on this replica, for its operator and for those of others; cheap to clone.
#[derive(Clone)]
pub(super) struct Desk {
    gateway: Gateway,
    replicas: Replicas,
}

/// What one replica asks another.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// What waits with you?
    List(Filter),
    /// Do you have this queue?
    Queue {
        /// Whose.
        tenant: String,
        /// Which of theirs.
        key: String,
        /// First entries of it.
        limit: usize,
    },
    /// Do you have this entry?
    Entry {
        /// Its id.
        id: String,
        /// Whether its payload is wanted.
        payload: bool,
    },
}

/// Which queues.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Filter {
    tenant: Option<String>,
    by: By,
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    Age,
    Depth,
}

/// What the questions are called among replicas.
const KIND: &str = "queues";
/// Queues in a list, if nothing is said, and at most: a row takes about 300 bytes.
const LIMIT: usize = 100;
/// See [`LIMIT`].
const MOST: usize = 10_000;
/// First entries of a queue that is shown, if nothing is said, and at most.
const ENTRIES: usize = 20;
/// See [`ENTRIES`].
const MOST_ENTRIES: usize = 1_000;
/// Queues whose names are looked through for one that is like what was asked.
const NAMES: usize = 1_000;

impl Admin {
    /// `/queues…` and `/entries…`.
    pub(super) async fn queues(&self, method: &Method, parts: &[&str], query: &str) -> Answer {
        match self.desk.answer(method, parts, query).await {
            Ok(answer) => answer,
            Err(error) => failure(&error),
        }
    }
}

impl Desk {
    /// Answers other replicas from now on.
    pub(super) fn new(gateway: Gateway, replicas: Replicas) -> Self {
        // What the replicas hold must not keep alive what holds them.
        let weak = gateway.weak();
        let answerer = move |about: String| -> Answering {
            let gateway = weak();
            Box::pin(async move {
                match gateway {
                    Some(gateway) => Here { gateway }.reply(&about).await,
                    None => Value::Null,
                }
            })
        };
        replicas.answer_with(KIND, Arc::new(answerer));
        Self { gateway, replicas }
    }

    fn here(&self) -> Here {
        Here { gateway: self.gateway.clone() }
    }

    async fn answer(&self, method: &Method, parts: &[&str], query: &str) -> Result<Answer, ApiError> {
        let query = Query::read(query)?;
        match (method, parts) {
            (&Method::GET, ["queues"]) => {
                query.only(&["tenant", "by", "limit"])?;
                Ok(respond(StatusCode::OK, &self.list(query.filter()?).await?))
            }
            (&Method::GET, ["queues", tenant, key]) => {
                query.only(&["limit"])?;
                let limit = query.number("limit", ENTRIES, MOST_ENTRIES)?;
                Ok(respond(StatusCode::OK, &self.show(&name_of_queue(tenant, key)?, limit).await?))
            }
            (&Method::POST, ["queues", tenant, key, word]) => {
                query.only(&["outcome"])?;
                let done = self.do_to_queue(&name_of_queue(tenant, key)?, word, &query).await?;
                Ok(respond(StatusCode::OK, &done))
            }
            (&Method::GET, ["entries", id]) => {
                query.only(&["payload"])?;
                Ok(respond(StatusCode::OK, &self.entry(id, query.flag("payload")?).await?))
            }
            (&Method::POST, ["entries", id, word]) => {
                query.only(&[])?;
                Ok(respond(StatusCode::OK, &self.do_to_entry(id, word).await?))
            }
            (_, ["queues"] | ["queues" | "entries", _, _] | ["queues", _, _, _] | ["entries", _]) => {
                Err(ApiError::Method(method.to_string()))
            }
            _ => Err(ApiError::UnknownPath(format!(
                "/{}; there are /queues, /queues/TENANT/KEY and /entries/ID, with / in a name as %2F",
                parts.join("/")
            ))),
        }
    }

    async fn list(&self, filter: Filter) -> Result<Queues, ApiError> {
        let mut all = self.here().list(&filter).await?;
        match self.ask::<Queues>(&Question::List(filter.clone()), false).await {
            Ok(Answers { found, silent, .. }) => {
                for other in found {
                    all.queues.extend(other.queues);
                    all.left_off += other.left_off;
                    all.partitions.extend(other.partitions);
                }
                if silent > 0 {
                    all.missing.push(format!("{silent} other replica(s) did not answer"));
                }
            }
            Err(why) => all.missing.push(format!("the other replicas could not be asked: {why}")),
        }
        sort(&mut all.queues, filter.by);
        all.left_off += all.queues.len().saturating_sub(filter.limit);
        all.queues.truncate(filter.limit);
        // A directory that replicas share lies with all of them: who has it open says so.
        let open: Vec<String> = all.partitions.iter().filter(|one| one.replica.is_some()).map(key).collect();
        all.partitions.retain(|one| one.replica.is_some() || !open.contains(&one.partition));
        all.partitions.sort_by(|one, other| one.partition.cmp(&other.partition));
        all.partitions.dedup_by(|one, other| one.partition == other.partition);
        Ok(all)
    }

    async fn show(&self, name: &QueueName, limit: usize) -> Result<QueueShown, ApiError> {
        if let Some(shown) = self.here().show(name, limit).await? {
            return Ok(shown);
        }
        let (tenant, key) = (name.tenant.to_string(), name.key.to_string());
        match self.ask::<QueueShown>(&Question::Queue { tenant, key, limit }, true).await {
            Ok(Answers { mut found, silent, .. }) => match found.pop() {
                Some(shown) => Ok(shown),
                None => Err(self.no_queue(name, silent, None).await),
            },
            Err(why) => Err(self.no_queue(name, 0, Some(why)).await),
        }
    }

    async fn entry(&self, text: &str, payload: bool) -> Result<EntryShown, ApiError> {
        let id = id_of(text)?;
        let here = self.here().entry(id, payload).await;
        let error = match here {
            Err(error) if !self.gateway.work().partitions().contains(&id.partition) => error,
            here => return here,
        };
        let question = Question::Entry { id: id.to_string(), payload };
        match self.ask::<EntryShown>(&question, true).await {
            Ok(Answers { mut found, silent: 0, .. }) => match found.pop() {
                Some(shown) => Ok(shown),
                None => Err(self.no_entry(id, error).await),
            },
            Ok(Answers { silent, .. }) => Err(ApiError::NotFound(format!(
                "{error}; {silent} other replica(s) did not answer and may have it."
            ))),
            Err(why) => Err(ApiError::NotFound(format!("{error}; the others could not be asked: {why}."))),
        }
    }

    async fn do_to_queue(&self, name: &QueueName, word: &str, query: &Query) -> Result<Done, ApiError> {
        let work = self.gateway.work();
        let known = ["pause", "resume", "cancel", "purge", "retry"];
        if !known.contains(&word) {
            return Err(unknown_word(word, "a queue", &known));
        }
        let outcome = query.outcome()?;
        if word != "retry" && query.has("outcome") {
            return Err(wrong("outcome", "only retry takes one"));
        }
        let found = work.named(name)?;
        if found.is_empty() {
            return Err(self.not_here(name).await);
        }
        let running = found.iter().map(|queue| queue.running).sum();
        let Swept { entries, more } = match word {
            "pause" | "resume" => {
                work.pause_queue(name, word == "pause").await?;
                Swept { entries: found.iter().filter_map(|queue| queue.entries).sum(), more: false }
            }
            "cancel" => work.sweep(name, Sweep::Cancel).await?,
            "retry" => work.sweep(name, Sweep::Retry(outcome)).await?,
            _ => {
                let cancelled = work.sweep(name, Sweep::Cancel).await?;
                let forgotten = work.sweep(name, Sweep::Forget).await?;
                Swept { entries: forgotten.entries, more: cancelled.more || forgotten.more }
            }
        };
        tracing::info!(queue = %name, word, entries, more, "an operator's hand on a queue");
        let done = match word {
            "pause" => "paused",
            "resume" => "resumed",
            "cancel" => "cancelled",
            "retry" => "retried",
            _ => "purged",
        };
        Ok(Done { done: done.to_owned(), entries, more, running })
    }

    async fn do_to_entry(&self, text: &str, word: &str) -> Result<Done, ApiError> {
        let work = self.gateway.work();
        let id = id_of(text)?;
        let (done, moved) = match word {
            "cancel" => ("cancelled", work.cancel(id).await),
            "retry" => ("retried", work.retry(id).await),
            "pause" => ("paused", work.pause(id, true).await),
            "resume" => ("resumed", work.pause(id, false).await),
            _ => return Err(unknown_word(word, "an entry", &["cancel", "retry", "pause", "resume"])),
        };
        match moved {
            Ok(()) => {
                tracing::info!(entry = %id, word, "an operator's hand on an entry");
                Ok(Done { done: done.to_owned(), entries: 1, ..Done::default() })
            }
            Err(error @ (ApiError::NotFound(_) | ApiError::NoQueue { .. }))
                if !work.partitions().contains(&id.partition) =>
            {
                let shown = self.entry(text, false).await?;
                Err(self.elsewhere(&format!("Entry {id}"), &shown.replica).unwrap_or(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Another replica has it: that one must be asked. `None`: this one has it, by now.
    fn elsewhere(&self, what: &str, replica: &str) -> Option<ApiError> {
        if replica == self.here().me() {
            return None;
        }
        let status = self.gateway.fleet().status();
        let admin = status.replicas.iter().find(|one| one.instance == replica);
        let admin = admin.map_or_else(String::new, |one| format!(" at {}", one.admin));
        Some(ApiError::Conflict(format!("{what} is on replica {replica}: ask its admin listener{admin}.")))
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        question: &Question,
        one: bool,
    ) -> Result<Answers<T>, String> {
        let about = serde_json::to_string(question).map_err(|error| error.to_string())?;
        self.replicas.ask_all(KIND, &about, one).await.map_err(|error| error.to_string())
    }

    /// Where an entry's log is, for whoever asked in the wrong place.
    async fn no_entry(&self, id: EntryId, error: ApiError) -> ApiError {
        let partition = name_of(id.partition);
        let where_else = match self.gateway.work().owner(id.partition).await {
            Owner::Me => return error,
            Owner::Other(door) => {
                format!("its partition {partition} is open on the replica at {door}, which does not know it")
            }
            Owner::Nobody => {
                let open: Vec<String> = self.gateway.work().partitions().into_iter().map(name_of).collect();
                format!("no replica has its partition {partition} open; open here are {open:?}")
            }
        };
        ApiError::NotFound(format!("There is no entry {id} here: {where_else}."))
    }

    /// Something is to be done to a queue that is not open here.
    async fn not_here(&self, name: &QueueName) -> ApiError {
        let of_lines = self.gateway.lines().room().lines().into_iter().any(|line| line.name == *name);
        if of_lines {
            return ApiError::Conflict(format!(
                "{name} is a line of requests that stand there with their connections: it ends with them, and cannot be \
                 held back or emptied. To let nothing run, drain the engines; queue.max_line and queue.max_wait bound it."
            ));
        }
        match self.show(name, 0).await {
            Ok(shown) => {
                let replica = shown.queues.first().map(|queue| queue.replica.clone()).unwrap_or_default();
                let again = || ApiError::NoQueue {
                    message: format!("Queue {name} has just come here; ask again."),
                    retry_after: 1,
                };
                self.elsewhere(&format!("Queue {name}"), &replica).unwrap_or_else(again)
            }
            Err(error) => error,
        }
    }

    async fn no_queue(&self, name: &QueueName, silent: usize, unasked: Option<String>) -> ApiError {
        let filter = Filter { tenant: None, by: By::Age, limit: NAMES };
        let known = self.here().list(&filter).await.map(|all| all.queues).unwrap_or_default();
        let names: Vec<String> =
            known.iter().map(|queue| format!("{}/{}", queue.tenant, queue.key)).collect();
        let mut message = format!("There is no queue {name}: one is there while something is in it");
        let near = near(&name.to_string(), &names);
        if !near.is_empty() {
            message += "; there is ";
            message += &near.join(", ");
        } else if names.is_empty() {
            message += "; there is none at the moment";
        }
        if silent > 0 {
            let _written = write!(message, "; {silent} other replica(s) did not answer");
        }
        if let Some(why) = unasked {
            let _written = write!(message, "; the other replicas could not be asked: {why}");
        }
        ApiError::NotFound(message + ".")
    }
}

// === What is here ===

/// What waits on this replica.
struct Here {
    gateway: Gateway,
}

impl Here {
    async fn reply(&self, about: &str) -> Value {
        let Ok(question) = serde_json::from_str::<Question>(about) else { return Value::Null };
        let said = match question {
            Question::List(filter) => self.list(&filter).await.ok().map(serde_json::to_value),
            Question::Queue { tenant, key, limit } => match QueueName::new(&tenant, &key) {
                Ok(name) => {
                    self.show(&name, limit.min(MOST_ENTRIES)).await.ok().flatten().map(serde_json::to_value)
                }
                Err(_) => None,
            },
            Question::Entry { id, payload } => match id.parse() {
                Ok(id) => self.entry(id, payload).await.ok().map(serde_json::to_value),
                Err(_) => None,
            },
        };
        said.and_then(Result::ok).unwrap_or_default()
    }

    fn me(&self) -> String {
        self.gateway.work().replicas().coord().instance().as_str().to_owned()
    }

    fn now(&self) -> Millis {
        Millis(self.gateway.fleet().clock().unix().as_millis() as u64)
    }

    async fn list(&self, filter: &Filter) -> Result<Queues, ApiError> {
        let first = match filter.by {
            By::Age => First::Oldest,
            By::Depth => First::Deepest,
        };
        let most = filter.limit.min(MOST);
        let wish = Wish { tenant: filter.tenant.as_deref().map(Into::into), first, most };
        let overview = self.gateway.work().overview(wish).await?;
        let (me, now) = (self.me(), self.now());
        let mut queues: Vec<QueueStatus> =
            overview.queues.into_iter().map(|queue| durable(queue, &me, now)).collect();
        let lines = self.gateway.lines().room().lines().into_iter();
        let wanted =
            |line: &LineSeen| filter.tenant.as_ref().is_none_or(|tenant| **tenant == *line.name.tenant);
        queues.extend(lines.filter(wanted).map(|line| standing(line, &me, now)));
        sort(&mut queues, filter.by);
        let left_off = overview.left_off + queues.len().saturating_sub(most);
        queues.truncate(most);
        Ok(Queues { queues, left_off, partitions: self.partitions(), missing: Vec::new() })
    }

    fn partitions(&self) -> Vec<PartitionStatus> {
        let logs = self.gateway.lines().room().totals().logs;
        let open = logs.into_iter().map(|log| PartitionStatus {
            partition: name_of(log.partition),
            replica: Some(self.me()),
            queues: log.queues,
            entries: log.entries,
            disk_bytes: self.gateway.lines().disk_bytes(log.partition),
            poisoned: log.poisoned,
            trouble: None,
        });
        let troubles = self.gateway.work().troubles();
        let shut = troubles.into_iter().map(|(partition, why)| PartitionStatus {
            partition: name_of(partition),
            replica: None,
            queues: 0,
            entries: None,
            disk_bytes: 0,
            poisoned: None,
            trouble: Some(why),
        });
        open.chain(shut).collect()
    }

    async fn show(&self, name: &QueueName, limit: usize) -> Result<Option<QueueShown>, ApiError> {
        let (me, now) = (self.me(), self.now());
        let found = self.gateway.work().named(name)?;
        let lines = self.gateway.lines().room().lines();
        let lines = lines.into_iter().filter(|line| line.name == *name);
        let mut shown = QueueShown { queues: Vec::new(), entries: Vec::new(), more: false };
        for queue in found {
            let partition = queue.partition;
            let listed = |listed: &Listed| EntryLine {
                id: EntryId { partition, seq: listed.seq }.to_string(),
                stage: listed.stage.name().to_owned(),
                class: Priority::of(listed.class).name().to_owned(),
                age_s: (now.0 as f64 - listed.at.0 as f64) / 1e3,
            };
            let left = limit.saturating_sub(shown.entries.len());
            shown.more |= queue.running > left;
            shown.entries.extend(queue.runs.iter().take(left).map(listed));
            shown.queues.push(durable(queue.clone(), &me, now));
            let left = limit.saturating_sub(shown.entries.len());
            let (entries, more) = match self.gateway.work().entries(partition, name, left).await {
                Ok(found) => found,
                Err(ApiError::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            shown.more |= more;
            shown.entries.extend(entries.iter().map(listed));
        }
        shown.queues.extend(lines.map(|line| standing(line, &me, now)));
        Ok(if shown.queues.is_empty() { None } else { Some(shown) })
    }

    async fn entry(&self, id: EntryId, payload: bool) -> Result<EntryShown, ApiError> {
        let shown = self.gateway.work().show(id).await?;
        let entry = shown.entry;
        let seconds = |at: Millis| at.0 as f64 / 1e3;
        let result = ErrandResult::decode(&entry.result);
        let error = result.as_ref().and_then(|result| result.error.as_ref());
        let json = |bytes: &[u8]| serde_json::from_slice(bytes).ok();
        Ok(EntryShown {
            id: id.to_string(),
            tenant: entry.queue.tenant.to_string(),
            key: entry.queue.key.to_string(),
            target: entry.target.to_string(),
            stage: entry.stage.name().to_owned(),
            class: Priority::of(entry.class).name().to_owned(),
            outcome: entry.outcome.map(|outcome| outcome.name().to_owned()),
            waits_for: waits_for(entry.stage, shown.why),
            age_s: self.now().since(entry.came) as f64 / 1e3,
            not_before: seconds(entry.at),
            start_before: entry.deadline.map(seconds),
            attempts: entry.attempt,
            tokens: entry.cost.tokens,
            error: error.and_then(|error| serde_json::to_value(error).ok()),
            replica: self.me(),
            payload: payload.then(|| Errand::decode(&entry.payload).ok()).flatten().and_then(value),
            result: payload.then(|| json(&entry.result)).flatten(),
        })
    }
}

/// Why an entry at this stage does not run.
fn waits_for(stage: Stage, why: Option<queue::scheduler::Why>) -> Option<String> {
    match stage {
        Stage::Scheduled => Some("its time: see not_before".to_owned()),
        Stage::Paused => Some("an operator: the entry itself is paused".to_owned()),
        Stage::Suspended => Some("an event: its runner has put it aside".to_owned()),
        Stage::Finished => None,
        Stage::Inbox | Stage::Running => why.map(why_in_words),
    }
}

/// What waits, for `GET /status`.
pub(super) fn waiting(gateway: &Gateway) -> Waiting {
    let here = Here { gateway: gateway.clone() };
    let depth = gateway.lines().room().depth();
    let partitions = here.partitions();
    let open = || partitions.iter().filter(|one| one.replica.is_some());
    Waiting {
        standing: depth.volatile,
        running: depth.running,
        queues: open().map(|one| one.queues).sum(),
        entries: open().map(|one| one.entries).sum(),
        partitions,
    }
}

fn value<T: Serialize>(of: T) -> Option<Value> {
    serde_json::to_value(of).ok()
}

fn key(partition: &PartitionStatus) -> String {
    partition.partition.clone()
}

fn durable(queue: QueueSeen, me: &str, now: Millis) -> QueueStatus {
    QueueStatus {
        durable: true,
        tenant: queue.name.tenant.into(),
        key: queue.name.key.into(),
        target: queue.terms.target.into(),
        entries: queue.entries,
        running: queue.running,
        oldest_s: queue.oldest.map(|at| now.since(at) as f64 / 1e3),
        paused: queue.paused,
        waits_for: waits(queue.why),
        partition: Some(name_of(queue.partition)),
        replica: me.to_owned(),
    }
}

fn standing(line: LineSeen, me: &str, now: Millis) -> QueueStatus {
    QueueStatus {
        durable: false,
        tenant: line.name.tenant.into(),
        key: line.name.key.into(),
        target: line.target.into(),
        entries: Some(line.standing as u64),
        running: line.running,
        oldest_s: line.oldest.map(|at| now.since(at) as f64 / 1e3),
        paused: false,
        waits_for: waits(line.why),
        partition: None,
        replica: me.to_owned(),
    }
}

fn waits(why: Vec<(Class, queue::scheduler::Why)>) -> Vec<Waits> {
    let one = |(class, why)| Waits { class: Priority::of(class).name().to_owned(), what: why_in_words(why) };
    why.into_iter().map(one).collect()
}

fn sort(queues: &mut [QueueStatus], by: By) {
    let name = |queue: &QueueStatus| (queue.tenant.clone(), queue.key.clone(), queue.partition.clone());
    queues.sort_by(|one, other| {
        let first = match by {
            // None: nothing in it is ready, as far as is known.
            By::Age => {
                let age = |queue: &QueueStatus| queue.oldest_s.unwrap_or(-1.0);
                age(other).total_cmp(&age(one))
            }
            By::Depth => {
                let depth = |queue: &QueueStatus| queue.entries.unwrap_or(u64::MAX);
                depth(other).cmp(&depth(one))
            }
        };
        first.then_with(|| name(one).cmp(&name(other)))
    });
}

// === What is asked ===

/// The parameters of a question.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(text: &str) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(wrong(&name, "it is there twice"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    fn only(&self, allowed: &[&str]) -> Result<(), ApiError> {
        let Some((name, _)) = self.0.iter().find(|(name, _)| !allowed.contains(&name.as_str())) else {
            return Ok(());
        };
        let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        Err(wrong(name, &format!("there is no such parameter here; allowed are: {allowed}")))
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn filter(&self) -> Result<Filter, ApiError> {
        let by = match self.get("by") {
            None | Some("age") => By::Age,
            Some("depth") => By::Depth,
            Some(other) => return Err(wrong("by", &format!("found {other:?}; allowed are age and depth"))),
        };
        let tenant = self.get("tenant").map(str::to_owned);
        Ok(Filter { tenant, by, limit: self.number("limit", LIMIT, MOST)? })
    }

    fn number(&self, name: &str, default: usize, most: usize) -> Result<usize, ApiError> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| wrong(name, &format!("found {text:?}; allowed is 1 to {most}")))
    }

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(wrong(name, &format!("found {other:?}; allowed are true and false"))),
        }
    }

    fn outcome(&self) -> Result<Outcome, ApiError> {
        match self.get("outcome") {
            None | Some("failed") => Ok(Outcome::Failed),
            Some("cancelled") => Ok(Outcome::Cancelled),
            Some("expired") => Ok(Outcome::Expired),
            Some(other) => {
                Err(wrong("outcome", &format!("found {other:?}; allowed are failed, cancelled and expired")))
            }
        }
    }
}

fn name_of_queue(tenant: &str, key: &str) -> Result<QueueName, ApiError> {
    QueueName::new(&decoded(tenant), &decoded(key)).map_err(|error| ApiError::invalid(format!("{error}.")))
}

/// An entry's id, as it is or as that of a job.
fn id_of(text: &str) -> Result<EntryId, ApiError> {
    let id = text.strip_prefix("job_").unwrap_or(text);
    id.parse().map_err(|why: String| ApiError::invalid(format!("{why}.")))
}

fn wrong(param: &str, why: &str) -> ApiError {
    ApiError::Invalid { message: format!("{param}: {why}."), param: Some(param.to_owned()) }
}

fn unknown_word(word: &str, of: &str, known: &[&str]) -> ApiError {
    ApiError::UnknownPath(format!("`{word}`, to be done to {of}; what can be done is {}", known.join(", ")))
}

/// Names that somebody may have meant: at most three.
fn near(wanted: &str, names: &[String]) -> Vec<String> {
    let most = 2 + wanted.chars().count() / 4;
    let alike = names.iter().filter(|name| name.len().abs_diff(wanted.len()) <= 4 * most);
    let mut found: Vec<(usize, &String)> = alike.map(|name| (distance(wanted, name), name)).collect();
    found.retain(|(far, _)| *far <= most);
    found.sort();
    found.dedup();
    found.into_iter().take(3).map(|(_, name)| name.clone()).collect()
}

/// How many letters must be put in, left out or changed.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_somebody_may_have_meant_are_found() {
        let names = ["everybody/jobs/sim", "everybody/jobs/qwen", "acme/jobs/sim"].map(str::to_owned);
        let cases: [(&str, &[&str]); 4] = [
            ("everybody/job/sim", &["everybody/jobs/sim", "everybody/jobs/qwen"]),
            ("acme/jobs/sin", &["acme/jobs/sim"]),
            ("everybody/jobs/sim", &["everybody/jobs/sim", "everybody/jobs/qwen"]),
            ("zzz", &[]),
        ];
        for (wanted, expected) in cases {
            assert_eq!(near(wanted, &names), expected, "{wanted}");
        }
        for (one, other, far) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ä", "a", 1)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (far, far), "{one} {other}");
        }
    }

    #[test]
    fn questions_that_make_no_sense_say_what_would() {
        let wrong = |text: &str| Query::read(text).and_then(|query| query.only(&["limit"])).is_err();
        for text in ["limit=1&limit=2", "limt=1", "payload=true"] {
            assert!(wrong(text), "{text}");
        }
        let query = |text: &str| Query::read(text).unwrap();
        for (text, word) in [
            ("limit=0", "1 to"),
            ("limit=x", "1 to"),
            ("limit=99999999999", "1 to"),
            ("by=name", "age and depth"),
        ] {
            let error = query(text).filter().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let filter = query("by=depth&tenant=a%20b&limit=7").filter().unwrap();
        assert_eq!((filter.by, filter.tenant.as_deref(), filter.limit), (By::Depth, Some("a b"), 7));
        assert!(query("payload=yes").flag("payload").is_err());
        assert!(query("outcome=done").outcome().is_err());
    }
}
