//! The blocks of simulated engines in a store: real bytes over its public protocol, as any engine's connector would.
//!
//! A block is a value under `kv:MODEL:HASH`, with the hash of its prefix in hexadecimal digits, and says which block it is,
//! so that the store can tell others where it lies. Batches are sent without waiting for each answer, on a few connections that
//! are kept. After a failure nobody connects for a moment: an engine must not wait for a store that is away.

use std::sync::Arc;
use std::time::Duration;

use blocks::PrefixHash;
use bytes::Bytes;
use parking_lot::Mutex;
use sim::engine::second::Kept;
use sim::http::{Offload, Soon, Written};
use store::client::{self, Client, Error, Write};
use store::resp::contract::{self, Block, Only, Put};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How to reach a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// `HOST:PORT` of a node.
    pub address: String,
    /// The tenant and its key, where keys are needed.
    pub key: Option<(String, String)>,
    /// Whose blocks they are: those of another model have other names.
    pub model: String,
    /// How long a batch may take in all.
    pub patience: Duration,
    /// Connections at a time.
    pub connections: usize,
    /// How long nobody connects after a failure.
    pub pause: Duration,
}

/// Where an engine's blocks are kept; cheap to clone.
#[derive(Clone)]
pub struct Shelf(Arc<Inner>);

struct Inner {
    options: Options,
    /// Connections that are in step.
    idle: Mutex<Vec<Client>>,
    turns: Semaphore,
    /// Until when nobody connects.
    shut: Mutex<Option<Instant>>,
}

impl Options {
    /// A store at an address, for the blocks of a model.
    pub fn new(address: &str, model: &str) -> Self {
        Self {
            address: address.to_owned(),
            key: None,
            model: model.to_owned(),
            patience: Duration::from_secs(5),
            connections: 4,
            pause: Duration::from_secs(1),
        }
    }
}

// === impl Shelf ===

impl Shelf {
    /// A way to a store. Nothing connects before something is asked.
    pub fn new(options: Options) -> Self {
        let turns = Semaphore::new(options.connections.max(1));
        Self(Arc::new(Inner { options, idle: Mutex::default(), turns, shut: Mutex::default() }))
    }

    fn key(&self, block: PrefixHash) -> Bytes {
        format!("kv:{}:{:016x}", self.0.options.model, block.0).into()
    }

    fn write(&self, kept: Kept, value: Bytes) -> Write {
        let Kept { prefix, parent, tokens } = kept;
        let block = Block { prefix: prefix.0, parent: parent.map(|parent| parent.0), tokens: tokens.0 };
        let put = Put { only: Only::Absent, block: Some(block), ..Put::default() };
        Write { key: self.key(prefix), value, put }
    }

    /// One call on a connection that is kept if the call comes to its end.
    async fn call<T>(&self, ask: impl AsyncFnOnce(&mut Client) -> Result<T, Error>) -> Result<T, String> {
        let inner = &*self.0;
        let Ok(_turn) = inner.turns.acquire().await else {
            return Err("nobody may call any more".to_owned());
        };
        // On its own line: whoever connects must not hold the lock.
        let kept = inner.idle.lock().pop();
        let mut client = match kept {
            Some(client) => client,
            None => self.connect().await?,
        };
        let answer = ask(&mut client).await;
        if matches!(answer, Ok(_) | Err(Error::Refused(_))) {
            inner.idle.lock().push(client);
        }
        answer.map_err(|error| self.failed(&error))
    }

    async fn connect(&self) -> Result<Client, String> {
        let Options { address, key, patience, .. } = &self.0.options;
        if self.0.shut.lock().is_some_and(|until| Instant::now() < until) {
            return Err(format!("the store at {address} failed a moment ago"));
        }
        let options = client::Options { key: key.clone(), patience: *patience, ..client::Options::default() };
        Client::connect(address, options).await.map_err(|error| {
            *self.0.shut.lock() = Some(Instant::now() + self.0.options.pause);
            self.failed(&error)
        })
    }

    fn failed(&self, error: &Error) -> String {
        format!("the store at {}: {error}", self.0.options.address)
    }
}

impl Offload for Shelf {
    fn look(&self, blocks: Vec<PrefixHash>) -> Soon<usize> {
        let shelf = self.clone();
        Box::pin(async move {
            let keys: Vec<Bytes> = blocks.iter().map(|block| shelf.key(*block)).collect();
            let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
            let there = shelf.call(async |client| client.exist(&keys).await).await?;
            Ok(there.into_iter().take_while(|one| matches!(one, Ok(true))).count())
        })
    }

    fn get(&self, blocks: Vec<PrefixHash>) -> Soon<Vec<Bytes>> {
        let shelf = self.clone();
        Box::pin(async move {
            let keys: Vec<Bytes> = blocks.iter().map(|block| shelf.key(*block)).collect();
            let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
            let values = shelf.call(async |client| client.get_many(&keys).await).await?;
            Ok(values.into_iter().map_while(|value| value.ok().flatten()).collect())
        })
    }

    fn put(&self, blocks: Vec<(Kept, Bytes)>) -> Soon<Written> {
        let shelf = self.clone();
        Box::pin(async move {
            let writes = blocks.into_iter().map(|(kept, value)| shelf.write(kept, value)).collect();
            let outcomes = shelf.call(async |client| client.set_many(writes).await).await?;
            let mut written = Written::default();
            for outcome in outcomes {
                match outcome {
                    Ok(contract::Written::Stored) => written.stored += 1,
                    Ok(contract::Written::Unchanged) => written.known += 1,
                    Err(_) => written.refused += 1,
                }
            }
            Ok(written)
        })
    }
}

#[cfg(test)]
mod tests;
