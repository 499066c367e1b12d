//! What the master costs at a million objects: memory, questions, gets, puts, eviction, promotions; each beside its floor.
//!
//! `cargo bench -p warmline-store --bench master`. The floor is a bare hash map in as many shards, each under its own lock, from
//! key to eight bytes: what no master does without. Rates are of processor time, summed over threads. Latencies are wall time
//! without the batches in which the machine gave the processor to somebody else; how many those were is said.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::time::Instant;

use hashbrown::HashTable;
use parking_lot::Mutex;
use store::master::name::{Group, Millis, Name, Node, Pin, Tenant, Tier, Version};
use store::master::options::{Offload, Options, Promotion};
use store::master::{Deaf, Item, Joining, Master, News, Order, Presence, Put, Terms};
use xxhash_rust::xxh3::xxh3_64;

const OBJECTS: usize = 1_000_000;
const BATCH: usize = 128;
const SIZE: u64 = 1 << 20;
const ROUNDS: usize = 5;
const SHARDS: usize = 1_024;

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicIsize = AtomicIsize::new(0);

// SAFETY: it hands everything on to the system's allocator, and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(rounded(layout.size()), Ordering::Relaxed);
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(rounded(layout.size()), Ordering::Relaxed);
        // SAFETY: as promised to us.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What the system's allocator sets aside for so many bytes: eight for itself, sixteen at a time, thirty-two at least.
fn rounded(size: usize) -> isize {
    (size + 8).next_multiple_of(16).max(32) as isize
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn clock() -> Instant {
    Instant::now()
}

/// Processor time of this thread, in seconds.
fn worked() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes into what it is given, and nothing else.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// How often the machine gave this thread's processor to another; waiting for a lock is not that.
fn pushed_out() -> i64 {
    // SAFETY: all zeroes is a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: it writes into what it is given, and nothing else.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nivcsw
}

/// A prefix hash and where it comes from: 32 bytes.
fn key(number: usize) -> [u8; 32] {
    let mut key = [0; 32];
    for (at, part) in key.chunks_mut(8).enumerate() {
        part.copy_from_slice(&mixed((number * 4 + at) as u64).to_le_bytes());
    }
    key
}

fn mixed(number: u64) -> u64 {
    let wide = u128::from(number ^ 0x2545_f491_4f6c_dd1d) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
    (wide as u64) ^ (wide >> 64) as u64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Store {
    master: Arc<Master>,
    tenant: Tenant,
    node: Node,
    position: u64,
}

fn store(memory: u64, offload: Offload) -> Store {
    let promotion = Promotion { on: true, lease: 0, ..Promotion::default() };
    let options = Options { offload, promotion, lease: 0, orders: usize::MAX, ..Options::default() };
    let master = Master::new(options, Arc::new(Deaf), Arc::new(Deaf));
    let tenant = master.tenant("a").expect("room for one");
    let joining = Joining { id: "n", life: 1, memory, disk: u64::MAX / 4 };
    let node = master.join(&joining).expect("room for one").node;
    master.begin_inventory(node, 1).expect("it joined");
    master.end_inventory(node, 1, 0, Millis(0)).expect("it joined");
    Store { master: Arc::new(master), tenant, node, position: 0 }
}

impl Store {
    fn put(&self, key: &[u8], now: Millis) -> bool {
        let reserved = self.master.reserve(&Put::new(self.tenant, key, SIZE), now);
        reserved.is_ok_and(|reserved| self.master.commit(reserved.put, &Terms::default(), now).is_ok())
    }

    fn fill(&self) {
        for number in 0..OBJECTS {
            assert!(self.put(&key(number), Millis(0)), "there is room for all");
        }
    }

    fn tell(&mut self, news: &News) {
        self.position += 1;
        let _ = self.master.tell(self.node, 1, self.position, news, Millis(0));
    }

    fn adopt(&mut self, number: usize) {
        let name = Name { tenant: self.tenant, key: key(number).into() };
        let (pin, group, tier, version) = (Pin::None, Group::NONE, Tier::Disk, Version(number as u64 + 1));
        self.tell(&News::Adopted(Item {
            name,
            version,
            size: SIZE,
            tier,
            pin,
            group,
            block: None,
            ends: None,
            doubtful: false,
        }));
    }

    /// The node does at once whatever it is told.
    fn obey(&mut self) -> usize {
        let orders = self.master.take_orders(self.node, u64::MAX).expect("it joined");
        for order in &orders {
            if let Order::Drop { version, tier, .. } = order {
                self.tell(&News::Released { version: *version, tier: *tier });
            }
        }
        orders.len()
    }
}

/// The floor.
struct Bare(Box<[Mutex<HashTable<Row>>]>);

type Row = (Box<[u8]>, u64);

impl Bare {
    fn filled() -> Self {
        let bare = Self((0..SHARDS).map(|_| Mutex::default()).collect());
        for number in 0..OBJECTS {
            let row = (Box::from(key(number)), number as u64);
            let hash = xxh3_64(&row.0);
            bare.shard(hash).lock().insert_unique(hash, row, |row| xxh3_64(&row.0));
        }
        bare
    }

    fn shard(&self, hash: u64) -> &Mutex<HashTable<Row>> {
        &self.0[(hash >> 47) as usize % SHARDS]
    }

    fn has(&self, key: &[u8]) -> bool {
        let hash = xxh3_64(key);
        self.shard(hash).lock().find(hash, |row| *row.0 == *key).is_some()
    }
}

fn main() {
    println!("{OBJECTS} objects, keys of 32 bytes");
    let bare = Arc::new(memory_of("a bare map", Bare::filled));
    let store = memory_of("the master, in memory", || {
        let store = store(u64::MAX / 4, Offload::Off);
        store.fill();
        store
    });
    exists(&store, &bare);
    gets(&store, &bare);
    drop(store);
    memory_of("the master, on disk and each read once", || {
        let mut store = self::store(u64::MAX / 4, Offload::Off);
        (0..OBJECTS).for_each(|number| store.adopt(number));
        (0..OBJECTS).for_each(|number| drop(store.master.get(store.tenant, &key(number), Millis(0))));
        store
    });
    puts();
    eviction();
    promotions();
    restart();
}

/// What something costs in memory, beyond keys.
fn memory_of<T>(what: &str, make: impl FnOnce() -> T) -> T {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let made = make();
    let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
    let each = bytes as f64 / OBJECTS as f64 - rounded(32) as f64;
    println!("memory, {what}: {each:.1} bytes an object beyond its key");
    made
}

/// Keys a second, with so many threads, each asking in batches.
fn rate(threads: usize, ask: impl Fn(&[[u8; 32]]) -> usize + Sync) -> f64 {
    let each = 400_000 / BATCH;
    let one = |thread: usize| {
        let start = worked();
        let mut found = 0;
        for batch in 0..each {
            let first = (thread * 7_919 + batch) * BATCH;
            let keys: [[u8; 32]; BATCH] =
                std::array::from_fn(|at| key(mixed((first + at) as u64) as usize % OBJECTS));
            found += ask(&keys);
        }
        assert_eq!(found, each * BATCH);
        (each * BATCH) as f64 / (worked() - start)
    };
    let round = |_| -> f64 {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn({
                        let one = &one;
                        move || one(thread)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        })
    };
    median((0..ROUNDS).map(round).collect())
}

fn exists(store: &Store, bare: &Bare) {
    for threads in [1, 2] {
        let ours = rate(threads, |keys| ask(store, keys));
        let floor = rate(threads, |keys| keys.iter().filter(|key| bare.has(*key)).count());
        println!(
            "exists, batches of {BATCH}, {threads} thread(s): {:.2} M keys/s; bare map {:.2} M keys/s ({:.0} %)",
            ours / 1e6,
            floor / 1e6,
            100.0 * ours / floor
        );
    }
}

fn ask(store: &Store, keys: &[[u8; 32]]) -> usize {
    let mut into = Vec::with_capacity(BATCH);
    let keys: [&[u8]; BATCH] = std::array::from_fn(|at| keys[at].as_slice());
    store.master.exists_many(store.tenant, &keys, &mut into);
    into.iter().filter(|presence| **presence == Presence::Here).count()
}

fn gets(store: &Store, bare: &Bare) {
    let now = Millis(1);
    for threads in [1, 2] {
        let ours = rate(threads, |keys| {
            keys.iter()
                .filter(|key| {
                    matches!(store.master.get(store.tenant, *key, now), store::master::Found::Here(_))
                })
                .count()
        });
        let floor = rate(threads, |keys| keys.iter().filter(|key| bare.has(*key)).count());
        println!("get, {threads} thread(s): {:.2} M/s; bare map {:.2} M/s", ours / 1e6, floor / 1e6);
    }
}

fn puts() {
    let round = |_| {
        let store = store(u64::MAX / 4, Offload::Off);
        let start = worked();
        for number in 0..OBJECTS / 2 {
            assert!(store.put(&key(number), Millis(0)));
        }
        (OBJECTS / 2) as f64 / (worked() - start)
    };
    let ours = median((0..3).map(round).collect());
    let floor = median(
        (0..3)
            .map(|_| {
                let start = worked();
                let bare = Bare::filled();
                let rate = OBJECTS as f64 / (worked() - start);
                black_box(bare);
                rate
            })
            .collect(),
    );
    println!(
        "put (reserve, commit): {:.2} M/s; an insert into a bare map {:.2} M/s",
        ours / 1e6,
        floor / 1e6
    );
}

/// Latencies of batches, in microseconds: median, 99 %, 99.9 %, the worst.
fn latencies(store: &Store, until: &dyn Fn(usize) -> bool) -> [f64; 4] {
    let mut times: Vec<f64> = Vec::new();
    let (mut batch, mut interrupted) = (0, 0);
    while !until(batch) {
        let keys: [[u8; 32]; BATCH] =
            std::array::from_fn(|at| key(mixed((batch * BATCH + at) as u64) as usize % OBJECTS));
        let (start, before) = (clock(), pushed_out());
        black_box(ask(store, &keys));
        let took = start.elapsed().as_secs_f64() * 1e6;
        if pushed_out() == before {
            times.push(took);
        } else {
            interrupted += 1;
        }
        batch += 1;
    }
    print!("({interrupted} of {batch} left out) ");
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    [at(0.5), at(0.99), at(0.999), at(1.0)]
}

fn eviction() {
    // A million objects are nine tenths of it: everything that is put pushes something out.
    let mut full = store(OBJECTS as u64 * SIZE * 100 / 95, Offload::Off);
    full.fill();
    let print = |what: &str, [half, most, more, worst]: [f64; 4]| {
        println!(
            "exists batch, {what}: median {half:.0} us, p99 {most:.0} us, p99.9 {more:.0} us, worst {worst:.0} us"
        );
    };
    print("idle", latencies(&full, &|batch| batch >= 20_000));
    let stop = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        let stop = &stop;
        // The floor: the other core is busy with something that touches as much memory, and no lock.
        scope.spawn(move || {
            let table: Vec<u64> = (0..32_u64 << 20 >> 3).collect();
            let mut at = 0;
            while !stop.load(Ordering::Relaxed) {
                at = (table[at] ^ mixed(at as u64)) as usize % table.len();
            }
            black_box(at);
        });
        let busy = latencies(&full, &|batch| batch >= 20_000);
        stop.store(true, Ordering::Relaxed);
        busy
    });
    print("while the other core does something else", busy);
    let stop = AtomicBool::new(false);
    let evicted = AtomicUsize::new(0);
    let reader = Store { master: full.master.clone(), tenant: full.tenant, node: full.node, position: 0 };
    let begin = clock();
    let (seen, took) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = OBJECTS;
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    full.put(&key(number), Millis(0));
                    number += 1;
                }
                full.master.tick(Millis(0));
                evicted.fetch_add(full.obey(), Ordering::Relaxed);
            }
        });
        let seen = latencies(&reader, &|batch| batch >= 20_000);
        stop.store(true, Ordering::Relaxed);
        (seen, begin.elapsed())
    });
    print("while eviction runs", seen);
    let rate = evicted.load(Ordering::Relaxed) as f64 / took.as_secs_f64();
    println!("  meanwhile {rate:.0} objects/s were put and as many evicted");
    full.master.check().expect("everything adds up");
}

fn promotions() {
    let many = 100_000;
    let mut store = store(u64::MAX / 4, Offload::Off);
    (0..many).for_each(|number| store.adopt(number));
    let per = |seconds: f64| seconds * 1e9 / many as f64;
    let start = worked();
    (0..many).for_each(|number| drop(store.master.get(store.tenant, &key(number), Millis(0))));
    let cold = worked() - start;
    // Four thousand at a time, as the cap allows.
    let (mut decide, mut task) = (0.0, 0.0);
    for first in (0..many).step_by(4_000) {
        let start = worked();
        for number in first..(first + 4_000).min(many) {
            black_box(store.master.get(store.tenant, &key(number), Millis(0)));
        }
        decide += worked() - start;
        let start = worked();
        for order in store.master.take_orders(store.node, u64::MAX).expect("it joined") {
            let Order::Promote(id, copying) = order else { continue };
            store.master.allocate(id, store.node, copying.size, Millis(0)).expect("there is room");
            store.master.promoted(id, store.node, Millis(0)).expect("it was staged");
        }
        task += worked() - start;
    }
    assert!(store.master.counters().promotions.completed > many as u64 * 99 / 100);
    println!(
        "promotion: a get that counts {:.0} ns, one that decides and orders {:.0} ns, delivery to commit {:.0} ns",
        per(cold),
        per(decide),
        per(task)
    );
    refused("memory is full of a few", 9);
    refused("nothing in memory is colder", 95_000);
}

/// What a tick costs when candidates are refused, with memory full of so many that are hotter.
fn refused(what: &str, objects: usize) {
    let mut full = store(objects as u64 * SIZE * 20 / 19, Offload::Off);
    assert!((0..objects).all(|number| full.put(&key(OBJECTS + number), Millis(0))));
    for _ in 0..4 {
        (0..objects).for_each(|number| drop(full.master.get(full.tenant, &key(OBJECTS + number), Millis(0))));
    }
    (0..50_000).for_each(|number| full.adopt(number));
    for _ in 0..2 {
        (0..50_000).for_each(|number| drop(full.master.get(full.tenant, &key(number), Millis(0))));
    }
    let start = worked();
    let ticks = 160;
    let tried: usize = (0..ticks).map(|at| full.master.tick(Millis(20 + at)).tried).sum();
    println!(
        "tick with {} candidates, {what}: {:.0} us, of 128 tries and 64 shards ({tried} tries in {ticks} ticks)",
        full.master.candidates(),
        (worked() - start) * 1e6 / ticks as f64
    );
}

fn restart() {
    let store = store(u64::MAX / 4, Offload::Off);
    let tenant = store.tenant;
    let item = |number: usize| Item {
        name: Name { tenant, key: key(number).into() },
        version: Version(number as u64 + 1),
        size: SIZE,
        tier: Tier::Disk,
        pin: Pin::None,
        group: Group::NONE,
        block: None,
        ends: None,
        doubtful: false,
    };
    let start = clock();
    store.master.begin_inventory(store.node, 1).expect("it joined");
    for first in (0..OBJECTS).step_by(1_000) {
        let items: Vec<Item> = (first..first + 1_000).map(item).collect();
        store.master.inventory(store.node, 1, &items).expect("a snapshot has begun");
    }
    store.master.end_inventory(store.node, 1, 0, Millis(0)).expect("a snapshot has begun");
    println!("restart: an inventory of {OBJECTS} objects in {:.2} s", start.elapsed().as_secs_f64());
    let start = clock();
    store.master.lost(store.node).expect("it joined");
    println!(
        "a node with {OBJECTS} objects is lost: {:.2} s, a shard at a time",
        start.elapsed().as_secs_f64()
    );
    store.master.check().expect("everything adds up");
}
