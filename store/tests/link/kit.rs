//! A fleet in one process: masters and nodes, each on a runtime of its own, that can be killed without a goodbye.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use store::disk;
use store::link::{Alone, Lead, Masters, Net, PeerServer, Remote, Secret, Settings};
use store::master::Deaf;
use store::master::options::Options;
use store::node::desk::{Local, Nobody};
use store::node::{self, Node};
use store::resp::contract::{Part, Put, Store, Tenant, Written};
use store::resp::refusal::{Code, Refusal};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::objects;
pub(crate) use crate::objects::{MIB, key, options, value};

/// What a test of seconds needs: whatever is silent is noticed at once.
pub(crate) fn settings() -> Settings {
    Settings {
        secret: Secret::new(b"a secret of tests"),
        beat: Duration::from_millis(50),
        silence: Duration::from_secs(3),
        lost: Duration::from_mins(1),
        settle: Duration::ZERO,
        pause: Duration::from_millis(50),
        ..Settings::default()
    }
}

/// A process with a master, as far as anybody can see.
pub(crate) struct Chief {
    pub(crate) masters: Masters,
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

/// A process with a node.
pub(crate) struct Home {
    pub(crate) node: Node,
    pub(crate) remote: Remote,
    pub(crate) tenant: Tenant,
    runtime: Option<Runtime>,
}

/// How a node is made, and made again.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) memory: u64,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) masters: Vec<String>,
    pub(crate) settings: Settings,
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Another one each time.
fn life() -> u64 {
    static LIVES: AtomicU64 = AtomicU64::new(1);
    LIVES.fetch_add(1, Ordering::Relaxed)
}

impl Chief {
    pub(crate) async fn begin(term: u32, options: Options) -> Self {
        Self::lead(Arc::new(Alone::new(term)), options, settings(), None).await
    }

    pub(crate) async fn lead(
        lead: Arc<dyn Lead>,
        options: Options,
        settings: Settings,
        at: Option<SocketAddr>,
    ) -> Self {
        let make =
            move |term| Local::new(Options { term, ..options.clone() }, Arc::new(Deaf), Arc::new(Nobody));
        let masters = Masters::new(settings, lead, make);
        let (runtime, serves) = (runtime(), masters.clone());
        let at = at.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let serving = runtime.spawn(async move {
            let listener = listen(at).await;
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { serves.serve(listener, std::future::pending()).await });
            address
        });
        Self { masters, address: serving.await.unwrap(), runtime: Some(runtime) }
    }

    pub(crate) fn desk(&self) -> Local {
        self.masters.now().expect("it leads")
    }

    /// Ends without a goodbye.
    pub(crate) fn kill(mut self) -> SocketAddr {
        self.runtime.take().unwrap().shutdown_background();
        self.address
    }
}

impl Drop for Chief {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// A port of one that was just killed is free in a moment.
async fn listen(at: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(at).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

impl Plan {
    pub(crate) fn new(id: &str, memory: u64, masters: &[&Chief]) -> Self {
        let masters = masters.iter().map(|chief| chief.address.to_string()).collect();
        Self { id: id.to_owned(), memory, folder: None, masters, settings: settings() }
    }

    pub(crate) fn on(self, folder: &Path) -> Self {
        let folder = Some(folder.join(&self.id));
        Self { folder, ..self }
    }

    pub(crate) async fn begin(&self) -> Home {
        let (runtime, plan) = (runtime(), self.clone());
        let (node, remote) = runtime.spawn(async move { plan.run().await }).await.unwrap();
        Home { node, remote, tenant: Tenant::default(), runtime: Some(runtime) }
    }

    async fn run(self) -> (Node, Remote) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let remote = Remote::start(self.settings.clone(), self.masters.clone(), address);
        let mut options = node::Options::new(&self.id, self.memory);
        options.reading = 64 * MIB;
        let budget = objects::disk(256 * MIB);
        let mut disk = None;
        if let Some(folder) = self.folder.clone() {
            options.disk = Some((folder.clone(), budget));
            while disk.is_none() {
                disk = match disk::Disk::open(&folder, budget) {
                    Ok(disk) => Some(disk),
                    // The process that had it may be ending yet.
                    Err(disk::Error::Locked(_)) => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        None
                    }
                    Err(error) => panic!("{error}"),
                };
            }
        }
        let peers = Arc::new(Net::new(remote.book().clone(), self.settings.clone()));
        remote.found().await;
        let node = Node::begin(options, Arc::new(remote.clone()), Some(peers), life(), disk).await.unwrap();
        let serves = PeerServer::new(node.clone(), self.settings);
        tokio::spawn(async move { serves.serve(listener, std::future::pending()).await });
        (node, remote)
    }
}

impl Home {
    pub(crate) async fn put(&self, key: &[u8], value: &[u8]) -> Result<Written, Refusal> {
        self.put_as(key, value, Put::default()).await
    }

    pub(crate) async fn put_as(&self, key: &[u8], value: &[u8], put: Put) -> Result<Written, Refusal> {
        objects::put_as(&self.node, &self.tenant, key, value, put).await
    }

    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
        self.node.get(&self.tenant, key, Part::Whole).wait().await
    }

    /// What is there once everything is known.
    pub(crate) async fn find(&self, key: &[u8]) -> Option<Bytes> {
        loop {
            match self.get(key).await {
                Ok(found) => return found,
                Err(refusal) => {
                    assert!(
                        matches!(refusal.code, Code::Loading | Code::Unavailable | Code::Busy),
                        "whatever is not known says so: {refusal}"
                    );
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    }

    /// Ends without a goodbye.
    pub(crate) fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// Waits until this holds; a test that waits for ever is ended by whoever runs it.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until nothing is under way anywhere.
pub(crate) async fn settle(chief: &Chief, homes: &[&Home]) {
    let mut calm = 0;
    while calm < 5 {
        let desk = chief.desk();
        let gauges = desk.master().gauges();
        let nodes = desk.master().node_list();
        let exact = nodes.iter().filter(|n| n.standing == store::master::Standing::Exact).count();
        let leaving = nodes.iter().map(|node| node.leaving + node.orders).sum::<usize>();
        let busy = gauges.promotions + gauges.offloads + gauges.puts > 0
            || leaving > 0
            || exact < homes.len()
            || homes.iter().any(|home| {
                let look = home.node.look();
                !home.node.is_idle() || look.arriving > 0 || look.unclaimed > 0
            });
        calm = if busy { 0 } else { calm + 1 };
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Every invariant of master, arenas and accounts, when nothing is under way.
pub(crate) async fn checked(chief: &Chief, homes: &[&Home]) {
    settle(chief, homes).await;
    let desk = chief.desk();
    desk.master().check().unwrap();
    let nodes = desk.master().node_list();
    for home in homes {
        let look = home.node.look();
        let known = nodes.iter().find(|node| *node.id == *look.id).unwrap();
        assert_eq!(
            (known.memory.reserved, known.memory.leaving, known.memory.promised),
            (0, 0, 0),
            "{}",
            look.id
        );
        assert_eq!(known.memory.here, look.memory.asked, "what {} holds is what is accounted for", look.id);
        assert_eq!(look.arriving, 0);
    }
}

// === What lies between them ===

/// A way to somebody that can be cut, after so many bytes or now, and on which answers can be held up.
pub(crate) struct Bridge {
    pub(crate) address: SocketAddr,
    left: Arc<std::sync::atomic::AtomicI64>,
    cut: tokio::sync::watch::Sender<u64>,
    stalls: tokio::sync::watch::Sender<bool>,
    task: tokio::task::AbortHandle,
}

impl Bridge {
    pub(crate) async fn to(there: SocketAddr) -> Self {
        use std::sync::atomic::AtomicI64;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let (cut, stalls) = (tokio::sync::watch::Sender::new(0), tokio::sync::watch::Sender::new(false));
        let (bytes, cuts, holds) = (left.clone(), cut.clone(), stalls.clone());
        let carries = async move {
            loop {
                let Ok((here, _)) = listener.accept().await else { continue };
                let (bytes, mut cut, holds) = (bytes.clone(), cuts.subscribe(), holds.subscribe());
                tokio::spawn(async move {
                    let Ok(there) = tokio::net::TcpStream::connect(there).await else { return };
                    let (from, to) = here.into_split();
                    let (back, forth) = there.into_split();
                    tokio::select! {
                        () = carry(from, forth, &bytes, None) => {}
                        () = carry(back, to, &bytes, Some(holds)) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        };
        let task = tokio::spawn(carries).abort_handle();
        Self { address, left, cut, stalls, task }
    }

    /// After so many bytes, in both directions together, every connection ends.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.left.store(bytes as i64, Ordering::SeqCst);
    }

    /// Answers are held up from now on, or go on.
    pub(crate) fn stall(&self, stalls: bool) {
        self.stalls.send_replace(stalls);
    }

    pub(crate) fn cut_now(&self) {
        self.cut.send_modify(|times| *times += 1);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
        self.cut_now();
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    left: &std::sync::atomic::AtomicI64,
    mut stalls: Option<tokio::sync::watch::Receiver<bool>>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut part = vec![0; 16 << 10];
    loop {
        let Ok(read) = from.read(&mut part).await else { return };
        if let Some(stalls) = &mut stalls {
            drop(stalls.wait_for(|stalls| !stalls).await);
        }
        let before = left.fetch_sub(read as i64, Ordering::SeqCst);
        let passes = before.clamp(0, read as i64) as usize;
        if read == 0 || to.write_all(&part[..passes]).await.is_err() {
            return;
        }
        if passes < read {
            // The next connection begins well.
            left.store(i64::MAX, Ordering::SeqCst);
            return;
        }
    }
}
