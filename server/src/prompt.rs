//! A request as far as routing needs to understand it; the body itself travels on untouched.

mod read;

use std::borrow::Cow;

use serde_json::value::RawValue;

pub use read::Kind;

/// What was asked, borrowed from the body.
#[derive(Debug)]
pub struct Request<'a> {
    /// The model's name as the client wrote it (a LoRA adapter is a model of its own).
    pub model: Cow<'a, str>,
    /// The part that becomes tokens.
    pub prompt: Prompt<'a>,
    /// Whether the answer is a stream of server-sent events.
    pub stream: bool,
    /// Whether the client itself asked for usage at the end of a stream.
    pub wants_stream_usage: bool,
    /// The most tokens that the client wants back, if it said so.
    pub max_tokens: Option<u32>,
    /// Keeps this request's blocks from being shared with other salts.
    pub cache_salt: Option<Cow<'a, str>>,
    /// `stream_options` as it stands in the body.
    pub stream_options: Option<&'a str>,
    /// `vllm_xargs` as it stands in the body.
    pub vllm_xargs: Option<&'a str>,
    /// Whatever names the conversation or user (`user`, `session_id`, …): a hint, never a key.
    pub session: Option<Cow<'a, str>>,
}

/// The part of a request that becomes tokens.
#[derive(Debug)]
pub enum Prompt<'a> {
    /// Messages for a chat template.
    Chat(Chat<'a>),
    /// Text that is tokenised as it is.
    Text(Cow<'a, str>),
    /// Token ids, ready.
    Tokens(Vec<u32>),
    /// Nothing that this gateway can turn into tokens (media, batches, other endpoints): route on bytes.
    Opaque,
}

/// The arguments of a chat template, unparsed.
///
/// A body that changes how its text becomes tokens (`chat_template`, `truncate_prompt_tokens`, `add_special_tokens`,
/// `mm_processor_kwargs`, …) is no chat in this sense but [`Prompt::Opaque`].
#[derive(Debug)]
pub struct Chat<'a> {
    /// The `messages` array.
    pub messages: &'a RawValue,
    /// The `tools` array.
    pub tools: Option<&'a RawValue>,
    /// The `documents` array.
    pub documents: Option<&'a RawValue>,
    /// `chat_template_kwargs`.
    pub kwargs: Option<&'a RawValue>,
    /// `reasoning_effort`: a template may read it, and it switches thinking on or off.
    pub reasoning_effort: Option<&'a RawValue>,
    /// Whether the template opens the assistant's turn (default true).
    pub add_generation_prompt: bool,
    /// Whether the last message is to be continued instead of closed (default false).
    pub continue_final_message: bool,
}
