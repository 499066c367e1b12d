//! Reads a body as far as routing needs it: once, borrowed, and naming the parameter that is wrong.
//!
//! What only the engine can judge is left to the engine; it sees the body as the client wrote it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Chat, Prompt, Request};
use crate::error::ApiError;

/// What a body was sent to, as far as that changes how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
    /// Anything else that names a model.
    Other,
}

impl<'a> Request<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when it is not a JSON object, lacks what routing cannot do without, or says it twice.
    pub fn read(kind: Kind, body: &'a [u8]) -> Result<Self, ApiError> {
        let fields: Fields<'a> = serde_json::from_slice(body)
            .map_err(|e| invalid(None, format!("the body is not a JSON object that can be read: {e}")))?;
        let prompt = match kind {
            Kind::Chat => fields.chat()?,
            Kind::Completion => fields.completion()?,
            Kind::Other => Prompt::Opaque,
        };
        let usage: Option<StreamOptions> = typed("stream_options", fields.stream_options, "an object")?;
        Ok(Self {
            model: text("model", fields.model)?.ok_or_else(|| {
                invalid(Some("model"), "name the model, such as \"model\": \"qwen3\"".to_owned())
            })?,
            prompt,
            stream: typed("stream", fields.stream, "true or false")?.unwrap_or(false),
            wants_stream_usage: usage.and_then(|options| options.include_usage).unwrap_or(false),
            max_tokens: hint(fields.max_completion_tokens).or_else(|| hint(fields.max_tokens)),
            cache_salt: text("cache_salt", fields.cache_salt)?,
            stream_options: fields.stream_options.map(RawValue::get),
            vllm_xargs: fields.vllm_xargs.map(RawValue::get),
            session: [fields.session_id, fields.prompt_cache_key, fields.user]
                .into_iter()
                .find_map(|raw| text("", raw).ok().flatten()),
        })
    }
}

/// Each field as it was written; `null` counts as absent. A field that comes twice is an error: we and the engine
/// might each believe another one.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    messages: Option<&'a RawValue>,
    prompt: Option<&'a RawValue>,
    tools: Option<&'a RawValue>,
    documents: Option<&'a RawValue>,
    chat_template_kwargs: Option<&'a RawValue>,
    reasoning_effort: Option<&'a RawValue>,
    add_generation_prompt: Option<&'a RawValue>,
    continue_final_message: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    max_tokens: Option<&'a RawValue>,
    max_completion_tokens: Option<&'a RawValue>,
    cache_salt: Option<&'a RawValue>,
    vllm_xargs: Option<&'a RawValue>,
    session_id: Option<&'a RawValue>,
    prompt_cache_key: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    // These change how text becomes tokens.
    chat_template: Option<&'a RawValue>,
    add_special_tokens: Option<&'a RawValue>,
    truncate_prompt_tokens: Option<&'a RawValue>,
    mm_processor_kwargs: Option<&'a RawValue>,
    prompt_embeds: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl<'a> Fields<'a> {
    fn chat(&self) -> Result<Prompt<'a>, ApiError> {
        let messages = self.messages.filter(|raw| raw.get().starts_with('['));
        let messages = messages
            .ok_or_else(|| invalid(Some("messages"), "`messages` must be an array of messages".to_owned()))?;
        let flag = |name, raw, default| typed(name, raw, "true or false").map(|flag| flag.unwrap_or(default));
        let chat = Chat {
            messages,
            tools: self.tools,
            documents: self.documents,
            kwargs: self.chat_template_kwargs,
            reasoning_effort: self.reasoning_effort,
            add_generation_prompt: flag("add_generation_prompt", self.add_generation_prompt, true)?,
            continue_final_message: flag("continue_final_message", self.continue_final_message, false)?,
        };
        // Engines leave special tokens out of chats unless asked.
        let plain = self.makes_plain_tokens() && self.adds_special_tokens() != Some(true);
        Ok(if plain { Prompt::Chat(chat) } else { Prompt::Opaque })
    }

    fn completion(&self) -> Result<Prompt<'a>, ApiError> {
        if self.prompt_embeds.is_some() {
            return Ok(Prompt::Opaque);
        }
        let raw = self.prompt.ok_or_else(|| {
            invalid(Some("prompt"), "`prompt` must be a string, or an array of token ids".to_owned())
        })?;
        let prompt = written(raw.get()).unwrap_or(Prompt::Opaque);
        // Engines put special tokens before and after a text unless asked not to.
        let certain = matches!(prompt, Prompt::Tokens(_)) || self.adds_special_tokens() != Some(false);
        Ok(if certain && self.makes_plain_tokens() { prompt } else { Prompt::Opaque })
    }

    fn makes_plain_tokens(&self) -> bool {
        self.chat_template.is_none()
            && self.truncate_prompt_tokens.is_none()
            && self.mm_processor_kwargs.is_none()
    }

    fn adds_special_tokens(&self) -> Option<bool> {
        self.add_special_tokens.and_then(|raw| serde_json::from_str(raw.get()).ok())
    }
}

/// A completion's prompt, if it is one sequence: a text, token ids, or an array of just one of these.
fn written(json: &str) -> Option<Prompt<'_>> {
    let inside = json.strip_prefix('[').map(str::trim_start);
    match inside.map(|inside| inside.as_bytes().first().copied()) {
        None => serde_json::from_str(json).ok().map(|Text(text)| Prompt::Text(text)),
        Some(Some(b'"')) => serde_json::from_str(json).ok().map(|[Text(text)]: [_; 1]| Prompt::Text(text)),
        Some(Some(b'[')) => serde_json::from_str(json).ok().map(|[ids]: [_; 1]| Prompt::Tokens(ids)),
        Some(_) => {
            serde_json::from_str(json).ok().filter(|ids: &Vec<u32>| !ids.is_empty()).map(Prompt::Tokens)
        }
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn typed<'a, T: Deserialize<'a>>(
    name: &'static str,
    raw: Option<&'a RawValue>,
    must: &str,
) -> Result<Option<T>, ApiError> {
    let read = raw.map(|raw| serde_json::from_str(raw.get())).transpose();
    read.map_err(|_| invalid(Some(name), format!("`{name}` must be {must}")))
}

fn text<'a>(name: &'static str, raw: Option<&'a RawValue>) -> Result<Option<Cow<'a, str>>, ApiError> {
    Ok(typed::<Text<'a>>(name, raw, "a string")?.map(|Text(text)| text))
}

fn hint<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

fn invalid(param: Option<&str>, message: String) -> ApiError {
    ApiError::Invalid { message, param: param.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind_of(kind: Kind, body: &str) -> String {
        match Request::read(kind, body.as_bytes()) {
            Ok(request) => match request.prompt {
                Prompt::Chat(chat) => format!("chat {}", chat.messages.get()),
                Prompt::Text(text) => format!("text {text}"),
                Prompt::Tokens(ids) => format!("tokens {ids:?}"),
                Prompt::Opaque => "opaque".to_owned(),
            },
            Err(ApiError::Invalid { param, .. }) => format!("invalid {}", param.unwrap_or_default()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_prompt_is_what_the_engine_takes_it_for() {
        for (rest, prompt) in [
            (r#""prompt":"a\"b""#, "text a\"b"),
            (r#""prompt":"""#, "text "),
            (r#""prompt":[1,2]"#, "tokens [1, 2]"),
            (r#""prompt":["one"]"#, "text one"),
            (r#""prompt":[[3]]"#, "tokens [3]"),
            (r#""prompt":["one","two"]"#, "opaque"),
            (r#""prompt":[[1],[2]]"#, "opaque"),
            (r#""prompt":[-1]"#, "opaque"),
            (r#""prompt": [ ]"#, "opaque"),
            (r#""prompt": [ "one" ]"#, "text one"),
            (r#""prompt": [ [ 3 ] ],"add_special_tokens":false"#, "tokens [3]"),
            (r#""prompt":{}"#, "opaque"),
            (r#""prompt":"x","add_special_tokens":false"#, "opaque"),
            (r#""prompt":"x","add_special_tokens":true"#, "text x"),
            (r#""prompt":"x","truncate_prompt_tokens":3"#, "opaque"),
            (r#""prompt":null"#, "invalid prompt"),
            (r#""max_tokens":3"#, "invalid prompt"),
            (r#""prompt_embeds":"AA==""#, "opaque"),
        ] {
            assert_eq!(kind_of(Kind::Completion, &format!(r#"{{"model":"m",{rest}}}"#)), prompt, "{rest}");
        }
        for (rest, prompt) in [
            (r#""messages":[1]"#, "chat [1]"),
            (r#""messages": [ ] "#, "chat [ ]"),
            (r#""messages":"x""#, "invalid messages"),
            (r#""messages":null"#, "invalid messages"),
            (r#""messages":[],"chat_template":"x""#, "opaque"),
            (r#""messages":[],"add_special_tokens":true"#, "opaque"),
            (r#""messages":[],"add_generation_prompt":1"#, "invalid add_generation_prompt"),
            (r#""messages":[],"stream":"yes""#, "invalid stream"),
            (r#""messages":[],"stream_options":1"#, "invalid stream_options"),
            (r#""messages":[],"cache_salt":1"#, "invalid cache_salt"),
            (r#""messages":[],"messages":[]"#, "invalid "),
        ] {
            assert_eq!(kind_of(Kind::Chat, &format!(r#"{{"model":"m",{rest}}}"#)), prompt, "{rest}");
        }
        for (body, wrong) in [("", ""), ("[]", ""), ("{", ""), ("{}", "model"), (r#"{"model":1}"#, "model")] {
            assert_eq!(kind_of(Kind::Other, body), format!("invalid {wrong}"), "{body}");
        }
        assert_eq!(kind_of(Kind::Other, r#"{"model":"m","input":"x"}"#), "opaque");
    }

    #[test]
    fn hints_are_read_leniently_and_null_is_absent() {
        let body = br#"{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true},
            "max_tokens":5,"max_completion_tokens":7,"user":"u","session_id":4,"cache_salt":"s","tools":null}"#;
        let request = Request::read(Kind::Chat, body).unwrap();
        assert!(request.stream && request.wants_stream_usage);
        assert_eq!(request.max_tokens, Some(7));
        assert_eq!((request.session.as_deref(), request.cache_salt.as_deref()), (Some("u"), Some("s")));
        let Prompt::Chat(chat) = request.prompt else { panic!("a chat") };
        assert!(chat.tools.is_none() && chat.add_generation_prompt);
        assert!(matches!(request.model, Cow::Borrowed("m")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), json in "[\\[\\]{}:,\"a-z0-9 ]{0,80}") {
            for kind in [Kind::Chat, Kind::Completion, Kind::Other] {
                drop(Request::read(kind, &bytes));
                drop(Request::read(kind, format!(r#"{{"model":"m",{json}}}"#).as_bytes()));
            }
        }
    }
}
