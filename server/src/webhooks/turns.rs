//! Which webhook is told next: each receiver has a line of its own, so that one that does not hear holds up nobody else's.
//!
//! It tells nothing itself and reads no clock. What it promises, and [`Turns::check`] holds it to:
//! - W1: to one receiver at most [`EACH`] are under way, and only one after it did not hear.
//! - W2: a receiver that did not hear is left alone for a while, twice as long each time, up to [`REST`].
//! - W3: what may be told now is told, however many others wait for a receiver that rests.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::notice::Notice;

/// Messages under way in all: with one that is waited for in vain at each, sixty receivers may be dead before others wait.
const ALL: usize = 64;
/// Messages under way to one receiver.
const EACH: usize = 4;
/// The first and the longest time for which a receiver is left alone. Each message has pauses of its own besides.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Whose receiver: that of a tenant who has one of its own, or everybody's.
pub(super) type Whose = Option<String>;

/// What is to be told.
#[derive(Debug, Default)]
pub(super) struct Turns {
    lines: HashMap<Whose, Line>,
    under_way: usize,
}

/// What is to be told to one receiver.
#[derive(Debug, Default)]
struct Line {
    /// By the time from which it is to be told, in milliseconds since 1970.
    due: BTreeMap<(u64, String), Notice>,
    under_way: usize,
    /// How often in a row it did not hear.
    deaf: u32,
    /// It is left alone until then.
    rests_until: u64,
}

// === impl Turns ===

impl Turns {
    /// One more.
    pub(super) fn add(&mut self, whose: Whose, notice: Notice) {
        self.lines.entry(whose).or_default().due.insert((notice.at_ms, notice.id()), notice);
    }

    /// The one that is told now: of those that may be, the one whose time came first. Whoever takes it says
    /// [`Turns::over`].
    pub(super) fn next(&mut self, now: u64) -> Option<(Whose, Notice)> {
        if self.under_way >= ALL {
            return None;
        }
        let lines = self.lines.iter();
        let first = lines.filter_map(|(whose, line)| Some((line.time()?.max(line.rests_until), whose)));
        let (_, whose) = first.filter(|(at, _)| *at <= now).min()?;
        let whose = whose.clone();
        let line = self.lines.get_mut(&whose)?;
        let (_, notice) = line.due.pop_first()?;
        line.under_way += 1;
        self.under_way += 1;
        self.check();
        Some((whose, notice))
    }

    /// When there is one to tell, if nothing happens before. Who waits for a place is woken by whoever gives one free.
    pub(super) fn wakes(&self) -> Option<u64> {
        if self.under_way >= ALL {
            return None;
        }
        self.lines.values().filter_map(|line| Some(line.time()?.max(line.rests_until))).min()
    }

    /// One that was told is over. Whether its receiver heard it, if it was asked at all.
    pub(super) fn over(&mut self, whose: &Whose, heard: Option<bool>, now: u64) {
        let Some(line) = self.lines.get_mut(whose) else { return };
        line.under_way -= 1;
        self.under_way -= 1;
        match heard {
            Some(true) => (line.deaf, line.rests_until) = (0, 0),
            // Several that were under way together count as one.
            Some(false) if line.rests_until <= now => {
                let rest = REST.0.saturating_mul(1 << line.deaf.min(16)).min(REST.1);
                line.deaf += 1;
                line.rests_until = now + rest.as_millis() as u64;
            }
            Some(false) | None => {}
        }
        self.check();
    }

    /// Takes out what does not stay.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Notice) -> bool) {
        for line in self.lines.values_mut() {
            line.due.retain(|_, notice| stays(notice));
        }
    }

    fn check(&self) {
        debug_assert!(self.lines.values().all(|line| line.under_way <= EACH), "W1");
        debug_assert_eq!(self.lines.values().map(|line| line.under_way).sum::<usize>(), self.under_way);
        debug_assert!(self.under_way <= ALL);
    }
}

impl Line {
    /// The time of its first, if there is room for it.
    fn time(&self) -> Option<u64> {
        let room = if self.deaf == 0 { EACH } else { 1 };
        self.due.first_key_value().filter(|_| self.under_way < room).map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::notice::About;
    use super::*;

    fn notice(number: usize, at_ms: u64) -> Notice {
        let about = About::Job { entry: format!("1-{number:x}"), end: None };
        Notice { tenant: None, partition: 1, about, since_ms: 0, tries: 0, at_ms }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is what a receiver is called")]
    fn whose(name: &str) -> Whose {
        Some(name.to_owned())
    }

    /// Everybody whose message is told now.
    fn told(turns: &mut Turns, now: u64) -> Vec<String> {
        std::iter::from_fn(|| turns.next(now)).map(|(whose, _)| whose.unwrap_or_default()).collect()
    }

    #[test]
    fn a_receiver_that_does_not_answer_holds_up_nobody_else() {
        let mut turns = Turns::default();
        (0..1_000).for_each(|number| turns.add(whose("dead"), notice(number, 0)));
        turns.add(None, notice(1, 5));
        assert_eq!(told(&mut turns, 4), ["dead"; EACH]);
        assert_eq!(turns.wakes(), Some(5));
        assert_eq!(told(&mut turns, 5), [""]);
        assert_eq!(turns.wakes(), None, "whoever comes back gives a place free");
    }

    #[test]
    fn who_did_not_hear_is_asked_by_one_at_a_time_after_longer_and_longer_rests() {
        let mut turns = Turns::default();
        (0..1_000).for_each(|number| turns.add(whose("deaf"), notice(number, 0)));
        assert_eq!(told(&mut turns, 0).len(), EACH);
        let mut now = 10;
        (0..EACH).for_each(|_| turns.over(&whose("deaf"), Some(false), now));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(turns.wakes(), Some(now + seconds * 1_000));
            assert_eq!(told(&mut turns, now + seconds * 1_000 - 1).len(), 0);
            now += seconds * 1_000;
            assert_eq!(told(&mut turns, now).len(), 1);
            turns.over(&whose("deaf"), Some(false), now);
        }
        now += 60_000;
        assert_eq!(told(&mut turns, now).len(), 1);
        turns.over(&whose("deaf"), Some(true), now);
        assert_eq!(told(&mut turns, now).len(), EACH, "who hears again is told everything");
    }

    #[test]
    fn what_asked_nobody_says_nothing_about_a_receiver() {
        let mut turns = Turns::default();
        (0..9).for_each(|number| turns.add(None, notice(number, 0)));
        assert_eq!(told(&mut turns, 0).len(), EACH);
        turns.over(&None, Some(false), 0);
        turns.over(&None, None, 0);
        assert_eq!((turns.wakes(), told(&mut turns, 1_000).len()), (None, 0), "two are still under way");
        (0..2).for_each(|_| turns.over(&None, None, 0));
        assert_eq!((turns.wakes(), told(&mut turns, 1_000).len()), (Some(1_000), 1));
    }

    #[test]
    fn all_together_have_a_bound_and_who_has_waited_longest_is_first() {
        let mut turns = Turns::default();
        for receiver in 0..100 {
            turns.add(whose(&format!("{receiver:02}")), notice(receiver, 1_000 - receiver as u64));
        }
        let told = told(&mut turns, 1_000);
        let expected: Vec<String> = (0..ALL).map(|i| format!("{:02}", 99 - i)).collect();
        assert_eq!(told, expected);
        assert_eq!(turns.wakes(), None);
        turns.over(&whose("99"), Some(true), 1_000);
        assert_eq!(turns.next(1_000).map(|(whose, _)| whose), Some(whose("35")));
    }

    #[test]
    fn what_does_not_stay_is_not_told() {
        let mut turns = Turns::default();
        (0..4).for_each(|number| {
            turns.add(None, Notice { partition: number % 2, ..notice(number as usize, 0) });
        });
        turns.retain(|notice| notice.partition == 1);
        assert_eq!(told(&mut turns, 0).len(), 2);
    }
}
