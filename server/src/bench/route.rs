//! `warmline bench route`: each policy on the same load, in virtual time, against a router that knows everything.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use blocks::{Event, PrefixHash, Tier, Worker};
use index::{Index, Matches};
use serde::{Deserialize, Serialize};
use sim::engine::{Engine, Job, Shape};
use sim::fleet::{Report, Router, run};
use sim::random::Random;
use sim::trace::Request;

use crate::fleet::EngineId;
use crate::fleet::backlog::{Backlog, Order};
use crate::route::{Candidate, Lent, Standing, Wish, choose};
use crate::settings::{Policy, Routing};

/// What is measured, and on what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The load.
    pub requests: Vec<Request>,
    /// Engines in the fleet.
    pub engines: usize,
    /// How each is built.
    pub shape: Shape,
    /// How long an engine's news takes to reach the index.
    pub event_delay: Duration,
    /// Blocks that `approximate` remembers of each engine; without being told, nobody knows what an engine holds.
    pub history_blocks: usize,
    /// Breaks ties.
    pub seed: u64,
    /// Weights.
    pub routing: Routing,
}

/// The result: a row a policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Result {
    /// By the policy's name.
    pub policies: BTreeMap<String, Row>,
}

/// One policy's result.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Times to first token.
    pub ttft_ms: Times,
    /// Prompt tokens found in the engines' caches over prompt tokens.
    pub cached_token_ratio: f64,
    /// Requests that were served.
    pub requests: u64,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Times {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// Ninety-nine of a hundred.
    pub p99: f64,
}

/// The policies in the order in which they are shown.
pub const POLICIES: [&str; 5] = ["round-robin", "least-loaded", "approximate", "warm", "omniscient"];

/// Runs every policy; `progress` hears the name of each before it runs.
pub fn measure(plan: &Plan, mut progress: impl FnMut(&str)) -> Result {
    let one = |name: &str| {
        progress(name);
        let report =
            run(&plan.requests, plan.engines, &plan.shape, router(name, plan).as_mut(), plan.event_delay);
        (name.to_owned(), Row::from(&report))
    };
    Result { policies: POLICIES.into_iter().map(one).collect() }
}

fn router(name: &str, plan: &Plan) -> Box<dyn Router> {
    let policy = match name {
        "round-robin" => Policy::RoundRobin,
        "least-loaded" => Policy::LeastLoaded,
        "approximate" => Policy::Approximate,
        _ => Policy::Warm,
    };
    let knowledge = match name {
        "omniscient" => Knowledge::Truth,
        "approximate" => Knowledge::History((0..plan.engines).map(|_| Sent::default()).collect()),
        "warm" => Knowledge::Events(Index::new()),
        _ => Knowledge::Nothing,
    };
    Box::new(Gateway {
        policy,
        knowledge,
        routing: plan.routing.clone(),
        block: plan.shape.block_size as u32,
        history_blocks: plan.history_blocks,
        loads: vec![Load::default(); plan.engines],
        jobs: HashMap::new(),
        random: Random::new(plan.seed),
        turn: 0,
        found: Matches::default(),
        swept: Duration::ZERO,
    })
}

/// What a router knows of the caches.
enum Knowledge {
    Nothing,
    /// What it sent where.
    History(Vec<Sent>),
    /// What the engines' events told.
    Events(Index),
    /// The caches themselves.
    Truth,
}

/// A gateway as far as routing goes: the same pure function, the same accounting of load.
struct Gateway {
    policy: Policy,
    knowledge: Knowledge,
    routing: Routing,
    block: u32,
    history_blocks: usize,
    loads: Vec<Load>,
    /// Each job's place in the backlog until its first token.
    jobs: HashMap<u64, Order>,
    random: Random,
    turn: u64,
    found: Matches,
    swept: Duration,
}

#[derive(Clone, Default)]
struct Load {
    backlog: Backlog,
    decoding: u32,
    in_flight: u32,
}

/// The prefixes that were sent to one engine, the most recent ones.
#[derive(Default)]
struct Sent {
    last: HashMap<PrefixHash, u64>,
    order: VecDeque<(PrefixHash, u64)>,
    clock: u64,
}

fn worker(engine: usize) -> Worker {
    Worker { instance: engine as u64, rank: 0 }
}

impl Router for Gateway {
    fn choose(&mut self, job: &Job, engines: &[Engine], now: Duration) -> usize {
        if now.saturating_sub(self.swept) > Duration::from_millis(200) {
            self.swept = now;
            if let Knowledge::Events(index) = &self.knowledge {
                index.expire(now);
            }
        }
        let prompt_blocks = job.prompt / self.block as usize;
        let prefix = &job.text.prefix_hashes[..prompt_blocks.min(job.text.prefix_hashes.len())];
        let tokens = &job.text.tokens_hashes[..prefix.len()];
        if let Knowledge::Events(index) = &self.knowledge {
            index.lookup(tokens, &mut self.found);
        }
        let most = (job.prompt as u32 - 1) / self.block;
        let candidates: Vec<Candidate> = (0..engines.len())
            .map(|engine| {
                let cached = match &self.knowledge {
                    Knowledge::Nothing => 0,
                    Knowledge::Truth => engines[engine].cached(job) as u32,
                    Knowledge::History(sent) => (sent[engine].depth(prefix) as u32).min(most) * self.block,
                    Knowledge::Events(_) => {
                        let depth =
                            self.found.of(worker(engine)).map_or(0, |found| found.on(Tier::Device) as u32);
                        depth.min(most) * self.block
                    }
                };
                let load = &self.loads[engine];
                let truth = matches!(self.knowledge, Knowledge::Truth);
                let (running, waiting) = engines[engine].load();
                Candidate {
                    engine: EngineId(engine as u32),
                    cached: [cached; 3],
                    trust: 1.0,
                    lent: Lent::default(),
                    backlog: if truth { engines[engine].backlog() as u32 } else { load.backlog.left(now) },
                    decoding: if truth { (running + waiting) as u32 } else { load.decoding },
                    in_flight: load.in_flight,
                    limit: 0,
                    crowded: false,
                    standing: Standing::Ready,
                }
            })
            .collect();
        let wish = Wish {
            prompt: job.prompt as u32,
            policy: self.policy,
            store: [1.0; 2],
            pinned: None,
            chance: self.random.number(),
            turn: self.turn,
        };
        self.turn += 1;
        let at = choose(&wish, &candidates, &self.routing).map_or(0, |choice| choice.at);
        let adds = (job.prompt as u32).saturating_sub(candidates[at].cached[2]).max(1);
        let order = self.loads[at].backlog.send(adds, true, now);
        self.loads[at].in_flight += 1;
        self.jobs.insert(job.id, order);
        match &mut self.knowledge {
            Knowledge::Events(index) => {
                index.expect(worker(at), tokens, now + self.routing.expect_for.get());
            }
            Knowledge::History(sent) => sent[at].note(prefix, self.history_blocks),
            Knowledge::Nothing | Knowledge::Truth => {}
        }
        at
    }

    fn told(&mut self, engine: usize, event: &Event, _now: Duration) {
        if let Knowledge::Events(index) = &self.knowledge {
            // The simulated stream loses nothing; a refusal would show as a worse result.
            let _ = index.apply(worker(engine), event);
        }
    }

    fn first_token(&mut self, job: u64, engine: usize, now: Duration) {
        let load = &mut self.loads[engine];
        if let Some(order) = self.jobs.remove(&job) {
            load.backlog.arrived(order, now);
        }
        load.decoding += 1;
    }

    fn finished(&mut self, _job: u64, engine: usize, _now: Duration) {
        self.loads[engine].decoding -= 1;
        self.loads[engine].in_flight -= 1;
    }
}

impl Sent {
    fn depth(&self, prefix: &[PrefixHash]) -> usize {
        prefix.iter().take_while(|hash| self.last.contains_key(*hash)).count()
    }

    /// Notes from the end, so that the beginning, which more prompts share, is forgotten last.
    fn note(&mut self, prefix: &[PrefixHash], most: usize) {
        for hash in prefix.iter().rev() {
            self.clock += 1;
            self.last.insert(*hash, self.clock);
            self.order.push_back((*hash, self.clock));
        }
        while self.last.len() > most {
            let Some((hash, noted)) = self.order.pop_front() else { return };
            if self.last.get(&hash) == Some(&noted) {
                self.last.remove(&hash);
            }
        }
    }
}

impl From<&Report> for Row {
    fn from(report: &Report) -> Self {
        let round = |number: f64, to: f64| (number * to).round() / to;
        Self {
            ttft_ms: Times {
                mean: round(report.mean_ms(), 1e3),
                p50: round(report.quantile_ms(0.5), 1e3),
                p90: round(report.quantile_ms(0.9), 1e3),
                p99: round(report.quantile_ms(0.99), 1e3),
            },
            cached_token_ratio: round(report.cached_ratio(), 1e6),
            requests: report.ttft.len() as u64,
        }
    }
}

/// The result as people read it.
pub fn table(result: &Result) -> String {
    use std::fmt::Write as _;
    let mut out =
        String::from("policy         TTFT mean      p50      p90      p99   cached tokens   requests\n");
    for name in POLICIES {
        let Some(row) = result.policies.get(name) else { continue };
        let Times { mean, p50, p90, p99 } = row.ttft_ms;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{name:<13} {mean:>7.0} ms {p50:>5.0} ms {p90:>5.0} ms {p99:>5.0} ms {:>13.1} % {:>10}",
            row.cached_token_ratio * 100.0,
            row.requests
        );
    }
    let row = |name: &str| result.policies.get(name);
    if let (Some(warm), Some(turns), Some(all), Some(guess)) =
        (row("warm"), row("round-robin"), row("omniscient"), row("approximate"))
    {
        let _ = writeln!(
            out,
            "\nwarm: mean TTFT {:.0} % under round-robin, {:.1} % under approximate; cached tokens {:.1} % of omniscient's",
            100.0 * (1.0 - warm.ttft_ms.mean / turns.ttft_ms.mean),
            100.0 * (1.0 - warm.ttft_ms.mean / guess.ttft_ms.mean),
            100.0 * warm.cached_token_ratio / all.cached_token_ratio.max(f64::MIN_POSITIVE),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty conversations of five turns over four engines whose caches hold about half of them.
    fn plan(seed: u64) -> Plan {
        let line = |i: u64| {
            let (talk, turn) = (i % 20, i / 20);
            let ids: Vec<String> = (0..=2 * turn + 1).map(|block| (talk * 100 + block).to_string()).collect();
            let length = 512 * ids.len() - 100;
            let (at, ids) = (i * 40, ids.join(","));
            format!(
                "{{\"timestamp\":{at},\"input_length\":{length},\"output_length\":20,\"hash_ids\":[{ids}]}}"
            )
        };
        let lines: Vec<String> = (0..100).map(line).collect();
        Plan {
            requests: sim::trace::read(lines.join("\n").as_bytes(), 16).unwrap(),
            engines: 3,
            shape: Shape { blocks: 2_500, ..Shape::default() },
            event_delay: Duration::from_micros(1_300),
            history_blocks: 2_500,
            seed,
            routing: Routing::default(),
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_answer() {
        let json = || serde_json::to_string(&measure(&plan(3), |_| ())).unwrap();
        assert_eq!(json(), json());
    }

    #[test]
    fn every_policy_serves_every_request_and_what_is_known_of_caches_is_found_in_them() {
        let result = measure(&plan(5), |_| ());
        assert!(result.policies.values().all(|row| row.requests == 100), "{result:?}");
        let cached = |name: &str| result.policies[name].cached_token_ratio;
        assert!(cached("warm") > cached("round-robin") * 1.5, "{result:?}");
        assert!(cached("warm") >= cached("omniscient") * 0.95, "{result:?}");
    }

    #[test]
    fn a_history_forgets_what_was_sent_longest_ago_and_keeps_beginnings() {
        let mut sent = Sent::default();
        let chain = |of: u64| (0..8).map(|i| PrefixHash(of << 8 | i)).collect::<Vec<_>>();
        sent.note(&chain(1), 12);
        sent.note(&chain(2), 12);
        assert_eq!((sent.depth(&chain(1)), sent.depth(&chain(2))), (4, 8));
    }

    #[test]
    fn the_result_has_the_form_that_scripts_rely_on() {
        let ttft_ms = Times { mean: 1.0, p50: 2.0, p90: 3.0, p99: 4.0 };
        let row = Row { ttft_ms, cached_token_ratio: 0.5, requests: 7 };
        let result = Result { policies: BTreeMap::from([("warm".to_owned(), row)]) };
        let expected = r#"{"policies":{"warm":{"ttft_ms":{"mean":1.0,"p50":2.0,"p90":3.0,"p99":4.0},"cached_token_ratio":0.5,"requests":7}}}"#;
        assert_eq!(serde_json::to_string(&result).unwrap(), expected);
    }
}
