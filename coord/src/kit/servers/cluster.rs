//! A Redis Cluster of six nodes, made and changed by commands of our own.

use futures::future::{join_all, try_join_all};

use super::view::{self, Seen};
use super::{Options, Patience, Server, ensure};

const NODES: usize = 6;
const SLOTS: usize = 16_384;
/// What each master starts with, as everybody shares them out.
const RANGES: [(u16, u16); MASTERS] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
const MASTERS: usize = 3;

/// Three masters, nodes 0 to 2, and their replicas: the one of node 0 is node 3, and so on. A replica takes over one
/// to three seconds after its master was killed.
///
/// Nothing is kept on a disk but who is who: a node that is restarted before its replica took over comes back as an
/// empty master, and its replica empties itself too.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

/// How a replica becomes a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// The master waits until the replica has everything: nothing is lost.
    Agreed,
    /// The other masters agree; the replica's own may be dead, or not be asked.
    Force,
    /// Nobody is asked.
    Takeover,
}

// === Its life ===

impl Cluster {
    /// Starts all nodes and waits until each of them says that all is well.
    ///
    /// # Errors
    /// What is missing on this machine, or what the nodes could not agree on.
    pub async fn start() -> Result<Self, String> {
        let nodes = try_join_all((0..NODES).map(|_| node())).await?;
        let cluster = Self { nodes };
        cluster.introduce().await?;
        cluster.wait_ok().await?;
        Ok(cluster)
    }

    async fn introduce(&self) -> Result<(), String> {
        for (index, node) in self.nodes.iter().enumerate() {
            // Two masters of one epoch would have to fight it out first.
            node.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await?;
            if let Some((first, last)) = RANGES.get(index) {
                let slots = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()];
                node.ask::<()>(&slots).await?;
            }
        }
        for other in &self.nodes[1..] {
            self.nodes[0].ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string()]).await?;
        }
        for (index, replica) in self.nodes.iter().enumerate().skip(MASTERS) {
            let master = self.id(index - MASTERS).await?;
            let patience = Patience::with("a replica meets its master");
            while let Err(reason) = replica.ask::<()>(&["CLUSTER", "REPLICATE", &master]).await {
                patience.not_yet(reason).await?;
            }
        }
        Ok(())
    }

    /// SIGKILL. Returns when the process is gone; what the others make of it is a question for
    /// [`Cluster::wait_ok`].
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].kill();
    }

    /// Starts it again as what it was when it died, until the others tell it what has become of it.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn restart(&mut self, index: usize) -> Result<(), String> {
        self.nodes[index].restart().await
    }

    /// A replica takes over the slots of its master. Returns when all running nodes know.
    ///
    /// # Errors
    /// The refusal of the node, or what was not agreed on.
    pub async fn fail_over(&self, replica: usize, how: Promotion) -> Result<(), String> {
        let how: &[&str] = match how {
            Promotion::Agreed => &[],
            Promotion::Force => &["FORCE"],
            Promotion::Takeover => &["TAKEOVER"],
        };
        self.nodes[replica].ask::<()>(&[&["CLUSTER", "FAILOVER"], how].concat()).await?;
        let patience = Patience::with("a replica takes over");
        while self.myself(replica).await?.slots.is_empty() {
            patience.not_yet(format!("node {replica} owns no slot")).await?;
        }
        self.wait_ok().await
    }
}

// === Slots that move ===

impl Cluster {
    /// Moves a slot and its keys to another master while both serve it. Returns when all running nodes know.
    ///
    /// # Errors
    /// The refusal of a node, or what was not agreed on.
    pub async fn migrate(&self, slot: u16, to: usize) -> Result<(), String> {
        self.begin_migration(slot, to).await?;
        self.finish_migration(slot, to).await
    }

    /// Leaves a slot half-way: its owner serves the keys that it has, and sends clients to the new one for all others
    /// with `ASK`. A command about keys on both sides is answered with `TRYAGAIN`.
    ///
    /// # Errors
    /// The refusal of a node.
    pub async fn begin_migration(&self, slot: u16, to: usize) -> Result<(), String> {
        let from = self.master_of(slot).await?;
        let (from_id, to_id, slot) = (self.id(from).await?, self.id(to).await?, slot.to_string());
        self.nodes[to].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await?;
        self.nodes[from].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await
    }

    /// Moves the keys of a slot that is half-way, and then the slot.
    ///
    /// # Errors
    /// The refusal of a node, or what was not agreed on.
    pub async fn finish_migration(&self, slot: u16, to: usize) -> Result<(), String> {
        let from = self.master_of(slot).await?;
        self.move_keys(slot, from, to).await?;
        let (id, slot) = (self.id(to).await?, slot.to_string());
        // The new owner first: if it were the old one, both would send clients to each other for a moment.
        for index in [to, from] {
            self.nodes[index].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]).await?;
        }
        self.wait_ok().await
    }

    async fn move_keys(&self, slot: u16, from: usize, to: usize) -> Result<(), String> {
        let (slot, port) = (slot.to_string(), self.nodes[to].port().to_string());
        loop {
            let keys: Vec<String> = self.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            command.extend(keys.iter().map(String::as_str));
            self.nodes[from].ask::<()>(&command).await?;
        }
    }
}

// === Questions ===

impl Cluster {
    /// What a client is told to reach it.
    pub fn dsn(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.address().to_string()).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// All nodes, those that were killed as well.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The slot of a key.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn slot_of(&self, key: &str) -> Result<u16, String> {
        self.running().next().ok_or("no node runs")?.ask(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// The running master that owns a slot; of two that think so, the one with the later right.
    ///
    /// # Errors
    /// If there is none.
    pub async fn master_of(&self, slot: u16) -> Result<usize, String> {
        let nodes = join_all((0..NODES).map(|index| self.myself(index))).await.into_iter().enumerate();
        let owners = nodes.filter_map(|(index, node)| node.ok().map(|node| (index, node)));
        let owners = owners.filter(|(_, node)| node.is("master") && node.owns(slot));
        let owner = owners.max_by_key(|(_, node)| node.epoch);
        owner.map(|(index, _)| index).ok_or_else(|| format!("no running master owns slot {slot}"))
    }

    /// Waits until all running nodes see the same owners of all slots, all of them running, and all running replicas
    /// have what their masters have.
    ///
    /// # Errors
    /// What is not so after a minute.
    pub async fn wait_ok(&self) -> Result<(), String> {
        let patience = Patience::with("a cluster that is well");
        while let Err(reason) = self.check().await {
            patience.not_yet(reason).await?;
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), String> {
        let running: Vec<_> = self.running().collect();
        let views = try_join_all(running.iter().map(|node| self.view(node))).await?;
        ensure(views.windows(2).all(|pair| pair[0] == pair[1]), || format!("views differ: {views:?}"))?;
        for node in running {
            let info: String = node.ask(&["CLUSTER", "INFO"]).await?;
            ensure(info.contains("cluster_state:ok"), || format!("node on port {}: {info}", node.port()))?;
            let link = node.info("master_link_status").await;
            ensure(link.is_none_or(|link| link == "up"), || {
                format!("no link on port {} to its master", node.port())
            })?;
        }
        Ok(())
    }

    /// Who is a master with which slots in the eyes of one node, if these are eyes to trust.
    async fn view(&self, node: &Server) -> Result<Vec<(u16, bool, Vec<(u16, u16)>)>, String> {
        let mut all = view::parse(&node.ask::<String>(&["CLUSTER", "NODES"]).await?)?;
        let wrong = |what: &str| format!("{what} in the eyes of port {}: {all:?}", node.port());
        ensure(all.len() == NODES, || wrong("not all nodes are known"))?;
        ensure(all.iter().map(Seen::count).sum::<usize>() == SLOTS, || wrong("not all slots are owned"))?;
        for seen in &all {
            let well =
                seen.linked && !["fail", "fail?", "handshake", "noaddr"].iter().any(|flag| seen.is(flag));
            let runs = self.running().any(|node| node.port() == seen.port);
            ensure(well || !runs, || wrong("a running node is not well"))?;
            ensure(runs || seen.slots.is_empty(), || wrong("a dead node has slots"))?;
        }
        all.sort_by_key(|seen| seen.port);
        Ok(all.into_iter().map(|seen| (seen.port, seen.is("master"), seen.slots)).collect())
    }

    fn running(&self) -> impl Iterator<Item = &Server> {
        self.nodes.iter().filter(|node| node.pid().is_some())
    }

    async fn id(&self, index: usize) -> Result<String, String> {
        self.nodes[index].ask(&["CLUSTER", "MYID"]).await
    }

    /// A node in its own eyes.
    async fn myself(&self, index: usize) -> Result<Seen, String> {
        let all = view::parse(&self.nodes[index].ask::<String>(&["CLUSTER", "NODES"]).await?)?;
        all.into_iter()
            .find(|seen| seen.is("myself"))
            .ok_or_else(|| format!("node {index} does not see itself"))
    }
}

async fn node() -> Result<Server, String> {
    let arguments = "--cluster-enabled yes --cluster-node-timeout 1000 --cluster-require-full-coverage no \
                     --cluster-announce-ip 127.0.0.1 --cluster-replica-validity-factor 0";
    let arguments = arguments.split_whitespace().map(str::to_owned).collect();
    Server::start(Options { arguments, ..Options::default() }).await
}
