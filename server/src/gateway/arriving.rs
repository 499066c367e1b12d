//! A large body as it arrives: it may take its time as long as it goes on, and what is not content has a bound.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, Sleep};

use crate::error::ApiError;

/// Within the patience for a whole small body a large one must go on by this much: 200 MiB then take at most 54 hours
/// with a minute's patience, and a client that sends a byte now and then holds its place for a minute.
const PROGRESS: usize = 64 << 10;
/// The most that may come before somebody says what it is: the heads of a form's parts. One piece may come on top.
const MAX_UNCLAIMED: usize = 64 << 10;

/// A body on its way in, a piece at a time.
pub(super) struct Arriving<'r> {
    incoming: &'r mut Incoming,
    patience: Duration,
    /// How long was waited since the last progress, and what came in it. Time in which nobody asks does not count: then
    /// the client waits for us.
    waited: Duration,
    came: usize,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    unclaimed: Claims,
    /// A piece was given out: whoever asks again at once gathers it all in memory.
    given: bool,
}

/// What came and was not said to be understood yet.
#[derive(Clone, Default)]
pub(super) struct Claims(Arc<AtomicUsize>);

impl Claims {
    /// What has come so far is understood.
    pub(super) fn claim(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl<'r> Arriving<'r> {
    pub(super) fn new(incoming: &'r mut Incoming, patience: Duration, unclaimed: Claims) -> Self {
        Self {
            incoming,
            patience,
            waited: Duration::ZERO,
            came: 0,
            since: None,
            timer: None,
            unclaimed,
            given: false,
        }
    }

    /// Waits on, unless it has been too long.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, ApiError>>> {
        let left = self.patience.saturating_sub(self.waited);
        self.since.get_or_insert_with(Instant::now);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
        timer.as_mut().poll(context).map(|()| Some(Err(ApiError::TooSlow("gateway.body_timeout"))))
    }

    fn take(&mut self, bytes: Bytes) -> Bytes {
        self.waited += self.since.take().map(|since| since.elapsed()).unwrap_or_default();
        self.timer = None;
        self.came += bytes.len();
        if self.came >= PROGRESS {
            (self.came, self.waited) = (0, Duration::ZERO);
        }
        self.unclaimed.0.fetch_add(bytes.len(), Ordering::Relaxed);
        self.given = true;
        bytes
    }
}

impl Stream for Arriving<'_> {
    type Item = Result<Bytes, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.given) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.unclaimed.0.load(Ordering::Relaxed) > MAX_UNCLAIMED {
            let message = format!("The head of a part of the form is larger than {MAX_UNCLAIMED} bytes.");
            return Poll::Ready(Some(Err(ApiError::invalid(message))));
        }
        loop {
            match Pin::new(&mut *self.incoming).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Poll::Ready(Some(Ok(self.take(bytes)))),
                    // Trailers and empty pieces say nothing.
                    _ => {}
                },
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Some(Err(ApiError::invalid("The request body broke off."))));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return self.wait(context),
            }
        }
    }
}

/// Reads on what nobody wants, so that a client that still sends gets to read why: a connection that is closed on unread
/// bytes takes the answer with it. It costs no more than taking the body would have, in bytes and in patience.
pub(super) async fn drain(mut incoming: Incoming, most: u64, patience: Duration) {
    let claims = Claims::default();
    let mut arriving = Arriving::new(&mut incoming, patience, claims.clone());
    let mut left = most;
    while let Some(Ok(piece)) = futures::StreamExt::next(&mut arriving).await {
        claims.claim();
        left = left.saturating_sub(piece.len() as u64);
        if left == 0 {
            return;
        }
    }
}
