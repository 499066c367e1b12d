//! The acknowledgement of a change: to be awaited, or waited for, or dropped by whoever does not care.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::core::Done;
use super::error::Error;

/// Says once whether a change is as durable as was asked for. Dropping it takes nothing back.
#[must_use = "until it says so, nothing is durable"]
#[derive(Debug)]
pub struct Ticket(State);

#[derive(Debug)]
enum State {
    /// It is known already.
    Refused(Option<Error>),
    Waiting(oneshot::Receiver<Result<Done, Error>>),
}

impl Ticket {
    pub(super) fn new() -> (oneshot::Sender<Result<Done, Error>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(State::Waiting(receiver)))
    }

    pub(super) fn refused(e: Error) -> Self {
        Self(State::Refused(Some(e)))
    }

    /// Waits; not on a thread of the runtime.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn wait(self) -> Result<Done, Error> {
        match self.0 {
            State::Refused(e) => Err(e.unwrap_or(Error::Closed)),
            State::Waiting(receiver) => receiver.blocking_recv().unwrap_or(Err(Error::Closed)),
        }
    }
}

impl Future for Ticket {
    type Output = Result<Done, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Refused(e) => Poll::Ready(Err(e.take().unwrap_or(Error::Closed))),
            State::Waiting(receiver) => {
                Pin::new(receiver).poll(context).map(|answer| answer.unwrap_or(Err(Error::Closed)))
            }
        }
    }
}
