//! `warmline indexer`: who holds how much of a prefix, asked over HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::output::{self, Failure};
use crate::indexer::{self, Registration, Settings};

/// Follows engines and answers who holds how much of a prefix, with the API of Dynamo's standalone indexer.
///
/// Engines are registered with `POST /register`, or here with `--worker`. See docs/indexer.md.
#[derive(Args)]
pub(super) struct Indexer {
    /// Where it is asked.
    #[arg(long, default_value = "127.0.0.1:8090", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where it keeps who is registered, and, after an orderly end, what it knew.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Another indexer, such as http://10.0.0.6:8090, to begin with what it knows. May be repeated.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    peers: Vec<String>,
    /// An engine to follow: `7=tcp://10.0.0.5:5557,tcp://10.0.0.5:5558`, the replay socket behind the comma; a further
    /// rank is `7:1=…`. May be repeated.
    #[arg(long, value_name = "INSTANCE[:RANK]=LIVE[,REPLAY]", requires = "model_name")]
    worker: Vec<String>,
    /// What the engines of `--worker` serve.
    #[arg(long, value_name = "MODEL")]
    model_name: Option<String>,
    /// The group of the engines of `--worker`.
    #[arg(long, default_value = "default", value_name = "GROUP")]
    routing_group: String,
    /// Tokens in a block of the engines of `--worker`.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    block_size: u32,
    /// Threads that answer; 0: one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print where it listens as JSON.
    #[arg(long)]
    json: bool,
}

impl Indexer {
    pub(super) fn run(self) -> Result<(), Failure> {
        crate::telemetry::start(&crate::settings::Log::default()).map_err(Failure::Work)?;
        let streams = self.worker.iter().map(|worker| self.stream(worker)).collect::<Result<_, _>>()?;
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        if self.threads > 0 {
            runtime.worker_threads(self.threads);
        }
        let runtime = runtime.enable_all().build()?;
        let settings = Settings { listen: self.listen, data: self.data, peers: self.peers, streams };
        runtime.block_on(async {
            let indexer = indexer::Indexer::start(settings).await.map_err(Failure::Input)?;
            let address = indexer.address();
            if self.json {
                output::line(&serde_json::json!({"listen": address.to_string()}).to_string())?;
            } else {
                tracing::info!(streams = indexer.streams(), "asked at http://{address}; try: curl http://{address}/workers");
            }
            if !address.ip().is_loopback() {
                tracing::warn!(
                    "anybody who reaches {address} may register engines and ask: keep it within a network that you trust"
                );
            }
            super::serve::signal().await;
            indexer.stop().await.map_err(Failure::Work)
        })
    }

    fn stream(&self, worker: &str) -> Result<Registration, Failure> {
        let wrong = |why: &str| {
            Failure::Input(format!(
                "--worker {worker}: {why}; write INSTANCE[:RANK]=tcp://HOST:PORT[,tcp://HOST:PORT]"
            ))
        };
        let (name, places) = worker.split_once('=').ok_or_else(|| wrong("found no `=`"))?;
        let (instance, rank) = name.split_once(':').unwrap_or((name, "0"));
        let (live, replay) =
            places.split_once(',').map_or((places, None), |(live, replay)| (live, Some(replay)));
        Ok(Registration {
            instance_id: instance.trim().parse().map_err(|_| wrong("the instance is not a number"))?,
            dp_rank: rank.trim().parse().map_err(|_| wrong("the rank is not a number"))?,
            model_name: self.model_name.clone().unwrap_or_default(),
            routing_group: self.routing_group.clone(),
            block_size: self.block_size,
            endpoint: live.trim().to_owned(),
            replay_endpoint: replay.map(|replay| replay.trim().to_owned()),
        })
    }
}
