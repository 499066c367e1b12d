//! What waits is warmed: a gateway, an engine that holds what it has, and a store that writes down what it is asked.
//!
//! Nothing here depends on time: a request waits because the only place is taken by one that is never answered, and goes on
//! when the test lets it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use blocks::{BlockSize, Hasher, PrefixHash, Seed};
use bytes::Bytes;
use coord::backend::Registry;
use coord::backend::memory::Memory;
use events::publish;
use http::{Method, Request};
use parking_lot::Mutex;
use serde_json::{Value, json};
use server::admin::api::{DryRun, Status, WarmingCounts, WarmingStatus};
use server::settings::{self, Engine, Settings, Span};
use server::store::residency::Residents;
use server::wiring;
use store::client::{self, Client};
use store::master::name::{self, Node, Tenant, Tier, Version};
use store::master::options::Options;
use store::master::{Change, Deaf, Joining, Master, Residency};
use store::resp::contract::{Block, Put};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const BLOCK: usize = 16;

// === A prompt and its blocks ===

/// So many whole blocks, and one token more.
fn prompt(stem: u32, blocks: usize) -> Vec<u32> {
    (0..=blocks * BLOCK).map(|at| stem + at as u32).collect()
}

fn blocks_of(prompt: &[u32]) -> Vec<name::Block> {
    let hasher = Hasher::new(BlockSize::new(BLOCK as u32).unwrap(), Seed::PLAIN);
    let tokens = hasher.tokens_hashes(prompt);
    let wide = |prefix: PrefixHash| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&prefix.0.to_le_bytes());
        hash
    };
    let chain: Vec<[u8; 32]> = PrefixHash::chain(&tokens).into_iter().map(wide).collect();
    let one = |at: usize| name::Block {
        hash: chain[at],
        parent: at.checked_sub(1).map(|above| chain[above]),
        tokens: tokens[at].0,
    };
    (0..tokens.len()).map(one).collect()
}

/// As the store is asked for them.
fn names_of(prompt: &[u32]) -> Vec<String> {
    let number = |block: &name::Block| u64::from_le_bytes(block.hash[..8].try_into().unwrap());
    blocks_of(prompt).iter().map(|block| format!("{:016x}", number(block))).collect()
}

// === A store: its events are real, and what it is asked it writes down ===

/// What was said on each connection, in words.
type Words = Arc<Mutex<Vec<(usize, Vec<String>)>>>;

struct Store {
    residents: Option<Arc<Residents>>,
    tenant: Tenant,
    node: Node,
    address: String,
    /// Connection, and the words of a command.
    said: Words,
    listening: JoinHandle<()>,
}

impl Store {
    /// `answers` to `WARM`, as they go over the wire.
    async fn start(answer: &'static str) -> Self {
        let any = || "tcp://127.0.0.1:0".to_owned();
        let residents = Residents::start(publish::Settings::of_relay(any(), any(), BLOCK as u32)).unwrap();
        let master = Master::new(Options::default(), Arc::new(Deaf), Arc::new(Deaf));
        let joined = master.join(&Joining { id: "x", life: 1, memory: 1 << 20, disk: 1 << 20 }).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let said: Arc<Mutex<Vec<_>>> = Arc::default();
        let heard = said.clone();
        let listening = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(hear(number, stream, heard.clone(), answer));
            }
        });
        let tenant = master.tenant("default").unwrap();
        Self { residents: Some(residents), tenant, node: joined.node, address, said, listening }
    }

    fn settings(&self) -> settings::Store {
        let residents = self.residents.as_ref().unwrap();
        settings::Store {
            events: Some(residents.endpoint().to_owned()),
            replay: Some(residents.replay_endpoint().to_owned()),
            address: Some(self.address.clone()),
            ..settings::Store::default()
        }
    }

    /// The blocks of a prompt come to a tier, or leave it.
    fn tell(&self, prompt: &[u32], tier: Tier, here: bool) {
        for block in &blocks_of(prompt) {
            self.residents.as_ref().unwrap().changed(&Change {
                tenant: self.tenant,
                key: &block.hash,
                version: Version(1),
                size: 1,
                block,
                node: self.node,
                tier,
                here,
            });
        }
    }

    /// The blocks of every `WARM` so far, and its name.
    fn warmed(&self) -> Vec<(usize, String, Vec<String>)> {
        let said = self.said.lock();
        let warm = |(from, words): &(usize, Vec<String>)| {
            (words[0] == "WARM").then(|| {
                assert!(words[2].parse::<u64>().unwrap() > 0 && words[3] == "BLOCKS", "{words:?}");
                (*from, words[1].clone(), words[4..].to_vec())
            })
        };
        said.iter().filter_map(warm).collect()
    }

    fn cooled(&self) -> BTreeSet<(usize, String)> {
        let said = self.said.lock();
        let cool = |(from, words): &(usize, Vec<String>)| {
            let names: Vec<_> = words[1..].iter().map(|name| (*from, name.clone())).collect();
            (words[0] == "COOL").then_some(names)
        };
        said.iter().filter_map(cool).flatten().collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Writes down what a connection says, and answers as a store would.
async fn hear(number: usize, stream: TcpStream, said: Words, answer: &'static str) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut words = Vec::new();
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        for _ in 0..line[1..].trim().parse::<usize>().unwrap() {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let mut word = vec![0; line[1..].trim().parse::<usize>().unwrap() + 2];
            stream.read_exact(&mut word).await.unwrap();
            word.truncate(word.len() - 2);
            words.push(String::from_utf8(word).unwrap());
        }
        let reply = if words[0] == "WARM" { answer } else { ":1\r\n" };
        said.lock().push((number, words));
        stream.write_all(reply.as_bytes()).await.unwrap();
    }
}

const TAKEN: &str = "*2\r\n:4\r\n:4\r\n";

// === A gateway with one engine that has one place ===

struct World {
    gateway: wiring::Running,
    engine: sim::http::Running,
    /// The request that holds the only place.
    holder: Option<JoinHandle<Answer>>,
    _data: tempfile::TempDir,
}

/// Status, and where it went.
type Answer = (u16, String);

impl World {
    async fn start(store: settings::Store) -> Self {
        Self::start_with(store, &Registry::new(), |_| {}).await
    }

    async fn start_with(
        store: settings::Store,
        registry: &Registry,
        more: impl FnOnce(&mut Settings),
    ) -> Self {
        let faults = sim::http::Faults { hang: true, ..sim::http::Faults::default() };
        let engine = sim::http::serve(sim::http::Settings {
            events: None,
            replay: None,
            faults,
            ..Default::default()
        });
        let engine = engine.await.unwrap();
        let data = tempfile::tempdir().unwrap();
        let mut settings = Settings { store, ..Settings::default() };
        settings.gateway.listen.set_port(0);
        settings.gateway.threads = 1;
        settings.admin.listen.set_port(0);
        settings.data.dir = data.path().to_owned();
        settings.engines.push(Engine {
            name: "a".to_owned(),
            url: engine.url(),
            models: vec!["sim".to_owned()],
            max_in_flight: Some(1),
            ..Engine::default()
        });
        more(&mut settings);
        let gateway = wiring::start_with(settings, registry).await.unwrap();
        let mut world = Self { gateway, engine, holder: None, _data: data };
        world.holder = Some(world.send(prompt(900_000, 1)));
        world.until("the only place is taken", |status, _| status.in_flight == 1).await;
        world
    }

    /// Sends a request; its client leaves when the task is aborted.
    fn send(&self, prompt: Vec<u32>) -> JoinHandle<Answer> {
        let body = completion(&prompt);
        let address = self.gateway.address().to_string();
        tokio::spawn(async move {
            let request = Request::post("/v1/completions").header("content-type", "application/json");
            let request = request.body(Bytes::from(body.to_string())).unwrap();
            let answer =
                server::http::send(&address, request, 1 << 20, Duration::from_mins(1)).await.unwrap();
            let route = answer.headers().get("x-warmline-route");
            let route = route.map(|route| route.to_str().unwrap().to_owned()).unwrap_or_default();
            (answer.status().as_u16(), route)
        })
    }

    /// Asks the gateway; what it says must be good.
    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let address = self.gateway.address().to_string();
        let asked = server::http::ask(method, &address, path, None, body, Duration::from_mins(1));
        let (status, body) = asked.await.unwrap();
        assert!(status.is_success(), "{path}: {status}, {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap_or_default()
    }

    /// Orders a job; its id.
    async fn order(&self, endpoint: &str, body: Value) -> String {
        let job = json!({ "endpoint": endpoint, "body": body });
        self.ask(Method::POST, "/v1/jobs", job).await["id"].as_str().unwrap().to_owned()
    }

    async fn job(&self, prompt: &[u32]) -> String {
        self.order("/v1/completions", completion(prompt)).await
    }

    async fn succeeds(&self, job: &str) {
        let told = self.ask(Method::GET, &format!("/v1/jobs/{job}?wait=60s"), Value::Null).await;
        assert_eq!(told["status"], "succeeded", "{told}");
    }

    /// A batch with a line for each prompt; its id.
    async fn batch(&self, prompts: &[&[u32]]) -> String {
        let line = |(at, prompt): (usize, &&[u32])| {
            let body = completion(prompt);
            json!({ "custom_id": at.to_string(), "method": "POST", "url": "/v1/completions", "body": body })
                .to_string()
        };
        let lines: Vec<String> = prompts.iter().enumerate().map(line).collect();
        let form = format!(
            "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: \
             form-data; name=\"file\"; filename=\"lines.jsonl\"\r\n\r\n{}\n\r\n--b--\r\n",
            lines.join("\n")
        );
        let request = Request::post("/v1/files").header("content-type", "multipart/form-data; boundary=b");
        let request = request.body(Bytes::from(form)).unwrap();
        let address = self.gateway.address().to_string();
        let answer = server::http::send(&address, request, 1 << 20, Duration::from_mins(1)).await.unwrap();
        let file: Value = serde_json::from_slice(answer.body()).unwrap();
        let wanted = json!({
            "input_file_id": file["id"],
            "endpoint": "/v1/completions",
            "completion_window": "24h",
        });
        self.ask(Method::POST, "/v1/batches", wanted).await["id"].as_str().unwrap().to_owned()
    }

    async fn completes(&self, batch: &str) {
        let mut told = Value::Null;
        for _ in 0..1_000 {
            told = self.ask(Method::GET, &format!("/v1/batches/{batch}"), Value::Null).await;
            if told["status"] == "completed" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the batch is not completed: {told}");
    }

    /// The engine answers from now on, and whoever holds its place leaves.
    async fn open(&mut self) {
        let faults = Bytes::from(serde_json::to_string(&sim::http::Faults::default()).unwrap());
        let engine = self.engine.address().to_string();
        let path = "/sim/faults";
        server::http::ask(Method::POST, &engine, path, None, faults, Duration::from_secs(10)).await.unwrap();
        self.holder.take().unwrap().abort();
    }

    async fn status(&self) -> Status {
        let admin = self.gateway.admin().to_string();
        let asked =
            server::http::ask(Method::GET, &admin, "/status", None, Bytes::new(), Duration::from_secs(10));
        serde_json::from_slice(&asked.await.unwrap().1).unwrap()
    }

    async fn until(&self, what: &str, is: impl Fn(&Status, &WarmingStatus) -> bool) -> Status {
        let mut status = self.status().await;
        for _ in 0..1_000 {
            let warming = status.store.as_ref().and_then(|store| store.warming.clone()).unwrap_or_default();
            if is(&status, &warming) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            status = self.status().await;
        }
        panic!("{what}: {:?}, {} waiting", status.store, status.waiting.standing);
    }

    async fn knows(&self, blocks: usize) {
        let knows = |status: &Status, _: &WarmingStatus| {
            let store = status.store.as_ref().unwrap();
            store.in_reach && store.view.view == "exact" && store.view.blocks == blocks
        };
        self.until("what the store holds is known", knows).await;
    }
}

fn completion(prompt: &[u32]) -> Value {
    json!({ "model": "sim", "prompt": prompt, "max_tokens": 1 })
}

async fn until(what: &str, is: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

/// The first left, whose blocks the second shared: the second asks for its own, and only the first is cooled. What was asked.
async fn the_next_asks(store: &Store, short: &[u32]) -> Vec<(usize, String, Vec<String>)> {
    until("the second asks", || store.warmed().len() == 2).await;
    let warmed = store.warmed();
    assert_eq!(warmed[1].2, names_of(short));
    until("the first is cooled", || store.cooled().contains(&(0, warmed[0].1.clone()))).await;
    assert!(!store.cooled().contains(&(0, warmed[1].1.clone())));
    warmed
}

/// The turn of a prompt of four blocks comes: all of it lies in the store's memory by now.
async fn came_in_time(world: &mut World, waits: JoinHandle<Answer>) -> WarmingCounts {
    world.open().await;
    let (status, route) = waits.await.unwrap();
    assert_eq!(status, 200);
    assert!(route.contains("; store=64; store-disk=0"), "{route}");
    let ended = |_: &Status, warming: &WarmingStatus| warming.counts.in_time_blocks == 4;
    world.until("all came in time", ended).await.store.unwrap().warming.unwrap().counts
}

// === Claims ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_warmed_and_comes_to_an_engine_that_may_load_it_from_memory() {
    let store = Store::start(TAKEN).await;
    let mut world = World::start(store.settings()).await;
    let asked = prompt(0, 4);
    store.tell(&asked, Tier::Disk, true);
    world.knows(4).await;
    assert_eq!(store.warmed(), [], "nobody waits");

    let waits = world.send(asked.clone());
    world.until("its blocks are on their way", |_, warming| warming.blocks == 4).await;
    until("the store is asked", || !store.warmed().is_empty()).await;
    let [(_, id, names)] = &store.warmed()[..] else { panic!("{:?}", store.warmed()) };
    assert_eq!(*names, names_of(&asked));

    store.tell(&asked, Tier::Memory, true);
    world.until("they are in memory", |_, warming| warming.blocks == 0).await;
    until("nothing more is wanted", || store.cooled().contains(&(0, id.clone()))).await;
    let counts = came_in_time(&mut world, waits).await;
    assert_eq!((counts.asked_blocks, counts.taken_objects), (4, 4));
    assert_eq!((counts.late_blocks, counts.unused_blocks, counts.failed), (0, 0, 0));
    assert_eq!(store.warmed().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_the_line_takes_back_what_was_asked_and_others_ask_for_it() {
    let store = Store::start(TAKEN).await;
    let mut world = World::start(store.settings()).await;
    let (long, short) = (prompt(0, 4), prompt(0, 3));
    store.tell(&long, Tier::Disk, true);
    world.knows(4).await;
    let first = world.send(long.clone());
    world.until("the first is warmed", |_, warming| warming.blocks == 4).await;
    let second = world.send(short.clone());
    world.until("the second shares it", |_, warming| warming.counts.shared_blocks == 3).await;
    assert_eq!(store.warmed().len(), 1);

    // Its client leaves.
    first.abort();
    world.until("it is taken back", |_, warming| warming.counts.unused_blocks == 4).await;
    let warmed = the_next_asks(&store, &short).await;

    // Its turn comes, and nothing was warm by then.
    world.open().await;
    let (status, route) = second.await.unwrap();
    assert_eq!(status, 200);
    assert!(route.contains("; store=0; store-disk=48"), "{route}");
    let counts = world.until("it came too late", |_, warming| warming.counts.late_blocks == 3).await;
    assert_eq!(counts.store.unwrap().warming.unwrap().counts.in_time_blocks, 0);
    until("the second is cooled", || store.cooled().contains(&(0, warmed[1].1.clone()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waited_too_long_takes_back_what_was_asked() {
    let store = Store::start(TAKEN).await;
    let patient = |settings: &mut Settings| settings.queue.max_wait = Span::millis(1_500);
    let world = World::start_with(store.settings(), &Registry::new(), patient).await;
    let asked = prompt(0, 2);
    store.tell(&asked, Tier::Disk, true);
    world.knows(2).await;
    let waits = world.send(asked);
    world.until("it is warmed", |_, warming| warming.counts.asked_blocks == 2).await;
    assert_eq!(waits.await.unwrap().0, 503);
    world.until("it is taken back", |_, warming| warming.counts.unused_blocks == 2).await;
    let warmed: BTreeSet<_> = store.warmed().into_iter().map(|(from, id, _)| (from, id)).collect();
    until("all of it is cooled", || store.cooled() == warmed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_or_is_away_costs_a_request_nothing() {
    for answer in ["-ERR unknown command 'WARM'\r\n", "nonsense\r\n"] {
        let store = Store::start(answer).await;
        let mut world = World::start(store.settings()).await;
        let asked = prompt(0, 4);
        store.tell(&asked, Tier::Disk, true);
        world.knows(4).await;
        let waits = world.send(asked.clone());
        let status = world.until("it fails", |_, warming| warming.counts.failed > 0).await;
        let warming = status.store.unwrap().warming.unwrap();
        assert!(!warming.in_reach && warming.trouble.is_some(), "{warming:?}");
        world.open().await;
        assert_eq!(waits.await.unwrap().0, 200);
    }
    // Nobody listens, and later its events are lost as well.
    let mut store = Store::start(TAKEN).await;
    let settings = settings::Store { address: Some("127.0.0.1:1".to_owned()), ..store.settings() };
    let mut world = World::start(settings).await;
    let asked = prompt(0, 4);
    store.tell(&asked, Tier::Disk, true);
    world.knows(4).await;
    let waits = world.send(asked.clone());
    world.until("it fails", |_, warming| warming.counts.failed > 0).await;
    store.residents = None;
    world.until("its events are lost", |status, _| !status.store.as_ref().unwrap().in_reach).await;
    world.open().await;
    let (status, route) = waits.await.unwrap();
    assert_eq!(status, 200);
    assert!(route.contains("; store=0; store-disk=0"), "what cannot be reached is not counted on: {route}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_is_left_alone_longer_each_time() {
    let store = Store::start("-ERR not now\r\n").await;
    let world = World::start(store.settings()).await;
    let asked = prompt(0, 4);
    store.tell(&asked, Tier::Disk, true);
    world.knows(4).await;
    let begun = tokio::time::Instant::now();
    let _waits = world.send(asked);
    world.until("it fails and fails", |_, warming| warming.counts.failed >= 4).await;
    // A quarter of a second after the first time, then half of one, then one: a slow machine only makes it longer.
    let passed = begun.elapsed();
    assert!(passed >= Duration::from_millis(1_750), "it was asked four times in {passed:?}");
    assert!(store.warmed().iter().all(|(.., names)| *names == names_of(&prompt(0, 4))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_one_asks() {
    let store = Store::start(TAKEN).await;
    let memory = Arc::new(Memory::new(None));
    let mut registry = Registry::new();
    registry.add("together", move |_| {
        let memory: Arc<dyn coord::backend::Backend> = memory.clone();
        Box::pin(std::future::ready(Ok(memory)))
    });
    let one_of = |name: &'static str| {
        move |settings: &mut Settings| {
            settings.coordination.backend = "together".to_owned();
            settings.coordination.instance = Some(name.to_owned());
            // Each its own engine: they have nothing else in common than the store.
            settings.engines[0].name = format!("of-{name}");
        }
    };
    let one = World::start_with(store.settings(), &registry, one_of("one")).await;
    let other = World::start_with(store.settings(), &registry, one_of("other")).await;
    let asked = prompt(0, 4);
    store.tell(&asked, Tier::Disk, true);
    one.knows(4).await;
    other.knows(4).await;
    let _first = one.send(asked.clone());
    one.until("one asks", |_, warming| warming.blocks == 4).await;
    let _second = other.send(asked.clone());
    other.until("the other leaves it to it", |_, warming| warming.counts.elsewhere_blocks >= 4).await;
    assert_eq!(other.status().await.store.unwrap().warming.unwrap().counts.asked_blocks, 0);
    let warmed = store.warmed();
    assert!(warmed.iter().all(|(from, ..)| *from == warmed[0].0), "{warmed:?}");
}

/// What the only engine could load of a prompt now: tokens in the store's memory, and on its disk.
async fn lent(world: &World, prompt: &[u32]) -> [u32; 2] {
    let body = Bytes::from(json!({ "model": "sim", "prompt": prompt }).to_string());
    let admin = world.gateway.admin().to_string();
    let asked = server::http::ask(Method::POST, &admin, "/route", None, body, Duration::from_secs(10));
    let run: DryRun = serde_json::from_slice(&asked.await.unwrap().1).unwrap();
    run.candidates[0].store_tokens
}

async fn until_lent(world: &World, prompt: &[u32], expected: [u32; 2]) {
    for _ in 0..1_000 {
        if lent(world, prompt).await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{expected:?} should be lent, and {:?} is", lent(world, prompt).await);
}

/// A store as it is run, with a client that offloads to it as engines do.
struct RealStore {
    store: server::store::Whole,
    client: Client,
    known: settings::Store,
    _folder: tempfile::TempDir,
}

impl RealStore {
    const LARGE: usize = 32 << 10;

    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.tiers.listen.set_port(0);
        settings.tiers.admin.set_port(0);
        settings.tiers.folder = Some(folder.path().join("segments"));
        settings.tiers.memory = settings::Size::mib(1);
        settings.tiers.disk = settings::Size::mib(256);
        settings.tiers.events = Some(format!("ipc://{}", folder.path().join("events").display()));
        settings.tiers.replay = Some(format!("ipc://{}", folder.path().join("replay").display()));
        let store = server::store::start_whole(&settings).await.unwrap();
        let address = store.address.to_string();
        let client = Client::connect(&address, client::Options::default()).await.unwrap();
        let known = settings::Store {
            events: settings.tiers.events.clone(),
            replay: settings.tiers.replay.clone(),
            address: Some(address),
            ..settings::Store::default()
        };
        Self { store, client, known, _folder: folder }
    }

    /// An engine has offloaded prompts, and after them so much else that nothing of them is left in memory.
    async fn evicts(&mut self, world: &World, prompts: &[&[u32]]) {
        let number = |hash: [u8; 32]| u64::from_le_bytes(hash[..8].try_into().unwrap());
        for prompt in prompts {
            for block in blocks_of(prompt) {
                let carried = Block {
                    prefix: number(block.hash),
                    parent: block.parent.map(number),
                    tokens: block.tokens,
                };
                let put = Put { block: Some(carried), ..Put::default() };
                self.client.set(&block.hash, Bytes::from(vec![1; Self::LARGE]), put).await.unwrap();
            }
            until_lent(world, prompt, [64, 0]).await;
        }
        let other = |at: usize| format!("other-{at}").into_bytes();
        for at in 0..64 {
            self.client.set(&other(at), Bytes::from(vec![2; Self::LARGE]), Put::default()).await.unwrap();
        }
        for prompt in prompts {
            until_lent(world, prompt, [0, 64]).await;
        }
        let others: Vec<Vec<u8>> = (0..64).map(other).collect();
        self.client.remove(&others.iter().map(Vec::as_slice).collect::<Vec<_>>()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_store_has_it_in_memory_when_its_turn_comes() {
    let mut real = RealStore::start().await;
    let mut world = World::start(real.known.clone()).await;
    let asked = prompt(0, 4);
    real.evicts(&world, &[&asked]).await;

    let waits = world.send(asked.clone());
    until_lent(&world, &asked, [64, 0]).await;
    let counts = came_in_time(&mut world, waits).await;
    assert_eq!((counts.asked_blocks, counts.taken_objects, counts.failed), (4, 4, 0));
    let warmed = real.store.local.master().counters().warmed;
    assert_eq!((warmed.asked, warmed.in_time), (4, 4), "{warmed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_store_has_what_jobs_and_lines_of_batches_want_in_memory_when_their_turns_come() {
    let mut real = RealStore::start().await;
    let mut world = World::start(real.known.clone()).await;
    let [of_job, of_line, of_cancelled] = [0, 10_000, 20_000].map(|stem| prompt(stem, 4));
    real.evicts(&world, &[&of_job, &of_line, &of_cancelled]).await;

    // Each waits behind others of its kind.
    let mut jobs = Vec::new();
    for at in 0..3 {
        jobs.push(world.job(&prompt(100_000 + at * 1_000, 2)).await);
    }
    jobs.push(world.job(&of_job).await);
    let cancelled = world.job(&of_cancelled).await;
    let other = prompt(200_000, 2);
    let batch = world.batch(&[&other, &of_line]).await;
    for prompt in [&of_job, &of_line, &of_cancelled] {
        until_lent(&world, prompt, [64, 0]).await;
    }
    let status = world.status().await;
    assert_eq!(status.store.unwrap().warming.unwrap().counts.of_jobs.asked_blocks, 12);
    assert_eq!(
        world.ask(Method::DELETE, &format!("/v1/jobs/{cancelled}"), Value::Null).await["status"],
        "cancelled"
    );
    world.until("nobody wants it", |_, warming| warming.counts.of_jobs.unused_blocks == 4).await;

    world.open().await;
    for job in &jobs {
        world.succeeds(job).await;
    }
    world.completes(&batch).await;
    let ended = |_: &Status, warming: &WarmingStatus| warming.counts.of_jobs.in_time_blocks == 8;
    let counts = world.until("all came in time", ended).await.store.unwrap().warming.unwrap().counts;
    assert_eq!((counts.of_jobs.late_blocks, counts.asked_blocks, counts.failed), (0, 12, 0));
    let warmed = real.store.local.master().counters().warmed;
    assert_eq!((warmed.asked, warmed.in_time), (12, 12), "{warmed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_cancelled_takes_back_what_was_asked_and_others_ask_for_it() {
    let store = Store::start(TAKEN).await;
    let mut world = World::start(store.settings()).await;
    let (long, short) = (prompt(0, 4), prompt(0, 3));
    store.tell(&long, Tier::Disk, true);
    world.knows(4).await;
    let first = world.job(&long).await;
    world.until("the first is warmed", |_, warming| warming.blocks == 4 && warming.jobs == 1).await;
    let second = world.job(&short).await;
    world.until("the second shares it", |_, warming| warming.counts.shared_blocks == 3).await;
    assert_eq!(store.warmed().len(), 1);

    world.ask(Method::DELETE, &format!("/v1/jobs/{first}"), Value::Null).await;
    world.until("it is taken back", |_, warming| warming.counts.of_jobs.unused_blocks == 4).await;
    let warmed = the_next_asks(&store, &short).await;

    // Its turn comes, and nothing was warm by then.
    world.open().await;
    world.succeeds(&second).await;
    let late = |_: &Status, warming: &WarmingStatus| warming.counts.of_jobs.late_blocks == 3;
    let counts = world.until("it came too late", late).await.store.unwrap().warming.unwrap().counts;
    assert_eq!((counts.in_time_blocks, counts.late_blocks, counts.unused_blocks), (0, 3, 4));
    until("the second is cooled", || store.cooled().contains(&(0, warmed[1].1.clone()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_back_is_not_warmed_and_what_has_no_prompt_to_read_is_passed_over() {
    let store = Store::start(TAKEN).await;
    let world = World::start(store.settings()).await;
    let [paused, delayed, asked] = [0, 10_000, 20_000].map(|stem| prompt(stem, 4));
    for prompt in [&paused, &delayed, &asked] {
        store.tell(prompt, Tier::Disk, true);
    }
    world.knows(12).await;
    let waits = world.job(&paused).await;
    world.until("it is warmed", |_, warming| warming.blocks == 4).await;
    let queue = format!("/queues/{}/jobs%2Fsim", server::lines::EVERYBODY);
    let admin = world.gateway.admin().to_string();
    let operate = async |what: &str| {
        let path = format!("{queue}/{what}");
        let asked =
            server::http::ask(Method::POST, &admin, &path, None, Bytes::new(), Duration::from_secs(10));
        let (status, body) = asked.await.unwrap();
        assert!(status.is_success(), "{status} {}", String::from_utf8_lossy(&body));
    };
    operate("pause").await;
    world.until("it is taken back", |_, warming| warming.counts.of_jobs.unused_blocks == 4).await;
    world.ask(Method::DELETE, &format!("/v1/jobs/{waits}"), Value::Null).await;
    operate("resume").await;

    // Nobody here can make tokens of a text for this model, and an embedding has no prefix.
    world.order("/v1/completions", json!({ "model": "sim", "prompt": "some text" })).await;
    world.order("/v1/embeddings", json!({ "model": "sim", "input": "some text" })).await;
    let later = json!({ "endpoint": "/v1/completions", "body": completion(&delayed), "delay": "1h" });
    world.ask(Method::POST, "/v1/jobs", later).await;
    world.job(&asked).await;
    world.until("the last is warmed", |_, warming| warming.counts.of_jobs.asked_blocks == 8).await;
    until("the store is asked", || store.warmed().len() == 2).await;
    assert_eq!(store.warmed()[1].2, names_of(&asked));
    let warming = world.status().await.store.unwrap().warming.unwrap();
    assert_eq!((warming.jobs, warming.counts.failed, warming.counts.asked_blocks), (1, 0, 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_stand_in_line_come_before_jobs() {
    let store = Store::start(TAKEN).await;
    let known = settings::Store { warm_blocks: 4, ..store.settings() };
    let world = World::start(known).await;
    let [of_job, of_request] = [0, 10_000].map(|stem| prompt(stem, 4));
    store.tell(&of_job, Tier::Disk, true);
    store.tell(&of_request, Tier::Disk, true);
    world.knows(8).await;
    let _job = world.job(&of_job).await;
    world.until("the job is warmed", |_, warming| warming.jobs == 1).await;
    let _request = world.send(of_request.clone());
    world.until("there is no room", |_, warming| warming.counts.over_budget == 1).await;
    // What the job wanted is in memory: then it is the request's turn, and a second job's only after that.
    let second = prompt(20_000, 4);
    store.tell(&second, Tier::Disk, true);
    world.knows(12).await;
    let _second = world.job(&second).await;
    world.until("there is no room for it either", |_, warming| warming.counts.over_budget == 2).await;
    store.tell(&of_job, Tier::Memory, true);
    until("another is asked for", || store.warmed().len() == 2).await;
    assert_eq!(store.warmed()[1].2, names_of(&of_request));
}
