//! A node and its master in this process, on a real folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::disk;
use store::master::Deaf;
use store::master::options::Options;
use store::node::desk::{Local, Nobody};
use store::node::{self, Node};
use store::resp::contract::{Part, Put, Store, Tenant, Written};
use store::resp::refusal::Refusal;

use crate::objects;
pub(crate) use crate::objects::{MIB, disk, key, options};

/// A node and its master.
pub(crate) struct World {
    pub(crate) desk: Local,
    pub(crate) node: Node,
    pub(crate) tenant: Tenant,
    ticks: tokio::task::JoinHandle<()>,
}

impl World {
    pub(crate) async fn begin(folder: &Path, memory: u64, master: Options) -> Self {
        let disk = disk::Disk::open(folder, disk(256 * MIB)).unwrap();
        Self::begin_on(memory, master, Some(disk)).await
    }

    pub(crate) async fn begin_on(memory: u64, master: Options, disk: Option<disk::Disk>) -> Self {
        let on_disk = disk.as_ref().map(|disk| disk.space().budget);
        let mut options = node::Options::new("one", memory);
        options.disk = on_disk.map(|budget| (Path::new("").into(), objects::disk(budget)));
        let desk = Local::new(master, Arc::new(Deaf), Arc::new(Nobody));
        let node = Node::begin(options, Arc::new(desk.clone()), None, 1, disk).await.unwrap();
        let runs = desk.clone();
        let ticks = tokio::spawn(async move { runs.run().await });
        Self { desk, node, tenant: Tenant::default(), ticks }
    }

    pub(crate) async fn put(&self, key: &[u8], value: &[u8]) -> Result<Written, Refusal> {
        self.put_as(key, value, Put::default()).await
    }

    pub(crate) async fn put_as(&self, key: &[u8], value: &[u8], put: Put) -> Result<Written, Refusal> {
        objects::put_as(&self.node, &self.tenant, key, value, put).await
    }

    pub(crate) async fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.node.get(&self.tenant, key, Part::Whole).wait().await.unwrap()
    }

    /// Waits until nothing is under way.
    pub(crate) async fn settle(&self) {
        let mut calm = 0;
        while calm < 3 {
            let gauges = self.desk.master().gauges();
            let busy = gauges.promotions + gauges.offloads + gauges.puts > 0 || !self.node.is_idle();
            calm = if busy { 0 } else { calm + 1 };
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Every invariant of master, arena and accounts, when nothing is under way.
    pub(crate) async fn checked(&self) {
        self.settle().await;
        self.desk.master().check().unwrap();
        let look = &self.desk.master().node_list()[0];
        assert_eq!((look.memory.reserved, look.memory.leaving, look.memory.promised), (0, 0, 0));
        assert_eq!(look.memory.here, self.node.look().memory.asked, "what is held is what is accounted for");
        assert_eq!(self.node.look().arriving, 0);
    }

    /// Ends in order.
    pub(crate) async fn end(self) {
        self.node.end(Duration::from_secs(20)).await;
        self.stop();
    }

    /// Ends at once: what is not on disk is lost.
    pub(crate) fn stop(self) {
        self.ticks.abort();
    }
}

/// A value that tells of which key and turn it is.
pub(crate) fn value(key: usize, len: usize) -> Vec<u8> {
    objects::value(key, 0, len)
}
