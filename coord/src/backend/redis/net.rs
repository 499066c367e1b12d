//! Connections: which node has which shard, and what is known of a command whose answer did not come.
//!
//! The library only carries bytes. It is never asked to retry or to redirect: its cluster client repeats commands whose
//! answers were cut, and its clients stay on a server that has become a replica.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, Pipeline, RedisError, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::address::{Address, Kind};
use super::script::Names;
use crate::error::Error;
use crate::name::{SHARDS, Shard};

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// How long it may take to answer one command.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// After a failed connection nobody tries again for so long: whoever asks meanwhile hears at once that it is away.
const REST: Duration = Duration::from_millis(100);
/// How long a command waits for its keys to be together again while their slot moves, and how often it looks.
const TOGETHER: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(20);
/// Redirections that one command follows: a slot on its way has two, and a map may be old.
const REDIRECTIONS: usize = 5;

/// All nodes that have been of use.
pub(super) struct Net {
    address: Address,
    ca: Option<Vec<u8>>,
    /// `host:port` of the node that has each shard, as far as known.
    routes: parking_lot::Mutex<Vec<Option<String>>>,
    slots: Vec<u16>,
    nodes: parking_lot::Mutex<HashMap<String, Arc<Node>>>,
    /// Taken while routes are asked for, so that one asks for all.
    asking: Mutex<()>,
}

struct Node {
    client: Client,
    place: Mutex<Place>,
    /// Since when the connection of this number has been asked without having answered anything.
    mute: parking_lot::Mutex<Option<(u64, Instant)>>,
}

#[derive(Default)]
struct Place {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that a broken one is dropped once.
    number: u64,
    failed: Option<(Instant, String)>,
}

/// A connection and what to call it when it breaks.
struct Line {
    node: Arc<Node>,
    connection: MultiplexedConnection,
    number: u64,
}

/// What became of a command.
enum Fate {
    Answered(Value),
    /// The slot is elsewhere, for good or for this command.
    Elsewhere {
        host: String,
        asking: bool,
    },
    /// Its keys lie on both sides of a move at the moment; nothing was done.
    Apart(String),
    /// This node may not write any more.
    Deposed(String),
    /// The script is not known there.
    NoScript,
    /// The server said no before doing anything.
    Refused(Error),
    /// Nobody knows.
    Unknown,
}

impl Net {
    pub(super) fn new(address: Address, ca: Option<Vec<u8>>, names: &Names) -> Self {
        Self {
            address,
            ca,
            routes: parking_lot::Mutex::new(vec![None; usize::from(SHARDS)]),
            slots: Shard::all().map(|shard| names.slot(shard)).collect(),
            nodes: parking_lot::Mutex::default(),
            asking: Mutex::new(()),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Runs a script where its shard is. `known` calls it by its hash, `whole` brings its code along.
    pub(super) async fn run(
        &self,
        shard: Shard,
        known: redis::Cmd,
        whole: impl Fn() -> redis::Cmd,
        op: &'static str,
    ) -> Result<Value, Error> {
        let mut detour: Option<String> = None;
        let mut command = known;
        let began = Instant::now();
        let mut redirections = 0;
        while redirections < REDIRECTIONS {
            redirections += 1;
            let asking = detour.is_some();
            let host = match detour.take() {
                Some(host) => host,
                None => self.route(shard).await?,
            };
            let line = match self.line(&host).await {
                Ok(line) => line,
                Err(error) => {
                    self.forget(&host);
                    return Err(error);
                }
            };
            match self.send(line, &command, asking, op).await {
                Fate::Answered(value) => return Ok(value),
                Fate::NoScript => {
                    command = whole();
                    detour = asking.then_some(host);
                }
                Fate::Elsewhere { host: to, asking: true } => detour = Some(beside(&host, &to)),
                Fate::Elsewhere { host: to, asking: false } => {
                    self.routes.lock()[shard.number()] = Some(beside(&host, &to));
                }
                Fate::Apart(_) if began.elapsed() < TOGETHER => {
                    redirections = 0;
                    sleep(AGAIN).await;
                }
                Fate::Apart(why) => return Err(Error::Unavailable(format!("{host}: {why}"))),
                Fate::Deposed(why) => {
                    self.forget(&host);
                    self.nodes.lock().remove(&host);
                    return Err(Error::Unavailable(format!("{host}: {why}")));
                }
                Fate::Refused(error) => return Err(error),
                Fate::Unknown => {
                    self.forget(&host);
                    return Err(Error::OutcomeUnknown { op });
                }
            }
        }
        Err(Error::Unavailable("the cluster sent us in a circle".to_owned()))
    }

    /// A plain command to whoever has a shard; for reads.
    pub(super) async fn ask(&self, host: &str, command: &redis::Cmd) -> Result<Value, Error> {
        let line = self.line(host).await?;
        match self.send(line, command, false, "ask").await {
            Fate::Answered(value) => Ok(value),
            Fate::Refused(error) => Err(error),
            Fate::Deposed(why) | Fate::Apart(why) => Err(Error::Unavailable(why)),
            _ => Err(Error::Unavailable(format!("{host} gave no answer"))),
        }
    }

    /// Where a shard is; asks if nobody knows.
    pub(super) async fn route(&self, shard: Shard) -> Result<String, Error> {
        if let Some(host) = self.routes.lock()[shard.number()].clone() {
            return Ok(host);
        }
        let _asking = self.asking.lock().await;
        if let Some(host) = self.routes.lock()[shard.number()].clone() {
            return Ok(host);
        }
        let found = match &self.address.kind {
            Kind::Server => vec![self.address.hosts.first().cloned(); usize::from(SHARDS)],
            Kind::Sentinel(master) => vec![Some(self.master(master).await?); usize::from(SHARDS)],
            Kind::Cluster => self.map().await?,
        };
        let host = found[shard.number()].clone();
        *self.routes.lock() = found;
        host.ok_or_else(|| {
            Error::Unavailable("no node of the cluster has this slot at the moment".to_owned())
        })
    }

    /// Asks every Sentinel in turn where the master is.
    async fn master(&self, master: &str) -> Result<String, Error> {
        let mut last = String::new();
        let mut command = redis::cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(master);
        for host in &self.address.hosts {
            let urls = self.address.sentinel(host);
            let clients = urls.iter().map(|url| self.client(url)).collect::<Result<Vec<_>, _>>()?;
            let asked = async {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT))
                    .set_response_timeout(None);
                let mut asked = Ok(Value::Nil);
                for client in clients {
                    asked = async {
                        let mut line = client.get_multiplexed_async_connection_with_config(&config).await?;
                        line.send_packed_command(&command).await.and_then(Value::extract_error)
                    }
                    .await;
                    if !matches!(&asked, Err(error) if error.code() == Some("NOAUTH")) {
                        break;
                    }
                }
                asked
            };
            match timeout(CONNECT + ANSWER, asked).await {
                Ok(Ok(Value::Array(found))) => {
                    if let [Value::BulkString(host), Value::BulkString(port)] = found.as_slice() {
                        let (host, port) = (String::from_utf8_lossy(host), String::from_utf8_lossy(port));
                        return Ok(format!("{host}:{port}"));
                    }
                }
                Ok(Ok(_)) => last = format!("{host} knows no master `{master}`"),
                Ok(Err(error)) => last = format!("{host}: {error}"),
                Err(_) => last = format!("{host} gave no answer"),
            }
        }
        Err(Error::Unavailable(format!("no Sentinel says where `{master}` is ({last})")))
    }

    /// Asks nodes until one tells which has which slot.
    async fn map(&self) -> Result<Vec<Option<String>>, Error> {
        let mut hosts = self.address.hosts.clone();
        hosts.extend(self.nodes.lock().keys().filter(|host| !self.address.hosts.contains(host)).cloned());
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let mut last = String::new();
        for host in &hosts {
            match self.ask(host, &command).await {
                Ok(Value::Array(ranges)) => {
                    let owners: Vec<_> = ranges.iter().filter_map(|range| owner(range, host)).collect();
                    let has = |slot: &u16| owners.iter().find(|(range, _)| range.contains(slot));
                    return Ok(self
                        .slots
                        .iter()
                        .map(|slot| has(slot).map(|(_, host)| host.clone()))
                        .collect());
                }
                Ok(_) => last = format!("{host} does not say who has which slot"),
                Err(error) => last = error.to_string(),
            }
        }
        Err(Error::Unavailable(format!("no node of the cluster answers ({last})")))
    }

    /// The next one who needs it asks again where the shards of this host are.
    pub(super) fn forget(&self, host: &str) {
        for route in self.routes.lock().iter_mut() {
            if self.address.kind != Kind::Server && route.as_deref() == Some(host) {
                *route = None;
            }
        }
    }

    /// A client with our certificates.
    pub(super) fn client(&self, url: &str) -> Result<Client, Error> {
        let made = if self.address.tls {
            // Whoever installed another provider before us decides.
            let _installed = rustls::crypto::ring::default_provider().install_default();
            let certificates = redis::TlsCertificates { client_tls: None, root_cert: self.ca.clone() };
            Client::build_with_tls(url, certificates)
        } else {
            Client::open(url)
        };
        made.map_err(|error| Error::Invalid(format!("dsn: {error}")))
    }

    fn node(&self, host: &str) -> Result<Arc<Node>, Error> {
        if let Some(node) = self.nodes.lock().get(host) {
            return Ok(node.clone());
        }
        let client = self.client(&self.address.node(host))?;
        let node = Arc::new(Node { client, place: Mutex::default(), mute: parking_lot::Mutex::default() });
        Ok(self.nodes.lock().entry(host.to_owned()).or_insert(node).clone())
    }

    /// The connection to a node; one for all who ask.
    async fn line(&self, host: &str) -> Result<Line, Error> {
        let node = self.node(host)?;
        let mut place = node.place.lock().await;
        if node.is_mute(place.number) {
            place.connection = None;
        }
        if let Some(connection) = place.connection.clone() {
            let number = place.number;
            drop(place);
            return Ok(Line { node, connection, number });
        }
        if let Some((when, why)) = &place.failed
            && when.elapsed() < REST
        {
            return Err(Error::Unavailable(why.clone()));
        }
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let made =
            timeout(CONNECT + ANSWER, node.client.get_multiplexed_async_connection_with_config(&config))
                .await;
        let failed = match made {
            Ok(Ok(connection)) => {
                place.connection = Some(connection.clone());
                place.number += 1;
                place.failed = None;
                let number = place.number;
                drop(place);
                return Ok(Line { node, connection, number });
            }
            Ok(Err(error)) => format!("{host}: {error}"),
            Err(_) => format!("{host} does not answer"),
        };
        place.failed = Some((Instant::now(), failed.clone()));
        Err(Error::Unavailable(failed))
    }

    async fn send(&self, mut line: Line, command: &redis::Cmd, asking: bool, op: &'static str) -> Fate {
        line.asked();
        let sent = async {
            if asking {
                let mut both = Pipeline::new();
                both.cmd("ASKING").ignore().add_command(command.clone());
                let mut answers = line.connection.send_packed_commands(&both, 1, 1).await?;
                answers.pop().map_or(Ok(Value::Nil), Value::extract_error)
            } else {
                line.connection.send_packed_command(command).await.and_then(Value::extract_error)
            }
        };
        match timeout(ANSWER, sent).await {
            Ok(Ok(value)) => {
                line.spoke();
                Fate::Answered(value)
            }
            Ok(Err(error)) => {
                line.spoke();
                let fate = fate(&error, op);
                if matches!(fate, Fate::Unknown) {
                    line.hang_up().await;
                }
                fate
            }
            Err(_) => {
                // A line that is mute once is not asked again: it may be half open.
                line.hang_up().await;
                Fate::Unknown
            }
        }
    }
}

impl Node {
    /// Whoever has less patience than [`ANSWER`] leaves before a line is found to be mute; the next one finds out here.
    fn is_mute(&self, number: u64) -> bool {
        self.mute.lock().is_some_and(|(of, since)| of == number && since.elapsed() >= ANSWER)
    }
}

impl Line {
    fn asked(&self) {
        let mut mute = self.node.mute.lock();
        if mute.is_none_or(|(of, _)| of != self.number) {
            *mute = Some((self.number, Instant::now()));
        }
    }

    fn spoke(&self) {
        let mut mute = self.node.mute.lock();
        if mute.is_some_and(|(of, _)| of == self.number) {
            *mute = None;
        }
    }

    async fn hang_up(&self) {
        let mut place = self.node.place.lock().await;
        if place.number == self.number {
            place.connection = None;
        }
    }
}

fn fate(error: &RedisError, op: &'static str) -> Fate {
    // An address and a slot, not a host and a port.
    if let Some((host, _slot)) = error.redirect_node() {
        return Fate::Elsewhere { host: host.to_owned(), asking: error.code() == Some("ASK") };
    }
    let said = error.to_string();
    match error.code() {
        Some("NOSCRIPT") => Fate::NoScript,
        Some("READONLY" | "MASTERDOWN" | "CLUSTERDOWN") => Fate::Deposed(said),
        Some("TRYAGAIN") => Fate::Apart(said),
        Some("LOADING" | "BUSY" | "OOM" | "MISCONF" | "NOREPLICAS") => {
            Fate::Refused(Error::Unavailable(said))
        }
        Some("WRONGTYPE") => Fate::Refused(Error::WrongType(said)),
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => Fate::Refused(Error::Unavailable(said)),
        Some(_) if said.contains("can't run this command") => Fate::Refused(Error::Unavailable(format!(
            "its user may not run a command that `{op}` needs; docs/replicas.md lists what it must be allowed"
        ))),
        Some(_) => Fate::Refused(Error::Invalid(format!("the server refused `{op}`: {said}"))),
        None if error.kind() == ErrorKind::Client => Fate::Refused(Error::Invalid(said)),
        None => Fate::Unknown,
    }
}

/// A range of slots and the host that has it. A node that does not know its own name is where we asked.
fn owner(range: &Value, asked: &str) -> Option<(std::ops::RangeInclusive<u16>, String)> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(node), ..] = parts.as_slice() else { return None };
    let [Value::BulkString(host), Value::Int(port), ..] = node.as_slice() else { return None };
    let host = beside(asked, &format!("{}:{port}", String::from_utf8_lossy(host)));
    Some((*first as u16..=*last as u16, host))
}

/// An address that a node gave; without a host it is another port of the host that we asked.
fn beside(asked: &str, address: &str) -> String {
    let own = asked.rsplit_once(':').map_or(asked, |(host, _)| host);
    if address.starts_with(':') { format!("{own}{address}") } else { address.to_owned() }
}
