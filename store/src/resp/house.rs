//! What all connections of a server share: the store, the settings, what is counted, and who is there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::contract::{Store, Tenant};
use super::counters::{Counters, Seen};
use super::settings::Settings;

/// What connections share.
pub struct House<S> {
    /// What the commands are for.
    pub store: Arc<S>,
    /// How clients are treated.
    pub settings: Settings,
    /// What was counted.
    pub counters: Counters,
    /// Bytes of values that are arriving.
    pub arriving: AtomicUsize,
    /// No connection begins anything new.
    pub ending: AtomicBool,
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
    next: AtomicU64,
    born: Instant,
    /// Milliseconds since birth, as of the last round of the watch: reading it costs nothing.
    clock: AtomicU64,
    /// Commands a second, lately.
    pub rate: AtomicU64,
    /// When the rate was last reckoned, and how many commands there were.
    reckoned: Mutex<(u64, u64)>,
}

/// A connection as others see it.
#[derive(Debug)]
pub struct Peer {
    /// Its number, used once.
    pub id: u64,
    /// Where it comes from.
    pub from: SocketAddr,
    /// Where it came in.
    pub to: SocketAddr,
    /// When it came.
    pub since: u64,
    /// The last command, by its place in the table.
    pub last: AtomicU16,
    /// 2 or 3.
    pub protocol: AtomicU8,
    /// What it says of itself.
    pub told: Mutex<Told>,
    state: AtomicU8,
    /// When the state began.
    stamp: AtomicU64,
    /// Bytes that moved since.
    moved: AtomicU64,
    task: Mutex<Option<AbortHandle>>,
}

/// What a connection says of itself.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Whose it is.
    pub tenant: Option<Tenant>,
    /// `CLIENT SETNAME`.
    pub name: String,
    /// `CLIENT SETINFO LIB-NAME`.
    pub library: String,
    /// `CLIENT SETINFO LIB-VER`.
    pub version: String,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// For nothing: it works, or the store does.
    Works = 0,
    /// For a command.
    Idle = 1,
    /// For the rest of a command.
    Half = 2,
    /// For the client to take its answers.
    Unread = 3,
}

// === impl House ===

impl<S: Store> House<S> {
    /// Nobody is there yet.
    pub fn new(store: Arc<S>, settings: Settings) -> Self {
        Self {
            store,
            settings,
            counters: Counters::default(),
            arriving: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            peers: Mutex::default(),
            next: AtomicU64::new(1),
            born: Instant::now(),
            clock: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            reckoned: Mutex::default(),
        }
    }

    /// How long it has been there.
    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Milliseconds since birth, some tenths of a second late.
    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Lets somebody in, unless there are too many.
    pub fn enter(&self, from: SocketAddr, to: SocketAddr) -> Option<Arc<Peer>> {
        let mut peers = self.peers.lock();
        if peers.len() >= self.settings.connections {
            Counters::one(&self.counters.turned_away);
            return None;
        }
        Counters::one(&self.counters.accepted);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let peer = Arc::new(Peer {
            id,
            from,
            to,
            since: self.now(),
            last: AtomicU16::new(u16::MAX),
            protocol: AtomicU8::new(2),
            told: Mutex::default(),
            state: AtomicU8::new(State::Works as u8),
            stamp: AtomicU64::new(self.now()),
            moved: AtomicU64::new(0),
            task: Mutex::new(None),
        });
        peers.insert(id, peer.clone());
        Some(peer)
    }

    /// Somebody is gone.
    pub fn leave(&self, peer: &Peer) {
        self.peers.lock().remove(&peer.id);
    }

    /// Who is there, in the order they came.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.lock().values().cloned().collect()
    }

    /// How many are there.
    pub fn connections(&self) -> usize {
        self.peers.lock().len()
    }

    /// Takes a part of what may arrive at once; false if that would be too much.
    pub fn arrive(&self, len: usize) -> bool {
        let fits = |now: usize| now.checked_add(len).filter(|now| *now <= self.settings.arriving);
        self.arriving.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Gives it back.
    pub fn arrived(&self, len: usize) {
        self.arriving.fetch_sub(len, Ordering::Relaxed);
    }

    /// What was counted.
    pub fn seen(&self) -> Seen {
        self.counters.seen(self.connections(), self.arriving.load(Ordering::Relaxed))
    }

    /// One round of the watch: sets the clock, and closes who has waited too long.
    pub fn watch(&self) {
        self.clock.store(self.age().as_millis() as u64, Ordering::Relaxed);
        self.reckon();
        let ending = self.ending.load(Ordering::Relaxed);
        for peer in self.peers.lock().values() {
            let state = peer.state();
            let counter = match state {
                State::Works => continue,
                State::Idle => &self.counters.idle,
                State::Half => &self.counters.half_sent,
                State::Unread => &self.counters.unread,
            };
            if ending && state == State::Idle {
                peer.close();
            } else if self.overdue(peer, state) {
                Counters::one(counter);
                peer.close();
            }
        }
    }

    /// How many commands a second there were since a second ago.
    fn reckon(&self) {
        let (then, before) = *self.reckoned.lock();
        let (now, commands) = (self.now(), self.counters.commands());
        if now - then >= 1000 {
            self.rate.store((commands - before) * 1000 / (now - then), Ordering::Relaxed);
            *self.reckoned.lock() = (now, commands);
        }
    }

    /// Closes everybody.
    pub fn close(&self) {
        self.peers.lock().values().for_each(|peer| peer.close());
    }

    fn overdue(&self, peer: &Peer, state: State) -> bool {
        let waited = Duration::from_millis(self.now().saturating_sub(peer.stamp.load(Ordering::Relaxed)));
        let moved = peer.moved.load(Ordering::Relaxed);
        let Settings { patience, slowest, idle, .. } = self.settings;
        match state {
            State::Works => false,
            State::Idle => idle.is_some_and(|idle| waited > idle),
            State::Half | State::Unread => waited > allowed(patience, slowest, moved),
        }
    }
}

/// How long something may take of which so much has moved.
pub fn allowed(patience: Duration, slowest: u64, moved: u64) -> Duration {
    patience.saturating_add(Duration::from_millis(moved.saturating_mul(1000) / slowest.max(1)))
}

// === impl Peer ===

impl Peer {
    /// What it waits for from now on. Going on with the same wait does not begin it again.
    pub fn wait_for(&self, state: State, now: u64) {
        // Only its own task writes.
        if self.state.load(Ordering::Relaxed) != state as u8 {
            self.state.store(state as u8, Ordering::Relaxed);
            self.stamp.store(now, Ordering::Relaxed);
            self.moved.store(0, Ordering::Relaxed);
        }
    }

    /// Some bytes moved.
    pub fn moved(&self, count: usize) {
        // Only its own task adds.
        self.moved.store(self.moved.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
    }

    /// What it waits for.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            1 => State::Idle,
            2 => State::Half,
            3 => State::Unread,
            _ => State::Works,
        }
    }

    /// When it began to wait.
    pub fn stamp(&self) -> u64 {
        self.stamp.load(Ordering::Relaxed)
    }

    /// What carries it out.
    pub fn runs_as(&self, task: AbortHandle) {
        *self.task.lock() = Some(task);
    }

    fn close(&self) {
        if let Some(task) = &*self.task.lock() {
            task.abort();
        }
    }
}
