//! The fleet as the gateway sees it: ask for a place, carry the ticket, hand it back with the outcome.
//!
//! Nothing here waits: a place is given or refused at once, from what is known now. What is known comes in
//! elsewhere: from the event streams, [`watch`] from probes, tickets from outcomes.

pub(crate) mod backlog;
mod breaker;
mod history;
mod member;
mod place;
pub(crate) mod shared;
mod status;
mod truth;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use blocks::TokensHash;
use http::HeaderValue;
use index::Index;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::journal::Journal;
use crate::settings::{self, Settings};
use crate::tokens::{Tokeniser, Way};

use member::Member;
pub use place::Ticket;
pub use truth::Mismatch;

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

/// A model of the settings.
pub struct Model {
    /// Its names and adapters.
    pub settings: settings::Model,
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
    /// Whether the answer begins as soon as the prompt is computed.
    pub streams: bool,
    /// The engine that the client insists on, by name.
    pub pinned: Option<&'a str>,
    /// Tokens that are expected of the answer.
    pub answer: u32,
    /// The hashes of the prompt's first blocks, where its tokens are not at hand; they stand for `prompt` tokens.
    pub hashes: Option<Hashes<'a>>,
    /// Engines that have failed this request.
    pub tried: Vec<EngineId>,
}

/// A prompt of which only the hashes of its first blocks are known.
#[derive(Clone, Copy, Debug)]
pub struct Hashes<'a> {
    /// Of each block alone.
    pub blocks: &'a [TokensHash],
    /// How many tokens a block has.
    pub block_size: u32,
    /// How many tokens the whole prompt has.
    pub prompt: u32,
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

/// All engines and models; cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

pub(crate) struct Inner {
    members: ArcSwap<Vec<Arc<Member>>>,
    /// Taken while the list of members changes; readers never wait.
    changing: Mutex<()>,
    next_id: AtomicU32,
    models: Vec<Arc<Model>>,
    index: Arc<Index>,
    settings: Settings,
    clock: Clock,
    journal: Journal,
    turn: AtomicU64,
    decided: Decided,
    replicas: std::sync::OnceLock<crate::replicas::Replicas>,
    shared: Option<shared::Shared>,
    /// Whoever waits for a place hears that one is free.
    freed: std::sync::OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Decisions so far, and what they cost in cache.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) by_why: [AtomicU64; 6],
    pub(crate) nobody: AtomicU64,
    /// Prompt tokens that the warmest engine had, and that the chosen one had.
    pub(crate) best_tokens: AtomicU64,
    pub(crate) chosen_tokens: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    /// Of these, what the chosen one could load from the store's memory, and from its disk.
    pub(crate) lent_tokens: [AtomicU64; 2],
}

// === impl Fleet ===

impl Fleet {
    /// The fleet of the settings. It follows and probes nobody yet: see [`watch`].
    ///
    /// # Errors
    /// An engine or a model that cannot be used, in words.
    pub fn new(settings: &Settings, index: Arc<Index>, clock: Clock) -> Result<Self, String> {
        let models = settings.models.iter().map(load).collect::<Result<_, _>>()?;
        let fleet = Self(Arc::new(Inner {
            members: ArcSwap::default(),
            changing: Mutex::new(()),
            next_id: AtomicU32::new(0),
            models,
            index,
            settings: settings.clone(),
            clock,
            journal: Journal::new(settings.routing.journal),
            turn: AtomicU64::new(0),
            decided: Decided::default(),
            replicas: std::sync::OnceLock::new(),
            shared: shared::Shared::new(&settings.store),
            freed: std::sync::OnceLock::new(),
        }));
        for (i, engine) in settings.engines.iter().enumerate() {
            fleet.add(engine.clone()).map_err(|why| format!("engines[{i}].{why}"))?;
        }
        Ok(fleet)
    }

    /// Who is told whenever a place is given back; said once.
    pub(crate) fn tell_freed(&self, freed: impl Fn() + Send + Sync + 'static) {
        let _twice = self.0.freed.set(Box::new(freed));
    }

    /// Something was given back.
    pub(crate) fn freed(&self) {
        if let Some(freed) = self.0.freed.get() {
            freed();
        }
    }

    /// Takes in one more engine.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn add(&self, engine: settings::Engine) -> Result<Arc<Member>, String> {
        let _changing = self.0.changing.lock();
        let members = self.0.members.load();
        if members.iter().any(|member| member.settings.name == engine.name) {
            return Err(format!("name: found `{}`, which another engine has already", engine.name));
        }
        let id = EngineId(self.0.next_id.fetch_add(1, Ordering::Relaxed));
        let member = Arc::new(Member::new(id, engine)?);
        let mut more = Vec::clone(&members);
        more.push(member.clone());
        self.0.members.store(Arc::new(more));
        Ok(member)
    }

    /// Lets an engine go: no new requests, no view. What runs there ends as it may.
    pub fn remove(&self, name: &str) -> bool {
        let _changing = self.0.changing.lock();
        let members = self.0.members.load();
        let Some(gone) = members.iter().find(|member| member.settings.name == name) else { return false };
        gone.followers.lock().clear();
        gone.draining.store(true, Ordering::Relaxed);
        for worker in &gone.workers {
            self.0.index.forget(*worker);
        }
        let left = members.iter().filter(|member| member.settings.name != name).cloned().collect();
        self.0.members.store(Arc::new(left));
        true
    }

    /// Stops or resumes sending new requests to an engine; whether it is there.
    pub fn drain(&self, name: &str, drain: bool) -> bool {
        let members = self.0.members.load();
        let found = members.iter().find(|member| member.settings.name == name);
        found.is_some_and(|member| {
            member.draining.store(drain, Ordering::Relaxed);
            true
        })
    }

    /// The model of this name, alias or adapter, if the settings say something about it.
    pub fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.0.models.iter().find(|model| model.answers_to(name))
    }

    /// Tokens in a block of the first engine that serves this model and tells what it has, and the adapter that it knows it
    /// by.
    pub fn block_size(&self, model: &str) -> Option<(u32, Option<String>)> {
        let members = self.0.members.load();
        let member = members.iter().find(|member| member.tells() && self.takes(member, model))?;
        Some((member.block_size.load(Ordering::Relaxed), self.adapter(member, model)))
    }

    /// The model that a name, alias or adapter stands for: requests of all of them contend for the same engines.
    pub fn target<'a>(&'a self, name: &'a str) -> &'a str {
        self.model(name).map_or(name, |model| &model.settings.name)
    }

    /// Whether anybody serves this model.
    pub fn serves(&self, model: &str) -> bool {
        self.0.members.load().iter().any(|member| self.takes(member, model))
    }

    /// Every name that a request may ask for, each once.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for member in self.0.members.load().iter() {
            names.extend(member.models.load().iter().cloned());
        }
        let served = |model: &&Arc<Model>| names.contains(&model.settings.name);
        let more: Vec<String> =
            self.0.models.iter().filter(served).flat_map(|model| model.settings.aliases.clone()).collect();
        names.extend(more);
        names.sort();
        names.dedup();
        names
    }

    /// An engine that serves this model and is well: for questions that any of them can answer.
    pub fn any(&self, model: Option<&str>) -> Option<Arc<Engine>> {
        let now = self.0.clock.now();
        let members = self.0.members.load();
        let well = |member: &&Arc<Member>| member.standing(now) == crate::route::Standing::Ready;
        let takes = |member: &&Arc<Member>| model.is_none_or(|model| self.takes(member, model));
        members.iter().filter(well).find(takes).map(|member| member.engine.clone())
    }

    /// Whether any engine tells what it has cached.
    pub fn anybody_tells(&self) -> bool {
        self.0.members.load().iter().any(|member| member.tells())
    }

    /// Requests that are being served now.
    pub fn in_flight(&self) -> u64 {
        let members = self.0.members.load();
        members.iter().map(|member| u64::from(member::Load::count(&member.load.in_flight))).sum()
    }

    /// Requests that engines have served for us.
    pub fn served(&self) -> u64 {
        self.0.members.load().iter().map(|member| member.load.served.load(Ordering::Relaxed)).sum()
    }

    /// What each engine has in hand for us: requests in flight, prompt tokens to compute, sequences that decode, tokens in
    /// flight.
    pub(crate) fn hands(&self) -> Vec<(Arc<str>, [u32; 4])> {
        let now = self.now();
        let hand = |member: &Arc<Member>| {
            let load = &member.load;
            let hand = [
                member::Load::count(&load.in_flight),
                load.backlog.lock().left(now),
                member::Load::count(&load.decoding),
                member::Load::count(&load.tokens),
            ];
            (member.engine.name.clone(), hand)
        };
        self.0.members.load().iter().map(hand).collect()
    }

    /// What each engine has in hand for other replicas, in the same order.
    pub(crate) fn others_have(&self, hand: impl Fn(&str) -> [u32; 4]) {
        for member in self.0.members.load().iter() {
            for (known, now) in member.load.others.iter().zip(hand(&member.engine.name)) {
                known.store(now, Ordering::Relaxed);
            }
        }
    }

    /// How an engine was registered.
    pub(crate) fn engine_settings(&self, name: &str) -> Option<settings::Engine> {
        let members = self.0.members.load();
        members.iter().find(|member| member.settings.name == name).map(|member| member.settings.clone())
    }

    /// The replicas that this one is among; the first word counts.
    pub(crate) fn join(&self, replicas: crate::replicas::Replicas) {
        let _first = self.0.replicas.set(replicas);
    }

    /// The replicas that this one is among.
    pub(crate) fn replicas(&self) -> Option<&crate::replicas::Replicas> {
        self.0.replicas.get()
    }

    /// The store that engines share, if there is one.
    pub(crate) fn shared(&self) -> Option<&shared::Shared> {
        self.0.shared.as_ref()
    }

    /// The last decisions.
    pub fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// The settings that it runs with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The clock that everything here runs by.
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    pub(crate) fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.0.members.load_full()
    }

    pub(crate) fn decided(&self) -> &Decided {
        &self.0.decided
    }

    pub(crate) fn index(&self) -> &Arc<Index> {
        &self.0.index
    }

    /// Whether a request for `model` can go to this engine: by its own name, an alias or an adapter's name.
    fn takes(&self, member: &Member, model: &str) -> bool {
        member.serves(model) || self.model(model).is_some_and(|known| member.serves(&known.settings.name))
    }

    /// The adapter that a model's name means, as the engines' events call it. An engine lists an adapter as a
    /// model; without word in the settings a name that is not the first of its list is taken for one.
    fn adapter(&self, member: &Member, model: &str) -> Option<String> {
        if let Some(known) = self.model(model) {
            return known.settings.loras.get(model).cloned();
        }
        let models = member.models.load();
        (models.first().map(String::as_str) != Some(model)).then(|| model.to_owned())
    }

    fn now(&self) -> Duration {
        self.0.clock.now()
    }
}

fn load(model: &settings::Model) -> Result<Arc<Model>, String> {
    let tokeniser = Tokeniser::load(model).map_err(|error| format!("models `{}`: {error}", model.name))?;
    Ok(Arc::new(Model { settings: model.clone(), tokeniser }))
}

impl Model {
    fn answers_to(&self, name: &str) -> bool {
        let settings::Model { name: own, aliases, loras, .. } = &self.settings;
        own == name || aliases.iter().any(|alias| alias == name) || loras.contains_key(name)
    }
}

impl Failure {
    /// The word this house uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "no connection",
            Self::BeforeFirstByte => "broke before its first byte",
            Self::Midway => "broke within its answer",
            Self::Timeout => "was silent for too long",
            Self::Garbage => "did not answer properly",
            Self::Overloaded => "is overloaded",
        }
    }
}
