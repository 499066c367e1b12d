//! Where a command or a reply ends: just enough of RESP2 and RESP3 to cut between them.

use std::io;

use bytes::{Bytes, BytesMut};

/// Bytes of a stream, given out one whole frame at a time: one command, one reply or one message.
///
/// A frame is a number of values that are still to come; an array only makes that number greater. So there is no
/// stack, and nothing is looked at twice when a long frame arrives in pieces.
#[derive(Debug)]
pub(super) struct Frames {
    /// What was read and not yet given out.
    pub(super) buffer: BytesMut,
    /// How far it has been looked at.
    at: usize,
    /// Values missing in the frame that is being looked at.
    missing: u64,
}

impl Default for Frames {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), at: 0, missing: 1 }
    }
}

impl Frames {
    /// The next whole frame; none before more bytes have come.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.missing > 0 {
            let Some((length, more)) = step(&self.buffer[self.at..])? else {
                return Ok(None);
            };
            self.at += length;
            self.missing = self.missing - 1 + more;
        }
        let frame = self.buffer.split_to(self.at).freeze();
        (self.at, self.missing) = (0, 1);
        Ok(Some(frame))
    }
}

/// The length of the value, or of the head of an array, that `bytes` start with, and how many values belong to it.
/// None if it is not all there.
fn step(bytes: &[u8]) -> io::Result<Option<(usize, u64)>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let (line, head) = (bytes[..end].trim_ascii_end(), end + 1);
    Ok(match line.first() {
        Some(b'$' | b'!' | b'=') => {
            // A null is a bulk string of length -1, without even the end of a line.
            let whole = size(line)?.map_or(head, |length| head + length as usize + 2);
            (bytes.len() >= whole).then_some((whole, 0))
        }
        Some(b'*' | b'~' | b'>') => Some((head, size(line)?.unwrap_or(0))),
        Some(b'%') => Some((head, 2 * size(line)?.unwrap_or(0))),
        // Attributes come before the value that they belong to and are none themselves.
        Some(b'|') => Some((head, 2 * size(line)?.unwrap_or(0) + 1)),
        // All else is a line: numbers, texts, errors, and commands typed by hand.
        _ => Some((head, 0)),
    })
}

/// The number behind the type; none if it is negative.
fn size(line: &[u8]) -> io::Result<Option<u64>> {
    let number: Option<i64> = str::from_utf8(&line[1..]).ok().and_then(|text| text.parse().ok());
    let number = number.ok_or_else(|| {
        let line = String::from_utf8_lossy(line);
        io::Error::new(io::ErrorKind::InvalidData, format!("not a size the proxy understands: {line}"))
    })?;
    Ok(u64::try_from(number).ok())
}

/// The words that a frame starts with: of a command all, of a reply those before the first that is no bulk string.
pub(super) fn words(frame: &[u8]) -> Vec<&[u8]> {
    if !matches!(frame.first(), Some(b'*' | b'>')) {
        return frame.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    }
    let mut words = Vec::new();
    let mut rest = step(frame).ok().flatten().map_or(frame, |(head, _)| &frame[head..]);
    while let (Some(b'$'), Ok(Some((length, 0)))) = (rest.first(), step(rest)) {
        let value = rest[..length].split(|byte| *byte == b'\n').next().map_or(0, |line| line.len() + 1);
        words.push(rest[value..length].strip_suffix(b"\r\n").unwrap_or_default());
        rest = &rest[length..];
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is one frame, whether it comes at once or byte by byte, and is not mixed up with what follows.
    #[test]
    fn a_frame_ends_where_it_ends() {
        let frames: [&[u8]; 20] = [
            b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"$-1\r\n",
            b"$0\r\n\r\n",
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":-7\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",1.5\r\n",
            b"(123456789012345678901234567890\r\n",
            b"!5\r\nERR x\r\n",
            b"=7\r\ntxt:a\nb\r\n",
            b"~2\r\n:1\r\n:2\r\n",
            b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
            b"%2\r\n+a\r\n*2\r\n:1\r\n*1\r\n:2\r\n+b\r\n_\r\n",
            b"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n",
            b"*3\r\n*2\r\n:1\r\n*0\r\n%1\r\n+k\r\n*-1\r\n$2\r\n\r\n\r\n",
            b"PING\r\n",
        ];
        let stream = frames.concat();
        for chunk in [1, 2, 7, stream.len()] {
            let mut read = Frames::default();
            let mut found = Vec::new();
            for bytes in stream.chunks(chunk) {
                read.buffer.extend_from_slice(bytes);
                while let Some(frame) = read.next().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, frames, "in pieces of {chunk}");
        }
    }

    #[test]
    fn a_size_that_is_none_is_an_error() {
        let mut read = Frames::default();
        read.buffer.extend_from_slice(b"$x\r\n");
        assert!(read.next().unwrap_err().to_string().contains("$x"));
    }

    #[test]
    fn words_are_those_of_the_command() {
        let cases: [(&[u8], &[&str]); 5] = [
            (b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n", &["GET", "a\r\nb"]),
            (b"PING  now\r\n", &["PING", "now"]),
            (b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", &["subscribe", "c"]),
            (b"*2\r\n$0\r\n\r\n$1\r\nx\r\n", &["", "x"]),
            (b"*0\r\n", &[]),
        ];
        for (frame, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|word| word.as_bytes()).collect();
            assert_eq!(words(frame), expected);
        }
    }
}
