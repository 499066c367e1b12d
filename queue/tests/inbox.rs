//! Any interleaving of adds, removals, decisions, refills, forgetting and restarts against a plain sorted map: nothing is
//! lost, nothing comes twice, and the order is kept.
//!
//! `WARMLINE_SEEDS=1000000 cargo test -p warmline-queue --test inbox` runs a million histories.

use std::collections::BTreeMap;

use queue::entry::{Cost, Item};
use queue::inbox::{CAPACITY, Edge, Found, Inbox, Ticket};
use queue::name::{Key, Millis, Seq};

/// A random history: a number of steps, each with the event that it was.
struct History {
    seed: u64,
    log: BTreeMap<Key, u32>,
    inbox: Inbox,
    reading: Option<(Ticket, Found)>,
    taken: Vec<Item>,
    served: Vec<Key>,
    next: u64,
    events: Vec<String>,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            log: BTreeMap::new(),
            inbox: Inbox::empty(),
            reading: None,
            taken: Vec::new(),
            served: Vec::new(),
            next: 1,
            events: Vec::new(),
        }
    }

    fn chance(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    fn item(key: Key, tokens: u32) -> Item {
        let cost = Cost { tokens, blocks: 0 };
        Item { key, cost, deadline: None, attempt: 0, overtaken: 0, remembered: false, hint: None }
    }

    fn note(&mut self, event: impl Into<String>) {
        self.events.push(event.into());
    }

    fn step(&mut self) {
        match self.chance(100) {
            0..30 => {
                // Near the front, in the middle, or at the end.
                let at = Millis(match self.chance(4) {
                    0 => 0,
                    1 => self.chance(40),
                    _ => 20 + self.next / 4,
                });
                let key = Key { at, seq: Seq(self.next) };
                self.next += 1;
                self.note(format!("add {key:?}"));
                self.log.insert(key, 1);
                self.inbox.added(Self::item(key, 1)).expect("new");
            }
            30..45 => {
                let among = self.log.len().min(60) as u64;
                if among == 0 {
                    return;
                }
                let nth = self.chance(among) as usize;
                let nth = if self.chance(2) == 0 { nth } else { self.log.len() - 1 - nth };
                let key = *self.log.keys().nth(nth).expect("counted");
                self.note(format!("remove {key:?}"));
                self.log.remove(&key);
                self.served.push(key);
                self.inbox.removed(key);
                self.taken.retain(|item| item.key != key);
            }
            45..60 => {
                let reach = self.inbox.items().len().min(8) as u64;
                if reach == 0 {
                    return;
                }
                let at = if self.chance(3) == 0 { self.chance(reach) as usize } else { 0 };
                let item = self.inbox.take(at).expect("there");
                self.note(format!("take {:?}", item.key));
                assert!(self.log.contains_key(&item.key), "a ghost: {:?}", item.key);
                self.taken.push(item);
            }
            60..70 => {
                let Some(item) = self.any_taken() else { return };
                self.note(format!("confirm {:?}", item.key));
                let tokens = self.log.remove(&item.key).expect("it was there when it was taken");
                self.inbox.removed(item.key);
                if self.chance(4) == 0 {
                    self.note(format!("yield {:?}", item.key));
                    self.log.insert(item.key, tokens + 1);
                    self.inbox.added(Self::item(item.key, tokens + 1)).expect("it had left");
                } else {
                    self.served.push(item.key);
                }
            }
            70..74 => {
                let Some(item) = self.any_taken() else { return };
                self.note(format!("undo {:?}", item.key));
                self.inbox.put_back(item);
            }
            74..84 => {
                if let Some(ticket) = self.inbox.begin() {
                    // The reader freezes its snapshot now and answers later; sometimes it stops in the middle.
                    let most =
                        if self.chance(4) == 0 { self.chance(CAPACITY as u64) as usize } else { CAPACITY };
                    let mut rows = self.log.range(ticket.from..);
                    let items: Vec<Item> =
                        rows.by_ref().take(most).map(|(key, tokens)| Self::item(*key, *tokens)).collect();
                    let full = rows.next().is_some();
                    self.note(format!("read from {:?}: {} rows, full {full}", ticket.from, items.len()));
                    self.reading = Some((ticket, Found { items, full }));
                }
            }
            84..94 => {
                let Some((ticket, found)) = self.reading.take() else { return };
                self.note("read ends");
                if self.chance(8) == 0 {
                    self.inbox.fail(&ticket);
                } else {
                    self.inbox.finish(&ticket, found);
                }
            }
            94..97 => {
                self.note("forget");
                self.inbox.forget();
            }
            97..98 => {
                self.note("cancel");
                self.inbox.cancel();
            }
            _ => {
                // Those that were taken and not confirmed are ready again.
                self.note("restart");
                self.taken.clear();
                self.reading = None;
                self.inbox = Inbox::unknown();
            }
        }
        self.check();
    }

    fn any_taken(&mut self) -> Option<Item> {
        if self.taken.is_empty() {
            return None;
        }
        let at = self.chance(self.taken.len() as u64) as usize;
        Some(self.taken.swap_remove(at))
    }

    /// Everything below the edge is known, and nothing that is not there.
    fn check(&self) {
        assert_eq!(self.inbox.check(), Ok(()), "{}", self.story());
        let mut known = self.inbox.items().iter();
        for (key, tokens) in &self.log {
            if self.inbox.edge() <= Edge::At(*key) {
                break;
            }
            if self.taken.iter().any(|item| item.key == *key) {
                continue;
            }
            let item = known.next();
            assert_eq!(item.map(|item| item.key), Some(*key), "lost or out of order; {}", self.story());
            assert_eq!(item.map(|item| item.cost.tokens), Some(*tokens), "an old value; {}", self.story());
        }
        assert_eq!(known.next(), None, "a ghost; {}", self.story());
        if let Some(low) = self.inbox.low_water() {
            assert!(self.log.keys().all(|key| *key >= low), "a scan would begin too late; {}", self.story());
        } else {
            assert!(self.log.is_empty(), "{}", self.story());
        }
    }

    /// What is left comes out in order, each once.
    fn drain(&mut self) {
        for item in std::mem::take(&mut self.taken) {
            self.inbox.put_back(item);
        }
        if let Some((ticket, found)) = self.reading.take() {
            self.inbox.finish(&ticket, found);
        }
        let mut order = Vec::new();
        while !self.inbox.is_bare() || self.inbox.edge() != Edge::End {
            if let Some(item) = self.inbox.take(0) {
                assert!(self.log.remove(&item.key).is_some(), "a ghost {:?}; {}", item.key, self.story());
                self.inbox.removed(item.key);
                order.push(item.key);
            } else {
                let ticket = self.inbox.begin().expect("hungry");
                let mut rows = self.log.range(ticket.from..);
                let items: Vec<Item> =
                    rows.by_ref().take(CAPACITY).map(|(key, tokens)| Self::item(*key, *tokens)).collect();
                let full = rows.next().is_some();
                assert!(self.inbox.finish(&ticket, Found { items, full }));
            }
            self.check();
        }
        assert!(self.log.is_empty(), "lost: {:?}; {}", self.log.keys().next(), self.story());
        assert!(order.is_sorted(), "{}", self.story());
        self.served.extend(order);
        let count = self.served.len();
        self.served.sort_unstable();
        self.served.dedup();
        assert_eq!(self.served.len(), count, "twice; {}", self.story());
        assert_eq!(count as u64, self.next - 1, "lost; {}", self.story());
    }

    fn story(&self) -> String {
        let last = self.events.len().saturating_sub(60);
        format!("the last events were:\n{}", self.events[last..].join("\n"))
    }
}

#[test]
fn no_interleaving_loses_or_doubles_an_entry() {
    #[expect(clippy::disallowed_methods, reason = "how many histories is up to whoever runs the test")]
    let seeds = std::env::var("WARMLINE_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(100_000);
    for seed in 0..seeds {
        let mut history = History::new(seed);
        let steps = 20 + history.chance(140);
        for _ in 0..steps {
            history.step();
        }
        history.drain();
    }
}
