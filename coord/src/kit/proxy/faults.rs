//! What the proxy does next, and what it has done: the one place that decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Something that goes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing does.
    #[default]
    Pass,
    /// The nth request from now (1 is the next one) is executed; its reply is read, but the client only sees its
    /// connection close. Replies before it arrive, requests behind it on its connection are lost. Then `Pass`.
    CutReply {
        /// Which request.
        nth: u64,
    },
    /// Nothing of the nth request from now (1 is the next one) reaches the server, and the client's connection is
    /// closed. Replies before it arrive, requests behind it on its connection are lost. Then `Pass`.
    CutRequest {
        /// Which request.
        nth: u64,
    },
    /// No reply comes sooner than this after its request. Requests are not held up, so it does not add up.
    Delay(Duration),
    /// Connections are accepted and stay open, and everything on them is lost both ways. One that has lost
    /// something stays mute for good, like one whose peer is gone; others recover with the next `Pass`.
    HalfOpen,
    /// Connections are closed at once, those that are open as well as new ones.
    Refuse,
    /// Each request is a throw of dice. The same requests in the same order meet the same fate for the same seed.
    Chaos {
        /// Where chance begins.
        seed: u64,
        /// How many of 1,000 requests are executed and lose their reply.
        cut_reply: u32,
        /// How many of 1,000 requests are not executed.
        cut_request: u32,
        /// How many of 1,000 replies come later, and by how much.
        delay: (u32, Duration),
    },
}

/// What happened to the requests of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Sent on to the server.
    pub forwarded: u64,
    /// Executed, but the reply was withheld.
    pub replies_cut: u64,
    /// Not sent on, and the connection closed.
    pub requests_cut: u64,
}

/// The handle on a proxy's faults; all copies are the same.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    plan: Mutex<Plan>,
    /// Touched when all connections have to go.
    cut: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Plan {
    fault: Fault,
    /// The only command that the fault is for.
    matching: Option<String>,
    /// Requests that the fault has looked at.
    seen: u64,
    chance: Chance,
    counts: BTreeMap<String, Count>,
    connections: u64,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on, and its reply comes back.
    Forward {
        /// But not before.
        delay: Duration,
    },
    /// It goes on; when its reply comes, the connection ends.
    Execute,
    /// The connection ends here.
    Close,
    /// It is lost, and so is everything after it.
    Swallow,
}

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(Shared { plan: Mutex::default(), cut: watch::Sender::new(()) }))
    }
}

// === For tests ===

impl Faults {
    /// From now on this goes wrong, and nothing else.
    pub fn set(&self, fault: Fault) {
        self.plan(fault, None);
    }

    /// From now on this goes wrong for requests of this command, such as `EVALSHA`. Others pass and do not count:
    /// a planned fault is not used up by what a client says first (HELLO, CLIENT). `HalfOpen` and `Refuse` take
    /// hold of a connection at its first such request.
    pub fn set_for(&self, command: &str, fault: Fault) {
        self.plan(fault, Some(command.to_ascii_uppercase()));
    }

    fn plan(&self, fault: Fault, matching: Option<String>) {
        let refuse = fault == Fault::Refuse && matching.is_none();
        let mut plan = self.0.plan.lock();
        if let Fault::Chaos { seed, .. } = fault {
            plan.chance = Chance::new(seed);
        }
        (plan.fault, plan.matching, plan.seen) = (fault, matching, 0);
        drop(plan);
        if refuse {
            self.cut_all();
        }
    }

    /// Closes all connections now. Nothing that arrives later on them is sent on.
    pub fn cut_all(&self) {
        self.0.cut.send_replace(());
    }

    /// What happened since the start or the last [`Faults::forget`], by the name of the command in capitals.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        self.0.plan.lock().counts.clone()
    }

    /// The same for one command.
    pub fn count(&self, command: &str) -> Count {
        self.0.plan.lock().counts.get(&command.to_ascii_uppercase()).copied().unwrap_or_default()
    }

    /// How many connections have been taken, closed ones as well.
    pub fn connections(&self) -> u64 {
        self.0.plan.lock().connections
    }

    /// Counts from zero again. The fault stays.
    pub fn forget(&self) {
        let mut plan = self.0.plan.lock();
        plan.counts.clear();
        plan.connections = 0;
    }
}

// === For connections ===

impl Faults {
    /// Whether a new connection is taken. Counted if so.
    pub(super) fn takes(&self) -> bool {
        let mut plan = self.0.plan.lock();
        let takes = plan.fault != Fault::Refuse || plan.matching.is_some();
        plan.connections += u64::from(takes);
        takes
    }

    /// Whether everything is lost at the moment, whatever it is.
    pub(super) fn half_open(&self) -> bool {
        let plan = self.0.plan.lock();
        plan.fault == Fault::HalfOpen && plan.matching.is_none()
    }

    /// Changes when all connections have to go.
    pub(super) fn cuts(&self) -> watch::Receiver<()> {
        self.0.cut.subscribe()
    }

    /// Decides over one request, and counts it.
    pub(super) fn judge(&self, command: &str) -> Fate {
        let mut plan = self.0.plan.lock();
        let fate = plan.judge(command);
        let count = plan.count(command);
        match fate {
            Fate::Forward { .. } | Fate::Execute => count.forwarded += 1,
            Fate::Close => count.requests_cut += 1,
            Fate::Swallow => {}
        }
        fate
    }

    /// A reply was read and goes no further.
    pub(super) fn withheld(&self, command: &str) {
        self.0.plan.lock().count(command).replies_cut += 1;
    }
}

impl Plan {
    fn count(&mut self, command: &str) -> &mut Count {
        self.counts.entry(command.to_owned()).or_default()
    }

    fn judge(&mut self, command: &str) -> Fate {
        let pass = Fate::Forward { delay: Duration::ZERO };
        if self.matching.as_ref().is_some_and(|name| name != command) {
            return pass;
        }
        self.seen += 1;
        match self.fault {
            Fault::Pass => pass,
            Fault::CutReply { nth } => self.once(nth, Fate::Execute),
            Fault::CutRequest { nth } => self.once(nth, Fate::Close),
            Fault::Delay(delay) => Fate::Forward { delay },
            Fault::HalfOpen => Fate::Swallow,
            Fault::Refuse => Fate::Close,
            Fault::Chaos { cut_reply, cut_request, delay: (often, delay), .. } => {
                // Three throws whatever they show, so that one rate does not change what another one meets.
                let [reply, request, late] =
                    [cut_reply, cut_request, often].map(|rate| self.chance.one_of(rate));
                match (request, reply) {
                    (true, _) => Fate::Close,
                    (_, true) => Fate::Execute,
                    _ => Fate::Forward { delay: if late { delay } else { Duration::ZERO } },
                }
            }
        }
    }

    fn once(&mut self, nth: u64, fate: Fate) -> Fate {
        if self.seen < nth {
            return Fate::Forward { delay: Duration::ZERO };
        }
        self.fault = Fault::Pass;
        fate
    }
}

/// Repeatable dice (xorshift64).
#[derive(Debug, Default)]
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        // Neighbouring seeds must not tell the same story, and zero would only ever tell zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Whether it happens, `rate` times of 1,000.
    fn one_of(&mut self, rate: u32) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) % 1000 < u64::from(rate)
    }
}
