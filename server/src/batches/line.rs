//! A line of a batch's file: what it asks, or what is wrong with it. The same line is judged the same way whenever it is
//! read again, as long as the models are the same.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::ApiError;
use crate::files::lines::{Fault, Line};
use crate::work::Errand;

/// The longest name of a line: with a thousand lines under way they are half a megabyte.
const MAX_NAME: usize = 512;

/// Reads lines one after the other: a name may be used only once.
pub(super) struct Judge {
    endpoint: String,
    /// Names by their hashes, and the line that had each first: 24 bytes a line.
    names: HashMap<u128, u64>,
}

/// What a line is.
#[derive(Debug)]
pub(super) struct Judged {
    /// Its number in the file.
    pub(super) number: u64,
    /// What the client calls it, if that could be read.
    pub(super) custom_id: Option<String>,
    /// What it asks.
    pub(super) asks: Result<Errand, Wrong>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// Each field as it was written, so that one that is wrong does not hide the others.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    custom_id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    url: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
}

// === impl Judge ===

impl Judge {
    pub(super) fn new(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), names: HashMap::new() }
    }

    /// What this line is; `may_ask` says what is wrong with a model.
    pub(super) fn judge(&mut self, line: Line, may_ask: impl FnOnce(&str) -> Result<(), Wrong>) -> Judged {
        let number = line.number;
        let mut judged = Judged { number, custom_id: None, asks: Err(wrong("", "")) };
        judged.asks = self.read(line, &mut judged.custom_id).and_then(|mut errand| {
            may_ask(&errand.model)?;
            errand.custom_id.clone_from(&judged.custom_id);
            Ok(errand)
        });
        judged
    }

    fn read(&mut self, line: Line, custom_id: &mut Option<String>) -> Result<Errand, Wrong> {
        let text = line.text.map_err(|fault| {
            let code =
                if matches!(fault, Fault::TooLong { .. }) { "line_too_long" } else { "invalid_json_line" };
            wrong(code, fault.to_string())
        })?;
        let broken = |why: String| {
            wrong("invalid_json_line", format!("the line is not a JSON object that can be read: {why}"))
        };
        if !text.trim_start().starts_with('{') {
            return Err(broken("it does not begin with {".to_owned()));
        }
        let fields: Fields<'_> = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        let name = string("custom_id", fields.custom_id)?;
        if !(1..=MAX_NAME).contains(&name.len()) {
            let found = name.len();
            return Err(wrong(
                "invalid_custom_id",
                format!("custom_id: found {found} bytes; allowed are 1 to {MAX_NAME}"),
            ));
        }
        *custom_id = Some(name.clone());
        let before = *self.names.entry(xxh3_128(name.as_bytes())).or_insert(line.number);
        if before != line.number {
            return Err(wrong(
                "duplicate_custom_id",
                format!("custom_id: found {name:?}, which line {before} has already; each may be used once"),
            ));
        }
        let method = string("method", fields.method)?;
        if method != "POST" {
            return Err(wrong("invalid_method", format!("method: found {method:?}; allowed is \"POST\"")));
        }
        let url = string("url", fields.url)?;
        if url != self.endpoint {
            let endpoint = &self.endpoint;
            return Err(wrong(
                "mismatched_url",
                format!("url: found {url:?}; allowed is the endpoint of the batch, {endpoint:?}"),
            ));
        }
        let body = fields.body.filter(|body| body.get().starts_with('{'));
        let body = body.ok_or_else(|| wrong("invalid_body", "body: it is not there, or no JSON object"))?;
        Errand::read(&self.endpoint, body).map_err(|error| {
            let param = match &error {
                ApiError::Invalid { param: Some(param), .. } => format!("body.{param}: "),
                _ => "body: ".to_owned(),
            };
            wrong("invalid_request", format!("{param}{error}"))
        })
    }
}

fn string(name: &str, raw: Option<&RawValue>) -> Result<String, Wrong> {
    let code = match name {
        "custom_id" => "invalid_custom_id",
        "method" => "invalid_method",
        _ => "mismatched_url",
    };
    let raw = raw.ok_or_else(|| wrong(code, format!("{name}: it is not there")))?;
    serde_json::from_str(raw.get()).map_err(|_| wrong(code, format!("{name}: it is not a string")))
}

pub(super) fn wrong(code: &'static str, message: impl Into<String>) -> Wrong {
    Wrong { code, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge_all(lines: &[&str]) -> Vec<(u64, Option<String>, Result<String, &'static str>)> {
        let mut judge = Judge::new("/v1/chat/completions");
        let may_ask = |model: &str| {
            if model == "sim" { Ok(()) } else { Err(wrong("model_not_found", model)) }
        };
        lines
            .iter()
            .zip(1..)
            .map(|(text, number)| {
                let line = Line { number, offset: 0, text: Ok((*text).to_owned()) };
                let judged = judge.judge(line, may_ask);
                let asks = judged.asks.map(|errand| {
                    assert_eq!(errand.custom_id, judged.custom_id, "the name travels with what is asked");
                    errand.model
                });
                (judged.number, judged.custom_id, asks.map_err(|wrong| wrong.code))
            })
            .collect()
    }

    #[test]
    fn each_fault_has_its_code_and_the_name_is_known_where_it_can_be() {
        let good = |name: &str| {
            format!(
                r#"{{"custom_id":"{name}","method":"POST","url":"/v1/chat/completions","body":{{"model":"sim","messages":[]}}}}"#
            )
        };
        let cases: Vec<(String, Option<&str>, Result<&str, &str>)> = vec![
            (good("a"), Some("a"), Ok("sim")),
            (good("a"), Some("a"), Err("duplicate_custom_id")),
            ("{".to_owned(), None, Err("invalid_json_line")),
            ("[]".to_owned(), None, Err("invalid_json_line")),
            ("7".to_owned(), None, Err("invalid_json_line")),
            (
                r#"["x","POST","/v1/chat/completions",{"model":"sim"}]"#.to_owned(),
                None,
                Err("invalid_json_line"),
            ),
            (good("b") + "}", None, Err("invalid_json_line")),
            ("{}".to_owned(), None, Err("invalid_custom_id")),
            (good(""), None, Err("invalid_custom_id")),
            (good(&"x".repeat(513)), None, Err("invalid_custom_id")),
            (good("c").replace("\"c\"", "7"), None, Err("invalid_custom_id")),
            (good("d").replace("POST", "GET"), Some("d"), Err("invalid_method")),
            (good("e").replace("/v1/chat", "/v2/chat"), Some("e"), Err("mismatched_url")),
            (good("f").replace("\"body\"", "\"boddy\""), Some("f"), Err("invalid_body")),
            (good("g").replace("{\"model\":\"sim\",\"messages\":[]}", "[]"), Some("g"), Err("invalid_body")),
            (good("h").replace("sim", "other"), Some("h"), Err("model_not_found")),
            (good("i").replace("[]", "[],\"stream\":true"), Some("i"), Err("invalid_request")),
            (good("j").replace("\"model\":\"sim\",", ""), Some("j"), Err("invalid_request")),
            (good("d"), Some("d"), Err("duplicate_custom_id")),
            (good("\\u0061\\n"), Some("a\n"), Ok("sim")),
        ];
        let texts: Vec<&str> = cases.iter().map(|(text, ..)| text.as_str()).collect();
        for (found, (text, name, asks)) in judge_all(&texts).into_iter().zip(&cases) {
            let asks = asks.map(str::to_owned);
            let asks = asks.as_ref().map_err(|code| *code);
            assert_eq!((found.1.as_deref(), found.2.as_ref().map_err(|code| *code)), (*name, asks), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_text_says_so() {
        let mut judge = Judge::new("/v1/completions");
        for (fault, code) in [
            (Fault::TooLong { bytes: 9, limit: 8 }, "line_too_long"),
            (Fault::NotText { at: 1 }, "invalid_json_line"),
        ] {
            let judged = judge.judge(Line { number: 3, offset: 0, text: Err(fault) }, |_| Ok(()));
            let found = judged.asks.unwrap_err();
            assert_eq!((found.code, judged.number), (code, 3));
            assert_eq!(found.message, fault.to_string());
        }
    }
}
