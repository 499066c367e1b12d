//! A backend: shared state behind one function, and the factories by whose names settings choose one.

pub mod memory;
pub mod redis;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::error::Error;
use crate::name::Shard;
use crate::op::{Op, Reply};

/// One life of a shard's state, and how many changes it has seen. What goes backwards, or lives another life, has lost
/// something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Names the life.
    pub life: u64,
    /// Changes so far.
    pub changes: u64,
}

/// A question to a backend.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is asked.
    pub op: &'a Op,
    /// The furthest stand of this shard that the caller has seen. If the state is not at least there, the answer is
    /// [`Answer::Lost`] and nothing is done.
    pub seen: Option<Stand>,
    /// Names the life that begins if there is none, or if one is found to have gone back.
    pub new_life: u64,
}

/// What a backend says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It was done.
    Done(Stand, Reply),
    /// It was refused, and nothing was done.
    Refused(Stand, Error),
    /// The state is not what the caller has seen; nothing was done.
    Lost(Stand),
}

/// Something that listeners hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A notice of a shard.
    Notice(Shard, Bytes),
    /// Notices may have been lost: look again at whatever you wait for.
    Gap,
}

/// Shared state. Every call is atomic in the shard of its operation.
pub trait Backend: Send + Sync + 'static {
    /// Asks. An error says that there is no answer: [`Error::Unavailable`] if the call was certainly not done,
    /// [`Error::OutcomeUnknown`] if it may have been. One attempt should give up in a second or so: whoever asks may have
    /// the patience for another.
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, Error>>;

    /// Hears the notices of all shards from now on.
    fn hear(&self) -> broadcast::Receiver<Heard>;

    /// What it is and where, for people; never with a password in it.
    fn describe(&self) -> String;
}

/// Notices that a slow listener may be behind before it is told of a gap instead: each is under 1 KiB.
pub const MAX_UNHEARD: usize = 1_024;

/// What a person sets about coordination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `memory`, `redis`, or a name that was registered.
    pub backend: String,
    /// Where Redis is; see [`redis::Address`] for the forms.
    pub dsn: String,
    /// What every key begins with.
    pub key_prefix: String,
    /// How long state lives that nobody touches, in seconds; 0: for ever.
    pub ttl_sec: i64,
    /// The certificate authority that a TLS server must be signed by, as a PEM file; none: those of the system.
    pub ca_file: Option<std::path::PathBuf>,
    /// For backends of other makers.
    pub custom_params: BTreeMap<String, serde_json::Value>,
}

/// Makes a backend from settings.
pub type Factory = Arc<dyn Fn(&Config) -> BoxFuture<'static, Result<Arc<dyn Backend>, Error>> + Send + Sync>;

/// The backends that settings can name.
#[derive(Clone)]
pub struct Registry(BTreeMap<String, Factory>);

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: "memory".to_owned(),
            dsn: String::new(),
            key_prefix: "warmline:coord:".to_owned(),
            ttl_sec: 3_600,
            ca_file: None,
            custom_params: BTreeMap::new(),
        }
    }
}

impl Config {
    /// How long state lives that nobody touches; `None`: for ever.
    ///
    /// # Errors
    /// A negative time.
    pub fn ttl(&self) -> Result<Option<Duration>, Error> {
        match u64::try_from(self.ttl_sec) {
            Ok(0) => Ok(None),
            Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
            Err(_) => Err(Error::Invalid(format!(
                "ttl_sec: found {}; allowed is 0 (no expiry) or more",
                self.ttl_sec
            ))),
        }
    }

    /// What can be seen to be wrong without asking anybody.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        self.ttl()?;
        if self.key_prefix.is_empty()
            || self.key_prefix.len() > 64
            || self.key_prefix.chars().any(|c| c.is_whitespace() || c.is_control() || "{}".contains(c))
        {
            return Err(Error::Invalid(format!(
                "key_prefix: found {:?}; allowed are 1 to 64 characters without spaces and braces",
                self.key_prefix
            )));
        }
        if self.backend == "redis" {
            redis::Address::parse(&self.dsn)?;
        }
        Ok(())
    }
}

// === impl Registry ===

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// `memory` and `redis`.
    pub fn new() -> Self {
        let mut registry = Self(BTreeMap::new());
        registry.add("memory", |config: &Config| {
            let made = config.ttl().map(|ttl| Arc::new(memory::Memory::new(ttl)) as Arc<dyn Backend>);
            Box::pin(std::future::ready(made))
        });
        registry.add("redis", |config: &Config| {
            let config = config.clone();
            Box::pin(async move { Ok(Arc::new(redis::Redis::connect(&config)?) as Arc<dyn Backend>) })
        });
        registry
    }

    /// Makes `name` choosable.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        from_config: impl Fn(&Config) -> BoxFuture<'static, Result<Arc<dyn Backend>, Error>>
        + Send
        + Sync
        + 'static,
    ) {
        self.0.insert(name.into(), Arc::new(from_config));
    }

    /// The names that settings may use.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The backend that the settings name.
    ///
    /// # Errors
    /// Settings that make no sense, a name that nobody registered, or what the factory says.
    pub async fn make(&self, config: &Config) -> Result<Arc<dyn Backend>, Error> {
        let Some(factory) = self.0.get(&config.backend) else {
            return Err(Error::Invalid(format!(
                "backend: found `{}`; known are {}",
                config.backend,
                self.names().join(", ")
            )));
        };
        config.check()?;
        factory(config).await
    }
}

impl Heard {
    /// Made from nothing but words: `kind name …`.
    pub fn notice(shard: Shard, words: &[&str]) -> Self {
        Self::Notice(shard, words.join(" ").into())
    }
}
