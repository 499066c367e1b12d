//! How the demo looks: a line that moves, a table, a chart.

use std::fmt::Write as _;
use std::io::IsTerminal;

use super::{Phase, Tiers};
use crate::settings::Policy;

/// A line on stderr that tells how far a phase is; on a terminal it moves, elsewhere it comes now and then.
pub(super) struct Progress {
    all: usize,
    moves: bool,
    told: usize,
}

/// Characters of a full bar.
const BAR: usize = 30;

impl Progress {
    pub(super) fn new(all: usize) -> Self {
        Self { all, moves: std::io::stderr().is_terminal(), told: 0 }
    }

    pub(super) fn show(&mut self, phase: &Phase) {
        let done = phase.requests + phase.failed;
        if self.moves {
            eprint!("\r{}", self.line(phase));
        } else if done * 4 / self.all.max(1) > self.told {
            self.told = done * 4 / self.all.max(1);
            eprintln!("{}", self.line(phase));
        }
    }

    pub(super) fn finish(&self, phase: &Phase) {
        eprintln!("{}{}", if self.moves { "\r" } else { "" }, self.line(phase));
    }

    fn line(&self, phase: &Phase) -> String {
        let done = phase.requests + phase.failed;
        format!(
            "{:<14} [{}] {done:>4}/{} requests, {:>4.1} % of prompt tokens cached, TTFT p50 {:>4.0} ms",
            name(phase),
            bar(done as f64 / self.all.max(1) as f64, BAR, '.'),
            self.all,
            100.0 * phase.cached_token_ratio,
            phase.ttft_ms[0]
        )
    }
}

/// The phases beside each other.
pub fn table(phases: &[Phase]) -> String {
    let mut out =
        String::from("                cached tokens   TTFT p50      p90      p99   requests   per engine\n");
    for phase in phases {
        let [p50, p90, p99] = phase.ttft_ms;
        let served: Vec<String> = phase.served.iter().map(usize::to_string).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:<14} {:>10.1} % {p50:>8.0} ms {p90:>5.0} ms {p99:>5.0} ms {:>10}   {}",
            name(phase),
            100.0 * phase.cached_token_ratio,
            phase.requests,
            served.join(" / ")
        );
    }
    out
}

/// What the store did.
pub fn tiers(phases: &[Phase]) -> String {
    let Some(tiers) = phases.iter().rev().find_map(|phase| phase.store) else { return String::new() };
    let Tiers { blocks, memory_bytes, disk_bytes, read_from_memory, read_from_disk, .. } = tiers;
    let Tiers { promoted, warmed, warmed_in_time, warmed_late, .. } = tiers;
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    format!(
        "the store: {blocks} blocks, {:.1} MiB in memory and {:.1} MiB on disk\n  \
         engines read {read_from_memory} blocks from its memory and {read_from_disk} from its disk; {promoted} came back to memory\n  \
         requests in line asked for {warmed} blocks before their turn: {warmed_in_time} in time, {warmed_late} late",
        mib(memory_bytes),
        mib(disk_bytes)
    )
}

/// The same as bars.
pub fn chart(phases: &[Phase]) -> String {
    let mut out = String::new();
    let slowest = phases.iter().map(|phase| phase.ttft_ms[1]).fold(1.0, f64::max);
    for (title, value) in [
        ("prompt tokens found in the cache", (|phase, _| phase.cached_token_ratio) as fn(&Phase, f64) -> f64),
        ("time to first token, nine of ten requests", |phase, slowest| phase.ttft_ms[1] / slowest),
    ] {
        let _ = writeln!(out, "{title}");
        for phase in phases {
            let value = value(phase, slowest);
            let _ = writeln!(out, "  {:<14} {}", name(phase), bar(value, BAR * 2, ' ').trim_end());
        }
    }
    out
}

fn bar(part: f64, width: usize, rest: char) -> String {
    let full = ((part.clamp(0.0, 1.0) * width as f64).round() as usize).min(width);
    "█".repeat(full) + &rest.to_string().repeat(width - full)
}

fn name(phase: &Phase) -> &'static str {
    match phase.policy {
        Policy::Warm if phase.store.is_some() => "warm, a store",
        Policy::Warm => "warm",
        Policy::RoundRobin => "round-robin",
        Policy::LeastLoaded => "least-loaded",
        Policy::Approximate => "approximate",
    }
}
