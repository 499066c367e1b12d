//! A fleet of engines and a router in virtual time: a whole day's trace in seconds, the same every time.

use std::collections::VecDeque;
use std::time::Duration;

use blocks::Event;

use crate::engine::{Engine, Job, Output, Shape, What};
use crate::trace::Request;

/// Who decides where a job goes, and hears what a gateway would hear, when it would hear it.
pub trait Router {
    /// Which engine takes this job. `engines` are the engines as they truly are: only a router that claims to
    /// know everything may look.
    fn choose(&mut self, job: &Job, engines: &[Engine], now: Duration) -> usize;

    /// An engine's cache changed.
    fn told(&mut self, _engine: usize, _event: &Event, _now: Duration) {}

    /// A job's first token came back.
    fn first_token(&mut self, _job: u64, _engine: usize, _now: Duration) {}

    /// A job's last token came back.
    fn finished(&mut self, _job: u64, _engine: usize, _now: Duration) {}
}

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Times to first token, ascending.
    pub ttft: Vec<Duration>,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Of these, found in the caches.
    pub cached_tokens: u64,
    /// Requests that each engine served.
    pub served: Vec<u64>,
    /// Jobs that no engine could ever hold; they are left out of everything else.
    pub unfit: u64,
}

/// Runs a load to its end.
pub fn run(
    requests: &[Request],
    engines: usize,
    shape: &Shape,
    router: &mut dyn Router,
    event_delay: Duration,
) -> Report {
    let mut engines: Vec<Engine> = (0..engines as u64)
        .map(|i| Engine::new(Shape { hash_seed: shape.hash_seed + i, ..shape.clone() }))
        .collect();
    let mut report = Report { served: vec![0; engines.len()], ..Report::default() };
    let mut arrived: Vec<Duration> = vec![Duration::ZERO; requests.len()];
    let mut late: VecDeque<(Duration, usize, Event)> = VecDeque::new();
    let mut waiting = requests.iter().peekable();
    let mut out: Vec<Output> = Vec::new();
    loop {
        let arrival = waiting.peek().map(|request| request.at);
        let step = engines.iter().enumerate().filter_map(|(i, engine)| Some((engine.next_at()?, i))).min();
        let news = late.front().map(|(at, ..)| *at);
        let next = [arrival, step.map(|(at, _)| at), news].into_iter().flatten().min();
        let Some(now) = next else { break };
        if news == Some(now) {
            if let Some((_, engine, event)) = late.pop_front() {
                router.told(engine, &event, now);
            }
        } else if let Some((_, engine)) = step.filter(|(at, _)| *at == now) {
            engines[engine].advance(now, &mut out);
            for output in out.drain(..) {
                match output.what {
                    What::Told(told) => late.push_back((now + event_delay, engine, told.event())),
                    What::Token { job, count: 1, cached, done, .. } => {
                        report.ttft.push(now.saturating_sub(arrived[job as usize]));
                        report.cached_tokens += cached as u64;
                        router.first_token(job, engine, now);
                        if done {
                            router.finished(job, engine, now);
                        }
                    }
                    What::Token { job, done: true, .. } => router.finished(job, engine, now),
                    What::Token { .. } | What::Wants { .. } | What::Stops { .. } | What::Offloads(_) => {}
                }
            }
        } else if let Some(request) = waiting.next() {
            let job = &request.job;
            if !engines[0].fits(job) {
                report.unfit += 1;
                continue;
            }
            let engine = router.choose(job, &engines, now);
            arrived[job.id as usize] = now;
            report.prompt_tokens += job.prompt as u64;
            report.served[engine] += 1;
            engines[engine].submit(job.clone(), now);
        }
    }
    report.ttft.sort_unstable();
    report
}

// === impl Report ===

impl Report {
    /// Milliseconds that this part of the requests did not exceed; from 0 to 1.
    pub fn quantile_ms(&self, part: f64) -> f64 {
        let last = self.ttft.len().saturating_sub(1);
        self.ttft.get((last as f64 * part).round() as usize).map_or(0.0, |ttft| ttft.as_secs_f64() * 1e3)
    }

    /// The mean time to first token in milliseconds.
    pub fn mean_ms(&self) -> f64 {
        let sum: f64 = self.ttft.iter().map(Duration::as_secs_f64).sum();
        sum * 1e3 / self.ttft.len().max(1) as f64
    }

    /// Prompt tokens found in the caches, of all prompt tokens.
    pub fn cached_ratio(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace;

    /// Each in turn; holds time to its direction.
    #[derive(Default)]
    struct InTurn {
        next: usize,
        told: usize,
        firsts: usize,
        lasts: usize,
        now: Duration,
    }

    impl InTurn {
        fn pass(&mut self, now: Duration) {
            assert!(now >= self.now, "time goes one way");
            self.now = now;
        }
    }

    impl Router for InTurn {
        fn choose(&mut self, _: &Job, engines: &[Engine], now: Duration) -> usize {
            self.pass(now);
            self.next += 1;
            self.next % engines.len()
        }
        fn told(&mut self, _: usize, _: &Event, now: Duration) {
            self.pass(now);
            self.told += 1;
        }
        fn first_token(&mut self, _: u64, _: usize, now: Duration) {
            self.pass(now);
            self.firsts += 1;
        }
        fn finished(&mut self, _: u64, _: usize, now: Duration) {
            self.pass(now);
            self.lasts += 1;
        }
    }

    const DELAY: Duration = Duration::from_millis(1);

    /// Forty requests that all begin with the same 512 tokens.
    fn requests() -> Vec<Request> {
        let line = |i: u64| {
            let (at, length) = (i * 100, 600 + i);
            format!(
                "{{\"timestamp\":{at},\"input_length\":{length},\"output_length\":5,\"hash_ids\":[0,{}]}}",
                i + 1
            )
        };
        let lines: Vec<String> = (0..40).map(line).collect();
        trace::read(lines.join("\n").as_bytes(), 16).unwrap()
    }

    #[test]
    fn each_request_is_served_once_and_each_engine_computes_the_shared_prefix_once() {
        let (requests, mut router) = (requests(), InTurn::default());
        let report = run(&requests, 4, &Shape::default(), &mut router, DELAY);
        assert_eq!(report.served, [10; 4]);
        assert_eq!((report.ttft.len(), router.firsts, router.lasts), (40, 40, 40));
        assert_eq!(report.cached_tokens, (40 - 4) * 512);
        assert!(router.told >= 40, "every engine tells of every prompt");
    }

    #[test]
    fn the_same_load_ends_the_same() {
        let report = || run(&requests(), 3, &Shape::default(), &mut InTurn::default(), DELAY);
        let (a, b) = (report(), report());
        assert_eq!((a.ttft, a.cached_tokens), (b.ttft, b.cached_tokens));
    }

    #[test]
    fn what_fits_into_no_engine_is_counted_and_left_out() {
        let small = Shape { blocks: 40, ..Shape::default() };
        let report = run(&requests(), 2, &small, &mut InTurn::default(), DELAY);
        // 40 blocks are 640 tokens: 600 + i + 5 fits as long as i is at most 35.
        assert_eq!((report.unfit, report.ttft.len()), (4, 36));
    }
}
