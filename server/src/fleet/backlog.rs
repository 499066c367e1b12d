//! How much an engine still has to compute before it can begin with anything new: what was sent, less what time has done.
//!
//! Pure: what was sent and what came back go in with their times, an estimate comes out. An engine says that a prompt
//! is computed only by the first byte of its answer; until then a long prompt would count in full, and warm engines
//! would be passed over although they are nearly done. So the engine's speed is learned from first bytes, and what it
//! must have computed since the last one is taken off.

use std::collections::VecDeque;
use std::time::Duration;

/// The prompts that were sent to one engine and are not known to be computed, and how fast it computes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backlog {
    queue: VecDeque<Sent>,
    tokens: u64,
    /// When the engine can have begun with the first of the queue.
    since: Duration,
    /// Tokens that it computed lately, and the seconds that it took.
    computed: f64,
    seconds: f64,
    last: u64,
}

/// One prompt that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    order: Order,
    tokens: u32,
    /// Whether its first byte comes when it is computed, and not only when all is said.
    streams: bool,
}

/// Names a prompt in a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order(u64);

/// What a first byte leaves of all before it: the speed is that of about the last fifty.
const KEPT: f64 = 0.98;

// === impl Backlog ===

impl Backlog {
    /// A prompt was sent of which the engine must compute so many tokens.
    pub(crate) fn send(&mut self, tokens: u32, streams: bool, now: Duration) -> Order {
        if self.queue.is_empty() {
            self.since = now;
        }
        self.last += 1;
        let order = Order(self.last);
        self.queue.push_back(Sent { order, tokens, streams });
        self.tokens += u64::from(tokens);
        order
    }

    /// The first byte has come: the prompt is computed.
    pub(crate) fn arrived(&mut self, order: Order, now: Duration) {
        let Some(sent) = self.take(order) else { return };
        if sent.streams {
            self.computed = self.computed * KEPT + f64::from(sent.tokens);
            self.seconds = self.seconds * KEPT + now.saturating_sub(self.since).as_secs_f64();
        }
        self.since = now;
    }

    /// Nothing will come: it failed, or nobody waits for it any more.
    pub(crate) fn withdraw(&mut self, order: Order) {
        self.take(order);
    }

    /// Tokens that are still to be computed now.
    pub(crate) fn left(&self, now: Duration) -> u32 {
        let speed = if self.seconds > 0.0 { self.computed / self.seconds } else { 0.0 };
        let mut budget = now.saturating_sub(self.since).as_secs_f64() * speed;
        let mut left = self.tokens as f64;
        for sent in &self.queue {
            let done = budget.min(f64::from(sent.tokens));
            left -= done;
            budget -= done;
            // Engines take prompts in turn: as long as this one has not begun to answer, the next one must wait.
            if sent.streams || budget <= 0.0 {
                break;
            }
        }
        left.ceil() as u32
    }

    fn take(&mut self, order: Order) -> Option<Sent> {
        // Nearly always the first.
        let at = self.queue.iter().position(|sent| sent.order == order)?;
        let sent = self.queue.remove(at)?;
        self.tokens -= u64::from(sent.tokens);
        Some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// An engine that was seen to compute 10 tokens a millisecond.
    fn learned() -> Backlog {
        let mut backlog = Backlog::default();
        let order = backlog.send(1_000, true, at(0));
        assert_eq!(backlog.left(at(50)), 1_000, "nothing is known of its speed");
        backlog.arrived(order, at(100));
        assert_eq!(backlog.left(at(100)), 0);
        backlog
    }

    #[test]
    fn what_an_engine_must_have_computed_is_taken_off() {
        let mut backlog = learned();
        let first = backlog.send(2_000, true, at(1_000));
        backlog.send(500, true, at(1_000));
        assert_eq!(backlog.left(at(1_100)), 1_500);
        assert_eq!(backlog.left(at(9_000)), 500, "the second cannot begin before the first has");
        backlog.arrived(first, at(9_000));
        assert!((495..=500).contains(&backlog.left(at(9_000))));
        assert!(backlog.left(at(9_010)) > 450, "a slow answer has taught that it is slow");
    }

    #[test]
    fn an_answer_that_comes_as_a_whole_says_nothing_of_speed_and_holds_nobody_up() {
        let mut backlog = learned();
        let whole = backlog.send(1_000, false, at(0));
        backlog.send(1_000, true, at(0));
        assert_eq!(backlog.left(at(150)), 500, "the first must be done, and half of the second");
        backlog.arrived(whole, at(60_000));
        assert_eq!(backlog.left(at(60_050)), 500, "the speed is what it was");
    }

    #[test]
    fn what_is_withdrawn_is_gone_and_nothing_is_ever_below_zero() {
        let mut backlog = learned();
        let orders = [0, 1, 2].map(|_| backlog.send(100, true, at(0)));
        backlog.withdraw(orders[1]);
        backlog.withdraw(orders[1]);
        assert_eq!(backlog.left(at(0)), 200);
        backlog.arrived(orders[2], at(1));
        backlog.withdraw(orders[0]);
        assert_eq!((backlog.left(at(0)), backlog.left(at(99_999))), (0, 0));
    }
}
