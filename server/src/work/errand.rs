//! A request that waits in a log: what is asked of which path, and what came of it.

use std::borrow::Cow;
use std::sync::Arc;

use blocks::{BlockSize, Chain, Hasher, Seed};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::ApiError;
use crate::fleet::Fleet;
use crate::lines::{Asked, Hint};
use crate::prompt::{Kind, Prompt, Request};
use crate::tokens::{QUICK_BYTES, Way};

/// A request that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Errand {
    /// The path that is asked, such as `/v1/chat/completions`.
    pub path: String,
    /// The model, as the client wrote it.
    pub model: String,
    /// What the client calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    /// Anything that its maker wants to read later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Box<RawValue>>,
    /// The body.
    pub body: Box<RawValue>,
}

/// What came of it: an answer of an engine, or why there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Result {
    /// The engine's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// The id under which it was asked last.
    pub request_id: String,
    /// The engine's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<RawValue>>,
    /// What was asked, less its body: of what is done, the request itself is kept no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Errand>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Trouble>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Paths whose requests can wait, and how they are read.
const PATHS: [(&str, Kind); 4] = [
    ("/v1/chat/completions", Kind::Chat),
    ("/v1/completions", Kind::Completion),
    ("/v1/embeddings", Kind::Other),
    ("/v1/responses", Kind::Other),
];
/// Tokens that an answer is taken to have if nobody says how many at most.
const ANSWER: u32 = 256;
/// The longest body whose prompt is tokenised ahead of its turn: two million tokens, 0.7 s of a thread at worst.
const LARGEST: usize = 4 << 20;

/// Whether requests to this path can wait.
///
/// # Errors
/// What is allowed.
pub fn can_wait(path: &str) -> std::result::Result<(), ApiError> {
    if PATHS.iter().any(|(known, _)| *known == path) {
        return Ok(());
    }
    let known: Vec<&str> = PATHS.iter().map(|(known, _)| *known).collect();
    Err(ApiError::Invalid {
        message: format!("endpoint: found {path:?}; allowed are {}.", known.join(", ")),
        param: Some("endpoint".to_owned()),
    })
}

fn kind_of(path: &str) -> Kind {
    PATHS.iter().find(|(known, _)| *known == path).map_or(Kind::Other, |(_, kind)| *kind)
}

impl Errand {
    /// A request that can wait, read from a client.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(path: &str, body: &RawValue) -> std::result::Result<Self, ApiError> {
        can_wait(path)?;
        let kind = kind_of(path);
        let bytes = Bytes::copy_from_slice(body.get().as_bytes());
        let asked = Request::read(kind, &bytes)?;
        if asked.stream {
            return Err(ApiError::Invalid {
                message: "stream: what waits cannot be streamed; leave it out.".to_owned(),
                param: Some("stream".to_owned()),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            model: asked.model.into_owned(),
            custom_id: None,
            note: None,
            body: body.to_owned(),
        })
    }

    /// As bytes, for the log.
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// From the log.
    ///
    /// # Errors
    /// It is damaged, or of another version.
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    fn kind(&self) -> Kind {
        kind_of(&self.path)
    }

    /// Tokens that are expected of the answer.
    pub fn answer(&self) -> u32 {
        let bytes = Bytes::copy_from_slice(self.body.get().as_bytes());
        Request::read(self.kind(), &bytes).ok().and_then(|asked| asked.max_tokens).unwrap_or(ANSWER)
    }

    /// What is asked, if its prompt can be had in tokens here, without asking an engine. May take long.
    pub fn asked(&self, fleet: &Fleet) -> Option<Asked> {
        if self.body.get().len() > LARGEST {
            return None;
        }
        let bytes = Bytes::copy_from_slice(self.body.get().as_bytes());
        let asked = Request::read(self.kind(), &bytes).ok()?;
        let (tokens, way) = tokens(&asked, fleet)?;
        let cache_salt = asked.cache_salt.map(Cow::into_owned);
        Some(Asked { model: asked.model.into_owned(), tokens, way, cache_salt })
    }

    /// Tokens of the prompt, and the hashes of its first blocks where they can be had here without asking an engine.
    pub fn prompt(&self, fleet: &Fleet) -> (u32, Option<Arc<[u8]>>) {
        let bytes = Bytes::copy_from_slice(self.body.get().as_bytes());
        let guess = (bytes.len() / 4) as u32;
        let Ok(asked) = Request::read(self.kind(), &bytes) else { return (guess, None) };
        // A large prompt is placed without: tokenising it here would hold up others.
        let quick = bytes.len() <= QUICK_BYTES || matches!(asked.prompt, Prompt::Tokens(_));
        let Some((tokens, _)) = quick.then(|| tokens(&asked, fleet)).flatten() else { return (guess, None) };
        let prompt = tokens.len() as u32;
        let Some((block_size, adapter)) = fleet.block_size(&asked.model) else { return (prompt, None) };
        let Some(size) = BlockSize::new(block_size) else { return (prompt, None) };
        let seed = Seed::of(adapter.as_deref(), asked.cache_salt.as_deref());
        let mut chain = Chain::new(Hasher::new(size, seed));
        // As many as a hint can hold.
        let most = (queue::entry::MAX_HINT / 8 * block_size as usize).min(tokens.len());
        chain.extend(&tokens[..most]);
        let hint = Hint { block_size, prompt, blocks: chain.tokens_hashes().to_vec() };
        (prompt, Some(hint.encode().into()))
    }
}

/// The prompt in tokens, where they can be had here without asking an engine.
fn tokens(asked: &Request<'_>, fleet: &Fleet) -> Option<(Arc<[u32]>, Way)> {
    if let Prompt::Tokens(tokens) = &asked.prompt {
        return Some((tokens.as_slice().into(), Way::Given));
    }
    let tokeniser = fleet.model(&asked.model)?.tokeniser.as_ref()?;
    Some((tokeniser.tokens(&asked.prompt).ok()?, Way::Local))
}

impl Result {
    /// An engine has answered.
    pub fn answered(request_id: &str, status: StatusCode, body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).ok();
        let raw = text.and_then(|text| serde_json::from_str::<&RawValue>(text).ok()).map(RawValue::to_owned);
        // Whatever is not JSON is kept as a string.
        let quoted = || {
            let text = String::from_utf8_lossy(body);
            serde_json::to_string(&text).ok().and_then(|text| RawValue::from_string(text).ok())
        };
        Self {
            status_code: Some(status.as_u16()),
            request_id: request_id.to_owned(),
            body: raw.or_else(quoted),
            of: None,
            error: None,
        }
    }

    /// There is no answer.
    pub fn failed(request_id: &str, code: &str, message: impl Into<String>) -> Self {
        let error = Some(Trouble { code: code.to_owned(), message: message.into() });
        Self { status_code: None, request_id: request_id.to_owned(), body: None, of: None, error }
    }

    /// It is the answer to this.
    #[must_use]
    pub fn to(self, errand: &Errand) -> Self {
        Self { of: Some(Errand { body: RawValue::NULL.to_owned(), ..errand.clone() }), ..self }
    }

    /// As bytes, for the log.
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// From the log; nothing was written for what never ran.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
