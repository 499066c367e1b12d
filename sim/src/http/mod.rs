//! A simulated engine behind OpenAI's API, in real time, with its KV events and its faults.

mod actor;
mod answer;
mod api;
mod behind;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use events::stock::{self, Publisher};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::engine::Shape;

pub use behind::{Behind, Offload, Soon, Written};

/// How a simulated engine is set up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The model's name.
    pub model: String,
    /// LoRA adapters, served as further models.
    pub loras: Vec<String>,
    /// The machine inside.
    pub shape: Shape,
    /// How much faster than its price list it runs.
    pub speed: f64,
    /// Where its KV events are published; none: nowhere.
    pub events: Option<String>,
    /// Where replays are asked for.
    pub replay: Option<String>,
    /// The topic of its KV events.
    pub topic: String,
    /// Batches that a replay can give back.
    pub buffer_steps: usize,
    /// The longest prompt and answer together.
    pub max_model_len: usize,
    /// What is wrong with it, from the start. `POST /sim/faults` changes it later.
    pub faults: Faults,
}

/// What is wrong with an engine: for tests of those who must live with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// This text stands before the first message: the template differs from what everybody believes.
    pub template_prefix: String,
    /// KV events are not published, and nobody can tell from the sequence.
    pub drop_events: bool,
    /// Requests are taken and never answered.
    pub hang: bool,
    /// Connections break after so many tokens of an answer.
    pub die_after: Option<usize>,
    /// Answers are not what they say they are.
    pub garbage: bool,
    /// Every request is answered with this status.
    pub status: Option<u16>,
}

/// A running engine; it stops when dropped, and its connections break.
pub struct Running {
    address: SocketAddr,
    events: Option<String>,
    replay: Option<String>,
    task: JoinHandle<()>,
}

/// What a connection's handler needs to know.
struct Shared {
    settings: Settings,
    faults: std::sync::Mutex<Faults>,
    actor: actor::Handle,
    events: Option<String>,
    replay: Option<String>,
    started: Duration,
}

/// Starts an engine; it serves from when this returns.
///
/// # Errors
/// An address that cannot be bound, in words.
pub async fn serve(settings: Settings) -> Result<Running, String> {
    serve_before(settings, None).await
}

/// The same, with a tier behind its cache; how it is used is [`Shape::second`], as usual unless that says otherwise.
///
/// # Errors
/// An address that cannot be bound, in words.
pub async fn serve_before(mut settings: Settings, behind: Option<Behind>) -> Result<Running, String> {
    // Without one, nobody would answer what the engine asks.
    settings.shape.second = behind.is_some().then(|| settings.shape.second.unwrap_or_default());
    let listener = TcpListener::bind(settings.listen).await;
    let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", settings.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let publisher = match &settings.events {
        Some(endpoint) => {
            let (endpoint, replay, topic) =
                (endpoint.clone(), settings.replay.clone(), settings.topic.clone());
            let buffer_steps = settings.buffer_steps;
            Some(Publisher::start(stock::Settings { endpoint, replay, topic, buffer_steps }).await?)
        }
        None => None,
    };
    let events = publisher.as_ref().map(|publisher| publisher.endpoint().to_owned());
    let replay = publisher.as_ref().and_then(|publisher| publisher.replay_endpoint().map(str::to_owned));
    let drop_events = settings.faults.drop_events;
    let faults = std::sync::Mutex::new(settings.faults.clone());
    let actor = actor::start(settings.shape.clone(), settings.speed, publisher, behind);
    actor.gauges.drop_events.store(drop_events, std::sync::atomic::Ordering::Relaxed);
    let shared =
        Shared { settings, faults, actor, events: events.clone(), replay: replay.clone(), started: unix() };
    let task = tokio::spawn(accept(listener, Arc::new(shared)));
    Ok(Running { address, events, replay, task })
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropping the set with this task breaks every connection, as the death of a process would.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let shared = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| api::handle(shared.clone(), request));
                    let mut http = http1::Builder::new();
                    http.timer(TokioTimer::new()).keep_alive(true);
                    // A connection that breaks is the business of whoever broke it.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

// === impl Running ===

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where its KV events are published.
    pub fn events(&self) -> Option<&str> {
        self.events.as_deref()
    }

    /// Where replays are asked for.
    pub fn replay(&self) -> Option<&str> {
        self.replay.as_deref()
    }

    /// Runs until it is stopped from elsewhere.
    pub async fn wait(mut self) {
        // The task ends only if it is aborted or panics; either way there is nothing left to wait for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn faults(&self) -> Faults {
        self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            model: "sim".to_owned(),
            loras: Vec::new(),
            shape: Shape::default(),
            speed: 1.0,
            events: Some("tcp://127.0.0.1:0".to_owned()),
            replay: Some("tcp://127.0.0.1:0".to_owned()),
            topic: String::new(),
            buffer_steps: 10_000,
            max_model_len: 131_072,
            faults: Faults::default(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "an engine's events carry wall time")]
fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "the shell is where time comes in")]
fn clock() -> Instant {
    Instant::now()
}
