//! Reads commands out of bytes, however they are cut. It knows no socket: bytes are put in, steps come out.
//!
//! Names, keys and options stay where they were read, and are looked at there. A value is not kept here at all: its length
//! is announced, and its bytes go where [`Decoder::take`] is told, or straight from the socket there ([`Decoder::gap`]).
//!
//! - D1: memory is bounded: by [`Limits::head`] for the bytes, and by eight bytes an argument that has arrived.
//! - D2: what comes out does not depend on where the input was cut.

use std::borrow::Cow;
use std::ops::Range;

use super::command::{self, Command};
use super::inline;
use super::pool;

/// The largest bulk that the protocol knows, as in Redis.
pub const BULK: usize = 512 << 20;
/// What somebody may send who has not said who they are, as in Redis.
const STRANGER: (usize, usize) = (10, 16 << 10);
/// A line that says a number is shorter than this.
const NUMBER: usize = 32;
/// Left-over bytes below this are moved rather than read around.
const MOVED: usize = 4 << 10;
/// A typed line is at most so long, as in Redis.
const LINE: usize = 64 << 10;

/// How much of a command may be there at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest name, key or option.
    pub argument: usize,
    /// The most arguments.
    pub arguments: usize,
    /// The most bytes of a command beside its values.
    pub head: usize,
}

/// What can be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed: see [`Decoder::space`].
    More,
    /// The next argument is a value of this length: call [`Decoder::accept`] or [`Decoder::skip`].
    Value(usize),
    /// The value that was accepted is not all there: see [`Decoder::take`] and [`Decoder::gap`].
    Fill,
    /// A command is there: look at [`Decoder::args`], then call [`Decoder::done`].
    Ready,
    /// That is not the protocol. Say so, and close.
    Broken(Broken),
}

/// What is wrong with it, in the words of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub Cow<'static, str>);

/// The arguments of a command; the first is its name. A value that went elsewhere is empty here.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    bytes: &'a [u8],
    places: &'a [(u32, u32)],
    count: usize,
}

/// Reads commands.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    buffer: Vec<u8>,
    /// Where the command begins, as far as it is still needed.
    start: usize,
    /// What is read up to here.
    at: usize,
    /// What has arrived.
    end: usize,
    /// Arguments: from where, counted from `start`, and to where.
    places: Vec<(u32, u32)>,
    stage: Stage,
    command: Option<&'static Command>,
    /// Arguments that were announced.
    count: usize,
    /// An argument of this length was too long and was left out.
    too_long: Option<usize>,
    /// The words of a typed line, one after the other.
    line: Vec<u8>,
    stranger: bool,
}

/// Where in a command the reading is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Before its first byte.
    Begin,
    /// Before an argument.
    Argument,
    /// In an argument that stays here.
    Bulk(usize),
    /// A value was announced.
    Announced(usize),
    /// In a value that goes elsewhere; so many bytes are missing.
    Value(usize),
    /// In something that nobody wants.
    Skip(usize),
    /// Before the end of the line that follows a value.
    Tail,
    /// After its last byte.
    Ready,
    /// After something that is not the protocol.
    Broken(Broken),
}

/// A number on a line of its own.
enum Line {
    More,
    Is(i64),
    Bad,
}

// === impl Decoder ===

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            start: 0,
            at: 0,
            end: 0,
            places: Vec::new(),
            stage: Stage::Begin,
            command: None,
            count: 0,
            too_long: None,
            line: Vec::new(),
            stranger: false,
        }
    }

    /// Whether to be strict because nobody knows who this is.
    pub fn distrust(&mut self, stranger: bool) {
        self.stranger = stranger;
    }

    /// Where to put bytes; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        self.make_space();
        &mut self.buffer[self.end..]
    }

    /// So many bytes were put into [`Decoder::space`].
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.buffer.len(), "more than there was space for");
    }

    /// Goes on as far as the bytes reach.
    pub fn step(&mut self) -> Step {
        loop {
            let step = match self.stage {
                Stage::Begin => self.begin(),
                Stage::Argument => self.argument(),
                Stage::Bulk(len) => self.bulk(len),
                Stage::Skip(len) => self.drop_some(len),
                Stage::Tail => self.tail(),
                Stage::Announced(len) => Some(Step::Value(len)),
                Stage::Value(0) => {
                    self.stage = Stage::Tail;
                    None
                }
                Stage::Value(_) => Some(Step::Fill),
                Stage::Ready => Some(Step::Ready),
                Stage::Broken(ref broken) => Some(Step::Broken(broken.clone())),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// Announced -> Value. The arguments so far are forgotten: the value's place already knows its key.
    pub fn accept(&mut self) {
        if let Stage::Announced(len) = self.stage {
            self.forget();
            self.stage = Stage::Value(len);
        }
    }

    /// Announced -> Skip. The value is read and dropped, so that the client stays in step.
    pub fn skip(&mut self) {
        if let Stage::Announced(len) = self.stage {
            self.forget();
            self.stage = Stage::Skip(len);
        }
    }

    /// Moves what has arrived of a value to its place; how much that was.
    pub fn take(&mut self, place: &mut [u8]) -> usize {
        let Stage::Value(missing) = self.stage else { return 0 };
        let count = missing.min(self.end - self.at).min(place.len());
        place[..count].copy_from_slice(&self.buffer[self.at..self.at + count]);
        self.at += count;
        self.start = self.at;
        self.stage = Stage::Value(missing - count);
        count
    }

    /// How much of a value is missing.
    pub fn gap(&self) -> usize {
        match self.stage {
            Stage::Value(missing) => missing,
            _ => 0,
        }
    }

    /// So many bytes of a value went from the socket straight to their place.
    pub fn bypassed(&mut self, count: usize) {
        if let Stage::Value(missing) = &mut self.stage {
            debug_assert!(count <= *missing && self.at == self.end, "bytes out of order");
            *missing -= count;
        }
    }

    /// The command that is being read, if there is one of its name.
    pub fn command(&self) -> Option<&'static Command> {
        self.command
    }

    /// The arguments so far, or all of them.
    pub fn args(&self) -> Args<'_> {
        let bytes = if self.line.is_empty() { &self.buffer[self.start..self.at] } else { &self.line };
        Args { bytes, places: &self.places, count: self.count }
    }

    /// Whether the command was typed on a line, values and all.
    pub fn typed(&self) -> bool {
        !self.line.is_empty()
    }

    /// The length of an argument that was too long, and was left out.
    pub fn too_long(&self) -> Option<usize> {
        self.too_long
    }

    /// Ready -> Begin.
    pub fn done(&mut self) {
        self.start = self.at;
        self.places.clear();
        self.line = Vec::new();
        self.stage = Stage::Begin;
        (self.command, self.count, self.too_long) = (None, 0, None);
    }

    /// Whether a part of a command has arrived.
    pub fn midway(&self) -> bool {
        self.stage != Stage::Begin || self.start != self.end
    }

    /// Nothing will come for a while: holds no more memory than there are bytes.
    pub fn park(&mut self) {
        let rest = self.end - self.start;
        if rest > MOVED || self.buffer.len() <= MOVED {
            return;
        }
        let small = self.buffer[self.start..self.end].to_vec();
        pool::give(std::mem::replace(&mut self.buffer, small));
        (self.at, self.end, self.start) = (self.at - self.start, rest, 0);
        if self.places.capacity() > MOVED {
            self.places.shrink_to_fit();
        }
    }

    /// Bytes of memory that it holds.
    pub fn held(&self) -> usize {
        self.buffer.capacity() + self.places.capacity() * 8 + self.line.capacity()
    }
}

// === Stages ===

impl Decoder {
    fn begin(&mut self) -> Option<Step> {
        self.start = self.at;
        let Some(first) = self.rest().first() else { return Some(Step::More) };
        if *first != b'*' {
            return self.typed_line();
        }
        let most = i64::try_from(self.limits.arguments).unwrap_or(i64::MAX);
        match self.number() {
            Line::More => Some(Step::More),
            Line::Is(count) if count <= 0 => None,
            Line::Is(count) if self.stranger && count > STRANGER.0 as i64 => {
                self.broken("unauthenticated multibulk length")
            }
            Line::Is(count) if count <= most => {
                self.count = count as usize;
                // The frame's own head is not needed again.
                self.start = self.at;
                self.stage = Stage::Argument;
                None
            }
            Line::Is(_) | Line::Bad => self.broken("invalid multibulk length"),
        }
    }

    fn argument(&mut self) -> Option<Step> {
        let index = self.places.len();
        if index == self.count {
            self.stage = Stage::Ready;
            return None;
        }
        match self.rest().first() {
            None => return Some(Step::More),
            Some(b'$') => (),
            Some(other) => {
                let other = if other.is_ascii_graphic() || *other == b' ' { *other as char } else { '.' };
                return self.broken(format!("expected '$', got '{other}'"));
            }
        }
        let len = match self.number() {
            Line::More => return Some(Step::More),
            Line::Is(len) if (0..=BULK as i64).contains(&len) => len as usize,
            Line::Is(_) | Line::Bad => return self.broken("invalid bulk length"),
        };
        if self.stranger && len > STRANGER.1 {
            return self.broken("unauthenticated bulk length");
        }
        self.stage = if self.command.is_some_and(|command| command.takes_value_at(index)) {
            Stage::Announced(len)
        } else if len > self.limits.argument {
            self.too_long = Some(len);
            self.forget();
            Stage::Skip(len)
        } else if self.at - self.start + len > self.limits.head {
            return self.broken("too big request");
        } else {
            Stage::Bulk(len)
        };
        None
    }

    fn bulk(&mut self, len: usize) -> Option<Step> {
        let rest = self.rest();
        if rest.len() < len + 2 {
            return Some(Step::More);
        }
        if &rest[len..len + 2] != b"\r\n" {
            return self.broken("expected the end of a line after a bulk");
        }
        if self.places.is_empty() {
            self.command = command::find(&rest[..len]);
        }
        let from = (self.at - self.start) as u32;
        self.places.push((from, from + len as u32));
        self.at += len + 2;
        self.stage = Stage::Argument;
        None
    }

    fn drop_some(&mut self, len: usize) -> Option<Step> {
        let count = len.min(self.end - self.at);
        self.at += count;
        self.start = self.at;
        self.stage = if count == len { Stage::Tail } else { Stage::Skip(len - count) };
        (count != len).then_some(Step::More)
    }

    fn tail(&mut self) -> Option<Step> {
        match self.rest() {
            [b'\r', b'\n', ..] => {
                self.at += 2;
                self.start = self.at;
                self.places.push((0, 0));
                self.stage = Stage::Argument;
                None
            }
            [] | [b'\r'] => Some(Step::More),
            _ => self.broken("expected the end of a line after a bulk"),
        }
    }

    /// A command as people type it.
    fn typed_line(&mut self) -> Option<Step> {
        let rest = self.rest();
        let most = if self.stranger { STRANGER.1 } else { LINE };
        let Some(len) = rest.iter().take(most).position(|byte| *byte == b'\n') else {
            return if rest.len() >= most { self.broken("too big inline request") } else { Some(Step::More) };
        };
        let line = rest[..len].strip_suffix(b"\r").unwrap_or(&rest[..len]);
        let (mut words, mut places) = (Vec::new(), Vec::new());
        if inline::split(line, &mut words, &mut places).is_none() {
            return self.broken("unbalanced quotes in request");
        }
        self.at += len + 1;
        self.start = self.at;
        if places.is_empty() {
            return None;
        }
        if places.len() > self.limits.arguments {
            return self.broken("invalid multibulk length");
        }
        self.too_long =
            places.iter().map(|(from, to)| (to - from) as usize).find(|len| *len > self.limits.argument);
        self.command = command::find(&words[places[0].0 as usize..places[0].1 as usize]);
        (self.count, self.line, self.places) = (places.len(), words, places);
        // A line of empty words is a line all the same.
        self.line.push(b'\n');
        self.stage = Stage::Ready;
        None
    }
}

// === Bytes ===

impl Decoder {
    fn rest(&self) -> &[u8] {
        &self.buffer[self.at..self.end]
    }

    /// Reads `*12\r\n`, and moves behind it.
    fn number(&mut self) -> Line {
        let rest = self.rest();
        let Some(len) = rest.iter().take(NUMBER).position(|byte| *byte == b'\r') else {
            return if rest.len() >= NUMBER { Line::Bad } else { Line::More };
        };
        let Some(end) = rest.get(len + 1) else { return Line::More };
        let Some(number) = inline::number(&rest[1..len]).filter(|_| *end == b'\n') else { return Line::Bad };
        self.at += len + 2;
        Line::Is(number)
    }

    /// What was read so far is not needed again; the arguments are known to have been there.
    fn forget(&mut self) {
        self.start = self.at;
        self.places.fill((0, 0));
    }

    fn broken(&mut self, words: impl Into<Cow<'static, str>>) -> Option<Step> {
        self.stage = Stage::Broken(Broken(words.into()));
        None
    }

    fn make_space(&mut self) {
        if self.start == self.end {
            (self.start, self.at, self.end) = (0, 0, 0);
        }
        let rest = self.start..self.end;
        if self.buffer.len() < pool::BUFFER {
            let mut buffer = pool::take();
            buffer[..rest.len()].copy_from_slice(&self.buffer[rest.clone()]);
            self.buffer = buffer;
            self.moved(rest);
        } else if self.start > 0 && (self.end == self.buffer.len() || rest.len() < MOVED) {
            self.buffer.copy_within(rest.clone(), 0);
            self.moved(rest);
        } else if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }

    fn moved(&mut self, rest: Range<usize>) {
        (self.at, self.end, self.start) = (self.at - rest.start, rest.len(), 0);
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        pool::give(std::mem::take(&mut self.buffer));
    }
}

// === impl Args ===

impl<'a> Args<'a> {
    /// How many there are or, of a command that is not all there, will be.
    pub fn count(self) -> usize {
        self.count
    }

    /// How many have arrived.
    pub fn arrived(self) -> usize {
        self.places.len()
    }

    /// One of them; empty if it has not arrived.
    pub fn get(self, index: usize) -> &'a [u8] {
        self.places.get(index).map_or(&[], |(from, to)| &self.bytes[*from as usize..*to as usize])
    }

    /// Those from one on.
    pub fn from(self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> {
        (first..self.places.len().max(first)).map(move |index| self.get(index))
    }

    /// One of them as a word in capitals, to compare with; what is no such word is empty.
    pub fn word(self, index: usize) -> Word {
        Word::of(self.get(index))
    }
}

/// A short word in capitals.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    letters: [u8; Self::MOST],
    len: usize,
}

impl Word {
    const MOST: usize = 20;

    /// What is too long to be any word is empty.
    pub fn of(bytes: &[u8]) -> Self {
        let mut word = Self { letters: [0; Self::MOST], len: 0 };
        if bytes.len() <= Self::MOST {
            word.len = bytes.len();
            word.letters[..bytes.len()].copy_from_slice(bytes);
            word.letters.make_ascii_uppercase();
        }
        word
    }

    /// Its letters.
    pub fn bytes(&self) -> &[u8] {
        &self.letters[..self.len]
    }
}
