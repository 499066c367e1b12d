//! `warmline bench`: what the house claims, measured on this machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use sim::cost::Cost;
use sim::engine::Shape;
use sim::engine::second::Second;
use sim::trace;

use super::output::{self, Failure};
use crate::bench::{events, fair, gateway, indexer, queue, route, store, tiers};
use crate::settings::Routing;

/// Measure.
#[derive(Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Routing policies on the same load, in virtual time, against a router that knows everything.
    Route(Box<Route>),
    /// What the gateway costs a request, beside a bare proxy of the same HTTP library.
    Gateway(Gateway),
    /// Listeners that join an engine's event stream late, and what the stream costs.
    Events(Events),
    /// The indexer service over HTTP, perhaps beside somebody else's.
    Indexer(Indexer),
    /// Durable queues: enqueue, run and finish, every acknowledgement on disk; and the first start after a kill.
    Queue(Queue),
    /// The tiered store over its protocol, beside a raw TCP stream and redis-server.
    Store(Store),
    /// Who waits how long: the scheduler with tenants and engines in virtual time.
    Fair(Fair),
    /// Engines with a tiered store behind them, in virtual time: what promotion and warming are worth.
    Tiers(Box<Tiers>),
}

#[derive(Args)]
struct Queue {
    /// Items of the throughput.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    items: u32,
    /// Queues that they are spread over; each runs one at a time.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    queues: u32,
    /// Producers, each of which waits for its acknowledgement before it sends again.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    connections: u16,
    /// Items of the latency, one at a time.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sends: u32,
    /// Items that wait when the process is killed.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    queued: u32,
    /// Where the logs lie while it is measured, in a folder of their own [default: the current directory].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write the result as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What this process plays for another one that measures.
    #[arg(long, value_enum, hide = true, requires = "data")]
    play: Option<queue::Role>,
}

#[derive(Args)]
struct Store {
    /// Objects of the measurements that need many.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=50_000_000))]
    objects: u32,
    /// Rounds of each row; its rate is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Threads of ours that serve clients; 0: one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Where segments lie while it is measured, in a folder of their own [default: the current directory].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Fair {
    /// Breaks ties and draws sizes; the same seed gives the same answer.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Minutes of virtual time in which a small tenant and a large one send.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    minutes: u32,
    /// Queues of the tenant that has many, beside fifty of another.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queues: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Indexer {
    /// Blocks that the engine holds.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(70_000..=5_000_000))]
    blocks: u32,
    /// Seconds that each kind of question is asked.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Another indexer: a program that takes a port, such as the one that bench/peers/indexer builds.
    #[arg(long, value_name = "PROGRAM")]
    beside: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Events {
    /// Batches before anybody listens.
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    batches: u32,
    /// Blocks that the engine holds by then.
    #[arg(long, default_value_t = 90_000, value_parser = clap::value_parser!(u32).range(64..=10_000_000))]
    blocks: u32,
    /// Listeners that join at once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    listeners: u16,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Gateway {
    /// Client connections.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Seconds that each row is measured.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Streams at a time while their memory is measured; fewer where open files are limited.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=30_000))]
    streams: u16,
    /// Print the rows as JSON.
    #[arg(long)]
    json: bool,
    /// What this process plays for another one that measures.
    #[arg(long, value_enum, hide = true)]
    play: Option<gateway::Role>,
    /// Where it listens.
    #[arg(long, hide = true, default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
    /// The engine behind the bare proxy.
    #[arg(long, hide = true)]
    engine: Option<String>,
}

#[derive(Args)]
struct Route {
    /// A trace: a JSON object a line with timestamp, `input_length`, `output_length` and `hash_ids`.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Engines in the fleet.
    #[arg(long, default_value_t = 8)]
    engines: usize,
    /// How much faster the requests come than they were recorded.
    #[arg(long, default_value_t = 2.0)]
    time_scale: f64,
    /// Tokens in a block.
    #[arg(long, default_value_t = 16)]
    block_size: usize,
    /// Blocks in each engine's cache.
    #[arg(long, default_value_t = 50_000)]
    cache_blocks: usize,
    /// What a prompt token costs to compute.
    #[arg(long, default_value_t = Cost::default().prefill_us, value_name = "US")]
    prefill_us: f64,
    /// What a step costs, whatever it does.
    #[arg(long, default_value_t = Cost::default().step_us, value_name = "US")]
    step_us: f64,
    /// What each decoding sequence adds to a step.
    #[arg(long, default_value_t = Cost::default().decode_us, value_name = "US")]
    decode_us: f64,
    /// How long an engine's KV events take to reach the index.
    #[arg(long, default_value_t = 1_300, value_name = "US")]
    event_delay_us: u64,
    /// Blocks that `approximate` remembers of each engine. The default is the gateway's own bound; what an engine
    /// really holds is known only to those who are told.
    #[arg(long, default_value_t = 1 << 18)]
    history_blocks: usize,
    /// Breaks ties; the same seed gives the same answer.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Cost of one decoding sequence, in prompt tokens [setting: routing.decode_weight].
    #[arg(long)]
    decode_weight: Option<f64>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Tiers {
    /// A trace: a JSON object a line with timestamp, `input_length`, `output_length` and `hash_ids`.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Engines in the fleet.
    #[arg(long, default_value_t = 8)]
    engines: usize,
    /// How much faster the requests come than they were recorded.
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Requests that an engine has at a time; others stand in line.
    #[arg(long, default_value_t = 6)]
    in_flight: usize,
    /// Tokens in a block, of the engines and of the store.
    #[arg(long, default_value_t = 256)]
    block_size: usize,
    /// Tokens in each engine's cache.
    #[arg(long, default_value_t = 344_064)]
    cache_tokens: usize,
    /// What a prompt token costs to compute.
    #[arg(long, default_value_t = 154.0, value_name = "US")]
    prefill_us: f64,
    /// What a step costs, whatever it does.
    #[arg(long, default_value_t = 18_000.0, value_name = "US")]
    step_us: f64,
    /// What each decoding sequence adds to a step.
    #[arg(long, default_value_t = 100.0, value_name = "US")]
    decode_us: f64,
    /// Tokens that a step computes at most.
    #[arg(long, default_value_t = 2_048)]
    step_tokens: usize,
    /// Bytes of keys and values a token, in KiB.
    #[arg(long, default_value_t = 320, value_name = "KIB")]
    token_kib: u64,
    /// How many times as long as computing a load may take.
    #[arg(long, default_value_t = 1.0)]
    patience: f64,
    /// Nodes of the store.
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Memory of each node, in GB.
    #[arg(long, default_value_t = 500, value_name = "GB")]
    memory: u64,
    /// Disk of each node, in GB.
    #[arg(long, default_value_t = 10_000, value_name = "GB")]
    disk: u64,
    /// What each node's memory and network move, in GB/s.
    #[arg(long, default_value_t = 25.0, value_name = "GB")]
    link_rate: f64,
    /// What each node's disk moves, in GB/s, reads and writes together.
    #[arg(long, default_value_t = 8.0, value_name = "GB")]
    disk_rate: f64,
    /// The system's page cache of each node, in GB; 0 is what direct I/O would be.
    #[arg(long, default_value_t = 32, value_name = "GB")]
    page_cache: u64,
    /// Reads from disk that make a block hot [setting: store.promotion.threshold].
    #[arg(long, default_value_t = 2)]
    threshold: u8,
    /// Requests of the line whose prefixes are warmed, from its head on.
    #[arg(long, default_value_t = 64)]
    ahead: usize,
    /// Breaks ties; the same seed gives the same answer.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often the load is played, each time with the next seed; what is told is the mean.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    runs: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Route(route) => route.run(),
            What::Gateway(gateway) => gateway.run(),
            What::Events(events) => events.run(),
            What::Indexer(indexer) => indexer.run(),
            What::Queue(queue) => queue.run(),
            What::Store(store) => store.run(),
            What::Fair(fair) => fair.run(),
            What::Tiers(tiers) => tiers.run(),
        }
    }
}

impl Events {
    fn run(self) -> Result<(), Failure> {
        let plan = events::Plan {
            batches: self.batches as usize,
            blocks: self.blocks as usize,
            listeners: self.listeners.into(),
        };
        let measured = events::measure(plan, |what| eprintln!("  {what} …")).map_err(Failure::Work)?;
        if self.json { output::json(&measured) } else { output::line(events::table(&measured).trim_end()) }
    }
}

impl Indexer {
    fn run(self) -> Result<(), Failure> {
        let plan = indexer::Plan {
            blocks: self.blocks as usize,
            time: Duration::from_secs(self.seconds.into()),
            beside: self.beside,
        };
        let measured = indexer::measure(&plan, |what| eprintln!("  {what} …")).map_err(Failure::Work)?;
        if self.json { output::json(&measured) } else { output::line(indexer::table(&measured).trim_end()) }
    }
}

impl Queue {
    fn run(self) -> Result<(), Failure> {
        let plan = queue::Plan {
            items: self.items as usize,
            queues: self.queues as usize,
            connections: self.connections.into(),
            sends: self.sends as usize,
            queued: self.queued as usize,
        };
        let data = self.data.unwrap_or_else(|| PathBuf::from("."));
        if let Some(role) = self.play {
            return queue::play(role, plan, &data).map_err(Failure::Work);
        }
        // Before minutes are spent on it.
        let json = self.json.map(|path| match std::fs::File::create(&path) {
            Ok(file) => Ok(file),
            Err(error) => Err(Failure::Input(format!("--json {}: {error}", path.display()))),
        });
        let json = json.transpose()?;
        let folder = tempfile::Builder::new().prefix("warmline-bench-").tempdir_in(&data);
        let folder = folder.map_err(|error| Failure::Input(format!("--data {}: {error}", data.display())))?;
        let measured = queue::measure(plan, folder.path(), |what| eprintln!("  {what} …"));
        let measured = measured.map_err(Failure::Work)?;
        if let Some(file) = json {
            serde_json::to_writer_pretty(file, &measured)
                .map_err(|error| Failure::Work(error.to_string()))?;
        }
        output::line(queue::table(&measured, plan).trim_end())
    }
}

impl Store {
    fn run(self) -> Result<(), Failure> {
        let plan =
            store::Plan { objects: self.objects as usize, rounds: self.rounds.into(), threads: self.threads };
        let data = self.data.unwrap_or_else(|| PathBuf::from("."));
        let folder = tempfile::Builder::new().prefix("warmline-bench-").tempdir_in(&data);
        let folder = folder.map_err(|error| Failure::Input(format!("--data {}: {error}", data.display())))?;
        let measured = store::measure(plan, folder.path(), |what| eprintln!("  {what} …"));
        let measured = measured.map_err(Failure::Work)?;
        if self.json { output::json(&measured) } else { output::line(&measured.to_string()) }
    }
}

impl Fair {
    fn run(self) -> Result<(), Failure> {
        let queues = self.queues as usize;
        let measured = fair::measure(fair::Plan { seed: self.seed, minutes: self.minutes, queues });
        if self.json { output::json(&measured) } else { output::line(fair::table(&measured).trim_end()) }
    }
}

impl Gateway {
    fn run(self) -> Result<(), Failure> {
        if let Some(role) = self.play {
            return gateway::play(role, self.listen, self.engine).map_err(Failure::Work);
        }
        let folder = std::env::temp_dir().join(format!("warmline-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let plan = gateway::Plan {
            connections: self.connections.into(),
            time: Duration::from_secs(self.seconds.into()),
            streams: usize::from(self.streams).min(gateway::most_streams()),
        };
        if plan.streams < usize::from(self.streams) {
            eprintln!("open files are limited: {} streams at a time, not {}", plan.streams, self.streams);
        }
        let rows = gateway::measure(plan, &folder, |what| eprintln!("  {what} …"));
        // Three small files in the temporary folder; a leftover harms nobody.
        let _ = std::fs::remove_dir_all(&folder);
        let rows = rows.map_err(Failure::Work)?;
        if self.json { output::json(&rows) } else { output::line(gateway::table(&rows).trim_end()) }
    }
}

impl Route {
    fn run(self) -> Result<(), Failure> {
        self.check().map_err(Failure::Input)?;
        let path = self.trace.display();
        let file = std::fs::File::open(&self.trace)
            .map_err(|error| Failure::Input(format!("--trace {path}: {error}")))?;
        let mut requests = trace::read(std::io::BufReader::new(file), self.block_size)
            .map_err(|why| Failure::Input(format!("--trace {path}: {why}")))?;
        trace::scale(&mut requests, self.time_scale);
        let cost = Cost { step_us: self.step_us, prefill_us: self.prefill_us, decode_us: self.decode_us };
        let defaults = Routing::default();
        let plan = route::Plan {
            requests,
            engines: self.engines,
            shape: Shape { block_size: self.block_size, blocks: self.cache_blocks, cost, ..Shape::default() },
            event_delay: Duration::from_micros(self.event_delay_us),
            history_blocks: self.history_blocks,
            seed: self.seed,
            routing: Routing {
                decode_weight: self.decode_weight.unwrap_or(defaults.decode_weight),
                ..defaults
            },
        };
        eprintln!("{} requests on {} engines, in virtual time", plan.requests.len(), plan.engines);
        let result = route::measure(&plan, |name| eprintln!("  {name} …"));
        if self.json { output::json(&result) } else { output::line(route::table(&result).trim_end()) }
    }

    fn check(&self) -> Result<(), String> {
        let positive = [
            ("--time-scale", self.time_scale),
            ("--prefill-us", self.prefill_us),
            ("--step-us", self.step_us),
            ("--decode-us", self.decode_us),
        ];
        let ranges = [
            ("--engines", self.engines, 1024),
            ("--block-size", self.block_size, 512),
            ("--cache-blocks", self.cache_blocks, 1 << 26),
            ("--history-blocks", self.history_blocks, 1 << 26),
        ];
        sensible(&positive, &ranges, self.block_size)
    }
}

impl Tiers {
    fn run(self) -> Result<(), Failure> {
        self.check().map_err(Failure::Input)?;
        let wrong = |error: String| Failure::Input(format!("{}: {error}", self.trace.display()));
        let file = std::fs::File::open(&self.trace).map_err(|error| wrong(error.to_string()))?;
        let mut requests = trace::read(std::io::BufReader::new(file), self.block_size).map_err(wrong)?;
        trace::scale(&mut requests, self.time_scale);
        let shape = Shape {
            block_size: self.block_size,
            blocks: self.cache_tokens / self.block_size,
            step_tokens: self.step_tokens,
            cost: Cost { step_us: self.step_us, prefill_us: self.prefill_us, decode_us: self.decode_us },
            ..Shape::default()
        };
        let plan = tiers::Plan {
            requests,
            engines: self.engines,
            shape,
            second: Second { patience: self.patience, ..Second::default() },
            in_flight: self.in_flight,
            token_bytes: self.token_kib << 10,
            hardware: tiers::Hardware {
                nodes: self.nodes,
                memory: self.memory * 1_000_000_000,
                disk: self.disk * 1_000_000_000,
                link_rate: self.link_rate * 1e9,
                link_latency: Duration::from_micros(100),
                disk_rate: self.disk_rate * 1e9,
                disk_latency: Duration::from_micros(200),
                pages: self.page_cache * 1_000_000_000,
            },
            threshold: self.threshold,
            ahead: self.ahead,
            event_delay: Duration::from_micros(1_300),
            seed: self.seed,
            runs: self.runs,
            routing: Routing::default(),
        };
        eprintln!("{} requests on {} engines, in virtual time", plan.requests.len(), plan.engines);
        let result = tiers::measure(&plan, |name| eprintln!("  {name} …")).map_err(Failure::Work)?;
        if self.json { output::json(&result) } else { output::line(tiers::table(&result, &plan).trim_end()) }
    }

    fn check(&self) -> Result<(), String> {
        let positive = [
            ("--time-scale", self.time_scale),
            ("--prefill-us", self.prefill_us),
            ("--step-us", self.step_us),
            ("--decode-us", self.decode_us),
            ("--patience", self.patience),
            ("--link-rate", self.link_rate),
            ("--disk-rate", self.disk_rate),
        ];
        let ranges = [
            ("--engines", self.engines, 1024),
            ("--in-flight", self.in_flight, 1 << 20),
            ("--block-size", self.block_size, 512),
            ("--cache-tokens", self.cache_tokens, 1 << 30),
            ("--step-tokens", self.step_tokens, 1 << 20),
            ("--token-kib", self.token_kib as usize, 1 << 12),
            ("--nodes", self.nodes, 64),
            ("--memory", self.memory as usize, 1 << 20),
            ("--disk", self.disk as usize, 1 << 20),
            ("--threshold", self.threshold.into(), 255),
        ];
        sensible(&positive, &ranges, self.block_size)
    }
}

/// Whether numbers that were given as flags make sense: the flag and what was found, and the most that is allowed.
///
/// # Errors
/// The flag, what was found and what is allowed.
fn sensible(
    positive: &[(&str, f64)],
    ranges: &[(&str, usize, usize)],
    block_size: usize,
) -> Result<(), String> {
    for (flag, found) in positive {
        if !(found.is_finite() && *found > 0.0) {
            return Err(format!("{flag}: found {found}; allowed is more than 0"));
        }
    }
    for (flag, found, most) in ranges {
        if !(1..=*most).contains(found) {
            return Err(format!("{flag}: found {found}; allowed is 1 to {most}"));
        }
    }
    if 512 % block_size != 0 {
        return Err(format!("--block-size: found {block_size}; allowed is what divides the trace's 512"));
    }
    Ok(())
}
