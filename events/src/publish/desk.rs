//! The thread where questions come in and answers go out, so that megabytes of answers are not written by the voice.

use std::sync::mpsc::{SyncSender, sync_channel};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::StartError;
use crate::wire::{Answers, Questions, Replies};

/// Questions that may wait for the voice. Whoever is not heard asks again.
const QUESTIONS: usize = 256;

/// The replay socket, open.
pub(super) struct Desk {
    pub(super) replies: Replies,
    pub(super) questions: mpsc::Receiver<Vec<Bytes>>,
    pub(super) endpoint: String,
}

impl Desk {
    /// Binds on a thread of its own, which ends when nobody takes questions any more.
    pub(super) fn open(endpoint: &str) -> Result<Self, StartError> {
        let (opened, told) = sync_channel(1);
        let wanted = endpoint.to_owned();
        std::thread::Builder::new().name("kv-replies".to_owned()).spawn(move || run(&wanted, &opened))?;
        let died = || StartError::Thread(std::io::Error::other("the thread of replies ended"));
        told.recv().map_err(|_| died())?
    }
}

fn run(endpoint: &str, opened: &SyncSender<Result<Desk, StartError>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        // Whoever opens the desk waits for this word.
        Err(error) => return drop(opened.send(Err(error.into()))),
    };
    runtime.block_on(async {
        let (asked, questions) = mpsc::channel(QUESTIONS);
        match Answers::bind(endpoint).await {
            Ok((answers, bound)) => {
                let (replies, incoming) = answers.split();
                let _ = opened.send(Ok(Desk { replies, questions, endpoint: bound }));
                serve(incoming, asked).await;
            }
            Err(trouble) => {
                let _ = opened.send(Err(StartError::Bind { endpoint: endpoint.to_owned(), trouble }));
            }
        }
    });
}

async fn serve(mut incoming: Questions, asked: mpsc::Sender<Vec<Bytes>>) {
    loop {
        tokio::select! {
            () = asked.closed() => return,
            question = incoming.next() => match question {
                Ok(question) => {
                    if asked.try_send(question).is_err() {
                        tracing::debug!("more questions than can be taken");
                    }
                }
                Err(trouble) => {
                    tracing::debug!(trouble, "a question was not understood");
                    // An error of the socket repeats at once; give others a turn.
                    tokio::task::yield_now().await;
                }
            },
        }
    }
}
