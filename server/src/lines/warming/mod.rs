//! What waits in line is warmed in the store: its prefix is brought from disk to memory before its turn comes.
//!
//! A task of its own looks at the line whenever somebody comes or leaves, and now and then; no request ever waits for it.
//! What it sees is what the store's events have told, so a store that is not followed is not asked. What it decides is in
//! [`plan`]; [`link`] speaks to the store, and [`claims`] to other replicas.

mod claims;
mod link;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use index::Matches;
use parking_lot::Mutex;
use queue::name::{Class, Seq};
use tokio::sync::Notify;

use super::{Crowd, Pending};
use crate::admin::api::{WarmingCounts, WarmingStatus};
use crate::fleet::Fleet;
use crate::metrics::{head, single};
use crate::replicas::Replicas;
use crate::settings;

use claims::Claims;
use link::Link;
use plan::{Cold, Gone, InLine, Plan};

/// Warms what waits.
pub(super) struct Warming {
    fleet: Fleet,
    replicas: Replicas,
    settings: settings::Store,
    link: Mutex<Option<Link>>,
    changed: Notify,
    told: Mutex<WarmingStatus>,
}

/// The line as it is now.
struct Seen {
    /// In the order of their turns, with the place of each.
    line: Vec<(usize, Seq, Arc<Pending>)>,
    /// Those who left, and whether they had their turn.
    left: Vec<(Seq, bool, Arc<Pending>)>,
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
            changed: Notify::new(),
            told: Mutex::default(),
        })))
    }

    /// Somebody came, or left.
    pub(super) fn stir(&self) {
        self.changed.notify_one();
    }

    /// Warms for as long as the process lives. `rate` says how many have their turn in a second, of late.
    pub(super) async fn run(&self, crowd: &Mutex<Crowd>, rate: impl Fn() -> f64) {
        let Some(mut link) = self.link.lock().take() else { return };
        let mut plan = Plan::new(self.settings.warm_blocks);
        let mut claims = self.is_shared().then(|| Claims::new(self.replicas.coord().clone()));
        loop {
            let idle = crowd.lock().asks.is_empty() && plan.known().next().is_none();
            if idle {
                self.changed.notified().await;
            } else {
                // Whether it was woken or not, it looks.
                let _ = tokio::time::timeout(LOOK, self.changed.notified()).await;
            }
            let seen = self.look(&mut crowd.lock(), &plan);
            self.turn(&seen, rate(), &mut plan, &mut link, claims.as_mut()).await;
            self.tell(&plan, &link);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether other replicas may ask for the same.
    fn is_shared(&self) -> bool {
        self.fleet.settings().coordination.backend != "memory"
    }

    /// Who is next: of each class, the first of every tenant before the second of any, as fair turns go.
    fn look(&self, crowd: &mut Crowd, plan: &Plan) -> Seen {
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
        let line = line.filter(|(at, (.., seq))| *at < most || plan.knows(seq.0));
        let line = line.filter_map(|(at, (.., seq))| Some((at, seq, crowd.asks.get(&seq)?.clone())));
        Seen { line: line.collect(), left: std::mem::take(&mut crowd.left) }
    }

    async fn turn(
        &self,
        seen: &Seen,
        rate: f64,
        plan: &mut Plan,
        link: &mut Link,
        claims: Option<&mut Claims>,
    ) {
        let now = self.fleet.clock().now();
        let mut found = Matches::default();
        let may = link.may(now);
        let line: Vec<InLine> = seen
            .line
            .iter()
            .map(|(at, seq, pending)| InLine {
                who: seq.0,
                turn_in: self.turn_in(*at, rate),
                cold: if may { self.cold(pending, &mut found) } else { Vec::new() },
            })
            .collect();
        let gone: Vec<Gone> = seen
            .left
            .iter()
            .filter(|(seq, ..)| plan.knows(seq.0))
            .map(|(seq, turned, pending)| Gone {
                who: seq.0,
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
        let cuts = pending.cuts.get_or_init(|| self.fleet.cuts(&ask));
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
        *self.told.lock() = WarmingStatus {
            in_reach: link.is_open(),
            trouble: link.trouble.clone(),
            requests: plan.requests(),
            blocks: plan.blocks(),
            counts: plan.counts,
        };
    }

    /// How it stands.
    pub(super) fn told(&self) -> WarmingStatus {
        self.told.lock().clone()
    }
}

/// What Prometheus reads of it.
pub(super) fn text(out: &mut String, told: &WarmingStatus) {
    let WarmingStatus { in_reach, requests, blocks, counts, .. } = told;
    let gauges = [
        ("warmline_warming_in_reach", "1 if the store takes what is asked.", f64::from(u8::from(*in_reach))),
        ("warmline_warming_requests", "Requests in line whose blocks are on their way.", *requests as f64),
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
    for (end, blocks) in [("in-time", in_time_blocks), ("late", late_blocks), ("unused", unused_blocks)] {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name}{{end=\"{end}\"}} {blocks}");
    }
    let name = "warmline_warming_deduplicated_blocks_total";
    head(out, name, "counter", "Blocks that were not asked for, since somebody else had.");
    for (by, blocks) in [("here", counts.shared_blocks), ("elsewhere", counts.elsewhere_blocks)] {
        let _ = writeln!(out, "{name}{{by=\"{by}\"}} {blocks}");
    }
}
