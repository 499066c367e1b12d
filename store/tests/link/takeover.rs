//! Masters die, come back, and take over from each other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use store::link::{Held, Lead, Masters};
use store::master::Deaf;
use store::master::options::Options;
use store::node::desk::{Desk, Later, Local, Nobody};
use store::resp::contract::{Only, Put, Sink, Store, Written};
use store::resp::refusal::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::kit::{Bridge, Chief, MIB, Plan, checked, key, options, settings, settle, until, value};

/// Who may lead, as a test says: what a coordinator would say in time.
#[derive(Clone)]
struct Crown {
    on: watch::Sender<usize>,
    terms: Arc<AtomicU32>,
}

/// One of those who would like to.
struct Heir {
    crown: Crown,
    number: usize,
    /// What a lease lasts if it is never renewed.
    once: Option<Duration>,
}

impl Crown {
    fn new() -> Self {
        Self { on: watch::Sender::new(0), terms: Arc::default() }
    }

    fn heir(&self, number: usize) -> Arc<Heir> {
        Arc::new(Heir { crown: self.clone(), number, once: None })
    }
}

impl Lead for Heir {
    fn after(&self, term: u32) {
        self.crown.terms.fetch_max(term, Ordering::SeqCst);
    }

    fn hold(&self) -> Later<Held> {
        let (mut on, terms) = (self.crown.on.subscribe(), self.crown.terms.clone());
        let (number, once) = (self.number, self.once);
        Box::pin(async move {
            on.wait_for(|on| *on == number).await.unwrap();
            let term = terms.fetch_add(1, Ordering::SeqCst) + 1;
            let lasts = once.unwrap_or(Duration::from_mins(10));
            let (renews, until) = watch::channel(Instant::now() + lasts);
            tokio::spawn(async move {
                on.wait_for(|on| *on != number).await.unwrap();
                if once.is_none() {
                    renews.send_replace(Instant::now());
                }
                renews.closed().await;
            });
            Held { term, until, keep: Box::new(()) }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_and_comes_back_is_told_everything_that_nodes_hold() {
    let folder = tempfile::tempdir().unwrap();
    let chief = Chief::begin(1, options()).await;
    let one = Plan::new("one", 8 * MIB, &[&chief]).on(folder.path()).begin().await;
    let two = Plan::new("two", 64 * MIB, &[&chief]).begin().await;
    for number in 0..60 {
        let home = if number % 2 == 0 { &one } else { &two };
        home.put(&key(number), &value(number, 0, 300_000)).await.unwrap();
    }
    settle(&chief, &[&one, &two]).await;
    let at = chief.kill();
    let refused = one.get(&key(1)).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable, "{refused}");
    let chief = Chief::lead(Arc::new(store::link::Alone::new(2)), options(), settings(), Some(at)).await;
    for number in 0..60 {
        for home in [&one, &two] {
            let found = home.find(&key(number)).await;
            assert!(found.as_deref() == Some(&value(number, 0, 300_000)[..]), "{number}");
        }
    }
    assert_eq!(one.find(b"never put").await, None);
    assert_eq!(chief.desk().count(chief.desk().tenant("default").unwrap()).wait().await.unwrap(), 60);
    assert_eq!(one.put(&key(3), &value(3, 1, 10)).await.unwrap(), Written::Stored);
    assert!(two.find(&key(3)).await.unwrap() == value(3, 1, 10));
    checked(&chief, &[&one, &two]).await;
}

/// The first node that joins knows of the other: what that one may have is not called absent before it has come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_may_have_that_has_not_come_yet_is_not_called_absent() {
    let chief = Chief::begin(1, options()).await;
    let one = Plan::new("one", 8 * MIB, &[&chief]).begin().await;
    let bridge = Bridge::to(chief.address).await;
    let far = Plan { masters: vec![bridge.address.to_string()], ..Plan::new("far", 8 * MIB, &[]) };
    let far = far.begin().await;
    far.put(b"k", b"v").await.unwrap();
    until(|| one.remote.book().all().len() == 2).await;
    let at = chief.kill();
    bridge.stall(true);
    let chief = Chief::lead(Arc::new(store::link::Alone::new(2)), options(), settings(), Some(at)).await;
    until(|| chief.masters.now().is_some_and(|desk| desk.master().node_list().len() == 2)).await;
    loop {
        match one.get(b"k").await {
            Err(refused) if refused.code == Code::Loading => break,
            Err(refused) => assert_eq!(refused.code, Code::Unavailable),
            Ok(found) => panic!("{found:?} before the other node has told"),
        }
    }
    bridge.stall(false);
    assert_eq!(one.find(b"k").await.as_deref(), Some(b"v".as_slice()));
    checked(&chief, &[&one, &far]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_master_serves_once_the_first_has_lost_its_lease_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let crown = Crown::new();
    let first = Chief::lead(crown.heir(0), options(), settings(), None).await;
    let second = Chief::lead(crown.heir(1), options(), settings(), None).await;
    let one = Plan::new("one", 16 * MIB, &[&first, &second]).on(folder.path()).begin().await;
    let two = Plan::new("two", 0, &[&second, &first]).begin().await;
    for turn in 0..6_usize {
        for number in 0..20 {
            let home = if number % 3 == 0 { &two } else { &one };
            // While nobody leads, it is refused, and may be tried again.
            while home.put(&key(number), &value(number, turn, 100_000)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        crown.on.send_replace((turn + 1) % 2);
        let (leads, stands_by) = if turn % 2 == 0 { (&second, &first) } else { (&first, &second) };
        until(|| leads.masters.now().is_some() && stands_by.masters.now().is_none()).await;
        for number in 0..20 {
            for home in [&one, &two] {
                assert!(home.find(&key(number)).await.unwrap() == value(number, turn, 100_000), "{number}");
            }
        }
        assert_eq!(leads.masters.term(), Some(turn as u32 + 2));
        checked(leads, &[&one, &two]).await;
    }
}

/// A master executes a put, is stopped before its answer is out, and wakes up when another one leads: nobody believes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_after_the_lease_is_not_believed_and_the_put_shows_nowhere() {
    let crown = Crown::new();
    let once = Heir { crown: crown.clone(), number: 0, once: Some(Duration::from_millis(800)) };
    let first = Chief::lead(Arc::new(once), options(), settings(), None).await;
    let second = Chief::lead(crown.heir(1), options(), settings(), None).await;
    let bridge = Bridge::to(first.address).await;
    let plan = Plan {
        masters: vec![bridge.address.to_string(), second.address.to_string()],
        ..Plan::new("one", 8 * MIB, &[])
    };
    let one = plan.begin().await;
    let mut sink = one.node.reserve(&one.tenant, b"k", 3).wait().await.unwrap();
    sink.space().copy_from_slice(b"new");
    bridge.stall(true);
    let commit = tokio::spawn(sink.commit(Put { only: Only::Absent, ..Put::default() }).wait());
    let old = first.masters.now();
    until(|| old.as_ref().is_none_or(|old| old.master().counters().moves.committed == 1)).await;
    until(|| first.masters.now().is_none()).await;
    crown.on.send_replace(1);
    until(|| second.masters.now().is_some()).await;
    bridge.stall(false);
    let refused = commit.await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::Unavailable, "{refused}");
    assert_eq!(one.find(b"k").await, None);
    assert_eq!(
        one.put_as(b"k", b"2", Put { only: Only::Absent, ..Put::default() }).await.unwrap(),
        Written::Stored
    );
    assert_eq!(one.find(b"k").await.as_deref(), Some(b"2".as_slice()));
    checked(&second, &[&one]).await;
}

/// Leads once, and notes whether its master still decided when the right to lead was given up.
struct Watched {
    masters: Arc<OnceLock<Masters>>,
    decided: Arc<OnceLock<bool>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let masters = self.masters.get().unwrap();
        self.decided.set(masters.now().is_some() || masters.over() != 5).unwrap();
    }
}

struct Once(std::sync::Mutex<Option<Watched>>);

impl Lead for Once {
    fn after(&self, _: u32) {}

    fn hold(&self) -> Later<Held> {
        let Some(keep) = self.0.lock().unwrap().take() else { return Box::pin(std::future::pending()) };
        let (always, until) = watch::channel(Instant::now() + Duration::from_mins(10));
        Box::pin(async move { Held { term: 5, until, keep: Box::new((keep, always)) } })
    }
}

/// A master that was told to stop gave up its lease first, and could let in a put when another led already.
#[tokio::test]
async fn a_master_that_stops_decides_nothing_any_more_when_it_gives_up_its_lease() {
    let (masters, decided) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let watched = Watched { masters: masters.clone(), decided: decided.clone() };
    let make = |term| Local::new(Options { term, ..options() }, Arc::new(Deaf), Arc::new(Nobody));
    let once = Once(std::sync::Mutex::new(Some(watched)));
    let leads = Masters::new(settings(), Arc::new(once), make);
    masters.set(leads.clone()).ok().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    leads.serve(listener, until(|| leads.now().is_some())).await;
    assert_eq!(decided.get(), Some(&false));
    assert_eq!((leads.term(), leads.over()), (None, 5));
}

/// Leads in the term that it has, whatever it is told.
struct Stubborn(store::link::Alone);

impl Lead for Stubborn {
    fn after(&self, _: u32) {}

    fn hold(&self) -> Later<Held> {
        self.0.hold()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_never_goes_back_to_a_lower_term() {
    let late = Chief::begin(7, options()).await;
    let stubborn = Arc::new(Stubborn(store::link::Alone::new(3)));
    let early = Chief::lead(stubborn, options(), settings(), None).await;
    let one = Plan::new("one", 8 * MIB, &[&late, &early]).begin().await;
    one.put(b"k", b"v").await.unwrap();
    let at = late.kill();
    for _ in 0..50 {
        assert_eq!(one.put(b"k", b"w").await.unwrap_err().code, Code::Unavailable);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    until(|| early.masters.now().is_some()).await;
    assert!(early.desk().master().node_list().is_empty());
    let late = Chief::lead(Arc::new(store::link::Alone::new(8)), options(), settings(), Some(at)).await;
    assert_eq!(one.find(b"k").await.as_deref(), Some(b"v".as_slice()));
    checked(&late, &[&one]).await;
}

/// Somebody who knows the secret said to have seen the last term of all: the master gave up, and could lead in none after that;
/// what it had written down kept it from leading ever again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terms_are_not_used_up_by_whoever_says_to_have_seen_the_last_one() {
    let chief = Chief::begin(7, options()).await;
    let home = Plan::new("one", 8 * MIB, &[&chief]).begin().await;
    home.put(b"k", b"v").await.unwrap();
    // A frame's length, kind and number; the greeting, to a master; the secret, a term and a mark.
    let hello = |term: u32| {
        let body =
            [&b"wlink\0\0\x01\0\x11\0\0\0a secret of tests"[..], &term.to_le_bytes(), &[9; 8]].concat();
        [&(body.len() as u32).to_le_bytes()[..], &[1], &[0; 8], &body].concat()
    };
    for (seen, sorry) in [(store::link::lead::LAST_TERM, 5), (u32::MAX, 2), (u32::MAX - 1, 2), (1 << 23, 5)] {
        let mut stream = tokio::net::TcpStream::connect(chief.address).await.unwrap();
        stream.write_all(&hello(seen)).await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        assert_eq!((said[4], said.last()), (3, Some(&sorry)), "{seen}");
    }
    assert_eq!(chief.masters.term(), Some(7), "it leads on");
    assert_eq!(home.find(b"k").await.as_deref(), Some(b"v".as_slice()));
    checked(&chief, &[&home]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_whose_terms_were_forgotten_is_told_and_begins_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut chief = Chief::begin(7, options()).await;
    let home = Plan::new("one", 8 * MIB, &[&chief]).on(folder.path()).begin().await;
    home.put(&key(1), &value(1, 0, 300)).await.unwrap();
    // An earlier term, and the same one again: both are over for whoever has seen the first.
    for (forgotten, next) in [(3, 8), (8, 9), (1, 10)] {
        let at = chief.kill();
        chief =
            Chief::lead(Arc::new(store::link::Alone::new(forgotten)), options(), settings(), Some(at)).await;
        until(|| chief.masters.term() == Some(next) && home.remote.is_up()).await;
        assert_eq!(home.remote.term(), next);
        assert_eq!(home.find(&key(1)).await.as_deref(), Some(&value(1, 0, 300)[..]));
    }
    checked(&chief, &[&home]).await;
}
