//! The replicas in words: for `warmline status`, and for Prometheus.

use std::sync::atomic::Ordering;

use super::Replicas;
use super::voice::Info;
use crate::admin::api::{CoordinationStatus, ReplicaStatus, ShareStatus, Status};

impl Replicas {
    /// Adds what is known of all replicas to the status of this one.
    pub fn describe(&self, status: &mut Status) {
        let view = self.0.among.view();
        let view = view.borrow();
        let me = self.0.coord.instance();
        let since = view.at.map_or(0.0, |at| at.elapsed().as_secs_f64());
        status.replicas = view
            .members
            .iter()
            .map(|member| {
                let info: Info = serde_json::from_slice(&member.info).unwrap_or_default();
                ReplicaStatus {
                    instance: member.instance.as_str().to_owned(),
                    me: member.instance == *me,
                    age_s: member.age.as_secs_f64() + since,
                    left_s: member.left.as_secs_f64() - since,
                    version: info.version,
                    gateway: info.gateway,
                    admin: info.admin,
                    uptime_s: info.uptime_s,
                    ready: info.ready,
                    waiting_for: info.waiting_for,
                    in_flight: info.in_flight,
                    served: info.served,
                }
            })
            .collect();
        let counters = self.0.coord.counters();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let share = |(tenant, pool): (&String, &std::sync::Arc<coord::replicas::Pool>)| {
            let (used, held, limit) = pool.stand();
            ShareStatus { tenant: tenant.clone(), used, held, limit }
        };
        status.coordination = CoordinationStatus {
            backend: self.0.coord.backend().describe(),
            instance: me.as_str().to_owned(),
            trouble: view.trouble.clone(),
            heard_s: view.at.map(|at| at.elapsed().as_secs_f64()),
            sent: load(&counters.sent),
            repeated: load(&counters.repeated),
            unanswered: load(&counters.unanswered),
            losses: load(&counters.losses),
            shares: self.0.pools.lock().iter().map(share).collect(),
        };
    }
}
