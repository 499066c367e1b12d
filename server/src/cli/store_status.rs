//! `warmline status --store`: a tiered store at a glance, for whoever is on call.

use std::fmt::Write as _;
use std::time::Duration;

use super::client::Client;
use super::output::{self, Failure};
use crate::store::admin::api::{Counters, Led, Link, NodeSeen, Space, Status};

/// Asks the operator's door of a store, and shows what it says.
pub(super) fn run(client: &Client, json: bool) -> Result<(), Failure> {
    let status: Status = client.get("/status").and_then(|answer| answer.parse()).map_err(Failure::Work)?;
    if json { output::json(&status) } else { output::line(show(&status).trim_end()) }
}

fn show(status: &Status) -> String {
    let mut out = String::new();
    let up = Duration::from_secs(status.uptime_s as u64);
    let ready = status.waiting_for.as_ref().map_or("ready".to_owned(), |why| format!("not ready: {why}"));
    let node = status.node.as_ref().map(|node| format!("; node {}", node.id)).unwrap_or_default();
    line(&mut out, format_args!("warmline store {}, up {up:?}, {ready}{node}", status.version));
    if let Some(link) = &status.link {
        line(&mut out, format_args!("{}", leads(link)));
    }
    for what in &status.trouble {
        line(&mut out, format_args!("! {what}"));
    }
    let mut facts = Vec::new();
    if let Some(led) = &status.led {
        facts.push(format!("{} objects", of(&led.now, "objects")));
    }
    if let Some(clients) = &status.clients {
        facts.push(format!("{} clients", clients.connections));
        facts.push(format!("{} in, {} out", size(clients.received_bytes), size(clients.sent_bytes)));
    }
    if !facts.is_empty() {
        line(&mut out, format_args!("{}\n", facts.join("; ")));
    }
    tiers(&mut out, status);
    if let Some(led) = &status.led {
        counted(&mut out, led);
    }
    let refusals = status.clients.as_ref().map(|clients| &clients.refusals);
    if let Some(refusals) = refusals.filter(|refusals| !refusals.is_empty()) {
        let words: Vec<String> = refusals.iter().map(|(code, many)| format!("{many} {code}")).collect();
        line(&mut out, format_args!("refused    {}", words.join(", ")));
    }
    out
}

/// Who leads, in words.
fn leads(link: &Link) -> String {
    let roles = link.roles.join(" and ");
    let late = match link.late_answers {
        0 => String::new(),
        many => format!("; {many} answers came too late to be believed"),
    };
    let who = match (link.leads, &link.leader, link.term) {
        (true, _, Some(term)) => format!("it leads, in term {term}"),
        (_, Some(leader), Some(term)) => format!("{leader} leads, in term {term}"),
        (_, Some(leader), None) => format!("{leader} leads"),
        (_, None, _) => "nobody is known to lead".to_owned(),
    };
    format!("{roles}; {who}{late}")
}

fn tiers(out: &mut String, status: &Status) {
    let nodes = status.led.as_ref().map_or(&[][..], |led| &led.nodes);
    if !nodes.is_empty() {
        of_nodes(out, nodes);
    }
    let Some(here) = &status.node else { return };
    let arena = &here.arena;
    line(
        out,
        format_args!(
            "memory here: free in {} parts, the longest {} ({:.0} % of what is free is beside it)",
            arena.parts,
            size(arena.largest),
            arena.fragmentation * 100.0
        ),
    );
    if let Some(disk) = &here.disk {
        line(
            out,
            format_args!(
                "disk here:   {} objects in {} files of {}, {} of it dead; {} wait to be written",
                disk.objects,
                disk.segments,
                size(disk.on_disk),
                size(disk.dead),
                size(disk.queued)
            ),
        );
    }
    out.push('\n');
}

fn of_nodes(out: &mut String, nodes: &[NodeSeen]) {
    let width = nodes.iter().map(|node| node.id.len()).max().unwrap_or(0).max(4);
    line(
        out,
        format_args!("{:<width$}  state       tier    taken       of          leaving     free", "node"),
    );
    for node in nodes {
        let state = state(node);
        for (at, (tier, space)) in [("memory", &node.memory), ("disk", &node.disk)].into_iter().enumerate() {
            let (id, state) = if at == 0 { (&*node.id, &*state) } else { ("", "") };
            let Space { capacity, here, reserved, leaving, free } = *space;
            line(
                out,
                format_args!(
                    "{id:<width$}  {state:<10}  {tier:<6}  {:<10}  {:<10}  {:<10}  {}",
                    size(here + reserved),
                    size(capacity),
                    size(leaving),
                    size(free)
                ),
            );
        }
        if let Some(drain) = &node.drain {
            let left = drain.only_in_memory.map_or("being counted".to_owned(), |left| left.to_string());
            let done = if drain.done { "; it can be taken away" } else { "" };
            line(
                out,
                format_args!("  only in its memory: {left}, no room on disk for {}{done}", drain.refused),
            );
        }
    }
}

fn state(node: &NodeSeen) -> String {
    if node.drain.is_some() { "draining".to_owned() } else { node.standing.clone() }
}

fn counted(out: &mut String, led: &Led) {
    let reads = &led.reads;
    let percent = |part: Option<f64>| part.map_or("-".to_owned(), |part| format!("{:.1} %", part * 100.0));
    line(
        out,
        format_args!(
            "reads      {} from memory ({}), {} from disk, {} not there; found {}",
            reads.memory,
            percent(reads.memory_ratio),
            reads.disk,
            reads.missed,
            percent(reads.ratio)
        ),
    );
    let counters = &led.counters;
    let moves = |name| of(&counters.moves, name);
    line(
        out,
        format_args!(
            "puts       {} committed, {} failed, {} took too long; {} under way",
            moves("committed"),
            moves("revoked"),
            moves("displaced"),
            of(&led.now, "puts")
        ),
    );
    line(
        out,
        format_args!(
            "to disk    {} written, {} failed, {} found no room; {} under way",
            moves("offloaded"),
            moves("offloads_failed"),
            moves("offloads_refused"),
            of(&led.now, "offloads")
        ),
    );
    line(
        out,
        format_args!(
            "evicted    {} from memory ({}), {} from disk; {} objects lost their last copy",
            moves("evicted_memory"),
            size(moves("evicted_memory_bytes")),
            moves("evicted_disk"),
            moves("evicted_last")
        ),
    );
    let promotions = |name| of(&counters.promotions, name);
    line(
        out,
        format_args!(
            "promoted   {} ({}), {} failed, {} took too long, {} cancelled; {} under way",
            promotions("completed"),
            size(promotions("completed_bytes")),
            promotions("failed"),
            promotions("expired"),
            promotions("cancelled"),
            of(&led.now, "promotions")
        ),
    );
    let candidates = |name| of(&counters.candidates, name);
    line(
        out,
        format_args!(
            "candidates {} now, {} promoted later, {} given up, {} never tried, {} too many",
            of(&led.now, "candidates"),
            candidates("admitted"),
            candidates("expired_evaluated"),
            candidates("expired_unevaluated"),
            candidates("dropped_limit")
        ),
    );
    let warmed = |name| of(&counters.warmed, name);
    line(
        out,
        format_args!(
            "warmed     {} in time, {} too late, {} never used, {} not here; {} waited for",
            warmed("in_time"),
            warmed("too_late"),
            warmed("never_used"),
            warmed("gone"),
            of(&led.now, "awaited")
        ),
    );
}

fn of(counters: &Counters, name: &str) -> u64 {
    counters.get(name).copied().unwrap_or(0)
}

/// Three digits and a unit.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

fn line(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_a_unit() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (15 << 20, "15.0 MiB"),
            (640 << 30, "640 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
