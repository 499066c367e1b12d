//! Those who stand in line with nothing but their connection: they come, wait, get a turn, and leave at any moment.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use queue::entry::{Entry, Outcome};
use queue::ledger::What;
use queue::limits::{Limits, Narrow};
use queue::log::Memory;
use queue::name::{EntryId, Millis};
use queue::room::{Clock, Gone, Room, Runner, Started, Turn, Waiting};
use queue::scheduler::{Ground, Held, Placed, Tenancy, Why, Window};

use crate::kit::{
    Engines, Event, PARTITION, Place, TARGET, Time, World, at_most, block, entry, fifo, finish, name,
    options, until, waiting,
};

#[test]
fn a_turn_comes_in_the_order_of_the_line() {
    let world = World::new(1);
    let ids = Mutex::new(Vec::new());
    let first = block(world.room.stand(waiting("q"), |id| ids.lock().push(id))).unwrap();
    let second = world.room.stand(waiting("q"), |id| ids.lock().push(id));
    let third = world.room.stand(waiting("q"), |id| ids.lock().push(id));
    let ids: Vec<EntryId> = ids.into_inner();
    assert!(ids.is_sorted() && ids.iter().all(|id| id.seq.is_volatile()));
    assert_eq!(world.room.totals().depth.volatile, 2);
    assert!(first.place.is_some() && world.room.has_line());
    drop(first);
    let second = block(second).unwrap();
    assert_eq!(world.engines.taken(), 1);
    drop(second);
    drop(block(third).unwrap());
    world.is_empty();
}

#[test]
fn a_place_can_be_taken_out_of_a_turn_and_outlives_it() {
    let world = World::new(1);
    let mut turn = block(world.room.stand(waiting("q"), |_| ())).unwrap();
    let place = turn.place.take().unwrap();
    turn.used(queue::entry::Cost { tokens: 500, blocks: 2 });
    drop(turn);
    assert_eq!((world.engines.taken(), world.room.totals().depth.running), (1, 0));
    drop(place);
    world.is_empty();
}

#[test]
fn who_leaves_before_the_turn_leaves_the_line() {
    let world = World::new(0);
    let first = world.room.stand(waiting("q"), |_| ());
    let second = world.room.stand(waiting("q"), |_| ());
    drop(first);
    assert_eq!(world.room.totals().depth.volatile, 1);
    world.places(1);
    drop(block(second).unwrap());
    world.is_empty();
}

#[test]
fn who_leaves_with_the_turn_on_its_way_gives_it_to_the_next() {
    let world = World::new(1);
    // Its turn has come, and nobody has looked.
    let first = world.room.stand(waiting("q"), |_| ());
    assert_eq!(world.engines.taken(), 1);
    let second = world.room.stand(waiting("q"), |_| ());
    drop(first);
    drop(block(second).unwrap());
    world.is_empty();
}

#[test]
fn who_cannot_start_in_time_is_told_at_once_and_its_line_is_forgotten() {
    let world = World::new(0);
    let at = |millis| Some(world.time.pass(0).plus(millis));
    let first = world.room.stand(waiting("q"), |_| ());
    let second = world.room.stand(Waiting { deadline: at(100), ..waiting("q") }, |_| ());
    let alone = world.room.stand(Waiting { deadline: at(100), ..waiting("r") }, |_| ());
    let unseen = world.room.stand(Waiting { deadline: at(100), ..waiting("s") }, |_| ());
    assert_eq!(world.room.totals().depth.queues, 3);
    world.time.pass(100);
    assert_eq!(block(second).unwrap_err(), Gone::Expired);
    assert_eq!(block(alone).unwrap_err(), Gone::Expired);
    world.until("the lines are forgotten", || world.room.totals().depth.queues == 1);
    assert_eq!(world.room.check(), Ok(()));
    drop(unseen);
    world.places(1);
    drop(block(first).unwrap());
    world.is_empty();
}

#[test]
fn who_stands_and_what_is_durable_share_the_limits_of_a_tenant() {
    let log = Arc::new(Memory::new());
    let world = World::over(9, &log);
    let limits = Limits { running: Some(2), ..Limits::default() };
    world.room.tenancy("t", Tenancy { weight: 1, limits });
    let first = world.enqueue(entry("q", "a"));
    let started = world.notes.started();
    assert_eq!(started.id, first);
    let turn = block(world.room.stand(waiting("q"), |_| ())).unwrap();
    let second = world.enqueue(entry("q", "b"));
    let standing = world.room.stand(waiting("q"), |_| ());
    let held = Some(Why::Held(Held::Tenant, Narrow::Running));
    world.until("both wait for the tenant", || world.room.show(second).unwrap().why == held);
    assert!(world.notes.is_quiet());
    assert_eq!(world.room.totals().depth.running, 2);
    drop(turn);
    // Class 0 goes first.
    let turn = block(standing).unwrap();
    assert!(world.notes.is_quiet());
    world.finish(&started.hold(), Outcome::Done).unwrap();
    let next = world.notes.started();
    assert_eq!(next.id, second);
    drop(turn);
    world.finish(&next.hold(), Outcome::Done).unwrap();
    drop((started, next));
    world.is_empty();
}

#[test]
fn a_line_has_the_limits_of_who_made_it() {
    let world = World::new(9);
    let one = || Waiting { terms: at_most(1), ..waiting("q") };
    let first = block(world.room.stand(one(), |_| ())).unwrap();
    let second = world.room.stand(one(), |_| ());
    assert_eq!(world.room.totals().depth.running, 1);
    drop(first);
    drop(block(second).unwrap());
    world.is_empty();
}

#[test]
fn who_stands_in_a_room_that_closes_hears_of_it() {
    let world = World::new(1);
    let turn = block(world.room.stand(waiting("q"), |_| ())).unwrap();
    let standing: Vec<_> = (0..50).map(|_| world.room.stand(waiting("q"), |_| ())).collect();
    let mut standing = standing.into_iter();
    drop(standing.next());
    let room = world.room.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| room.close());
        for standing in standing.by_ref().take(40) {
            assert_eq!(block(standing).unwrap_err(), Gone::Closing);
        }
    });
    let late = world.room.stand(waiting("q"), |_| ());
    assert_eq!(block(late).unwrap_err(), Gone::Closing, "also who comes later");
    drop(standing);
    drop(turn);
    assert_eq!(world.engines.taken(), 0);
    assert_eq!(world.room.totals().depth, queue::scheduler::Depth::default());
    assert_eq!(world.room.check(), Ok(()));
}

#[test]
fn a_turn_and_a_standing_outlive_their_room() {
    let world = World::new(1);
    let engines = world.engines.clone();
    let turn = block(world.room.stand(waiting("q"), |_| ())).unwrap();
    let standing = world.room.stand(waiting("q"), |_| ());
    engines.ring(None);
    std::mem::drop(world.room.clone());
    let taken = engines.taken();
    assert_eq!(taken, 1);
    let told = std::thread::scope(|scope| {
        let told = scope.spawn(|| block(standing));
        world.room.close();
        told.join().unwrap()
    });
    assert_eq!(told.unwrap_err(), Gone::Closing);
    drop(turn);
    assert_eq!(engines.taken(), 0);
}

#[test]
fn thousands_come_wait_and_leave_at_any_moment_and_nothing_is_left() {
    let world = World::new(3);
    let room = world.room.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    let (turns, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..4_000_u64)
        .map(|number| {
            let (room, turns, gone) = (room.clone(), turns.clone(), gone.clone());
            runtime.spawn(async move {
                let line = Waiting {
                    class: queue::name::Class::new((number % 4) as u8).unwrap(),
                    ..waiting(&format!("q{}", number % 13))
                };
                let mut standing = room.stand(line, |_| ());
                // Some never look, some look a few times, some wait.
                for _ in 0..number % 5 {
                    tokio::task::yield_now().await;
                }
                let looked = match number % 3 {
                    0 => return drop(standing),
                    1 => {
                        let once = std::future::poll_fn(|context| {
                            let polled = std::pin::Pin::new(&mut standing).poll(context);
                            std::task::Poll::Ready(match polled {
                                std::task::Poll::Ready(turn) => Some(turn),
                                std::task::Poll::Pending => None,
                            })
                        });
                        once.await
                    }
                    _ => Some(standing.await),
                };
                match looked {
                    Some(Ok(turn)) => {
                        turns.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                        drop(turn);
                    }
                    Some(Err(gone)) => panic!("{gone}"),
                    None => drop(gone.fetch_add(1, Ordering::Relaxed)),
                }
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    assert!(turns.load(Ordering::Relaxed) >= 1_333, "everybody who waited had a turn");
    drop(room);
    world.is_empty();
}

#[test]
fn a_place_that_becomes_free_while_the_ground_says_there_is_none_is_not_missed() {
    // The ground says that it is full; before the room can note that somebody waits, a place becomes free, and whoever
    // frees it asks whether somebody waits.
    struct Late {
        room: Arc<Mutex<Option<Room<()>>>>,
        asked: Arc<AtomicUsize>,
    }
    impl Ground for Late {
        type Place = ();
        fn place(&mut self, _: &str, _: &str, _: Window<'_>) -> Placed<()> {
            if self.asked.fetch_add(1, Ordering::SeqCst) > 0 {
                return Placed::At(0, ());
            }
            let room = self.room.lock().clone().expect("a room");
            // `stir` itself would wait for the lock that is held here: it must at least see that it has to.
            assert!(room.has_line(), "nobody seems to wait: the place would stay free");
            Placed::Full
        }
    }
    struct Nobody;
    impl Runner<()> for Nobody {
        fn run(&self, _: Started<()>) {}
    }
    let (cell, asked) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
    let ground = Late { room: cell.clone(), asked: asked.clone() };
    let room = Room::new(options(), Arc::new(Time::default()), Box::new(ground), Arc::new(Nobody));
    *cell.lock() = Some(room.clone());
    let standing = room.stand(waiting("q"), |_| ());
    room.stir(Some(TARGET));
    drop(block(standing).unwrap());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    *cell.lock() = None;
}

#[test]
fn a_room_that_was_told_of_a_deadline_wakes_for_it() {
    // The clock sleeps for longer than the deadline is away: it must be woken, and the real time is what it sleeps by.
    struct Real(std::time::Instant);
    impl Clock for Real {
        fn now(&self) -> Millis {
            Millis(1_000 + self.0.elapsed().as_millis() as u64)
        }
    }
    #[expect(clippy::disallowed_methods, reason = "a clock that goes is what this test is about")]
    let clock = Arc::new(Real(std::time::Instant::now()));
    let engines = Engines::default();
    let room = Room::new(options(), clock.clone(), Box::new(engines), Arc::new(crate::kit::Notes::default()));
    let mut longest = 0;
    for _ in 0..20 {
        let deadline = clock.now().plus(10);
        let standing = room.stand(Waiting { deadline: Some(deadline), ..waiting("q") }, |_| ());
        assert_eq!(block(standing).unwrap_err(), Gone::Expired);
        longest = longest.max(clock.now().since(deadline));
    }
    // Without being woken each would take until the next look, half a second: ten seconds together.
    let took = clock.now().since(Millis(1_000));
    assert!(took < 9_000, "twenty deadlines of 10 ms took {took} ms, the last {longest} ms");
}

// === Runners that call the room from within their calls ===

#[test]
fn a_runner_may_ask_for_moves_from_within_its_calls() {
    let log = Arc::new(Memory::new());
    let world = World::over(2, &log);
    let room = world.room.clone();
    let (left, calls) = (Arc::new(AtomicUsize::new(500)), AtomicUsize::new(0));
    world.notes.reacting(move |event| match event {
        Event::Run(held) => {
            // In turn: it ends, it goes back, it is cancelled under the runner's feet.
            let what = match calls.fetch_add(1, Ordering::SeqCst) % 3 {
                0 => What::Cancel { seq: held.id.seq },
                1 => crate::kit::give_back(held, None),
                _ => finish(held, Outcome::Done),
            };
            let what = if left.load(Ordering::SeqCst) < 100 { finish(held, Outcome::Done) } else { what };
            drop(room.send(PARTITION, what));
            room.stir(None);
            drop(room.stand(waiting("q"), |_| ()));
            room.tenancy("u", Tenancy::default());
            assert!(room.queues().len() < 100);
        }
        Event::Over(..) | Event::Revoked(..) => {
            room.stir(Some(TARGET));
            let more = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if more.is_ok() {
                drop(room.send(PARTITION, What::Enqueue(Box::new(entry("q", "more")))));
            }
            assert_eq!(room.check(), Ok(()));
        }
    });
    for _ in 0..6 {
        world.enqueue(entry("q", "a"));
    }
    // Places are dropped here, and tell the room so.
    world.until("all have run", || {
        while let Some(started) = world.notes.try_started() {
            drop(started);
        }
        world.room.totals().logs[0].entries == Some(0) && !world.room.has_line()
    });
    world.notes.calm();
    while let Some(started) = world.notes.try_started() {
        drop(started);
    }
    world.is_empty();
}

#[test]
fn the_last_clone_may_be_dropped_by_a_runner() {
    for at in 0..3 {
        let log = Arc::new(Memory::new());
        let world = World::over(2, &log);
        let World { ref room, ref notes, ref engines, .. } = world;
        let cell = Arc::new(Mutex::new(Some(room.clone())));
        engines.ring(None);
        let (taken, (tell, told)) = (cell.clone(), std::sync::mpsc::channel());
        let room = room.clone();
        notes.reacting(move |event| {
            let stage = match event {
                Event::Run(_) => 0,
                Event::Revoked(..) => 1,
                Event::Over(..) => 2,
            };
            if stage == at {
                // Whoever closes first waits for all threads but its own.
                let last = taken.lock().take();
                if let Some(last) = last {
                    last.close();
                    drop(last);
                    tell.send(()).unwrap();
                }
            }
        });
        let id = world.enqueue(entry("q", "a"));
        let started = if at == 0 { None } else { Some(notes.started()) };
        match at {
            1 => drop(room.send(PARTITION, What::Cancel { seq: id.seq })),
            2 => drop(room.send(PARTITION, finish(&started.as_ref().unwrap().hold(), Outcome::Done))),
            _ => {}
        }
        told.recv().unwrap();
        drop(started);
        assert_eq!(room.partitions(), [0_u32; 0]);
    }
}

#[test]
fn the_last_clone_dropped_within_a_call_ends_the_room() {
    struct Owner {
        own: Arc<Mutex<Option<Room<Place>>>>,
        tell: std::sync::mpsc::Sender<()>,
    }
    impl Runner<Place> for Owner {
        fn run(&self, started: Started<Place>) {
            let last = self.own.lock().take();
            drop(last);
            drop(started);
            self.tell.send(()).unwrap();
        }
    }
    let (engines, own) = (Engines::default(), Arc::new(Mutex::new(None)));
    engines.set(TARGET, 1);
    let (tell, told) = std::sync::mpsc::channel();
    let owner = Arc::new(Owner { own: own.clone(), tell });
    let log = Arc::new(Memory::new());
    let room = Room::new(options(), Arc::new(Time::default()), Box::new(engines.clone()), owner);
    room.open(PARTITION, 1, log.clone()).unwrap();
    let mut hold = own.lock();
    let answer = room.send(PARTITION, What::Enqueue(Box::new(entry("q", "a"))));
    crate::kit::wait(answer).unwrap();
    *hold = Some(room);
    drop(hold);
    told.recv().unwrap();
    until("its threads let go of the log", || Arc::strong_count(&log) == 1);
    until("its place is free", || engines.taken() == 0);
}

#[test]
fn places_that_stir_from_their_drop_do_not_block_whoever_drops_them() {
    let log = Arc::new(Memory::new());
    let world = World::over(4, &log);
    let seen = Mutex::new(HashSet::new());
    // Places are dropped by a refused start, a revoked run, a turn that nobody waits for, a failed partition.
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (world, seen) = (&world, &seen);
            scope.spawn(move || {
                for number in 0..150 {
                    let queue = format!("q{thread}");
                    let id = world.enqueue(Entry { terms: fifo(), ..entry(&queue, "a") });
                    let standing = world.room.stand(waiting(&queue), |_| ());
                    if number % 2 == 0 {
                        let _done = world.ask(What::Cancel { seq: id.seq });
                    }
                    drop(standing);
                    let standing = (number % 7 == 0).then(|| world.room.stand(waiting(&queue), |_| ()));
                    let mut turn: Option<Turn<Place>> = None;
                    let mut standing = standing;
                    loop {
                        while let Some(started) = world.notes.try_started() {
                            if world.finish(&started.hold(), Outcome::Done).is_ok() {
                                assert!(seen.lock().insert(started.id), "it ended twice");
                            }
                        }
                        // Whoever waits for a place goes on to give back those that come.
                        let Some(waits) = standing.as_mut() else { break };
                        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                        if let std::task::Poll::Ready(came) = std::pin::Pin::new(waits).poll(&mut context) {
                            turn = Some(came.unwrap());
                            standing = None;
                        }
                    }
                    drop(turn);
                }
            });
        }
    });
    world.until("the rest ends", || {
        while let Some(started) = world.notes.try_started() {
            let _stale = world.finish(&started.hold(), Outcome::Done);
        }
        world.room.totals().logs[0].entries == Some(0)
    });
    assert_eq!(world.room.queue(&name("q0")).map(|queue| queue.running), None);
    world.is_empty();
}
