//! The tiered store as a process: a master and a node, served to Redis clients, with an operator's door.

pub mod admin;
mod folder;
pub mod residency;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blocks::View;
use events::publish;
use store::disk;
use store::master::options::{self as master, Options};
use store::master::{Deaf, Quota};
use store::node::desk::{Local, Nobody};
use store::node::{self, Node};
use store::resp::access::Access;
use store::resp::decode::Limits;
use store::resp::server::Threads;
use store::resp::{self, Server, Tenant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use admin::Door;

use crate::settings::{Durability, Offload, Settings, Tiers};
use residency::Residents;

/// How long what is under way may take when it ends: values that arrive, and objects on their way to disk.
const GRACE: Duration = Duration::from_secs(30);

/// A store that runs. Dropping it ends it at once; [`Running::stop`] lets what is under way come to its end.
pub struct Running {
    address: SocketAddr,
    parts: Parts,
    stop: watch::Sender<bool>,
    door: Door,
    serving: JoinHandle<()>,
    ticking: JoinHandle<()>,
    // Ends its threads when it is dropped.
    _hands: Threads,
}

/// What a store is made of, for those who look at it.
#[derive(Clone)]
pub struct Parts {
    /// The master, if it is in this process.
    pub local: Local,
    /// The node.
    pub node: Node,
    /// What serves clients.
    pub server: Server<Node>,
    /// Who tells gateways what is there.
    pub residents: Option<Arc<Residents>>,
    /// What was set.
    pub settings: Arc<Tiers>,
}

/// Starts a store: binds first, then works.
///
/// # Errors
/// What stands in the way, in words; then nothing runs.
pub async fn start(settings: &Settings) -> Result<Running, String> {
    let tiers = &settings.tiers;
    tiers.check()?;
    let listener = TcpListener::bind(tiers.listen).await;
    let listener =
        listener.map_err(|error| format!("tiers.listen: cannot listen on {}: {error}", tiers.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    // Whoever asks while the disk is read is told so.
    let door = Door::open(settings).await?;

    let residents = residents(tiers)?;
    let local = match &residents {
        Some(residents) => Local::new(master_options(tiers), residents.clone(), residents.clone()),
        None => Local::new(master_options(tiers), Arc::new(Deaf), Arc::new(Nobody)),
    };
    for (name, quota) in &tiers.quotas {
        let tenant = local.master().tenant(name).map_err(|error| format!("tiers.quotas.{name}: {error}"))?;
        let bound = |size: Option<crate::settings::Size>| size.map(crate::settings::Size::get);
        let (memory, disk) = (bound(quota.memory), bound(quota.disk));
        local.master().set_quota(tenant, Quota { memory, disk, weight: quota.weight.max(1) });
    }
    let id = folder::id(tiers)?;
    let node = Node::begin(node_options(tiers, &id), Arc::new(local.clone()), life()).await;
    let node = node.map_err(|error| error.to_string())?;
    if let Some(residents) = &residents {
        residents.state(View::Exact);
    }
    let ticks = local.clone();
    let ticking = tokio::spawn(async move { ticks.run().await });

    let server = Server::new(Arc::new(node.clone()), resp_settings(settings)?);
    let threads = match tiers.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        threads => threads,
    };
    let hands = Threads::start(threads).map_err(|error| format!("tiers.threads: {error}"))?;
    let (stop, mut stopped) = watch::channel(false);
    let (serves, on) = (server.clone(), hands.hands().to_vec());
    let serving = tokio::spawn(async move {
        let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
        serves.serve(listener, &on, stop, GRACE).await;
    });
    let parts = Parts { local, node, server, residents, settings: Arc::new(tiers.clone()) };
    door.show(parts.clone());
    Ok(Running { address, parts, stop, door, serving, ticking, _hands: hands })
}

// === impl Running ===

impl Running {
    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    pub fn admin(&self) -> SocketAddr {
        self.door.address()
    }

    /// What it is made of.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Lets clients finish their commands and objects reach the disk, then ends.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.serving).await {
            tracing::error!(%error, "serving clients ended by itself");
        }
        self.parts.node.end(GRACE).await;
        // Whoever starts again finds the folder free.
        self.door.close().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.serving.abort();
        self.ticking.abort();
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
            // Without a disk there is nowhere to write to.
            _ if tiers.folder.is_none() => master::Offload::Off,
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
            let running = start(&settings).await.unwrap();
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
