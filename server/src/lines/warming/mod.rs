//! What waits, in line or in a log, is warmed in the store: its prefix is brought from disk to memory before its turn comes.
//!
//! A task of its own looks at the line whenever somebody comes or leaves, and now and then, and at what of the logs would
//! start next ([`ahead`]); no request ever waits for it, and no decision. What it sees is what the store's events have told, so
//! a store that is not followed is not asked. What it decides is in [`plan`]; [`link`] speaks to the store, and [`claims`] to
//! other replicas.

mod ahead;
#[cfg(test)]
mod asking;
mod claims;
mod link;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use index::Matches;
use parking_lot::Mutex;
use queue::name::{Class, EntryId, Seq};
use queue::room::Room;
use tokio::sync::Notify;

use super::{Crowd, Pending, Spot};
use crate::admin::api::{WarmingCounts, WarmingStatus};
use crate::fleet::Fleet;
use crate::metrics::{head, single};
use crate::replicas::Replicas;
use crate::settings;

use ahead::{Ahead, Jobs, Turned, Wish};
use claims::Claims;
use link::Link;
use plan::{Cold, Gone, InLine, Plan};

/// Warms what waits.
pub(super) struct Warming {
    fleet: Fleet,
    replicas: Replicas,
    settings: settings::Store,
    link: Mutex<Option<Link>>,
    changed: Arc<Notify>,
    /// Reads what is durable; none: it is not warmed.
    reader: OnceLock<Arc<ahead::Reader>>,
    turned: Turned,
    told: Mutex<WarmingStatus>,
}

/// Those who wait as they are now.
struct Seen {
    /// In the order of their turns, with the time until each.
    line: Vec<(Duration, EntryId, Arc<Pending>)>,
    /// Those who left, and whether they had their turn.
    left: Vec<(EntryId, bool, Arc<Pending>)>,
}

/// Without any news it is looked so often: what is warm changes by itself.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks, however many come and go.
const PAUSE: Duration = Duration::from_millis(5);
/// Of those who stand in line, so many times as many are counted through as are looked at: in the order in which they
/// came, so that a long line costs no more than a short one.
const COUNTED: usize = 16;
/// Those who left and have not been looked at; more are simply not counted.
pub(super) const MAX_LEFT: usize = 16_384;

impl Warming {
    /// # Errors
    /// A key that cannot be read, in words.
    pub(super) fn new(fleet: &Fleet, replicas: &Replicas) -> Result<Option<Arc<Self>>, String> {
        let settings = fleet.settings().store.clone();
        let nodes: Vec<String> =
            settings::Store::each(settings.address.as_deref()).map(str::to_owned).collect();
        if nodes.is_empty() || !settings.warm {
            return Ok(None);
        }
        let link = Link::new(nodes, settings.key()?, settings.patience.get());
        Ok(Some(Arc::new(Self {
            fleet: fleet.clone(),
            replicas: replicas.clone(),
            settings,
            link: Mutex::new(Some(link)),
            changed: Arc::default(),
            reader: OnceLock::new(),
            turned: Turned::default(),
            told: Mutex::default(),
        })))
    }

    /// Somebody came, or left.
    pub(super) fn stir(&self) {
        self.changed.notify_one();
    }

    /// What is durable is warmed as well, and this says what it asks.
    pub(super) fn reads_jobs(&self, reader: Arc<ahead::Reader>) {
        let _twice = self.reader.set(reader);
    }

    /// Something durable may run.
    pub(super) fn started(&self, id: EntryId) {
        self.turned.note(id);
    }

    /// Warms for as long as the process lives. `rate` says how many of the line have their turn in a second, of late.
    pub(super) async fn run(&self, crowd: &Mutex<Crowd>, room: &Room<Spot>, rate: impl Fn() -> f64) {
        let Some(mut link) = self.link.lock().take() else { return };
        let mut plan = Plan::new(self.settings.warm_blocks);
        let mut ahead = Ahead::default();
        let mut claims = self.is_shared().then(|| Claims::new(self.replicas.coord().clone()));
        loop {
            // Whether it was woken or not, it looks; what comes to a log wakes nobody.
            let _ = tokio::time::timeout(LOOK, self.changed.notified()).await;
            let idle = plan.known().next().is_none() && !room.has_line() && crowd.lock().is_empty();
            if idle {
                continue;
            }
            let mut seen = self.look(&mut crowd.lock(), rate(), &plan);
            let may = link.may(self.fleet.clock().now());
            self.look_ahead(&mut ahead, room, may, &plan, &mut seen).await;
            self.turn(&seen, may, &mut plan, &mut link, claims.as_mut()).await;
            self.tell(&plan, &link);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether other replicas may ask for the same.
    fn is_shared(&self) -> bool {
        self.fleet.settings().coordination.backend != "memory"
    }

    /// Who is next: of each class, the first of every tenant before the second of any, as fair turns go.
    fn look(&self, crowd: &mut Crowd, rate: f64, plan: &Plan) -> Seen {
        let mut before: HashMap<(Class, Arc<str>), usize> = HashMap::new();
        let most = self.settings.warm_requests;
        let ranked = crowd.asks.iter().take(most * COUNTED).map(|(seq, pending)| {
            let place = before.entry((pending.class, pending.tenant.clone())).or_default();
            *place += 1;
            (pending.class, *place, *seq)
        });
        let mut ranked: Vec<(Class, usize, Seq)> = ranked.collect();
        ranked.sort_unstable();
        // Whoever was looked at once stays known until they leave, even if others have come before them.
        let line = ranked.into_iter().enumerate();
        let line = line.filter(|(at, (.., seq))| *at < most || plan.knows(standing(*seq)));
        let line = line.filter_map(|(at, (.., seq))| {
            Some((self.turn_in(at, rate), standing(seq), crowd.asks.get(&seq)?.clone()))
        });
        let left = std::mem::take(&mut crowd.left).into_iter();
        let left = left.map(|(seq, turned, pending)| (standing(seq), turned, pending));
        Seen { line: line.collect(), left: left.collect() }
    }

    /// Behind those who stand in line, what would start next of the logs.
    async fn look_ahead(
        &self,
        ahead: &mut Ahead,
        room: &Room<Spot>,
        may: bool,
        plan: &Plan,
        seen: &mut Seen,
    ) {
        let Some(reader) = self.reader.get() else { return };
        let wish = Wish {
            listed: self.settings.warm_requests,
            most: self.settings.warm_requests.saturating_sub(seen.line.len()),
            horizon: self.fleet.settings().queue.max_wait.get(),
            knows: &|who| plan.knows(who),
        };
        let Jobs { line, turned } = ahead.look(room, &self.turned, self.fleet.clock().now(), &wish).await;
        if may {
            ahead.read(room, reader, &wish, &self.changed);
        }
        seen.line.extend(line);
        seen.left.extend(turned.into_iter().map(|(who, pending)| (who, true, pending)));
    }

    async fn turn(
        &self,
        seen: &Seen,
        may: bool,
        plan: &mut Plan,
        link: &mut Link,
        claims: Option<&mut Claims>,
    ) {
        let now = self.fleet.clock().now();
        let mut found = Matches::default();
        let line: Vec<InLine> = seen
            .line
            .iter()
            .map(|(turn_in, who, pending)| InLine {
                who: *who,
                turn_in: *turn_in,
                cold: if may { self.cold(pending, &mut found) } else { Vec::new() },
            })
            .collect();
        let gone: Vec<Gone> = seen
            .left
            .iter()
            .filter(|(who, ..)| plan.knows(*who))
            .map(|(who, turned, pending)| Gone {
                who: *who,
                turned: *turned,
                cold: self.cold(pending, &mut found),
            })
            .collect();
        let steps = plan.step(now, &line, &gone);
        self.carry_out(steps, plan, link, claims).await;
    }

    async fn carry_out(
        &self,
        steps: plan::Steps,
        plan: &mut Plan,
        link: &mut Link,
        mut claims: Option<&mut Claims>,
    ) {
        let mut failed = None;
        if link.is_open() && !steps.cool.is_empty() {
            failed = link.cool(&steps.cool).await.err();
        }
        if let Some(claims) = &mut claims {
            claims.release(steps.cool.into_iter()).await;
        }
        for mut ask in steps.ask {
            if failed.is_some() {
                break;
            }
            if let Some(claims) = &mut claims {
                let (taken, unsure) = claims.take(&ask).await;
                plan.counts.unsure += unsure;
                let now = self.fleet.clock().now();
                for taken in taken {
                    plan.elsewhere(&mut ask, &taken.blocks, now + taken.left);
                }
            }
            if ask.blocks.is_empty() {
                continue;
            }
            match link.warm(&ask).await {
                Ok(on_their_way) => plan.counts.taken_objects += on_their_way,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            plan.counts.failed += 1;
            plan.forget();
            link.failed(&error, self.fleet.clock().now());
            if let Some(claims) = claims {
                let all = claims.all();
                claims.release(all.into_iter()).await;
            }
        }
    }

    /// What of a prompt the store has on disk only.
    fn cold(&self, pending: &Pending, found: &mut Matches) -> Vec<Cold> {
        let ask = pending.ask();
        let cuts = match pending.cuts.get() {
            Some(cuts) => cuts,
            // What waits long may have come before any engine for it: that is not remembered.
            None => match self.fleet.cuts(&ask) {
                none if none.is_empty() => return Vec::new(),
                cuts => pending.cuts.get_or_init(|| cuts),
            },
        };
        let mut cold = Vec::new();
        for cut in cuts {
            let blocks = self.fleet.cold(&ask, cut, found);
            cold.extend(blocks.map(|at| Cold { prefix: cut.prefixes()[at].0, at: at as u32 }));
        }
        cold
    }

    /// When the turn of whoever stands at a place will come, at the rate of late; of a line that has not moved yet, one a
    /// second.
    fn turn_in(&self, at: usize, rate: f64) -> Duration {
        let seconds = (at + 1) as f64 / if rate > 0.0 { rate } else { 1.0 };
        let most = self.fleet.settings().queue.max_wait.get();
        Duration::try_from_secs_f64(seconds).map_or(most, |turn| turn.min(most))
    }

    fn tell(&self, plan: &Plan, link: &Link) {
        let [requests, jobs] = plan.warmed();
        *self.told.lock() = WarmingStatus {
            in_reach: link.is_open(),
            trouble: link.trouble.clone(),
            requests,
            jobs,
            blocks: plan.blocks(),
            counts: plan.counts,
        };
    }

    /// How it stands.
    pub(super) fn told(&self) -> WarmingStatus {
        self.told.lock().clone()
    }
}

/// Who stands in line with a connection, as an entry among all.
fn standing(seq: Seq) -> EntryId {
    EntryId { partition: u32::MAX, seq }
}

/// What Prometheus reads of it.
pub(super) fn text(out: &mut String, told: &WarmingStatus) {
    let WarmingStatus { in_reach, requests, jobs, blocks, counts, .. } = told;
    let gauges = [
        ("warmline_warming_in_reach", "1 if the store takes what is asked.", f64::from(u8::from(*in_reach))),
        ("warmline_warming_requests", "Requests in line whose blocks are on their way.", *requests as f64),
        ("warmline_warming_jobs", "Jobs and lines of batches whose blocks are on their way.", *jobs as f64),
        ("warmline_warming_blocks", "Blocks on their way to the store's memory.", *blocks as f64),
    ];
    for (name, help, value) in gauges {
        single(out, name, "gauge", help, value);
    }
    let WarmingCounts { asked_blocks, taken_objects, in_time_blocks, late_blocks, unused_blocks, .. } =
        *counts;
    let counters = [
        ("warmline_warming_asked_blocks_total", "Blocks that the store was asked to warm.", asked_blocks),
        (
            "warmline_warming_taken_objects_total",
            "Objects on their way by the store's own word.",
            taken_objects,
        ),
        (
            "warmline_warming_over_budget_total",
            "Requests that found too much on its way.",
            counts.over_budget,
        ),
        ("warmline_warming_unsure_total", "Claims without an answer: asked anyway.", counts.unsure),
        (
            "warmline_warming_failures_total",
            "Times that the store was away, slow, or refused.",
            counts.failed,
        ),
    ];
    for (name, help, value) in counters {
        single(out, name, "counter", help, value as f64);
    }
    let name = "warmline_warming_ended_blocks_total";
    head(out, name, "counter", "Asked blocks, by what they came to when their request left the line.");
    let of_jobs = counts.of_jobs;
    let ends = [
        ("in-time", in_time_blocks, of_jobs.in_time_blocks),
        ("late", late_blocks, of_jobs.late_blocks),
        ("unused", unused_blocks, of_jobs.unused_blocks),
    ];
    for (end, all, of_jobs) in ends {
        for (of, blocks) in [("requests", all - of_jobs), ("jobs", of_jobs)] {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name}{{end=\"{end}\",of=\"{of}\"}} {blocks}");
        }
    }
    let name = "warmline_warming_deduplicated_blocks_total";
    head(out, name, "counter", "Blocks that were not asked for, since somebody else had.");
    for (by, blocks) in [("here", counts.shared_blocks), ("elsewhere", counts.elsewhere_blocks)] {
        let _ = writeln!(out, "{name}{{by=\"{by}\"}} {blocks}");
    }
}
