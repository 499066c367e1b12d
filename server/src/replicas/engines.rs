//! Engines that were registered, removed or drained on one replica, known to all.
//!
//! A table of the coordinator has a row for each, and the newest row wins. Each replica remembers the rows that it knows:
//! when the state was lost it writes them again, and a row that somebody wrote later stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord::backend::Heard;
use coord::{Error, Name};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

use super::Replicas;
use crate::settings;

/// Begins to watch the engine of this name.
pub type Watch = Arc<dyn Fn(&str) + Send + Sync>;

/// The rows that this replica knows.
#[derive(Default)]
pub(super) struct Engines(Mutex<BTreeMap<String, Known>>);

struct Known {
    row: Row,
    stamp: u64,
    /// Whether the table is known to have it.
    told: bool,
}

/// What was said of an engine last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    /// None: it was removed.
    engine: Option<settings::Engine>,
    draining: bool,
    /// Whether it is of the settings of whoever said it, and needs no registration.
    configured: bool,
}

const TABLE: &str = "engines";
/// How often the table is read although nobody said that it has changed.
const READ: Duration = Duration::from_secs(5);
/// How long an operator waits for the others to be told.
const TELL: Duration = Duration::from_secs(1);

impl Replicas {
    /// An engine was registered here; whether the others were told at once.
    pub async fn registered(&self, engine: &settings::Engine) -> bool {
        let row = Row { engine: Some(engine.clone()), draining: false, configured: false };
        self.say(&engine.name, row).await
    }

    /// An engine was removed here.
    pub async fn removed(&self, name: &str) -> bool {
        self.say(name, Row { engine: None, draining: false, configured: false }).await
    }

    /// An engine is drained, or is no more.
    pub async fn drained(&self, name: &str, draining: bool) -> bool {
        let engine = self.0.fleet.engine_settings(name);
        let configured = self.is_configured(name);
        self.say(name, Row { engine, draining, configured }).await
    }

    /// Whether an engine is in the settings of this replica.
    fn is_configured(&self, name: &str) -> bool {
        self.0.fleet.settings().engines.iter().any(|engine| engine.name == name)
    }

    async fn say(&self, name: &str, row: Row) -> bool {
        {
            let mut known = self.0.engines.0.lock();
            let last = known.get(name).map_or(0, |known| known.stamp);
            let stamp = (self.0.fleet.clock().unix().as_micros() as u64).max(last + 1);
            known.insert(name.to_owned(), Known { row, stamp, told: false });
        }
        match tokio::time::timeout(TELL, self.tell_all()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(engine = name, %error, "the other replicas do not know it yet; they are told when the coordinator is back");
                false
            }
            Err(_) => false,
        }
    }

    /// Writes every row that the table may not have.
    async fn tell_all(&self) -> Result<(), Error> {
        let table = Name::new(TABLE)?;
        let untold: Vec<(String, Row, u64)> = {
            let known = self.0.engines.0.lock();
            let untold = known.iter().filter(|(_, known)| !known.told);
            untold.map(|(name, known)| (name.clone(), known.row.clone(), known.stamp)).collect()
        };
        for (name, row, stamp) in untold {
            let (Ok(field), Ok(value)) = (Name::new(name.as_str()), serde_json::to_vec(&row)) else {
                // It can be said to nobody, and must not keep the others from being said.
                tracing::error!(engine = name, "its name cannot be shared with other replicas");
                self.0.engines.0.lock().remove(&name);
                continue;
            };
            self.0.coord.table_put(&table, &field, value.into(), stamp).await?;
            if let Some(known) = self.0.engines.0.lock().get_mut(&name).filter(|known| known.stamp == stamp) {
                known.told = true;
            }
        }
        Ok(())
    }

    /// Takes over every row that is newer than what is known here.
    async fn read_all(&self, watch: &Watch) -> Result<(), Error> {
        for (name, value, stamp) in self.0.coord.table(&Name::new(TABLE)?).await? {
            let older = self.0.engines.0.lock().get(name.as_str()).is_some_and(|known| known.stamp >= stamp);
            if older {
                continue;
            }
            match serde_json::from_slice::<Row>(&value) {
                Ok(row) => {
                    self.take_over(name.as_str(), &row, watch);
                    let known = Known { row, stamp, told: true };
                    self.0.engines.0.lock().insert(name.as_str().to_owned(), known);
                }
                Err(error) => {
                    tracing::warn!(engine = %name, %error, "another replica says something of it that is not understood here");
                }
            }
        }
        Ok(())
    }

    fn take_over(&self, name: &str, row: &Row, watch: &Watch) {
        let fleet = &self.0.fleet;
        let Some(engine) = &row.engine else {
            if fleet.remove(name) {
                if self.is_configured(name) {
                    tracing::warn!(
                        engine = name,
                        "it is in the settings of this replica, and was removed over the admin API: it is not used until \
                         it is registered again there, or taken out of the settings"
                    );
                } else {
                    tracing::info!(engine = name, "removed on another replica");
                }
            }
            return;
        };
        let here = fleet.engine_settings(name);
        // Where an engine is may differ from replica to replica if it is in their settings; what was registered may not.
        if !row.configured && here.as_ref() != Some(engine) {
            if here.is_some() {
                fleet.remove(name);
            }
            match fleet.add(engine.clone()) {
                Ok(_) => {
                    tracing::info!(engine = name, url = engine.url, "registered on another replica");
                    watch(name);
                }
                Err(why) => tracing::error!(
                    engine = name,
                    why,
                    "registered on another replica, and cannot be used here"
                ),
            }
        }
        fleet.drain(name, row.draining);
    }

    /// After a loss the table may have none of it.
    fn untell_all(&self) {
        for known in self.0.engines.0.lock().values_mut() {
            known.told = false;
        }
    }
}

/// Reads the table when it has changed, and once in a while; writes again what was lost.
pub(super) async fn follow(replicas: &Replicas, watch: Watch) {
    let mut notices = replicas.0.coord.hear();
    let mut losses = replicas.0.coord.losses();
    let changed = format!("table {TABLE}");
    loop {
        let mut done = replicas.tell_all().await;
        if done.is_ok() {
            done = replicas.read_all(&watch).await;
        }
        let pause = match done {
            Ok(()) => READ,
            Err(Error::StateLost { .. }) => {
                replicas.untell_all();
                continue;
            }
            Err(error) => {
                tracing::debug!(%error, "the table of engines is out of reach");
                coord::coord::BACKOFF_MOST
            }
        };
        let until = Instant::now() + replicas.0.coord.chance().jitter(pause);
        loop {
            tokio::select! {
                () = sleep_until(until) => break,
                heard = notices.recv() => match heard {
                    Ok(Heard::Notice(_, text)) if text == changed.as_bytes() => break,
                    Ok(Heard::Notice(..)) => {}
                    Ok(Heard::Gap) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => sleep_until(until).await,
                },
                lost = losses.recv() => {
                    if lost.is_ok() {
                        replicas.untell_all();
                    }
                    break;
                }
            }
        }
    }
}
