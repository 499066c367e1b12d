//! Answers on their way: small ones written one after the other, large ones lent by the store, sent together.
//!
//! - O1: what is sent is what was answered, in order, however the socket takes it.
//! - O2: a value is lent, not copied, unless it is small; it is given back as soon as its last byte is sent.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use super::counters::Tally;
use super::pool;
use super::refusal::Refusal;

/// Values below this are copied: cheaper than a slice of their own in every write. Measured in `benches/resp.rs`.
pub const COPIED: usize = 16 << 10;
/// Slices in one write; the system takes up to 1,024, and more than this gains nothing.
pub const SLICES: usize = 64;
/// Text that is sent is dropped when there is this much of it.
const DROPPED: usize = 64 << 10;

/// Which version of the protocol the client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What every client speaks.
    #[default]
    Two,
    /// With maps and a null of its own.
    Three,
}

/// Answers that are not sent yet.
#[derive(Debug, Default)]
pub struct Out {
    /// Which version they are written in.
    pub protocol: Protocol,
    /// What was counted on the way.
    pub tally: Tally,
    text: Vec<u8>,
    text_sent: usize,
    /// Lent values, each with the text that goes before it.
    lent: VecDeque<(usize, Bytes)>,
    lent_sent: usize,
    unsent: usize,
}

// === Answers ===

impl Out {
    /// `+OK`
    pub fn simple(&mut self, words: &str) {
        self.line(b'+', words.as_bytes());
    }

    /// `-ERR …`
    pub fn refuse(&mut self, refusal: &Refusal) {
        self.tally.refusal(refusal.code);
        let words = refusal.to_string();
        // An answer of two lines would be two answers.
        let flat: Vec<u8> =
            words.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }).collect();
        self.line(b'-', &flat);
    }

    /// `:12`
    pub fn number(&mut self, number: i64) {
        self.head(b':', number);
    }

    /// The beginning of a list of so many answers.
    pub fn list(&mut self, len: usize) {
        self.head(b'*', len as i64);
    }

    /// The beginning of a map of so many pairs.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Two => self.head(b'*', pairs as i64 * 2),
            Protocol::Three => self.head(b'%', pairs as i64),
        }
    }

    /// The beginning of a set.
    pub fn set(&mut self, len: usize) {
        let kind = if self.protocol == Protocol::Two { b'*' } else { b'~' };
        self.head(kind, len as i64);
    }

    /// Nothing.
    pub fn null(&mut self) {
        match self.protocol {
            Protocol::Two => self.put(b"$-1\r\n"),
            Protocol::Three => self.put(b"_\r\n"),
        }
    }

    /// No list.
    pub fn null_list(&mut self) {
        match self.protocol {
            Protocol::Two => self.put(b"*-1\r\n"),
            Protocol::Three => self.put(b"_\r\n"),
        }
    }

    /// Bytes, copied.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len() as i64);
        self.put(bytes);
        self.put(b"\r\n");
    }

    /// Text for people to read as it is.
    pub fn text(&mut self, text: &str) {
        match self.protocol {
            Protocol::Two => self.bulk(text.as_bytes()),
            Protocol::Three => {
                self.head(b'=', text.len() as i64 + 4);
                self.put(b"txt:");
                self.put(text.as_bytes());
                self.put(b"\r\n");
            }
        }
    }

    /// A value, lent if it is large.
    pub fn value(&mut self, value: Bytes) {
        if value.len() < COPIED {
            return self.bulk(&value);
        }
        self.head(b'$', value.len() as i64);
        self.unsent += value.len();
        self.lent.push_back((self.text.len(), value));
        self.put(b"\r\n");
    }

    fn line(&mut self, kind: u8, words: &[u8]) {
        self.put(&[kind]);
        self.put(words);
        self.put(b"\r\n");
    }

    fn head(&mut self, kind: u8, number: i64) {
        // Written from behind: the least number has 20 signs.
        let mut line = [0; 24];
        let mut at = line.len() - 2;
        line[at..].copy_from_slice(b"\r\n");
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            line[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            at -= 1;
            line[at] = b'-';
        }
        line[at - 1] = kind;
        self.put(&line[at - 1..]);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.unsent += bytes.len();
        if self.text.capacity() == 0 {
            self.text = pool::take_text();
        }
        self.text.extend_from_slice(bytes);
    }
}

// === Sending ===

impl Out {
    /// Bytes that are not sent.
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// Bytes of memory that it holds itself; what is lent is the store's.
    pub fn held(&self) -> usize {
        self.text.capacity() + self.lent.capacity() * size_of::<(usize, Bytes)>()
    }

    /// What to send next: how many of the slices are used.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut used = 0;
        let mut add = |bytes: &'a [u8]| {
            if !bytes.is_empty() && used < SLICES {
                slices[used] = IoSlice::new(bytes);
                used += 1;
            }
        };
        let (mut text, mut skip) = (self.text_sent, self.lent_sent);
        for (before, value) in self.lent.iter().take(SLICES) {
            add(&self.text[text..*before]);
            add(&value[skip..]);
            (text, skip) = (*before, 0);
        }
        if self.lent.len() <= SLICES {
            add(&self.text[text..]);
        }
        used
    }

    /// So many bytes of [`Out::slices`] were sent.
    pub fn sent(&mut self, mut count: usize) {
        self.unsent -= count;
        while let Some((before, value)) = self.lent.front() {
            let text = count.min(before - self.text_sent);
            self.text_sent += text;
            count -= text;
            let lent = count.min(value.len() - self.lent_sent);
            self.lent_sent += lent;
            count -= lent;
            if self.text_sent < *before || self.lent_sent < value.len() {
                break;
            }
            self.lent.pop_front();
            self.lent_sent = 0;
        }
        self.text_sent += count;
        self.tidy();
    }

    /// Nothing will be answered for a while: holds no more memory than there is to send.
    pub fn park(&mut self) {
        if self.unsent == 0 {
            pool::give_text(std::mem::take(&mut self.text));
            self.lent = VecDeque::new();
            (self.text_sent, self.lent_sent) = (0, 0);
        }
    }

    fn tidy(&mut self) {
        if self.text_sent == self.text.len() && self.lent.is_empty() {
            self.text.clear();
            self.text_sent = 0;
        } else if self.text_sent > DROPPED {
            self.text.drain(..self.text_sent);
            for (before, _) in &mut self.lent {
                *before -= self.text_sent;
            }
            self.text_sent = 0;
        }
        // One large answer is no reason to keep room for the next.
        if self.text.is_empty() && self.text.capacity() > 4 * DROPPED {
            self.text = Vec::with_capacity(DROPPED);
        }
    }
}
