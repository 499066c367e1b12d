//! What Prometheus reads of an indexer. Labels come from its own paths and from what is registered, which is bounded.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blocks::View;
use http::StatusCode;

use super::registry::{Registry, Standing};
use crate::metrics::{head, single};

/// What has been asked.
pub(super) struct Asked {
    paths: Vec<Path>,
}

struct Path {
    name: &'static str,
    count: AtomicU64,
    /// Answers of 4xx and of 5xx.
    errors: [AtomicU64; 2],
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

/// Bounds of the buckets: from 64 microseconds on, each four times the one before, up to a second.
const BUCKETS: usize = 8;

/// One metric of a stream.
type OfStream = (&'static str, &'static str, &'static str, fn(&Standing) -> f64);

const STREAM: [OfStream; 8] = [
    ("warmline_indexer_blocks", "gauge", "Blocks that the view holds.", |stream| stream.blocks as f64),
    ("warmline_indexer_view_exact", "gauge", "1 if the view is exact.", |stream| {
        f64::from(u8::from(stream.status.view == View::Exact))
    }),
    ("warmline_indexer_connected", "gauge", "1 if the event stream is connected.", |stream| {
        f64::from(u8::from(stream.status.connected))
    }),
    ("warmline_indexer_batches_total", "counter", "Batches that were applied.", |stream| {
        stream.status.counters.batches as f64
    }),
    ("warmline_indexer_gaps_total", "counter", "Holes in the event stream.", |stream| {
        stream.status.counters.gaps as f64
    }),
    ("warmline_indexer_restarts_total", "counter", "New lives of the engine.", |stream| {
        stream.status.counters.restarts as f64
    }),
    ("warmline_indexer_rebuilds_total", "counter", "Views that were built anew.", |stream| {
        stream.status.counters.rebuilds as f64
    }),
    ("warmline_indexer_undecodable_total", "counter", "Payloads that could not be read.", |stream| {
        stream.status.counters.undecodable as f64
    }),
];

// === impl Asked ===

impl Asked {
    pub(super) fn new(paths: impl IntoIterator<Item = &'static str>) -> Self {
        let path = |name| Path {
            name,
            count: AtomicU64::new(0),
            errors: [const { AtomicU64::new(0) }; 2],
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            nanoseconds: AtomicU64::new(0),
        };
        Self { paths: paths.into_iter().map(path).collect() }
    }

    /// Counts one answer.
    pub(super) fn answered(&self, path: &str, status: StatusCode, took: Duration) {
        let Some(path) = self.paths.iter().find(|known| known.name == path) else { return };
        path.count.fetch_add(1, Ordering::Relaxed);
        if let Some(class) = (status.as_u16() / 100).checked_sub(4) {
            path.errors[usize::from(class.min(1))].fetch_add(1, Ordering::Relaxed);
        }
        let fits = (0..BUCKETS).position(|bucket| took <= bound(bucket));
        if let Some(bucket) = fits {
            path.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        path.nanoseconds.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }
}

fn bound(bucket: usize) -> Duration {
    Duration::from_micros(64 << (2 * bucket))
}

/// Everything, in Prometheus's text form.
pub(super) fn text(registry: &Registry, asked: &Asked) -> String {
    let mut out = String::with_capacity(8 << 10);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let name = "warmline_indexer_requests_total";
    head(&mut out, name, "counter", "Requests that were answered, by path.");
    for path in &asked.paths {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "{name}{{path=\"{}\"}} {}", path.name, count(&path.count));
    }
    let name = "warmline_indexer_errors_total";
    head(&mut out, name, "counter", "Requests that were answered with an error, by path and class.");
    for path in &asked.paths {
        for (class, errors) in ["4xx", "5xx"].iter().zip(&path.errors) {
            let _ = writeln!(out, "{name}{{path=\"{}\",class=\"{class}\"}} {}", path.name, count(errors));
        }
    }
    let name = "warmline_indexer_request_seconds";
    head(&mut out, name, "histogram", "From the whole request to the whole answer, by path.");
    for path in &asked.paths {
        let mut below = 0;
        for (bucket, counter) in path.buckets.iter().enumerate() {
            below += count(counter);
            let bound = bound(bucket).as_secs_f64();
            let _ = writeln!(out, "{name}_bucket{{path=\"{}\",le=\"{bound}\"}} {below}", path.name);
        }
        let (all, seconds) = (count(&path.count), count(&path.nanoseconds) as f64 / 1e9);
        let _ = writeln!(out, "{name}_bucket{{path=\"{}\",le=\"+Inf\"}} {all}", path.name);
        let _ = writeln!(out, "{name}_sum{{path=\"{}\"}} {seconds}", path.name);
        let _ = writeln!(out, "{name}_count{{path=\"{}\"}} {all}", path.name);
    }
    let standings = registry.standings();
    for (name, kind, help, value) in STREAM {
        head(&mut out, name, kind, help);
        for stream in &standings {
            let (instance, rank) = (stream.registration.instance_id, stream.registration.dp_rank);
            let _ = writeln!(out, "{name}{{instance=\"{instance}\",rank=\"{rank}\"}} {}", value(stream));
        }
    }
    let parts = registry.parts();
    let counts: Vec<_> = parts.iter().map(|part| part.index.counts()).collect();
    let views = |view| standings.iter().filter(|stream| stream.status.view == view).count() as f64;
    for (name, help, value) in [
        ("warmline_indexer_partitions", "Models and groups.", parts.len() as f64),
        ("warmline_indexer_streams", "Streams that are registered.", standings.len() as f64),
        ("warmline_indexer_streams_exact", "Of these, exact.", views(View::Exact)),
        ("warmline_indexer_streams_recovering", "Of these, recovering.", views(View::Recovering)),
        ("warmline_indexer_streams_stale", "Of these, stale.", views(View::Stale)),
        (
            "warmline_indexer_distinct_blocks",
            "Different blocks, over all models and groups.",
            counts.iter().map(|counts| counts.blocks as f64).sum(),
        ),
        (
            "warmline_indexer_heap_bytes",
            "Memory of the indexes.",
            counts.iter().map(|counts| counts.heap_bytes as f64).sum(),
        ),
    ] {
        single(&mut out, name, "gauge", help, value);
    }
    out
}
