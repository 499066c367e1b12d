//! A part of a batch's results: what came of a hundred lines that follow each other, good and bad together.
//!
//! Its first line is the [`Head`]; each further one is a letter, which says to which file it belongs and why, and the
//! record as the client will read it. Parts are made by one line at a time and read by one line at a time.

use queue::entry::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_128;

use super::note::Made;
use super::{Id, Problem};
use crate::work::ErrandResult;

/// What is known of a part without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Lines with a good answer.
    pub(super) completed: u64,
    /// Lines without.
    pub(super) failed: u64,
    /// Numbers of the entries that it was made of: they can be forgotten.
    pub(super) seqs: Vec<u64>,
}

/// Of what kind a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// A good answer.
    Good,
    /// Anything that is an error.
    Bad,
    /// It did not start in time.
    Late,
}

/// A line of an output or error file, as OpenAI has it.
#[derive(Serialize)]
struct Record<'a> {
    id: String,
    custom_id: Option<&'a str>,
    response: Option<Response<'a>>,
    error: Option<&'a Problem>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: &'a str,
    body: Option<&'a RawValue>,
}

/// A head has at most a hundred numbers of at most twenty digits.
pub(super) const MAX_HEAD: u64 = 4 << 10;
/// The longest line of a part: an answer of 16 MiB that was no JSON, with every byte escaped, and what is around it.
pub(super) const MAX_LINE: usize = 112 << 20;

// === impl Head ===

impl Head {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("numbers always serialise");
        line.push(b'\n');
        line
    }

    /// From the beginning of a part.
    pub(super) fn read(begin: &[u8]) -> Result<Self, String> {
        let line = begin.split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(line).map_err(|error| format!("the head of a part cannot be read: {error}"))
    }
}

// === impl Sort ===

impl Sort {
    const fn letter(self) -> u8 {
        match self {
            Self::Good => b'+',
            Self::Bad => b'-',
            Self::Late => b'~',
        }
    }

    /// A line of a part, taken apart.
    pub(super) fn read(line: &str) -> Result<(Self, &str), String> {
        let sorts = [Self::Good, Self::Bad, Self::Late];
        let sort = sorts.into_iter().find(|sort| line.as_bytes().first() == Some(&sort.letter()));
        sort.map(|sort| (sort, &line[1..])).ok_or_else(|| "a line of a part has no letter".to_owned())
    }
}

/// The line of a part for something that is wrong.
pub(super) fn problem(made: &Made, at: u64, custom_id: Option<&str>, sort: Sort, why: &Problem) -> Vec<u8> {
    line(sort, &Record { id: name(&made.id, at), custom_id, response: None, error: Some(why) })
}

/// The line of a part for something that came to its end.
pub(super) fn answer(
    made: &Made,
    at: u64,
    custom_id: Option<&str>,
    number: u64,
    outcome: Outcome,
    result: Option<&ErrandResult>,
    was_late: bool,
) -> Vec<u8> {
    let trouble = |code: &str, message: &str| Problem {
        code: code.to_owned(),
        message: message.to_owned(),
        line: Some(number),
    };
    let late = || {
        let why = trouble(
            "batch_expired",
            "This request could not be executed before the completion window expired.",
        );
        problem(made, at, custom_id, Sort::Late, &why)
    };
    match (outcome, result) {
        (Outcome::Expired, _) => late(),
        (Outcome::Cancelled, _) if was_late => late(),
        (Outcome::Cancelled, _) => {
            let why = trouble("batch_cancelled", "This request was cancelled before it was executed.");
            problem(made, at, custom_id, Sort::Bad, &why)
        }
        (
            Outcome::Done | Outcome::Failed,
            Some(ErrandResult { status_code: Some(status), request_id, body, .. }),
        ) => {
            let body = body.as_deref();
            let response = Some(Response { status_code: *status, request_id, body });
            let sort = if outcome == Outcome::Done { Sort::Good } else { Sort::Bad };
            line(sort, &Record { id: name(&made.id, at), custom_id, response, error: None })
        }
        (Outcome::Done | Outcome::Failed, result) => {
            let why = match result.and_then(|result| result.error.as_ref()) {
                Some(error) => trouble(&error.code, &error.message),
                None => trouble("lost", "It ran, and what came of it cannot be read."),
            };
            problem(made, at, custom_id, Sort::Bad, &why)
        }
    }
}

fn line(sort: Sort, record: &Record<'_>) -> Vec<u8> {
    let mut line = vec![sort.letter()];
    serde_json::to_writer(&mut line, record).expect("strings and numbers always serialise");
    // An answer may have been written over several lines; in JSON an end of line is never part of a text.
    line.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    line.push(b'\n');
    line
}

/// What a record is called: the same whenever it is made again.
fn name(id: &Id, at: u64) -> String {
    format!("batch_req_{:032x}", xxh3_128(format!("{id}/{at}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::files;

    fn made() -> Made {
        let now = Duration::from_secs(1);
        Made {
            id: Id::mint(now),
            tenant: None,
            partition: 1,
            input: files::Id::mint(now),
            endpoint: "/v1/completions".to_owned(),
            window_s: 60,
            window: "1m".to_owned(),
            metadata: None,
            keep_s: None,
        }
    }

    fn taken(line: &[u8]) -> (Sort, Value) {
        let text = std::str::from_utf8(line).unwrap();
        assert!(
            text.ends_with('\n') && !text[..text.len() - 1].contains(['\n', '\r']),
            "{text:?} is one line"
        );
        let (sort, record) = Sort::read(text.trim_end()).unwrap();
        (sort, serde_json::from_str(record).unwrap())
    }

    #[test]
    fn a_record_is_what_openai_writes_and_is_one_line_whatever_the_engine_wrote() {
        let made = made();
        let body = b"{\n \"text\": \"a\\nb\"\r\n}";
        let good = ErrandResult::answered("wl-1", http::StatusCode::OK, body);
        let (sort, record) = taken(&answer(&made, 7, Some("x"), 8, Outcome::Done, Some(&good), false));
        assert_eq!((sort, &record["custom_id"], &record["error"]), (Sort::Good, &"x".into(), &Value::Null));
        assert_eq!(record["response"]["body"]["text"], "a\nb");
        assert_eq!(
            (&record["response"]["status_code"], &record["response"]["request_id"]),
            (&200.into(), &"wl-1".into())
        );
        let again = taken(&answer(&made, 7, Some("x"), 8, Outcome::Done, Some(&good), false)).1;
        assert_eq!(record["id"], again["id"], "a record that is made again is the same");
        let other = taken(&answer(&made, 8, Some("x"), 9, Outcome::Done, Some(&good), false)).1;
        assert_ne!(record["id"], other["id"]);
    }

    #[test]
    fn what_is_no_good_answer_goes_to_the_errors_and_says_why() {
        let made = made();
        let refused = ErrandResult::answered("wl-1", http::StatusCode::BAD_REQUEST, b"not json");
        let broken = ErrandResult::failed("wl-2", "engine_failed", "broke");
        let cases = [
            (Outcome::Failed, Some(&refused), false, Sort::Bad, None),
            (Outcome::Failed, Some(&broken), false, Sort::Bad, Some("engine_failed")),
            (Outcome::Failed, None, false, Sort::Bad, Some("lost")),
            (Outcome::Done, None, false, Sort::Bad, Some("lost")),
            (Outcome::Expired, None, false, Sort::Late, Some("batch_expired")),
            (Outcome::Cancelled, None, true, Sort::Late, Some("batch_expired")),
            (Outcome::Cancelled, None, false, Sort::Bad, Some("batch_cancelled")),
        ];
        for (outcome, result, was_late, sort, code) in cases {
            let (found, record) = taken(&answer(&made, 1, Some("x"), 2, outcome, result, was_late));
            assert_eq!(found, sort, "{outcome:?}");
            assert_eq!(record["error"]["code"].as_str(), code);
            assert_eq!(record["response"].is_null(), code.is_some());
            assert!(code.is_none() || record["error"]["line"] == 2);
        }
        let (_, record) = taken(&answer(&made, 1, None, 2, Outcome::Failed, Some(&refused), false));
        assert_eq!(
            (&record["response"]["body"], &record["response"]["status_code"]),
            (&"not json".into(), &400.into())
        );
    }

    #[test]
    fn a_head_is_read_from_the_beginning_of_its_part() {
        let head = Head { completed: 2, failed: 1, seqs: vec![u64::MAX; 100] };
        let mut bytes = head.write();
        assert!(bytes.len() as u64 <= MAX_HEAD);
        bytes.extend(b"+{}\n");
        assert_eq!(Head::read(&bytes), Ok(head));
        assert!(Head::read(b"").is_err() && Sort::read("").is_err() && Sort::read("x{}").is_err());
    }
}
