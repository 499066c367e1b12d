//! What must not be called exact, and what must not be forgotten: a story a test, each once a bug.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocks::{BlockSize, EngineHash, Event, Hasher, Seed, View, Worker};
use bytes::Bytes;
use events::codec::{Batch, Content, Said, Stored, stock};
use events::follow::{Core, Settings};
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
    stock(&Batch { timestamp: 1.0, said, rank: None, epoch: None }).into()
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
