//! Lines of a file, one by one, as they come: what is wrong with a line is said with its number, and the next one follows.
//!
//! Lines end with LF or CR LF; the last one may end with the file. Empty lines count but are not told, nor is a byte order
//! mark. Memory is one line, of at most the limit, and one piece of the stream.

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::shelf::Error;

/// UTF-8's byte order mark, with which some editors begin.
const MARK: &[u8] = b"\xEF\xBB\xBF";

/// Lines on their way from a shelf.
pub struct Lines {
    stream: BoxStream<'static, Result<Bytes, Error>>,
    splitter: Splitter,
    ended: bool,
}

/// One line that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number; the first is 1.
    pub number: u64,
    /// Where it begins, in bytes from the beginning of the file.
    pub offset: u64,
    /// What it says, without its end.
    pub text: Result<String, Fault>,
}

/// Why a line cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is longer than lines may be.
    #[error("the line has {bytes} bytes, and {limit} are allowed")]
    TooLong {
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        limit: usize,
    },
    /// It is not UTF-8.
    #[error("the line is not valid UTF-8 at its byte {at}")]
    NotText {
        /// Which byte of it is wrong; the first is 1.
        at: usize,
    },
}

/// Pieces in, lines out; it waits for nobody.
struct Splitter {
    limit: usize,
    /// Whether enough has come to know if it begins with a mark.
    begun: bool,
    /// What has come and was not told yet.
    held: BytesMut,
    /// How much of it has no end of a line in it.
    looked: usize,
    /// How much of this line was thrown away because it is too long.
    dropped: u64,
    /// How many lines have ended.
    lines: u64,
    /// Where the line begins that is next.
    offset: u64,
}

// === impl Lines ===

impl Lines {
    /// Lines of at most `limit` bytes each.
    pub fn new(stream: BoxStream<'static, Result<Bytes, Error>>, limit: usize) -> Self {
        Self { stream, splitter: Splitter::new(limit), ended: false }
    }

    /// The next line, until there is none.
    ///
    /// # Errors
    /// What the shelf says; the rest of the file is not known then.
    pub async fn next(&mut self) -> Result<Option<Line>, Error> {
        loop {
            if let Some(line) = self.splitter.line() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(self.splitter.rest());
            }
            match self.stream.next().await {
                Some(piece) => self.splitter.push(&piece?),
                None => self.ended = true,
            }
        }
    }
}

// === impl Splitter ===

impl Splitter {
    fn new(limit: usize) -> Self {
        Self { limit, begun: false, held: BytesMut::new(), looked: 0, dropped: 0, lines: 0, offset: 0 }
    }

    fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
        if !self.begun && (self.held.len() >= MARK.len() || !MARK.starts_with(&self.held)) {
            self.begun = true;
            if self.held.starts_with(MARK) {
                self.held.advance(MARK.len());
                self.offset = MARK.len() as u64;
            }
        }
    }

    /// The next line that has ended and is not empty.
    fn line(&mut self) -> Option<Line> {
        while self.begun {
            let Some(end) = self.held[self.looked..].iter().position(|byte| *byte == b'\n') else {
                self.looked = self.held.len();
                self.forget();
                return None;
            };
            let line = self.held.split_to(self.looked + end);
            self.held.advance(1);
            if let Some(line) = self.told(&line, 1) {
                return Some(line);
            }
        }
        None
    }

    /// What comes after the last end of a line.
    fn rest(&mut self) -> Option<Line> {
        let line = self.held.split();
        if line.is_empty() && self.dropped == 0 {
            return None;
        }
        self.told(&line, 0)
    }

    /// Throws away what will not be told: a line that is too long already. A CR stays, for it may belong to the end.
    fn forget(&mut self) {
        if self.held.len() > self.limit + 1 || self.dropped > 0 {
            let gone = self.held.len() - usize::from(self.held.ends_with(b"\r"));
            self.dropped += gone as u64;
            self.held.advance(gone);
            self.looked = self.held.len();
        }
    }

    /// The line, unless it is empty, and on to the next one.
    fn told(&mut self, bytes: &[u8], end: u64) -> Option<Line> {
        self.lines += 1;
        let (number, offset) = (self.lines, self.offset);
        let dropped = std::mem::take(&mut self.dropped);
        self.offset += dropped + bytes.len() as u64 + end;
        self.looked = 0;
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let length = dropped + bytes.len() as u64;
        let text = if length > self.limit as u64 {
            Err(Fault::TooLong { bytes: length, limit: self.limit })
        } else {
            let text = std::str::from_utf8(bytes);
            text.map(str::to_owned).map_err(|error| Fault::NotText { at: error.valid_up_to() + 1 })
        };
        let empty = text.as_ref().is_ok_and(|text| text.trim_ascii().is_empty());
        (!empty).then_some(Line { number, offset, text })
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const LIMIT: usize = 8;

    async fn read(file: &[u8], step: usize) -> Vec<(u64, u64, Result<String, Fault>)> {
        let pieces: Vec<_> =
            file.chunks(step.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut lines = Lines::new(stream::iter(pieces).boxed(), LIMIT);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            assert!(lines.splitter.held.capacity() <= 64, "memory is a line and a piece");
            all.push((line.number, line.offset, line.text));
        }
        assert_eq!(lines.next().await, Ok(None), "the end stays the end");
        all
    }

    #[tokio::test]
    async fn a_file_is_its_lines_however_it_is_cut() {
        let good = |number, offset, text: &str| (number, offset, Ok(text.to_owned()));
        let long = |number, offset, bytes| (number, offset, Err(Fault::TooLong { bytes, limit: LIMIT }));
        let cases: Vec<(&[u8], Vec<_>)> = vec![
            (b"", vec![]),
            (b"\n", vec![]),
            (b"\r\n \t\r\n\n", vec![]),
            (b"a", vec![good(1, 0, "a")]),
            (b"a\n", vec![good(1, 0, "a")]),
            (b"a\nb", vec![good(1, 0, "a"), good(2, 2, "b")]),
            (b"a\r\nb\r\n", vec![good(1, 0, "a"), good(2, 3, "b")]),
            (b"a\n\n\nb\n", vec![good(1, 0, "a"), good(4, 4, "b")]),
            (b"a\rb\n", vec![good(1, 0, "a\rb")]),
            (b"a\r", vec![good(1, 0, "a")]),
            (b"\xEF\xBB\xBFa\nb\n", vec![good(1, 3, "a"), good(2, 5, "b")]),
            (b"\xEF\xBB\xBF", vec![]),
            (b"\xEF\xBB", vec![(1, 0, Err(Fault::NotText { at: 1 }))]),
            (b"\xEF\xBB\xBF1234567890123\nx", vec![long(1, 3, 13), good(2, 17, "x")]),
            (b"\xEF\xBB\xBF\n\xEF\xBB\xBFa\n", vec![good(2, 4, "\u{feff}a")]),
            (b"12345678\n", vec![good(1, 0, "12345678")]),
            (b"12345678\r\n", vec![good(1, 0, "12345678")]),
            (b"\xEF\xBB\xBF12345678\r\nx", vec![good(1, 3, "12345678"), good(2, 13, "x")]),
            (b"123456789\nb\n", vec![long(1, 0, 9), good(2, 10, "b")]),
            (
                b"a\n123456789012345678901234567890\r\nb",
                vec![good(1, 0, "a"), long(2, 2, 30), good(3, 34, "b")],
            ),
            (b"a\n12345678901234567890", vec![good(1, 0, "a"), long(2, 2, 20)]),
            (
                b"ok\n\xff\xfe\nok\n",
                vec![good(1, 0, "ok"), (2, 3, Err(Fault::NotText { at: 1 })), good(3, 6, "ok")],
            ),
            ("ü\nxü".as_bytes(), vec![good(1, 0, "ü"), good(2, 3, "xü")]),
            (b"ab\xc3\n", vec![(1, 0, Err(Fault::NotText { at: 3 }))]),
            (b"\0\n", vec![good(1, 0, "\0")]),
        ];
        for (file, expected) in cases {
            for step in [1, 2, 3, 5, 7, 16] {
                let found = read(file, step).await;
                assert_eq!(found, expected, "{:?} in pieces of {step}", String::from_utf8_lossy(file));
            }
        }
    }

    #[tokio::test]
    async fn what_the_shelf_says_is_passed_on() {
        let broken = vec![Ok(Bytes::from_static(b"a\nb")), Err(Error::Away("gone".to_owned()))];
        let mut lines = Lines::new(stream::iter(broken).boxed(), LIMIT);
        assert_eq!(lines.next().await.unwrap().unwrap().number, 1);
        assert_eq!(lines.next().await, Err(Error::Away("gone".to_owned())), "half a line is no line");
    }
}
