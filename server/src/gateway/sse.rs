//! A stream of server-sent events on its way through: passed on byte for byte, understood as far as needed.
//!
//! Pure: bytes in, bytes out. Only one event may be kept from the client: the usage that we asked for ourselves.

use bytes::{Bytes, BytesMut};

use super::usage;
use crate::fleet::Usage;

/// What the stream has said so far.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The end of what came: an event that is not complete yet. Empty unless it must be held back.
    held: BytesMut,
    /// The beginning of an incomplete event that has been passed on already.
    seen: Vec<u8>,
    /// Keep the usage event from the client.
    hide_usage: bool,
    usage: Option<Usage>,
    ended: bool,
    events: u64,
}

/// An event longer than this is passed on without being understood.
const MAX_EVENT: usize = 1 << 20;

impl Stream {
    pub(super) fn new(hide_usage: bool) -> Self {
        Self { hide_usage, ..Self::default() }
    }

    /// More bytes from the engine; returns what the client gets now.
    pub(super) fn take(&mut self, bytes: Bytes) -> Bytes {
        if self.hide_usage { self.take_whole(bytes) } else { self.take_along(bytes) }
    }

    /// Whether the stream came to its proper end.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whether the client has got only whole events: a place where a comment or an error may stand.
    pub(super) fn between_events(&self) -> bool {
        self.seen.is_empty()
    }

    /// What is left at the end of the connection.
    pub(super) fn rest(&mut self) -> Bytes {
        self.held.split().freeze()
    }

    /// Everything goes on at once; events are looked at as they pass.
    fn take_along(&mut self, bytes: Bytes) -> Bytes {
        let mut rest: &[u8] = &bytes;
        while let Some(end) = end_of_event(&self.seen, rest) {
            let (event, more) = rest.split_at(end);
            if self.seen.is_empty() {
                self.event(event);
            } else {
                let mut whole = std::mem::take(&mut self.seen);
                whole.extend_from_slice(event);
                self.event(&whole);
            }
            rest = more;
        }
        if self.seen.len() + rest.len() <= MAX_EVENT {
            self.seen.extend_from_slice(rest);
        } else {
            self.seen.truncate(0);
            self.seen.extend_from_slice(b"?");
        }
        bytes
    }

    /// Only whole events go on, so that one of them can be kept.
    fn take_whole(&mut self, bytes: Bytes) -> Bytes {
        if self.held.is_empty() && end_of_event(&[], &bytes) == Some(bytes.len()) {
            // The usual case: engines send one event a packet.
            return if self.event(&bytes) { Bytes::new() } else { bytes };
        }
        self.held.extend_from_slice(&bytes);
        let mut out = BytesMut::new();
        while let Some(end) = end_of_event(&[], &self.held) {
            let event = self.held.split_to(end);
            if !self.event(&event) {
                out.extend_from_slice(&event);
            }
        }
        if self.held.len() > MAX_EVENT {
            self.hide_usage = false;
            out.extend_from_slice(&self.held.split());
        }
        out.freeze()
    }

    /// Looks at one event; whether it is to be kept from the client.
    fn event(&mut self, event: &[u8]) -> bool {
        self.events += 1;
        let Some(data) = data(event) else { return false };
        if data == b"[DONE]" {
            self.ended = true;
            return false;
        }
        // Deltas carry `"usage":null` or nothing; only what says more is parsed.
        if let Some(found) = usage::in_event(data) {
            self.usage = Some(usage::merge(self.usage, found.usage));
            self.ended |= found.last;
            return self.hide_usage && found.alone;
        }
        if is_end(data) {
            self.ended = true;
        }
        false
    }
}

/// The payload of an event's `data:` line.
fn data(event: &[u8]) -> Option<&[u8]> {
    let mut lines = event.split(|byte| *byte == b'\n');
    let data = lines.find_map(|line| line.strip_prefix(b"data:"))?;
    Some(data.trim_ascii())
}

/// The last events of APIs that know no `[DONE]`.
fn is_end(data: &[u8]) -> bool {
    const ENDS: [&[u8]; 4] = [
        b"\"type\":\"message_stop\"",
        b"\"type\":\"response.completed\"",
        b"\"type\": \"message_stop\"",
        b"\"type\": \"response.completed\"",
    ];
    data.len() < 64 && ENDS.iter().any(|end| memchr(data, end))
}

fn memchr(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Where the first event in `bytes` ends, just behind its empty line. `before` are the bytes before them.
fn end_of_event(before: &[u8], bytes: &[u8]) -> Option<usize> {
    let at = |i: usize| match i.checked_sub(before.len()) {
        Some(i) => bytes.get(i).copied(),
        None => before.get(i).copied(),
    };
    for (i, byte) in bytes.iter().enumerate() {
        if *byte != b'\n' {
            continue;
        }
        let here = before.len() + i;
        let previous = here.checked_sub(1).and_then(at);
        let earlier = here.checked_sub(2).and_then(at);
        if previous == Some(b'\n') || previous == Some(b'\r') && earlier == Some(b'\n') {
            return Some(i + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n: comment\n\n\
        data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\
        \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n";
    const USAGE: Usage = Usage { prompt: 7, cached: Some(4), completion: 2 };

    fn pass(cuts: &[usize], hide: bool) -> (String, Stream) {
        let mut stream = Stream::new(hide);
        let mut out = Vec::new();
        let mut from = 0;
        for to in cuts.iter().copied().chain([STREAM.len()]) {
            out.extend_from_slice(&stream.take(Bytes::copy_from_slice(&STREAM.as_bytes()[from..to])));
            from = to;
        }
        out.extend_from_slice(&stream.rest());
        (String::from_utf8(out).unwrap(), stream)
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_it_passes_whole_and_is_understood(
            mut cuts in proptest::collection::vec(0..STREAM.len(), 0..20),
            hide: bool,
        ) {
            cuts.sort_unstable();
            let (out, stream) = pass(&cuts, hide);
            let (from, to) = (STREAM.find("data: {\"choices\":[],").unwrap(), STREAM.find("data: [DONE]").unwrap());
            let expected = if hide { format!("{}{}", &STREAM[..from], &STREAM[to..]) } else { STREAM.to_owned() };
            prop_assert_eq!(out, expected);
            prop_assert_eq!(stream.usage(), Some(USAGE));
            prop_assert!(stream.ended() && stream.between_events());
        }
    }

    #[test]
    fn a_stump_is_not_an_end() {
        let mut stream = Stream::new(false);
        stream.take(Bytes::from_static(
            b"data: {\"choices\":[{\"delta\":{\"content\":\"[DONE]\"}}]}\n\ndata: {\"ch",
        ));
        assert!(!stream.ended() && !stream.between_events());
    }

    #[test]
    fn other_apis_end_in_their_own_way() {
        for end in [
            "{\"type\":\"message_stop\"}",
            "{\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}",
        ] {
            let mut stream = Stream::new(false);
            stream.take(Bytes::from(format!("event: x\ndata: {end}\n\n")));
            assert!(stream.ended(), "{end}");
        }
    }
}
