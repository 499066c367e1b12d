//! Time in the memory backend, turned by hand: what lives on, what goes, and that nothing piles up.

use std::time::Duration;

use bytes::Bytes;

use super::Memory;
use crate::backend::{Answer, Call};
use crate::clock::Clock;
use crate::name::{Key, Name};
use crate::op::{Claimed, Op, Plan, Reply, Stats};

const TTL: Duration = Duration::from_secs(100);

fn name(word: &str) -> Name {
    Name::new(word).unwrap()
}

fn ask(memory: &Memory, op: &Op) -> Reply {
    match memory.apply(Call { op, seen: None, new_life: 7 }) {
        Answer::Done(_, reply) => reply,
        other => panic!("{op:?} was answered with {other:?}"),
    }
}

fn world() -> (Memory, Clock) {
    let clock = Clock::by_hand(Duration::from_secs(1_700_000_000));
    (Memory::on(clock.clone(), Some(TTL)), clock)
}

fn open(memory: &Memory) {
    let (owner, handler) = (name("owner"), name("handler"));
    let plan = Plan { owner, handler, payload: Bytes::new(), watchdog: Duration::ZERO, lease: TTL };
    ask(memory, &Op::Open { job: name("job"), epoch: 1, plan, parts: vec![name("p")], sealed: true });
}

fn sweep(memory: &Memory) -> crate::op::Swept {
    let op = Op::Sweep {
        shard: name("job").shard(),
        instance: name("other"),
        can: Vec::new(),
        mine: Vec::new(),
        lease: Duration::from_secs(1),
        most: 10,
    };
    match ask(memory, &op) {
        Reply::Swept(swept) => swept,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_live_job_outlives_its_time_to_live_as_long_as_somebody_sweeps() {
    let (memory, clock) = world();
    open(&memory);
    for _ in 0..20 {
        clock.advance(TTL / 2);
        assert_eq!(sweep(&memory).vanished, []);
    }
    assert!(matches!(ask(&memory, &Op::LookAtJob { job: name("job") }), Reply::Job(Some(_))));
}

#[test]
fn a_job_that_nobody_looked_after_is_gone_and_is_said_to_be() {
    let (memory, clock) = world();
    open(&memory);
    clock.advance(TTL * 2);
    assert_eq!(sweep(&memory).vanished, [name("job")]);
    assert_eq!(sweep(&memory).vanished, [], "once");
    assert_eq!(ask(&memory, &Op::LookAtJob { job: name("job") }), Reply::Job(None));
}

#[test]
fn claims_whose_time_is_over_do_not_pile_up() {
    let (memory, clock) = world();
    for i in 0..20_000 {
        let op =
            Op::Claim { key: Key::new(format!("claim-{i}")).unwrap(), token: name("t"), ttl: TTL / 1_000 };
        assert!(matches!(ask(&memory, &op), Reply::Claimed(Claimed::Granted { .. })));
        clock.advance(Duration::from_millis(10));
    }
    // Each shard clears up when it is next asked: about ten claims of each live at a time.
    assert!(memory.snapshot().size() < 2_000, "{}", memory.snapshot().size());
}

#[test]
fn statistics_that_nobody_fetches_leave_oldest_first() {
    let (memory, clock) = world();
    let shard = name("r0").shard();
    let requests: Vec<Name> =
        (0..).map(|i| name(&format!("r{i}"))).filter(|name| name.shard() == shard).take(1_500).collect();
    for request in &requests {
        let stats = Stats { processed: 1, errors: 0, requeues: 0 };
        let op = Op::StatsAdd { space: name("s"), request: request.clone(), from: name("f"), seq: 1, stats };
        ask(&memory, &op);
        clock.advance(Duration::from_millis(1));
    }
    let take = |request: &Name| {
        ask(&memory, &Op::StatsTake { space: name("s"), request: request.clone(), token: name("t") })
    };
    assert_eq!(take(&requests[499]), Reply::Taken(None));
    assert!(matches!(take(&requests[500]), Reply::Taken(Some(_))));
}
