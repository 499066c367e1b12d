//! One common limit as one instance sees it: who may come in now, and what to ask the coordinator for. No I/O, no clock.
//!
//! Each instance holds a share of the limit and lets in no more than that; shares are under the lease of their instance,
//! so that those of a dead one are free again by themselves.
//!
//! Invariants, proved by [`Share::check`]:
//! - H1: while the lease holds, nobody comes in beyond the share.
//! - H2: what is asked for is never less than what is in use.
//! - H3: what is given back is given up before it is said.
//!
//! The bound that follows: while the coordinator answers, all together never let in more than the limit. Without it, each
//! keeps its share until its lease is over, and then lets in its equal part: beyond the limit there are then at most the
//! requests that larger shares let in before, and one an instance from rounding up.

use std::time::Duration;

use crate::name::Name;
use crate::op::{Held, Want};

/// The share of one limit.
#[derive(Clone, Debug)]
pub struct Share {
    limit: u64,
    used: u64,
    held: u64,
    /// Who stands at the door here.
    waiting: u64,
    /// What others would like, as we heard last.
    wanted: u64,
    /// Instances that live, as we heard last.
    instances: u64,
    /// Until then the share is ours; none: it never was.
    until: Option<Duration>,
    /// The fence of the life of ours that it was granted to.
    fence: u64,
    /// Nobody answers, and has not since we began.
    alone: bool,
    /// We were cut off and are back: until then we take no more than our equal part, since others run what they took.
    calm_until: Duration,
    /// What was asked for last, and of which life of ours: saying the same again changes nothing.
    said: Option<(u64, Want)>,
}

impl Share {
    /// A share of nothing yet.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            used: 0,
            held: 0,
            waiting: 0,
            wanted: 0,
            instances: 1,
            until: None,
            fence: 0,
            alone: false,
            calm_until: Duration::ZERO,
            said: None,
        }
    }

    /// How many may be in at this moment.
    pub fn room(&self, now: Duration) -> u64 {
        match self.until {
            Some(until) if now < until => self.held.min(self.cap(now)),
            // Others may hold all of it: we hear in a moment.
            None if !self.alone => 0,
            _ => self.part(),
        }
    }

    /// Lets one in, if there is room.
    pub fn enter(&mut self, now: Duration) -> bool {
        let may = self.used < self.room(now);
        self.used += u64::from(may);
        may
    }

    /// Lets one in that can wait, behind those who cannot: an eighth of the room, at least one place, stays free for them. With
    /// nobody in, it may have the last.
    pub fn enter_behind(&mut self, now: Duration) -> bool {
        let room = self.room(now);
        let spare = if self.used == 0 { 0 } else { (room / 8).max(1) };
        let may = self.used + spare < room;
        self.used += u64::from(may);
        may
    }

    /// One has left.
    pub fn leave(&mut self) {
        self.used = self.used.saturating_sub(1);
    }

    /// Somebody waits at the door, or waits no more.
    pub fn wait(&mut self, more: bool) {
        self.waiting = if more { self.waiting + 1 } else { self.waiting.saturating_sub(1) };
    }

    /// We hear that others would like some; how many, the coordinator will say.
    pub fn others_want(&mut self) {
        self.wanted = self.wanted.max(1);
    }

    /// Whether nobody here waits for more.
    pub fn is_content(&self) -> bool {
        self.waiting == 0
    }

    /// Whether there is nobody who could give anything up.
    pub fn is_sole(&self) -> bool {
        self.instances == 1 && self.until.is_some()
    }

    /// Others may have come or gone.
    pub fn among(&mut self, instances: u64) {
        self.instances = instances.max(1);
    }

    /// Whether nobody has answered for as long as a lease lasts. Who never had an answer begins with the equal part then.
    pub fn alone(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// We were cut off for longer than our lease and are back.
    pub fn returned(&mut self, calm_until: Duration) {
        self.calm_until = calm_until;
    }

    /// The coordinator has heard that we live, by the same fence: what it granted to this life is ours for longer.
    pub fn renewed(&mut self, fence: u64, until: Duration) {
        if self.fence == fence
            && let Some(now) = &mut self.until
        {
            *now = until.max(*now);
        }
    }

    /// Whether we are just back.
    pub fn is_calm(&self, now: Duration) -> bool {
        now < self.calm_until
    }

    /// Whether the coordinator, which knows us by this fence, should hear something that it does not know.
    pub fn has_news(&self, pool: &Name, fence: u64, now: Duration) -> bool {
        let same = self
            .said
            .as_ref()
            .is_some_and(|(to, said)| *to == fence && *said == self.want(pool.clone(), now));
        !same || self.until.is_none() || self.wanted > 0 || self.waiting > 0 || now < self.calm_until
    }

    /// Asks the coordinator. What is not asked for is given up here and now: the answer may
    /// be lost, and others may have it.
    pub fn ask(&mut self, pool: Name, now: Duration) -> Want {
        if self.until.is_some_and(|until| now >= until) {
            // It is nobody's any more; what is left of it is what we let in since.
            self.held = self.held.min(self.part()).max(self.used);
        }
        let want = self.want(pool, now);
        self.held = self.held.min(want.wish);
        self.said = None;
        want
    }

    fn want(&self, pool: Name, now: Duration) -> Want {
        // A little ahead of what is needed, so that most who come in wait for nobody; nothing ahead while others wait.
        let ahead = match (self.wanted, self.instances) {
            (0, 1) => self.limit,
            (0, _) => 1 + self.used / 4,
            _ => 0,
        };
        let need = self.used + self.waiting;
        let wish = (need + ahead).min(self.cap(now)).max(self.used);
        Want { pool, used: self.used, need, wish, had: self.held, part: self.part(), limit: self.limit }
    }

    /// The coordinator, which knows us by this fence, has heard what we want, and has answered; that is good until then.
    /// Whether there may be more room than before.
    pub fn granted(&mut self, said: Want, held: Held, fence: u64, until: Duration, now: Duration) -> bool {
        self.said = Some((fence, said));
        let before = (self.held.min(self.cap(now)), self.until.is_some());
        self.held = held.mine;
        self.wanted = held.wanted;
        (self.until, self.fence) = (Some(until), fence);
        (self.held.min(self.cap(now)), true) > before
    }

    /// Whether there is something to say to the coordinator at once: somebody waits here, or others do and we have
    /// something to give.
    pub fn is_urgent(&self, now: Duration) -> bool {
        if self.until.is_none() && !self.alone {
            return true;
        }
        let idle = self.held > (self.used + self.waiting).max(self.used);
        self.waiting > 0 && self.used >= self.held.min(self.cap(now)) && self.held < self.limit
            || self.wanted > 0 && (idle || self.held > self.cap(now).max(self.used))
    }

    /// In use here.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Held here.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// The limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The invariants of the module header.
    ///
    /// # Errors
    /// The name of the first that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        let Ok(pool) = Name::new("x") else { return Ok(()) };
        let want = self.want(pool, Duration::ZERO);
        if want.wish < self.used || want.used != self.used { Err("H2") } else { Ok(()) }
    }

    /// The equal part of each instance.
    fn part(&self) -> u64 {
        self.limit.div_ceil(self.instances)
    }

    /// What may be held while others want: what they do not want, but always the equal part.
    fn cap(&self, now: Duration) -> u64 {
        if now < self.calm_until {
            self.part()
        } else if self.wanted == 0 {
            self.limit
        } else {
            self.part().max(self.limit.saturating_sub(self.wanted))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn held(mine: u64, wanted: u64) -> Held {
        Held { mine, total: mine, wanted }
    }

    /// Until 100.
    fn grant(share: &mut Share, held: Held) {
        let said = share.ask(Name::new("p").unwrap(), at(0));
        share.granted(said, held, 1, at(100), at(0));
    }

    #[test]
    fn nobody_comes_in_beyond_the_share_and_a_little_is_asked_for_ahead() {
        let mut share = Share::new(10);
        share.among(2);
        grant(&mut share, held(2, 0));
        assert!(share.enter(at(0)) && share.enter(at(0)) && !share.enter(at(0)));
        share.wait(true);
        assert!(share.is_urgent(at(0)));
        let want = share.want(Name::new("p").unwrap(), at(0));
        assert_eq!((want.used, want.wish, want.had, want.limit), (2, 4, 2, 10));
    }

    #[test]
    fn what_can_wait_leaves_room_for_those_who_cannot() {
        let mut share = Share::new(16);
        grant(&mut share, held(16, 0));
        let mut behind = 0;
        while share.enter_behind(at(0)) {
            behind += 1;
        }
        assert_eq!(behind, 14, "an eighth stays free");
        assert!(share.enter(at(0)) && share.enter(at(0)) && !share.enter(at(0)));
        share.leave();
        assert!(!share.enter_behind(at(0)), "the place is not for what can wait");
        let mut small = Share::new(1);
        grant(&mut small, held(1, 0));
        assert!(small.enter_behind(at(0)), "a limit of one is not for ever out of reach");
        assert!(!small.enter_behind(at(0)) && !small.enter(at(0)));
    }

    #[test]
    fn when_others_want_the_larger_share_shrinks_as_its_requests_end() {
        let mut share = Share::new(8);
        share.among(2);
        grant(&mut share, held(8, 0));
        for _ in 0..8 {
            assert!(share.enter(at(0)));
        }
        share.wait(true);
        grant(&mut share, held(8, 8));
        assert_eq!(share.room(at(0)), 4, "the equal part, also if others want all");
        share.leave();
        assert!(!share.enter(at(0)), "the place goes to the others");
        assert!(share.is_urgent(at(0)));
        assert_eq!(share.want(Name::new("p").unwrap(), at(0)).wish, 7);
    }

    #[test]
    fn without_the_coordinator_the_share_lasts_as_long_as_its_lease_and_then_it_is_the_equal_part() {
        let mut share = Share::new(9);
        share.among(3);
        grant(&mut share, held(7, 0));
        assert_eq!((share.room(at(99)), share.room(at(100))), (7, 3));
        let mut fresh = Share::new(9);
        assert_eq!(fresh.room(at(0)), 0, "others may hold all");
        fresh.alone(true);
        assert_eq!(fresh.room(at(0)), 9, "nobody answers, and nobody else is known");
    }

    #[test]
    fn whoever_was_cut_off_comes_back_with_its_equal_part_whatever_it_held() {
        let mut share = Share::new(12);
        share.among(3);
        grant(&mut share, held(12, 0));
        for _ in 0..2 {
            assert!(share.enter(at(0)));
        }
        share.returned(at(300));
        let want = share.ask(Name::new("p").unwrap(), at(200));
        assert_eq!((want.had, want.wish), (4, 3), "not the twelve that are long over");
        for _ in 0..8 {
            share.wait(true);
        }
        assert_eq!(share.want(Name::new("p").unwrap(), at(200)).wish, 4);
        assert_eq!(
            share.want(Name::new("p").unwrap(), at(300)).wish,
            11,
            "others have had the time to say what they hold"
        );
    }

    #[test]
    fn the_same_is_not_said_twice() {
        let mut share = Share::new(12);
        share.among(3);
        let pool = Name::new("p").unwrap();
        let want = share.ask(pool.clone(), at(0));
        grant(&mut share, held(1, 0));
        let said = share.ask(pool.clone(), at(0));
        assert_eq!(want.wish, said.wish);
        share.granted(said, held(1, 0), 7, at(100), at(0));
        assert!(!share.has_news(&pool, 7, at(1)));
        assert!(share.has_news(&pool, 8, at(1)), "another life knows nothing of it");
        assert!(share.enter(at(1)));
        assert!(share.has_news(&pool, 7, at(1)));
    }
}
