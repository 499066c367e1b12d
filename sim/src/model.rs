//! The simulated model: a byte-level tokenizer, a ChatML template, and answers made of plain words.
//!
//! The tokenizer and the template exist twice on purpose: as the files that a gateway loads
//! ([`tokenizer_json`], [`CHAT_TEMPLATE`]), and as the few lines below, which the engine uses. If they
//! disagree, the gateway's closed loop has to notice.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::random::Random;

/// Ends a text.
pub const END_OF_TEXT: u32 = 256;
/// Begins a message.
pub const BEGIN: u32 = 257;
/// Ends a message.
pub const END: u32 = 258;
/// The special tokens as they are written.
const SPECIAL: [(&str, u32); 3] =
    [("<|endoftext|>", END_OF_TEXT), ("<|im_start|>", BEGIN), ("<|im_end|>", END)];

/// The template as a gateway loads it.
pub const CHAT_TEMPLATE: &str = "{%- for message in messages -%}\
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}";

const WORDS: [&str; 32] = [
    "warm", "line", "cache", "token", "block", "prefix", "engine", "queue", "river", "stone", "garden",
    "window", "paper", "signal", "north", "winter", "copper", "silver", "morning", "harbour", "valley",
    "bridge", "letter", "memory", "circle", "forest", "market", "station", "thread", "velvet", "amber",
    "quiet",
];

/// Text to token ids: a byte is a token, and so is each special word.
pub fn encode(text: &str) -> Vec<u32> {
    let mut ids = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let next =
            SPECIAL.iter().filter_map(|(word, id)| rest.find(word).map(|at| (at, word.len(), *id))).min();
        let (at, length, id) = next.map_or((rest.len(), 0, None), |(at, length, id)| (at, length, Some(id)));
        ids.extend(rest[..at].bytes().map(u32::from));
        ids.extend(id);
        rest = &rest[at + length..];
    }
    ids
}

/// Token ids to text.
pub fn decode(ids: &[u32]) -> String {
    let mut bytes = Vec::with_capacity(ids.len());
    for id in ids {
        match SPECIAL.iter().find(|(_, special)| special == id) {
            Some((word, _)) => bytes.extend_from_slice(word.as_bytes()),
            None => bytes.push(*id as u8),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Messages to the text that the model reads.
///
/// # Errors
/// Messages that a chat model cannot take, in the words of an engine.
pub fn render(messages: &Value, add_generation_prompt: bool) -> Result<String, String> {
    let messages = messages.as_array().ok_or("messages: Input should be a valid list")?;
    if messages.is_empty() {
        return Err("messages: List should have at least 1 item".to_owned());
    }
    let mut text = String::new();
    for message in messages {
        let role = message["role"].as_str().ok_or("messages.role: Input should be a valid string")?;
        // Writing to a string cannot fail.
        let _ = write!(text, "<|im_start|>{role}\n{}<|im_end|>\n", content(&message["content"])?);
    }
    if add_generation_prompt {
        text.push_str("<|im_start|>assistant\n");
    }
    Ok(text)
}

/// A text, or the text parts of a list, a line each.
fn content(content: &Value) -> Result<String, String> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        Value::Array(parts) => {
            let text = |part: &Value| part["text"].as_str().or(part.as_str()).map(str::to_owned);
            let texts: Option<Vec<String>> = parts.iter().map(text).collect();
            Ok(texts.ok_or("messages.content: this model takes text only")?.join("\n"))
        }
        _ => Err("messages.content: Input should be a valid string or list".to_owned()),
    }
}

/// So many tokens of an answer to a prompt; the same prompt gets the same answer.
pub fn answer(prompt: &[u32], tokens: usize) -> Vec<u32> {
    let bytes: Vec<u8> = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut random = Random::new(xxhash_rust::xxh3::xxh3_64(&bytes));
    let mut text = String::new();
    while text.len() < tokens {
        text.push_str(WORDS[random.below(WORDS.len() as u64) as usize]);
        text.push(' ');
    }
    text.bytes().take(tokens).map(u32::from).collect()
}

/// The tokenizer as a gateway loads it: Hugging Face's `tokenizer.json`, byte-level, without merges.
pub fn tokenizer_json() -> String {
    let vocab: serde_json::Map<String, Value> =
        (0..=255_u8).map(|byte| (letter(byte).to_string(), json!(byte))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .map(|(word, id)| {
            json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": []},
    })
    .to_string()
}

/// The letter that stands for a byte in byte-level vocabularies: itself if it can be seen, else one from 256 on.
fn letter(byte: u8) -> char {
    let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if seen(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !seen(*other)).count() as u32;
    char::from_u32(256 + before).unwrap_or_else(|| unreachable!("there are fewer than 256 unseen bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_words_are_one_token_and_everything_else_is_bytes() {
        assert_eq!(encode("a<|im_end|>é"), [97, END, 0xc3, 0xa9]);
        assert_eq!(decode(&encode("<|im_start|>user\nhi<|im_end|>")), "<|im_start|>user\nhi<|im_end|>");
    }

    #[test]
    fn the_same_prompt_gets_the_same_answer_of_the_asked_length() {
        assert_eq!(answer(&[1, 2, 3], 50), answer(&[1, 2, 3], 50));
        assert_ne!(answer(&[1, 2, 3], 50), answer(&[1, 2, 4], 50));
        assert_eq!(answer(&[1], 7).len(), 7);
    }
}
