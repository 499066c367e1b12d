//! What Prometheus reads of lines, queues and their logs; labels are classes and outcomes, never names.

use std::fmt::Write as _;

use queue::room::{OUTCOMES, Totals};

use super::Told;
use super::told::BOUNDS;
use crate::metrics::{head, single};
use crate::settings::Priority;

type Row = (&'static str, &'static str, &'static str, f64);

/// Everything, in Prometheus's text form.
pub(super) fn text(out: &mut String, told: &Told, totals: &Totals, disk_bytes: u64) {
    for (name, kind, help, value) in requests(told).into_iter().chain(queues(totals, disk_bytes)) {
        single(out, name, kind, help, value);
    }
    wait(out, told);
    let Totals { depth, told, .. } = totals;
    let name = "warmline_queue_running_entries";
    head(out, name, "gauge", "What runs that had to wait for its turn, by class.");
    for (class, running) in CLASSES.iter().zip(&depth.of_class) {
        let _ = writeln!(out, "{name}{{class=\"{}\"}} {running}", class.name());
    }
    let name = "warmline_queue_starts_total";
    head(out, name, "counter", "Turns that were given to what waited, by class.");
    for (class, starts) in CLASSES.iter().zip(&told.starts) {
        let _ = writeln!(out, "{name}{{class=\"{}\"}} {starts}", class.name());
    }
    let name = "warmline_queue_ends_total";
    head(out, name, "counter", "Durable entries that came to their end, by outcome.");
    for (outcome, ends) in OUTCOMES.iter().zip(&told.ends) {
        let _ = writeln!(out, "{name}{{outcome=\"{}\"}} {ends}", outcome.name());
    }
}

const CLASSES: [Priority; 4] = [Priority::Urgent, Priority::Normal, Priority::Job, Priority::Batch];

/// Those who stand in line with their connection.
fn requests(told: &Told) -> [Row; 3] {
    [
        (
            "warmline_queue_standing_requests",
            "gauge",
            "Requests that stand in line with their connection.",
            told.depth.volatile as f64,
        ),
        (
            "warmline_queue_expired_requests_total",
            "counter",
            "Requests whose turn did not come within queue.max_wait.",
            told.expired as f64,
        ),
        (
            "warmline_queue_refused_requests_total",
            "counter",
            "Requests that were sent away since the line was too long (queue.max_line, queue.max_standing).",
            told.refused as f64,
        ),
    ]
}

/// What is durable.
fn queues(totals: &Totals, disk_bytes: u64) -> [Row; 10] {
    let Totals { depth, logs, told, .. } = totals;
    let poisoned = logs.iter().filter(|log| log.poisoned.is_some()).count();
    let sum = |of: fn(&queue::room::LogSeen) -> u64| logs.iter().map(of).sum::<u64>() as f64;
    [
        (
            "warmline_queue_durable_queues",
            "gauge",
            "Durable queues that are not empty.",
            sum(|log| log.queues as u64),
        ),
        (
            "warmline_queue_durable_entries",
            "gauge",
            "Durable entries: waiting, running, or over and kept for a while.",
            sum(|log| log.entries.unwrap_or_default()),
        ),
        (
            "warmline_queue_cached_entries",
            "gauge",
            "Waiting entries that are known in memory.",
            depth.cached as f64,
        ),
        ("warmline_queue_refills_total", "counter", "Reads of what waits from a log.", told.reads as f64),
        ("warmline_queue_partitions", "gauge", "Logs that are open on this replica.", logs.len() as f64),
        (
            "warmline_queue_poisoned_logs",
            "gauge",
            "Logs that could not be written and take nothing until the next start. Wake somebody.",
            poisoned as f64,
        ),
        ("warmline_queue_log_disk_bytes", "gauge", "What the logs take on disk.", disk_bytes as f64),
        ("warmline_queue_log_commits_total", "counter", "Batches that were committed.", told.commits as f64),
        ("warmline_queue_log_moves_total", "counter", "Moves in these batches.", told.moves as f64),
        (
            "warmline_queue_log_commit_seconds_total",
            "counter",
            "Time that the commits took.",
            told.commit_millis as f64 / 1e3,
        ),
    ]
}

fn wait(out: &mut String, told: &Told) {
    let name = "warmline_queue_wait_seconds";
    head(out, name, "histogram", "How long requests stood in line until their turn.");
    let mut below = 0;
    for (bound, count) in BOUNDS.iter().zip(&told.buckets) {
        below += count;
        let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", told.waited);
    let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", told.seconds, told.waited);
}

impl Priority {
    /// Its name in metrics, tables and settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Job => "job",
            Self::Batch => "batch",
        }
    }

    /// That of a class in the queues.
    pub fn of(class: queue::name::Class) -> Self {
        CLASSES[class.number()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_every_metric_has_its_head() {
        let mut told = Told { waited: 5, seconds: 70.5, ..Told::default() };
        (told.buckets[0], told.buckets[3]) = (1, 3);
        let mut totals = Totals::default();
        (totals.told.ends[3], totals.told.starts[2], totals.depth.of_class[0]) = (7, 8, 9);
        let mut out = String::new();
        text(&mut out, &told, &totals, 0);
        for line in [
            "warmline_queue_wait_seconds_bucket{le=\"0.001\"} 1",
            "warmline_queue_wait_seconds_bucket{le=\"0.02\"} 1",
            "warmline_queue_wait_seconds_bucket{le=\"0.1\"} 4",
            "warmline_queue_wait_seconds_bucket{le=\"+Inf\"} 5",
            "warmline_queue_wait_seconds_sum 70.5",
            "warmline_queue_wait_seconds_count 5",
            "warmline_queue_ends_total{outcome=\"expired\"} 7",
            "warmline_queue_starts_total{class=\"job\"} 8",
            "warmline_queue_running_entries{class=\"urgent\"} 9",
        ] {
            assert!(out.lines().any(|one| one == line), "{line} is not in\n{out}");
        }
        let named = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
        for name in out.lines().filter(|line| !line.starts_with('#')).map(named) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let head = format!("# TYPE {} ", base.unwrap_or(&name));
            assert!(out.contains(&head), "{name} has no head");
        }
    }
}
