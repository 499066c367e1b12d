//! The tiered store as a process: a master, a node, or both, served to Redis clients, with an operator's door.
//!
//! By default both are in this process and nobody else takes part. Split, masters lead one after the other ([`lead`]), each time
//! with a master that knows nothing ([`reign`]), and nodes find whoever leads.

pub mod admin;
mod folder;
mod lead;
mod reign;
pub mod residency;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blocks::View;
use coord::backend::Registry;
use coord::{Coord, Name};
use events::publish;
use store::disk::{self, Disk};
use store::link::{Lead, Masters, Net, Noted, PeerServer, Remote};
use store::master::options::{self as master, Options};
use store::node::desk::Local;
use store::node::{self, Node};
use store::resp::access::Access;
use store::resp::decode::Limits;
use store::resp::server::Threads;
use store::resp::{self, Server, Tenant};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use admin::Door;

use crate::clock::Clock;
use crate::http;
use crate::settings::{Durability, Offload, Role, Settings, Tiers};
use lead::Coordinated;
use reign::Maker;
use residency::Residents;

/// How long what is under way may take when it ends: values that arrive, and objects on their way to disk.
const GRACE: Duration = Duration::from_secs(30);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// A store that runs. Dropping it ends it at once; [`Running::stop`] lets what is under way come to its end.
pub struct Running {
    parts: Parts,
    door: Door,
    /// Where nodes find this master, if nodes of other processes do.
    master_link: Option<SocketAddr>,
    leading: Option<Leading>,
    serving: Option<Serving>,
}

/// What a store is made of, for those who look at it.
#[derive(Clone)]
pub struct Parts {
    /// Its master.
    pub master: Seat,
    /// Its node, if it plays that role.
    pub node: Option<Served>,
    /// Who tells gateways what is there.
    pub residents: Option<Arc<Residents>>,
    /// What was set.
    pub settings: Arc<Tiers>,
}

/// Where the master of a process is.
#[derive(Clone)]
pub enum Seat {
    /// Here, and for nobody else.
    Own(Local),
    /// Here, whenever this process leads.
    Shared(Masters),
    /// In another process.
    Elsewhere,
}

/// A node and what it serves.
#[derive(Clone)]
pub struct Served {
    /// The node.
    pub node: Node,
    /// What serves its clients.
    pub server: Server<Node>,
    /// The way to the master, if that is not in this process for certain.
    pub remote: Option<Remote>,
}

/// What came of settings that were read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Whether something else is set about promotion: candidates begin anew.
    pub promotion: bool,
    /// Whether tenants may use something else.
    pub quotas: bool,
    /// Settings that changed, and wait for a restart.
    pub waiting: Vec<String>,
}

/// A master at work.
struct Leading {
    maker: Arc<Maker>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    lead: Option<Coordinated>,
}

/// A node at work.
struct Serving {
    address: SocketAddr,
    /// Where other nodes find it.
    link: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    clients: JoinHandle<()>,
    peers: Option<JoinHandle<()>>,
    // Ends its threads when it is dropped.
    _hands: Threads,
}

/// A store of which everything is in this process, for whoever looks into it.
pub struct Whole {
    /// It.
    pub running: Running,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Its master.
    pub local: Local,
}

/// Starts a store of which everything is in this process.
///
/// # Errors
/// As [`start`]; or it is split.
pub async fn start_whole(settings: &Settings) -> Result<Whole, String> {
    let running = start(settings, &Registry::new()).await?;
    match (running.address(), &running.parts.master) {
        (Some(address), Seat::Own(local)) => {
            let local = local.clone();
            Ok(Whole { running, address, local })
        }
        _ => {
            Err("tiers.roles: found a store that is split, where everything is needed in one process"
                .to_owned())
        }
    }
}

/// Starts a store: binds first, then works. The registry has the backends of coordination that this program was built with.
///
/// # Errors
/// What stands in the way, in words; then nothing runs.
pub async fn start(settings: &Settings, registry: &Registry) -> Result<Running, String> {
    let tiers = &settings.tiers;
    tiers.check()?;
    // Whoever asks while the disk is read, or a master is looked for, is told so.
    let door = Door::open(settings).await?;
    let residents = residents(tiers)?;
    let maker = Arc::new(Maker::new(tiers, master_options(tiers), residents.clone()));
    let split = tiers.link.is_used(&tiers.roles);
    let (seat, leading, master_link) = match (tiers.plays(Role::Master), split) {
        (false, _) => (Seat::Elsewhere, None, None),
        (true, false) => {
            let local = maker.make(Options::default().term);
            let ticks = local.clone();
            let ticking = tokio::spawn(async move { ticks.run().await });
            let stop = watch::Sender::new(false);
            let leading = Leading { maker, stop, tasks: vec![ticking], lead: None };
            (Seat::Own(local), Some(leading), None)
        }
        (true, true) => {
            let (masters, leading, address) = lead(settings, registry, maker).await?;
            (Seat::Shared(masters), Some(leading), Some(address))
        }
    };
    door.find(seat.clone());
    let (served, serving) = if tiers.plays(Role::Node) {
        let own = if let Seat::Own(local) = &seat { Some(local.clone()) } else { None };
        let (served, serving) = serve(settings, own).await?;
        (Some(served), Some(serving))
    } else {
        (None, None)
    };
    if let (Seat::Own(_), Some(residents)) = (&seat, &residents) {
        residents.state(View::Exact);
    }
    let parts = Parts { master: seat, node: served, residents, settings: Arc::new(tiers.clone()) };
    door.show(parts.clone());
    Ok(Running { parts, door, master_link, leading, serving })
}

// === The two roles ===

/// Begins to lead whenever it may.
async fn lead(
    settings: &Settings,
    registry: &Registry,
    maker: Arc<Maker>,
) -> Result<(Masters, Leading, SocketAddr), String> {
    let link = &settings.tiers.link;
    let (listener, address) = listen("tiers.link.master_listen", link.master_listen).await?;
    let coordinated = coordinated(settings, registry, link.told(address)).await?;
    let lead: Arc<dyn Lead> = match (&coordinated, &settings.tiers.folder) {
        (Some(lead), _) => Arc::new(lead.clone()),
        (None, Some(folder)) => {
            folder::make(folder)?;
            let noted = Noted::open(&folder.join("term")).map_err(|error| error.to_string())?;
            Arc::new(noted)
        }
        (None, None) => {
            return Err("a master whose nodes are elsewhere must be newer than any before it: set coordination.backend, so \
                        that one of several leads, or tiers.folder (--data), where a single one notes how often it began"
                .to_owned());
        }
    };
    let makes = maker.clone();
    let masters = Masters::new(link.settings()?, lead, move |term| makes.make(term));
    let (stop, mut stopped) = watch::channel(false);
    let (leads, follows, tells) = (masters.clone(), masters.clone(), maker.clone());
    let tasks = vec![
        tokio::spawn(async move {
            let stop = async move { http::stopped(&mut stopped).await };
            leads.serve(listener, stop).await;
        }),
        tokio::spawn(async move { tells.follow(&follows).await }),
    ];
    Ok((masters, Leading { maker, stop, tasks, lead: coordinated }, address))
}

/// The right to lead as the coordinator gives it; none if there is none that others share.
async fn coordinated(
    settings: &Settings,
    registry: &Registry,
    address: String,
) -> Result<Option<Coordinated>, String> {
    let coordination = &settings.coordination;
    if coordination.backend == "memory" {
        return Ok(None);
    }
    let config = coordination.config()?;
    let backend = registry.make(&config).await.map_err(|error| format!("coordination.{error}"))?;
    let instance = Name::new(format!("store-master/{address}"));
    let instance = instance.map_err(|error| format!("tiers.link.advertise: {error}"))?;
    let coord = Coord::new(backend, instance, crate::chance::number());
    let lease = settings.tiers.link.lease.get();
    Coordinated::new(coord, Clock::start(), address, lease).map(Some)
}

/// Holds objects, and answers clients; waits until there is a master.
async fn serve(settings: &Settings, own: Option<Local>) -> Result<(Served, Serving), String> {
    let tiers = &settings.tiers;
    let (clients, address) = bind("tiers.listen", tiers.listen)?;
    let resp = resp_settings(settings)?;
    let (stop, stopped) = watch::channel(false);
    let id = folder::id(tiers)?;
    let options = node_options(tiers, &id);
    let disk = open_disk(&options).await?;
    let (node, remote, peers, link) = if let Some(local) = own {
        let node = Node::begin(options, Arc::new(local), None, life(), disk).await;
        (node.map_err(|error| error.to_string())?, None, None, None)
    } else {
        let (listener, link) = listen("tiers.link.node_listen", tiers.link.node_listen).await?;
        let settings = tiers.link.settings()?;
        let remote = Remote::start(settings.clone(), tiers.link.masters.clone(), tiers.link.told(link));
        let others = Arc::new(Net::new(remote.book().clone(), settings.clone()));
        remote.found().await;
        let node = Node::begin(options, Arc::new(remote.clone()), Some(others), life(), disk).await;
        let node = node.map_err(|error| error.to_string())?;
        let (serves, mut stopped) = (PeerServer::new(node.clone(), settings), stopped.clone());
        let peers = tokio::spawn(async move {
            let stop = async move { http::stopped(&mut stopped).await };
            serves.serve(listener, stop).await;
        });
        (node, Some(remote), Some(peers), Some(link))
    };
    let server = Server::new(Arc::new(node.clone()), resp);
    let threads = match tiers.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        threads => threads,
    };
    let hands = Threads::start(threads).map_err(|error| format!("tiers.threads: {error}"))?;
    let listener = clients.listen(BACKLOG).map_err(|error| format!("tiers.listen: {error}"))?;
    let (serves, on, mut stops) = (server.clone(), hands.hands().to_vec(), stopped);
    let clients = tokio::spawn(async move {
        let stop = async move { http::stopped(&mut stops).await };
        serves.serve(listener, &on, stop, GRACE).await;
    });
    let served = Served { node, server, remote };
    Ok((served, Serving { address, link, stop, clients, peers, _hands: hands }))
}

/// Takes an address; whoever connects is refused until it is listened on, and not left to wait.
fn bind(key: &str, wanted: SocketAddr) -> Result<(TcpSocket, SocketAddr), String> {
    let bound = || {
        let socket = if wanted.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // What an earlier process left behind is no reason to wait; but of free ports none is to be had twice.
        socket.set_reuseaddr(wanted.port() != 0)?;
        socket.bind(wanted)?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    bound().map_err(|error: std::io::Error| format!("{key}: cannot listen on {wanted}: {error}"))
}

async fn listen(key: &str, wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let wrong = |error: std::io::Error| format!("{key}: cannot listen on {wanted}: {error}");
    let listener = TcpListener::bind(wanted).await.map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    Ok((listener, address))
}

async fn open_disk(options: &node::Options) -> Result<Option<Disk>, String> {
    let Some((folder, disk)) = options.disk.clone() else { return Ok(None) };
    let opened = tokio::task::spawn_blocking(move || Disk::open(folder, disk)).await;
    let opened = opened.map_err(|error| format!("the disk of the store was not opened: {error}"))?;
    opened.map(Some).map_err(|error| format!("the disk of the store cannot be used: {error}"))
}

// === impl Running ===

impl Running {
    /// Where clients connect, if there is a node.
    pub fn address(&self) -> Option<SocketAddr> {
        self.serving.as_ref().map(|serving| serving.address)
    }

    /// Where operators connect.
    pub fn admin(&self) -> SocketAddr {
        self.door.address()
    }

    /// Where nodes of other processes find this master, if they do.
    pub fn master_link(&self) -> Option<SocketAddr> {
        self.master_link
    }

    /// Where other nodes find this one, if they do.
    pub fn node_link(&self) -> Option<SocketAddr> {
        self.serving.as_ref().and_then(|serving| serving.link)
    }

    /// What it is made of.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Has what these settings say about promotion and quotas count from now on; what of the rest is new waits for a restart.
    ///
    /// # Errors
    /// What makes no sense, in words; then nothing changes.
    pub fn reload(&self, settings: &Settings) -> Result<Reloaded, String> {
        let (old, new) = (&self.parts.settings, &settings.tiers);
        new.check()?;
        let [promotion, quotas] = match &self.leading {
            None => [false; 2],
            Some(leading) => leading.maker.set(new, master_options(new), self.parts.master.local().as_ref()),
        };
        Ok(Reloaded { promotion, quotas, waiting: old.differences(new) })
    }

    /// Lets clients finish their commands and objects reach the disk, then ends. Other masters lead at once.
    pub async fn stop(mut self) {
        if let (Some(mut serving), Some(served)) = (self.serving.take(), &self.parts.node) {
            serving.stop.send_replace(true);
            if let Err(error) = (&mut serving.clients).await {
                tracing::error!(%error, "serving clients ended by itself");
            }
            // Other nodes are served no longer; what they want of this one goes to its disk, and comes back with it.
            if let Some(peers) = serving.peers.take()
                && let Err(error) = peers.await
            {
                tracing::error!(%error, "serving other nodes ended by itself");
            }
            served.node.end(GRACE).await;
        }
        if let Some(mut leading) = self.leading.take() {
            leading.end().await;
        }
        // Whoever starts again finds the folder free.
        self.door.close().await;
    }
}

impl Leading {
    async fn end(&mut self) {
        self.stop.send_replace(true);
        if let (Some(lead), Some(leads)) = (&self.lead, self.tasks.first_mut()) {
            if let Err(error) = leads.await {
                tracing::error!(%error, "leading ended by itself");
            }
            lead.left().await;
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.clients.abort();
        self.peers.iter().for_each(JoinHandle::abort);
    }
}

// === impl Seat ===

impl Seat {
    /// The master, if it is here and leads.
    pub fn local(&self) -> Option<Local> {
        match self {
            Self::Own(local) => Some(local.clone()),
            Self::Shared(masters) => masters.now(),
            Self::Elsewhere => None,
        }
    }
}
// === Settings of the rooms ===

fn master_options(tiers: &Tiers) -> Options {
    let millis = |span: crate::settings::Span| u64::try_from(span.get().as_millis()).unwrap_or(u64::MAX);
    let promotion = &tiers.promotion;
    Options {
        seed: rand_seed(),
        high: tiers.high,
        low: tiers.low,
        lease: millis(tiers.lease),
        put_patience: millis(tiers.put_patience),
        wait_patience: millis(tiers.wait_patience),
        largest: tiers.max_value.get(),
        offload: match tiers.offload {
            // Without a disk there is nowhere to write to. What nodes of other processes have is another matter.
            _ if tiers.folder.is_none() && !tiers.link.is_used(&tiers.roles) => master::Offload::Off,
            Offload::AtCommit => master::Offload::AtCommit,
            Offload::AtEviction => master::Offload::AtEviction,
            Offload::Off => master::Offload::Off,
        },
        half_life: millis(promotion.half_life).max(1),
        promotion: master::Promotion {
            on: promotion.on,
            threshold: promotion.threshold,
            exchange: promotion.exchange,
            at_a_time: promotion.at_a_time,
            candidates: promotion.candidates,
            retries: promotion.retries,
            ttl: millis(promotion.ttl),
            backoff: millis(promotion.backoff),
            backoff_most: millis(promotion.backoff_most),
            ..master::Promotion::default()
        },
        ..Options::default()
    }
}

/// Who tells gateways what is there, if anybody is told.
fn residents(tiers: &Tiers) -> Result<Option<Arc<Residents>>, String> {
    let (Some(events), Some(replay)) = (&tiers.events, &tiers.replay) else { return Ok(None) };
    let settings = publish::Settings::of_relay(events.clone(), replay.clone(), tiers.block_size);
    let residents = Residents::start(settings);
    let residents = residents.map_err(|error| format!("tiers.events, tiers.replay: {error}"))?;
    residents.state(View::Recovering);
    Ok(Some(residents))
}

fn node_options(tiers: &Tiers, id: &str) -> node::Options {
    let mut options = node::Options::new(id, tiers.memory.get());
    options.reading = options.reading.max(2 * tiers.max_value.get());
    options.disk = tiers.folder.as_ref().map(|folder| {
        let durability = match tiers.durability {
            Durability::Fsync => disk::Durability::Disk,
            Durability::Write => disk::Durability::Write,
        };
        let max_value = usize::try_from(tiers.max_value.get()).unwrap_or(usize::MAX);
        let disk = disk::Options { durability, max_value, ..node::Options::disk_of(tiers.disk.get()) };
        (folder.join("segments"), disk)
    });
    options
}

fn resp_settings(settings: &Settings) -> Result<resp::Settings, String> {
    let tiers = &settings.tiers;
    let mut access = Access::default();
    for (tenant, keys) in settings.tenants.iter().zip(crate::settings::keys::of_tenants(&settings.tenants)?) {
        for key in keys {
            access.allow(Tenant::new(&tenant.name), key.as_bytes());
        }
    }
    let value = usize::try_from(tiers.max_value.get()).unwrap_or(usize::MAX);
    let memory = usize::try_from(tiers.memory.get()).unwrap_or(usize::MAX);
    Ok(resp::Settings {
        access,
        value,
        // A key must fit into a record on disk.
        command: Limits { argument: disk::format::MAX_KEY, ..resp::Settings::default().command },
        arriving: memory.max(value),
        connections: tiers.max_connections,
        patience: tiers.patience.get(),
        flush: tiers.flush,
        ..resp::Settings::default()
    })
}

/// Another number for each start: nobody outside can choose keys that collide.
fn rand_seed() -> u64 {
    crate::chance::number()
}

/// Which life of the node this is.
fn life() -> u64 {
    crate::chance::number()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// On one thread nothing happens between the end of `stop` and what follows it: whatever holds the folder then is
    /// something that was not waited for.
    #[tokio::test]
    async fn what_was_stopped_leaves_its_folder_to_whoever_starts_next() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        (settings.tiers.listen, settings.tiers.admin) = (any, any);
        settings.tiers.folder = Some(folder.path().to_owned());
        settings.tiers.disk = crate::settings::Size::mib(64);
        let (folder, options) = node_options(&settings.tiers, "any").disk.unwrap();
        for stays in [false, true] {
            let running = start_whole(&settings).await.unwrap().running;
            let mut operator = TcpStream::connect(running.admin()).await.unwrap();
            if stays {
                // It has been answered, and keeps the connection for what it asks next.
                operator.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                operator.read_exact(&mut [0; 12]).await.unwrap();
            } else {
                drop(operator);
            }
            running.stop().await;
            assert!(disk::Disk::open(&folder, options).is_ok(), "an operator stays: {stays}");
        }
    }

    #[test]
    fn a_key_file_that_is_empty_or_shared_opens_the_store_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let tenant = |name: &str, keys: &str| {
            let keys_file = folder.path().join(name);
            std::fs::write(&keys_file, keys).unwrap();
            crate::settings::Tenant { name: name.to_owned(), keys_file, ..Default::default() }
        };
        let access = |tenants| {
            let settings = Settings { tenants, ..Settings::default() };
            resp_settings(&settings).map(|settings| settings.access)
        };
        assert!(access(vec![tenant("red", "\n")]).unwrap_err().contains("holds no key"));
        let shared = access(vec![tenant("red", "key"), tenant("blue", "other\nkey")]);
        assert!(shared.unwrap_err().contains("that `red` has already"));

        let access = access(vec![tenant("red", "old\nnew"), tenant("blue", "other")]).unwrap();
        assert!(!access.is_open());
        let opens = |key: &[u8]| access.open(None, key).map(|tenant| tenant.name().to_owned());
        assert_eq!(opens(b"new").as_deref(), Some("red"));
        assert_eq!(opens(b"other").as_deref(), Some("blue"));
        assert_eq!(opens(b""), None);
    }
}
