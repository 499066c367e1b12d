//! Reading for clients: from memory at once, else from disk, and again if it moved meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Inner;
use super::meta::Meta;
use super::peers::{Fetched, Which};
use crate::disk::{self, Found};
use crate::master::name::{Name, Node, Tenant, Tier, Version};
use crate::master::{self, Hit, News};
use crate::resp::contract::{Answer, Part};
use crate::resp::refusal::{Code, Refusal};

/// How often the master is asked where an object is: each time it had moved in between.
const TRIES: usize = 8;

impl Inner {
    /// What the master found, as an answer.
    pub(super) fn read(
        self: &Arc<Self>,
        found: &master::Found,
        tenant: Tenant,
        key: &[u8],
        part: Part,
    ) -> Answer<Option<Bytes>> {
        match found {
            master::Found::Absent => Answer::now(None),
            master::Found::Unknown => Answer::refused(unknown()),
            master::Found::Here(hit) => match self.lent(hit, part) {
                Some(bytes) => Answer::now(Some(bytes)),
                None => Answer::later(self.clone().fetch(hit.clone(), tenant, key.into(), part)),
            },
        }
    }

    fn lent(&self, hit: &Hit, part: Part) -> Option<Bytes> {
        let here = hit.memory.contains(&self.number());
        let copy = here.then(|| self.hold.get(hit.version)).flatten()?;
        self.counts.read_memory.fetch_add(1, Ordering::Relaxed);
        let bytes = copy.bytes();
        Some(if part == Part::Whole { bytes } else { bytes.slice(part.of(copy.len())) })
    }

    async fn fetch(
        self: Arc<Self>,
        mut hit: Hit,
        tenant: Tenant,
        key: Box<[u8]>,
        part: Part,
    ) -> Result<Option<Bytes>, Refusal> {
        let name = Name { tenant, key };
        let mut silent = None;
        for _ in 0..TRIES {
            if let Some(bytes) = self.lent(&hit, part) {
                return Ok(Some(bytes));
            }
            if hit.disk.contains(&self.number()) {
                match self.brought(&name, hit.version, part).await {
                    Ok(Some(bytes)) => return Ok(Some(bytes)),
                    // What is damaged is no longer there.
                    Err(disk::Error::Damaged { .. }) if hit.disk.len() == 1 && hit.memory.is_empty() => {
                        return Ok(None);
                    }
                    Ok(None) | Err(disk::Error::Damaged { .. }) => {}
                    Err(error) => return Err(Refusal::new(Code::Unavailable, error.to_string())),
                }
            }
            if let Some(bytes) = self.ask_others(&hit, &name, part, &mut silent).await? {
                return Ok(Some(bytes));
            }
            self.counts.asked_again.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            match self.desk.get(tenant, &name.key).wait().await.map_err(|_| away())? {
                master::Found::Here(again) => hit = again,
                master::Found::Absent => return Ok(None),
                master::Found::Unknown => return Err(unknown()),
            }
        }
        if let Some(why) = silent {
            return Err(Refusal::new(Code::Unavailable, why));
        }
        Err(Refusal::new(Code::Unavailable, "the object moves faster than it can be read: ask again"))
    }

    /// From another node that has it, in memory rather than on disk; those that do not answer are not asked twice.
    async fn ask_others(
        &self,
        hit: &Hit,
        name: &Name,
        part: Part,
        silent: &mut Option<String>,
    ) -> Result<Option<Bytes>, Refusal> {
        let own = self.number();
        let mut others: SmallVec<[Node; 4]> = hit.memory.iter().chain(&hit.disk).copied().collect();
        others.retain(|node| *node != own);
        let Some(peers) = self.peers.as_ref().filter(|_| !others.is_empty()) else { return Ok(None) };
        let range = part.of(usize::try_from(hit.size).unwrap_or(usize::MAX));
        for node in others {
            let room = self.reading.obtain(range.len()).await;
            let room = room.map_err(|long| Refusal::new(Code::TooLarge, long.to_string()))?;
            let which = self.which(name, hit.version);
            match peers.fetch(node, which, range.start as u64, room).await {
                Fetched::Here(block) => {
                    self.counts.fetched.fetch_add(1, Ordering::Relaxed);
                    self.counts.fetched_bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
                    return Ok(Some(block.into()));
                }
                Fetched::Gone => {}
                Fetched::Silent(why) => {
                    self.counts.silent.fetch_add(1, Ordering::Relaxed);
                    // Once more after the master was asked again; then whoever asked shall know.
                    if let Some(before) = silent.replace(why) {
                        return Err(Refusal::new(Code::Unavailable, before));
                    }
                }
            }
        }
        Ok(None)
    }

    /// A copy, by names that other nodes know.
    pub(super) fn which(&self, name: &Name, version: Version) -> Which {
        Which { tenant: self.desk.name(name.tenant).to_string(), key: name.key.clone(), version }
    }

    /// What lies on disk under this name, if it is this version.
    pub(super) fn on_disk(&self, name: &Name, version: Version) -> Option<(Found, Meta)> {
        let tenant = self.desk.name(name.tenant);
        let found = self.disk.as_ref()?.find(tenant.as_bytes(), &name.key)?;
        let meta = Meta::read(found.meta()).filter(|meta| meta.version == version)?;
        Some((found, meta))
    }

    async fn brought(&self, name: &Name, version: Version, part: Part) -> Result<Option<Bytes>, disk::Error> {
        let (Some(disk), Some((found, _))) = (&self.disk, self.on_disk(name, version)) else {
            return Ok(None);
        };
        let range = part.of(found.len());
        let room = self.reading.obtain(range.len()).await;
        let room = room.map_err(|long| disk::Error::Length {
            what: "a value that is read from disk",
            len: long.len as usize,
            bound: long.capacity as usize,
        })?;
        let whole = range.len() == found.len();
        let read = if whole {
            disk.read(&found, room).await
        } else {
            disk.read_part(&found, range.start, room).await
        };
        match read {
            Ok(block) => {
                self.counts.read_disk.fetch_add(1, Ordering::Relaxed);
                self.counts.read_disk_bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
                Ok(Some(block.into()))
            }
            Err(error) => {
                self.look_at(&error, name, version);
                Err(error)
            }
        }
    }

    /// Whatever is damaged is taken away, and the master told: nobody reads it again.
    pub(super) fn look_at(&self, error: &disk::Error, name: &Name, version: Version) {
        if !matches!(error, disk::Error::Damaged { .. }) {
            return;
        }
        self.counts.damaged.fetch_add(1, Ordering::Relaxed);
        if let Some(disk) = &self.disk {
            let tenant = self.desk.name(name.tenant);
            drop(disk.delete(tenant.as_bytes().to_vec(), name.key.to_vec()));
        }
        self.line.push(News::Lost { name: name.clone(), version, tier: Tier::Disk });
    }
}

/// The master does not answer.
pub(super) fn away() -> Refusal {
    Refusal::new(Code::Unavailable, "the master of the store cannot be reached: ask again")
}

/// It is not known yet.
pub(super) fn unknown() -> Refusal {
    Refusal::new(Code::Loading, "not every node has told what it holds: ask again")
}
