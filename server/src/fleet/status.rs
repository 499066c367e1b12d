//! The fleet in words, for operators and for Prometheus.

use std::sync::atomic::Ordering;

use events::follow;

use super::Fleet;
use super::member::{Load, Member};
use crate::admin::api::{EngineStatus, IndexStatus, Status, StreamCounts, ViewStatus};
use crate::posture::posture;

impl Fleet {
    /// Everything at a glance.
    pub fn status(&self) -> Status {
        let counts = self.index().counts();
        let waiting_for = self.waiting_for();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.clock().now().as_secs_f64(),
            ready: waiting_for.is_none(),
            waiting_for,
            policy: self.settings().routing.policy,
            engines: self.members().iter().map(|member| self.engine_status(member)).collect(),
            store: self.shared().and_then(|shared| shared.status(self)),
            index: IndexStatus { blocks: counts.blocks, held: counts.held, heap_bytes: counts.heap_bytes },
            in_flight: self.in_flight(),
            waiting: crate::admin::api::queues::Waiting::default(),
            posture: posture(self.settings()),
            replicas: Vec::new(),
            coordination: crate::admin::api::CoordinationStatus::default(),
        };
        if let Some(replicas) = self.replicas() {
            replicas.describe(&mut status);
        }
        status
    }

    /// What a replica that has just started should wait for before it is sent requests; `None`: nothing.
    pub fn waiting_for(&self) -> Option<String> {
        let members = self.members();
        if members.is_empty() {
            return Some("no engine is registered".to_owned());
        }
        if !members.iter().any(|member| member.up.load(Ordering::Relaxed) && !member.models.load().is_empty())
        {
            return Some("no engine answers".to_owned());
        }
        if let Some(why) = self.replicas().and_then(crate::replicas::Replicas::waiting_for) {
            return Some(why);
        }
        if self.clock().now() >= self.settings().health.ready_grace.get() {
            return None;
        }
        let views = self.index().workers();
        let behind = members
            .iter()
            .filter(|member| member.up.load(Ordering::Relaxed) && member.tells())
            .find(|member| {
                let state =
                    |worker| views.iter().find(|(known, ..)| *known == worker).map(|(_, view, _)| *view);
                member.workers.iter().any(|worker| state(*worker) != Some(blocks::View::Exact))
            });
        behind.map(|member| format!("the view of `{}` is not exact yet", member.settings.name))
    }

    /// Why this replica does not know yet what there is; `None` if it is ready, or has had the time for it.
    pub(crate) fn is_new(&self) -> Option<String> {
        let young = self.clock().now() < self.settings().health.ready_grace.get();
        self.waiting_for().filter(|_| young && !self.settings().engines.is_empty())
    }

    fn engine_status(&self, member: &Member) -> EngineStatus {
        let truth = member.truth.lock().clone();
        let load = &member.load;
        EngineStatus {
            name: member.settings.name.clone(),
            url: member.settings.url.clone(),
            standing: member.standing(self.clock().now()),
            models: member.models.load().to_vec(),
            views: self.views(member),
            confidence: truth.confidence(),
            observations: truth.observations(),
            rebuilds: truth.rebuilds(),
            mismatch: truth.mismatch().cloned(),
            in_flight: Load::count(&load.in_flight),
            backlog_tokens: load.backlog.lock().left(self.clock().now()),
            decoding: Load::count(&load.decoding),
            running: load.running.load(Ordering::Relaxed),
            waiting: load.waiting.load(Ordering::Relaxed),
            served: load.served.load(Ordering::Relaxed),
            failed: load.failed.load(Ordering::Relaxed),
            prompt_tokens: load.prompt.load(Ordering::Relaxed),
            cached_tokens: load.cached.load(Ordering::Relaxed),
            predicted_tokens: load.predicted.load(Ordering::Relaxed),
            block_size: member.block_size.load(Ordering::Relaxed),
            trouble: member.trouble.lock().clone(),
        }
    }

    fn views(&self, member: &Member) -> Vec<ViewStatus> {
        let views = self.index().workers();
        let one = |(worker, follower): (&blocks::Worker, &events::follow::Follower)| {
            let blocks = views.iter().find(|(known, ..)| known == worker).map_or(0, |(_, _, blocks)| *blocks);
            view_status(worker.rank, follower.status(), blocks)
        };
        member.workers.iter().zip(member.followers.lock().iter()).map(one).collect()
    }
}

/// One followed stream.
pub(super) fn view_status(rank: u32, status: follow::Status, blocks: usize) -> ViewStatus {
    ViewStatus {
        rank,
        view: status.view.name().to_owned(),
        connected: status.connected,
        sequence: status.last,
        blocks,
        counts: StreamCounts::from(&status.counters),
        misfits: status.left_out.misfits,
        failed_replays: status.counters.failed_replays,
        silences: status.counters.silences,
        trouble: status.trouble,
    }
}
