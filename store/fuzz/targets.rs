//! What is fuzzed: three functions from any bytes to claims that must hold, used by the test and by libFuzzer alike.
//!
//! - [`commands`]: bytes of a client. Reading them never panics, holds memory bounded by the limits, and comes to the same
//!   commands however the bytes are cut.
//! - [`talk`]: a whole conversation with a session before a store. Each command has exactly one answer, which a client can
//!   read; and the store is as full afterwards as what can be seen in it.
//! - [`replies`]: bytes of a server. Reading them never panics, holds memory bounded by what arrived, and comes to the same
//!   answers however the bytes are cut.
//!
//! The first byte of an input says how the rest is cut.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use store::client;
use store::resp::contract::{Answer, Store};
use store::resp::decode::{Decoder, Limits, Step};
use store::resp::fake::{Fake, Pace};
use store::resp::house::House;
use store::resp::out::{Out, SLICES};
use store::resp::session::{Ran, Session};
use store::resp::{Settings, Tenant};

#[path = "counting.rs"]
mod counting;

/// Small, so that inputs reach them.
const LIMITS: Limits = Limits { argument: 64, arguments: 24, head: 512 };
/// The largest value.
const VALUE: usize = 200;
/// What a decoder may hold: its buffer, grown once, and places for arguments; a typed line of up to 64 KiB twice.
const HELD: usize = 512 << 10;
/// Bytes that reading an answer may hold for each that arrived: an empty list is four bytes, and a reply in memory.
const MULTIPLE: usize = 64;
/// And beside that: room that is made ahead for the lists that have begun, eight of them in each other.
const AHEAD: usize = 1 << 20;

// === What a client sends ===

/// What came out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    Command(Option<&'static str>, Vec<Vec<u8>>, Vec<Vec<u8>>, Option<usize>),
    Broken(String),
}

/// Bytes of a client.
pub(crate) fn commands(input: &[u8]) {
    let (cut, bytes) = split(input);
    let whole = read(bytes, usize::MAX);
    for cut in [1, cut] {
        let again = read(bytes, cut);
        assert!(again == whole, "cut to {cut}, it reads\n{again:.300?}\nwhole\n{whole:.300?}");
    }
}

fn read(bytes: &[u8], cut: usize) -> Vec<Read> {
    let mut decoder = Decoder::new(LIMITS);
    let (mut reads, mut values) = (Vec::new(), Vec::<Vec<u8>>::new());
    let mut bytes = Cut { bytes, cut };
    loop {
        assert!(decoder.held() <= HELD, "{} bytes are held", decoder.held());
        match decoder.step() {
            Step::More => {
                if cut == 1 {
                    decoder.park();
                }
                if !bytes.feed(&mut decoder) {
                    return reads;
                }
            }
            Step::Value(len) if len > VALUE => decoder.skip(),
            Step::Value(len) => {
                values.push(vec![0; len]);
                decoder.accept();
            }
            Step::Fill => {
                let place = values.last_mut().unwrap();
                let from = place.len() - decoder.gap();
                decoder.take(&mut place[from..]);
                if decoder.gap() > 0 && !bytes.bypass(&mut decoder, place) {
                    return reads;
                }
            }
            Step::Ready => {
                let args = decoder.args();
                let all = args.from(0).map(<[u8]>::to_vec).collect();
                let name = decoder.command().map(|command| command.name);
                reads.push(Read::Command(name, all, std::mem::take(&mut values), decoder.too_long()));
                decoder.done();
            }
            Step::Broken(broken) => {
                reads.push(Read::Broken(broken.0.into_owned()));
                return reads;
            }
        }
    }
}

/// Bytes that arrive some at a time.
struct Cut<'a> {
    bytes: &'a [u8],
    cut: usize,
}

impl<'a> Cut<'a> {
    fn some(&mut self, most: usize) -> &'a [u8] {
        let count = self.bytes.len().min(self.cut).min(most);
        let (some, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        some
    }

    fn feed(&mut self, decoder: &mut Decoder) -> bool {
        let space = decoder.space();
        let some = self.some(space.len());
        space[..some.len()].copy_from_slice(some);
        decoder.filled(some.len());
        !some.is_empty()
    }

    /// Straight to the place of a value, as a socket does it: what is more goes behind.
    fn bypass(&mut self, decoder: &mut Decoder, place: &mut [u8]) -> bool {
        let gap = decoder.gap();
        let some = self.some(gap);
        let from = place.len() - gap;
        place[from..from + some.len()].copy_from_slice(some);
        decoder.bypassed(some.len());
        !some.is_empty()
    }
}

fn split(input: &[u8]) -> (usize, &[u8]) {
    input.split_first().map_or((1, input), |(cut, rest)| (usize::from(*cut).max(1), rest))
}

// === A conversation ===

/// A conversation.
pub(crate) fn talk(input: &[u8]) {
    let (cut, bytes) = split(input);
    let fake = Fake::new(2_000, Pace::Now);
    let settings =
        Settings { value: VALUE, command: LIMITS, arriving: 3 * VALUE, flush: true, ..Settings::default() };
    let house = Arc::new(House::new(Arc::new(fake.clone()), settings));
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    let peer = house.enter(here, here).unwrap();
    let mut session = Session::new(house.clone(), peer);
    let mut out = Out::default();
    let mut reader = client::Decoder::default();
    let commands = converse(&mut session, &mut out, Cut { bytes, cut });
    let mut sent = BytesMut::from(&drain(&mut out, cut)[..]);
    let mut replies = 0;
    while let Some(_reply) = reader.next(&mut sent, 1 << 20).expect("answers that a client can read") {
        replies += 1;
    }
    assert_eq!((replies, sent.len()), (commands, 0), "an answer for each command, and nothing else");
    drop(session);
    assert_eq!(house.seen().arriving, 0, "nothing arrives any more");
    let Answer::Now(Ok(page)) = fake.scan(&Tenant::default(), 0, 1_000) else { panic!("a fake answers") };
    let seen: usize = page.keys.iter().map(|key| length(&fake, key)).sum();
    assert_eq!(fake.used(), seen, "space that nobody can see is taken");
}

fn length(fake: &Fake, key: &[u8]) -> usize {
    match fake.look(&Tenant::default(), key) {
        Answer::Now(Ok(Some(look))) => look.len as usize,
        _ => 0,
    }
}

/// Runs all commands; how many answers there must be.
fn converse(session: &mut Session<Fake>, out: &mut Out, mut bytes: Cut<'_>) -> usize {
    let mut decoder = Decoder::new(LIMITS);
    let mut answers = 0;
    loop {
        decoder.distrust(session.is_stranger());
        match decoder.step() {
            Step::More => {
                if !bytes.feed(&mut decoder) {
                    return answers;
                }
            }
            Step::Value(len) => {
                let Answer::Now(space) = session.announce(&decoder, len) else { panic!("a fake answers") };
                if session.expect(space, len) { decoder.accept() } else { decoder.skip() }
            }
            Step::Fill => {
                let place = session.filling();
                let from = place.len() - decoder.gap();
                decoder.take(&mut place[from..]);
                if decoder.gap() > 0 && !bytes.bypass(&mut decoder, place) {
                    return answers;
                }
            }
            Step::Ready => {
                while let Some(index) = session.next_typed(&decoder) {
                    let Answer::Now(space) = session.announce_typed(&decoder, index) else {
                        panic!("a fake answers")
                    };
                    let value = decoder.args().get(index);
                    if session.expect(space, value.len()) {
                        session.filling().copy_from_slice(value);
                    }
                }
                match session.run(&decoder, out) {
                    Ran::Again => continue,
                    Ran::Wait(_) => panic!("a fake answers at once"),
                    Ran::Close => return answers + 1,
                    Ran::Done => answers += 1,
                }
                session.over();
                decoder.done();
            }
            Step::Broken(_) => return answers,
        }
    }
}

/// All that is to be sent, taken some bytes at a time.
fn drain(out: &mut Out, cut: usize) -> Vec<u8> {
    let mut sent = Vec::new();
    while out.unsent() > 0 {
        let mut slices = [std::io::IoSlice::new(&[]); SLICES];
        let used = out.slices(&mut slices);
        let some: Vec<u8> =
            slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(cut * 7).collect();
        assert!(!some.is_empty(), "there is something to send");
        sent.extend_from_slice(&some);
        out.sent(some.len());
    }
    sent
}

// === What a server sends ===

/// Bytes of a server.
pub(crate) fn replies(input: &[u8]) {
    let (cut, bytes) = split(input);
    let (whole, peak) = counting::peak_of(|| taken(bytes, usize::MAX));
    assert!(
        peak <= MULTIPLE * bytes.len() + AHEAD,
        "{peak} bytes were held for {} bytes of input",
        bytes.len()
    );
    for cut in [1, cut] {
        assert_eq!(taken(bytes, cut), whole, "cut to {cut}");
    }
}

fn taken(bytes: &[u8], cut: usize) -> (Vec<client::Reply>, Option<client::Malformed>) {
    let mut decoder = client::Decoder::default();
    let (mut all, mut there) = (Vec::new(), BytesMut::new());
    let mut chunks = bytes.chunks(cut.min(bytes.len().max(1)));
    loop {
        match decoder.next(&mut there, 4_096) {
            Ok(Some(reply)) => all.push(reply),
            Err(malformed) => return (all, Some(malformed)),
            Ok(None) => match chunks.next() {
                Some(chunk) => there.extend_from_slice(chunk),
                None => return (all, None),
            },
        }
    }
}
