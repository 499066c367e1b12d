//! What is fuzzed: three functions from any bytes to claims that must hold, used by the test and by libFuzzer alike.
//!
//! - [`codec`]: one payload. Decoding never panics, allocates at most [`MULTIPLE`] times its input, and what it reads is
//!   what both forms of encoding say again.
//! - [`frames`]: a whole conversation with the follower's state machine. It never panics, its invariants hold after every
//!   step, its sink knows how far its view can be trusted, and its memory is bounded by what it was sent.
//! - [`snapshot`]: a snapshot's header. Whatever it says, the follower ends where the header puts it, or asks again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocks::{EngineHash, Event, View, Worker};
use bytes::Bytes;
use events::codec::{Batch, Content, Said, Stored, compact, decode, stock};
use events::follow::{Action, Core, Settings};
use events::sink::{Sink, UnknownParent};

#[path = "counting.rs"]
mod counting;

/// Bytes that decoding may hold at once for each byte of its input. The worst is a list of lists of one empty
/// word: each is two bytes, and two lists in memory; where the outer one has just doubled, that is 120.
pub(crate) const MULTIPLE: usize = 128;
/// Bytes that it may hold beside that: the first few elements of each list.
pub(crate) const ROOM: usize = 4 << 10;
/// The same for a whole conversation: a byte can stand for a batch of some fifty.
pub(crate) const CONVERSATION: usize = 1_024;
/// Maps and queues of a state machine that has heard nothing.
pub(crate) const MACHINE: usize = 256 << 10;

/// The sequence of a snapshot's header.
const SNAPSHOT: u64 = -2_i64 as u64;
const WORKER: Worker = Worker { instance: 1, rank: 0 };

// === One payload ===

/// One payload.
pub(crate) fn codec(input: &[u8]) {
    let (decoded, peak) = counting::peak_of(|| decode(input));
    assert!(
        peak <= MULTIPLE * input.len() + ROOM,
        "{peak} bytes were held for {} bytes of input",
        input.len()
    );
    let Ok(batch) = decoded else { return };
    for (form, bytes) in [("stock", stock(&batch)), ("compact", compact(&batch))] {
        let again = decode(&bytes).unwrap_or_else(|error| panic!("{form} cannot be read: {error}"));
        for (said, again) in batch.said.iter().zip(&again.said) {
            assert!(said == again, "{form} says other than\n{said:.200?}\n{again:.200?}");
        }
        assert!(same(&again, &batch), "{form} says less, or more");
    }
}

/// Equal, also where the timestamp is not a number.
fn same(one: &Batch, other: &Batch) -> bool {
    let without = |batch: &Batch| Batch { timestamp: 0.0, ..batch.clone() };
    one.timestamp.to_bits() == other.timestamp.to_bits() && without(one) == without(other)
}

// === A conversation ===

/// A conversation: bytes that are cut into steps, each a kind and what it needs.
pub(crate) fn frames(input: &[u8]) {
    let ((), peak) = counting::peak_of(|| {
        let mut talk = Talk::new(Bytes::copy_from_slice(input));
        while talk.step().is_some() {
            talk.check();
        }
    });
    assert!(
        peak <= CONVERSATION * input.len() + MACHINE,
        "{peak} bytes were held for {} bytes of input",
        input.len()
    );
}

/// A snapshot's header, as the only answer to the first question.
pub(crate) fn snapshot(input: &[u8]) {
    let ((), peak) = counting::peak_of(|| {
        let mut talk = Talk::new(Bytes::new());
        talk.core.connected(Duration::ZERO);
        let refused = talk.core.counters().failed_replays;
        talk.core.replayed(SNAPSHOT, Bytes::copy_from_slice(input), talk.now);
        talk.check();
        talk.core.replay_ended(talk.now);
        talk.check();
        let number = |at: usize| Some(u64::from_be_bytes(input.get(at * 8..at * 8 + 8)?.try_into().unwrap()));
        let (version, blocks, batches) = (number(0), number(2).unwrap_or(0), number(5).unwrap_or(0));
        let taken = talk.core.counters().snapshots == 1;
        // A snapshot of nothing is whole if its header speaks of nothing.
        let nothing = blocks == 0 && batches == 0;
        assert_eq!(taken, version.is_some() && nothing, "{version:?}, {blocks} blocks in {batches} batches");
        if taken {
            assert_eq!(talk.core.last(), version.filter(|version| *version < SNAPSHOT));
            let state = number(4).map_or(View::Exact, |state| match state {
                0 => View::Exact,
                1 => View::Recovering,
                _ => View::Stale,
            });
            assert_eq!(talk.core.view(), state);
        } else {
            assert_eq!(talk.core.counters().failed_replays, refused + 1);
        }
    });
    assert!(peak <= 16 * input.len() + MACHINE, "{peak} bytes were held for {} bytes of input", input.len());
}

/// A state machine, the sink that it tells, and what is still to happen to it.
struct Talk {
    rest: Bytes,
    core: Core,
    sink: Arc<Told>,
    now: Duration,
    asked: Option<u64>,
}

/// A sink that remembers nothing but how far it can trust, and refuses now and then.
#[derive(Default)]
struct Told(Mutex<Option<View>>);

impl Sink for Told {
    fn apply(&self, _: Worker, event: &Event) -> Result<(), UnknownParent> {
        let refused = matches!(event, Event::Stored(stored) if stored.parent == Some(EngineHash(31)));
        if refused { Err(UnknownParent) } else { Ok(()) }
    }

    fn replace(&self, _: Worker, _: &[Event]) {}

    fn forget(&self, _: Worker) {
        *self.0.lock().unwrap() = None;
    }

    fn set_view(&self, _: Worker, view: View) {
        *self.0.lock().unwrap() = Some(view);
    }
}

impl Talk {
    fn new(mut rest: Bytes) -> Self {
        // The first byte: whether there is a replay socket, and how patient anybody is.
        let first = if rest.is_empty() { 1 } else { rest.split_to(1)[0] };
        let settings =
            Settings { replay: first & 1 == 1, silence: Duration::from_secs(1), ..Settings::default() };
        let sink = Arc::new(Told::default());
        let core = Core::new(WORKER, sink.clone(), settings);
        Self { rest, core, sink, now: Duration::ZERO, asked: None }
    }

    /// The next step; `None` when there is no more input.
    fn step(&mut self) -> Option<()> {
        let kind = self.byte()? % 16;
        let action = match kind {
            0..=4 => {
                let (sequence, payload) = (self.sequence()?, self.payload()?);
                self.core.live(sequence, payload, self.now)
            }
            5..=7 => {
                let (sequence, payload) = (self.sequence()?, self.payload()?);
                self.core.replayed(sequence, payload, self.now)
            }
            8 => {
                let header = self.payload()?;
                self.core.replayed(SNAPSHOT, header, self.now)
            }
            9 => self.core.replay_ended(self.now),
            10 => self.core.replay_failed(self.now),
            11 => self.core.connected(self.now),
            12 => {
                self.core.disconnected();
                None
            }
            13 => {
                let wait = self.byte()?;
                self.now += Duration::from_millis(u64::from(wait) * 25);
                self.core.tick(self.now)
            }
            14 => {
                self.now = self.core.next_tick().unwrap_or(self.now).max(self.now);
                self.core.tick(self.now)
            }
            _ if self.byte()? % 2 == 0 => self.core.restarted(self.now),
            _ => self.core.distrusted(self.now),
        };
        if let Some(Action::Replay { from }) = action {
            self.asked = Some(from);
        }
        Some(())
    }

    fn check(&self) {
        assert_eq!(self.core.check(), Ok(()));
        assert_eq!(*self.sink.0.lock().unwrap(), Some(self.core.view()), "the sink was told another view");
        assert!(self.core.last().is_none_or(|last| last < SNAPSHOT), "that is no sequence");
    }

    fn byte(&mut self) -> Option<u8> {
        (!self.rest.is_empty()).then(|| self.rest.split_to(1)[0])
    }

    /// A small number, one near the last or near what was asked for, or one that nobody has reached yet.
    fn sequence(&mut self) -> Option<u64> {
        let byte = self.byte()?;
        let near = |base: u64, offset: u8| base.wrapping_add(u64::from(offset)).wrapping_sub(4);
        Some(match byte {
            0..=63 => u64::from(byte),
            64..=191 => near(self.core.last().unwrap_or(0), (byte - 64) % 16),
            192..=247 => near(self.asked.unwrap_or(0), (byte - 192) % 16),
            248 => u64::MAX,
            249 => SNAPSHOT,
            250 => SNAPSHOT - 1,
            251 => 1 << 63,
            252 => u64::from(u32::MAX),
            253 => 100_000,
            _ => self.core.last().unwrap_or(0) + 1,
        })
    }

    /// Bytes as they stand, or a batch that says something that fits.
    fn payload(&mut self) -> Option<Bytes> {
        let length = match self.byte()? {
            byte @ 0..=95 => usize::from(byte),
            byte @ 96..=127 => usize::from(byte - 96) << 8 | usize::from(self.byte()?),
            _ => return self.byte().map(batch),
        };
        let length = length.min(self.rest.len());
        Some(self.rest.split_to(length))
    }
}

/// A batch that an engine might send.
fn batch(what: u8) -> Bytes {
    let number = what >> 3;
    let stored = |parent: Option<u8>, tokens: Vec<u32>, salt: Option<&str>| {
        Said::Stored(Box::new(Stored {
            hashes: vec![EngineHash(number.into())],
            parent: parent.map(|parent| EngineHash(parent.into())),
            content: Content::Tokens(tokens),
            block_size: 2,
            cache_salt: salt.map(str::to_owned),
            ..Stored::default()
        }))
    };
    let heard = |epoch: u8, state| Batch {
        epoch: Some(u64::from(epoch) | 1 << 63),
        state,
        timestamp: f64::from(number),
        ..Batch::default()
    };
    let says = |said| Batch { said: vec![said], timestamp: 1.0, ..Batch::default() };
    let batch = match what & 7 {
        0 => says(stored(None, vec![number.into(), 1], None)),
        1 => says(stored(Some(number.wrapping_sub(1)), vec![number.into(), 2], None)),
        2 => says(stored(None, vec![number.into(), 3], Some("salt"))),
        3 => says(Said::Removed { hashes: vec![EngineHash(number.into())], medium: None, group: None }),
        4 => says(Said::Cleared),
        5 => heard(number & 3, None),
        6 => heard(
            number & 1,
            [None, Some(View::Exact), Some(View::Recovering), Some(View::Stale)]
                [usize::from(number >> 1 & 3)],
        ),
        // Three tokens do not fill a block of two.
        _ => says(stored(None, vec![1, 2, 3], None)),
    };
    stock(&batch).into()
}
