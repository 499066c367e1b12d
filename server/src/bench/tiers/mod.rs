//! `warmline bench tiers`: engines with a tiered store behind them, in virtual time: what promotion and warming are worth.
//!
//! Requests of a trace stand in a gateway's line until an engine has room (each takes so many at a time), are routed by the
//! real function, and run on simulated engines that offload what they compute and load what others have. The store's
//! decisions are those of the real master; what its nodes' memory and disks can do is a model: see [`depot`].

mod depot;
mod world;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sim::engine::Shape;
use sim::engine::second::Second;
use sim::trace::Request;
use store::master::counters::{Promotions, Warmed};

use self::depot::{Care, Depot};
pub use self::depot::{Hardware, Traffic};
use self::world::{Report, World};
use super::route::Times;
use crate::settings::Routing;

/// What is measured, and on what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The load.
    pub requests: Vec<Request>,
    /// Engines in the fleet.
    pub engines: usize,
    /// How each is built, without what is behind it.
    pub shape: Shape,
    /// How an engine uses the store.
    pub second: Second,
    /// Requests that an engine has at a time; others stand in line.
    pub in_flight: usize,
    /// Bytes of keys and values a token.
    pub token_bytes: u64,
    /// The store's machines.
    pub hardware: Hardware,
    /// Reads from disk that make a block hot.
    pub threshold: u8,
    /// Requests of the line, from its head on, whose prefixes are warmed.
    pub ahead: usize,
    /// How long an engine's news takes to reach the index.
    pub event_delay: Duration,
    /// Breaks ties: a choice between equals changes every later one, so a single run says little about a percent.
    pub seed: u64,
    /// How often the load is played, each time with the next seed; what is told is the mean.
    pub runs: u64,
    /// Weights.
    pub routing: Routing,
}

/// The result: a row a way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Result {
    /// Bytes of all full blocks of all prompts, each once.
    pub working_set: u64,
    /// By the way's name.
    pub ways: BTreeMap<String, Row>,
}

/// One way's result.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Times to first token, the line included.
    pub ttft_ms: Times,
    /// Between the least and the greatest mean of several runs.
    pub spread_ms: f64,
    /// Requests that were served.
    pub requests: u64,
    /// Of these, how many stood in line.
    pub stood: u64,
    /// How long those stood, on average.
    pub waited_ms: f64,
    /// Prompt tokens, and where they came from.
    pub tokens: Tokens,
    /// What the store did.
    pub store: Option<Store>,
}

/// Prompt tokens, by where they came from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tokens {
    /// All.
    pub prompt: u64,
    /// Found in the engine's own cache.
    pub device: u64,
    /// Loaded from a node's memory.
    pub memory: u64,
    /// Loaded from a node's disk.
    pub disk: u64,
    /// Computed.
    pub computed: u64,
}

/// What the store did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Store {
    /// What was moved.
    pub traffic: Traffic,
    /// Promotions that were begun, and those whose copy came to be in memory.
    pub promotions: u64,
    /// See `promotions`.
    pub promoted: u64,
    /// Promotions that were refused for now, tried again and begun then.
    pub retried: u64,
    /// Blocks that requests in line asked for.
    pub warm_asked: u64,
    /// In memory by the time that was hoped for.
    pub warm_in_time: u64,
    /// Not in memory by then.
    pub warm_late: u64,
    /// No longer wanted: their request went to an engine before they came.
    pub warm_cancelled: u64,
    /// Brought to memory, and left it unread.
    pub warm_unused: u64,
}

/// The ways in the order in which they are shown.
pub const WAYS: [&str; 5] = ["no-store", "store", "promotion", "warming", "all-in-memory"];

/// Runs every way; `progress` hears the name of each before it runs.
///
/// # Errors
/// A plan that the master refuses, in words.
pub fn measure(plan: &Plan, mut progress: impl FnMut(&str)) -> std::result::Result<Result, String> {
    let mut ways = BTreeMap::new();
    for name in WAYS {
        progress(name);
        let seeds = (0..plan.runs.max(1)).map(|run| plan.seed.wrapping_add(run));
        let rows: std::result::Result<Vec<Row>, String> =
            seeds.map(|seed| one(name, &Plan { seed, ..plan.clone() })).collect();
        ways.insert(name.to_owned(), mean(&rows?)?);
    }
    let blocks = plan.requests.iter().flat_map(|request| {
        let full = request.job.prompt / plan.shape.block_size;
        request.job.text.prefix_hashes.iter().take(full)
    });
    let distinct = blocks.collect::<HashSet<_>>().len() as u64;
    Ok(Result { working_set: distinct * plan.block_bytes(), ways })
}

/// Each number is the mean of those of the rows, and the spread that of their means.
fn mean(rows: &[Row]) -> std::result::Result<Row, String> {
    let wrong = |error: serde_json::Error| error.to_string();
    let values: std::result::Result<Vec<Value>, _> = rows.iter().map(serde_json::to_value).collect();
    let mut row: Row = serde_json::from_value(middle(&values.map_err(wrong)?)).map_err(wrong)?;
    let means = || rows.iter().map(|row| row.ttft_ms.mean);
    row.spread_ms = means().fold(0.0, f64::max) - means().fold(f64::INFINITY, f64::min);
    Ok(row)
}

/// The mean of values of one form, number by number.
fn middle(values: &[Value]) -> Value {
    match values {
        [Value::Object(first), ..] => {
            let of =
                |key: &String| values.iter().filter_map(|value| value.get(key)).cloned().collect::<Vec<_>>();
            Value::Object(first.keys().map(|key| (key.clone(), middle(&of(key)))).collect())
        }
        [Value::Number(first), ..] => {
            let sum: f64 = values.iter().filter_map(Value::as_f64).sum();
            let mean = sum / values.len() as f64;
            if first.is_f64() { mean.into() } else { (mean.round() as u64).into() }
        }
        [first, ..] => first.clone(),
        [] => Value::Null,
    }
}

fn one(name: &str, plan: &Plan) -> std::result::Result<Row, String> {
    let (hardware, care) = match name {
        // Memory for everything, and nothing to do on disk.
        "all-in-memory" => (Hardware { memory: 1 << 50, disk: 0, ..plan.hardware }, Care::Holds),
        "promotion" | "warming" => (plan.hardware, Care::Promotes(plan.threshold)),
        _ => (plan.hardware, Care::Holds),
    };
    let depot = match name {
        "no-store" => None,
        _ => Some(Depot::new(hardware, care, plan.block_bytes(), plan.engines)?),
    };
    let shape = Shape { second: depot.is_some().then_some(plan.second), ..plan.shape.clone() };
    let mut world = World::new(plan, &shape, depot, name == "warming");
    let report = world.run();
    let store = world.depot.as_mut().map(|depot| Store::of(depot, report.ends));
    Ok(Row::of(&report, store))
}

impl Plan {
    /// Bytes of a block.
    pub fn block_bytes(&self) -> u64 {
        self.shape.block_size as u64 * self.token_bytes
    }
}

impl Row {
    fn of(report: &Report, store: Option<Store>) -> Self {
        let millis = |time: f64| (time * 1e6).round() / 1e3;
        let quantile = |part: f64| {
            let last = report.ttft.len().saturating_sub(1);
            report.ttft.get((last as f64 * part).round() as usize).map_or(0.0, Duration::as_secs_f64)
        };
        let sum: f64 = report.ttft.iter().map(Duration::as_secs_f64).sum();
        let Report { prompt, device, memory, disk, .. } = *report;
        Self {
            ttft_ms: Times {
                mean: millis(sum / report.ttft.len().max(1) as f64),
                p50: millis(quantile(0.5)),
                p90: millis(quantile(0.9)),
                p99: millis(quantile(0.99)),
            },
            spread_ms: 0.0,
            requests: report.ttft.len() as u64,
            stood: report.stood,
            waited_ms: millis(report.waited.as_secs_f64() / report.stood.max(1) as f64),
            tokens: Tokens { prompt, device, memory, disk, computed: prompt - device - memory - disk },
            store,
        }
    }

    /// Prompt tokens that were not computed over prompt tokens.
    pub fn cached_ratio(&self) -> f64 {
        1.0 - self.tokens.computed as f64 / self.tokens.prompt.max(1) as f64
    }
}

impl Store {
    fn of(depot: &mut Depot, ends: Duration) -> Self {
        let traffic = depot.close(ends);
        let all = depot.master.counters();
        let Promotions { admitted, completed, .. } = all.promotions;
        let Warmed { asked, in_time, too_late, cancelled, never_used, .. } = all.warmed;
        Self {
            traffic,
            promotions: admitted,
            promoted: completed,
            retried: all.candidates.admitted,
            warm_asked: asked,
            warm_in_time: in_time,
            warm_late: too_late,
            warm_cancelled: cancelled,
            warm_unused: never_used,
        }
    }
}

/// The result as people read it.
pub fn table(result: &Result, plan: &Plan) -> String {
    use std::fmt::Write as _;
    const GB: f64 = 1e9;
    let mut out = String::new();
    let Hardware { nodes, memory, disk, link_rate, link_latency, disk_rate, disk_latency, pages } =
        plan.hardware;
    let gb = |bytes: u64| bytes as f64 / GB;
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{} engines of {:.0} GB of cache, {} requests each; blocks of {} tokens, {:.1} MB; a prompt token {:.0} us, \
         a step {:.1} ms + {:.0} us a sequence",
        plan.engines,
        gb(plan.shape.blocks as u64 * plan.block_bytes()),
        plan.in_flight,
        plan.shape.block_size,
        plan.block_bytes() as f64 / 1e6,
        plan.shape.cost.prefill_us,
        plan.shape.cost.step_us / 1e3,
        plan.shape.cost.decode_us,
    );
    let _ = writeln!(
        out,
        "{nodes} nodes of {:.0} GB of memory at {:.1} GB/s + {} us and {:.0} GB of disk at {:.1} GB/s + {} us behind {:.0} GB \
         of page cache; working set {:.0} GB",
        gb(memory),
        link_rate / GB,
        link_latency.as_micros(),
        gb(disk),
        disk_rate / GB,
        disk_latency.as_micros(),
        gb(pages),
        gb(result.working_set),
    );
    let _ = writeln!(
        out,
        "\n{:<14}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9} |{:>8}{:>8}{:>8}{:>8}{:>10}",
        "",
        "TTFT mean",
        "spread",
        "p50",
        "p90",
        "p99",
        "in line",
        "cached",
        "device",
        "memory",
        "disk",
        "computed"
    );
    let rows = || WAYS.iter().filter_map(|name| Some((name, result.ways.get(*name)?)));
    for (name, row) in rows() {
        let Times { mean, p50, p90, p99 } = row.ttft_ms;
        let spread = row.spread_ms;
        let line = row.waited_ms * row.stood as f64 / row.requests.max(1) as f64;
        let part = |tokens: u64| 100.0 * tokens as f64 / row.tokens.prompt.max(1) as f64;
        let Tokens { device, memory, disk, computed, .. } = row.tokens;
        let _ = writeln!(
            out,
            "{name:<14}{mean:>7.0} ms{spread:>7.0} ms{p50:>6.0} ms{p90:>6.0} ms{p99:>6.0} ms{line:>6.0} ms |{:>6.1} %{:>6.1} %{:>6.1} %{:>6.1} %{:>8.1} %",
            100.0 * row.cached_ratio(),
            part(device),
            part(memory),
            part(disk),
            part(computed),
        );
    }
    let _ = writeln!(
        out,
        "\n{:<14}{:>8}{:>9}{:>10}{:>10}{:>10}{:>10}{:>8}{:>8} | {:>9}{:>10}",
        "GB",
        "put",
        "dropped",
        "offloaded",
        "from mem.",
        "from disk",
        "promoted",
        "in vain",
        "stopped",
        "disk busy",
        "link busy"
    );
    for (name, row) in rows() {
        let Some(Store { traffic, .. }) = row.store else { continue };
        let Traffic { stopped, read_memory, read_disk, put, dropped, offloaded, promoted, in_vain, .. } =
            traffic;
        let _ = writeln!(
            out,
            "{name:<14}{:>8.0}{:>9.0}{:>10.0}{:>10.0}{:>10.0}{:>10.0}{:>8.0}{stopped:>8} | {:>7.1} %{:>8.1} %",
            gb(put),
            gb(dropped * plan.block_bytes()),
            gb(offloaded),
            gb(read_memory),
            gb(read_disk),
            gb(promoted),
            gb(in_vain),
            traffic.disk_busy as f64 / 10.0,
            traffic.link_busy as f64 / 10.0,
        );
    }
    let _ = writeln!(
        out,
        "\nblocks        promotions  retried   warmed: asked  in time     late  cancelled  unused"
    );
    for (name, row) in rows() {
        let Some(store) = row.store.filter(|store| store.promotions > 0) else { continue };
        let _ = writeln!(
            out,
            "{name:<14}{:>10}{:>9}{:>16}{:>9}{:>9}{:>11}{:>8}",
            store.promotions,
            store.retried,
            store.warm_asked,
            store.warm_in_time,
            store.warm_late,
            store.warm_cancelled,
            store.warm_unused,
        );
    }
    out
}

#[cfg(test)]
mod tests;
