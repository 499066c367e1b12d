//! Every promise of the conformance suite, on every backend: memory, a server, a server with TLS, a client that was injected.

use std::sync::Arc;

use coord::backend::memory::Memory;
use coord::backend::redis::Injected;
use coord::backend::{Backend, Config, Registry};
use coord::conform;
use coord::kit::servers::{Cluster, Options, Sentinels, Server};

async fn conforms(backend: Arc<dyn Backend>) {
    let what = backend.describe();
    let mut kept = Vec::new();
    if let Err(broken) = conform::run(backend, 20_261_121, |name| kept.push(name)).await {
        panic!("{what}: {broken}\nkept before it: {kept:?}");
    }
    assert_eq!(kept.len(), conform::all().len());
}

async fn redis(dsn: String, ca_file: Option<std::path::PathBuf>) -> Arc<dyn Backend> {
    let config = Config { backend: "redis".to_owned(), dsn, ca_file, ..Config::default() };
    Registry::new().make(&config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms() {
    conforms(Arc::new(Memory::new(Some(std::time::Duration::from_hours(1))))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_conforms() {
    let server = Server::start(Options::default()).await.unwrap();
    conforms(redis(server.dsn(), None).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_injected_client_answers_as_memory_does() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = server.client().unwrap().get_multiplexed_async_connection().await.unwrap();
    let backend = Arc::new(Injected::new(client, &Config::default()).unwrap());
    // It hears no notices, and says so; every other promise is kept.
    for promise in conform::all().iter().filter(|promise| promise.name != "notices_are_heard_by_others") {
        if let Err(broken) = conform::one(backend.clone(), 7, promise).await {
            panic!("{broken}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_tls_conforms() {
    let server = Server::start(Options { tls: true, ..Options::default() }).await.unwrap();
    conforms(redis(server.dsn(), server.ca_file().map(std::path::Path::to_owned)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_conforms() {
    let cluster = Cluster::start().await.unwrap();
    conforms(redis(cluster.dsn(), None).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_sentinels_name_conforms() {
    let sentinels = Sentinels::start().await.unwrap();
    conforms(redis(sentinels.dsn(), None).await).await;
}
