//! Which engine takes a request: a pure function of what is known now.
//!
//! The cost of an engine is the work that stands between a request and its first token there, in units of one
//! prompt token that must be computed: what is queued before it, what of its own prompt is not cached (a block
//! that must be fetched from a farther tier costs a part of that), and the sequences that decode beside it.

use serde::{Deserialize, Serialize};

use crate::fleet::EngineId;
use crate::settings::{Policy, Routing};

/// One engine that serves the model and has not failed this request yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which.
    pub engine: EngineId,
    /// Prompt tokens that lie on its device, in host memory or nearer, and anywhere.
    pub cached: [u32; 3],
    /// How far `cached` can be relied on, from 0 to 1: the state of the view, and how often it was right.
    pub trust: f64,
    /// What it can load from the store that engines share.
    pub lent: Lent,
    /// Prompt tokens before this request that are still to be computed.
    pub backlog: u32,
    /// Sequences that decode.
    pub decoding: u32,
    /// Requests at a time, now and at most.
    pub in_flight: u32,
    /// See `in_flight`; 0 is no limit.
    pub limit: u32,
    /// Whether its budget of tokens in flight leaves no room for this request.
    pub crowded: bool,
    /// Whether it may be chosen at all.
    pub standing: Standing,
}

/// Prompt tokens beyond an engine's own that lie in the store that engines share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lent {
    /// In its memory.
    pub memory: u32,
    /// Beyond these, on its disk.
    pub disk: u32,
    /// How far that can be relied on, from 0 to 1.
    pub trust: f64,
}

/// Whether an engine may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is well.
    Ready,
    /// It failed, and one request may try whether it is well again.
    Trial,
    /// It fails.
    Broken,
    /// It does not answer probes.
    Down,
    /// It is being emptied.
    Draining,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// The rule.
    pub policy: Policy,
    /// What is left of a prompt token's cost in the store's memory and on its disk.
    pub store: [f64; 2],
    /// The engine that the client insists on.
    pub pinned: Option<EngineId>,
    /// Any number, new for each request: breaks ties.
    pub chance: u64,
    /// Counts requests: whose turn it is.
    pub turn: u64,
}

/// The answer: an index into the candidates, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Which candidate.
    pub at: usize,
    /// What decided.
    pub why: Why,
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It has the least work to do, and what it has cached decided that.
    Warm,
    /// It has the least work to do; the cache made no difference.
    Load,
    /// The warmest engine had too much to do.
    Spilled,
    /// It was its turn.
    Turn,
    /// The client insisted.
    Pinned,
    /// It may show that it is well again.
    Trial,
}

/// Why nobody can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// No engine is there.
    Gone,
    /// All are full: wait.
    Full,
}

/// Costs this near to each other are equal: the loads they are made of are older than that.
const NEAR: f64 = 0.02;

/// Chooses.
///
/// # Errors
/// [`Nobody`], if no candidate may be chosen.
pub fn choose(wish: &Wish, candidates: &[Candidate], routing: &Routing) -> Result<Choice, Nobody> {
    if let Some(at) = wish.pinned.and_then(|pinned| candidates.iter().position(|one| one.engine == pinned))
        && candidates[at].open()
    {
        return Ok(Choice { at, why: Why::Pinned });
    }
    // An engine that may be well again gets one request now and then, or it would never be known.
    if let Some(at) = candidates.iter().position(|one| one.standing == Standing::Trial && !one.full()) {
        return Ok(Choice { at, why: Why::Trial });
    }
    let open = || candidates.iter().enumerate().filter(|(_, one)| one.open());
    let count = open().count();
    if count == 0 {
        let full = candidates.iter().any(|one| one.standing == Standing::Ready && one.full());
        return Err(if full { Nobody::Full } else { Nobody::Gone });
    }
    if wish.policy == Policy::RoundRobin {
        let at = open().nth((wish.turn % count as u64) as usize).map_or(0, |(at, _)| at);
        return Ok(Choice { at, why: Why::Turn });
    }
    let cost = |one: &Candidate| one.cost(wish, routing);
    let least = open().map(|(_, one)| cost(one)).fold(f64::INFINITY, f64::min);
    let near = |one: &Candidate| cost(one) <= least * (1.0 + NEAR) + f64::EPSILON;
    // Two of the nearly equal by chance, and of these the less busy: many replicas that all see the same
    // numbers would else all choose the same engine.
    let equals = open().filter(|(_, one)| near(one)).count() as u64;
    let draw = |chance: u64| open().filter(|(_, one)| near(one)).nth((chance % equals.max(1)) as usize);
    let first = draw(wish.chance);
    let second = draw(wish.chance >> 32);
    let (at, one) = match (first, second) {
        (Some(a), Some(b)) if b.1.in_flight < a.1.in_flight => b,
        (Some(a), _) => a,
        _ => return Err(Nobody::Gone),
    };
    Ok(Choice { at, why: why(wish, one, candidates) })
}

fn why(wish: &Wish, chosen: &Candidate, candidates: &[Candidate]) -> Why {
    let most = candidates.iter().map(Candidate::warmth).fold(0.0, f64::max);
    let alike = candidates.iter().all(|one| one.warmth() >= most);
    if wish.policy == Policy::LeastLoaded || alike {
        Why::Load
    } else if chosen.warmth() >= most {
        Why::Warm
    } else {
        Why::Spilled
    }
}

// === impl Candidate ===

impl Candidate {
    /// Whether it may be chosen like any other.
    pub fn open(&self) -> bool {
        self.standing == Standing::Ready && !self.full()
    }

    /// Whether it has as much in hand as it may have.
    pub fn full(&self) -> bool {
        self.crowded || self.limit > 0 && self.in_flight >= self.limit
    }

    /// The work before a request's first token here.
    pub fn cost(&self, wish: &Wish, routing: &Routing) -> f64 {
        let own = match wish.policy {
            Policy::LeastLoaded | Policy::RoundRobin => f64::from(wish.prompt),
            Policy::Warm | Policy::Approximate => self.prefill(wish, routing),
        };
        routing.prefill_weight * (f64::from(self.backlog) + own)
            + routing.decode_weight * f64::from(self.decoding)
    }

    /// What of a prompt is still to do, in prompt tokens.
    fn prefill(&self, wish: &Wish, routing: &Routing) -> f64 {
        let [device, host, any] = self.cached.map(f64::from);
        let saved = device
            + (host - device).max(0.0) * (1.0 - routing.host_discount)
            + (any - host).max(0.0) * (1.0 - routing.store_discount);
        let lent = f64::from(self.lent.memory) * (1.0 - wish.store[0])
            + f64::from(self.lent.disk) * (1.0 - wish.store[1]);
        (f64::from(wish.prompt) - saved * self.trust - lent * self.lent.trust).max(0.0)
    }

    fn warmth(&self) -> f64 {
        f64::from(self.cached[2]) * self.trust
    }
}

// === impl Why ===

impl Why {
    /// The word this house uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Load => "load",
            Self::Spilled => "spilled",
            Self::Turn => "turn",
            Self::Pinned => "pinned",
            Self::Trial => "trial",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(engine: u32, cached: u32, backlog: u32) -> Candidate {
        Candidate {
            engine: EngineId(engine),
            cached: [cached; 3],
            trust: 1.0,
            lent: Lent::default(),
            backlog,
            decoding: 0,
            in_flight: 0,
            limit: 0,
            crowded: false,
            standing: Standing::Ready,
        }
    }

    fn wish(policy: Policy) -> Wish {
        Wish { prompt: 1000, policy, store: [0.2, 0.6], pinned: None, chance: 7, turn: 0 }
    }

    fn chosen(wish: &Wish, candidates: &[Candidate]) -> Result<(u32, Why), Nobody> {
        let choice = choose(wish, candidates, &Routing::default())?;
        Ok((candidates[choice.at].engine.0, choice.why))
    }

    #[test]
    fn each_rule_chooses_as_it_says() {
        let warm_but_busy = [one(0, 900, 5000), one(1, 0, 0), one(2, 400, 1000)];
        let warm = [one(0, 900, 100), one(1, 0, 0), one(2, 400, 0)];
        let cases = [
            (Policy::Warm, &warm, (0, Why::Warm)),
            (Policy::Warm, &warm_but_busy, (1, Why::Spilled)),
            (Policy::LeastLoaded, &warm_but_busy, (1, Why::Load)),
            (Policy::RoundRobin, &warm, (0, Why::Turn)),
        ];
        for (policy, candidates, expected) in cases {
            assert_eq!(chosen(&wish(policy), candidates), Ok(expected), "{policy:?}");
        }
    }

    #[test]
    fn turns_go_round_and_skip_who_may_not() {
        let mut candidates = [one(0, 0, 0), one(1, 0, 0), one(2, 0, 0)];
        candidates[1].standing = Standing::Draining;
        let turns: Vec<u32> = (0..4)
            .map(|turn| chosen(&Wish { turn, ..wish(Policy::RoundRobin) }, &candidates).unwrap().0)
            .collect();
        assert_eq!(turns, [0, 2, 0, 2]);
    }

    #[test]
    fn a_saturated_engine_is_never_chosen_for_its_cache() {
        let mut candidates = [one(0, 1000, 0), one(1, 0, 90_000)];
        candidates[0].limit = 4;
        candidates[0].in_flight = 4;
        assert_eq!(chosen(&wish(Policy::Warm), &candidates).unwrap().0, 1);
        candidates[1].standing = Standing::Down;
        assert_eq!(chosen(&wish(Policy::Warm), &candidates), Err(Nobody::Full));
        candidates[0].standing = Standing::Broken;
        assert_eq!(chosen(&wish(Policy::Warm), &candidates), Err(Nobody::Gone));
    }

    #[test]
    fn farther_tiers_count_for_less_and_so_does_what_cannot_be_trusted() {
        let mut host = one(0, 0, 0);
        host.cached = [0, 800, 800];
        assert_eq!(chosen(&wish(Policy::Warm), &[host, one(1, 700, 0)]).unwrap().0, 1);
        assert_eq!(chosen(&wish(Policy::Warm), &[host, one(1, 500, 0)]).unwrap().0, 0);
        let stale = Candidate { trust: 0.5, ..one(0, 900, 0) };
        assert_eq!(chosen(&wish(Policy::Warm), &[stale, one(1, 500, 0)]).unwrap().0, 1);
    }

    #[test]
    fn what_the_store_lends_is_cheaper_in_memory_than_on_disk_and_never_as_good_as_the_engines_own() {
        let lent = |memory, disk, trust| Candidate { lent: Lent { memory, disk, trust }, ..one(0, 100, 0) };
        let against =
            |lent: Candidate, cached| chosen(&wish(Policy::Warm), &[lent, one(1, cached, 0)]).unwrap().0;
        // 100 of its own, and 800 at four fifths: as 740.
        assert_eq!((against(lent(800, 0, 1.0), 720), against(lent(800, 0, 1.0), 760)), (0, 1));
        // On disk at two fifths: as 420.
        assert_eq!((against(lent(0, 800, 1.0), 400), against(lent(0, 800, 1.0), 440)), (0, 1));
        // Trusted by half: as 420.
        assert_eq!((against(lent(800, 0, 0.5), 400), against(lent(800, 0, 0.5), 440)), (0, 1));
        // Other rules do not look at it.
        let mut busy = lent(800, 0, 1.0);
        busy.backlog = 100;
        assert_eq!(chosen(&wish(Policy::LeastLoaded), &[busy, one(1, 0, 0)]).unwrap().0, 1);
    }

    #[test]
    fn a_trial_comes_first_and_a_pin_before_it() {
        let mut candidates = [one(0, 1000, 0), one(1, 0, 9000), one(2, 0, 0)];
        candidates[1].standing = Standing::Trial;
        assert_eq!(chosen(&wish(Policy::Warm), &candidates), Ok((1, Why::Trial)));
        let pinned = Wish { pinned: Some(EngineId(2)), ..wish(Policy::Warm) };
        assert_eq!(chosen(&pinned, &candidates), Ok((2, Why::Pinned)));
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        let standing =
            prop_oneof![6 => Just(Standing::Ready), 1 => Just(Standing::Broken), 1 => Just(Standing::Down)];
        (0_u32..2000, 0_u32..5000, 0_u32..50, 0_u32..8, 0_u32..8, standing, 0.0..1.0_f64).prop_map(
            |(cached, backlog, decoding, in_flight, limit, standing, trust)| Candidate {
                engine: EngineId(0),
                cached: [cached / 2, cached, cached],
                trust,
                lent: Lent { memory: backlog % 700, disk: cached % 300, trust },
                backlog,
                decoding,
                in_flight,
                limit,
                crowded: false,
                standing,
            },
        )
    }

    proptest! {
        #[test]
        fn the_choice_is_open_and_nothing_open_is_clearly_cheaper(
            candidates in proptest::collection::vec(any_candidate(), 0..12),
            chance: u64,
            prompt in 1_u32..3000,
        ) {
            let routing = Routing::default();
            let wish = Wish { prompt, chance, ..wish(Policy::Warm) };
            match choose(&wish, &candidates, &routing) {
                Ok(choice) => {
                    let cost = candidates[choice.at].cost(&wish, &routing);
                    prop_assert!(candidates[choice.at].open());
                    for other in candidates.iter().filter(|one| one.open()) {
                        prop_assert!(cost <= other.cost(&wish, &routing) * (1.0 + NEAR) + 1e-9);
                    }
                }
                Err(_) => prop_assert!(candidates.iter().all(|one| !one.open())),
            }
        }
    }
}
