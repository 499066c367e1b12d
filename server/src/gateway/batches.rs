//! OpenAI's Batches over HTTP: what is asked, of whose batches, and how the answer looks.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Gateway;
use super::handle::json as answer;
use super::jobs::check_metadata;
use super::relay::Answer;
use crate::batches::{Ended, Id, Page, Problem, Shown, Status, Wanted};
use crate::error::ApiError;
use crate::files;
use crate::settings::Span;
use crate::work::can_wait;

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// All batches of a tenant.
    All,
    /// One.
    One,
    /// Its end, before its time.
    Cancel,
}

/// A batch as a client describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    metadata: Option<BTreeMap<String, String>>,
    output_expires_after: Option<Expires>,
}

/// How long its results are wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expires {
    anchor: String,
    seconds: u64,
}

/// Batches in one page, if nothing else is said and at most, as OpenAI has it.
const PAGE: (usize, usize) = (20, 100);
/// How long a batch may take: OpenAI knows a day only, and a file of a log is kept a week longer than this.
const WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(7 * 24));
/// How long results may be wanted, as OpenAI has it.
const KEEP: (u64, u64) = (3_600, 2_592_000);

impl Target {
    /// What is at a path under `/v1/batches`.
    pub(super) fn at(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/v1/batches")?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            [""] => Some(Self::All),
            ["", id] if !id.is_empty() => Some(Self::One),
            ["", id, "cancel"] if !id.is_empty() => Some(Self::Cancel),
            _ => None,
        }
    }

    pub(super) const fn allowed(self) -> &'static [Method] {
        match self {
            Self::All => &[Method::GET, Method::HEAD, Method::POST],
            Self::One => &[Method::GET, Method::HEAD],
            Self::Cancel => &[Method::POST],
        }
    }
}

impl Gateway {
    pub(super) async fn batches_of(
        &self,
        target: Target,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, ApiError> {
        let admitted = self.0.keys.identify(request.headers())?;
        let (head, incoming) = request.into_parts();
        let (batches, tenant) = (&self.0.batches, admitted.tenant());
        if target == Target::All && head.method == Method::POST {
            let body = self.read(&head.headers, incoming).await?;
            return Ok(said(&object(&batches.create(tenant, new(&body)?).await?)));
        }
        if target == Target::All {
            let (after, limit) = wanted(head.uri.query().unwrap_or_default())?;
            return Ok(said(&list(&batches.list(tenant, after.as_ref(), limit).await?)));
        }
        let given = head.uri.path().split('/').nth(3).unwrap_or_default();
        let unknown = || {
            ApiError::NotFound(format!("There is no batch `{}`.", given.chars().take(80).collect::<String>()))
        };
        let id = Id::parse(given).ok_or_else(unknown)?;
        let shown = match target {
            Target::Cancel => batches.cancel(tenant, &id).await?,
            _ => batches.find(tenant, &id).await?,
        };
        Ok(said(&object(&shown)))
    }
}

fn said(body: &Value) -> Response<Answer> {
    answer(StatusCode::OK, body.to_string().into())
}

// === Questions ===

/// What a client wants, if it can be had.
fn new(body: &Bytes) -> Result<Wanted, ApiError> {
    let new: New = serde_json::from_slice(body).map_err(|error| ApiError::invalid(format!("{error}.")))?;
    can_wait(&new.endpoint)?;
    let input = files::Id::parse(&new.input_file_id);
    let input = input.ok_or_else(|| wrong("input_file_id", &new.input_file_id, "the id of a file"))?;
    let window = new.completion_window.parse::<Span>().map(Span::get).ok();
    let window = window.filter(|window| (WINDOW.0..=WINDOW.1).contains(window));
    let window = window.ok_or_else(|| {
        wrong("completion_window", &new.completion_window, "24h, or another time from 1s to 168h")
    })?;
    check_metadata(new.metadata.as_ref())?;
    let keep = new.output_expires_after.map(|expires| {
        if expires.anchor != "created_at" {
            return Err(wrong("output_expires_after[anchor]", &expires.anchor, "`created_at`"));
        }
        let fits = (KEEP.0..=KEEP.1).contains(&expires.seconds);
        let found = expires.seconds.to_string();
        let allowed = format!("{} to {}", KEEP.0, KEEP.1);
        fits.then(|| Duration::from_secs(expires.seconds))
            .ok_or_else(|| wrong("output_expires_after[seconds]", &found, &allowed))
    });
    Ok(Wanted {
        input,
        endpoint: new.endpoint,
        window: (window, new.completion_window),
        metadata: new.metadata,
        keep: keep.transpose()?,
    })
}

/// Which page of a list.
fn wanted(query: &str) -> Result<(Option<Id>, usize), ApiError> {
    let (mut after, mut limit) = (None, PAGE.0);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "after" => {
                after = Some(Id::parse(&value).ok_or_else(|| wrong("after", &value, "the id of a batch"))?);
            }
            "limit" => {
                let found = value.parse().ok().filter(|limit| (1..=PAGE.1).contains(limit));
                limit = found.ok_or_else(|| wrong("limit", &value, &format!("1 to {}", PAGE.1)))?;
            }
            _ => {}
        }
    }
    Ok((after, limit))
}

fn wrong(param: &str, found: &str, allowed: &str) -> ApiError {
    let found: String = found.chars().take(80).collect();
    ApiError::Invalid {
        message: format!("{param}: found {found:?}; allowed is {allowed}."),
        param: Some(param.to_owned()),
    }
}

// === Answers ===

/// A batch as OpenAI shows it.
fn object(shown: &Shown) -> Value {
    let Shown { made, status, begun_at, cancelling_at, finalizing_at, counts, ended } = shown;
    let ended = ended.as_ref();
    let at = |status: Status| ended.filter(|ended| ended.status == status).map(|ended| ended.at);
    let file = |which: fn(&Ended) -> Option<&files::Id>| ended.and_then(which).map(files::Id::as_str);
    json!({
        "id": made.id.as_str(),
        "object": "batch",
        "endpoint": made.endpoint,
        "errors": ended.map(|ended| ended.problems.as_slice()).filter(|all| !all.is_empty()).map(errors),
        "input_file_id": made.input.as_str(),
        "completion_window": made.window,
        "status": status.name(),
        "output_file_id": file(|ended| ended.output.as_ref()),
        "error_file_id": file(|ended| ended.errors.as_ref()),
        "created_at": made.id.time().as_secs(),
        "in_progress_at": begun_at,
        "expires_at": made.expires().as_secs(),
        "finalizing_at": finalizing_at,
        "completed_at": at(Status::Completed),
        "failed_at": at(Status::Failed),
        "expired_at": at(Status::Expired),
        "cancelling_at": cancelling_at,
        "cancelled_at": at(Status::Cancelled),
        "request_counts": {"total": counts.total, "completed": counts.completed, "failed": counts.failed},
        "usage": ended.filter(|ended| ended.counts.completed > 0).map(usage),
        "metadata": made.metadata,
    })
}

fn errors(problems: &[Problem]) -> Value {
    let one = |problem: &Problem| {
        let Problem { code, message, line } = problem;
        json!({"code": code, "message": message, "line": line, "param": null})
    };
    json!({"object": "list", "data": problems.iter().map(one).collect::<Vec<_>>()})
}

fn usage(ended: &Ended) -> Value {
    let used = ended.usage;
    json!({
        "input_tokens": used.input,
        "input_tokens_details": {"cached_tokens": used.cached},
        "output_tokens": used.output,
        // What engines think before they answer is part of the answer to them.
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.input + used.output,
    })
}

fn list(page: &Page) -> Value {
    let id = |shown: Option<&Shown>| shown.map(|shown| shown.made.id.as_str().to_owned());
    json!({
        "object": "list",
        "data": page.batches.iter().map(object).collect::<Vec<_>>(),
        "first_id": id(page.batches.first()),
        "last_id": id(page.batches.last()),
        "has_more": page.more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_all_batches_one_or_its_end() {
        let cases = [
            ("/v1/batches", Some(Target::All)),
            ("/v1/batches/", None),
            ("/v1/batches/b", Some(Target::One)),
            ("/v1/batches/b/", None),
            ("/v1/batches/b/cancel", Some(Target::Cancel)),
            ("/v1/batches/b/cancel/", None),
            ("/v1/batches//cancel", None),
            ("/v1/batches/b/else", None),
            ("/v1/batchesque", None),
        ];
        for (path, expected) in cases {
            assert_eq!(Target::at(path), expected, "{path}");
        }
    }

    #[test]
    fn what_a_client_wants_is_understood_or_refused_with_its_parameter() {
        let file = files::Id::mint(Duration::from_secs(1));
        let body = |change: &dyn Fn(&mut Value)| {
            let mut value = json!({
                "input_file_id": file.as_str(), "endpoint": "/v1/embeddings", "completion_window": "24h",
                "metadata": {"a": "b"}, "output_expires_after": {"anchor": "created_at", "seconds": 3600},
            });
            change(&mut value);
            new(&Bytes::from(value.to_string()))
        };
        let good = body(&|_| {}).unwrap();
        assert_eq!((good.input, good.endpoint.as_str()), (file.clone(), "/v1/embeddings"));
        assert_eq!(good.window, (Duration::from_hours(24), "24h".to_owned()));
        assert_eq!(good.keep, Some(Duration::from_hours(1)));
        let cases: [(&str, &str, Value); 8] = [
            ("endpoint", "/endpoint", "/v1/images".into()),
            ("input_file_id", "/input_file_id", "file-1".into()),
            ("completion_window", "/completion_window", "soon".into()),
            ("completion_window", "/completion_window", "169h".into()),
            ("completion_window", "/completion_window", "1ms".into()),
            ("output_expires_after[anchor]", "/output_expires_after/anchor", "now".into()),
            ("output_expires_after[seconds]", "/output_expires_after/seconds", 1.into()),
            ("metadata", "/metadata/a", "x".repeat(513).into()),
        ];
        for (param, place, value) in cases {
            let found = body(&|body| *body.pointer_mut(place).unwrap() = value.clone());
            let Err(ApiError::Invalid { message, param: found }) = found else { panic!("{param} is taken") };
            assert_eq!(found.as_deref(), Some(param), "{message}");
            assert!(message.contains("allowed"), "{message}");
        }
        let strange = body(&|body| body["surprise"] = 1.into());
        assert!(strange.unwrap_err().to_string().contains("surprise"));
    }

    #[test]
    fn a_page_is_understood_or_refused() {
        let id = Id::mint(Duration::from_secs(1));
        assert_eq!(wanted(&format!("limit=3&after={id}&other=1")).unwrap(), (Some(id), 3));
        assert_eq!(wanted("").unwrap(), (None, 20));
        for query in ["limit=0", "limit=101", "limit=x", "after=batch_1"] {
            let Err(ApiError::Invalid { message, param }) = wanted(query) else { panic!("{query} is taken") };
            assert_eq!(param.as_deref(), query.split('=').next());
            assert!(message.contains("allowed is"), "{message}");
        }
    }
}
