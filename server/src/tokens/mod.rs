//! From a request's text to the engine's own token ids, at the price of its new turn only.
//!
//! A chat is rebuilt as the engine sees it ([`chat`]), printed by the model's template ([`template`]), cut at its
//! special tokens and tokenised ([`vocabulary`]); pieces seen before are remembered ([`segments`]). Whatever cannot
//! be promised to agree with the engine is refused. Which way was taken is always known: see [`Way`].

mod chat;
mod python;
mod segments;
mod source;
mod template;
mod vocabulary;
mod weigh;

use std::sync::Arc;

use crate::prompt::Prompt;
use crate::settings;
use segments::Segments;
use source::Sources;
use template::Template;
use vocabulary::Vocabulary;

pub use segments::Stats;
pub use source::Error;

/// Bodies up to here are tokenised in place, on the thread that serves the request; larger ones belong on a thread that
/// may block. A text made to be slow (one letter, blanks) takes up to 0.17 ms a KB, so this is 11 ms at worst and 0.5 ms as a
/// rule.
pub const QUICK_BYTES: usize = 64 << 10;

/// How a prompt became tokens; shown in `x-warmline-route`, `explain` and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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

impl Way {
    /// The word this house uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Local => "local",
            Self::Engine => "engine",
            Self::Bytes => "bytes",
        }
    }
}

/// Turns prompts of one model into token ids.
pub struct Tokeniser {
    vocabulary: Vocabulary,
    template: Option<Template>,
    segments: Segments,
}

/// Why a prompt cannot be tokenised here; the caller asks the engine or routes on bytes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotTokenise(pub String);

impl Tokeniser {
    /// The tokeniser that a model's settings name, if they name one.
    ///
    /// # Errors
    /// When a file is not there or not usable.
    pub fn load(model: &settings::Model) -> Result<Option<Self>, Error> {
        Sources::find(model)?.map(Self::build).transpose()
    }

    /// A tokeniser from the text of a `tokenizer.json`, and of a `tokenizer_config.json` or a bare template.
    ///
    /// # Errors
    /// When one of them is not usable.
    pub fn from_json(tokenizer: &str, template: Option<&str>) -> Result<Self, Error> {
        Self::build(Sources::given(tokenizer, template))
    }

    /// The token ids of a prompt, exactly as the engine would make them.
    ///
    /// # Errors
    /// When this tokeniser cannot promise to agree with the engine.
    pub fn tokens(&self, prompt: &Prompt<'_>) -> Result<Arc<[u32]>, CannotTokenise> {
        let ids = match prompt {
            Prompt::Tokens(ids) => return Ok(ids.as_slice().into()),
            Prompt::Text(text) => self.vocabulary.encode_prompt(text, &self.segments)?,
            Prompt::Chat(chat) => {
                let template = self.template.as_ref();
                let template =
                    template.ok_or_else(|| CannotTokenise("no chat template is configured".to_owned()))?;
                self.vocabulary.encode(&chat::render(chat, template)?, &self.segments)?
            }
            Prompt::Opaque => return Err(CannotTokenise("the prompt is not text".to_owned())),
        };
        Ok(ids.into())
    }

    /// The text that ids stand for.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.vocabulary.decode(ids)
    }

    /// Where in a prompt a token stands, for people: the special token before it and the text around it.
    pub fn locate(&self, ids: &[u32], position: usize) -> String {
        /// Tokens shown on either side.
        const AROUND: usize = 8;
        let position = position.min(ids.len());
        let (before, after) = ids.split_at(position);
        let start = before.iter().rposition(|id| self.vocabulary.added(*id).is_some());
        let section = match start {
            None => "before any special token".to_owned(),
            Some(start) => {
                let nth = before.iter().filter(|id| **id == before[start]).count();
                let token = self.vocabulary.added(before[start]).unwrap_or_default();
                format!("{} tokens after `{token}` (number {nth} of its kind)", position - start)
            }
        };
        let text = |ids: &[u32]| self.decode(ids).escape_debug().to_string();
        let left = text(&before[before.len().saturating_sub(AROUND)..]);
        let here = text(&after[..after.len().min(1)]);
        let right = text(&after[after.len().min(1)..after.len().min(AROUND)]);
        format!("token {position}, {section}, in \"{left}⟦{here}⟧{right}\"")
    }

    /// How often pieces of prompts were known.
    pub fn stats(&self) -> Stats {
        self.segments.stats()
    }

    fn build(sources: Sources) -> Result<Self, Error> {
        let (vocabulary, template) = sources.build()?;
        Ok(Self { vocabulary, template, segments: Segments::new() })
    }
}
