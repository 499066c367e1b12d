//! The indexer as a service: it follows engines and answers, over HTTP, who holds how much of a prefix.
//!
//! It speaks the words of the standalone indexer that others use already, so that it can take its place, and says beside
//! each answer how far it can be trusted. What it knows survives: registrations in a data directory, views in the engines'
//! own rings and snapshots, in a peer, or, after an orderly end, in the directory as well.

mod answer;
mod api;
mod dump;
mod keep;
mod metrics;
mod peers;
mod question;
mod registry;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blocks::View;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use api::Api;
use keep::Keep;
pub use registry::Registration;
use registry::Registry;

/// How often the state of the views is looked at, to say when it changes.
const LOOK: Duration = Duration::from_secs(1);

/// How an indexer is set up.
#[derive(Debug)]
pub struct Settings {
    /// Where it is asked.
    pub listen: SocketAddr,
    /// Where it keeps what must survive; none: nothing does.
    pub data: Option<PathBuf>,
    /// Other indexers, to begin with what they know.
    pub peers: Vec<String>,
    /// Streams to follow from the start.
    pub streams: Vec<Registration>,
}

/// A running indexer. Dropping it ends it at once; [`Indexer::stop`] keeps what it knows.
pub struct Indexer {
    address: SocketAddr,
    registry: Arc<Registry>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    _followers: Followers,
}

/// Followers have threads of their own: a view that is built anew must not keep questions waiting.
struct Followers(Option<Runtime>);

impl Indexer {
    /// Binds, takes up what is kept and what peers know, and serves. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What stands in the way, in words; then nothing runs.
    pub async fn start(settings: Settings) -> Result<Self, String> {
        for stream in &settings.streams {
            stream.check()?;
        }
        for peer in &settings.peers {
            peers::check(peer).map_err(|why| format!("--peers: {why}"))?;
        }
        let listener = TcpListener::bind(settings.listen).await;
        let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", settings.listen))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let (keep, kept) = settings.data.as_deref().map(Keep::open).transpose()?.unzip();
        let before = keep.as_ref().and_then(Keep::read_views);
        let kept = kept.unwrap_or_default();
        let mut threads = Builder::new_multi_thread();
        let threads = threads.worker_threads(2).thread_name("followers").enable_all().build();
        let followers = Followers(Some(threads.map_err(|error| error.to_string())?));
        let registry = Arc::new(Registry::new(keep, followers.handle()));
        followers.handle().spawn(crate::memory::give_back());
        followers.handle().spawn(say_changes(registry.clone()));
        registry.know_peers(settings.peers, kept.peers);
        // It answers from now on: that it lives, and that it has yet to begin.
        let api = Arc::new(Api::new(registry.clone(), Clock::start()));
        let answering = api.clone();
        let answer = move |request| {
            let api = answering.clone();
            async move { api.answer(request).await }
        };
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(crate::http::serve(listener, answer, stopped));
        let indexer = Self { address, registry, stop, serving, _followers: followers };
        let peer = peers::ask_first(&indexer.registry.peers(), address).await;
        let before = before.map_or_else(|| Ok(Vec::new()), |before| dump::read_own(&before));
        let before = before.unwrap_or_else(|why| {
            tracing::warn!(why, "what was known at the last end cannot be used");
            Vec::new()
        });
        let begun = indexer.registry.begin(kept.streams, before, peer, settings.streams).await;
        begun.map_err(|why| why.to_string())?;
        indexer.registry.forget_views();
        api.begin();
        Ok(indexer)
    }

    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Streams that are registered.
    pub fn streams(&self) -> usize {
        self.registry.standings().len()
    }

    /// Ends, and keeps what is known for the next start, if there is a data directory.
    ///
    /// # Errors
    /// It could not be kept; the registry is there all the same.
    pub async fn stop(mut self) -> Result<(), String> {
        self.stop.send_replace(true);
        // It ends with the word to stop.
        let _ = (&mut self.serving).await;
        self.registry.keep_views().await
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Says when a view changes, for as long as the process lives: at night somebody asks the log since when.
async fn say_changes(registry: Arc<Registry>) {
    let mut known = HashMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let views = registry.views();
        let mut next = HashMap::with_capacity(views.len());
        for (worker, view, trouble) in views {
            next.insert(worker, view);
            if known.get(&worker) == Some(&view) {
                continue;
            }
            let trouble = trouble.unwrap_or_default();
            if view == View::Stale {
                tracing::warn!(%worker, trouble, "the view of a stream is stale: something is missing that nobody can give back");
            } else {
                tracing::info!(%worker, view = view.name(), trouble, "the view of a stream has changed");
            }
        }
        known = next;
    }
}

// === impl Followers ===

impl Followers {
    fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A runtime may not be waited for where another runs.
            runtime.shutdown_background();
        }
    }
}
