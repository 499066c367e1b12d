//! The fleet as the gateway sees it: ask for a place, carry the ticket, hand it back with the outcome.
//!
//! Nothing here waits: a place is given or refused at once, from what is known now.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;

use crate::error::ApiError;
use crate::settings;
use crate::tokens::{Tokeniser, Way};

/// Names an engine for the lifetime of the process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineId(pub u32);

/// How to reach an engine.
#[derive(Debug)]
pub struct Engine {
    /// Its id.
    pub id: EngineId,
    /// Its name, for people.
    pub name: Arc<str>,
    /// `host:port`, to connect to.
    pub authority: Arc<str>,
    /// `Host`, as the engine expects it.
    pub host: HeaderValue,
    /// A path before `/v1`, without a slash at its end; usually empty.
    pub base_path: Arc<str>,
    /// `Authorization` for the engine, if it wants a key.
    pub bearer: Option<HeaderValue>,
}

/// A model that somebody serves.
pub struct Model {
    /// The name in the engines' own API.
    pub name: Arc<str>,
    /// Turns its prompts into tokens, if one is configured.
    pub tokeniser: Option<Tokeniser>,
}

/// One request's wish for an engine. Keep it over the attempts: it remembers what was tried.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The request id.
    pub id: &'a str,
    /// The model's name as the client wrote it.
    pub model: &'a str,
    /// The prompt's token ids; empty if `way` is [`Way::Bytes`].
    pub tokens: &'a [u32],
    /// The prompt's bytes, for approximate routing.
    pub bytes: &'a [u8],
    /// How the tokens were had.
    pub way: Way,
    /// Keeps its blocks apart from those of other salts.
    pub cache_salt: Option<&'a str>,
    /// The most tokens that the client wants back.
    pub max_tokens: Option<u32>,
    /// Names the conversation or user.
    pub session: Option<&'a str>,
    /// Engines that have failed this request.
    pub tried: Vec<EngineId>,
}

/// What the engine said about the tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Of these, found in the engine's cache; `None` if it does not say.
    pub cached: Option<u32>,
    /// Tokens of the answer.
    pub completion: u32,
}

/// How a placed request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The engine answered to the end (its own 4xx answers included: the engine is well).
    Served(Option<Usage>),
    /// The client went away; nobody's fault.
    ClientLeft,
    /// The engine could not be reached, broke off, hung, or answered 5xx.
    Failed(Failure),
}

/// How an engine failed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection.
    Connect,
    /// The connection broke before the first byte of an answer.
    BeforeFirstByte,
    /// It broke within an answer.
    Midway,
    /// It was silent for too long.
    Timeout,
    /// It answered with something that is not HTTP, or a 5xx.
    Garbage,
    /// It says that it is overloaded (429 or 503).
    Overloaded,
}

/// A request's place on an engine. Its load counts there until the ticket is handed back or dropped.
pub struct Ticket {
    engine: Arc<Engine>,
    route: HeaderValue,
    fleet: Arc<Inner>,
}

/// All engines and models; cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    engines: Vec<Arc<Engine>>,
    next: AtomicUsize,
    in_flight: AtomicUsize,
}

// === impl Fleet ===

impl Fleet {
    /// The fleet of the settings.
    ///
    /// # Errors
    /// An engine's URL that cannot be understood.
    pub fn new(settings: &settings::Settings) -> Result<Self, String> {
        let engines = settings.engines.iter().enumerate().map(engine).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Inner { engines, next: AtomicUsize::new(0), in_flight: AtomicUsize::new(0) })))
    }

    /// The model of this name, if anybody serves it.
    pub fn model(&self, _name: &str) -> Option<Arc<Model>> {
        None
    }

    /// An engine for this request, by what is warm and loaded now.
    ///
    /// # Errors
    /// [`ApiError::UnknownModel`], [`ApiError::Unavailable`] or [`ApiError::Busy`].
    pub fn place(&self, ask: &Ask<'_>, _now: Duration) -> Result<Ticket, ApiError> {
        let Inner { engines, next, in_flight } = &*self.0;
        let start = next.fetch_add(1, Ordering::Relaxed);
        let turn = (0..engines.len()).map(|i| &engines[(start + i) % engines.len()]);
        let engine = turn.into_iter().find(|engine| !ask.tried.contains(&engine.id)).ok_or_else(|| {
            ApiError::Unavailable { message: "No engine is left to try.".to_owned(), retry_after: 1 }
        })?;
        in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Ticket {
            engine: engine.clone(),
            route: HeaderValue::from_static("round-robin"),
            fleet: self.0.clone(),
        })
    }
}

fn engine((id, settings): (usize, &settings::Engine)) -> Result<Arc<Engine>, String> {
    let authority = settings.url.strip_prefix("http://").ok_or("an engine's url begins with http://")?;
    Ok(Arc::new(Engine {
        id: EngineId(id as u32),
        name: settings.name.as_str().into(),
        authority: authority.into(),
        host: HeaderValue::from_str(authority).map_err(|error| error.to_string())?,
        base_path: "".into(),
        bearer: None,
    }))
}

// === impl Ticket ===

impl Ticket {
    /// Where to send the request.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The value of `x-warmline-route`.
    pub fn route(&self) -> &HeaderValue {
        &self.route
    }

    /// The first byte of the answer's body has come: the prompt is computed, decoding has begun.
    pub fn first_byte(&mut self, _now: Duration) {}

    /// So many more tokens (roughly: events of the stream) have been answered.
    pub fn progressed(&mut self, _tokens: u32) {}

    /// Gives the place back.
    pub fn finish(self, _outcome: Outcome, _now: Duration) {}
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.fleet.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
