//! What Prometheus reads of a store. Labels come from tables, settings and the names of nodes, so their number is bounded.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use store::master::name::Tier;
use store::master::{NodeLook, Quota, Standing};
use store::node::desk::Local;

use super::{Seen, look};
use crate::metrics::{head, single};
use crate::store::Served;

/// A counter of the master or the node: its name there, its name here without what they all begin with, and what it says.
type Row = (&'static str, &'static str, &'static str);

const MOVES: [Row; 18] = [
    ("reserved", "puts_reserved_total", "Puts that were let in."),
    ("committed", "puts_committed_total", "Puts that can be read, or were overtaken by a later one."),
    ("revoked", "puts_revoked_total", "Puts that failed, were overtaken, or whose condition did not hold."),
    ("displaced", "puts_displaced_total", "Puts that took too long, or whose node was lost."),
    ("removed", "objects_removed_total", "Objects that somebody removed or put anew."),
    ("ended", "objects_ended_total", "Objects whose time to live was over."),
    ("hits_memory", "reads_memory_total", "Reads that found memory."),
    ("hits_disk", "reads_disk_total", "Reads that found disk only."),
    ("misses", "reads_missed_total", "Reads that found nothing."),
    ("evicted_memory", "evicted_memory_copies_total", "Copies in memory that were dropped for space."),
    ("evicted_memory_bytes", "evicted_memory_bytes_total", "Bytes of those."),
    ("evicted_disk", "evicted_disk_copies_total", "Copies on disk that were dropped for space."),
    ("evicted_last", "evicted_objects_total", "Objects of which eviction took the last copy."),
    ("offloads", "offload_ordered_total", "Writes to disk that were ordered."),
    ("offloaded", "offload_completed_total", "Writes that reached the disk."),
    (
        "offloads_failed",
        "offload_failed_total",
        "Writes that failed, took too long, or were no longer of use.",
    ),
    (
        "offloads_refused",
        "offload_refused_total",
        "Objects that found no room on disk and stayed in memory only.",
    ),
    ("lost", "lost_copies_total", "Copies that nodes lost."),
];

const PROMOTIONS: [Row; 6] = [
    (
        "admitted",
        "promotion_admitted_total",
        "Promotions that were begun: completed + failed + expired + cancelled + in flight.",
    ),
    ("completed", "promotion_completed_total", "Promotions whose copy is in memory."),
    ("completed_bytes", "promotion_completed_bytes_total", "Bytes of those."),
    ("failed", "promotion_failed_total", "Promotions that their holder could not carry out."),
    ("expired", "promotion_expired_total", "Promotions that took too long."),
    ("cancelled", "promotion_cancelled_total", "Promotions that were no longer of use."),
];

const CANDIDATES: [Row; 6] = [
    (
        "recorded",
        "promotion_candidate_recorded_total",
        "New candidates: hot objects that were refused for a reason that passes.",
    ),
    ("admitted", "promotion_candidate_admitted_total", "Candidates that the background tick got promoted."),
    (
        "expired_evaluated",
        "promotion_candidate_expired_evaluated_total",
        "Candidates that were given up after they had been tried.",
    ),
    (
        "expired_unevaluated",
        "promotion_candidate_expired_unevaluated_total",
        "Candidates that were given up before they were tried: the tick looks at too little.",
    ),
    (
        "dropped_limit",
        "promotion_candidate_dropped_limit_total",
        "Candidates that were not recorded because there were too many.",
    ),
    (
        "settled",
        "promotion_candidate_settled_total",
        "Candidates that needed nothing more: gone, in memory, promoted by a read, no longer waited for.",
    ),
];

const WARMED: [Row; 6] = [
    (
        "asked",
        "warm_asked_total",
        "Keys that somebody wanted warm: in time + too late + cancelled + gone + pending.",
    ),
    ("in_time", "warm_in_time_total", "Keys that were in memory in time."),
    ("too_late", "warm_too_late_total", "Keys that were not."),
    ("cancelled", "warm_cancelled_total", "Keys that were no longer wanted."),
    ("gone", "warm_gone_total", "Keys that are not in the store."),
    (
        "never_used",
        "warm_never_used_total",
        "Copies that were brought to memory for somebody and left it unread.",
    ),
];

const NODE: [Row; 12] = [
    ("read_memory", "node_read_memory_total", "Values that this node read from its memory."),
    ("read_disk", "node_read_disk_total", "Values that this node read from its disk."),
    ("read_disk_bytes", "node_read_disk_bytes_total", "Bytes of those."),
    ("offloaded", "node_offloaded_total", "Copies that this node wrote to disk."),
    ("offloaded_bytes", "node_offloaded_bytes_total", "Bytes of those."),
    ("offloads_failed", "node_offloads_failed_total", "Copies that this node could not write to disk."),
    ("promoted", "node_promoted_total", "Copies that this node brought to memory."),
    ("promoted_bytes", "node_promoted_bytes_total", "Bytes of those."),
    ("promotions_failed", "node_promotions_failed_total", "Promotions that failed on this node."),
    ("damaged", "node_damaged_total", "Copies on disk that were not what was written; none was handed out."),
    (
        "made_room",
        "node_made_room_total",
        "Times that more left memory than was asked for, since what was free lay in too many parts.",
    ),
    (
        "asked_again",
        "node_asked_again_total",
        "Times that what the master said had changed before it was done.",
    ),
];

const DISK: [Row; 9] = [
    ("puts", "disk_puts_total", "Objects that were written to disk."),
    ("deletes", "disk_deletes_total", "Objects that were deleted from disk."),
    ("batches", "disk_batches_total", "Batches that were written and, if so set, synced."),
    ("written_bytes", "disk_written_bytes_total", "Bytes of what was written and deleted."),
    ("compactions", "disk_compactions_total", "Compactions that ended well."),
    ("moved_bytes", "disk_moved_bytes_total", "Bytes that compaction moved."),
    ("freed_bytes", "disk_freed_bytes_total", "Bytes that compaction made free."),
    (
        "torn_bytes",
        "disk_torn_bytes_total",
        "Bytes that were never acknowledged and were discarded at the start.",
    ),
    ("damaged", "disk_damaged_total", "Places on disk that were found damaged."),
];

/// What every name begins with.
const ROOM: &str = "warmline_store_";

/// Everything, in Prometheus's text form.
pub(super) fn text(seen: &Seen<'_>, uptime: Duration) -> String {
    let mut out = String::with_capacity(32 << 10);
    single(
        &mut out,
        &format!("{ROOM}uptime_seconds"),
        "gauge",
        "Time since the start.",
        uptime.as_secs_f64(),
    );
    if let Some(local) = &seen.local {
        master(&mut out, local);
    }
    if let Some(served) = seen.served() {
        node(&mut out, served);
        clients(&mut out, served);
    }
    link(&mut out, seen);
    events(&mut out, seen);
    out
}

fn counts(out: &mut String, rows: &[Row], counts: &[(&'static str, u64)]) {
    for (_, name, help, count) in joined(rows, counts) {
        single(out, &format!("{ROOM}{name}"), "counter", help, count as f64);
    }
}

fn gauge(out: &mut String, name: &str, help: &str, value: f64) {
    single(out, &format!("{ROOM}{name}"), "gauge", help, value);
}

/// What the master of this process says, while it leads.
fn master(out: &mut String, local: &Local) {
    let tally = local.master().counters();
    counts(out, &MOVES, &tally.moves.list());
    counts(out, &PROMOTIONS, &tally.promotions.list());
    counts(out, &CANDIDATES, &tally.candidates.list());
    counts(out, &WARMED, &tally.warmed.list());
    let by = |out: &mut String, name, help, counts: &[(&'static str, u64)]| {
        labelled(out, (name, "counter", help), "reason", counts.iter().copied());
    };
    let help = "Tries to promote, by the gate that they met.";
    by(out, "promotion_rejected_total", help, &tally.rejected.list());
    let help = "Tries of candidates, by the gate that they met again.";
    by(out, "promotion_candidate_admission_rejected_total", help, &tally.again.list());
    let gauges = local.master().gauges();
    gauge(out, "objects", "Objects.", gauges.objects as f64);
    gauge(out, "promotion_candidates", "Candidates for promotion.", gauges.candidates as f64);
    gauge(out, "promotions_in_flight", "Promotions under way.", gauges.promotions as f64);
    gauge(out, "puts_in_flight", "Puts under way.", gauges.puts as f64);
    gauge(out, "offloads_in_flight", "Writes to disk under way.", gauges.offloads as f64);
    gauge(out, "warm_pending", "Keys that somebody waits for.", gauges.awaited as f64);
    nodes(out, &local.master().node_list());
    tenants(out, local);
}

/// What the node of this process says.
fn node(out: &mut String, served: &Served) {
    counts(out, &NODE, &look::node_counts(served.node.counts()));
    counts(out, &DISK, &served.node.disk().map(|disk| look::disk_counts(disk.counts())).unwrap_or_default());
    let here = look::here(served);
    let arena = here.arena;
    gauge(out, "arena_bytes", "Memory for values.", arena.bytes as f64);
    gauge(out, "arena_set_aside_bytes", "Memory that is set aside for values.", arena.set_aside as f64);
    gauge(out, "arena_asked_bytes", "Bytes of the values in memory.", arena.asked as f64);
    gauge(out, "arena_largest_free_bytes", "The longest value that would fit now.", arena.largest as f64);
    gauge(out, "arena_free_parts", "Parts into which free memory is broken.", arena.parts as f64);
    let help = "Part of free memory that the longest value could not use: 0 is whole.";
    gauge(out, "arena_fragmentation_ratio", help, arena.fragmentation);
    if let Some(disk) = &here.disk {
        gauge(out, "disk_budget_bytes", "What all files may take.", disk.budget as f64);
        gauge(out, "disk_files_bytes", "What all files take.", disk.on_disk as f64);
        gauge(out, "disk_needed_bytes", "What of it is needed.", disk.needed as f64);
        gauge(out, "disk_dead_bytes", "What compaction can make free.", disk.dead as f64);
        gauge(out, "disk_segments", "Files.", disk.segments as f64);
        gauge(out, "disk_objects", "Objects on disk.", disk.objects as f64);
        gauge(out, "disk_queued_bytes", "Bytes that wait to be written.", disk.queued as f64);
        let poisoned = u8::from(disk.poisoned.is_some());
        gauge(out, "disk_poisoned", "1 if nothing is written any more until a restart.", poisoned.into());
    }
    gauge(out, "node_copies", "Copies in this node's memory.", here.copies as f64);
    gauge(out, "node_working", "Orders that this node carries out.", here.working as f64);
    gauge(out, "node_unheard", "News that the master has not heard.", here.unheard as f64);
    let help = "Values of other nodes of which it is being found out what became of them.";
    gauge(out, "node_unclaimed", help, here.unclaimed as f64);
}

/// Who leads, if masters and nodes are several processes.
fn link(out: &mut String, seen: &Seen<'_>) {
    let Some(link) = look::link(seen) else { return };
    gauge(out, "leads", "1 if this process leads.", u8::from(link.leads).into());
    let help = "The term in which it leads, or leads whom it follows; 0 if nobody is known to.";
    gauge(out, "term", help, link.term.unwrap_or(0).into());
    let help = "Answers of masters that came too late to be believed.";
    single(out, &format!("{ROOM}late_answers_total"), "counter", help, link.late_answers as f64);
}

/// Rows with their counts; those that are not counted here are left out.
fn joined<'a>(
    rows: &'a [Row],
    counts: &'a [(&'static str, u64)],
) -> impl Iterator<Item = (&'static str, &'static str, &'static str, u64)> + 'a {
    rows.iter().filter_map(|(field, name, help)| {
        let (_, count) = counts.iter().find(|(known, _)| known == field)?;
        Some((*field, *name, *help, *count))
    })
}

/// One metric by one label.
fn labelled<L: Display>(
    out: &mut String,
    metric: (&str, &str, &str),
    label: &str,
    rows: impl Iterator<Item = (L, u64)>,
) {
    let (name, kind, help) = metric;
    let name = format!("{ROOM}{name}");
    head(out, &name, kind, help);
    for (value, count) in rows {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "{name}{{{label}=\"{value}\"}} {count}");
    }
}

fn clients(out: &mut String, served: &Served) {
    let seen = served.server.seen();
    let of = |name: &str| format!("{ROOM}{name}");
    single(out, &of("connections"), "gauge", "Connections of clients.", seen.connections as f64);
    single(out, &of("arriving_bytes"), "gauge", "Bytes of values that are arriving.", seen.arriving as f64);
    for (name, help, count) in [
        ("connections_accepted_total", "Connections that were let in.", seen.accepted),
        ("connections_turned_away_total", "Connections that were one too many.", seen.turned_away),
        ("received_bytes_total", "Bytes that came from clients.", seen.received),
        ("sent_bytes_total", "Bytes that went to clients.", seen.sent),
        ("client_keys_found_total", "Keys that clients read and that were there.", seen.hits),
        ("client_keys_missed_total", "Keys that clients read and that were not there.", seen.misses),
    ] {
        single(out, &of(name), "counter", help, count as f64);
    }
    let closed = [
        ("broken", seen.broken),
        ("half_sent", seen.half_sent),
        ("unread", seen.unread),
        ("idle", seen.idle),
    ];
    let help = "Connections that were closed: not the protocol, a command that did not go on, answers not taken, nothing asked.";
    labelled(out, ("connections_closed_total", "counter", help), "why", closed.into_iter());
    let help = "Commands of clients, by name.";
    labelled(out, ("commands_total", "counter", help), "command", seen.commands.into_iter());
    let help = "Refusals, by code word.";
    labelled(out, ("refusals_total", "counter", help), "code", seen.refusals.into_iter());
}

fn events(out: &mut String, seen: &Seen<'_>) {
    let Some(events) = look::events(seen) else { return };
    for (name, help, value) in [
        ("event_blocks", "Different blocks that the store holds.", events.blocks),
        ("event_objects", "Objects that carry them.", events.objects),
        ("event_blocks_told", "Blocks that are told of as KV events.", events.told),
        (
            "event_blocks_held_back",
            "Blocks that are not told of: one before them is not there.",
            events.held_back,
        ),
        ("event_blocks_pending", "Blocks whose change has not been looked at yet.", events.pending),
        ("event_heap_bytes", "Memory for what is told.", events.heap_bytes),
    ] {
        single(out, &format!("{ROOM}{name}"), "gauge", help, value as f64);
    }
    let help = "Copies whose block is none: its hash is not that of its parent and its tokens.";
    single(out, &format!("{ROOM}event_misfits_total"), "counter", help, events.misfits as f64);
}

/// One thing about a tier of a node.
type OfTier = (&'static str, &'static str, fn(&store::master::Space) -> u64);

/// One thing about a node.
type OfNode = (&'static str, &'static str, fn(&NodeLook) -> u64);

fn nodes(out: &mut String, looks: &[NodeLook]) {
    let rows: [OfTier; 6] = [
        ("space_capacity_bytes", "Bytes of values that fit.", |space| space.capacity),
        ("space_used_bytes", "Bytes of objects that can be read.", |space| space.here),
        ("space_reserved_bytes", "Bytes set aside for what is being written.", |space| space.reserved),
        ("space_leaving_bytes", "Bytes that were dropped and are not free yet.", |space| space.leaving),
        ("space_free_bytes", "Bytes that are free.", store::master::Space::free),
        ("space_promised_bytes", "Bytes promised to promotions that have not begun.", |space| space.promised),
    ];
    for (name, help, value) in rows {
        let name = format!("{ROOM}{name}");
        head(out, &name, "gauge", help);
        for look in looks {
            for (tier, space) in [(Tier::Memory, &look.memory), (Tier::Disk, &look.disk)] {
                let (node, tier) = (escaped(&look.id), look::tier(tier));
                let _ = writeln!(out, "{name}{{node=\"{node}\",tier=\"{tier}\"}} {}", value(space));
            }
        }
    }
    let exact: fn(&NodeLook) -> u64 = |look| u64::from(look.standing == Standing::Exact);
    let rows: [OfNode; 4] = [
        ("node_exact", "1 if everything that the node has is known.", exact),
        ("node_draining", "1 if nothing new comes to the node.", |look| u64::from(look.draining)),
        ("node_waiting_puts", "Puts that wait for space on the node.", |look| look.waits as u64),
        ("node_orders", "Copies that the node was told to make and has not begun with.", |look| {
            look.orders as u64
        }),
    ];
    for (name, help, value) in rows {
        let rows = looks.iter().map(|look| (escaped(&look.id), value(look)));
        labelled(out, (name, "gauge", help), "node", rows);
    }
}

fn tenants(out: &mut String, local: &Local) {
    let master = local.master();
    let all = master.tenant_list();
    let name = format!("{ROOM}tenant_used_bytes");
    head(out, &name, "gauge", "Bytes of a tenant, with those that are reserved for it.");
    for (tenant, called) in &all {
        for tier in Tier::ALL {
            let (called, used) = (escaped(called), master.used(*tenant, tier));
            let _ = writeln!(out, "{name}{{tenant=\"{called}\",tier=\"{}\"}} {used}", look::tier(tier));
        }
    }
    let name = format!("{ROOM}tenant_quota_bytes");
    head(out, &name, "gauge", "What a tenant may have, where there is a bound.");
    for (tenant, called) in &all {
        let Quota { memory, disk, .. } = master.quota(*tenant);
        for (tier, quota) in [(Tier::Memory, memory), (Tier::Disk, disk)] {
            if let Some(quota) = quota {
                let (called, tier) = (escaped(called), look::tier(tier));
                let _ = writeln!(out, "{name}{{tenant=\"{called}\",tier=\"{tier}\"}} {quota}");
            }
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use store::master::counters::Tally;

    use super::*;

    #[test]
    fn everything_that_is_counted_is_shown_once_and_nothing_else() {
        let tally = Tally::default();
        for (rows, counts, apart) in [
            (&MOVES[..], tally.moves.list(), &[][..]),
            (&PROMOTIONS, tally.promotions.list(), &[]),
            // It is shown by reason.
            (&CANDIDATES, tally.candidates.list(), &["admission_rejected"]),
            (&WARMED, tally.warmed.list(), &[]),
            (&NODE, look::node_counts(&store::node::Counts::default()), &[]),
            (&DISK, look::disk_counts(&store::disk::Counts::default()), &[]),
        ] {
            let mut shown: Vec<&str> = rows.iter().map(|row| row.0).chain(apart.iter().copied()).collect();
            let mut counted: Vec<&str> = counts.iter().map(|(name, _)| *name).collect();
            shown.sort_unstable();
            counted.sort_unstable();
            assert_eq!(shown, counted);
            assert_eq!(joined(rows, &counts).count(), rows.len());
        }
        // Of the funnel each has its own name, and no other's.
        for (rows, begins) in [(&PROMOTIONS, "promotion_"), (&CANDIDATES, "promotion_candidate_")] {
            for (field, name, _) in rows {
                assert_eq!(*name, format!("{begins}{field}_total"));
            }
        }
        let all = [&MOVES[..], &PROMOTIONS, &CANDIDATES, &WARMED, &NODE, &DISK].concat();
        let mut names: Vec<&str> = all.iter().map(|row| row.1).collect();
        assert!(names.iter().all(|name| name.ends_with("_total")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
