//! The tiered store: what `warmline store` keeps, where, and how it treats its clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Durability, Link, Role, Size, Span};
use crate::endpoint;

/// What `warmline store` keeps, where, and how it treats its clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tiers {
    /// What this process does: `master`, `node`, or both.
    pub roles: Vec<Role>,
    /// Where clients connect with the Redis protocol. Anything but loopback wants `[[tenants]]` with keys.
    pub listen: SocketAddr,
    /// Where operators connect over HTTP.
    pub admin: SocketAddr,
    /// What this node is called for ever; none: what stands in the data folder, or chance.
    pub id: Option<String>,
    /// Where the disk's segments lie; none: memory only.
    pub folder: Option<PathBuf>,
    /// Bytes of values in memory. What is free in many parts takes up to an eighth more.
    pub memory: Size,
    /// Bytes on disk, all files together; objects take about four fifths of it.
    pub disk: Size,
    /// Whether an object counts as on disk when it is synced (`fsync`), or when the system has it (`write`).
    pub durability: Durability,
    /// When objects are written to disk: `at-commit`, `at-eviction`, `off`.
    pub offload: Offload,
    /// Eviction begins when more than so many thousandths of memory are taken.
    pub high: u32,
    /// And goes on until less than so many are.
    pub low: u32,
    /// How long what was just read from memory is not evicted.
    pub lease: Span,
    /// How long a value may take to arrive.
    pub put_patience: Span,
    /// How long a value waits for space that is being made.
    pub wait_patience: Span,
    /// The largest value.
    pub max_value: Size,
    /// Client connections at a time; one more is told so and closed.
    pub max_connections: usize,
    /// How long a client may stand still in the middle of a command, or take nothing of an answer.
    pub patience: Span,
    /// Whether `FLUSHALL` and `FLUSHDB` empty a tenant.
    pub flush: bool,
    /// Threads that serve clients; 0: one a core.
    pub threads: usize,
    /// Where gateways hear which blocks are there, such as `tcp://10.0.0.9:5571`; none: nobody is told.
    pub events: Option<String>,
    /// Where they ask for what they missed.
    pub replay: Option<String>,
    /// Tokens in a block, as in the engines that store here.
    pub block_size: u32,
    /// Bringing back to memory what is on disk and hot.
    pub promotion: Promotion,
    /// Where masters and nodes are, if not all in this process.
    pub link: Link,
    /// What each tenant may use, by its name.
    pub quotas: BTreeMap<String, Quota>,
}

/// When objects are written to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// At once: memory is free the moment it is needed.
    #[default]
    AtCommit,
    /// When memory is needed: fewer writes, and puts wait for them.
    AtEviction,
    /// Never.
    Off,
}

/// Bringing back to memory what is on disk and hot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Promotion {
    /// Without it nothing is counted, promoted or warmed.
    pub on: bool,
    /// Reads of an object on disk that make it hot, within the half-life; 1 to 255.
    pub threshold: u8,
    /// Whether what is hotter takes the place of what is colder when memory is full; else it waits until there is room.
    pub exchange: bool,
    /// How long until a read counts half.
    pub half_life: Span,
    /// Promotions under way at a time.
    pub at_a_time: usize,
    /// Refused ones that are tried again later, at a time.
    pub candidates: usize,
    /// How often each is tried again.
    pub retries: u32,
    /// How long after its last read.
    pub ttl: Span,
    /// How long before the first time; doubles with each.
    pub backoff: Span,
    /// The longest between two.
    pub backoff_most: Span,
}

/// What a tenant may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Bytes in memory; none: no bound.
    pub memory: Option<Size>,
    /// Bytes on disk; none: no bound.
    pub disk: Option<Size>,
    /// Its part beside others when there is too little; 0 counts as 1.
    pub weight: u32,
}

impl Default for Tiers {
    fn default() -> Self {
        let master = store::master::options::Options::default();
        Self {
            roles: vec![Role::Master, Role::Node],
            listen: SocketAddr::from(([127, 0, 0, 1], 6380)),
            admin: SocketAddr::from(([127, 0, 0, 1], 8082)),
            id: None,
            folder: None,
            memory: Size::mib(1024),
            disk: Size::mib(16 * 1024),
            durability: Durability::default(),
            offload: Offload::default(),
            high: master.high,
            low: master.low,
            lease: Span::millis(master.lease),
            put_patience: Span::millis(master.put_patience),
            wait_patience: Span::millis(master.wait_patience),
            max_value: Size::mib(128),
            max_connections: 10_000,
            patience: Span::seconds(20),
            flush: false,
            threads: 0,
            events: None,
            replay: None,
            block_size: 16,
            promotion: Promotion::default(),
            link: Link::default(),
            quotas: BTreeMap::new(),
        }
    }
}

impl Default for Promotion {
    fn default() -> Self {
        let store::master::options::Options { half_life, promotion, .. } =
            store::master::options::Options::default();
        Self {
            on: true,
            threshold: promotion.threshold,
            exchange: promotion.exchange,
            half_life: Span::millis(half_life),
            at_a_time: promotion.at_a_time,
            candidates: promotion.candidates,
            retries: promotion.retries,
            ttl: Span::millis(promotion.ttl),
            backoff: Span::millis(promotion.backoff),
            backoff_most: Span::millis(promotion.backoff_most),
        }
    }
}

impl Tiers {
    /// Whether this process does that.
    pub fn plays(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The keys that say something else in the other one, without those that count at once when they are read again.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let table = |tiers: &Self| toml::Table::try_from(tiers).unwrap_or_default();
        let (here, there) = (table(self), table(other));
        let keys = here.keys().chain(there.keys()).filter(|key| here.get(*key) != there.get(*key));
        let keys: std::collections::BTreeSet<_> =
            keys.filter(|key| !["promotion", "quotas"].contains(&key.as_str())).collect();
        keys.into_iter().map(|key| format!("tiers.{key}")).collect()
    }

    /// The first thing that makes no sense, in words.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let Self { memory, disk, high, low, max_value, promotion, .. } = self;
        if memory.get() < 1 << 20 {
            return Err(format!("tiers.memory: found {memory}; allowed is 1MiB or more"));
        }
        if self.folder.is_some() && disk.get() < 16 << 20 {
            return Err(format!("tiers.disk: found {disk}; allowed is 16MiB or more"));
        }
        if !(1..=1_000).contains(high) || low > high {
            return Err(format!(
                "tiers.high, tiers.low: found {high} and {low}; allowed are thousandths, low up to high"
            ));
        }
        if max_value.get() == 0 || max_value.get() > 1 << 30 {
            return Err(format!("tiers.max_value: found {max_value}; allowed is 1B to 1GiB"));
        }
        for (key, found) in [("events", &self.events), ("replay", &self.replay)] {
            found.as_deref().map_or(Ok(()), endpoint::check).map_err(|why| format!("tiers.{key}: {why}"))?;
        }
        if self.events.is_some() != self.replay.is_some() {
            return Err("tiers.events, tiers.replay: one is missing; whoever follows needs both".to_owned());
        }
        if !(1..=65_536).contains(&self.block_size) {
            return Err(format!("tiers.block_size: found {}; allowed is 1 to 65536", self.block_size));
        }
        if promotion.threshold == 0 {
            return Err("tiers.promotion.threshold: found 0; allowed is 1 to 255".to_owned());
        }
        self.link.check(&self.roles)?;
        if self.events.is_some() && !self.plays(Role::Master) {
            return Err(
                "tiers.events: what there is only a master tells; leave it out, or add the role master"
                    .to_owned(),
            );
        }
        if self.id.as_ref().is_some_and(|id| id.is_empty() || id.len() > 255) {
            return Err("tiers.id: allowed are 1 to 255 bytes".to_owned());
        }
        Ok(())
    }
}
