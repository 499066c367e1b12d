//! The instances that live: one says that it does, hears who else does, and holds its shares of what all have in common.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::backend::Heard;
use crate::coord::Coord;
use crate::error::Error;
use crate::name::Name;
use crate::op::{Beaten, Drawn, Member, Op, Reply, Want};
use crate::primitives::odd;
use crate::share::Share;

/// What an instance says of itself with each beat.
pub trait Voice: Send + Sync + 'static {
    /// For people: any JSON.
    fn info(&self) -> Bytes;
    /// Numbers whose sum over all instances means something.
    fn cells(&self) -> Vec<(Name, i64)>;
}

/// How often, and how long it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// So many instances are expected: the equal part of a limit while fewer are known.
    pub expected: usize,
    /// An instance that was silent for so long is dead to all others.
    pub lease: Duration,
    /// It beats so often.
    pub beat: Duration,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { expected: 1, lease: Duration::from_secs(3), beat: Duration::from_millis(500) }
    }
}

/// Who lives, as this instance knows it.
#[derive(Clone, Debug)]
pub struct View {
    /// All, ourselves included; sorted by name.
    pub members: Vec<Member>,
    /// The cells of all others, summed.
    pub others: BTreeMap<String, i64>,
    /// When this was said.
    pub at: Option<Instant>,
    /// Why nothing newer is known, if the last beat had no answer.
    pub trouble: Option<String>,
}

/// This instance among all.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

struct Inner {
    coord: Coord,
    pulse: Pulse,
    voice: Arc<dyn Voice>,
    began: Instant,
    life: u64,
    /// Of this life, as the coordinator calls it; 0: it does not know us.
    fence: Mutex<u64>,
    /// Counts what was said about shares.
    turn: AtomicU64,
    view: watch::Sender<View>,
    pools: Mutex<BTreeMap<String, Arc<Pool>>>,
    urgent: Notify,
    /// Taken while a beat is under way; whether we have left: whoever has left does not beat again.
    left: tokio::sync::Mutex<bool>,
}

/// A limit that all instances have in common.
pub struct Pool {
    name: Name,
    share: Mutex<Share>,
    changed: Notify,
}

/// A place within a limit; free again when dropped.
pub struct Place {
    pool: Arc<Pool>,
    replicas: Replicas,
}

/// Shares are asked for at most so often, however many come in: what comes meanwhile goes along.
const TOGETHER: Duration = Duration::from_millis(2);
/// Whoever stands at the door has the coordinator asked again after so long, and then half as often each time.
const ASK_AGAIN: Duration = Duration::from_millis(50);

// === impl Replicas ===

impl Replicas {
    /// Begins to beat; ends when the last clone is gone. See [`Replicas::leave`] for an orderly end.
    ///
    /// `life` is greater for a process that began later under the same name, such as its time of birth in microseconds.
    pub fn begin(coord: &Coord, life: u64, pulse: Pulse, voice: Arc<dyn Voice>) -> Self {
        let nobody = View { members: Vec::new(), others: BTreeMap::new(), at: None, trouble: None };
        let replicas = Self(Arc::new(Inner {
            coord: coord.clone(),
            pulse,
            voice,
            began: Instant::now(),
            life,
            fence: Mutex::new(0),
            turn: AtomicU64::new(0),
            view: watch::Sender::new(nobody),
            pools: Mutex::default(),
            urgent: Notify::new(),
            left: tokio::sync::Mutex::new(false),
        }));
        tokio::spawn(beat(Arc::downgrade(&replicas.0), coord.hear()));
        replicas
    }

    /// Who lives, now and from now on.
    pub fn view(&self) -> watch::Receiver<View> {
        self.0.view.subscribe()
    }

    /// The coordinator behind it.
    pub fn coord(&self) -> &Coord {
        &self.0.coord
    }

    /// The common limit of this name; it is what was said first.
    pub fn pool(&self, name: &Name, limit: u64) -> Arc<Pool> {
        let mut pools = self.0.pools.lock();
        let make = || {
            let mut share = Share::new(limit);
            let view = self.0.view.borrow();
            share.among(view.members.len().max(self.0.pulse.expected) as u64);
            drop(view);
            share.alone(self.0.is_alone());
            Arc::new(Pool { name: name.clone(), share: Mutex::new(share), changed: Notify::new() })
        };
        let pool = pools.entry(name.as_str().to_owned()).or_insert_with(make).clone();
        self.0.urgent.notify_one();
        pool
    }

    /// Takes a place within a limit, waiting at most so long for others to give one up.
    pub async fn enter(&self, pool: &Arc<Pool>, patience: Duration) -> Option<Place> {
        let place = || Place { pool: pool.clone(), replicas: self.clone() };
        if pool.share.lock().enter(self.now()) {
            return Some(place());
        }
        if pool.share.lock().is_sole() {
            // Nobody could give anything up.
            return None;
        }
        let deadline = Instant::now() + patience;
        let _waiting = Door::new(pool);
        // Word comes when others give something back; should it be lost, we ask again ourselves.
        let mut pause = ASK_AGAIN;
        self.0.urgent.notify_one();
        loop {
            let changed = pool.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if pool.share.lock().enter(self.now()) {
                return Some(place());
            }
            let until = deadline.min(Instant::now() + pause);
            if timeout_at(until, changed).await.is_err() {
                if until == deadline {
                    return pool.share.lock().enter(self.now()).then(place);
                }
                pause *= 2;
                self.0.urgent.notify_one();
            }
        }
    }

    /// Takes a place for something that can wait, if there is one beside those that are kept for whoever cannot.
    pub fn enter_behind(&self, pool: &Arc<Pool>) -> Option<Place> {
        let may = pool.share.lock().enter_behind(self.now());
        may.then(|| Place { pool: pool.clone(), replicas: self.clone() })
    }

    /// Takes from a common bucket: at least `least`, or nothing and the time until that much will be there.
    ///
    /// # Errors
    /// See [`Error`]; what a lost answer took is gone, so that the bound holds.
    pub async fn draw(
        &self,
        bucket: &Name,
        per_second: f64,
        burst: f64,
        least: f64,
        most: f64,
        patience: Duration,
    ) -> Result<Drawn, Error> {
        let op = Op::Draw { bucket: bucket.clone(), per_second, burst, least, most };
        match self.0.coord.ask_within(&op, patience).await? {
            Reply::Drawn(drawn) => Ok(drawn),
            other => Err(odd(&op, &other)),
        }
    }

    /// Whether the coordinator answered the last beat.
    pub fn in_reach(&self) -> bool {
        let view = self.0.view.borrow();
        view.at.is_some() && view.trouble.is_none()
    }

    /// How long an instance that is silent is taken to live.
    pub fn lease(&self) -> Duration {
        self.0.pulse.lease
    }

    /// Whether the coordinator has answered, or has had a whole lease of time to do so.
    pub fn is_settled(&self) -> bool {
        self.0.view.borrow().at.is_some() || self.0.is_alone()
    }

    /// How many instances live, as far as known; at least one.
    pub fn count(&self) -> usize {
        self.0.view.borrow().members.len().max(self.0.pulse.expected).max(1)
    }

    /// Ends in order: nobody waits for our lease to be over.
    ///
    /// # Errors
    /// See [`Error`]; then the lease ends by itself.
    pub async fn leave(&self) -> Result<(), Error> {
        let mut left = self.0.left.lock().await;
        *left = true;
        let fence = std::mem::take(&mut *self.0.fence.lock());
        let op = Op::Leave { instance: self.0.coord.instance().clone(), fence };
        self.0.coord.ask_within(&op, self.0.pulse.beat).await.map(drop)
    }

    fn now(&self) -> Duration {
        self.0.now()
    }
}

/// One who stands at the door.
struct Door<'a>(&'a Pool);

impl<'a> Door<'a> {
    fn new(pool: &'a Pool) -> Self {
        pool.share.lock().wait(true);
        Self(pool)
    }
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        self.0.share.lock().wait(false);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let urgent = {
            let mut share = self.pool.share.lock();
            share.leave();
            share.is_urgent(self.replicas.now())
        };
        self.pool.changed.notify_one();
        if urgent {
            self.replicas.0.urgent.notify_one();
        }
    }
}

impl Pool {
    /// In use here, held here, and the limit.
    pub fn stand(&self) -> (u64, u64, u64) {
        let share = self.share.lock();
        (share.used(), share.held(), share.limit())
    }
}

// === The worker ===

async fn beat(replicas: std::sync::Weak<Inner>, mut notices: broadcast::Receiver<Heard>) {
    let mut next = Instant::now();
    loop {
        let Some(inner) = replicas.upgrade() else { return };
        let now = Instant::now();
        if now >= next {
            next = now + inner.coord.chance().jitter(inner.pulse.beat);
            let left = inner.left.lock().await;
            if *left {
                return;
            }
            inner.beat().await;
            drop(left);
            let (fence, now) = (*inner.fence.lock(), inner.now());
            inner.hold(|pool, share| share.has_news(&pool.name, fence, now)).await;
        }
        tokio::select! {
            biased;
            () = sleep_until(next) => {}
            () = inner.urgent.notified() => {
                tokio::time::sleep(TOGETHER).await;
                let now = inner.now();
                inner.hold(|_, share| share.is_urgent(now)).await;
            }
            notice = notices.recv() => match notice {
                Ok(Heard::Notice(_, text)) => {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    let words: Vec<&str> = text.split(' ').collect();
                    match words.as_slice() {
                        ["hold", pool, who] if *who != inner.coord.instance().as_str() => inner.give(pool).await,
                        ["free", pool] => inner.take(pool).await,
                        ["left", who] if *who != inner.coord.instance().as_str() => next = Instant::now(),
                        _ => {}
                    }
                }
                Ok(Heard::Gap) | Err(broadcast::error::RecvError::Lagged(_)) => next = Instant::now(),
                Err(broadcast::error::RecvError::Closed) => sleep_until(next).await,
            },
        }
    }
}

impl Inner {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether nobody has answered for a whole lease: all that others knew of us is over.
    fn is_alone(&self) -> bool {
        self.view.borrow().at.unwrap_or(self.began).elapsed() >= self.pulse.lease
    }

    async fn beat(&self) {
        let sent = Instant::now();
        let op = Op::Beat {
            instance: self.coord.instance().clone(),
            life: self.life,
            ttl: self.pulse.lease,
            info: self.voice.info(),
            cells: self.voice.cells(),
        };
        let mut asked = self.coord.ask_within(&op, self.pulse.lease / 2).await;
        if matches!(asked, Err(Error::StateLost { .. })) {
            // Now that it is known, we say again that we live.
            asked = self.coord.ask_within(&op, self.pulse.lease / 2).await;
        }
        let beaten = asked.and_then(|reply| match reply {
            Reply::Beaten(beaten) => Ok(beaten),
            other => Err(odd(&op, &other)),
        });
        match beaten {
            Ok(beaten) => self.beaten(beaten, sent),
            Err(Error::Fenced { current }) => {
                let first = self.view.borrow().trouble.is_none();
                if first {
                    tracing::error!(
                        instance = %self.coord.instance(),
                        current,
                        "a process that began later has our name; give each replica its own coordination.instance"
                    );
                }
                for pool in self.pools.lock().values() {
                    pool.share.lock().alone(self.is_alone());
                }
                *self.fence.lock() = 0;
                self.view.send_modify(|view| view.trouble = Some("another replica has our name".to_owned()));
            }
            Err(error) => {
                let first = self.view.borrow().trouble.is_none();
                if first {
                    tracing::warn!(%error, "the other replicas are out of reach; going on alone with what is known");
                }
                self.view.send_modify(|view| view.trouble = Some(error.to_string()));
                for pool in self.pools.lock().values() {
                    pool.share.lock().alone(self.is_alone());
                    pool.changed.notify_waiters();
                }
            }
        }
    }

    fn beaten(&self, beaten: Beaten, sent: Instant) {
        let before = std::mem::replace(&mut *self.fence.lock(), beaten.fence);
        let mut count = beaten.members.len().max(self.pulse.expected) as u64;
        // Back under another fence after having been cut off: those whom we knew may be about to come back as well.
        let returned = before != beaten.fence && self.view.borrow().at.is_some();
        if returned {
            count = count.max(self.view.borrow().members.len() as u64);
        }
        let calm_until = returned.then(|| self.now() + self.pulse.lease);
        let again = self.view.borrow().trouble.is_some();
        if again {
            tracing::info!(replicas = beaten.members.len(), "the other replicas are in reach again");
        }
        self.view.send_replace(View {
            others: beaten.others.into_iter().map(|(name, sum)| (name.as_str().to_owned(), sum)).collect(),
            members: beaten.members,
            at: Some(sent),
            trouble: None,
        });
        for pool in self.pools.lock().values() {
            let mut share = pool.share.lock();
            if let Some(until) = calm_until {
                share.returned(until);
            }
            // As many as before, until they have had the time to come back.
            if calm_until.is_some() || !share.is_calm(self.now()) {
                share.among(count);
            }
            share.alone(false);
            share.renewed(beaten.fence, sent.duration_since(self.began) + self.pulse.lease);
        }
    }

    /// Asks for the shares of all pools that `which` picks.
    async fn hold(&self, which: impl Fn(&Pool, &Share) -> bool) {
        let picked = |pool: &&Arc<Pool>| which(pool, &pool.share.lock());
        let pools = self.pools.lock().values().filter(picked).cloned().collect();
        self.hold_these(pools).await;
    }

    /// Asks for the shares of these pools, in one call.
    async fn hold_these(&self, pools: Vec<Arc<Pool>>) {
        let fence = *self.fence.lock();
        if fence == 0 || pools.is_empty() {
            return;
        }
        let sent = self.now();
        let wants: Vec<Want> =
            pools.iter().map(|pool| pool.share.lock().ask(pool.name.clone(), sent)).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) + 1;
        let op = Op::Hold { instance: self.coord.instance().clone(), fence, turn, wants: wants.clone() };
        match self.coord.ask_within(&op, self.pulse.beat).await {
            Ok(Reply::Held(held)) => {
                for ((pool, held), want) in pools.iter().zip(held).zip(wants) {
                    // A share lives as long as the beat that it stands on, and that was before this.
                    let until =
                        self.view.borrow().at.map(|at| at.duration_since(self.began) + self.pulse.lease);
                    let grown = {
                        let mut share = pool.share.lock();
                        share.granted(want, held, fence, until.unwrap_or(sent), self.now())
                    };
                    if grown {
                        pool.changed.notify_waiters();
                    }
                }
            }
            Ok(other) => tracing::error!(error = %odd(&op, &other), "shares were not understood"),
            // The next beat begins anew.
            Err(Error::NotFound) => *self.fence.lock() = 0,
            Err(error) => tracing::debug!(%error, "shares could not be asked for"),
        }
    }

    /// Another instance would like some of a pool.
    async fn give(&self, name: &str) {
        let Some(pool) = self.pools.lock().get(name).cloned() else { return };
        let gives = {
            let mut share = pool.share.lock();
            share.others_want();
            share.held() > share.used()
        };
        if gives {
            self.hold_these(vec![pool]).await;
        }
    }

    /// Another instance has given some of a pool back.
    async fn take(&self, name: &str) {
        let Some(pool) = self.pools.lock().get(name).cloned() else { return };
        if !pool.share.lock().is_content() {
            self.hold_these(vec![pool]).await;
        }
    }
}
