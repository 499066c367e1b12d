//! A circuit breaker: an engine that fails again and again is left alone for a while, then tried by one request.

use std::time::Duration;

use super::Failure;

/// What recent outcomes say of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaker {
    /// Requests go through; so many failed in a row.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    /// Nothing goes through until then.
    Open {
        /// When a trial is allowed.
        until: Duration,
    },
    /// One request is trying; its outcome decides. If it never comes back, another may try then.
    Trying {
        /// When the trial is given up.
        until: Duration,
    },
}

/// How a breaker judges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// Failures in a row that open it.
    pub trip_after: u32,
    /// How long it stays open.
    pub retry_after: Duration,
}

impl Breaker {
    /// Nothing is known: innocent.
    pub(crate) const fn new() -> Self {
        Self::Closed { failures: 0 }
    }

    /// Whether requests go through, and if not, whether one may try.
    pub(crate) fn allows(self, now: Duration) -> Allows {
        match self {
            Self::Closed { .. } => Allows::All,
            Self::Open { until } | Self::Trying { until } if now >= until => Allows::Trial,
            Self::Open { .. } | Self::Trying { .. } => Allows::None,
        }
    }

    /// Open -> Trying
    pub(crate) fn try_one(&mut self, now: Duration, rule: Rule) {
        if self.allows(now) == Allows::Trial {
            *self = Self::Trying { until: now + rule.retry_after };
        }
    }

    /// Any -> Closed
    pub(crate) fn succeeded(&mut self) {
        *self = Self::new();
    }

    /// Closed -> Closed or Open; Trying -> Open
    pub(crate) fn failed(&mut self, failure: Failure, now: Duration, rule: Rule) {
        // An engine that says it is busy is well.
        if failure == Failure::Overloaded {
            return;
        }
        let failures = match self {
            Self::Closed { failures } => *failures + 1,
            Self::Open { .. } | Self::Trying { .. } => rule.trip_after,
        };
        *self = if failures >= rule.trip_after {
            Self::Open { until: now + rule.retry_after }
        } else {
            Self::Closed { failures }
        };
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allows {
    /// Everything.
    All,
    /// One request.
    Trial,
    /// Nothing.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { trip_after: 2, retry_after: Duration::from_secs(5) };

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_a_good_trial() {
        let at = Duration::from_secs;
        let mut breaker = Breaker::new();
        breaker.failed(Failure::Connect, at(1), RULE);
        breaker.succeeded();
        breaker.failed(Failure::Connect, at(2), RULE);
        assert_eq!(breaker.allows(at(2)), Allows::All);
        breaker.failed(Failure::Timeout, at(3), RULE);
        assert_eq!((breaker.allows(at(4)), breaker.allows(at(8))), (Allows::None, Allows::Trial));
        breaker.try_one(at(8), RULE);
        assert_eq!(breaker.allows(at(9)), Allows::None);
        breaker.failed(Failure::Connect, at(9), RULE);
        assert_eq!((breaker.allows(at(10)), breaker.allows(at(14))), (Allows::None, Allows::Trial));
        breaker.succeeded();
        assert_eq!(breaker, Breaker::new());
    }

    #[test]
    fn a_trial_that_never_comes_back_does_not_lock_the_engine_out() {
        let mut breaker = Breaker::Open { until: Duration::ZERO };
        breaker.try_one(Duration::from_secs(1), RULE);
        assert_eq!(breaker.allows(Duration::from_secs(6)), Allows::Trial);
    }

    #[test]
    fn an_engine_that_says_it_is_busy_is_well() {
        let mut breaker = Breaker::new();
        (0..9).for_each(|second| breaker.failed(Failure::Overloaded, Duration::from_secs(second), RULE));
        assert_eq!(breaker, Breaker::new());
    }
}
