//! Questions to all replicas at once: who knows this request? Asked and answered through the coordinator, so that replicas
//! need not reach each other.

use std::time::Duration;

use coord::backend::Heard;
use coord::{Error, Key};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::Replicas;
use crate::admin::api::Explanation;

/// What the others said.
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

#[derive(Serialize, Deserialize)]
struct Answer {
    from: String,
    found: Option<Explanation>,
}

/// How long the others have.
const PATIENCE: Duration = Duration::from_secs(1);
/// Answers are looked for so often, should word of them be lost.
const LOOK: Duration = Duration::from_millis(100);
/// How long an answer waits to be read.
const KEPT: Duration = Duration::from_mins(1);

impl Replicas {
    /// Asks all others about a request.
    pub async fn explain(&self, id: &str) -> Asked {
        match tokio::time::timeout(PATIENCE * 2, self.ask(id)).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(error)) => Asked::Unasked(error),
            Err(_) => Asked::Unasked(Error::Timeout { op: "explain" }),
        }
    }

    async fn ask(&self, id: &str) -> Result<Asked, Error> {
        let coord = &self.0.coord;
        let others = self.0.among.count() - 1;
        let sane = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic());
        if others == 0 || !sane {
            return Ok(Asked::Nobody(0));
        }
        let question = coord.token();
        let answers = Key::new(question.as_str())?;
        let mut notices = coord.hear();
        let text = format!("explain {question} {} {id}", coord.instance());
        coord.tell(question.shard(), text.into()).await?;
        let deadline = Instant::now() + PATIENCE;
        let answered = format!("answered {question}");
        loop {
            let told = coord.list(&answers).await?;
            let told: Vec<Answer> = told.iter().filter_map(|one| serde_json::from_slice(one).ok()).collect();
            let count = told.len();
            if let Some(found) = told.into_iter().find_map(|answer| answer.found) {
                return Ok(Asked::Found(Box::new(found)));
            }
            if count >= others {
                return Ok(Asked::Nobody(others));
            }
            if Instant::now() >= deadline {
                return Ok(Asked::Silent(others - count));
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
    async fn reply(&self, words: &[&str]) -> Result<(), Error> {
        let [question, _from, id] = words else { return Ok(()) };
        let coord = &self.0.coord;
        let from = coord.instance().as_str().to_owned();
        let mut found = self.0.fleet.journal().explain(id);
        if let Some(found) = &mut found {
            found.replica = Some(from.clone());
        }
        let value = serde_json::to_vec(&Answer { from, found }).unwrap_or_default();
        let key = Key::new(*question)?;
        coord.push(&key, value.into()).await?;
        coord.expire(&key, KEPT).await?;
        coord.tell(key.shard(), format!("answered {question}").into()).await?;
        Ok(())
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
        let Some(question) = text.strip_prefix("explain ") else { continue };
        let words: Vec<&str> = question.split(' ').collect();
        if words.get(1) == Some(&replicas.0.coord.instance().as_str()) {
            continue;
        }
        if let Err(error) = replicas.reply(&words).await {
            tracing::debug!(%error, "a question of another replica could not be answered");
        }
    }
}
