//! Questions to all replicas at once: who knows this request, what waits with you? Asked and answered through the
//! coordinator, so that replicas need not reach each other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use coord::backend::Heard;
use coord::{Error, Key};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::Replicas;
use crate::admin::api::Explanation;

/// What the others said about a request.
pub enum Asked {
    /// One of them knows.
    Found(Box<Explanation>),
    /// All of them answered, and none knows.
    Nobody(usize),
    /// So many did not answer in time, so that nobody can say.
    Silent(usize),
    /// They could not be asked.
    Unasked(Error),
}

/// What the others said.
pub struct Answers<T> {
    /// What each of those said that know something.
    pub found: Vec<T>,
    /// How many others there are.
    pub others: usize,
    /// How many of them did not answer in time; those that were not waited for do not count.
    pub silent: usize,
}

/// Answers questions of one kind for others; `Null`: nothing is known.
pub type Answerer = Arc<dyn Fn(String) -> Answering + Send + Sync>;
/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Value> + Send>>;

#[derive(Serialize, Deserialize)]
struct Answer {
    from: String,
    found: Option<Value>,
}

/// How long the others have.
const PATIENCE: Duration = Duration::from_secs(1);
/// Answers are looked for so often, should word of them be lost.
const LOOK: Duration = Duration::from_millis(100);
/// How long an answer waits to be read.
const KEPT: Duration = Duration::from_mins(1);
/// The kind of question that is answered from the journal.
const EXPLAIN: &str = "explain";

impl Replicas {
    /// Asks all others about a request.
    pub async fn explain(&self, id: &str) -> Asked {
        let sane = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic());
        if !sane {
            return Asked::Nobody(0);
        }
        match self.ask_all::<Explanation>(EXPLAIN, id, true).await {
            Ok(Answers { mut found, others, silent }) => match (found.pop(), silent) {
                (Some(found), _) => Asked::Found(Box::new(found)),
                (None, 0) => Asked::Nobody(others),
                (None, silent) => Asked::Silent(silent),
            },
            Err(error) => Asked::Unasked(error),
        }
    }

    /// Answers questions of this kind from now on.
    pub fn answer_with(&self, kind: &'static str, answerer: Answerer) {
        self.0.answerers.lock().insert(kind, answerer);
    }

    /// Asks all others something that an [`Answerer`] of theirs knows; `one`: the first who knows is enough.
    ///
    /// # Errors
    /// They could not be asked.
    pub async fn ask_all<T: DeserializeOwned>(
        &self,
        kind: &'static str,
        about: &str,
        one: bool,
    ) -> Result<Answers<T>, Error> {
        let asked = tokio::time::timeout(PATIENCE * 2, self.ask(kind, about, one)).await;
        asked.unwrap_or(Err(Error::Timeout { op: kind }))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        kind: &str,
        about: &str,
        one: bool,
    ) -> Result<Answers<T>, Error> {
        let coord = &self.0.coord;
        let others = self.0.among.count() - 1;
        if others == 0 {
            return Ok(Answers { found: Vec::new(), others, silent: 0 });
        }
        let question = coord.token();
        let answers = Key::new(question.as_str())?;
        let mut notices = coord.hear();
        let text = format!("{kind} {question} {} {about}", coord.instance());
        coord.tell(question.shard(), text.into()).await?;
        let deadline = Instant::now() + PATIENCE;
        let answered = format!("answered {question}");
        loop {
            let told = coord.list(&answers).await?;
            let told: Vec<Answer> = told.iter().filter_map(|one| serde_json::from_slice(one).ok()).collect();
            let count = told.len();
            let read = |answer: Answer| serde_json::from_value(answer.found?).ok();
            let found: Vec<T> = told.into_iter().filter_map(read).collect();
            if one && !found.is_empty() || count >= others {
                return Ok(Answers { found, others, silent: 0 });
            }
            if Instant::now() >= deadline {
                return Ok(Answers { found, others, silent: others - count });
            }
            let until = deadline.min(Instant::now() + LOOK);
            let heard = async {
                loop {
                    match notices.recv().await {
                        Ok(Heard::Notice(_, text)) if text != answered.as_bytes() => {}
                        _ => return,
                    }
                }
            };
            let _looked_anyway = timeout_at(until, heard).await;
        }
    }

    /// Answers one question, whatever the answer is.
    async fn reply(&self, kind: &str, question: &str, about: &str) -> Result<(), Error> {
        let coord = &self.0.coord;
        let from = coord.instance().as_str().to_owned();
        let found = if kind == EXPLAIN {
            let found = self.0.fleet.journal().explain(about).map(|mut found| {
                found.replica = Some(from.clone());
                serde_json::to_value(found)
            });
            found.and_then(Result::ok)
        } else {
            let answerer = self.0.answerers.lock().get(kind).cloned();
            let Some(answerer) = answerer else { return Ok(()) };
            Some(answerer(about.to_owned()).await).filter(|found| !found.is_null())
        };
        let value = serde_json::to_vec(&Answer { from, found }).unwrap_or_default();
        let key = Key::new(question)?;
        coord.push(&key, value.into()).await?;
        coord.expire(&key, KEPT).await?;
        coord.tell(key.shard(), format!("answered {question}").into()).await?;
        Ok(())
    }

    fn answers(&self, kind: &str) -> bool {
        kind == EXPLAIN || self.0.answerers.lock().contains_key(kind)
    }
}

/// Answers what others ask, for as long as there is anybody to hear.
pub(super) async fn answer(replicas: &Replicas, mut notices: broadcast::Receiver<Heard>) {
    loop {
        let text = match notices.recv().await {
            Ok(Heard::Notice(_, text)) => text,
            Ok(Heard::Gap) | Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        // What is asked comes last, and may hold spaces.
        let mut words = text.splitn(4, ' ');
        let (Some(kind), Some(question), Some(from), Some(about)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if !replicas.answers(kind) || from == replicas.0.coord.instance().as_str() {
            continue;
        }
        if let Err(error) = replicas.reply(kind, question, about).await {
            tracing::debug!(%error, "a question of another replica could not be answered");
        }
    }
}
