//! What this replica says of itself with each beat, and what it makes of what the others say.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use coord::Name;
use coord::replicas::{View, Voice};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::fleet::Fleet;

/// What a replica says of itself: for people, and for the one who asks it something.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Info {
    pub(super) version: String,
    pub(super) gateway: String,
    pub(super) admin: String,
    pub(super) uptime_s: f64,
    pub(super) ready: bool,
    pub(super) waiting_for: Option<String>,
    pub(super) in_flight: u64,
    pub(super) served: u64,
}

pub(super) struct Speaker {
    fleet: Fleet,
    /// Where clients and operators connect.
    doors: (SocketAddr, SocketAddr),
}

/// Where clients reach the replica that says this of itself.
pub(super) fn door(info: &[u8]) -> Option<String> {
    let info: Info = serde_json::from_slice(info).ok()?;
    Some(info.gateway).filter(|door| !door.is_empty())
}

/// What an engine has in hand for one replica, in the order of `Fleet::hands`.
const HANDS: [&str; 4] = ["in_flight", "backlog", "decoding", "tokens"];

impl Speaker {
    pub(super) fn new(fleet: Fleet, doors: (SocketAddr, SocketAddr)) -> Self {
        Self { fleet, doors }
    }
}

impl Voice for Speaker {
    fn info(&self) -> Bytes {
        let waiting_for = self.fleet.waiting_for();
        let info = Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gateway: self.doors.0.to_string(),
            admin: self.doors.1.to_string(),
            uptime_s: self.fleet.clock().now().as_secs_f64(),
            ready: waiting_for.is_none(),
            waiting_for,
            in_flight: self.fleet.in_flight(),
            served: self.fleet.served(),
        };
        serde_json::to_vec(&info).unwrap_or_default().into()
    }

    fn cells(&self) -> Vec<(Name, i64)> {
        let hands = self.fleet.hands();
        let cells = hands.iter().flat_map(|(engine, hand)| {
            let named = HANDS.iter().zip(hand).filter(|(_, value)| **value > 0);
            named.filter_map(move |(what, value)| {
                Some((Name::new(format!("engine/{engine}/{what}")).ok()?, i64::from(*value)))
            })
        });
        cells.collect()
    }
}

/// Passes on to routing what the engines have in hand for others; what is older than a lease is nobody's any more.
pub(super) async fn hear(fleet: Fleet, lease: Duration, mut view: watch::Receiver<View>) {
    loop {
        let known = view.borrow_and_update().clone();
        let fresh = known.at.is_some_and(|at| at.elapsed() < lease);
        fleet.others_have(|engine| {
            HANDS.map(|what| {
                let sum = known.others.get(&format!("engine/{engine}/{what}")).copied().unwrap_or(0);
                if fresh { sum.clamp(0, i64::from(u32::MAX)) as u32 } else { 0 }
            })
        });
        if let Ok(Err(_)) = tokio::time::timeout(lease, view.changed()).await {
            return;
        }
    }
}
