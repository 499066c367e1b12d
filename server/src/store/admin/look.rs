//! How a store is: what its master, its node and its clients' server say, put together.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use store::arena;
use store::master::name::{self, Millis, Tier};
use store::master::{Later, Look, NodeLook, Standing, Waits};
use store::node;
use store::node::desk::Local;

use super::api::{
    Arena, Block, Clients, Copy, Counted, Counters, Disk, Drain, Events, Link, NodeHere, NodeSeen, Object,
    Pin, Reads, Space,
};
use super::{Seen, keys};
use crate::settings::Role;
use crate::store::{Seat, Served};

/// The node of this process.
pub(super) fn here(served: &Served) -> NodeHere {
    let look = served.node.look();
    let poisoned = look.poisoned.clone();
    let disk = look.disk.zip(served.node.disk()).map(|(space, disk)| Disk {
        budget: space.budget,
        on_disk: space.on_disk,
        needed: space.needed,
        dead: space.dead,
        segments: space.segments,
        objects: disk.count().0,
        queued: disk.queued(),
        poisoned,
        done: counters(disk_counts(disk.counts())),
    });
    NodeHere {
        id: look.id,
        copies: look.copies as u64,
        arriving: look.arriving as u64,
        unclaimed: look.unclaimed,
        working: look.working,
        unheard: look.unheard as u64,
        arena: arena(look.memory),
        disk,
        done: counters(node_counts(served.node.counts())),
    }
}

/// How memory is used.
pub(super) fn arena(space: arena::Space) -> Arena {
    let free = space.capacity.saturating_sub(space.set_aside);
    // Without anything free nothing is broken.
    let fragmentation = if free == 0 { 0.0 } else { 1.0 - space.largest as f64 / free as f64 };
    Arena {
        bytes: space.capacity,
        set_aside: space.set_aside,
        asked: space.asked,
        largest: space.largest,
        parts: space.parts,
        fragmentation: fragmentation.max(0.0),
    }
}

/// What a node has done.
pub(super) fn node_counts(counts: &node::Counts) -> Vec<(&'static str, u64)> {
    vec![
        ("read_memory", load(&counts.read_memory)),
        ("read_disk", load(&counts.read_disk)),
        ("read_disk_bytes", load(&counts.read_disk_bytes)),
        ("offloaded", load(&counts.offloaded)),
        ("offloaded_bytes", load(&counts.offloaded_bytes)),
        ("offloads_failed", load(&counts.offloads_failed)),
        ("promoted", load(&counts.promoted)),
        ("promoted_bytes", load(&counts.promoted_bytes)),
        ("promotions_failed", load(&counts.promotions_failed)),
        ("damaged", load(&counts.damaged)),
        ("made_room", load(&counts.made_room)),
        ("asked_again", load(&counts.asked_again)),
    ]
}

/// What a disk has done.
pub(super) fn disk_counts(counts: &store::disk::Counts) -> Vec<(&'static str, u64)> {
    vec![
        ("puts", load(&counts.puts)),
        ("deletes", load(&counts.deletes)),
        ("batches", load(&counts.batches)),
        ("written_bytes", load(&counts.written_bytes)),
        ("compactions", load(&counts.compactions)),
        ("moved_bytes", load(&counts.moved_bytes)),
        ("freed_bytes", load(&counts.freed_bytes)),
        ("torn_bytes", load(&counts.torn_bytes)),
        ("damaged", load(&counts.damaged)),
    ]
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn counters(list: Vec<(&'static str, u64)>) -> Counters {
    list.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// What the master counted.
pub(super) fn counted(local: &Local) -> (Counted, Reads) {
    let tally = local.master().counters();
    let counted = Counted {
        moves: counters(tally.moves.list()),
        promotions: counters(tally.promotions.list()),
        rejected: counters(tally.rejected.list()),
        candidates: counters(tally.candidates.list()),
        again: counters(tally.again.list()),
        warmed: counters(tally.warmed.list()),
    };
    let moves = tally.moves;
    let (memory, disk, missed) = (moves.hits_memory, moves.hits_disk, moves.misses);
    let all = memory + disk + missed;
    let part = |some: u64| (all > 0).then(|| some as f64 / all as f64);
    (counted, Reads { memory, disk, missed, memory_ratio: part(memory), ratio: part(memory + disk) })
}

/// What is there now.
pub(super) fn now(local: &Local) -> Counters {
    let gauges = local.master().gauges();
    counters(vec![
        ("objects", gauges.objects),
        ("candidates", gauges.candidates),
        ("promotions", gauges.promotions),
        ("puts", gauges.puts),
        ("offloads", gauges.offloads),
        ("awaited", gauges.awaited),
    ])
}

/// Who leads, if masters and nodes are several processes.
pub(super) fn link(seen: &Seen<'_>) -> Option<Link> {
    let remote = seen.served().and_then(|served| served.remote.as_ref());
    let term = match seen.seat {
        Seat::Own(_) => return None,
        Seat::Shared(masters) => masters.term(),
        Seat::Elsewhere => None,
    };
    let role = |role: &Role| match role {
        Role::Master => "master".to_owned(),
        Role::Node => "node".to_owned(),
    };
    Some(Link {
        roles: seen.tiers.roles.iter().map(role).collect(),
        leads: term.is_some(),
        term: term.or_else(|| remote.filter(|remote| remote.is_up()).map(store::link::Remote::term)),
        leader: seen.leader(),
        late_answers: remote.map_or(0, store::link::Remote::late),
    })
}

/// What is told of blocks as KV events, if that is on.
pub(super) fn events(seen: &Seen<'_>) -> Option<Events> {
    let residents = seen.parts?.residents.as_ref()?;
    let counts = residents.counts();
    Some(Events {
        endpoint: residents.endpoint().to_owned(),
        replay: residents.replay_endpoint().to_owned(),
        blocks: counts.blocks as u64,
        objects: counts.objects as u64,
        told: counts.told as u64,
        held_back: counts.held_back as u64,
        pending: counts.pending as u64,
        misfits: counts.misfits,
        heap_bytes: counts.heap_bytes as u64,
    })
}

/// Clients of this node.
pub(super) fn clients(served: &Served) -> Clients {
    let seen = served.server.seen();
    Clients {
        connections: seen.connections as u64,
        arriving_bytes: seen.arriving as u64,
        received_bytes: seen.received,
        sent_bytes: seen.sent,
        seen: counters(vec![
            ("accepted", seen.accepted),
            ("turned_away", seen.turned_away),
            ("broken", seen.broken),
            ("half_sent", seen.half_sent),
            ("unread", seen.unread),
            ("idle", seen.idle),
        ]),
        commands: counters(seen.commands),
        refusals: counters(seen.refusals),
    }
}

/// A node as the master sees it.
pub(super) fn node(look: &NodeLook, drain: Option<Drain>) -> NodeSeen {
    NodeSeen {
        id: look.id.to_string(),
        number: look.node.number(),
        standing: standing(look.standing).to_owned(),
        life: look.life,
        memory: space(look.memory),
        disk: space(look.disk),
        puts: look.puts,
        waiting_puts: look.waits as u64,
        orders: look.orders as u64,
        leaving: look.leaving as u64,
        drain: look.draining.then(|| drain.unwrap_or_default()),
    }
}

fn space(space: store::master::Space) -> Space {
    let store::master::Space { capacity, here, reserved, leaving, .. } = space;
    Space { capacity, here, reserved, leaving, free: space.free() }
}

pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Recovering => "recovering",
        Standing::Exact => "exact",
        Standing::Away => "away",
        Standing::Gone => "gone",
    }
}

pub(super) fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Memory => "memory",
        Tier::Disk => "disk",
    }
}

/// What keeps a master from knowing everything, in words; none if nothing does.
pub(super) fn waiting_for(local: &Local) -> Option<String> {
    let nodes = local.master().node_list();
    let unknown = nodes.iter().filter(|look| matches!(look.standing, Standing::Recovering | Standing::Away));
    let words: Vec<String> =
        unknown.map(|look| format!("node {} is {}", look.id, standing(look.standing))).collect();
    if words.is_empty() && !local.master().is_sure() {
        return Some(
            "this master has just begun to lead, and there may be nodes of which it has not heard".to_owned(),
        );
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// What somebody should look at.
pub(super) fn trouble(here: Option<&NodeHere>, counted: Option<&Counted>) -> Vec<String> {
    let mut words = Vec::new();
    let mut say = |many: u64, what: &str| {
        if many > 0 {
            words.push(format!("{many} {what}"));
        }
    };
    let of = |counters: Option<&Counters>, name: &str| {
        counters.and_then(|all| all.get(name)).copied().unwrap_or(0)
    };
    let done = here.map(|here| &here.done);
    let (moves, candidates) = (counted.map(|all| &all.moves), counted.map(|all| &all.candidates));
    say(
        of(done, "damaged"),
        "copies on disk were not what was written; they were dropped, and none was handed out",
    );
    say(of(moves, "lost"), "copies were lost by their nodes");
    say(of(done, "offloads_failed"), "objects could not be written to disk: is it full, or read-only?");
    say(
        of(moves, "offloads_refused"),
        "objects found no room on disk and stayed in memory only: tiers.disk is too small, or a tenant's quota",
    );
    say(
        of(candidates, "dropped_limit"),
        "hot objects were not remembered: tiers.promotion.candidates is too small",
    );
    say(of(candidates, "expired_unevaluated"), "candidates expired before they were tried once");
    let disk = here.and_then(|here| here.disk.as_ref());
    if let Some(why) = disk.and_then(|disk| disk.poisoned.as_ref()) {
        words.insert(
            0,
            format!("nothing is written to disk any more until the store is started again: {why}"),
        );
    }
    words
}

/// What is known of an object.
pub(super) fn object(local: &Local, tenant: &str, key: &[u8], look: &Look, at: Millis) -> Object {
    let nodes = local.master().node_list();
    let of = |(node, in_tier): &(name::Node, Tier)| {
        let known = nodes.iter().find(|known| known.node == *node);
        Copy {
            node: known.map(|known| known.id.to_string()).unwrap_or_default(),
            tier: tier(*in_tier).to_owned(),
            readable: known.is_some_and(|known| known.standing == Standing::Exact),
        }
    };
    Object {
        tenant: tenant.to_owned(),
        key: keys::shown(key),
        version: look.version.0,
        bytes: look.size,
        copies: look.copies.iter().map(of).collect(),
        lease_ms: look.lease.since(at),
        heat: look.heat,
        disk_heat: look.disk_heat,
        pin: match look.pin {
            name::Pin::None => Pin::None,
            name::Pin::Soft => Pin::Soft,
            name::Pin::Hard => Pin::Hard,
        },
        group: (look.group != name::Group::NONE).then_some(look.group.0),
        ends_in_ms: look.ends.map(|ends| ends.since(at)),
        block: look.block.map(|block| Block {
            hash: hash(&block.hash),
            parent: block.parent.as_ref().map(hash),
            tokens: format!("{:016x}", block.tokens),
        }),
        promoting: look.promoting,
        offloading: look.offloading,
        candidate: look.candidate.as_ref().map(|known| waits(known, at)),
    }
}

/// As clients say it: eight bytes if it has no more.
fn hash(hash: &[u8; 32]) -> String {
    let (low, rest) = hash.split_at(8);
    if rest.iter().all(|byte| *byte == 0) {
        let low = low.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        return format!("{low:016x}");
    }
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What is known of a candidate.
pub(super) fn waits(known: &Waits, at: Millis) -> super::api::Waits {
    super::api::Waits {
        score: known.score,
        first_seen_ms_ago: at.since(known.first_seen),
        last_seen_ms_ago: at.since(known.last_seen),
        due_in_ms: known.retry_after.since(at),
        retries: known.retries,
        last_reason: reason(known.last_reason).to_owned(),
        last_error: known.last_error.as_ref().map(ToString::to_string),
        wanted: known.wanted as u64,
    }
}

fn reason(why: Later) -> &'static str {
    match why {
        Later::Watermark => "watermark",
        Later::Quota => "quota",
        Later::Cap => "cap",
        Later::PushFailed => "push_failed",
        Later::HolderAway => "holder_away",
        Later::BeingPut => "being_put",
        Later::NoMemory => "no_memory",
        Later::Failed => "failed",
        Later::TimedOut => "timed_out",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_free_in_one_part_is_whole_and_none_is_not_broken() {
        let of = |capacity, set_aside, largest| {
            arena(arena::Space { capacity, set_aside, largest, ..arena::Space::default() }).fragmentation
        };
        assert!((of(100, 20, 80) - 0.0).abs() < 1e-9);
        assert!((of(100, 20, 20) - 0.75).abs() < 1e-9);
        assert!((of(100, 100, 0) - 0.0).abs() < 1e-9);
    }

    #[test]
    fn a_hash_is_shown_as_clients_say_it() {
        let mut wide = [0; 32];
        wide[..8].copy_from_slice(&0xab_u64.to_le_bytes());
        assert_eq!(hash(&wide), "00000000000000ab");
        wide[31] = 1;
        assert!(hash(&wide).starts_with("ab00") && hash(&wide).len() == 64);
    }
}
