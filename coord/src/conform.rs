//! The conformance suite: what every backend promises, each promise by name, against a live backend.
//!
//! It uses names of its own, so that it may run beside whatever else uses the backend, and leaves nothing for longer than
//! the backend's time to live. `warmline coord conform` runs it; writers of backends call [`run`] from their tests.

mod ending;
mod model;
mod plain;
mod together;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::backend::{Answer, Backend, Call, Stand};
use crate::coord::{Chance, Coord};
use crate::error::Error;
use crate::name::{Key, Name};
use crate::op::{Op, Reply};

/// One thing that every backend must keep.
pub struct Promise {
    /// Its name: what is broken, if it is.
    pub name: &'static str,
    pub(crate) kept: fn(Bench) -> BoxFuture<'static, Kept>,
}

/// Nothing, or what was found instead of what was promised.
pub type Kept = Result<(), String>;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broken promise `{name}`: {why}")]
pub struct Broken {
    /// Which.
    pub name: &'static str,
    /// What was found.
    pub why: String,
}

/// What a promise is tried on: a backend, and names that nobody else uses.
#[derive(Clone)]
pub struct Bench {
    pub(crate) backend: Arc<dyn Backend>,
    run: String,
    pub(crate) seed: u64,
    /// Names of lives: each call that begins one gives it a name of its own.
    lives: Arc<Chance>,
}

/// How long a condition may take to come true before a promise counts as broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Makes a list of promises from functions whose names are the promises'.
macro_rules! promises {
    ($($name:ident),+ $(,)?) => {
        vec![$($crate::conform::Promise { name: stringify!($name), kept: |bench| Box::pin($name(bench)) }),+]
    };
}
pub(crate) use promises;

/// All promises, in the order in which they build on each other.
pub fn all() -> Vec<Promise> {
    let mut all = plain::all();
    all.extend(together::all());
    all.extend(ending::all());
    all.extend(model::all());
    all
}

/// Tries every promise; `told` hears the name of each that was kept. `seed` makes names and random histories.
///
/// # Errors
/// The first promise that was broken.
pub async fn run(
    backend: Arc<dyn Backend>,
    seed: u64,
    mut told: impl FnMut(&'static str),
) -> Result<usize, Broken> {
    let promises = all();
    for promise in &promises {
        one(backend.clone(), seed, promise).await?;
        told(promise.name);
    }
    Ok(promises.len())
}

/// Tries one promise.
///
/// # Errors
/// That it was broken.
pub async fn one(backend: Arc<dyn Backend>, seed: u64, promise: &Promise) -> Result<(), Broken> {
    let bench = Bench {
        backend,
        run: format!("conform.{seed:x}.{}", promise.name),
        seed,
        lives: Arc::new(Chance::new(seed)),
    };
    let tried = tokio::time::timeout(PATIENCE * 6, (promise.kept)(bench)).await;
    let kept = tried.unwrap_or_else(|_| Err("it did not come to an end".to_owned()));
    kept.map_err(|why| Broken { name: promise.name, why })
}

// === impl Bench ===

impl Bench {
    /// An instance of its own on the backend.
    pub(crate) fn coord(&self, who: &str) -> Coord {
        let name = Name::new(format!("{}.{who}", self.run)).expect("short words");
        let seed = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_str().as_bytes(), self.seed);
        Coord::new(self.backend.clone(), name, seed)
    }

    /// A key that only this promise uses.
    pub(crate) fn key(&self, word: &str) -> Key {
        Key::new(format!("{}.{word}", self.run)).expect("short words")
    }

    /// A name that only this promise uses.
    pub(crate) fn name(&self, word: &str) -> Name {
        Name::new(format!("{}.{word}", self.run)).expect("short words")
    }

    /// Asks the backend itself: no retries, nothing remembered.
    pub(crate) async fn raw(&self, op: &Op) -> Result<Reply, Error> {
        match self.call(op, None).await? {
            Answer::Done(_, reply) => Ok(reply),
            Answer::Refused(_, error) => Err(error),
            Answer::Lost(stand) => {
                Err(Error::Invalid(format!("lost without having seen anything: {stand:?}")))
            }
        }
    }

    pub(crate) async fn call(&self, op: &Op, seen: Option<Stand>) -> Result<Answer, Error> {
        self.backend.call(Call { op, seen, new_life: self.lives.next() }).await
    }
}

/// Whether two things are the same.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, promised: T) -> Kept {
    if found == promised { Ok(()) } else { Err(format!("{what}: found {found:?}, promised {promised:?}")) }
}

/// Whether something holds.
pub(crate) fn holds(what: &str, holds: bool) -> Kept {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// In words.
pub(crate) fn said<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// Looks until something is there.
pub(crate) async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = Result<Option<T>, Error>>,
{
    let looking = async {
        loop {
            if let Some(found) = said(look().await)? {
                return Ok(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| Err(format!("{what}: it did not happen")))
}

pub(crate) fn words(names: &[&str]) -> Vec<Name> {
    names.iter().map(|name| Name::new(*name).expect("short words")).collect()
}
