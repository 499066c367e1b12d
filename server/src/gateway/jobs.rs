//! Jobs over HTTP: a request that is taken now and answered later, from any replica.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use queue::entry::{Known, Outcome, Stage};
use queue::name::EntryId;
use queue::room::Explained;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Gateway;
use super::handle::json as answer;
use super::keys::Admitted;
use super::relay::Answer;
use crate::error::ApiError;
use crate::settings::{Priority, Span};
use crate::work::{Errand, ErrandResult, Owner, Wanted};

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// New ones.
    All,
    /// One.
    One,
}

/// A job as a client describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New<'a> {
    /// The path that is to be asked.
    endpoint: String,
    /// The body that it is to be asked with.
    #[serde(borrow)]
    body: &'a RawValue,
    /// Not before this time, in seconds since 1970.
    not_before: Option<f64>,
    /// Not before so long from now.
    delay: Option<Span>,
    /// Not at all if it cannot start within so long from now.
    start_within: Option<Span>,
    /// How urgent it is; `job` if nothing is said.
    priority: Option<Priority>,
    /// Whatever the client wants to read later.
    metadata: Option<BTreeMap<String, String>>,
}

/// What its maker wants to read later.
#[derive(Deserialize, serde::Serialize)]
struct Note {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<String, String>>,
}

/// The queue of a tenant in which its jobs wait; those of a batch have one of their own.
const QUEUE: &str = "jobs";
/// The longest that a client may wait in one request; a proxy in between has its own idea of patience.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// Further from now nothing can be ordered.
const SOON: Duration = Duration::from_hours(10 * 365 * 24);
/// A request that another replica has sent on: it is not sent on again.
const FORWARDED: &str = "x-warmline-forwarded";
/// OpenAI's limits on metadata.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);

impl Target {
    /// What is at a path under `/v1/jobs`.
    pub(super) fn at(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/v1/jobs")?;
        match rest.strip_prefix('/') {
            None if rest.is_empty() => Some(Self::All),
            Some(id) if !id.is_empty() && !id.contains('/') => Some(Self::One),
            _ => None,
        }
    }

    pub(super) const fn allowed(self) -> &'static [Method] {
        match self {
            Self::All => &[Method::POST],
            Self::One => &[Method::GET, Method::HEAD, Method::DELETE],
        }
    }
}

impl Gateway {
    pub(super) async fn jobs(
        &self,
        target: Target,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, ApiError> {
        let admitted = self.0.keys.identify(request.headers())?;
        let tenant = admitted.who().tenant;
        let (head, incoming) = request.into_parts();
        if target == Target::All {
            let body = self.read(&head.headers, incoming).await?;
            return self.new_job(&admitted, head, body).await;
        }
        let path = head.uri.path();
        let id = path.rsplit('/').next().unwrap_or_default();
        let unknown =
            || ApiError::NotFound(format!("There is no job `{id}`, or its outcome is kept no longer."));
        let entry: EntryId = id.strip_prefix("job_").and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
        let wait = wait_of(head.uri.query())?;
        match self.0.work.owner(entry.partition).await {
            Owner::Me => {}
            Owner::Other(door) if !head.headers.contains_key(FORWARDED) => {
                return self.forward(&door, head, Bytes::new(), wait).await;
            }
            Owner::Other(_) | Owner::Nobody => {
                return Err(ApiError::NoQueue {
                    message: format!(
                        "The queue of job `{id}` has no replica at the moment; it is taken over, or comes back."
                    ),
                    retry_after: 2,
                });
            }
        }
        let mine = |explained: Explained| {
            let known = &explained.entry;
            let ours = *known.queue.tenant == *tenant && known.queue.key.starts_with("jobs/");
            if ours { Ok(explained) } else { Err(unknown()) }
        };
        let of_unknown =
            |error: ApiError| if matches!(error, ApiError::NotFound(_)) { unknown() } else { error };
        let mut shown = mine(self.0.work.show(entry).await.map_err(of_unknown)?)?;
        if head.method == Method::DELETE {
            if shown.entry.outcome.is_none() {
                match self.0.work.cancel(entry).await {
                    // It came to its end in this very moment.
                    Ok(()) | Err(ApiError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
                return match self.0.work.show(entry).await {
                    Ok(shown) => Ok(said(StatusCode::OK, &job(&shown))),
                    Err(ApiError::NotFound(_)) => Ok(said(StatusCode::OK, &deleted(id))),
                    Err(error) => Err(error),
                };
            }
            self.0.work.forget(entry).await?;
            return Ok(said(StatusCode::OK, &deleted(id)));
        }
        if shown.entry.outcome.is_none() && !wait.is_zero() {
            self.0.work.wait(entry, wait).await.map_err(of_unknown)?;
            shown = self.0.work.show(entry).await.map_err(of_unknown)?;
        }
        Ok(said(StatusCode::OK, &job(&shown)))
    }

    async fn new_job(
        &self,
        admitted: &Admitted,
        head: http::request::Parts,
        body: Bytes,
    ) -> Result<Response<Answer>, ApiError> {
        let new: New<'_> =
            serde_json::from_slice(&body).map_err(|error| ApiError::invalid(format!("{error}.")))?;
        let mut errand = Errand::read(&new.endpoint, new.body)?;
        admitted.may_use(&errand.model)?;
        self.must_serve(&errand.model)?;
        check_metadata(new.metadata.as_ref())?;
        let note = serde_json::to_string(&Note { metadata: new.metadata }).unwrap_or_default();
        errand.note = RawValue::from_string(note).ok();
        let now = self.0.fleet.clock().unix();
        let at = match (new.not_before, new.delay) {
            (Some(_), Some(_)) => {
                return Err(wrong("delay", "there is a not_before as well; give one of the two"));
            }
            (Some(at), None) => Some(time_of(at, now)?),
            (None, delay) => {
                delay.map(|delay| soon("delay", delay.get())).transpose()?.map(|delay| now + delay)
            }
        };
        let within = new.start_within.map(|within| soon("start_within", within.get())).transpose()?;
        let deadline = within.map(|within| at.unwrap_or(now) + within);
        let once = head.headers.get("idempotency-key").map(|key| {
            let key = key.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
            key.map(str::to_owned)
                .ok_or_else(|| wrong("Idempotency-Key", "allowed are 1 to 255 printable characters"))
        });
        let once = once.transpose()?;
        let who = admitted.who();
        let keep = self.0.settings.queue.keep.get();
        let partition = match &once {
            None => self.0.work.partition().await?,
            Some(key) => {
                let lives = deadline.map_or(SOON, |deadline| deadline.saturating_sub(now)) + keep;
                let partition = self.0.work.partition_of(&who.tenant, key, &errand.model, lives).await?;
                match self.0.work.owner(partition).await {
                    Owner::Me => partition,
                    Owner::Other(door) if !head.headers.contains_key(FORWARDED) => {
                        return self.forward(&door, head, body.clone(), Duration::ZERO).await;
                    }
                    Owner::Other(_) | Owner::Nobody => {
                        return Err(ApiError::NoQueue {
                            message: "The queue that has seen this Idempotency-Key has no replica at the moment; it is \
                                      taken over, or comes back."
                                .to_owned(),
                            retry_after: 2,
                        });
                    }
                }
            }
        };
        let wanted = Wanted {
            queue: QUEUE.to_owned(),
            errand,
            // Nobody's jobs are more urgent than its requests.
            class: new.priority.unwrap_or(Priority::Job).class().max(who.class),
            not_before: at,
            deadline,
            once,
            keep,
        };
        let ids = self.0.work.submit_to(partition, &who.tenant, vec![wanted]).await?;
        let id = ids.first().copied().ok_or_else(|| ApiError::Internal("no job was made".to_owned()))?;
        // A job that nobody was told of at its end was never acknowledged.
        self.0.webhooks.of_job(admitted.tenant(), id).await.map_err(crate::files::Error::from)?;
        Ok(said(StatusCode::ACCEPTED, &job(&self.0.work.show(id).await?)))
    }

    /// Sends a question on to the replica that can answer it.
    async fn forward(
        &self,
        door: &str,
        head: http::request::Parts,
        body: Bytes,
        wait: Duration,
    ) -> Result<Response<Answer>, ApiError> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        for name in ["authorization", "x-api-key", "idempotency-key", "content-type"] {
            if let Some(value) = head.headers.get(name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        request.headers_mut().insert(FORWARDED, HeaderValue::from_static("1"));
        let patience = wait + Duration::from_secs(5);
        let away = |why: String| ApiError::NoQueue {
            message: format!("The replica that has this job does not answer: {why}."),
            retry_after: 2,
        };
        let (head, body) =
            crate::http::send(door, request, 64 << 20, patience).await.map_err(away)?.into_parts();
        let mut ours = answer(head.status, body);
        for name in ["content-type", "retry-after"] {
            if let Some(value) = head.headers.get(name) {
                ours.headers_mut().insert(http::HeaderName::from_static(name), value.clone());
            }
        }
        Ok(ours)
    }

    /// Whether anybody serves this model, or may turn out to.
    pub(super) fn must_serve(&self, model: &str) -> Result<(), ApiError> {
        if self.fleet().serves(model) || self.fleet().is_new().is_some() {
            return Ok(());
        }
        Err(ApiError::UnknownModel(model.to_owned()))
    }
}

/// A job as clients see it.
fn job(shown: &Explained) -> Value {
    let Known { id, target, stage, outcome, came, at, deadline, attempt, payload, result, .. } = &shown.entry;
    let result = ErrandResult::decode(result);
    let kept = result.as_ref().and_then(|result| result.of.clone());
    let errand = Errand::decode(payload).ok().or(kept);
    let note = errand.as_ref().and_then(|errand| errand.note.as_deref());
    let note: Option<Note> = note.and_then(|note| serde_json::from_str(note.get()).ok());
    let (result, error) = match result {
        Some(result) => {
            let error = result.error.clone();
            let whole = result.status_code.map(
                |status| json!({"status_code": status, "request_id": result.request_id, "body": result.body}),
            );
            (whole, error)
        }
        None => (None, None),
    };
    let seconds = |time: queue::name::Millis| time.0 as f64 / 1e3;
    json!({
        "id": format!("job_{id}"),
        "object": "job",
        "status": status(*stage, *outcome),
        "endpoint": errand.as_ref().map(|errand| errand.path.clone()),
        "model": errand.as_ref().map_or_else(|| target.to_string(), |errand| errand.model.clone()),
        "created_at": seconds(*came),
        "not_before": seconds(*at),
        "start_before": deadline.map(seconds),
        "attempts": attempt,
        "metadata": note.and_then(|note| note.metadata),
        "waits_for": shown.why.map(crate::work::why_in_words),
        "result": result,
        "error": error,
    })
}

fn status(stage: Stage, outcome: Option<Outcome>) -> &'static str {
    match (stage, outcome) {
        (_, Some(Outcome::Done)) => "succeeded",
        (_, Some(Outcome::Failed)) => "failed",
        (_, Some(Outcome::Cancelled)) => "cancelled",
        (_, Some(Outcome::Expired)) => "expired",
        (Stage::Scheduled, _) => "scheduled",
        (Stage::Running, _) => "running",
        (Stage::Suspended | Stage::Paused, _) => "paused",
        (Stage::Inbox | Stage::Finished, _) => "queued",
    }
}

fn deleted(id: &str) -> Value {
    json!({"id": id, "object": "job.deleted", "deleted": true})
}

fn said(status: StatusCode, value: &Value) -> Response<Answer> {
    answer(status, serde_json::to_vec(value).unwrap_or_default().into())
}

fn wrong(param: &str, why: &str) -> ApiError {
    ApiError::Invalid { message: format!("{param}: {why}."), param: Some(param.to_owned()) }
}

fn time_of(seconds: f64, now: Duration) -> Result<Duration, ApiError> {
    let at = Duration::try_from_secs_f64(seconds)
        .map_err(|_| wrong("not_before", &format!("found {seconds}; allowed are seconds since 1970")))?;
    soon("not_before", at.saturating_sub(now)).map(|_| at)
}

/// So far from now that it makes sense.
fn soon(param: &str, time: Duration) -> Result<Duration, ApiError> {
    if time > SOON {
        let years = SOON.as_secs() / (365 * 24 * 3_600);
        return Err(wrong(param, &format!("allowed is up to {years} years from now")));
    }
    Ok(time)
}

pub(super) fn check_metadata(metadata: Option<&BTreeMap<String, String>>) -> Result<(), ApiError> {
    let (pairs, key, value) = MAX_METADATA;
    let sane = |metadata: &&BTreeMap<String, String>| {
        metadata.len() <= pairs
            && metadata.iter().all(|(name, text)| name.len() <= key && text.len() <= value)
    };
    if metadata.as_ref().is_none_or(sane) {
        return Ok(());
    }
    Err(wrong(
        "metadata",
        &format!("allowed are {pairs} pairs, keys up to {key} and values up to {value} bytes"),
    ))
}

/// `?wait=30s`.
fn wait_of(query: Option<&str>) -> Result<Duration, ApiError> {
    let given = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("wait="));
    let Some(given) = given else { return Ok(Duration::ZERO) };
    let span: Result<Span, _> = serde_json::from_value(Value::String(given.to_owned()));
    let wait =
        span.map_err(|_| wrong("wait", &format!("found {given:?}; allowed is a time such as 30s")))?.get();
    if wait > LONGEST_WAIT {
        return Err(wrong(
            "wait",
            &format!("found {given:?}; allowed is up to {} s", LONGEST_WAIT.as_secs()),
        ));
    }
    Ok(wait)
}
