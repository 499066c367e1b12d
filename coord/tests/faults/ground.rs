//! What the fault tests stand on: instances on one backend each, waiting for a condition, and a load that keeps books.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use coord::backend::{Backend, Config, Heard, Registry};
use coord::wait::{Waited, Waits};
use coord::{Coord, Error, Key, Name, Shard};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn name(word: impl Into<String>) -> Name {
    Name::new(word).unwrap()
}

pub(crate) fn names(prefix: &str, count: usize) -> Vec<Name> {
    (0..count).map(|i| name(format!("{prefix}{i}"))).collect()
}

pub(crate) fn key(word: impl Into<String>) -> Key {
    Key::new(word).unwrap()
}

/// A name that lives in this shard.
pub(crate) fn name_in(shard: Shard, prefix: &str) -> Name {
    (0..10_000).map(|i| name(format!("{prefix}{i}"))).find(|name| name.shard() == shard).unwrap()
}

pub(crate) fn key_in(shard: Shard, prefix: &str) -> Key {
    let name = name_in(shard, prefix);
    Key::beside(&name, name.as_str()).unwrap()
}

pub(crate) async fn backend(dsn: String) -> Arc<dyn Backend> {
    let config = Config { backend: "redis".to_owned(), dsn, ..Config::default() };
    Registry::new().make(&config).await.unwrap()
}

/// An instance with a backend, and so connections, of its own.
pub(crate) async fn instance(dsn: String, who: &str) -> Coord {
    let seed = who.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte));
    Coord::new(backend(dsn).await, name(who), seed)
}

/// Looks until something is there.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}: it did not happen"))
}

/// Asks again until the coordinator is not away any more; whatever else it says is the answer.
pub(crate) async fn answered<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    until(what, async || match ask().await {
        Err(error) if error.is_absence() => None,
        answer => Some(answer),
    })
    .await
}

/// Waits until what `teller` tells in this shard is heard by `hearer`.
pub(crate) async fn heard(hearer: &Coord, teller: &Coord, shard: Shard) {
    let mut notices = hearer.hear();
    let mut number = 0_u64;
    until("a notice is heard", async || {
        number += 1;
        let text = Bytes::from(format!("test {}", teller.token()));
        teller.tell(shard, text.clone()).await.ok()?;
        let hearing = async {
            while let Ok(heard) = notices.recv().await {
                if heard == Heard::Notice(shard, text.clone()) {
                    return Some(());
                }
            }
            None
        };
        timeout(LOOK * 5, hearing).await.ok().flatten()
    })
    .await;
}

/// A waiter on one instance is woken by an arrival on another, and not by its own poll: in one of some attempts it is
/// done before any poll could have been.
pub(crate) async fn wakes(waiter: &Coord, worker: &Coord, shard: Shard) {
    let (here, there) = (Waits::begin(waiter), Waits::begin(worker));
    let (set, member) = (name("set"), name("member"));
    for attempt in 0..10 {
        let request = name_in(shard, &format!("wake.{attempt}.{}.", worker.token()));
        there.expect(&request, &set, vec![member.clone()]).await.unwrap();
        let began = Instant::now();
        let waiting = tokio::spawn({
            let (here, request) = (here.clone(), request.clone());
            async move { here.wait(&request, PATIENCE).await }
        });
        until("somebody waits", async || (here.waited_for() > 0).then_some(())).await;
        sleep(LOOK * 5).await;
        there.arrive(&request, &set, &member, None).await.unwrap();
        assert_eq!(waiting.await.unwrap(), Waited::Done(Vec::new()));
        if began.elapsed() < coord::wait::POLL / 2 {
            return;
        }
    }
    panic!("only polls ended ten waits");
}

// === A load that keeps books ===

/// Tasks that add one to a counter again and again, and what they were told.
pub(crate) struct Load {
    pub(crate) key: Key,
    books: Arc<Books>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Books {
    over: AtomicBool,
    done: AtomicU64,
    unknown: AtomicU64,
    unavailable: AtomicU64,
    lost: AtomicU64,
    /// The longest that one call took, in milliseconds.
    longest: AtomicU64,
}

/// What the tasks were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) done: u64,
    pub(crate) unknown: u64,
    pub(crate) unavailable: u64,
    pub(crate) lost: u64,
}

impl Load {
    /// As many tasks as instances are given.
    pub(crate) fn begin(coords: &[Coord], key: &Key) -> Self {
        let books: Arc<Books> = Arc::default();
        let mut tasks = JoinSet::new();
        for coord in coords {
            tasks.spawn(add(coord.clone(), key.clone(), books.clone()));
        }
        Self { key: key.clone(), books, tasks }
    }

    pub(crate) fn told(&self) -> Told {
        let read = |book: &AtomicU64| book.load(SeqCst);
        let Books { done, unknown, unavailable, lost, .. } = &*self.books;
        Told { done: read(done), unknown: read(unknown), unavailable: read(unavailable), lost: read(lost) }
    }

    /// Waits until so many more were done.
    pub(crate) async fn more(&self, more: u64) {
        let before = self.told().done;
        until("additions go on", async || (self.told().done >= before + more).then_some(())).await;
    }

    /// Waits until so many more had no answer.
    pub(crate) async fn fails(&self, more: u64) {
        let without = |told: Told| told.unknown + told.unavailable;
        let before = without(self.told());
        until("additions fail", async || (without(self.told()) >= before + more).then_some(())).await;
    }

    /// Ends it, and holds the counter against the books: each addition that was done counts once, each whose answer was
    /// lost once or not at all, and no other does.
    pub(crate) async fn ends(self, witness: &Coord) -> Told {
        let (count, told) = self.counts(witness).await;
        let right = told.lost == 0 && (told.done..=told.done + told.unknown).contains(&count);
        assert!(right, "the counter stands at {count}, and its users were told {told:?}");
        told
    }

    /// The same where a master dies that its replica was not quite up with: what it kept to itself is gone with it.
    pub(crate) async fn ends_after_a_takeover(self, witness: &Coord) -> Told {
        let (count, told) = self.counts(witness).await;
        let right = count <= told.done + told.unknown;
        assert!(right, "the counter stands at {count}, and its users were told {told:?}");
        told
    }

    async fn counts(mut self, witness: &Coord) -> (u64, Told) {
        self.books.over.store(true, SeqCst);
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap();
        }
        let count = until("the counter is read", async || witness.count(&self.key).await.ok()).await as u64;
        let longest = Duration::from_millis(self.books.longest.load(SeqCst));
        // Four times as long as a call has; a machine may be busy.
        assert!(longest < coord::coord::PATIENCE * 4, "a call took {longest:?}");
        (count, self.told())
    }
}

async fn add(coord: Coord, key: Key, books: Arc<Books>) {
    while !books.over.load(SeqCst) {
        let began = Instant::now();
        let told = match coord.add(&key, 1).await {
            Ok(_) => &books.done,
            Err(Error::OutcomeUnknown { .. }) => &books.unknown,
            Err(Error::Unavailable(_)) => &books.unavailable,
            Err(Error::StateLost { .. }) => &books.lost,
            Err(other) => panic!("an addition was answered: {other}"),
        };
        told.fetch_add(1, SeqCst);
        books.longest.fetch_max(began.elapsed().as_millis() as u64, SeqCst);
        // Others have to come in between.
        sleep(Duration::from_millis(2)).await;
    }
}
