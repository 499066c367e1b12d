//! `warmline relay`: follows stock engines and tells all of it again, with snapshots, so that engines need no patch.

use std::net::SocketAddr;
use std::time::Duration;

use blocks::{View, Worker};
use clap::Args;
use events::follow::Source;
use events::publish::Settings;
use events::relay;

use super::output::{self, Failure};
use crate::endpoint;

/// Tells engines' event streams again, with snapshots for whoever comes late.
#[derive(Args)]
pub(super) struct Relay {
    /// Where an engine's events are, and where its replays are asked for:
    /// `tcp://10.0.0.5:5557,tcp://10.0.0.5:5558`. May be repeated.
    #[arg(long, required = true, value_name = "LIVE[,REPLAY]")]
    engine: Vec<String>,
    /// Where the first engine is told again; its replays as many ports higher as it has ranks, the next engine behind
    /// that, and so on. Port 0: any free ports.
    #[arg(long, default_value = "127.0.0.1:6557", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Data-parallel ranks of each engine, each with its own cache, its ports one higher than those of the one before.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    ranks: u32,
    /// Tokens in a block of these engines.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    block_size: u32,
    /// Batches that are given back one by one; whoever lacks more gets a snapshot.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    buffer_steps: u32,
    /// Milliseconds between two signs of life; listeners take five seconds without one for trouble.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=2_000))]
    heartbeat_ms: u32,
    /// Print where it listens as JSON, a line an engine.
    #[arg(long)]
    json: bool,
}

/// How often the state of the engines is looked at, to say when it changes.
const LOOK: Duration = Duration::from_millis(200);

impl Relay {
    pub(super) fn run(self) -> Result<(), Failure> {
        crate::telemetry::start(&crate::settings::Log::default()).map_err(Failure::Work)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let mut relays = Vec::new();
            for (number, engine) in self.engine.iter().enumerate() {
                for rank in 0..self.ranks {
                    let relay = self.start(number, engine, rank)?;
                    self.say(engine, rank, &relay)?;
                    relays.push((engine, rank, relay, View::Recovering));
                }
            }
            let mut look = tokio::time::interval(LOOK);
            let signal = super::serve::signal();
            tokio::pin!(signal);
            loop {
                tokio::select! {
                    () = &mut signal => return Ok(()),
                    _ = look.tick() => {}
                }
                for (engine, rank, relay, view) in &mut relays {
                    let status = relay.status();
                    if status.view != *view {
                        *view = status.view;
                        let trouble = status.trouble.unwrap_or_default();
                        tracing::info!(engine, rank, view = view.name(), sequence = ?status.last, trouble, "the view of an engine has changed");
                    }
                }
            }
        })
    }

    fn start(&self, number: usize, engine: &str, rank: u32) -> Result<relay::Relay, Failure> {
        let (live, replay) = match engine.split_once(',') {
            Some((live, replay)) => (live, Some(replay.trim().to_owned())),
            None => (engine, None),
        };
        for part in std::iter::once(live.trim()).chain(replay.as_deref()) {
            let wrong =
                |why| Failure::Input(format!("--engine {engine}: {why}, the replay's behind a comma"));
            endpoint::check(part).map_err(wrong)?;
        }
        let port = |rank: u32| match self.listen.port() {
            0 => Some(0),
            first => {
                u16::try_from(u64::from(first) + 2 * number as u64 * u64::from(self.ranks) + u64::from(rank))
                    .ok()
            }
        };
        let (Some(first), Some(second)) = (port(rank), port(self.ranks + rank)) else {
            return Err(Failure::Input(format!(
                "--listen {}: there are not enough ports above it",
                self.listen
            )));
        };
        let endpoint = |port| format!("tcp://{}", SocketAddr::new(self.listen.ip(), port));
        let settings = Settings {
            buffer_steps: self.buffer_steps as usize,
            heartbeat: Duration::from_millis(self.heartbeat_ms.into()),
            ..Settings::of_relay(endpoint(first), endpoint(second), self.block_size)
        };
        let worker = Worker { instance: number as u64, rank };
        let source = Source {
            worker,
            endpoint: endpoint::nth(live.trim(), rank),
            bind: endpoint::binds(live),
            replay: replay.map(|replay| endpoint::nth(&replay, rank)),
            topic: String::new(),
        };
        relay::Relay::start(source, settings).map_err(|error| Failure::Work(error.to_string()))
    }

    fn say(&self, engine: &str, rank: u32, relay: &relay::Relay) -> Result<(), Failure> {
        let (live, replay) = (relay.endpoint(), relay.replay_endpoint());
        if self.json {
            let place = serde_json::json!({"engine": engine, "rank": rank, "events": live, "replay": replay});
            return output::line(&place.to_string());
        }
        let rank = if self.ranks > 1 { format!(" rank {rank}") } else { String::new() };
        output::line(&format!("{engine}{rank} is told again at {live}, replays and snapshots at {replay}"))
    }
}
