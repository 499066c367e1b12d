//! The one place where the rooms meet: a line for each, in the order of the drawing.

use std::net::SocketAddr;
use std::sync::Arc;

use coord::backend::Registry;
use events::sink::Sink;
use index::Index;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::Admin;
use crate::batches::Batches;
use crate::clock::Clock;
use crate::files::Files;
use crate::fleet::{Fleet, watch as look};
use crate::gateway::{self, Gateway};
use crate::lines::Lines;
use crate::replicas::{Replicas, Watch};
use crate::settings::Settings;
use crate::sink::IndexSink;
use crate::webhooks::Webhooks;
use crate::work::Work;

/// Everything that runs. Dropping it ends it at once; [`Running::stop`] lets requests come to their end.
pub struct Running {
    gateway: Gateway,
    replicas: Replicas,
    work: Work,
    address: SocketAddr,
    admin: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<std::io::Result<()>>,
    others: Arc<parking_lot::Mutex<tokio::task::JoinSet<()>>>,
}

/// Starts every role of this machine: binds first, then works.
///
/// # Errors
/// What stands in the way, in words; then nothing runs.
pub async fn start(settings: Settings) -> Result<Running, String> {
    start_with(settings, &Registry::new()).await
}

/// The same, with backends of coordination that this program was built with.
///
/// # Errors
/// As [`start`].
pub async fn start_with(settings: Settings, registry: &Registry) -> Result<Running, String> {
    let (front, address) = bind("gateway.listen", settings.gateway.listen).await?;
    let (back, admin) = bind("admin.listen", settings.admin.listen).await?;

    let clock = Clock::start();
    let index = Arc::new(Index::new());
    let sink = IndexSink::new(index.clone());
    let fleet = Fleet::new(&settings, index, clock)?;
    let roots = fleet.clone();
    sink.tell_roots(move |worker, root| look::root(&roots, worker, root));
    let replicas = Replicas::join(&settings.coordination, registry, fleet.clone(), (address, admin)).await?;
    fleet.join(replicas.clone());
    let files = Files::open(&settings, clock)?;
    let work = Work::new(fleet.clone(), replicas.clone())?;
    let lines = Lines::new(fleet.clone(), &replicas, work.runner())?;
    work.join(&lines);
    let webhooks = Webhooks::new(&settings, files.shelf().clone(), work.clone())?;
    let batches = Batches::new(files.clone(), work.clone(), webhooks.clone());
    let gateway = Gateway::new(
        fleet.clone(),
        replicas.clone(),
        files.clone(),
        lines.clone(),
        work.clone(),
        batches.clone(),
        webhooks.clone(),
    )?;

    let (stop, stopped) = watch::channel(false);
    let others = Arc::new(parking_lot::Mutex::new(tokio::task::JoinSet::new()));
    let store_sink: Arc<dyn Sink> = sink.clone();
    let watch_one: Watch = Arc::new(watcher(&fleet, sink, &others));
    for engine in &settings.engines {
        watch_one(&engine.name);
    }
    let operator = Admin::new(gateway.clone(), watch_one.clone(), replicas.clone())?;
    others.lock().spawn(replicas.clone().run(watch_one));
    others.lock().spawn(fleet.clone().follow_store(store_sink));
    others.lock().spawn(look::expectations(fleet));
    others.lock().spawn(lines.clone().warm());
    others.lock().spawn(lines.look());
    others.lock().spawn(work.clone().run());
    others.lock().spawn(webhooks.run());
    others.lock().spawn(batches.clone().run());
    others.lock().spawn(batches.keep_tidy());
    others.lock().spawn(files.keep_tidy());
    others.lock().spawn(crate::memory::give_back());
    others.lock().spawn(operator.run(back, stopped.clone()));
    let serving = tokio::spawn(gateway::run(gateway.clone(), front, stopped));
    Ok(Running { gateway, replicas, work, address, admin, stop, serving, others })
}

/// Watches engines: those of the settings, and those that are registered later.
fn watcher(
    fleet: &Fleet,
    sink: Arc<dyn Sink>,
    tasks: &Arc<parking_lot::Mutex<tokio::task::JoinSet<()>>>,
) -> impl Fn(&str) + Send + Sync + 'static {
    let (fleet, tasks) = (fleet.clone(), Arc::downgrade(tasks));
    move |name| {
        if let Some(tasks) = tasks.upgrade() {
            tasks.lock().spawn(look::engine(fleet.clone(), name.to_owned(), sink.clone()));
        }
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let wrong = |error: std::io::Error| format!("{key}: cannot listen on {address}: {error}");
    let listener = TcpListener::bind(address).await.map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    Ok((listener, bound))
}

// === impl Running ===

impl Running {
    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The engines.
    pub fn fleet(&self) -> &Fleet {
        self.gateway.fleet()
    }

    /// Takes no new requests, lets those that run come to their end, and ends.
    ///
    /// # Errors
    /// A gateway that could not run.
    pub async fn stop(mut self) -> Result<(), String> {
        self.stop.send_replace(true);
        let served = (&mut self.serving).await;
        // What runs from a queue runs again elsewhere, or here after the next start.
        self.work.leave().await;
        self.replicas.leave().await;
        match served {
            Ok(served) => served.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.others.lock().abort_all();
    }
}
