//! `warmline demo`: the main job on this machine, with nothing installed: three simulated engines, the gateway, a store, a load.

mod show;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sim::engine::Shape;
use sim::http::Behind;
use sim::load::{self, Sample, Samples};
use sim::talk::{self, Conversation};

use crate::behind::{Options, Shelf};
use crate::settings::{Engine, Model, Policy, Settings, Size};
use crate::store::Whole;
use crate::wiring::{self, Running};

/// What the demo is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Engines.
    pub engines: usize,
    /// Users who talk at the same time.
    pub users: usize,
    /// What each says, and answers it waits for.
    pub turns: usize,
    /// Where the gateway should listen in the end.
    pub listen: SocketAddr,
    /// Where its admin listener should be.
    pub admin: SocketAddr,
    /// Makes the story.
    pub seed: u64,
}

/// What one policy came to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Phase {
    /// The policy.
    pub policy: Policy,
    /// Requests that were answered.
    pub requests: usize,
    /// Requests that failed.
    pub failed: usize,
    /// Prompt tokens found in the engines' caches over prompt tokens.
    pub cached_token_ratio: f64,
    /// Times to first token in milliseconds: median, nine of ten, ninety-nine of a hundred.
    pub ttft_ms: [f64; 3],
    /// Requests that each engine answered.
    pub served: Vec<usize>,
    /// What the store did, if there was one.
    pub store: Option<Tiers>,
}

/// What a store did behind the engines.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Tiers {
    /// Blocks that it holds.
    pub blocks: u64,
    /// Bytes of them in memory.
    pub memory_bytes: u64,
    /// Bytes of them on disk.
    pub disk_bytes: u64,
    /// Blocks that engines read from its memory.
    pub read_from_memory: u64,
    /// Blocks that engines read from its disk.
    pub read_from_disk: u64,
    /// Blocks that were brought back to memory.
    pub promoted: u64,
    /// Blocks that requests in line asked for before their turn.
    pub warmed: u64,
    /// Of these, how many were in memory in time.
    pub warmed_in_time: u64,
    /// Of these, how many came too late.
    pub warmed_late: u64,
}

/// A fleet that runs, until it is dropped.
pub struct Scene {
    running: Running,
    engines: Vec<sim::http::Running>,
    store: Option<Whole>,
    folder: PathBuf,
}

/// Blocks in the cache of one engine: less than all conversations need, more than a third of them.
const CACHE_BLOCKS: usize = 3_000;
/// Requests at a time on one engine: fewer than there are users for it, so that some stand in line.
const IN_FLIGHT: usize = 8;
/// Bytes of a token's keys and values; a real model has a thousand times as many.
const BYTES_A_TOKEN: usize = 128;
/// What the store has in memory: a third or so of what all conversations leave there; the rest is on disk.
const STORE_MEMORY: Size = Size::mib(8);
/// More than all of it.
const STORE_DISK: Size = Size::mib(256);
/// How long the views may take to become exact before the load begins.
const GET_READY: Duration = Duration::from_secs(10);

/// Plays the load round-robin, then warm, then warm with a store behind the engines, on fresh engines each; the last scene is left
/// running.
///
/// # Errors
/// What stood in the way, in words.
pub async fn play(plan: &Plan) -> Result<(Vec<Phase>, Scene), String> {
    let conversations = talk::conversations(&talk::Settings {
        users: plan.users,
        turns: plan.turns,
        seed: plan.seed,
        ..talk::Settings::default()
    });
    let mut phases = Vec::new();
    for policy in [Policy::RoundRobin, Policy::Warm] {
        let scene = Scene::open(plan, policy, false, None).await?;
        phases.push(scene.phase(policy, &conversations).await);
    }
    let last = Scene::open(plan, Policy::Warm, true, Some((plan.listen, plan.admin))).await?;
    phases.push(last.phase(Policy::Warm, &conversations).await);
    Ok((phases, last))
}

pub use show::{chart, table, tiers};

// === impl Scene ===

impl Scene {
    async fn open(
        plan: &Plan,
        policy: Policy,
        with_store: bool,
        listen: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<Self, String> {
        let folder = model_files(policy)?;
        let store = if with_store { Some(open_store(&folder).await?) } else { None };
        let behind = store.as_ref().map(|store| Behind {
            offload: Arc::new(Shelf::new(Options::new(&store.address.to_string(), "sim"))),
            bytes_a_token: BYTES_A_TOKEN,
        });
        let mut engines = Vec::new();
        for number in 0..plan.engines as u64 {
            let shape = Shape { blocks: CACHE_BLOCKS, hash_seed: number + 1, ..Shape::default() };
            let settings = sim::http::Settings { shape, ..sim::http::Settings::default() };
            engines.push(sim::http::serve_before(settings, behind.clone()).await?);
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = settings(&engines, policy, &folder);
        if let Some(store) = &store {
            settings.store.address = Some(store.address.to_string());
            settings.store.events = Some(events(&folder));
            settings.store.replay = Some(replay(&folder));
        }
        (settings.gateway.listen, settings.admin.listen) = listen.unwrap_or((any, any));
        let running = match wiring::start(settings.clone()).await {
            Ok(running) => running,
            // Somebody else listens there: any other port shows the same.
            Err(_) if listen.is_some() => {
                (settings.gateway.listen, settings.admin.listen) = (any, any);
                wiring::start(settings).await?
            }
            Err(why) => return Err(why),
        };
        let scene = Self { running, engines, store, folder };
        scene.get_ready().await?;
        Ok(scene)
    }

    async fn get_ready(&self) -> Result<(), String> {
        let ready = async {
            while self.running.fleet().waiting_for().is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(GET_READY, ready).await;
        waited.map_err(|_| self.running.fleet().waiting_for().unwrap_or_default())
    }

    async fn phase(&self, policy: Policy, conversations: &[Conversation]) -> Phase {
        let samples: Samples = Arc::new(Mutex::new(Vec::new()));
        let all = conversations.iter().map(|conversation| conversation.turns.len()).sum();
        let load = load::Settings {
            authority: self.running.address().to_string(),
            model: "sim".to_owned(),
            answer_tokens: talk::Settings::default().answer_tokens,
            pause: Duration::from_millis(300),
        };
        let playing = load::play(load, conversations.to_vec(), samples.clone());
        tokio::pin!(playing);
        let mut look = tokio::time::interval(Duration::from_millis(500));
        let mut progress = show::Progress::new(all);
        loop {
            tokio::select! {
                () = &mut playing => break,
                _ = look.tick() => progress.show(&self.sum_up(policy, &samples)),
            }
        }
        let phase = self.sum_up(policy, &samples);
        progress.finish(&phase);
        phase
    }

    fn sum_up(&self, policy: Policy, samples: &Samples) -> Phase {
        let samples = samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let good: Vec<&Sample> = samples.iter().filter(|sample| sample.error.is_none()).collect();
        let mut ttft: Vec<f64> = good.iter().map(|sample| sample.ttft.as_secs_f64() * 1e3).collect();
        ttft.sort_by(f64::total_cmp);
        let at = |part: f64| ttft.get((ttft.len().saturating_sub(1) as f64 * part).round() as usize).copied();
        let sum = |of: fn(&Sample) -> u64| good.iter().map(|sample| of(sample)).sum::<u64>() as f64;
        let served = (0..self.engines.len())
            .map(|number| good.iter().filter(|sample| sample.engine == name(number)).count())
            .collect();
        Phase {
            policy,
            requests: good.len(),
            failed: samples.len() - good.len(),
            cached_token_ratio: sum(|sample| sample.cached) / sum(|sample| sample.prompt).max(1.0),
            ttft_ms: [0.5, 0.9, 0.99].map(|part| at(part).unwrap_or(0.0)),
            served,
            store: self.store.as_ref().map(Tiers::of),
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// Where operators connect.
    pub fn admin(&self) -> SocketAddr {
        self.running.admin()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Two small files in the temporary folder; a leftover harms nobody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn name(number: usize) -> String {
    char::from(b'a' + (number % 26) as u8).to_string()
}

/// A store whose segments and sockets lie in this folder.
async fn open_store(folder: &Path) -> Result<Whole, String> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = Settings::default();
    let tiers = &mut settings.tiers;
    (tiers.listen, tiers.admin, tiers.folder) = (any, any, Some(folder.join("store")));
    (tiers.memory, tiers.disk) = (STORE_MEMORY, STORE_DISK);
    (tiers.events, tiers.replay) = (Some(events(folder)), Some(replay(folder)));
    crate::store::start_whole(&settings).await
}

fn events(folder: &Path) -> String {
    format!("ipc://{}", folder.join("store-events").display())
}

fn replay(folder: &Path) -> String {
    format!("ipc://{}", folder.join("store-replay").display())
}

impl Tiers {
    fn of(store: &Whole) -> Self {
        let master = store.local.master();
        let (counters, gauges) = (master.counters(), master.gauges());
        let nodes = master.node_list();
        let bytes = |of: fn(&store::master::NodeLook) -> u64| nodes.iter().map(of).sum();
        Self {
            blocks: gauges.objects,
            memory_bytes: bytes(|node| node.memory.here),
            disk_bytes: bytes(|node| node.disk.here),
            read_from_memory: counters.moves.hits_memory,
            read_from_disk: counters.moves.hits_disk,
            promoted: counters.promotions.completed,
            warmed: counters.warmed.asked,
            warmed_in_time: counters.warmed.in_time,
            warmed_late: counters.warmed.too_late,
        }
    }
}

fn settings(engines: &[sim::http::Running], policy: Policy, folder: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.routing.policy = policy;
    settings.routing.max_in_flight = IN_FLIGHT;
    settings.models = vec![Model {
        name: "sim".to_owned(),
        tokenizer: Some(folder.join("tokenizer.json")),
        chat_template: Some(folder.join("chat_template.jinja")),
        ..Model::default()
    }];
    let engine = |(number, engine): (usize, &sim::http::Running)| Engine {
        name: name(number),
        url: engine.url(),
        events: Some("auto".to_owned()),
        ..Engine::default()
    };
    settings.engines = engines.iter().enumerate().map(engine).collect();
    settings
}

/// Writes the simulated model's files where the gateway loads them, as it would any model's.
fn model_files(policy: Policy) -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("warmline-demo-{}-{policy:?}", std::process::id()));
    let wrong = |error: std::io::Error| format!("cannot write to {}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(wrong)?;
    std::fs::write(folder.join("tokenizer.json"), sim::model::tokenizer_json()).map_err(wrong)?;
    std::fs::write(folder.join("chat_template.jinja"), sim::model::CHAT_TEMPLATE).map_err(wrong)?;
    Ok(folder)
}
