//! What must not be called exact, and what must not be forgotten: a story a test, each once a bug.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocks::{BlockSize, EngineHash, Event, Hasher, Seed, View, Worker};
use bytes::Bytes;
use events::codec::{Batch, Content, Said, Stored, stock};
use events::follow::{Action, Core, Phase, Settings};
use events::sink::{Sink, UnknownParent};
use events::translate::Translator;

const WORKER: Worker = Worker { instance: 1, rank: 0 };
const NOW: Duration = Duration::ZERO;

#[derive(Default)]
struct Views(Mutex<Vec<View>>);

impl Sink for Views {
    fn apply(&self, _: Worker, _: &Event) -> Result<(), UnknownParent> {
        Ok(())
    }

    fn replace(&self, _: Worker, _: &[Event]) {}

    fn forget(&self, _: Worker) {}

    fn set_view(&self, _: Worker, view: View) {
        self.0.lock().unwrap().push(view);
    }
}

fn run(parent: Option<u64>, hash: u64, salt: Option<&str>, tokens: &[u32]) -> Said {
    Said::Stored(Box::new(Stored {
        hashes: vec![EngineHash(hash)],
        parent: parent.map(EngineHash),
        content: Content::Tokens(tokens.to_vec()),
        block_size: 2,
        cache_salt: salt.map(str::to_owned),
        ..Stored::default()
    }))
}

fn payload(said: Vec<Said>) -> Bytes {
    stock(&Batch { timestamp: 1.0, said, rank: None, epoch: None, state: None }).into()
}

fn tokens_hash(event: Option<Event>) -> u64 {
    let Some(Event::Stored(stored)) = event else { panic!("a stored run, not {event:?}") };
    stored.blocks[0].tokens.0
}

#[test]
fn a_salt_outlives_one_of_two_copies() {
    let mut translator = Translator::default();
    for _ in 0..2 {
        translator.translate(run(None, 1, Some("pepper"), &[1, 2]), |_| {});
    }
    let one_copy = Said::Removed { hashes: vec![EngineHash(1)], medium: Some("GPU".to_owned()), group: None };
    translator.translate(one_copy, |_| {});
    let child = tokens_hash(translator.translate(run(Some(1), 2, None, &[3, 4]), |_| {}));
    let salted = Hasher::new(BlockSize::new(2).unwrap(), Seed::of(None, Some("pepper"))).tokens_hash(&[3, 4]);
    assert_eq!(child, salted.0, "a copy of its parent is still there, salt and all");
}

#[test]
fn without_replay_a_view_that_was_cut_off_is_stale() {
    let views = Arc::new(Views::default());
    let mut core = Core::new(WORKER, views, Settings { replay: false, ..Settings::default() });
    core.connected(NOW);
    core.live(0, payload(vec![run(None, 1, None, &[1, 2])]), NOW);
    assert_eq!(core.view(), View::Exact);
    core.disconnected();
    core.connected(NOW);
    core.live(1, payload(vec![run(Some(1), 2, None, &[3, 4])]), NOW);
    assert_eq!(
        core.view(),
        View::Stale,
        "nothing is being recovered, and nothing proves that nothing is missing"
    );
}

#[test]
fn a_run_that_is_left_out_ends_exactness() {
    let views = Arc::new(Views::default());
    let mut core = Core::new(WORKER, views, Settings { replay: false, ..Settings::default() });
    core.connected(NOW);
    // Three tokens for a block of two: what this block says is not known.
    core.live(0, payload(vec![run(None, 1, None, &[1, 2, 3])]), NOW);
    assert_eq!(core.left_out().misfits, 1);
    assert_ne!(core.view(), View::Exact, "the engine holds a block that the view does not");
}

#[test]
fn an_offloaded_run_without_tokens_does_not_cost_the_device_its_exactness() {
    let views = Arc::new(Views::default());
    let mut core = Core::new(WORKER, views, Settings { replay: false, ..Settings::default() });
    core.connected(NOW);
    let Said::Stored(mut stored) = run(None, 1, None, &[]) else { unreachable!("run() makes stored runs") };
    stored.medium = Some("CPU".to_owned());
    core.live(0, payload(vec![run(None, 1, None, &[1, 2]), Said::Stored(stored)]), NOW);
    assert_eq!((core.left_out().untold, core.left_out().misfits), (1, 0));
    assert_eq!(core.view(), View::Exact);
}

/// Found by fuzzing: the sequence after the last number there is was computed, which stopped a debug build and made 0 of it
/// in a release build, so that another life would have been in step.
#[test]
fn a_sequence_that_no_batch_can_have_is_no_batch() {
    for replay in [false, true] {
        let mut core =
            Core::new(WORKER, Arc::new(Views::default()), Settings { replay, ..Settings::default() });
        core.connected(NOW);
        for sequence in [u64::MAX, u64::MAX - 1] {
            core.live(sequence, payload(vec![run(None, 1, None, &[1, 2])]), NOW);
            core.replayed(u64::MAX, payload(vec![run(None, 1, None, &[1, 2])]), NOW);
            assert_eq!((core.last(), core.counters().batches), (None, 0));
        }
        core.replay_ended(NOW);
        core.live(0, payload(vec![run(None, 1, None, &[1, 2])]), NOW);
        assert_eq!((core.last(), core.view()), (Some(0), View::Exact));
        assert_eq!(core.counters().undecodable, 2);
    }
}

/// Found by fuzzing: only the bytes of a replay were bounded, and an empty batch has none.
#[test]
fn a_replay_of_nothing_for_ever_is_given_up() {
    let mut core = Core::new(WORKER, Arc::new(Views::default()), Settings::default());
    core.connected(NOW);
    let failed = (0..).take_while(|sequence| {
        core.replayed(*sequence, Bytes::new(), NOW);
        core.counters().failed_replays == 0
    });
    assert_eq!(failed.count(), 1 << 20);
    assert_eq!((core.counters().overflows, core.phase()), (1, Phase::Recovering));
}

/// Found by reading the corpus: what was held behind a second hole was older than what was held behind it again, and
/// was taken for another life, which dropped a view that was right.
#[test]
fn a_second_hole_behind_the_first_is_no_other_life() {
    let mut core = Core::new(WORKER, Arc::new(Views::default()), Settings::default());
    let root = |number: u64| payload(vec![run(None, number, None, &[number as u32, 1])]);
    core.connected(NOW);
    core.replay_ended(NOW);
    for sequence in [0, 1, 4, 7, 8] {
        core.live(sequence, root(sequence), NOW);
    }
    for sequence in [1, 2, 3] {
        core.replayed(sequence, root(sequence), NOW);
    }
    let action = core.replay_ended(NOW);
    assert_eq!((core.last(), action), (Some(4), Some(Action::Replay { from: 4 })));
    for sequence in [4, 5, 6] {
        core.replayed(sequence, root(sequence), NOW);
    }
    assert_eq!(core.replay_ended(NOW), None);
    assert_eq!((core.last(), core.view(), core.counters().restarts), (Some(8), View::Exact, 0));
    assert_eq!(core.check(), Ok(()));
}

#[test]
fn a_source_that_never_has_what_is_asked_for_is_not_asked_without_a_pause() {
    let views = Arc::new(Views::default());
    let mut core = Core::new(WORKER, views.clone(), Settings::default());
    let root = |number: u64| payload(vec![run(None, number, None, &[number as u32, 1])]);
    core.connected(NOW);
    core.replay_ended(NOW);
    core.live(0, root(0), NOW);
    assert_eq!(core.live(2, root(2), NOW), Some(Action::Replay { from: 0 }));
    views.0.lock().unwrap().clear();
    let (mut now, mut asked) = (NOW, 1);
    while core.view() == View::Recovering {
        core.replayed(0, root(0), now);
        assert_eq!(core.replay_ended(now), None, "not at once");
        let Some(next) = core.next_tick().filter(|_| core.view() == View::Recovering) else { break };
        assert!(next > now);
        (now, asked) = (next, asked + 1);
        assert_eq!(core.tick(now), Some(Action::Replay { from: 0 }));
    }
    // It was never called exact in between, and what was held is not lost with it.
    assert_eq!(*views.0.lock().unwrap(), [View::Stale]);
    assert_eq!((core.view(), core.last(), asked), (View::Stale, Some(2), 4));
    assert_eq!(core.check(), Ok(()));
}

/// A socket drops what overruns its mark, and says nothing: an answer of thousands of batches comes with holes, or without
/// an end. Once, every answer to the next question was as long, and lost as much.
#[test]
fn an_answer_that_lost_batches_on_its_way_is_gone_on_with() {
    let root = |number: u64| payload(vec![run(None, number, None, &[number as u32, 1])]);
    let mut core = asked();
    for sequence in [0, 1, 2, 5, 6] {
        core.replayed(sequence, root(sequence), NOW);
    }
    assert_eq!(core.replay_ended(NOW), Some(Action::Replay { from: 2 }));
    for sequence in [2, 3, 4] {
        core.replayed(sequence, root(sequence), NOW);
    }
    // The end of this one is lost as well.
    let silent = core.next_tick().unwrap();
    assert_eq!(core.tick(silent), Some(Action::Replay { from: 4 }));
    assert_eq!(
        (core.view(), core.last()),
        (View::Recovering, None),
        "nothing is shown before all of it is there"
    );
    for sequence in [4, 5, 6] {
        core.replayed(sequence, root(sequence), silent);
    }
    assert_eq!(core.replay_ended(silent), None);
    assert_eq!((core.view(), core.last(), core.counters().failed_replays), (View::Exact, Some(6), 0));
    // The same behind what is applied already.
    core.live(9, root(9), silent);
    core.replayed(6, root(6), silent);
    core.replayed(7, root(7), silent);
    assert_eq!(core.replay_failed(silent), Some(Action::Replay { from: 7 }));
    core.replayed(7, root(7), silent);
    core.replayed(8, root(8), silent);
    assert_eq!(core.replay_ended(silent), None);
    assert_eq!((core.view(), core.last(), core.check()), (View::Exact, Some(9), Ok(())));
}

#[test]
fn an_answer_is_gone_on_with_in_the_same_life_only() {
    let root = |number: u64| payload(vec![run(None, number, None, &[number as u32, 1])]);
    let broken_off = || {
        let mut core = asked();
        core.replayed(0, root(0), NOW);
        core.replayed(1, root(1), NOW);
        assert_eq!(core.replay_failed(NOW), Some(Action::Replay { from: 1 }));
        core
    };
    // Another batch of the same number, and none at all.
    let mut other = broken_off();
    assert_eq!(other.replayed(1, root(99), NOW), None);
    assert_eq!((other.view(), other.counters().failed_replays), (View::Recovering, 1));
    let mut fewer = broken_off();
    assert_eq!(fewer.replay_ended(NOW), None);
    assert_eq!((fewer.view(), fewer.counters().failed_replays), (View::Recovering, 1));
    // What the source lacks it lacks: it is not asked for twice.
    let mut hole = broken_off();
    hole.replayed(1, root(1), NOW);
    hole.replayed(3, root(3), NOW);
    assert_eq!(hole.replay_ended(NOW), None);
    assert_eq!((hole.view(), hole.last()), (View::Stale, Some(3)));
}

// === Snapshots ===

const SNAPSHOT: u64 = -2_i64 as u64;

/// What a snapshot says: the version, a life, how many blocks, how many are left out, and which gaps they hang below.
fn header(version: u64, epoch: u64, blocks: u64, broken: &[u64]) -> Bytes {
    let numbers = [version, epoch | 1 << 63, blocks, broken.len() as u64, 0, 0];
    numbers.iter().chain(broken).flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>().into()
}

fn heartbeat(epoch: u64) -> Bytes {
    stock(&Batch { timestamp: 1.0, said: vec![], rank: None, epoch: Some(epoch | 1 << 63), state: None })
        .into()
}

/// A follower that has asked from 0.
fn asked() -> Core {
    let mut core = Core::new(WORKER, Arc::new(Views::default()), Settings::default());
    assert_eq!(core.connected(NOW), Some(Action::Replay { from: 0 }));
    core
}

/// A follower that has taken in a snapshot of two blocks, at version 100 of life 7.
fn with_snapshot(broken: &[u64]) -> Core {
    let mut core = asked();
    core.replayed(SNAPSHOT, header(100, 7, 2, broken), NOW);
    core.replayed(100, payload(vec![Said::Cleared]), NOW);
    core.replayed(100, payload(vec![run(None, 1, None, &[1, 2]), run(Some(1), 2, None, &[3, 4])]), NOW);
    assert_eq!(core.replay_ended(NOW), None);
    assert_eq!((core.view(), core.last(), core.counters().snapshots), (View::Exact, Some(100), 1));
    core
}

#[test]
fn a_snapshot_overtakes_the_live_stream_and_what_it_contains_comes_once_more() {
    let mut core = asked();
    // Heard before the answer; 98 to 100 are still on their way when it comes.
    core.live(97, payload(vec![run(None, 9, None, &[1, 1])]), NOW);
    core.replayed(SNAPSHOT, header(100, 7, 1, &[]), NOW);
    core.replayed(100, payload(vec![Said::Cleared, run(None, 1, None, &[1, 2])]), NOW);
    core.replay_ended(NOW);
    for sequence in 98..=100 {
        assert_eq!(core.live(sequence, payload(vec![run(None, 8, None, &[1, 1])]), NOW), None);
    }
    assert_eq!((core.view(), core.counters().duplicates, core.counters().restarts), (View::Exact, 3, 0));
    core.live(101, payload(vec![run(Some(1), 2, None, &[3, 4])]), NOW);
    assert_eq!((core.view(), core.last()), (View::Exact, Some(101)));
    // Behind that, going backwards is what it always is.
    core.live(50, payload(vec![run(None, 8, None, &[1, 1])]), NOW);
    assert_eq!((core.view(), core.counters().restarts), (View::Recovering, 1));
}

#[test]
fn a_snapshot_with_a_hole_behind_it_is_not_exact_for_a_moment_either() {
    let views = Arc::new(Views::default());
    let mut core = Core::new(WORKER, views.clone(), Settings::default());
    core.connected(NOW);
    core.live(103, payload(vec![run(None, 9, None, &[1, 1])]), NOW);
    core.replayed(SNAPSHOT, header(100, 7, 1, &[]), NOW);
    core.replayed(100, payload(vec![Said::Cleared, run(None, 1, None, &[1, 2])]), NOW);
    assert_eq!(core.replay_ended(NOW), Some(Action::Replay { from: 100 }));
    assert!(!views.0.lock().unwrap().contains(&View::Exact));
}

#[test]
fn a_snapshot_that_is_cut_short_is_not_taken() {
    let mut core = asked();
    core.replayed(SNAPSHOT, header(100, 7, 2, &[]), NOW);
    core.replayed(100, payload(vec![Said::Cleared, run(None, 1, None, &[1, 2])]), NOW);
    assert_eq!(core.replay_ended(NOW), None);
    assert_eq!((core.view(), core.counters().failed_replays), (View::Recovering, 1));
    let again = core.next_tick().expect("it tries again");
    assert_eq!(core.tick(again), Some(Action::Replay { from: 0 }));
}

#[test]
fn a_snapshot_that_lost_a_batch_is_not_taken_however_often_other_blocks_are_told() {
    let mut core = asked();
    let numbers = [100, 7 | 1 << 63, 2, 0, 0, 3_u64];
    core.replayed(SNAPSHOT, numbers.iter().flat_map(|number| number.to_be_bytes()).collect(), NOW);
    core.replayed(100, payload(vec![Said::Cleared]), NOW);
    // One block twice, on two tiers; the other one's batch was lost.
    core.replayed(100, payload(vec![run(None, 1, None, &[1, 2]), run(None, 1, None, &[1, 2])]), NOW);
    assert_eq!(core.replay_ended(NOW), None);
    assert_eq!((core.view(), core.counters().failed_replays), (View::Recovering, 1));
}

#[test]
fn a_snapshot_that_lost_its_header_is_no_empty_cache() {
    let mut core = asked();
    core.replayed(100, payload(vec![Said::Cleared]), NOW);
    core.replayed(100, payload(vec![run(None, 1, None, &[1, 2])]), NOW);
    assert_eq!((core.view(), core.counters().failed_replays), (View::Recovering, 1));
    let again = core.next_tick().unwrap();
    core.tick(again);
    // And if its blocks were lost as well.
    core.replayed(100, payload(vec![Said::Cleared]), again);
    core.replay_ended(again);
    assert_eq!((core.view(), core.counters().failed_replays), (View::Recovering, 2));
}

#[test]
fn a_header_that_says_nothing_is_no_snapshot() {
    let mut core = asked();
    core.replayed(SNAPSHOT, Bytes::from_static(b"short"), NOW);
    assert_eq!((core.view(), core.counters().failed_replays), (View::Recovering, 1));
}

#[test]
fn what_a_snapshot_left_out_is_asked_for_when_it_can_be_used_again() {
    // Block 5 is gone, and blocks below it are left out. While it is gone nobody can use them.
    let mut core = with_snapshot(&[5]);
    core.live(101, payload(vec![run(Some(2), 3, None, &[5, 6])]), NOW);
    assert_eq!(core.view(), View::Exact);
    let action = core.live(102, payload(vec![run(Some(2), 5, None, &[7, 8])]), NOW);
    assert_eq!((core.view(), action), (View::Recovering, Some(Action::Replay { from: 0 })));
}

#[test]
fn no_splice_mends_a_view_that_only_a_whole_answer_can() {
    let mut core = with_snapshot(&[5]);
    let back = payload(vec![run(Some(2), 5, None, &[7, 8])]);
    assert_eq!(core.live(101, back.clone(), NOW), Some(Action::Replay { from: 0 }));
    // The question fails, and is asked again from the beginning, not from where the stream stands.
    assert_eq!(core.replay_failed(NOW), None);
    let again = core.next_tick().expect("it tries again");
    assert_eq!(core.tick(again), Some(Action::Replay { from: 0 }));
    // Nor does a new connection change that.
    core.disconnected();
    assert_eq!(core.connected(again), Some(Action::Replay { from: 0 }));
    core.replayed(101, back, again);
    core.replay_ended(again);
    assert_eq!((core.view(), core.check()), (View::Stale, Ok(())));
}

/// A view that goes on from what another follower has built: its mark, and the batch that the mark stands at.
fn resumed() -> (Core, Bytes) {
    let mut first = with_snapshot(&[5]);
    let batch = payload(vec![run(Some(2), 3, None, &[5, 6])]);
    first.live(101, batch.clone(), NOW);
    let mut second = Core::new(WORKER, Arc::new(Views::default()), Settings::default());
    second.resume(&first.mark().expect("an exact view can be gone on from"));
    assert_eq!((second.view(), second.last()), (View::Recovering, Some(101)));
    assert_eq!(second.connected(NOW), Some(Action::Replay { from: 101 }));
    (second, batch)
}

#[test]
fn whoever_goes_on_from_a_copy_is_exact_once_the_source_has_told_the_rest() {
    let (mut core, batch) = resumed();
    core.replayed(101, batch, NOW);
    core.replayed(102, payload(vec![run(Some(3), 4, None, &[7, 8])]), NOW);
    core.replay_ended(NOW);
    assert_eq!((core.view(), core.last(), core.counters().rebuilds), (View::Exact, Some(102), 0));
    // What the copy lacks is known as well.
    let action = core.live(103, payload(vec![run(Some(2), 5, None, &[7, 8])]), NOW);
    assert_eq!((core.view(), action), (View::Recovering, Some(Action::Replay { from: 0 })));
}

#[test]
fn a_copy_of_what_a_relay_told_while_it_was_behind_is_no_better() {
    let mut first = with_snapshot(&[]);
    let behind = state(7, View::Recovering);
    first.live(101, behind.clone(), NOW);
    let mut second = Core::new(WORKER, Arc::new(Views::default()), Settings::default());
    second.resume(&first.mark().expect("what was told is in the view"));
    second.connected(NOW);
    second.replayed(101, behind, NOW);
    second.replay_ended(NOW);
    assert_eq!(second.view(), View::Recovering);
    second.live(102, state(7, View::Exact), NOW);
    assert_eq!(second.view(), View::Exact);
}

#[test]
fn whoever_goes_on_from_a_copy_of_another_life_begins_anew() {
    let (mut core, _) = resumed();
    core.replayed(101, payload(vec![run(None, 77, None, &[5, 6])]), NOW);
    assert_eq!(core.replay_ended(NOW), Some(Action::Replay { from: 0 }));
    assert_eq!(core.view(), View::Recovering);
}

#[test]
fn nobody_goes_on_from_a_view_that_is_not_whole() {
    let mut core = with_snapshot(&[5]);
    core.live(101, payload(vec![run(Some(2), 5, None, &[7, 8])]), NOW);
    assert_eq!(core.mark(), None);
    // Nor from one whose engine leans on words that blocks do not hold.
    let mut salted = with_snapshot(&[]);
    salted.live(101, payload(vec![run(None, 6, Some("pepper"), &[7, 8])]), NOW);
    assert_eq!((salted.view(), salted.mark()), (View::Exact, None));
}

#[test]
fn another_life_is_noticed_although_its_sequence_fits() {
    let mut core = with_snapshot(&[]);
    core.live(101, heartbeat(7), NOW);
    assert_eq!((core.view(), core.counters().restarts), (View::Exact, 0));
    let action = core.live(102, heartbeat(8), NOW);
    assert_eq!(action, Some(Action::Replay { from: 0 }));
    assert_eq!((core.view(), core.last(), core.counters().restarts), (View::Recovering, None, 1));
}

#[test]
fn a_publisher_that_says_that_it_lives_and_then_nothing_is_asked() {
    let mut core = with_snapshot(&[]);
    let silence = Settings::default().silence;
    assert_eq!(core.tick(silence / 2), None);
    core.live(101, heartbeat(7), silence / 2);
    assert_eq!(core.tick(silence), None, "it was heard since");
    let action = core.tick(silence + silence / 2);
    assert_eq!((action, core.counters().silences), (Some(Action::Replay { from: 101 }), 1));
    assert_eq!((core.view(), core.phase()), (View::Recovering, Phase::Recovering));
}

#[test]
fn a_stock_publisher_may_be_silent() {
    let mut core = asked();
    core.replay_ended(NOW);
    let first = payload(vec![run(None, 1, None, &[1, 2])]);
    core.live(0, first.clone(), NOW);
    let later = core.next_tick().expect("it asks once more, to be sure");
    core.tick(later);
    core.replayed(0, first, later);
    core.replay_ended(later);
    assert_eq!((core.view(), core.next_tick()), (View::Exact, None));
}

// === A connection ===

#[test]
fn what_is_said_before_a_subscription_takes_effect_is_asked_for_a_little_later() {
    let mut core = asked();
    core.replayed(0, payload(vec![run(None, 1, None, &[1, 2])]), NOW);
    core.replay_ended(NOW);
    assert_eq!((core.view(), core.last()), (View::Exact, Some(0)));
    // The engine says batch 1 now: after its answer, and before it knows of the subscriber. Nobody will say it again.
    let later = core.next_tick().expect("it asks once more");
    assert_eq!(core.tick(later), Some(Action::Replay { from: 0 }));
    assert_eq!(core.view(), View::Exact, "nothing is known to be missing");
    core.live(2, payload(vec![run(Some(2), 3, None, &[5, 6])]), later);
    core.replayed(0, payload(vec![run(None, 1, None, &[1, 2])]), later);
    core.replayed(1, payload(vec![run(Some(1), 2, None, &[3, 4])]), later);
    assert_eq!(core.replay_ended(later), None);
    assert_eq!((core.view(), core.last(), core.counters().gaps), (View::Exact, Some(2), 0));
    assert_eq!(core.next_tick(), None, "once is enough");
}

#[test]
fn a_question_only_to_be_sure_may_stay_without_an_answer() {
    let mut core = asked();
    core.replayed(0, payload(vec![run(None, 1, None, &[1, 2])]), NOW);
    core.replay_ended(NOW);
    let later = core.next_tick().unwrap();
    core.tick(later);
    core.live(1, payload(vec![run(Some(1), 2, None, &[3, 4])]), later);
    let much_later = core.next_tick().expect("the answer has a deadline");
    assert_eq!(core.tick(much_later), None);
    assert_eq!((core.view(), core.last()), (View::Exact, Some(1)), "what came meanwhile was applied");
}

// === Sources that are not in step themselves ===

fn state(epoch: u64, state: View) -> Bytes {
    stock(&Batch {
        timestamp: 1.0,
        said: vec![],
        rank: None,
        epoch: Some(epoch | 1 << 63),
        state: Some(state),
    })
    .into()
}

#[test]
fn a_view_is_no_better_than_its_source() {
    let views = Arc::new(Views::default());
    let mut core = Core::new(WORKER, views.clone(), Settings::default());
    core.connected(NOW);
    core.replayed(0, payload(vec![run(None, 1, None, &[1, 2])]), NOW);
    core.replayed(1, state(7, View::Stale), NOW);
    core.replay_ended(NOW);
    assert_eq!(core.view(), View::Stale, "complete, and of something that is not");
    assert_eq!(core.counters().replays, 1, "nothing would be gained by asking again");
    core.live(2, state(7, View::Recovering), NOW);
    core.live(3, payload(vec![run(Some(1), 2, None, &[3, 4])]), NOW);
    assert_eq!(core.view(), View::Recovering);
    core.live(4, state(7, View::Exact), NOW);
    assert_eq!(core.view(), View::Exact);
    let said = views.0.lock().unwrap().clone();
    assert_eq!(
        said,
        [View::Recovering, View::Stale, View::Recovering, View::Exact],
        "and every change was said once"
    );
    assert_eq!(core.check(), Ok(()));
}

#[test]
fn a_number_that_others_may_put_there_one_day_is_no_life() {
    let mut core = asked();
    core.replay_ended(NOW);
    let with_number =
        |number| stock(&Batch { timestamp: 1.0, said: vec![], rank: None, epoch: Some(number), state: None });
    for (sequence, number) in [(0, 5), (1, 6), (2, 1 << 62)] {
        assert_eq!(core.live(sequence, with_number(number).into(), NOW), None);
    }
    assert_eq!((core.view(), core.counters().restarts), (View::Exact, 0));
}
