//! `warmline bench route`: each policy on the same load, in virtual time, against a router that knows everything.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use blocks::{Event, Tier, Worker};
use index::{Index, Matches};
use serde::{Deserialize, Serialize};
use sim::engine::{Engine, Job, Shape};
use sim::fleet::{Report, Router, run};
use sim::random::Random;
use sim::trace::Request;

use crate::fleet::EngineId;
use crate::route::{Candidate, Standing, Wish, choose};
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
        "approximate" => Knowledge::History(Index::new(), HashMap::new()),
        "warm" => Knowledge::Events(Index::new()),
        _ => Knowledge::Nothing,
    };
    Box::new(Gateway {
        policy,
        knowledge,
        routing: plan.routing.clone(),
        block: plan.shape.block_size as u32,
        blocks: plan.shape.blocks,
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
    /// What it sent where, the oldest forgotten when an engine could not hold more.
    History(Index, HashMap<usize, Vec<u64>>),
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
    blocks: usize,
    loads: Vec<Load>,
    /// What each job adds to the backlog until its first token.
    jobs: HashMap<u64, u32>,
    random: Random,
    turn: u64,
    found: Matches,
    swept: Duration,
}

#[derive(Clone, Copy, Default)]
struct Load {
    backlog: u32,
    decoding: u32,
    in_flight: u32,
}

/// What was sent is remembered for so long, where nothing tells when it was forgotten.
const HISTORY: Duration = Duration::from_secs(100_000_000);

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
        if let Knowledge::Events(index) | Knowledge::History(index, _) = &self.knowledge {
            index.lookup(prefix, &mut self.found);
        }
        let most = (job.prompt as u32 - 1) / self.block;
        let candidates: Vec<Candidate> = (0..engines.len())
            .map(|engine| {
                let cached = match &self.knowledge {
                    Knowledge::Nothing => 0,
                    Knowledge::Truth => engines[engine].cached(job) as u32,
                    Knowledge::Events(_) | Knowledge::History(..) => {
                        let depth =
                            self.found.of(worker(engine)).map_or(0, |found| found.on(Tier::Device) as u32);
                        depth.min(most) * self.block
                    }
                };
                let load = self.loads[engine];
                let truth = matches!(self.knowledge, Knowledge::Truth);
                let (running, waiting) = engines[engine].load();
                Candidate {
                    engine: EngineId(engine as u32),
                    cached: [cached; 3],
                    trust: 1.0,
                    backlog: if truth { engines[engine].backlog() as u32 } else { load.backlog },
                    decoding: if truth { (running + waiting) as u32 } else { load.decoding },
                    in_flight: load.in_flight,
                    limit: 0,
                    standing: Standing::Ready,
                }
            })
            .collect();
        let wish = Wish {
            prompt: job.prompt as u32,
            policy: self.policy,
            pinned: None,
            chance: self.random.number(),
            turn: self.turn,
        };
        self.turn += 1;
        let at = choose(&wish, &candidates, &self.routing).map_or(0, |choice| choice.at);
        let adds = (job.prompt as u32).saturating_sub(candidates[at].cached[2]).max(1);
        self.loads[at].backlog += adds;
        self.loads[at].in_flight += 1;
        self.jobs.insert(job.id, adds);
        match &mut self.knowledge {
            Knowledge::Events(index) => {
                index.expect(worker(at), prefix, tokens, now + self.routing.expect_for.get());
            }
            Knowledge::History(index, sent) => {
                index.expect(worker(at), prefix, tokens, now + HISTORY);
                let sent = sent.entry(at).or_default();
                sent.push(prefix.len() as u64);
                // A guess at the engine's size: once so many blocks were sent that it must have forgotten
                // nearly all of the first, begin again.
                if sent.iter().sum::<u64>() as usize > 4 * self.blocks {
                    index.forget(worker(at));
                    sent.clear();
                }
            }
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

    fn first_token(&mut self, job: u64, engine: usize, _now: Duration) {
        let load = &mut self.loads[engine];
        load.backlog -= self.jobs.remove(&job).unwrap_or_default();
        load.decoding += 1;
    }

    fn finished(&mut self, _job: u64, engine: usize, _now: Duration) {
        self.loads[engine].decoding -= 1;
        self.loads[engine].in_flight -= 1;
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
