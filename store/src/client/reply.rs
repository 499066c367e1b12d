//! Reads answers out of bytes, of both versions of the protocol, however they are cut.

use bytes::{Buf, Bytes, BytesMut};

use super::Failed;
use crate::resp::inline;
use crate::resp::refusal::Refusal;

/// How deep lists may lie in lists.
const DEPTH: usize = 8;
/// No line is longer than this.
const LINE: usize = 64 << 10;
/// Room for so many answers is made before they are there.
const AHEAD: usize = 1 << 10;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A word.
    Simple(String),
    /// Why not.
    Refused(Refusal),
    /// A number.
    Number(i64),
    /// Bytes.
    Bytes(Bytes),
    /// Nothing.
    Null,
    /// Answers in order; a map is its names and values in turn.
    List(Vec<Self>),
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// The first line of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its first byte.
    pub kind: u8,
    /// Its number, where it is one.
    pub number: i64,
    /// Its length, with the end of the line.
    pub len: usize,
}

/// Reads answers one after the other.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Lists that have begun, and how many answers each lacks.
    open: Vec<(Vec<Reply>, usize)>,
    wants: usize,
}

// === impl Decoder ===

impl Decoder {
    /// The next answer, if all of it is there. Its bytes are split off, not copied.
    ///
    /// # Errors
    /// That is not the protocol, or an answer larger than `largest`.
    pub fn next(&mut self, bytes: &mut BytesMut, largest: usize) -> Result<Option<Reply>, Malformed> {
        loop {
            let Some(head) = Head::read(bytes)? else {
                self.wants = 0;
                return Ok(None);
            };
            let reply = match head.kind {
                b'*' | b'%' | b'~' | b'>' if head.number >= 0 => {
                    bytes.advance(head.len);
                    self.begin(head, largest)?
                }
                b'$' | b'=' | b'!' if head.number >= 0 => match self.bulk(head, bytes, largest)? {
                    Some(reply) => Some(reply),
                    None => return Ok(None),
                },
                _ => {
                    let line = bytes.split_to(head.len);
                    Some(plain(head, &line[1..line.len() - 2])?)
                }
            };
            if let Some(reply) = reply.and_then(|reply| self.close(reply)) {
                return Ok(Some(reply));
            }
        }
    }

    /// How many bytes the answer that is being read needs in all, as far as that is known.
    pub fn wants(&self) -> usize {
        self.wants
    }

    fn begin(&mut self, head: Head, largest: usize) -> Result<Option<Reply>, Malformed> {
        let count = usize::try_from(head.number).ok().filter(|count| *count <= largest);
        let count = count.ok_or(Malformed("a list that is too long"))?;
        let count = if head.kind == b'%' { count * 2 } else { count };
        if count == 0 {
            return Ok(Some(Reply::List(Vec::new())));
        }
        if self.open.len() == DEPTH {
            return Err(Malformed("lists that lie too deep"));
        }
        self.open.push((Vec::with_capacity(count.min(AHEAD)), count));
        Ok(None)
    }

    fn bulk(&mut self, head: Head, bytes: &mut BytesMut, largest: usize) -> Result<Option<Reply>, Malformed> {
        let len = usize::try_from(head.number).ok().filter(|len| *len <= largest);
        let len = len.ok_or(Malformed("a value that is too large"))?;
        let whole = head.len + len + 2;
        if bytes.len() < whole {
            self.wants = whole;
            return Ok(None);
        }
        self.wants = 0;
        bytes.advance(head.len);
        let value = bytes.split_to(len).freeze();
        if *bytes.split_to(2) != *b"\r\n" {
            return Err(Malformed("a value that goes on after its end"));
        }
        Ok(Some(match head.kind {
            b'!' => Reply::Refused(Refusal::read(&String::from_utf8_lossy(&value))),
            // The first four bytes say of what kind the text is.
            b'=' if len >= 4 => Reply::Bytes(value.slice(4..)),
            b'=' => return Err(Malformed("a text of no kind")),
            _ => Reply::Bytes(value),
        }))
    }

    /// Puts an answer where it belongs; it comes back when it belongs nowhere.
    fn close(&mut self, mut reply: Reply) -> Option<Reply> {
        while let Some((list, lacks)) = self.open.last_mut() {
            list.push(reply);
            *lacks -= 1;
            if *lacks > 0 {
                return None;
            }
            reply = Reply::List(self.open.pop()?.0);
        }
        Some(reply)
    }
}

// === impl Head ===

impl Head {
    /// The first line, if all of it is there.
    ///
    /// # Errors
    /// That is not the protocol.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(end) = bytes.iter().take(LINE).position(|byte| *byte == b'\n') else {
            return if bytes.len() < LINE { Ok(None) } else { Err(Malformed("a line without an end")) };
        };
        if end < 2 || bytes[end - 1] != b'\r' {
            return Err(Malformed("a line that does not end as lines do"));
        }
        let kind = bytes[0];
        let number = match kind {
            b'*' | b'%' | b'~' | b'>' | b'$' | b'=' | b'!' | b':' => {
                inline::number(&bytes[1..end - 1]).ok_or(Malformed("a length or number that is none"))?
            }
            _ => 0,
        };
        Ok(Some(Self { kind, number, len: end + 1 }))
    }
}

/// An answer of one line.
fn plain(head: Head, line: &[u8]) -> Result<Reply, Malformed> {
    Ok(match head.kind {
        b'+' | b',' | b'(' => Reply::Simple(String::from_utf8_lossy(line).into_owned()),
        b'-' => Reply::Refused(Refusal::read(&String::from_utf8_lossy(line))),
        b':' => Reply::Number(head.number),
        b'#' if matches!(line, b"t" | b"f") => Reply::Number((line == b"t").into()),
        b'_' if line.is_empty() => Reply::Null,
        b'$' | b'*' if head.number == -1 => Reply::Null,
        _ => return Err(Malformed("an answer of no kind that is known")),
    })
}

// === impl Reply ===

impl Reply {
    /// `+OK`.
    ///
    /// # Errors
    /// It is something else.
    pub fn ok(self) -> Result<(), Failed> {
        match self {
            Self::Simple(words) if words == "OK" => Ok(()),
            other => Err(other.unlike("something else than OK")),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// It is something else.
    pub fn number(self) -> Result<i64, Failed> {
        match self {
            Self::Number(number) => Ok(number),
            other => Err(other.unlike("something else than a number")),
        }
    }

    /// Bytes, or nothing.
    ///
    /// # Errors
    /// It is something else.
    pub fn bytes(self) -> Result<Option<Bytes>, Failed> {
        match self {
            Self::Bytes(bytes) => Ok(Some(bytes)),
            Self::Null => Ok(None),
            other => Err(other.unlike("something else than bytes")),
        }
    }

    /// A list.
    ///
    /// # Errors
    /// It is something else.
    pub fn list(self) -> Result<Vec<Self>, Failed> {
        match self {
            Self::List(list) => Ok(list),
            other => Err(other.unlike("something else than a list")),
        }
    }

    fn unlike(self, what: &'static str) -> Failed {
        match self {
            Self::Refused(refusal) => Failed::Refused(refusal),
            _ => Failed::Other(Malformed(what)),
        }
    }
}
