//! `warmline status`, `explain` and `route`: an operator's questions to a running Warmline.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::client::Client;
use super::output::{self, Failure};
use super::queue::show_partitions;
use super::store_status;
use crate::admin::api::{Attempt, Considered, DryRun, EngineStatus, Explanation, Status};
use crate::posture::State;
use crate::settings::keys::first_line;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where the admin listener is.
#[derive(Args)]
pub(super) struct Door {
    /// The admin listener of a running Warmline.
    #[arg(long, default_value = "http://127.0.0.1:8081", env = "WARMLINE_ADMIN", value_name = "URL")]
    admin: String,
    /// A file with the key that it asks for.
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
}

/// Engines, views, load and confidence at a glance.
#[derive(Args)]
pub(super) struct StatusCommand {
    #[command(flatten)]
    door: Door,
    /// Show a tiered store instead: where its operators connect [setting: tiers.admin].
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "http://127.0.0.1:8082")]
    store: Option<String>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Why a request went where it went.
#[derive(Args)]
pub(super) struct Explain {
    /// The request's id (`x-request-id`); without one, the newest ids are listed.
    id: Option<String>,
    #[command(flatten)]
    door: Door,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Where a request would go now.
#[derive(Args)]
pub(super) struct Route {
    /// The request's body: JSON, @file, or @- for standard input.
    body: String,
    /// Only ask; nothing is sent. (There is no other way yet: the flag is what scripts will want to have said.)
    #[arg(long, required = true)]
    dry_run: bool,
    #[command(flatten)]
    door: Door,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

impl Door {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let key = self.admin_key_file.as_deref().map(|path| first_line("--admin-key-file", path));
        let key = key.transpose().map_err(Failure::Input)?;
        Ok(Client::new(&self.admin, key, TIMEOUT))
    }
}

impl StatusCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(admin) = self.store {
            return store_status::run(&Door { admin, ..self.door }.client()?, self.json);
        }
        let status: Status =
            self.door.client()?.get("/status").and_then(|answer| answer.parse()).map_err(Failure::Work)?;
        if self.json { output::json(&status) } else { output::line(show_status(&status).trim_end()) }
    }
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.door.client()?;
        let Some(id) = &self.id else {
            let ids: Vec<String> =
                client.get("/explain").and_then(|answer| answer.parse()).map_err(Failure::Work)?;
            return if self.json { output::json(&ids) } else { output::line(&ids.join("\n")) };
        };
        let path = format!("/explain/{id}");
        let found: Explanation =
            client.get(&path).and_then(|answer| answer.parse()).map_err(Failure::Work)?;
        if self.json { output::json(&found) } else { output::line(show_explanation(&found).trim_end()) }
    }
}

impl Route {
    pub(super) fn run(self) -> Result<(), Failure> {
        debug_assert!(self.dry_run, "the flag is required");
        let body = match self.body.strip_prefix('@') {
            Some("-") => {
                let mut body = Vec::new();
                std::io::stdin().lock().read_to_end(&mut body)?;
                body
            }
            Some(path) => {
                std::fs::read(path).map_err(|error| Failure::Input(format!("cannot read {path}: {error}")))?
            }
            None => self.body.clone().into_bytes(),
        };
        let answer = self.door.client()?.post("/route", &body).map_err(Failure::Work)?;
        let found: DryRun = answer.parse().map_err(Failure::Work)?;
        if self.json { output::json(&found) } else { output::line(show_dry_run(&found).trim_end()) }
    }
}

// === As people read it ===

fn show_status(status: &Status) -> String {
    let mut out = String::new();
    let ready = status.waiting_for.as_ref().map_or("ready".to_owned(), |why| format!("not ready: {why}"));
    let up = Duration::from_secs(status.uptime_s as u64);
    line(
        &mut out,
        format_args!("warmline {}, up {up:?}, {ready}; policy {}", status.version, word(&status.policy)),
    );
    line(
        &mut out,
        format_args!(
            "{} requests in flight; index: {} blocks, held {} times, {:.1} MiB",
            status.in_flight,
            status.index.blocks,
            status.index.held,
            status.index.heap_bytes as f64 / 1_048_576.0
        ),
    );
    show_waiting(&mut out, status);
    let name = status.engines.iter().map(|engine| engine.name.len()).max().unwrap_or(0).max(6);
    line(
        &mut out,
        format_args!(
            "{:<name$}  standing  view        seq        blocks   in flight  backlog  cached of prompt  confidence",
            "engine"
        ),
    );
    for engine in &status.engines {
        show_engine(&mut out, engine, name);
    }
    show_store(&mut out, status);
    show_replicas(&mut out, status);
    let open: Vec<_> = status.posture.iter().filter(|surface| surface.state == State::Open).collect();
    for surface in open {
        line(&mut out, format_args!("\nOPEN {} {}: {}", surface.name, surface.address, surface.advice));
    }
    out
}

fn show_store(out: &mut String, status: &Status) {
    let Some(store) = &status.store else { return };
    let view = &store.view;
    let reach = match (store.in_reach, &view.trouble) {
        (true, _) => format!("{} blocks, {}", view.blocks, view.view),
        (false, Some(why)) => format!("its events are lost ({why}); nothing of it counts"),
        (false, None) => "its events are lost; nothing of it counts".to_owned(),
    };
    line(out, format_args!("\nstore {}: {reach}", store.events));
    let Some(warming) = &store.warming else { return };
    let counts = &warming.counts;
    line(
        out,
        format_args!(
            "  warming: {} blocks for {} requests in line and {} jobs; in time {}, late {}, unused {}{}",
            warming.blocks,
            warming.requests,
            warming.jobs,
            counts.in_time_blocks,
            counts.late_blocks,
            counts.unused_blocks,
            warming.trouble.as_ref().map(|why| format!("; the store is away: {why}")).unwrap_or_default()
        ),
    );
    let of_jobs = &counts.of_jobs;
    if of_jobs.asked_blocks > 0 {
        line(
            out,
            format_args!(
                "    of these for jobs and lines of batches: in time {}, late {}, unused {}",
                of_jobs.in_time_blocks, of_jobs.late_blocks, of_jobs.unused_blocks
            ),
        );
    }
}

fn show_waiting(out: &mut String, status: &Status) {
    let waiting = &status.waiting;
    let entries = waiting.entries.map_or("being counted".to_owned(), |entries| entries.to_string());
    line(
        out,
        format_args!(
            "{} stand in line, {} run that had to wait; durable: {entries} entries in {} queues (warmline queue ls)",
            waiting.standing, waiting.running, waiting.queues
        ),
    );
    show_partitions(out, &waiting.partitions);
    out.push('\n');
}

fn show_replicas(out: &mut String, status: &Status) {
    let coordination = &status.coordination;
    line(out, format_args!("\nreplicas agree through {}", coordination.backend));
    if let Some(trouble) = &coordination.trouble {
        let heard = coordination.heard_s.map_or("never".to_owned(), |s| format!("{s:.0} s ago"));
        line(out, format_args!("! nothing new is known of the others (last heard {heard}): {trouble}"));
    }
    let name = status.replicas.iter().map(|one| one.instance.len()).max().unwrap_or(0).max(7);
    if !status.replicas.is_empty() {
        line(
            out,
            format_args!(
                "  {:<name$}  gateway                up       in flight  served     state",
                "replica"
            ),
        );
    }
    for one in &status.replicas {
        let mark = if one.me { '>' } else { ' ' };
        let state = one.waiting_for.as_ref().map_or("ready".to_owned(), |why| format!("not ready: {why}"));
        line(
            out,
            format_args!(
                "{mark} {:<name$}  {:<21}  {:<7}  {:<9}  {:<9}  {state}",
                one.instance,
                one.gateway,
                format!("{:?}", Duration::from_secs(one.uptime_s as u64)),
                one.in_flight,
                one.served
            ),
        );
    }
    for share in &coordination.shares {
        line(
            out,
            format_args!(
                "  tenant {}: {} in flight here, {} held of {} for all replicas",
                share.tenant, share.used, share.held, share.limit
            ),
        );
    }
}

fn show_engine(out: &mut String, engine: &EngineStatus, name: usize) {
    let view = engine.views.iter().map(|view| view.view.as_str()).max().unwrap_or("none");
    let sequence = engine.views.iter().filter_map(|view| view.sequence).max();
    let sequence = sequence.map_or("-".to_owned(), |sequence| sequence.to_string());
    let blocks: usize = engine.views.iter().map(|view| view.blocks).sum();
    let cached = 100.0 * engine.cached_tokens as f64 / engine.prompt_tokens.max(1) as f64;
    line(
        out,
        format_args!(
            "{:<name$}  {:<8}  {view:<10}  {sequence:<9}  {blocks:<7}  {:<9}  {:<7}  {cached:>5.1} %           {:>5.2}",
            engine.name,
            word(&engine.standing),
            engine.in_flight,
            engine.backlog_tokens,
            engine.confidence
        ),
    );
    if let Some(mismatch) = &engine.mismatch {
        line(
            out,
            format_args!(
                "{:name$}  ! our tokens and its own differ from token {} on; it is routed approximately\n{:name$}    {}",
                "", mismatch.position, "", mismatch.explanation
            ),
        );
    }
    let troubles = engine.trouble.iter().chain(engine.views.iter().filter_map(|view| view.trouble.as_ref()));
    for trouble in troubles {
        line(out, format_args!("{:name$}  ! {trouble}", ""));
    }
}

fn show_explanation(found: &Explanation) -> String {
    let mut out = String::new();
    line(
        &mut out,
        format_args!(
            "request {} for {}: {} prompt tokens ({}), policy {}",
            match &found.replica {
                Some(replica) => format!("{} on replica {replica}", found.id),
                None => found.id.clone(),
            },
            found.model,
            found.prompt_tokens,
            found.way.name(),
            word(&found.policy)
        ),
    );
    if let Some(waited) = found.waited_ms {
        let why = found.waited_for.as_deref().unwrap_or("nobody knows why");
        line(&mut out, format_args!("it stood in line for {waited:.0} ms: {why}"));
    }
    for (i, attempt) in found.attempts.iter().enumerate() {
        show_attempt(&mut out, i + 1, attempt);
    }
    let said = |tokens: Option<u32>| tokens.map_or("not known".to_owned(), |tokens| tokens.to_string());
    line(
        &mut out,
        format_args!(
            "cached tokens: predicted {}, reported by the engine {}",
            said(found.predicted_tokens),
            said(found.cached_tokens)
        ),
    );
    out
}

fn show_attempt(out: &mut String, number: usize, attempt: &Attempt) {
    let outcome = attempt.outcome.as_deref().unwrap_or("still going on");
    let time = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
    line(
        out,
        format_args!(
            "\nattempt {number}: {} because of {}; {outcome}; first byte {}, in all {}",
            attempt.engine,
            attempt.why.name(),
            time(attempt.first_byte_ms),
            time(attempt.total_ms)
        ),
    );
    show_candidates(out, &attempt.candidates, Some(&attempt.engine));
}

fn show_dry_run(found: &DryRun) -> String {
    let mut out = String::new();
    let engine = found.engine.as_deref().unwrap_or("nobody");
    let why = found.why.map_or("no engine may be chosen", crate::route::Why::name);
    line(
        &mut out,
        format_args!(
            "{engine}, because of {why}: {} prompt tokens ({}) for {}, policy {}",
            found.prompt_tokens,
            found.way.name(),
            found.model,
            word(&found.policy)
        ),
    );
    show_candidates(&mut out, &found.candidates, found.engine.as_deref());
    out
}

fn show_candidates(out: &mut String, candidates: &[Considered], chosen: Option<&str>) {
    let name = candidates.iter().map(|one| one.engine.len()).max().unwrap_or(0).max(6);
    line(
        out,
        format_args!(
            "  {:<name$}  standing  view        cached (device/host/any)  store (memory/disk)  trust  backlog  decoding  cost",
            "engine"
        ),
    );
    for one in candidates {
        let mark = if chosen == Some(&one.engine) { '>' } else { ' ' };
        let [device, host, any] = one.cached_tokens;
        line(
            out,
            format_args!(
                "{mark} {:<name$}  {:<8}  {:<10}  {:<24}  {:<19}  {:<5.2}  {:<7}  {:<8}  {:.0}",
                one.engine,
                word(&one.standing),
                one.view,
                format!("{device}/{host}/{any}"),
                format!("{}/{}", one.store_tokens[0], one.store_tokens[1]),
                one.trust,
                one.backlog_tokens,
                one.decoding,
                one.cost
            ),
        );
    }
}

pub(super) fn line(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{line}");
}

/// A word of an enum as the JSON says it.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
