//! Who is where: the addresses of nodes, as their master knows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::master::name::Node;

/// Who is where. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Book(watch::Sender<Arc<BTreeMap<Node, Place>>>);

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its stable name.
    pub id: String,
    /// Where it listens for other nodes; nothing if it does not.
    pub address: String,
}

impl Book {
    /// Where a node is.
    pub fn find(&self, node: Node) -> Option<Place> {
        self.0.borrow().get(&node).cloned()
    }

    /// Everybody.
    pub fn all(&self) -> Arc<BTreeMap<Node, Place>> {
        self.0.borrow().clone()
    }

    /// A node is there from now on.
    pub fn set(&self, node: Node, place: Place) {
        self.0.send_if_modified(|all| {
            let new = all.get(&node) != Some(&place);
            if new {
                Arc::make_mut(all).insert(node, place);
            }
            new
        });
    }

    /// Everything is as this says.
    pub fn become_this(&self, all: impl IntoIterator<Item = (Node, Place)>) {
        self.0.send_replace(Arc::new(all.into_iter().collect()));
    }

    /// Tells when something changed.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<BTreeMap<Node, Place>>> {
        self.0.subscribe()
    }
}
