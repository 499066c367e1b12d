//! A gateway with a line, engines and a store in virtual time: what becomes of a load.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use blocks::{Event, Tier, Worker};
use index::{Index, Matches};
use sim::engine::{Engine, Job, Output, Shape, What};
use sim::random::Random;
use sim::trace::Request;
use store::master::Warm;

use super::Plan;
use super::depot::{Depot, Said};
use crate::fleet::EngineId;
use crate::fleet::backlog::{Backlog, Order};
use crate::route::{Candidate, Lent, Standing, Wish, choose};
use crate::settings::Policy;

/// What became of a load.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) ttft: Vec<Duration>,
    /// Of these, in line.
    pub(super) waited: Duration,
    /// Requests that stood in line.
    pub(super) stood: u64,
    pub(super) prompt: u64,
    /// Prompt tokens that were not computed, by where they were.
    pub(super) device: u64,
    pub(super) memory: u64,
    pub(super) disk: u64,
    /// When the last answer ended.
    pub(super) ends: Duration,
}

pub(super) struct World<'a> {
    plan: &'a Plan,
    engines: Vec<Engine>,
    pub(super) depot: Option<Depot>,
    warms: bool,
    index: Index,
    loads: Vec<Load>,
    jobs: HashMap<u64, Placed>,
    line: VecDeque<Waiting<'a>>,
    news: VecDeque<(Duration, usize, Event)>,
    random: Random,
    found: Matches,
    swept: Duration,
    /// The last time somebody left the line, and the usual time between two.
    left: Duration,
    gap: f64,
    report: Report,
}

#[derive(Clone, Default)]
struct Load {
    backlog: Backlog,
    decoding: u32,
    in_flight: u32,
}

/// A request that is with an engine.
struct Placed {
    at: Duration,
    order: Option<Order>,
}

/// A request in line.
struct Waiting<'a> {
    request: &'a Request,
    warm: Option<Warm>,
}

/// What somebody who leaves the line adds to the usual time between two: that of about the last ten.
const NEWS: f64 = 0.1;
/// How long an engine's step may be late; the index is swept so often.
const SWEEP: Duration = Duration::from_millis(200);

fn worker(engine: usize) -> Worker {
    Worker { instance: engine as u64, rank: 0 }
}

impl<'a> World<'a> {
    pub(super) fn new(plan: &'a Plan, shape: &Shape, depot: Option<Depot>, warms: bool) -> Self {
        let engine = |i| Engine::new(Shape { hash_seed: shape.hash_seed + i, ..shape.clone() });
        Self {
            plan,
            engines: (0..plan.engines as u64).map(engine).collect(),
            depot,
            warms,
            index: Index::new(),
            loads: vec![Load::default(); plan.engines],
            jobs: HashMap::new(),
            line: VecDeque::new(),
            news: VecDeque::new(),
            random: Random::new(plan.seed),
            found: Matches::default(),
            swept: Duration::ZERO,
            left: Duration::ZERO,
            gap: 1.0,
            report: Report::default(),
        }
    }

    /// Runs the load to its end.
    pub(super) fn run(&mut self) -> Report {
        let fits = |request: &&Request| self.engines[0].fits(&request.job);
        let requests: Vec<&Request> = self.plan.requests.iter().filter(fits).collect();
        let mut left = requests.len();
        let mut coming = requests.into_iter().peekable();
        let (mut out, mut said) = (Vec::new(), Vec::new());
        while left > 0 {
            let arrival = coming.peek().map(|request| request.at);
            let engines = self.engines.iter().enumerate();
            let step = engines.filter_map(|(i, engine)| Some((engine.next_at()?, i))).min();
            let news = self.news.front().map(|(at, ..)| *at);
            let store = self.depot.as_ref().and_then(Depot::next_at);
            let next = [arrival, step.map(|(at, _)| at), news, store].into_iter().flatten().min();
            let Some(now) = next else { break };
            if news == Some(now) {
                if let Some((_, engine, event)) = self.news.pop_front() {
                    // The simulated stream loses nothing; a refusal would show as a worse result.
                    let _ = self.index.apply(worker(engine), &event);
                }
            } else if let Some((_, engine)) = step.filter(|(at, _)| *at == now) {
                self.engines[engine].advance(now, &mut out);
                for output in out.drain(..) {
                    left -= usize::from(self.hears(engine, output));
                }
                self.move_up(now);
            } else if store == Some(now) {
                if let Some(depot) = &mut self.depot {
                    depot.advance(now, &mut said);
                }
                for Said { engine, job, blocks, found } in said.drain(..) {
                    let engine = &mut self.engines[engine];
                    if found {
                        engine.found(job, blocks, now)
                    } else {
                        engine.loaded(job, blocks, now)
                    };
                }
            } else if let Some(request) = coming.next() {
                self.report.prompt += request.job.prompt as u64;
                self.line.push_back(Waiting { request, warm: None });
                if self.line.len() == 1 {
                    self.left = now;
                }
                self.move_up(now);
            }
        }
        self.report.ttft.sort_unstable();
        std::mem::take(&mut self.report)
    }

    /// Whether a job has ended.
    fn hears(&mut self, engine: usize, output: Output) -> bool {
        let now = output.at;
        match output.what {
            What::Told(told) => self.news.push_back((now + self.plan.event_delay, engine, told.event())),
            What::Wants { job, text, first, blocks } => {
                if let Some(depot) = &mut self.depot {
                    depot.wants(engine, job, (text, first, blocks), now);
                }
            }
            What::Stops { job } => {
                if let Some(depot) = &mut self.depot {
                    depot.stops(job);
                }
            }
            What::Offloads(blocks) => {
                if let Some(depot) = &mut self.depot {
                    depot.offloads(engine, blocks, now);
                }
            }
            What::Token { job, count, cached, loaded, done } => {
                if count == 1 {
                    self.first_token(engine, job, (cached, loaded), now);
                }
                if done {
                    self.jobs.remove(&job);
                    self.loads[engine].decoding -= 1;
                    self.loads[engine].in_flight -= 1;
                    self.report.ends = now;
                }
                return done;
            }
        }
        false
    }

    fn first_token(&mut self, engine: usize, job: u64, cached: (usize, usize), now: Duration) {
        let (cached, loaded) = cached;
        let block = self.plan.shape.block_size;
        let memory = self.depot.as_mut().map_or(0, |depot| depot.ended(job, loaded / block)) * block;
        let report = &mut self.report;
        report.device += (cached - loaded) as u64;
        report.memory += memory as u64;
        report.disk += (loaded - memory) as u64;
        let load = &mut self.loads[engine];
        load.decoding += 1;
        if let Some(placed) = self.jobs.get_mut(&job) {
            report.ttft.push(now.saturating_sub(placed.at));
            if let Some(order) = placed.order.take() {
                load.backlog.arrived(order, now);
            }
        }
    }

    /// Whoever is first in line goes to an engine, as long as one has room; and those who stay are warmed.
    fn move_up(&mut self, now: Duration) {
        if self.line.is_empty() {
            return;
        }
        if now.saturating_sub(self.swept) > SWEEP {
            self.swept = now;
            self.index.expire(now);
        }
        while let Some(request) = self.line.front().map(|waiting| waiting.request) {
            let Some(engine) = self.place(&request.job, now) else { break };
            let Some(waiting) = self.line.pop_front() else { break };
            if let (Some(warm), Some(depot)) = (waiting.warm, &mut self.depot) {
                depot.cool(warm, now);
            }
            if now > request.at {
                self.report.stood += 1;
                self.report.waited += now.saturating_sub(request.at);
                let since = now.saturating_sub(self.left).as_secs_f64();
                self.gap += (since - self.gap) * NEWS;
            }
            self.left = now;
            self.jobs.entry(request.job.id).and_modify(|placed| placed.at = request.at);
            self.engines[engine].submit(request.job.clone(), now);
        }
        if self.warms {
            self.warm(now);
        }
    }

    /// The engine that takes a job now, if one does.
    fn place(&mut self, job: &Job, now: Duration) -> Option<usize> {
        let full = self.plan.in_flight as u32;
        if self.loads.iter().all(|load| load.in_flight >= full) {
            return None;
        }
        let block = self.plan.shape.block_size;
        let most = (job.prompt - 1) / block;
        let prefix = &job.text.prefix_hashes[..(job.prompt / block).min(job.text.prefix_hashes.len())];
        let tokens = &job.text.tokens_hashes[..prefix.len()];
        self.index.lookup(tokens, &mut self.found);
        let depot = self.depot.as_ref();
        let candidate = |(engine, load): (usize, &Load)| {
            let device = self.found.of(worker(engine)).map_or(0, |found| found.on(Tier::Device)).min(most);
            let rest = prefix.get(device..most).unwrap_or_default();
            let beyond = depot.map_or_else(Vec::new, |depot| depot.reach(rest, now));
            let memory = beyond.iter().take_while(|tier| **tier == store::master::name::Tier::Memory).count();
            let tokens = |blocks: usize| (blocks * block) as u32;
            let lent = Lent { memory: tokens(memory), disk: tokens(beyond.len() - memory), trust: 1.0 };
            Candidate {
                engine: EngineId(engine as u32),
                cached: [tokens(device); 3],
                trust: 1.0,
                lent,
                backlog: load.backlog.left(now),
                decoding: load.decoding,
                in_flight: load.in_flight,
                limit: full,
                crowded: false,
                standing: Standing::Ready,
            }
        };
        let candidates: Vec<Candidate> = self.loads.iter().enumerate().map(candidate).collect();
        let (prompt, chance) = (job.prompt as u32, self.random.number());
        let weighs = crate::settings::Store::default();
        let store = [weighs.memory_discount, weighs.disk_discount];
        let wish = Wish { prompt, policy: Policy::Warm, store, pinned: None, chance, turn: 0 };
        let at = choose(&wish, &candidates, &self.plan.routing).ok()?.at;
        let Candidate { cached, lent, .. } = candidates[at];
        let adds = prompt.saturating_sub(cached[2] + lent.memory + lent.disk).max(1);
        let order = Some(self.loads[at].backlog.send(adds, true, now));
        self.loads[at].in_flight += 1;
        self.jobs.insert(job.id, Placed { at: now, order });
        self.index.expect(worker(at), tokens, now + self.plan.routing.expect_for.get());
        Some(at)
    }

    /// Those who wait near the front of the line say what they will read, and by when: beyond what some engine has.
    fn warm(&mut self, now: Duration) {
        let Some(depot) = &mut self.depot else { return };
        let block = self.plan.shape.block_size;
        for (place, waiting) in self.line.iter_mut().take(self.plan.ahead).enumerate() {
            if waiting.warm.is_some() {
                continue;
            }
            let job = &waiting.request.job;
            let prefix =
                &job.text.prefix_hashes[..((job.prompt - 1) / block).min(job.text.prefix_hashes.len())];
            self.index.lookup(&job.text.tokens_hashes[..prefix.len()], &mut self.found);
            let on_device = |engine| self.found.of(worker(engine)).map_or(0, |found| found.on(Tier::Device));
            let held = (0..self.engines.len()).map(on_device).max().unwrap_or_default();
            let rest = prefix.get(held..).unwrap_or_default();
            let there = depot.reach(rest, now).len();
            let deadline = now + Duration::from_secs_f64(self.gap * (place + 1) as f64);
            waiting.warm = Some(depot.warm(&rest[..there], deadline, now));
        }
    }
}
