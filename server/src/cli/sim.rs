//! `warmline sim`: simulated engines, for trying things out.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use sim::engine::second::Second;
use sim::http::{Behind, Faults, Settings, serve_before};

use super::output::{self, Failure};
use crate::behind::{Options, Shelf};

/// Simulated engines.
#[derive(Args)]
pub(super) struct Sim {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Run one simulated engine: OpenAI's API, a real prefix cache, KV events as vLLM publishes them.
    Engine(Box<Engine>),
    /// Write the simulated model's tokenizer.json and chat template into a folder.
    Model {
        /// The folder; it is made if need be.
        folder: std::path::PathBuf,
    },
}

#[derive(Args)]
struct Engine {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The model's name.
    #[arg(long, default_value = "sim")]
    model: String,
    /// A LoRA adapter, served as a further model. May be repeated.
    #[arg(long)]
    lora: Vec<String>,
    /// Where its KV events are published; `none` for nowhere.
    #[arg(long, default_value = "tcp://127.0.0.1:0", value_name = "ENDPOINT")]
    events: String,
    /// Where replays are asked for; `none` for no replay.
    #[arg(long, default_value = "tcp://127.0.0.1:0", value_name = "ENDPOINT")]
    replay: String,
    /// Batches that a replay can give back.
    #[arg(long, default_value_t = 10_000)]
    buffer_steps: usize,
    /// Tokens in a block.
    #[arg(long, default_value_t = 16)]
    block_size: usize,
    /// Blocks in its cache.
    #[arg(long, default_value_t = 50_000)]
    blocks: usize,
    /// Sequences that run at a time.
    #[arg(long, default_value_t = 256)]
    max_running: usize,
    /// How much faster than its price list it runs.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// Makes its block hashes unlike other engines'.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is wrong with it, as JSON, such as {"hang":true}; POST /sim/faults changes it later.
    #[arg(long, value_name = "JSON")]
    faults: Option<String>,
    /// A store in which it keeps its blocks, and from which it loads what it lacks: HOST:PORT of a node's Redis port.
    #[arg(long, value_name = "ADDRESS")]
    store: Option<String>,
    /// A file with TENANT:KEY for a store that asks for keys.
    #[arg(long, value_name = "FILE", requires = "store")]
    store_key_file: Option<std::path::PathBuf>,
    /// Bytes of keys and values that a token has in the store; 131072 is an 8B model's. 4 KiB if not said: enough to see it work.
    #[arg(long, default_value_t = 4_096, value_name = "N", requires = "store")]
    bytes_a_token: usize,
    /// How many times as long as computing a load from the store may take, before the rest is computed.
    #[arg(long, default_value_t = Second::default().patience, value_name = "TIMES", requires = "store")]
    load_patience: f64,
    /// Print where it listens as JSON.
    #[arg(long)]
    json: bool,
}

impl Sim {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Engine(engine) => engine.run(),
            What::Model { folder } => {
                std::fs::create_dir_all(&folder)?;
                std::fs::write(folder.join("tokenizer.json"), sim::model::tokenizer_json())?;
                std::fs::write(folder.join("chat_template.jinja"), sim::model::CHAT_TEMPLATE)?;
                output::line(&format!("wrote tokenizer.json and chat_template.jinja to {}", folder.display()))
            }
        }
    }
}

impl Engine {
    fn run(self) -> Result<(), Failure> {
        if !(1..=65_536).contains(&self.block_size) || self.blocks == 0 || self.max_running == 0 {
            return Err(Failure::Input(
                "--block-size is 1 to 65536, --blocks and --max-running at least 1".to_owned(),
            ));
        }
        if !(self.speed.is_finite() && self.speed > 0.0) {
            return Err(Failure::Input(format!("--speed: found {}; allowed is more than 0", self.speed)));
        }
        if self.bytes_a_token == 0 || self.bytes_a_token * self.block_size > MOST {
            return Err(Failure::Input(format!(
                "--bytes-a-token: found {}; a block of {} tokens is 1 byte to {MOST}",
                self.bytes_a_token, self.block_size
            )));
        }
        if !(self.load_patience.is_finite() && self.load_patience >= 0.0) {
            let found = self.load_patience;
            return Err(Failure::Input(format!("--load-patience: found {found}; allowed is 0 or more")));
        }
        let behind = self.behind()?;
        let faults = self.faults.as_deref().map(serde_json::from_str::<Faults>).transpose();
        let faults =
            faults.map_err(|error| Failure::Input(format!("--faults: {error}")))?.unwrap_or_default();
        let endpoint = |text: &str| (text != "none").then(|| text.to_owned());
        let mut settings = Settings {
            listen: self.listen,
            model: self.model.clone(),
            loras: self.lora.clone(),
            speed: self.speed,
            events: endpoint(&self.events),
            replay: endpoint(&self.replay),
            buffer_steps: self.buffer_steps,
            faults,
            ..Settings::default()
        };
        settings.shape.block_size = self.block_size;
        settings.shape.blocks = self.blocks;
        settings.shape.max_running = self.max_running;
        settings.shape.hash_seed = self.seed;
        settings.shape.second = Some(Second { patience: self.load_patience, ..Second::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let running = serve_before(settings, behind).await.map_err(Failure::Input)?;
            if self.json {
                let (events, replay) = (running.events(), running.replay());
                let place = serde_json::json!({"url": running.url(), "events": events, "replay": replay});
                output::line(&place.to_string())?;
            } else {
                let events = running.events().unwrap_or("nowhere");
                let replay = running.replay().unwrap_or("nowhere");
                output::line(&format!(
                    "a simulated engine at {}; KV events at {events}, replay at {replay}",
                    running.url()
                ))?;
            }
            tokio::select! {
                () = running.wait() => {}
                () = super::serve::signal() => {}
            }
            Ok(())
        })
    }

    /// The store, if there is one.
    fn behind(&self) -> Result<Option<Behind>, Failure> {
        let Some(address) = &self.store else { return Ok(None) };
        let key = self.store_key_file.as_deref().map(key_in).transpose()?;
        let options = Options { key, ..Options::new(address, &self.model) };
        let bytes_a_token = self.bytes_a_token;
        Ok(Some(Behind { offload: std::sync::Arc::new(Shelf::new(options)), bytes_a_token }))
    }
}

/// The largest value that a store takes unless it is told otherwise is no smaller.
const MOST: usize = 64 << 20;

/// The tenant and its key in a file.
fn key_in(path: &std::path::Path) -> Result<(String, String), Failure> {
    let wrong = |why: &str| Failure::Input(format!("--store-key-file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    let (tenant, key) = text.trim().split_once(':').ok_or_else(|| wrong("found no TENANT:KEY"))?;
    Ok((tenant.to_owned(), key.to_owned()))
}
