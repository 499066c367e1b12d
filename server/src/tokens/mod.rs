//! From a request's text to the engine's own token ids, at the price of its new turn only.
//!
//! Which way was taken is always known: see [`Way`].

use std::sync::Arc;

use crate::prompt::Prompt;

/// How a prompt became tokens; shown in `x-warmline-route`, `explain` and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The client sent token ids.
    Given,
    /// By the model's `tokenizer.json` and chat template, here.
    Local,
    /// By the engine's own `/tokenize`.
    Engine,
    /// Not at all: routing is approximate, on the bytes of the prompt.
    Bytes,
}

/// Turns prompts of one model into token ids.
pub struct Tokeniser {}

/// Why a prompt cannot be tokenised here; the caller asks the engine or routes on bytes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotTokenise(pub String);

impl Tokeniser {
    /// The token ids of a prompt, exactly as the engine would make them.
    ///
    /// # Errors
    /// When this tokeniser cannot promise to agree with the engine.
    pub fn tokens(&self, prompt: &Prompt<'_>) -> Result<Arc<[u32]>, CannotTokenise> {
        match prompt {
            Prompt::Tokens(ids) => Ok(ids.as_slice().into()),
            _ => Err(CannotTokenise("no tokenizer is configured".to_owned())),
        }
    }
}
