//! An engine's answer on its way to the client: passed on as it comes, watched, and ended honestly.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::Counters;
use super::files::Download;
use super::keys::Admitted;
use super::sse::Stream;
use super::upstream::Connection;
use crate::error::ApiError;
use crate::fleet::{Failure, Outcome, Ticket};

/// The body of an answer.
pub(super) enum Answer {
    /// Ours, or one that was read to its end.
    Whole(Option<Bytes>),
    /// The engine's, as it comes.
    Relay(Box<Relay>),
    /// A file of ours.
    Stored(Box<Download>),
}

/// An answer that is under way. Dropping it ends the request at the engine at once.
pub(super) struct Relay {
    incoming: Incoming,
    /// Read before it was decided to pass the rest on.
    first: Option<Bytes>,
    ticket: Option<Ticket>,
    connection: Option<Connection>,
    /// Held until the client has everything.
    admitted: Admitted,
    stream: Option<Stream>,
    counters: Arc<Counters>,
    stall: Duration,
    keep_alive: Duration,
    /// When the engine last said something, and when the client last got something.
    heard: Instant,
    said: Instant,
    timer: Pin<Box<Sleep>>,
    ended: bool,
}

/// How long an engine and a client may be left in silence.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) stall: Duration,
    pub(super) keep_alive: Duration,
}

impl Relay {
    pub(super) fn new(
        incoming: Incoming,
        first: Option<Bytes>,
        (ticket, connection, admitted): (Ticket, Connection, Admitted),
        stream: Option<Stream>,
        counters: Arc<Counters>,
        patience: Patience,
    ) -> Self {
        let now = now();
        let Patience { stall, keep_alive } = patience;
        let first_look = if stream.is_some() { stall.min(keep_alive) } else { stall };
        Self {
            incoming,
            first,
            ticket: Some(ticket),
            connection: Some(connection),
            admitted,
            stream,
            counters,
            stall,
            keep_alive,
            heard: now,
            said: now,
            timer: Box::pin(tokio::time::sleep(first_look)),
            ended: false,
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.ended = true;
        if let Some(ticket) = self.ticket.take() {
            ticket.finish(outcome);
        }
    }

    /// The answer is complete: the connection can be used again.
    fn complete(&mut self) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(stream) = &mut self.stream {
            let rest = stream.rest();
            if !stream.ended() {
                return self.broken(Failure::Midway, "the engine ended its stream too early");
            }
            let usage = stream.usage();
            if let Some(usage) = usage {
                self.admitted.used(usage);
            }
            self.keep();
            self.finish(Outcome::Served(usage));
            if !rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(rest))));
            }
            return Poll::Ready(None);
        }
        self.keep();
        self.finish(Outcome::Served(None));
        Poll::Ready(None)
    }

    fn keep(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.keep();
        }
    }

    /// The answer will never be complete. A client must not take the stump for the whole: a stream gets an
    /// error event and no end, anything else a connection that breaks.
    fn broken(&mut self, failure: Failure, why: &str) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.counters.broken_answers.add(1);
        self.finish(Outcome::Failed(failure));
        self.connection = None;
        match &self.stream {
            Some(stream) => {
                let error = ApiError::BadEngine(format!("The answer is not complete: {why}."));
                let gap = if stream.between_events() { "" } else { "\n\n" };
                Poll::Ready(Some(Ok(Frame::data(format!("{gap}data: {}\n\n", error.json()).into()))))
            }
            None => Poll::Ready(Some(Err(std::io::Error::other(why.to_owned())))),
        }
    }

    fn data(&mut self, bytes: Bytes) -> Option<Bytes> {
        self.heard = now();
        if let Some(ticket) = &mut self.ticket {
            ticket.first_byte();
        }
        let bytes = match &mut self.stream {
            Some(stream) => stream.take(bytes),
            None => bytes,
        };
        if bytes.is_empty() {
            return None;
        }
        self.said = self.heard;
        Some(bytes)
    }

    /// Looks at the clock: silence for too long, or long enough for a word to the client.
    fn silence(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        while self.timer.as_mut().poll(context).is_ready() {
            let now = now();
            if now.duration_since(self.heard) >= self.stall {
                return self.broken(Failure::Timeout, "the engine was silent for too long");
            }
            let mut next = self.heard + self.stall;
            if let Some(stream) = &self.stream {
                if now.duration_since(self.said) >= self.keep_alive && stream.between_events() {
                    self.said = now;
                    self.timer.as_mut().reset(next.min(now + self.keep_alive));
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": keep-alive\n\n")))));
                }
                next = next.min((self.said + self.keep_alive).max(now + Duration::from_millis(50)));
            }
            self.timer.as_mut().reset(next);
        }
        Poll::Pending
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let relay = match self.get_mut() {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relay(relay) => relay,
            Self::Stored(download) => return Pin::new(download.as_mut()).poll_frame(context),
        };
        if let Some(first) = relay.first.take()
            && let Some(bytes) = relay.data(first)
        {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        while !relay.ended {
            match Pin::new(&mut relay.incoming).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers say nothing that a client of these APIs reads.
                    if let Some(bytes) = frame.into_data().ok().and_then(|bytes| relay.data(bytes)) {
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                }
                Poll::Ready(Some(Err(_))) => return relay.broken(Failure::Midway, "the engine broke off"),
                Poll::Ready(None) => return relay.complete(),
                Poll::Pending => return relay.silence(context),
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Relay(relay) => relay.ended,
            Self::Stored(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Relay(relay) if relay.stream.is_none() && relay.first.is_none() => {
                relay.incoming.size_hint()
            }
            Self::Relay(_) => SizeHint::default(),
            Self::Stored(download) => download.size_hint(),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.counters.clients_left.add(1);
            ticket.finish(Outcome::ClientLeft);
        }
    }
}

fn now() -> Instant {
    Instant::now()
}
