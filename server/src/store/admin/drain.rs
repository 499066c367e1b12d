//! Draining a node: nothing new comes to it, and what only its memory has is written to its disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::json;
use store::master::Standing;
use store::master::name::Node;
use store::node::desk::{Desk as _, Local};

use super::api::Drain;
use super::{Inside, Said, must_be};
use crate::error::ApiError;
use crate::http::json as respond;

/// How far each node that is drained has come.
#[derive(Clone, Default)]
pub(super) struct Drains(Arc<Mutex<BTreeMap<Node, Drain>>>);

/// How long what was ordered may take before it is looked for again.
const BREATH: Duration = Duration::from_millis(100);

// === impl Drains ===

impl Drains {
    /// How far a node has come; none if it is not drained, or by somebody else.
    pub(super) fn of(&self, node: Node) -> Option<Drain> {
        self.0.lock().get(&node).copied()
    }

    /// Whether it begins now; false if it is under way.
    fn begin(&self, node: Node) -> bool {
        self.0.lock().insert(node, Drain::default()).is_none()
    }

    fn end(&self, node: Node) {
        self.0.lock().remove(&node);
    }

    /// Notes how far it has come; false if it was called off.
    fn note(&self, node: Node, now: Drain) -> bool {
        self.0.lock().get_mut(&node).map(|known| *known = now).is_some()
    }
}

// === impl Inside ===

impl Inside {
    pub(super) fn drain(&self, method: &Method, id: &str, draining: bool) -> Said {
        must_be(method, &Method::POST)?;
        let local = self.local()?;
        let nodes = local.master().node_list();
        let Some(look) = nodes.iter().find(|look| &*look.id == id) else {
            let known: Vec<_> = nodes.iter().map(|look| &look.id).collect();
            return Err(ApiError::NotFound(format!("There is no node {id:?}; known are {known:?}.")));
        };
        let node = look.node;
        let told = local.master().drain(node, draining);
        told.map_err(|error| ApiError::Internal(error.to_string()))?;
        tracing::info!(node = id, draining, "an operator drains a node, or has it take part again");
        if !draining {
            self.drains.end(node);
            return Ok(respond(StatusCode::OK, &json!({"status": "ok", "node": id})));
        }
        if self.drains.begin(node) {
            tokio::spawn(empty(local, self.drains.clone(), node));
        }
        let drain = self.drains.of(node);
        Ok(respond(StatusCode::ACCEPTED, &json!({"status": "draining", "node": id, "drain": drain})))
    }
}

/// Goes through all objects again and again until nothing is left that only this node's memory has, or it is called off.
async fn empty(local: Local, drains: Drains, node: Node) {
    loop {
        let Some(now) = look_through(&local, node).await else { return drains.end(node) };
        if !drains.note(node, now) || now.done {
            return;
        }
        tokio::time::sleep(BREATH).await;
    }
}

/// One time round, a shard at a time. None if there is no such node any more.
async fn look_through(local: &Local, node: Node) -> Option<Drain> {
    let master = local.master();
    let (mut left, mut refused, mut cursor) = (0, 0, 0);
    loop {
        let step = master.flush(node, cursor, local.clock().now()).ok()?;
        left += step.left();
        refused += step.refused;
        cursor = step.next;
        if cursor == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let look = master.node_list().into_iter().find(|look| look.node == node)?;
    if look.standing == Standing::Gone {
        return None;
    }
    // A put that was let in before may still come.
    let done = left == 0 && look.puts == 0;
    Some(Drain { only_in_memory: Some(left), refused, done })
}
