//! A file system in memory that forgets what was not synced when its power is cut, and fails on command.
//!
//! A disk keeps sectors: after a cut of power each sector that was written and not synced is there or not, by chance, and so
//! is each name that was made or taken away. A sync that fails leaves its sectors in the cache and takes them for written,
//! which is what Linux does.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Files, Handle};

/// What a disk writes at once.
const SECTOR: usize = 512;

/// A file system in memory; clones are the same one.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

/// What fails. Each number counts down to the call that does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Bytes that can still be written or set aside.
    pub room: Option<u64>,
    /// Syncs that succeed before one fails.
    pub sync: Option<u64>,
    /// Writes that succeed before one writes half and the next fails.
    pub write: Option<u64>,
    /// Whether every write takes half of what it is given.
    pub short: bool,
    /// Reads that succeed before one fails.
    pub read: Option<u64>,
    /// Syncs that succeed before the machine stops in one: nobody can do anything any more, until its power is cut.
    pub stop: Option<u64>,
    /// Whether no room can be set aside, as on some file systems.
    pub unreserved: bool,
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, Arc<Mutex<Node>>>,
    /// The names that a cut of power leaves.
    durable: BTreeMap<PathBuf, Arc<Mutex<Node>>>,
    locked: BTreeSet<PathBuf>,
    faults: Faults,
    /// A write was cut in half: the next one fails.
    broken: bool,
    /// Counts cuts of power: handles of before are dead.
    life: u64,
    chance: u64,
}

#[derive(Default)]
struct Node {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Whether its length changed since the last sync.
    resized: bool,
}

struct Open {
    files: Memory,
    node: Arc<Mutex<Node>>,
    life: u64,
}

struct Lock(Memory, PathBuf);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state.lock().locked.remove(&self.1);
    }
}

// === impl Memory: what tests do ===

impl Memory {
    /// What fails from now on.
    pub fn fail(&self, faults: Faults) {
        let mut state = self.state.lock();
        (state.faults, state.broken) = (faults, false);
    }

    /// The power is cut: of what was not synced, `keep` decides for each sector and each name whether it is there. Whoever
    /// has files open is gone.
    pub fn cut_power(&self, keep: &mut dyn FnMut() -> bool) {
        let mut state = self.state.lock();
        state.life += 1;
        (state.faults, state.broken) = (Faults::default(), false);
        state.locked.clear();
        let paths: BTreeSet<PathBuf> = state.names.keys().chain(state.durable.keys()).cloned().collect();
        for path in paths {
            let (now, before) = (state.names.get(&path).cloned(), state.durable.get(&path).cloned());
            let left = if keep() { now } else { before };
            if let Some(node) = left {
                node.lock().cut_power(keep);
                state.names.insert(path.clone(), node.clone());
                state.durable.insert(path, node);
            } else {
                state.names.remove(&path);
                state.durable.remove(&path);
            }
        }
    }

    /// The process dies: what it wrote is there, its locks and handles are not.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.life += 1;
        (state.faults, state.broken) = (Faults::default(), false);
        state.locked.clear();
    }

    /// The bytes of a file.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        Some(self.state.lock().names.get(path)?.lock().bytes.clone())
    }

    /// Changes a file behind everybody's back, in the cache and on disk.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let state = self.state.lock();
        if let Some(node) = state.names.get(path) {
            let mut node = node.lock();
            change(&mut node.bytes);
            let Node { bytes, durable, .. } = &mut *node;
            durable.clone_from(bytes);
            (node.dirty, node.resized) = (BTreeSet::new(), false);
        }
    }

    /// A copy that shares nothing, as if the machine had been copied.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state.lock();
        let copied = |names: &BTreeMap<PathBuf, Arc<Mutex<Node>>>| {
            names
                .iter()
                .map(|(path, node)| {
                    let node = node.lock();
                    let (bytes, durable) = (node.bytes.clone(), node.bytes.clone());
                    let node = Node { bytes, durable, ..Node::default() };
                    (path.clone(), Arc::new(Mutex::new(node)))
                })
                .collect::<BTreeMap<_, _>>()
        };
        let names = copied(&state.names);
        let fork = State { durable: names.clone(), names, chance: state.chance, ..State::default() };
        Self { state: Arc::new(Mutex::new(fork)) }
    }

    /// Bytes of all files.
    pub fn occupied(&self) -> u64 {
        self.state.lock().names.values().map(|node| node.lock().bytes.len() as u64).sum()
    }

    fn opened(&self, node: Arc<Mutex<Node>>, life: u64) -> Box<dyn Handle> {
        Box::new(Open { files: self.clone(), node, life })
    }
}

impl Files for Memory {
    fn make_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let mut state = self.state.lock();
        state.names.entry(path.to_owned()).or_default();
        let free = state.locked.insert(path.to_owned());
        Ok(free.then(|| Box::new(Lock(self.clone(), path.to_owned())) as Box<_>))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let inside = state.names.keys().filter_map(|path| path.strip_prefix(folder).ok());
        Ok(inside.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn make(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        let mut state = self.state.lock();
        if state.faults.room == Some(0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = Arc::<Mutex<Node>>::default();
        state.names.insert(path.to_owned(), node.clone());
        Ok(self.opened(node, state.life))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>> {
        let state = self.state.lock();
        let node = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.opened(node.clone(), state.life))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state.lock().names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.must_sync()?;
        state.durable = state.names.clone();
        Ok(())
    }

    fn chance(&self) -> u64 {
        let mut state = self.state.lock();
        state.chance = state.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.chance
    }
}

// === impl Open ===

impl Open {
    fn alive(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.files.state.lock();
        if state.life == self.life {
            Ok(state)
        } else {
            Err(io::Error::other("the machine that had this is gone"))
        }
    }
}

impl Handle for Open {
    fn len(&self) -> io::Result<u64> {
        Ok(self.node.lock().bytes.len() as u64)
    }

    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        if let Some(left) = &mut self.alive()?.faults.read {
            *left = left.checked_sub(1).ok_or_else(asked_for)?;
        }
        let node = self.node.lock();
        let from = node.bytes.get(at as usize..).unwrap_or_default();
        let many = from.len().min(to.len());
        to[..many].copy_from_slice(&from[..many]);
        Ok(many)
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let mut state = self.alive()?;
        if std::mem::take(&mut state.broken) {
            return Err(asked_for());
        }
        let mut wanted: usize = pieces.iter().map(|piece| piece.len()).sum();
        if state.faults.short {
            wanted = wanted.div_ceil(2);
        }
        if let Some(left) = &mut state.faults.write {
            if *left == 0 {
                (wanted, state.broken) = (wanted.div_ceil(2), true);
            } else {
                *left -= 1;
            }
        }
        let mut node = self.node.lock();
        let grows = (at as usize + wanted).saturating_sub(node.bytes.len());
        if let Some(room) = &mut state.faults.room {
            // What fits is written; a write that fits in no part fails.
            let fits = wanted - grows + grows.min(*room as usize);
            *room -= grows.min(*room as usize) as u64;
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            wanted = fits;
        }
        let mut place = at as usize;
        for piece in pieces {
            let piece = &piece[..piece.len().min(at as usize + wanted - place)];
            node.write(place, piece);
            place += piece.len();
        }
        Ok(wanted)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        if state.faults.unreserved {
            return Ok(());
        }
        let mut node = self.node.lock();
        let grows = len.saturating_sub(node.bytes.len() as u64);
        if let Some(room) = &mut state.faults.room {
            *room = room.checked_sub(grows).ok_or(io::ErrorKind::StorageFull)?;
        }
        let len = node.bytes.len() + grows as usize;
        node.bytes.resize(len, 0);
        node.resized = true;
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        drop(self.alive()?);
        let mut node = self.node.lock();
        node.bytes.resize(len as usize, 0);
        node.resized = true;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        if let Some(left) = &mut state.faults.stop {
            let Some(less) = left.checked_sub(1) else {
                state.life += 1;
                return Err(asked_for());
            };
            *left = less;
        }
        let synced = state.must_sync();
        drop(state);
        let mut node = self.node.lock();
        // Only what is known to be dirty is written: what a failed sync left behind never is, unless it is written again.
        let dirty = std::mem::take(&mut node.dirty);
        node.resized = false;
        synced?;
        let Node { bytes, durable, .. } = &mut *node;
        durable.resize(bytes.len(), 0);
        for sector in dirty {
            let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(bytes.len()));
            if from < to {
                durable[from..to].copy_from_slice(&bytes[from..to]);
            }
        }
        Ok(())
    }
}

// === impl State, Node ===

impl State {
    fn must_sync(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.faults.sync {
            *left = left.checked_sub(1).ok_or_else(asked_for)?;
        }
        Ok(())
    }
}

impl Node {
    fn write(&mut self, at: usize, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        let end = at + piece.len();
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
            self.resized = true;
        }
        self.bytes[at..end].copy_from_slice(piece);
        self.dirty.extend(at / SECTOR..=(end - 1) / SECTOR);
    }

    fn cut_power(&mut self, keep: &mut dyn FnMut() -> bool) {
        let mut left = std::mem::take(&mut self.durable);
        if self.resized && keep() {
            left.resize(self.bytes.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(self.bytes.len());
            if from >= to || !keep() {
                continue;
            }
            if left.len() < to {
                left.resize(to, 0);
            }
            left[from..to].copy_from_slice(&self.bytes[from..to]);
        }
        self.bytes.clone_from(&left);
        (self.durable, self.resized) = (left, false);
    }
}

fn asked_for() -> io::Error {
    io::Error::other("a fault that a test asked for")
}
