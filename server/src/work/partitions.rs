//! Which replica owns which log: a partition is a directory, and whoever has its claim and its lock writes it.
//!
//! A partition's number is drawn by chance when it is made, so that replicas need not agree on it. Its owner holds a claim
//! on it, a lease with a fence, and the lock on its files. The lock is what keeps two from writing; the claim is how
//! others know whom to ask, and that nobody is there any more. A replica that dies leaves both: whoever shares its data
//! directory takes its partitions over when the lease is up, and else it comes back itself and resumes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coord::op::Claimed;
use coord::{Error, Key, Name};
use queue::log::{self, Fjall, fjall};
use tokio::time::sleep;

use super::Work;
use crate::error::ApiError;

/// A partition that is open here.
pub(super) struct Held {
    fence: u64,
}

/// Who owns a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This replica.
    Me,
    /// Another one, which clients reach here.
    Other(String),
    /// Nobody at the moment.
    Nobody,
}

/// A partition that nobody may open at the moment.
enum Refused {
    /// It is somebody else's.
    Theirs,
    /// It cannot be opened, in words.
    Broken(String),
}

/// Opens, keeps and takes over, for as long as the process lives.
pub(super) async fn keep(work: &Work) {
    let lease = work.lease();
    loop {
        work.renew_all().await;
        let on_disk = work.on_disk();
        work.0.troubles.lock().retain(|partition, _| on_disk.contains(partition));
        for partition in on_disk {
            // One that is being made lies there already: to open it twice would give its claim up.
            let _making = work.0.making.lock().await;
            if work.0.held.lock().contains_key(&partition) {
                continue;
            }
            match work.take(partition).await {
                Ok(()) | Err(Refused::Theirs) => {
                    work.0.troubles.lock().remove(&partition);
                }
                Err(Refused::Broken(why)) => {
                    // Once, and again when it has changed: it may take long until somebody looks.
                    if work.0.troubles.lock().insert(partition, why.clone()).is_none() {
                        tracing::error!(partition = %name_of(partition), %why, "a queue's log cannot be opened; it is tried again");
                    }
                }
            }
        }
        sleep(lease / 3).await;
    }
}

/// Gives everything up in order.
pub(super) async fn leave(work: &Work) {
    let held: Vec<u32> = work.0.held.lock().keys().copied().collect();
    for partition in held {
        work.give_up(partition).await;
    }
}

impl Work {
    fn lease(&self) -> Duration {
        self.0.fleet.settings().coordination.lease.get()
    }

    /// Partitions whose directories lie here.
    fn on_disk(&self) -> Vec<u32> {
        on_disk(&self.0.data)
    }

    /// A partition that can take something new: one that is open here, or a new one.
    pub(super) async fn a_partition(&self) -> Result<u32, ApiError> {
        let first = || self.0.held.lock().keys().next().copied();
        if let Some(partition) = first() {
            return Ok(partition);
        }
        let _making = self.0.making.lock().await;
        if let Some(partition) = first() {
            return Ok(partition);
        }
        let partition = self.new_number();
        let folder = self.folder(partition);
        let broken = |why: String| {
            // Where and why is for whoever runs this, not for whoever asks.
            tracing::error!(%why, "no durable queue can be opened");
            no_queue()
        };
        std::fs::create_dir_all(&folder)
            .map_err(|error| broken(format!("data.dir: {}: {error}", folder.display())))?;
        match self.take(partition).await {
            Ok(()) => Ok(partition),
            Err(Refused::Broken(why)) => Err(broken(why)),
            Err(Refused::Theirs) => Err(broken("another replica has taken it".to_owned())),
        }
    }

    /// The partition in which an order of this key lies, or is to lie: the same on every replica for so long. Where nobody
    /// can say what others have seen, it is one of ours.
    ///
    /// # Errors
    /// The key was used for another model, or there is no partition.
    pub async fn partition_of(
        &self,
        tenant: &str,
        key: &str,
        model: &str,
        lives: Duration,
    ) -> Result<u32, ApiError> {
        let ours = self.a_partition().await?;
        let target = self.0.fleet.target(model);
        let invalid = |error: Error| ApiError::Internal(error.to_string());
        let print = xxhash_rust::xxh3::xxh3_128(format!("{tenant}\n{key}").as_bytes());
        let name = Key::new(format!("queue/order/{print:032x}")).map_err(invalid)?;
        let target = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(target.as_bytes()));
        let token = Name::new(format!("{}/{target}", name_of(ours))).map_err(invalid)?;
        let known = match self.0.replicas.coord().claim(&name, &token, lives).await {
            Ok(Claimed::Granted { .. }) => return Ok(ours),
            Ok(Claimed::Held { by, .. }) => by,
            Err(error) => {
                tracing::warn!(%error, "an Idempotency-Key holds on this replica alone while the coordinator is away");
                return Ok(ours);
            }
        };
        let (partition, of) = known.as_str().split_once('/').unwrap_or_default();
        if target != of {
            return Err(ApiError::invalid(format!(
                "The idempotency key {key:?} was used for a request to another model."
            )));
        }
        Ok(number_of(partition).unwrap_or(ours))
    }

    fn new_number(&self) -> u32 {
        let token = self.0.replicas.coord().token();
        let mixed = xxhash_rust::xxh3::xxh3_64(token.as_str().as_bytes());
        // One number means nowhere.
        (mixed as u32).clamp(1, u32::MAX - 1)
    }

    fn folder(&self, partition: u32) -> PathBuf {
        self.0.data.join(name_of(partition))
    }

    /// Claims and opens a partition.
    async fn take(&self, partition: u32) -> Result<(), Refused> {
        let coord = self.0.replicas.coord();
        let (key, me) = (key_of(partition), coord.instance().clone());
        let fence = match coord.claim(&key, &me, self.lease()).await {
            Ok(Claimed::Granted { fence }) => fence,
            Ok(Claimed::Held { .. }) => return Err(Refused::Theirs),
            Err(error) => return Err(Refused::Broken(format!("its claim could not be taken: {error}"))),
        };
        let folder = self.folder(partition);
        let opened = tokio::task::spawn_blocking(move || open(&folder)).await;
        let opened = match opened {
            Ok(Ok(log)) => self.open(partition, fence, log).await,
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match opened {
            Ok(()) => {
                self.0.held.lock().insert(partition, Held { fence });
                let _unheard = self.0.opened.send(partition);
                Ok(())
            }
            Err(why) => {
                // Whoever has its lock is alive, and may yet want its claim.
                let _left = coord.release(&key, &me).await;
                Err(Refused::Broken(why))
            }
        }
    }

    async fn open(&self, partition: u32, fence: u64, log: Fjall) -> Result<(), String> {
        let room = self.room().map_err(|error| error.to_string())?.clone();
        let opening = move || room.open(partition, fence, Arc::new(log));
        let opened = tokio::task::spawn_blocking(opening).await.map_err(|error| error.to_string())?;
        let opened = opened.map_err(|error| error.to_string())?;
        tracing::info!(
            partition = %name_of(partition),
            queues = opened.queues,
            resumed = opened.resumed,
            "a durable queue is open; what ran when it was closed runs again"
        );
        Ok(())
    }

    async fn renew_all(&self) {
        let coord = self.0.replicas.coord();
        let me = coord.instance().clone();
        let held: Vec<(u32, u64)> =
            self.0.held.lock().iter().map(|(number, held)| (*number, held.fence)).collect();
        for (partition, fence) in held {
            let key = key_of(partition);
            match coord.renew(&key, &me, self.lease()).await {
                Ok(now) if now == fence => {}
                // It was lost and taken anew by ourselves: the files' lock has kept others out.
                Ok(now) => {
                    if let Some(held) = self.0.held.lock().get_mut(&partition) {
                        held.fence = now;
                    }
                }
                Err(Error::NotFound | Error::StateLost { .. }) => {
                    if let Ok(Claimed::Held { by, .. }) = coord.claim(&key, &me, self.lease()).await {
                        tracing::warn!(partition = %name_of(partition), %by, "a durable queue is claimed by another replica; it is given up");
                        self.give_up(partition).await;
                    }
                }
                Err(Error::Fenced { .. }) => {
                    tracing::warn!(partition = %name_of(partition), "a durable queue was taken over while this replica was away; it is given up");
                    self.give_up(partition).await;
                }
                // Nobody can claim it either, and nobody can open its files.
                Err(error) => tracing::debug!(%error, "a claim could not be renewed"),
            }
        }
    }

    async fn give_up(&self, partition: u32) {
        self.0.held.lock().remove(&partition);
        if let Ok(room) = self.room() {
            let room = room.clone();
            let given = tokio::task::spawn_blocking(move || room.give_up(partition)).await;
            if let Err(error) = given {
                tracing::warn!(%error, "a durable queue was not given up in order");
            }
        }
        let coord = self.0.replicas.coord();
        let _left = coord.release(&key_of(partition), coord.instance()).await;
    }

    /// Who owns a partition.
    pub async fn owner(&self, partition: u32) -> Owner {
        if self.0.held.lock().contains_key(&partition) {
            return Owner::Me;
        }
        let coord = self.0.replicas.coord();
        match coord.holder(&key_of(partition)).await {
            Ok(Some((instance, ..))) if instance != *coord.instance() => {
                self.0.replicas.door_of(instance.as_str()).map_or(Owner::Nobody, Owner::Other)
            }
            _ => Owner::Nobody,
        }
    }
}

/// Partitions whose directories lie in this one.
pub fn on_disk(folder: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<u32> = names.filter_map(|name| number_of(&name)).collect();
    found.sort_unstable();
    found
}

/// What a client hears when nothing durable can be taken.
pub(super) fn no_queue() -> ApiError {
    let message =
        "The durable queue cannot be used at the moment; nothing that was acknowledged is lost.".to_owned();
    ApiError::NoQueue { message, retry_after: 10 }
}

fn open(folder: &Path) -> Result<Fjall, log::Error> {
    Fjall::open(folder, fjall::Options::default())
}

/// A partition's name, and that of its directory.
pub fn name_of(partition: u32) -> String {
    format!("{partition:08x}")
}

fn number_of(name: &str) -> Option<u32> {
    (name.len() == 8)
        .then(|| u32::from_str_radix(name, 16).ok())
        .flatten()
        .filter(|number| *number != u32::MAX)
}

fn key_of(partition: u32) -> Key {
    let name = format!("queue/partition/{}", name_of(partition));
    Key::new(name).unwrap_or_else(|_| unreachable!("digits are sane"))
}
