//! Who leads, of several masters: a claim that the coordinator keeps, and a term that each holder counts up under its fence.
//!
//! The term is a number of its own and not the fence: fences are shared with other claims and grow fast, and versions of
//! objects have room for a small one only. It is written under the fence of the claim, so that whoever lost the claim meanwhile
//! writes nothing. It is never smaller than the minutes since 2026: a coordinator that lost everything rarely gives out a term
//! that nodes have seen; if it does they say so, and the next one is greater ([`Lead::after`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coord::op::{Claimed, Expect, Op, Put, Reply};
use coord::{Coord, Key, Name};
use parking_lot::Mutex;
use store::link::lead::{LAST_TERM, SPARE, minutes};
use store::link::{Held, Lead};
use store::node::desk::Later;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::clock::Clock;

/// The right to lead, had from the coordinator. Clones are the same one.
#[derive(Clone)]
pub(super) struct Coordinated(Arc<Inner>);

struct Inner {
    coord: Coord,
    claim: Key,
    term: Key,
    clock: Clock,
    /// Where this master is reached: what others are told while it leads.
    address: String,
    lease: Duration,
    leader: Mutex<Option<String>>,
    /// A term that somebody has seen, and that the coordinator may have forgotten.
    after: AtomicU32,
    /// Claims that are being given up.
    leaves: Mutex<JoinSet<()>>,
}

/// Renews a claim until it is dropped, then gives it up.
struct Keeper {
    inner: Arc<Inner>,
    token: Name,
    renews: JoinHandle<()>,
}

/// A claim that was just made.
struct Claim {
    token: Name,
    fence: u64,
    /// When it was asked for: its lease began after that.
    asked: Instant,
}

/// Clocks of different machines run at different speeds: a lease is taken to be shorter by a part like this.
const DRIFT: u32 = 50;
/// The shortest time between two tries.
const BREATH: Duration = Duration::from_millis(20);

impl Coordinated {
    /// For a master that is reached at this address, with leases of this length.
    ///
    /// # Errors
    /// An address that makes no name, in words.
    pub(super) fn new(coord: Coord, clock: Clock, address: String, lease: Duration) -> Result<Self, String> {
        let name = Name::new("store-master").map_err(|error| error.to_string())?;
        let claim = Key::new(name.as_str()).map_err(|error| error.to_string())?;
        let term = Key::beside(&name, "store-term").map_err(|error| error.to_string())?;
        Name::new(&address).map_err(|error| format!("tiers.link.advertise: {address}: {error}"))?;
        let (leader, leaves) = (Mutex::default(), Mutex::default());
        let after = AtomicU32::new(0);
        Ok(Self(Arc::new(Inner { coord, claim, term, clock, address, lease, leader, after, leaves })))
    }

    /// Waits until what was held is given up, so that others need not wait for its end; not for long.
    pub(super) async fn left(&self) {
        let mut leaves = std::mem::take(&mut *self.0.leaves.lock());
        let all = async { while leaves.join_next().await.is_some() {} };
        if timeout(Duration::from_secs(2), all).await.is_err() {
            tracing::warn!(
                "the coordinator does not answer: another master leads once this one's lease is over"
            );
        }
    }
}

impl Lead for Coordinated {
    fn after(&self, term: u32) {
        self.0.after.fetch_max(term, Ordering::AcqRel);
    }

    fn hold(&self) -> Later<Held> {
        let inner = self.0.clone();
        Box::pin(async move { inner.hold().await })
    }

    fn leader(&self) -> Option<String> {
        self.0.leader.lock().clone()
    }
}

// === impl Inner ===

impl Inner {
    async fn hold(self: Arc<Self>) -> Held {
        let mut said = None;
        loop {
            let pause = match self.claim().await {
                Ok(Ok(claim)) => {
                    // From here on it is renewed, or given up if this is not waited for.
                    let (keeper, lasts) = self.clone().keep(&claim);
                    match self.term(&claim).await {
                        Ok(term) if *lasts.borrow() > Instant::now() => {
                            *self.leader.lock() = Some(self.address.clone());
                            return Held { term, until: lasts, keep: Box::new(keeper) };
                        }
                        Ok(_) => tracing::warn!("the lease of this master was over before it could lead"),
                        Err(why) => tracing::warn!("this master cannot lead: {why}"),
                    }
                    self.lease / 3
                }
                Ok(Err((leader, left))) => {
                    if said != leader {
                        if leader.as_ref() == Some(&self.address) {
                            tracing::info!(
                                ?left,
                                "an earlier life of this master has the lease yet; this one waits for its end"
                            );
                        } else {
                            tracing::info!(leader, "another master leads; this one stands by");
                        }
                        said.clone_from(&leader);
                    }
                    *self.leader.lock() = leader;
                    // It may be given up before its end.
                    left.min(self.lease / 10)
                }
                Err(why) => {
                    tracing::warn!("it is not known who leads: {why}");
                    // Whoever led may not have been able to renew its lease, either.
                    *self.leader.lock() = None;
                    said = None;
                    self.lease / 3
                }
            };
            sleep(pause.max(BREATH)).await;
        }
    }

    /// The claim, or who else has it and for how long.
    async fn claim(&self) -> Result<Result<Claim, (Option<String>, Duration)>, String> {
        // Another one each time, so that what was lost is never taken for held; where it is reached comes first.
        let token = format!("{}/{}", self.address, self.coord.token());
        let token = Name::new(token).map_err(|error| error.to_string())?;
        let asked = Instant::now();
        let op = Op::Claim { key: self.claim.clone(), token: token.clone(), ttl: self.lease };
        match self.coord.ask_within(&op, self.lease).await.map_err(|error| error.to_string())? {
            Reply::Claimed(Claimed::Granted { fence }) => Ok(Ok(Claim { token, fence, asked })),
            Reply::Claimed(Claimed::Held { by, left }) => {
                let leader = by.as_str().split_once('/').map(|(address, _)| address.to_owned());
                Ok(Err((leader, left)))
            }
            other => Err(format!("the coordinator answered a claim with {other:?}")),
        }
    }

    /// A term that is greater than any before, written under the claim's fence.
    async fn term(&self, claim: &Claim) -> Result<u32, String> {
        let ask =
            async |op: Op| self.coord.ask_within(&op, self.lease).await.map_err(|error| error.to_string());
        let before = match ask(Op::Get { key: self.term.clone() }).await? {
            Reply::Value(before) => before,
            other => return Err(format!("the coordinator answered with {other:?}")),
        };
        let last = match &before {
            None => 0,
            Some(value) => std::str::from_utf8(&value.bytes)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| format!("the coordinator's key {} holds no term", self.term.name()))?,
        };
        let term = next(last.max(self.after.load(Ordering::Acquire)), self.clock.unix());
        if term > LAST_TERM {
            return Err("there are no more terms".to_owned());
        }
        let expect = before.map_or(Expect::Absent, |value| Expect::Version(value.version));
        let value = term.to_string().into();
        let put = Op::Put { key: self.term.clone(), value, expect, fence: claim.fence, ttl: None };
        match ask(put).await? {
            Reply::Put(Put::Done { .. }) => Ok(term),
            Reply::Put(Put::Conflict { .. }) => Err("another master counted the term up".to_owned()),
            other => Err(format!("the coordinator answered with {other:?}")),
        }
    }

    /// Renews the claim as long as what this returns is kept.
    fn keep(self: Arc<Self>, claim: &Claim) -> (Keeper, watch::Receiver<Instant>) {
        let sure = self.lease * (DRIFT - 1) / DRIFT;
        let (lasts, until) = watch::channel(claim.asked + sure);
        let (inner, token, fence) = (self.clone(), claim.token.clone(), claim.fence);
        let renewed = token.clone();
        let renews = tokio::spawn(async move {
            let mut pause = inner.lease / 3;
            loop {
                sleep(pause).await;
                pause = inner.lease / 3;
                let asked = Instant::now();
                let op = Op::Renew { key: inner.claim.clone(), token: renewed.clone(), ttl: inner.lease };
                match inner.coord.ask_within(&op, inner.lease / 3).await {
                    Ok(Reply::Fence(now)) if now == fence => drop(lasts.send_replace(asked + sure)),
                    Ok(_) => return tracing::warn!("another master leads"),
                    // It may be renewed in time yet.
                    Err(error) if *lasts.borrow() > Instant::now() => {
                        tracing::warn!(%error, "the lease of this master could not be renewed, and is tried again");
                        // It was waited for already.
                        pause = inner.lease / 20;
                    }
                    Err(error) => return tracing::warn!(%error, "the lease of this master is over"),
                }
            }
        });
        (Keeper { inner: self, token, renews }, until)
    }
}

/// The term after this one, at that time.
fn next(last: u32, unix: Duration) -> u32 {
    let minutes = minutes(unix);
    // A clock that is far ahead must not use them up.
    let floor = if minutes > LAST_TERM - SPARE { 0 } else { minutes };
    last.saturating_add(1).max(floor)
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.renews.abort();
        let (inner, token) = (self.inner.clone(), self.token.clone());
        *inner.leader.lock() = None;
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let gives_up = async move {
                let op = Op::Release { key: inner.claim.clone(), token };
                if let Err(error) = inner.coord.ask(&op).await {
                    tracing::warn!(%error, "the lease of this master was not given up: others wait for its end");
                }
            };
            let leaves = &mut *self.inner.leaves.lock();
            while leaves.try_join_next().is_some() {}
            leaves.spawn_on(gives_up, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use coord::backend::{Config, Registry};

    use super::*;

    const LEASE: Duration = Duration::from_secs(9);

    async fn coord() -> Coord {
        let backend = Registry::new().make(&Config::default()).await.unwrap();
        Coord::new(backend, Name::new("store/test").unwrap(), 7)
    }

    fn master(coord: &Coord, address: &str) -> Coordinated {
        Coordinated::new(coord.clone(), Clock::start(), address.to_owned(), LEASE).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_next_one_has_a_greater_term() {
        let coord = coord().await;
        let (a, b) = (master(&coord, "a:1"), master(&coord, "b:2"));
        let first = a.hold().await;
        assert_eq!(a.leader().as_deref(), Some("a:1"));
        let mut second = b.hold();
        // It is renewed for as long as it is kept: hours later the other still waits.
        assert!(timeout(Duration::from_hours(3), &mut second).await.is_err());
        assert!(!first.left().is_zero());
        assert_eq!(b.leader().as_deref(), Some("a:1"), "nodes that come to the other are told");
        let term = first.term;
        let gone = Instant::now();
        drop(first);
        let second = second.await;
        assert!(gone.elapsed() < LEASE, "it was given up, so nobody waits for its end");
        assert!(second.term > term, "{} after {term}", second.term);
        assert_eq!((a.leader(), b.leader().as_deref()), (None, Some("b:2")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_lost_is_over_by_its_own_clock_before_another_leads() {
        let coord = coord().await;
        let (a, b) = (master(&coord, "a:1"), master(&coord, "b:2"));
        let first = a.hold().await;
        // As after a long pause of the whole process: nothing is renewed, and nothing given up.
        let until = *first.until.borrow();
        let Held { keep, term, .. } = first;
        std::mem::forget(keep);
        let stolen = Op::Release { key: a.0.claim.clone(), token: holder(&coord, &a).await };
        coord.ask(&stolen).await.unwrap();
        let second = b.hold().await;
        assert!(second.term > term);
        sleep(LEASE).await;
        // Whoever lost it is refused when it renews, and its time ends.
        assert!(until < Instant::now());
        assert!(!second.left().is_zero());
    }

    async fn holder(coord: &Coord, master: &Coordinated) -> Name {
        match coord.ask(&Op::Holder { key: master.0.claim.clone() }).await.unwrap() {
            Reply::Holder(Some((token, ..))) => token,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_no_longer_waits_holds_nothing() {
        let coord = coord().await;
        let (a, b) = (master(&coord, "a:1"), master(&coord, "b:2"));
        for _ in 0..20 {
            // Dropped at any of the points where it waits.
            let _ = timeout(Duration::ZERO, a.hold()).await;
        }
        assert!(timeout(2 * LEASE, b.hold()).await.is_ok());
    }

    /// 2026-01-01, in seconds since 1970.
    const EPOCH: u64 = 1_767_225_600;

    #[test]
    fn terms_count_up_and_begin_again_beyond_what_a_lost_coordinator_gave_out() {
        let at = |minutes: u64| Duration::from_secs(EPOCH + minutes * 60);
        assert_eq!((next(0, at(0)), next(7, at(0))), (1, 8));
        assert_eq!((next(0, at(500)), next(499, at(500)), next(500, at(500))), (500, 500, 501));
        assert_eq!(next(3, Duration::from_secs(5)), 4, "a clock before 2026");
        assert_eq!(next(3, at(1 << 40)), 4, "a clock in a far future");
        assert!(next(LAST_TERM, at(0)) > LAST_TERM, "and it ends");
    }
}
