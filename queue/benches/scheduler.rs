//! What a decision costs, from ten queues to a million, and what a queue costs in memory; each beside its floor.
//!
//! `cargo bench -p warmline-queue --bench scheduler`. A cycle is what a start of an entry asks of the scheduler without its
//! disk: decide, confirm, ended, and told of another entry, so that as many wait as before. The floors are what no scheduler
//! does without: a turn of a sorted set of as many tags, and eight reads of which each says where the next one is, as the seat, its
//! turns, the queue, its entries and its tenant do, in a table with two lines for each queue.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::atomic::{AtomicIsize, Ordering};

use queue::entry::{Cost, Item, Terms};
use queue::inbox::{CAPACITY, Found, Inbox};
use queue::name::{Class, Key, Millis, QueueName, Seq};
use queue::scheduler::{Decision, Ground, LaneId, Options, Placed, QueueId, Scheduler, Window};

const ROUNDS: usize = 5;
const QUEUES: [usize; 4] = [10, 1_000, 100_000, 1_000_000];
/// Cycles in a round.
const CYCLES: usize = 400_000;

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

/// Everything fits everywhere.
struct Anywhere;

impl Ground for Anywhere {
    type Place = ();

    fn place(&mut self, _: &str, _: &str, _: Window<'_>) -> Placed<()> {
        Placed::At(0, ())
    }
}

fn main() {
    decisions();
    ahead();
    memory();
    refills();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A number that looks like chance.
fn mixed(number: usize) -> u32 {
    ((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

fn item(seq: u64) -> Item {
    let cost = Cost { tokens: 500 + mixed(seq as usize) % 3_000, blocks: 8 };
    let key = Key { at: Millis(1_763_000_000_000), seq: Seq(seq) };
    Item { key, cost, deadline: None, attempt: 0, overtaken: 0, remembered: false, hint: None }
}

fn name(at: usize) -> QueueName {
    // A hundred queues a tenant, named as people name them.
    QueueName::new(&format!("tenant-{}", at / 100), &format!("session-{at:08x}")).expect("a name")
}

fn populated(queues: usize) -> (Scheduler, Vec<LaneId>, u64) {
    let mut sched = Scheduler::new(Options { cached: usize::MAX, ..Options::default() });
    let terms = Terms::of("a-model");
    let mut next = 1;
    // Rows of a table lie where they came to lie, and not in the order of their turns.
    let mut lanes: Vec<LaneId> = (0..queues)
        .map(|at| {
            let queue = sched.add_queue(name(at), (1, at as u64), &terms, false);
            LaneId { queue, class: Class::FIRST }
        })
        .collect();
    for at in (1..lanes.len()).rev() {
        lanes.swap(at, mixed(at) as usize % (at + 1));
    }
    for lane in &lanes {
        for _ in 0..2 {
            sched.added(*lane, item(next)).expect("it is new");
            next += 1;
        }
    }
    (sched, lanes, next)
}

// === Decisions ===

fn decisions() {
    println!(
        "cycles a second of processor time: decide, confirm, ended, told of another; medians of {ROUNDS} rounds"
    );
    println!(
        "  {:>9}  {:>11}  {:>8}  {:>11}  {:>11}",
        "queues", "cycles/s", "ns", "a sorted set", "eight reads"
    );
    for queues in QUEUES {
        let (mut sched, _, mut next) = populated(queues);
        let mut tags: BTreeSet<(u64, u32)> =
            (0..queues as u32).map(|at| (mixed(at as usize).into(), at)).collect();
        let lines = chain(2 * queues);
        let (mut ours, mut turns, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            ours.push(rate(|| {
                for _ in 0..CYCLES {
                    cycle(&mut sched, next);
                    next += 1;
                }
            }));
            turns.push(rate(|| {
                for at in 0..CYCLES {
                    let (tag, member) = tags.pop_first().expect("as many as before");
                    tags.insert((tag + 500 + u64::from(mixed(at)) % 3_000, member));
                }
            }));
            reads.push(rate(|| {
                let mut at = mixed(round) as usize % lines.len();
                for _ in 0..8 * CYCLES {
                    at = lines[at][0] as usize;
                }
                black_box(at);
            }));
        }
        let (ours, turns, reads) = (median(ours), median(turns), median(reads));
        println!("  {queues:9}  {ours:11.0}  {:8.0}  {turns:12.0}  {reads:11.0}", 1e9 / ours);
    }
}

/// Lines of memory, each of which says where another one is.
fn chain(many: usize) -> Vec<[u64; 8]> {
    let mut order: Vec<u64> = (0..many as u64).collect();
    for at in (1..many).rev() {
        order.swap(at, mixed(at) as usize % (at + 1));
    }
    let mut lines = vec![[0; 8]; many];
    for at in 0..many {
        lines[order[at] as usize][0] = order[(at + 1) % many];
    }
    lines
}

fn cycle(sched: &mut Scheduler, next: u64) {
    let now = Millis(1_763_000_000_001);
    let Decision::Start(start) = sched.decide(now, &mut Anywhere) else { panic!("all are ready") };
    sched.confirm(start.entry, start.lease);
    sched.ended(start.entry, start.lease, start.item.cost, now).expect("it is held");
    sched.added(start.lane, item(next)).expect("it is new");
}

fn rate(work: impl FnOnce()) -> f64 {
    let begun = processor();
    work();
    CYCLES as f64 / (processor() - begun)
}

/// Seconds that this thread has had a core: what else runs on the machine counts less then.
fn processor() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes the time where it is told to.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0, "Linux says what a thread has used");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

// === What comes next ===

fn ahead() {
    const LOOKS: usize = 2_000;
    let now = Millis(1_763_000_000_001);
    println!(
        "\nmicroseconds that a look at what comes next takes, for so many entries; medians of {ROUNDS} rounds"
    );
    println!("  {:>9}  {:>8}  {:>8}", "queues", "64", "256");
    for queues in QUEUES {
        let (sched, ..) = populated(queues);
        let look = |most: usize| {
            let took = |_: usize| {
                let begun = processor();
                for _ in 0..LOOKS {
                    black_box(sched.ahead(most, now));
                }
                (processor() - begun) * 1e6 / LOOKS as f64
            };
            median((0..ROUNDS).map(took).collect())
        };
        println!("  {queues:9}  {:8.1}  {:8.1}", look(64), look(256));
    }
}

// === Memory ===

fn memory() {
    const MANY: usize = 200_000;
    println!("\nbytes a queue, of {MANY}, names included, as the system's allocator counts them");
    let terms = Terms::of("a-model");
    let bytes = |fill: &dyn Fn(&mut Scheduler, QueueId, u64)| {
        let mut sched = Scheduler::new(Options { cached: usize::MAX, ..Options::default() });
        let before = ALLOCATED.load(Ordering::Relaxed);
        for at in 0..MANY {
            let queue = sched.add_queue(name(at), (1, at as u64), &terms, false);
            fill(&mut sched, queue, at as u64);
        }
        let after = ALLOCATED.load(Ordering::Relaxed);
        black_box(&sched);
        (after - before) as f64 / MANY as f64
    };
    let lane = |queue| LaneId { queue, class: Class::FIRST };
    let known = bytes(&|_, _, _| {});
    let open = bytes(&|sched, queue, _| sched.open(lane(queue)));
    let one = bytes(&|sched, queue, at| sched.added(lane(queue), item(at)).expect("it is new"));
    let full = bytes(&|sched, queue, at| {
        (0..CAPACITY as u64).for_each(|i| sched.added(lane(queue), item(at * 100 + i)).expect("it is new"));
    });
    let names = name(MANY).tenant.len() + name(MANY).key.len();
    println!("  known by name only              {known:6.0}   (its name has {names} bytes)");
    println!("  it has entries, none in memory  {open:6.0}   (target: under 200)");
    println!("  one entry in memory             {one:6.0}");
    println!(
        "  a full cache of {CAPACITY}              {full:6.0}   ({} for an entry alone)",
        size_of::<Item>()
    );
}

// === Refills ===

fn refills() {
    const MANY: usize = 20_000;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let mut rows: Vec<(Inbox, Vec<Item>)> =
            (0..MANY).map(|_| (Inbox::unknown(), (0..CAPACITY as u64).map(item).collect())).collect();
        let begun = processor();
        for (inbox, items) in &mut rows {
            let ticket = inbox.begin().expect("it wants to read");
            assert!(inbox.finish(&ticket, Found { items: std::mem::take(items), full: true }));
        }
        took.push((processor() - begun) * 1e6 / MANY as f64);
        black_box(&rows);
    }
    println!(
        "\na refill of {CAPACITY} rows, taken in: {:.2} us (target: under 50, with its reading)",
        median(took)
    );
}
