//! What an engine says about tokens, in the three forms of the APIs that it speaks.

use serde::Deserialize;

use crate::fleet::Usage;

/// Usage in one event of a stream.
pub(super) struct InEvent {
    pub(super) usage: Usage,
    /// Whether the event carries nothing else: OpenAI's last chunk before `[DONE]`.
    pub(super) alone: bool,
    /// Whether it is the last event of its API.
    pub(super) last: bool,
}

#[derive(Deserialize)]
struct Event {
    usage: Option<Counts>,
    choices: Option<Vec<serde::de::IgnoredAny>>,
    message: Option<Inner>,
    response: Option<Inner>,
    r#type: Option<String>,
}

#[derive(Deserialize)]
struct Inner {
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: Option<u32>,
    input_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    output_tokens: Option<u32>,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
}

/// The usage in one event, if there is any.
pub(super) fn in_event(data: &[u8]) -> Option<InEvent> {
    find(data)?;
    let event: Event = serde_json::from_slice(data).ok()?;
    let alone = event.choices.is_some_and(|choices| choices.is_empty());
    let inner = |inner: Option<Inner>| inner.and_then(|inner| inner.usage);
    let counts = event.usage.or(inner(event.message)).or(inner(event.response))?;
    let last = event.r#type.is_some_and(|kind| kind == "response.completed" || kind == "message_stop");
    Some(InEvent { usage: counts.into(), alone, last })
}

/// The usage of a plain answer. Engines write it near the end: only what is behind its name is parsed.
pub(crate) fn in_answer(body: &[u8]) -> Option<Usage> {
    let from = find(body)?;
    let value = body[from..].trim_ascii_start().strip_prefix(b":")?;
    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Counts>();
    values.next()?.ok().map(Usage::from)
}

/// Just behind the last `"usage"` that is followed by an object.
fn find(body: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\"usage\"";
    let at = body.windows(NAME.len()).rposition(|window| window == NAME)?;
    let behind = body[at + NAME.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    behind.starts_with(b"{").then_some(at + NAME.len())
}

/// Later events know more: what they say counts, what they leave out stays.
pub(super) fn merge(before: Option<Usage>, now: Usage) -> Usage {
    let before = before.unwrap_or_default();
    Usage {
        prompt: if now.prompt > 0 { now.prompt } else { before.prompt },
        cached: now.cached.or(before.cached),
        completion: now.completion.max(before.completion),
    }
}

impl From<Counts> for Usage {
    fn from(counts: Counts) -> Self {
        // Anthropic counts what was cached beside the rest of the prompt, OpenAI within it.
        let beside = counts.cache_read_input_tokens;
        let within = counts
            .prompt_tokens_details
            .or(counts.input_tokens_details)
            .and_then(|found| found.cached_tokens);
        let prompt = counts.prompt_tokens.or(counts.input_tokens).unwrap_or(0) + beside.unwrap_or(0);
        let completion = counts.completion_tokens.or(counts.output_tokens).unwrap_or(0);
        Self { prompt, cached: within.or(beside), completion }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_says_it_in_its_own_way() {
        let cases = [
            (
                r#"{"choices":[{"text":"\"usage\": {"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}}"#,
                9,
                Some(8),
                3,
            ),
            (
                r#"{"usage" : {"input_tokens":9,"output_tokens":3,"input_tokens_details":{"cached_tokens":8}},"x":1}"#,
                9,
                Some(8),
                3,
            ),
            (r#"{"usage":{"input_tokens":1,"output_tokens":3,"cache_read_input_tokens":8}}"#, 9, Some(8), 3),
            (
                r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":null}}"#,
                9,
                None,
                3,
            ),
        ];
        for (body, prompt, cached, completion) in cases {
            assert_eq!(in_answer(body.as_bytes()), Some(Usage { prompt, cached, completion }), "{body}");
        }
        for body in ["", "{}", r#"{"usage":null}"#, r#"{"usage":"#, r#"{"usage":{"prompt_tokens":"x"}}"#] {
            assert_eq!(in_answer(body.as_bytes()), None, "{body}");
        }
    }
}
