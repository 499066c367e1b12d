//! What Prometheus reads: each metric a name, a unit, a sentence; labels only from the settings, never from requests.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::admin::api::{EngineStatus, ShareStatus, Status};
use crate::gateway::Gateway;
use crate::route::Standing;

/// One metric of an engine.
type OfEngine = (&'static str, &'static str, &'static str, fn(&EngineStatus) -> f64);

const ENGINE: [OfEngine; 14] = [
    ("warmline_fleet_engine_up", "gauge", "1 if the engine may be chosen.", |engine| {
        f64::from(u8::from(engine.standing == Standing::Ready))
    }),
    ("warmline_fleet_in_flight_requests", "gauge", "Requests in flight to the engine.", |e| {
        f64::from(e.in_flight)
    }),
    (
        "warmline_fleet_backlog_tokens",
        "gauge",
        "Prompt tokens the engine still has to compute for us.",
        |e| f64::from(e.backlog_tokens),
    ),
    ("warmline_fleet_decoding_requests", "gauge", "Requests that the engine decodes for us.", |e| {
        f64::from(e.decoding)
    }),
    ("warmline_fleet_served_requests_total", "counter", "Requests that the engine served.", |e| {
        e.served as f64
    }),
    ("warmline_fleet_failed_requests_total", "counter", "Requests that the engine failed.", |e| {
        e.failed as f64
    }),
    ("warmline_fleet_prompt_tokens_total", "counter", "Prompt tokens that the engine reported.", |e| {
        e.prompt_tokens as f64
    }),
    ("warmline_fleet_cached_tokens_total", "counter", "Of these, found in its cache.", |e| {
        e.cached_tokens as f64
    }),
    ("warmline_fleet_predicted_tokens_total", "counter", "Cached prompt tokens that were predicted.", |e| {
        e.predicted_tokens as f64
    }),
    ("warmline_fleet_confidence_ratio", "gauge", "How far predictions have come true lately.", |e| {
        e.confidence
    }),
    ("warmline_fleet_mismatch", "gauge", "1 if our tokens and the engine's differ.", |e| {
        f64::from(u8::from(e.mismatch.is_some()))
    }),
    ("warmline_events_gaps_total", "counter", "Holes in the engine's event stream.", |e| {
        e.views.iter().map(|view| view.counts.gaps).sum::<u64>() as f64
    }),
    ("warmline_events_restarts_total", "counter", "New lives of the engine.", |e| {
        e.views.iter().map(|view| view.counts.restarts).sum::<u64>() as f64
    }),
    ("warmline_events_view_exact", "gauge", "1 if every view of the engine is exact.", |e| {
        let exact = !e.views.is_empty() && e.views.iter().all(|view| view.view == "exact");
        f64::from(u8::from(exact))
    }),
];

/// Everything, in Prometheus's text form.
pub fn text(gateway: &Gateway) -> String {
    let fleet = gateway.fleet();
    let status = fleet.status();
    let mut out = String::with_capacity(8 << 10);
    for (name, kind, help, value) in ENGINE {
        head(&mut out, name, kind, help);
        for engine in &status.engines {
            // Names of engines are checked when they come in: no character needs escaping.
            let _ = writeln!(out, "{name}{{engine=\"{}\"}} {}", engine.name, value(engine));
        }
    }
    let decided = fleet.decided();
    let name = "warmline_route_decisions_total";
    head(&mut out, name, "counter", "Requests that were placed, by what decided.");
    for (why, count) in ["warm", "load", "spilled", "turn", "pinned", "trial"].iter().zip(&decided.by_why) {
        let _ = writeln!(out, "{name}{{why=\"{why}\"}} {}", count.load(Ordering::Relaxed));
    }
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let singles = [
        (
            "warmline_route_refused_total",
            "counter",
            "Requests that no engine could take.",
            load(&decided.nobody),
        ),
        (
            "warmline_route_best_tokens_total",
            "counter",
            "Cached tokens on the warmest engine of each request.",
            load(&decided.best_tokens),
        ),
        (
            "warmline_route_chosen_tokens_total",
            "counter",
            "Cached tokens on the engine that was chosen.",
            load(&decided.chosen_tokens),
        ),
        (
            "warmline_route_prompt_tokens_total",
            "counter",
            "Prompt tokens of placed requests.",
            load(&decided.prompt_tokens),
        ),
        ("warmline_index_blocks", "gauge", "Different blocks in the index.", status.index.blocks as f64),
        ("warmline_index_held_blocks", "gauge", "Blocks times their holders.", status.index.held as f64),
        ("warmline_index_heap_bytes", "gauge", "Memory of the index.", status.index.heap_bytes as f64),
        ("warmline_server_ready", "gauge", "1 if /readyz says yes.", f64::from(u8::from(status.ready))),
        ("warmline_server_uptime_seconds", "gauge", "Time since the start.", status.uptime_s),
    ];
    for (name, kind, help, value) in singles {
        single(&mut out, name, kind, help, value);
    }
    store(&mut out, &status, decided);
    coordination(&mut out, &status);
    gateway.lines().metrics(&mut out);
    let rows = [
        gateway.counters().rows(),
        gateway.stored().counters().rows(),
        gateway.batches().counters().rows(),
        gateway.webhooks().counters().rows(),
    ];
    for (name, kind, help, value) in rows.into_iter().flatten() {
        single(&mut out, name, kind, help, value);
    }
    out
}

/// The store that engines share; nothing where there is none.
fn store(out: &mut String, status: &Status, decided: &crate::fleet::Decided) {
    let Some(store) = &status.store else { return };
    let exact = store.in_reach && store.view.view == "exact";
    let rows = [
        (
            "warmline_fleet_store_in_reach",
            "gauge",
            "1 if the store's events can be had.",
            f64::from(u8::from(store.in_reach)),
        ),
        (
            "warmline_fleet_store_view_exact",
            "gauge",
            "1 if what the store holds is known exactly.",
            f64::from(u8::from(exact)),
        ),
        (
            "warmline_fleet_store_blocks",
            "gauge",
            "Blocks that the store is known to hold.",
            store.view.blocks as f64,
        ),
        (
            "warmline_events_store_gaps_total",
            "counter",
            "Holes in the store's event stream.",
            store.view.counts.gaps as f64,
        ),
        (
            "warmline_events_store_restarts_total",
            "counter",
            "New lives of the store.",
            store.view.counts.restarts as f64,
        ),
    ];
    for (name, kind, help, value) in rows {
        single(out, name, kind, help, value);
    }
    let name = "warmline_route_store_tokens_total";
    head(out, name, "counter", "Prompt tokens that the chosen engine could load from the store, by tier.");
    for (tier, count) in ["memory", "disk"].iter().zip(&decided.lent_tokens) {
        let _ = writeln!(out, "{name}{{tier=\"{tier}\"}} {}", count.load(Ordering::Relaxed));
    }
}

/// One metric of a tenant's share.
type OfShare = (&'static str, &'static str, fn(&ShareStatus) -> u64);

fn coordination(out: &mut String, status: &Status) {
    let told = &status.coordination;
    let reach = f64::from(u8::from(told.trouble.is_none() && told.heard_s.is_some()));
    let rows = [
        (
            "warmline_coord_replicas",
            "gauge",
            "Replicas that live, as this one knows.",
            status.replicas.len() as f64,
        ),
        ("warmline_coord_in_reach", "gauge", "1 if the coordinator answered the last beat.", reach),
        ("warmline_coord_operations_total", "counter", "Operations that were sent to it.", told.sent as f64),
        ("warmline_coord_repeated_total", "counter", "Of these, repetitions.", told.repeated as f64),
        (
            "warmline_coord_unanswered_total",
            "counter",
            "Operations without an answer.",
            told.unanswered as f64,
        ),
        (
            "warmline_coord_losses_total",
            "counter",
            "Times that shared state was found to be lost.",
            told.losses as f64,
        ),
    ];
    for (name, kind, help, value) in rows {
        single(out, name, kind, help, value);
    }
    let shares: [OfShare; 3] = [
        ("warmline_coord_share_used_requests", "Requests of the tenant in flight here.", |share| share.used),
        ("warmline_coord_share_held_requests", "Requests that it may have here without asking.", |share| {
            share.held
        }),
        ("warmline_coord_share_limit_requests", "Requests that it may have on all replicas.", |share| {
            share.limit
        }),
    ];
    for (name, help, value) in shares.into_iter().filter(|_| !told.shares.is_empty()) {
        head(out, name, "gauge", help);
        for share in &told.shares {
            let tenant = share.tenant.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = writeln!(out, "{name}{{tenant=\"{tenant}\"}} {}", value(share));
        }
    }
}

pub(crate) fn single(out: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    head(out, name, kind, help);
    let _ = writeln!(out, "{name} {value}");
}

pub(crate) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
