//! Who is looked at and how soon, and what becomes of claims: with a line that is made up, and a store and others that are away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord::backend::memory::Memory;
use coord::backend::{Answer, Backend, Call, Heard, Registry};
use coord::{Coord, Error, Name};
use futures::future::BoxFuture;
use index::Index;
use queue::name::{Class, EntryId, Seq};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use super::claims::Claims;
use super::link::Link;
use super::plan::{Ask, Cold, InLine, Plan, Steps};
use super::{COUNTED, Crowd, Pending, Warming, standing};
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::replicas::Replicas;
use crate::settings::{Settings, Span};
use crate::tokens::Way;

const SECOND: Duration = Duration::from_secs(1);
/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

/// Warming of a gateway that looks at so many, where nobody waits for longer than ten seconds.
async fn warming(looks_at: usize) -> Arc<Warming> {
    let mut settings = Settings::default();
    settings.store.events = Some("tcp://127.0.0.1:1".to_owned());
    settings.store.address = Some(NOWHERE.to_owned());
    settings.store.warm_requests = looks_at;
    settings.queue.max_wait = Span::seconds(10);
    let fleet = Fleet::new(&settings, Arc::new(Index::new()), Clock::start()).unwrap();
    let place = SocketAddr::from(([127, 0, 0, 1], 0));
    let replicas = Replicas::join(&settings.coordination, &Registry::new(), fleet.clone(), (place, place))
        .await
        .unwrap();
    Warming::new(&fleet, &replicas).unwrap().unwrap()
}

fn pending(tenant: &str, class: Class) -> Arc<Pending> {
    Arc::new(Pending {
        id: "x".to_owned(),
        model: "m".to_owned(),
        tokens: Vec::new(),
        bytes: Bytes::new(),
        way: Way::Given,
        cache_salt: None,
        streams: false,
        pinned: None,
        answer: 0,
        tried: Vec::new(),
        tenant: tenant.into(),
        class,
        cuts: std::sync::OnceLock::new(),
    })
}

fn seq(number: u64) -> Seq {
    Seq(Seq::VOLATILE | number)
}

fn crowd(line: &[(&str, Class)]) -> Crowd {
    let mut crowd = Crowd::default();
    for (number, (tenant, class)) in line.iter().enumerate() {
        crowd.asks.insert(seq(number as u64), pending(tenant, *class));
    }
    crowd
}

/// Who is looked at, in which order, and the time until the turn of each in milliseconds.
fn looked(warming: &Warming, crowd: &mut Crowd, rate: f64, plan: &Plan) -> Vec<(u64, u128)> {
    let seen = warming.look(crowd, rate, plan);
    seen.line.iter().map(|(turn, who, _)| (who.seq.0 & !Seq::VOLATILE, turn.as_millis())).collect()
}

fn cold(places: std::ops::Range<u32>) -> Vec<Cold> {
    places.map(|at| Cold { prefix: 1_000 + u64::from(at), at }).collect()
}

fn ask(id: u64, places: std::ops::Range<u32>) -> Ask {
    Ask { id, within: SECOND * 5, blocks: cold(places) }
}

/// A store that takes whatever it is asked; where it is.
async fn willing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = vec![0; 64 << 10];
                while let Ok(count @ 1..) = stream.read(&mut heard).await {
                    let taken: &[u8] = if heard[..count].windows(4).any(|word| word == b"WARM") {
                        b"*2\r\n:3\r\n:2\r\n"
                    } else {
                        b":1\r\n"
                    };
                    if stream.write_all(taken).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn link(address: &str) -> Link {
    Link::new(vec![address.to_owned()], None, SECOND * 30)
}

// === Who is looked at ===

#[tokio::test]
async fn the_first_of_each_tenant_stands_before_the_second_of_any_and_a_class_before_the_next() {
    let warming = warming(64).await;
    let (now, later) = (Class::FIRST, Class::LAST);
    let line = [("a", later), ("a", now), ("a", now), ("b", now), ("b", later), ("a", now), ("c", now)];
    let order = looked(&warming, &mut crowd(&line), 1.0, &Plan::new(10));
    assert_eq!(order.iter().map(|(who, _)| *who).collect::<Vec<_>>(), [1, 3, 6, 2, 5, 0, 4]);
}

#[tokio::test]
async fn turns_are_reckoned_at_the_rate_of_late_and_one_a_second_where_nothing_has_moved() {
    let warming = warming(64).await;
    let mut crowd = crowd(&[("a", Class::LAST); 12]);
    let plan = Plan::new(10);
    let turns = |crowd: &mut Crowd, rate| {
        looked(&warming, crowd, rate, &plan).into_iter().map(|(_, turn)| turn).collect::<Vec<_>>()
    };
    let each = |millis: u128| (1..=12).map(|place| (place * millis).min(10_000)).collect::<Vec<u128>>();
    assert_eq!(turns(&mut crowd, 2.0), each(500), "the first waits for one turn, and not for none");
    assert_eq!(turns(&mut crowd, 0.0), each(1_000), "nobody waits for longer than may be waited");
    assert_eq!(turns(&mut crowd, 1e-30), vec![10_000; 12]);
}

#[tokio::test]
async fn so_many_are_looked_at_as_are_set_and_whoever_is_known_until_they_leave() {
    let warming = warming(2).await;
    let mut crowd = crowd(&[("a", Class::LAST); 5]);
    let mut plan = Plan::new(10);
    let who = |order: Vec<(u64, u128)>| order.into_iter().map(|(who, _)| who).collect::<Vec<_>>();
    assert_eq!(who(looked(&warming, &mut crowd, 1.0, &plan)), [0, 1]);
    // The fourth is known, though others have come before it since.
    plan.step(SECOND, &[InLine { who: standing(seq(3)), turn_in: SECOND, cold: cold(0..1) }], &[]);
    assert_eq!(looked(&warming, &mut crowd, 1.0, &plan), [(0, 1_000), (1, 2_000), (3, 4_000)]);
    // Who left is told once, and whether they had their turn.
    for (number, turned) in [(3, true), (4, false)] {
        let gone = crowd.asks.remove(&seq(number)).unwrap();
        crowd.left.push((seq(number), turned, gone));
    }
    let left = |crowd: &mut Crowd| {
        let seen = warming.look(crowd, 1.0, &plan);
        seen.left.iter().map(|(who, turned, _)| (*who, *turned)).collect::<Vec<(EntryId, bool)>>()
    };
    assert_eq!(left(&mut crowd), [(standing(seq(3)), true), (standing(seq(4)), false)]);
    assert_eq!(left(&mut crowd), []);
    // A long line costs no more than a short one: one of another tenant far behind is not looked for.
    let mut line = vec![("a", Class::LAST); 2 * COUNTED];
    line.push(("b", Class::FIRST));
    assert_eq!(who(looked(&warming, &mut self::crowd(&line), 1.0, &Plan::new(10))), [0, 1]);
    line.remove(0);
    assert_eq!(who(looked(&warming, &mut self::crowd(&line), 1.0, &Plan::new(10))), [31, 0], "near enough");
}

// === Claims ===

/// Two replicas that agree.
fn two() -> [Claims; 2] {
    let memory: Arc<dyn Backend> = Arc::new(Memory::new(None));
    ["one", "other"].map(|who| Claims::new(Coord::new(memory.clone(), Name::new(who).unwrap(), 7)))
}

/// Blocks that somebody else has.
async fn denied(claims: &mut Claims, ask: &Ask) -> usize {
    let (taken, unsure) = claims.take(ask).await;
    assert_eq!(unsure, 0);
    for taken in &taken {
        assert!(taken.left > SECOND && taken.left <= SECOND * 6, "a moment longer than it is wanted");
    }
    let denied = taken.iter().map(|taken| taken.blocks.len()).sum();
    claims.release(std::iter::once(ask.id)).await;
    denied
}

#[tokio::test]
async fn what_one_replica_asks_for_is_its_own_until_it_lets_go_and_no_more_than_that() {
    let [mut one, mut other] = two();
    // Stretches of 64: two whole ones, and two blocks of a third.
    let (taken, unsure) = one.take(&ask(1, 0..130)).await;
    assert_eq!((taken.len(), unsure), (0, 0));
    one.take(&ask(2, 192..200)).await;
    assert_eq!(denied(&mut other, &ask(7, 0..130)).await, 130);
    assert_eq!(denied(&mut other, &ask(7, 0..192)).await, 128, "the third is called by its last block");
    assert_eq!(denied(&mut one, &ask(8, 256..300)).await, 0);
    let mut all = one.all();
    all.sort_unstable();
    assert_eq!(all, [1, 2]);
    one.release([1].into_iter()).await;
    assert_eq!((denied(&mut other, &ask(7, 0..130)).await, one.all()), (0, vec![2]));
    assert_eq!(denied(&mut other, &ask(7, 192..200)).await, 8, "what it still wants stays");
    one.release([2].into_iter()).await;
    assert_eq!(denied(&mut other, &ask(7, 192..200)).await, 0);
}

#[tokio::test]
async fn what_is_taken_back_or_was_never_heard_by_the_store_is_nobodys() {
    let warming = warming(64).await;
    let [mut one, mut other] = two();
    let mut plan = Plan::new(1_000);
    // The store takes it; when it is not wanted any more, others may ask.
    let mut link = link(&willing().await);
    let steps =
        plan.step(SECOND, &[InLine { who: standing(seq(1)), turn_in: SECOND * 5, cold: cold(0..70) }], &[]);
    let asked = steps.ask[0].id;
    warming.carry_out(steps, &mut plan, &mut link, Some(&mut one)).await;
    assert_eq!((plan.counts.failed, plan.counts.taken_objects, plan.blocks()), (0, 2, 70));
    assert_eq!(denied(&mut other, &ask(7, 0..70)).await, 70);
    let cool = Steps { cool: vec![asked], ask: Vec::new() };
    warming.carry_out(cool, &mut plan, &mut link, Some(&mut one)).await;
    assert_eq!(denied(&mut other, &ask(7, 0..70)).await, 0);
    // The store cannot be reached: whatever was claimed, before or for this, is let go of.
    let mut plan = Plan::new(1_000);
    one.take(&ask(99, 640..700)).await;
    let steps =
        plan.step(SECOND, &[InLine { who: standing(seq(1)), turn_in: SECOND * 5, cold: cold(0..70) }], &[]);
    let mut link = self::link(NOWHERE);
    warming.carry_out(steps, &mut plan, &mut link, Some(&mut one)).await;
    assert_eq!((plan.counts.failed, plan.blocks(), one.all()), (1, 0, Vec::new()));
    assert!(!link.may(Clock::start().now()), "it is left alone for a while");
    assert_eq!(denied(&mut other, &ask(7, 0..70)).await, 0);
    assert_eq!(denied(&mut other, &ask(7, 640..700)).await, 0);
}

#[tokio::test]
async fn what_others_ask_for_is_not_asked_and_the_rest_is() {
    let warming = warming(64).await;
    let [mut one, mut other] = two();
    other.take(&ask(1, 0..64)).await;
    let mut plan = Plan::new(1_000);
    let mut link = link(&willing().await);
    let steps =
        plan.step(SECOND, &[InLine { who: standing(seq(1)), turn_in: SECOND * 5, cold: cold(0..70) }], &[]);
    warming.carry_out(steps, &mut plan, &mut link, Some(&mut one)).await;
    let counts = plan.counts;
    assert_eq!((counts.elsewhere_blocks, counts.asked_blocks, plan.blocks()), (64, 6, 6));
    assert_eq!((counts.taken_objects, counts.unsure), (2, 0));
}

/// A coordinator that answers nothing.
struct Mute(Memory);

impl Backend for Mute {
    fn call<'a>(&'a self, _: Call<'a>) -> BoxFuture<'a, Result<Answer, Error>> {
        Box::pin(std::future::ready(Err(Error::Unavailable("away".to_owned()))))
    }

    fn hear(&self) -> broadcast::Receiver<Heard> {
        self.0.hear()
    }

    fn describe(&self) -> String {
        "away".to_owned()
    }
}

#[tokio::test]
async fn whoever_cannot_know_what_others_ask_for_asks_and_counts_it() {
    let warming = warming(64).await;
    let coord = Coord::new(Arc::new(Mute(Memory::new(None))), Name::new("one").unwrap(), 7);
    let mut claims = Claims::new(coord);
    let mut plan = Plan::new(1_000);
    let mut link = link(&willing().await);
    let steps =
        plan.step(SECOND, &[InLine { who: standing(seq(1)), turn_in: SECOND * 5, cold: cold(0..130) }], &[]);
    warming.carry_out(steps, &mut plan, &mut link, Some(&mut claims)).await;
    assert_eq!((plan.counts.unsure, plan.counts.elsewhere_blocks), (3, 0), "one for each stretch");
    assert_eq!((plan.counts.asked_blocks, plan.counts.taken_objects), (130, 2));
}

// === Pauses ===

#[tokio::test]
async fn a_store_that_answers_again_is_trusted_again() {
    let mut link = link(&willing().await);
    let away = || store::client::Error::from(std::io::Error::other("away"));
    for _ in 0..10 {
        link.failed(&away(), SECOND);
    }
    let long = SECOND + SECOND * 14;
    assert!(!link.may(long) && link.trouble.is_some() && !link.is_open());
    assert_eq!(link.warm(&ask(1, 0..3)).await.unwrap(), 2);
    assert!(link.may(SECOND) && link.trouble.is_none() && link.is_open());
    link.cool(&[1]).await.unwrap();
    // Its next failure is its first.
    link.failed(&away(), SECOND);
    assert!(!link.may(SECOND) && link.may(SECOND + Duration::from_millis(250)));
}
