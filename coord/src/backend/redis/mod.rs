//! Redis or Valkey, 7 or later: one server, Sentinels, or a cluster; each operation one script, one round trip, atomic.
//!
//! What is asked is encoded in [`script`], answers are read in [`parse`], connections live in [`net`], notices are heard
//! in [`ears`]. Nothing here repeats a command whose answer was lost: the caller decides.

mod address;
mod ears;
mod net;
mod parse;
mod script;

use std::sync::Arc;

use futures::future::BoxFuture;
use redis::Value;
use redis::aio::ConnectionLike;
use tokio::sync::broadcast;

use super::{Answer, Backend, Call, Config, Heard, MAX_UNHEARD};
use crate::background::Background;
use crate::error::Error;
use net::Net;
use script::{Invocation, Names};

pub use address::{Address, Kind};

/// Shared state in Redis.
pub struct Redis {
    net: Arc<Net>,
    names: Names,
    notices: broadcast::Sender<Heard>,
    _listening: Background,
}

/// Shared state in Redis, by a client that somebody else made and looks after. It hears no notices: whoever waits, polls.
pub struct Injected<C> {
    client: C,
    names: Names,
    notices: broadcast::Sender<Heard>,
}

// === impl Redis ===

impl Redis {
    /// The backend of the settings. It connects when it is first asked: a server that is away is no reason not to begin.
    ///
    /// # Errors
    /// A DSN, a prefix or a file that cannot be used.
    pub fn connect(config: &Config) -> Result<Self, Error> {
        let address = Address::parse(&config.dsn)?;
        let ca = match &config.ca_file {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|error| {
                Error::Invalid(format!("ca_file: cannot read {}: {error}", path.display()))
            })?),
        };
        let names = Names::new(&config.key_prefix, config.ttl()?);
        let net = Arc::new(Net::new(address, ca, &names));
        let (notices, _) = broadcast::channel(MAX_UNHEARD);
        let listening = ears::begin(&net, names.clone(), notices.clone());
        Ok(Self { net, names, notices, _listening: listening })
    }

    /// The command that a call becomes once its script is known to the server: for benchmarks, and for people who look.
    pub fn command(&self, call: &Call<'_>) -> redis::Cmd {
        self.names.invoke(call).by_hash()
    }

    /// What every key of a shard begins with, and the slot in which they lie: for tests and people who look.
    pub fn place(&self, shard: crate::name::Shard) -> (String, u16) {
        (self.names.head(shard), self.names.slot(shard))
    }
}

impl Backend for Redis {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, Error>> {
        Box::pin(async move {
            let invocation = self.names.invoke(&call);
            let by_hash = invocation.by_hash();
            let (shard, name) = (call.op.shard(), call.op.name());
            match self.net.run(shard, by_hash, || invocation.whole(), name).await {
                Ok(value) => understood(&call, value),
                // The server itself said no: there is an answer, but no stand in it.
                Err(error @ (Error::WrongType(_) | Error::Invalid(_))) => refused(&call, error),
                Err(error) => Err(error),
            }
        })
    }

    fn hear(&self) -> broadcast::Receiver<Heard> {
        self.notices.subscribe()
    }

    fn describe(&self) -> String {
        self.net.address().to_string()
    }
}

// === impl Injected ===

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Injected<C> {
    /// State with this prefix, by this client.
    ///
    /// # Errors
    /// A prefix or a time that makes no sense.
    pub fn new(client: C, config: &Config) -> Result<Self, Error> {
        let config = Config { backend: "injected".to_owned(), ..config.clone() };
        config.check()?;
        let (notices, _) = broadcast::channel(1);
        Ok(Self { client, names: Names::new(&config.key_prefix, config.ttl()?), notices })
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Backend for Injected<C> {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, Error>> {
        Box::pin(async move {
            let invocation = self.names.invoke(&call);
            let mut client = self.client.clone();
            let op = call.op.name();
            let mut sent =
                client.req_packed_command(&invocation.by_hash()).await.and_then(Value::extract_error);
            if matches!(&sent, Err(error) if error.code() == Some("NOSCRIPT")) {
                sent = client.req_packed_command(&invocation.whole()).await.and_then(Value::extract_error);
            }
            match sent {
                Ok(value) => understood(&call, value),
                Err(error) => match error.code() {
                    Some("WRONGTYPE") => refused(&call, Error::WrongType(error.to_string())),
                    Some(_) => Err(Error::Unavailable(error.to_string())),
                    None => Err(Error::OutcomeUnknown { op }),
                },
            }
        })
    }

    fn hear(&self) -> broadcast::Receiver<Heard> {
        self.notices.subscribe()
    }

    fn describe(&self) -> String {
        "redis by an injected client".to_owned()
    }
}

// === Small steps ===

impl Invocation {
    fn by_hash(&self) -> redis::Cmd {
        self.command("EVALSHA", &self.script.hash)
    }

    fn whole(&self) -> redis::Cmd {
        self.command("EVAL", &self.script.code)
    }

    fn command(&self, how: &str, script: &str) -> redis::Cmd {
        let mut command = redis::cmd(how);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.args);
        command
    }
}

fn understood(call: &Call<'_>, value: Value) -> Result<Answer, Error> {
    parse::answer(call.op, value).map_err(|_garbled| {
        Error::Invalid(format!("`{}` was answered by something that is not our script", call.op.name()))
    })
}

fn refused(call: &Call<'_>, error: Error) -> Result<Answer, Error> {
    match call.seen {
        Some(seen) => Ok(Answer::Refused(seen, error)),
        None => Err(error),
    }
}
