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

#[tokio::test]
async fn settings_choose_a_backend_by_name_and_a_foreign_one_gets_its_parameters() {
    let mut registry = Registry::new();
    registry.add("mine", |config: &Config| {
        let made = match config.custom_params.get("region").and_then(|region| region.as_str()) {
            Some("eu") => Ok(Arc::new(Memory::new(None)) as Arc<dyn Backend>),
            other => {
                Err(coord::Error::Invalid(format!("custom_params.region: found {other:?}; allowed is eu")))
            }
        };
        Box::pin(std::future::ready(made))
    });
    let config = |backend: &str| Config { backend: backend.to_owned(), ..Config::default() };
    let refused =
        |error: Result<Arc<dyn Backend>, coord::Error>| error.err().map(|error| error.to_string()).unwrap();

    assert!(registry.make(&Config::default()).await.is_ok(), "memory needs nothing");
    let said = refused(registry.make(&config("etcd")).await);
    assert!(said.contains("found `etcd`; known are memory, mine, redis"), "{said}");
    let said = refused(registry.make(&config("mine")).await);
    assert!(said.contains("custom_params.region"), "what the factory says is passed on: {said}");
    let mut mine = config("mine");
    mine.custom_params.insert("region".to_owned(), "eu".into());
    assert!(registry.make(&mine).await.is_ok());
    let said = refused(registry.make(&Config { ttl_sec: -1, ..config("memory") }).await);
    assert!(said.contains("ttl_sec: found -1; allowed is 0"), "{said}");
    let said = refused(registry.make(&config("redis")).await);
    assert!(said.contains("dsn: it is empty"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefixes_keep_fleets_apart_on_one_server() {
    let server = Server::start(Options::default()).await.unwrap();
    let key = coord::Key::new("hits").unwrap();
    let mut coords = Vec::new();
    for prefix in ["one:", "two:"] {
        let config = Config {
            backend: "redis".to_owned(),
            dsn: server.dsn(),
            key_prefix: prefix.to_owned(),
            ..Config::default()
        };
        let backend = Registry::new().make(&config).await.unwrap();
        coords.push(coord::Coord::new(backend, coord::Name::new("same").unwrap(), 1));
    }
    coords[0].add(&key, 5).await.unwrap();
    assert_eq!(coords[1].count(&key).await, Ok(0));
    assert_eq!(coords[0].count(&key).await, Ok(5));
}
