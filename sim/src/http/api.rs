//! The endpoints: requests are read as strictly as a real engine reads them, and turned into jobs.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blocks::{BlockSize, Hasher, PrefixHash, Seed};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::answer::{self, Body, Form, Plan, Stream};
use super::{Faults, Shared, unix};
use crate::engine::{Job, Text};
use crate::model;

/// Tokens of an answer whose request sets no limit.
const USUAL_OUTPUT: usize = 64;

/// What a request asked for, once it has been understood.
struct Asked {
    form: Form,
    prompt: Vec<u32>,
    output: Option<usize>,
    stream: bool,
    usage_in_stream: bool,
    model: String,
    lora: Option<String>,
    salt: Option<String>,
}

static JOBS: AtomicU64 = AtomicU64::new(1);

pub(super) async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let faults = shared.faults();
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    // Faults are about the work; probes and operators are answered, as by many an engine that is in trouble.
    let work = head.method == Method::POST && path.starts_with("/v1/");
    if work && faults.hang {
        std::future::pending::<Infallible>().await;
    }
    if let Some(status) = faults.status.filter(|_| work).and_then(|status| StatusCode::from_u16(status).ok())
    {
        return Ok(answer::error(status, "InternalServerError", "a simulated fault"));
    }
    let Ok(body) = body.collect().await else { return Err(std::io::Error::other("the client went away")) };
    let body = body.to_bytes();
    if faults.garbage && work {
        return Ok(answer::text(
            StatusCode::OK,
            "text/html",
            "<html>this is not what you asked for".to_owned(),
        ));
    }
    Ok(match (&head.method, path) {
        (&Method::GET, "/health" | "/ping") => answer::text(StatusCode::OK, "text/plain", String::new()),
        (&Method::GET, "/v1/models") => models(&shared),
        (&Method::GET, "/metrics") => metrics(&shared),
        (&Method::GET, "/kv_event_sources") => sources(&shared),
        (&Method::POST, "/reset_prefix_cache") => {
            answer::json(StatusCode::OK, &json!({"success": shared.actor.reset().await}))
        }
        (&Method::POST, "/sim/faults") => set_faults(&shared, &body),
        (&Method::POST, "/tokenize") => tokenize(&shared, &faults, &body),
        (&Method::POST, "/v1/embeddings") => embeddings(&shared, &body),
        (&Method::POST, "/v1/chat/completions") => complete(shared, &faults, &body, Form::Chat).await?,
        (&Method::POST, "/v1/completions") => complete(shared, &faults, &body, Form::Completion).await?,
        (&Method::POST, "/v1/responses") => complete(shared, &faults, &body, Form::Responses).await?,
        (&Method::POST, "/v1/messages") => complete(shared, &faults, &body, Form::Messages).await?,
        (_, "/v1/models" | "/v1/chat/completions" | "/v1/completions" | "/v1/responses" | "/v1/messages") => {
            answer::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed", "Method Not Allowed")
        }
        _ => answer::error(StatusCode::NOT_FOUND, "Not Found", "Not Found"),
    })
}

fn refuse(why: &str) -> Response<Body> {
    answer::error(StatusCode::BAD_REQUEST, "BadRequestError", why)
}

async fn complete(
    shared: Arc<Shared>,
    faults: &Faults,
    body: &[u8],
    form: Form,
) -> Result<Response<Body>, std::io::Error> {
    let asked = match read(&shared, faults, body, form) {
        Ok(asked) => asked,
        Err(refused) => return Ok(*refused),
    };
    let max = shared.settings.max_model_len;
    if asked.prompt.is_empty() || asked.prompt.len() >= max {
        let why = format!("the prompt has {} tokens; allowed is 1 to {}", asked.prompt.len(), max - 1);
        return Ok(refuse(&why));
    }
    let output = asked.output.unwrap_or(USUAL_OUTPUT).min(max - asked.prompt.len());
    let stream = asked.stream;
    let (plan, job) = plan(&shared, faults, asked, output);
    let mut ticks = shared.actor.submit(job);
    if stream {
        let mut response = Response::new(Stream::new(plan, ticks).boxed_unsync());
        let kind = http::HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        return Ok(response);
    }
    while let Some(tick) = ticks.next().await {
        if faults.die_after.is_some_and(|tokens| tick.count > tokens) {
            break;
        }
        if tick.done {
            return Ok(answer::json(StatusCode::OK, &plan.whole(&tick)));
        }
    }
    Err(std::io::Error::other("the engine died"))
}

/// Reads a request, or says what is wrong with it.
fn read(shared: &Shared, faults: &Faults, body: &[u8], form: Form) -> Result<Asked, Box<Response<Body>>> {
    let bad = |why: &str| Box::new(refuse(why));
    let body: Value = serde_json::from_slice(body).map_err(|error| bad(&format!("invalid JSON: {error}")))?;
    if !body.is_object() {
        return Err(bad("the body should be a JSON object"));
    }
    let (model, lora) = model_of(shared, &body)?;
    let prompt = match form {
        Form::Completion => prompt(&body["prompt"]).map_err(|why| bad(&why))?,
        Form::Chat | Form::Messages => {
            let open = boolean(&body, "add_generation_prompt").map_err(|why| bad(&why))?.unwrap_or(true);
            let rendered = model::render(&system(form, &body), open).map_err(|why| bad(&why))?;
            model::encode(&format!("{}{rendered}", faults.template_prefix))
        }
        Form::Responses => {
            let messages = match &body["input"] {
                Value::String(text) => json!([{"role": "user", "content": text}]),
                other => other.clone(),
            };
            model::encode(&model::render(&messages, true).map_err(|why| bad(&why))?)
        }
    };
    let limits = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
    let mut output = None;
    for limit in limits {
        output = output.or(count(&body, limit).map_err(|why| bad(&why))?);
    }
    let stream = boolean(&body, "stream").map_err(|why| bad(&why))?.unwrap_or(false);
    let usage_in_stream = body["stream_options"]["include_usage"].as_bool().unwrap_or(false);
    if !body["stream_options"].is_null() && !stream {
        return Err(bad("Stream options can only be defined when `stream=True`."));
    }
    let salt = match &body["cache_salt"] {
        Value::Null => None,
        Value::String(salt) if !salt.is_empty() => Some(salt.clone()),
        _ => return Err(bad("cache_salt: Input should be a non-empty string")),
    };
    Ok(Asked { form, prompt, output, stream, usage_in_stream, model, lora, salt })
}

/// Anthropic's system prompt stands beside the messages.
fn system(form: Form, body: &Value) -> Value {
    let mut messages = body["messages"].clone();
    if let (Form::Messages, system @ (Value::String(_) | Value::Array(_)), Value::Array(all)) =
        (form, &body["system"], &mut messages)
    {
        all.insert(0, json!({"role": "system", "content": system}));
    }
    messages
}

fn model_of(shared: &Shared, body: &Value) -> Result<(String, Option<String>), Box<Response<Body>>> {
    let unknown = |name: &str| {
        let why = format!("The model `{name}` does not exist.");
        Box::new(answer::error(StatusCode::NOT_FOUND, "NotFoundError", &why))
    };
    match &body["model"] {
        Value::Null => Ok((shared.settings.model.clone(), None)),
        Value::String(name) if *name == shared.settings.model => Ok((name.clone(), None)),
        Value::String(name) if shared.settings.loras.contains(name) => Ok((name.clone(), Some(name.clone()))),
        Value::String(name) => Err(unknown(name)),
        _ => Err(Box::new(refuse("model: Input should be a valid string"))),
    }
}

fn boolean(body: &Value, key: &str) -> Result<Option<bool>, String> {
    match &body[key] {
        Value::Null => Ok(None),
        Value::Bool(value) => Ok(Some(*value)),
        _ => Err(format!("{key}: Input should be a valid boolean")),
    }
}

fn count(body: &Value, key: &str) -> Result<Option<usize>, String> {
    match &body[key] {
        Value::Null => Ok(None),
        value => match value.as_u64() {
            Some(count) if count > 0 => Ok(Some(count as usize)),
            _ => Err(format!("{key}: Input should be greater than or equal to 1")),
        },
    }
}

/// Text, token ids, or a list of either with one element: this engine answers one prompt a request.
fn prompt(prompt: &Value) -> Result<Vec<u32>, String> {
    let ids = |list: &Vec<Value>| -> Option<Vec<u32>> {
        list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    match prompt {
        Value::String(text) => Ok(model::encode(text)),
        Value::Array(list) if list.first().is_some_and(Value::is_u64) => {
            ids(list).ok_or_else(|| "prompt: every token id should be an integer of 32 bits".to_owned())
        }
        Value::Array(list) if list.len() == 1 && !list[0].is_number() => self::prompt(&list[0]),
        Value::Array(list) if list.len() > 1 => {
            Err("prompt: this engine takes one prompt a request".to_owned())
        }
        _ => Err("prompt: Input should be a string or a list of token ids".to_owned()),
    }
}

fn plan(shared: &Shared, faults: &Faults, asked: Asked, output: usize) -> (Plan, Job) {
    let number = JOBS.fetch_add(1, Ordering::Relaxed);
    let answer = model::answer(&asked.prompt, output);
    let (prompt, mut tokens) = (asked.prompt.len(), asked.prompt);
    tokens.extend_from_slice(&answer);
    let size = BlockSize::new(shared.settings.shape.block_size as u32);
    let size = size.unwrap_or_else(|| unreachable!("checked when the engine was set up"));
    let seed = Seed::of(asked.lora.as_deref(), asked.salt.as_deref());
    let tokens_hashes = Hasher::new(size, seed).tokens_hashes(&tokens);
    let prefix_hashes = PrefixHash::chain(&tokens_hashes);
    shared.actor.gauges.prompt_tokens.fetch_add(prompt, Ordering::Relaxed);
    let text = Text { tokens_hashes, prefix_hashes, tokens, lora: asked.lora, salt: asked.salt };
    let job = Job { id: number, prompt, output, text: Arc::new(text) };
    let prefix = match asked.form {
        Form::Chat => "chatcmpl",
        Form::Completion => "cmpl",
        Form::Responses => "resp",
        Form::Messages => "msg",
    };
    let plan = Plan {
        form: asked.form,
        id: format!("{prefix}-{number:08x}"),
        model: asked.model,
        created: unix().as_secs(),
        prompt,
        cut: asked.output.is_some(),
        output: answer.into(),
        usage_in_stream: asked.usage_in_stream,
        die_after: faults.die_after,
    };
    (plan, job)
}

// === Smaller endpoints ===

fn models(shared: &Shared) -> Response<Body> {
    let one = |id: &String| {
        json!({"id": id, "object": "model", "created": shared.started.as_secs(), "owned_by": "warmline-sim",
               "root": shared.settings.model, "max_model_len": shared.settings.max_model_len})
    };
    let all: Vec<Value> =
        std::iter::once(&shared.settings.model).chain(&shared.settings.loras).map(one).collect();
    answer::json(StatusCode::OK, &json!({"object": "list", "data": all}))
}

fn tokenize(shared: &Shared, faults: &Faults, body: &Bytes) -> Response<Body> {
    let form = match serde_json::from_slice::<Value>(body) {
        Ok(body) if body["messages"].is_array() => Form::Chat,
        _ => Form::Completion,
    };
    match read(shared, faults, body, form) {
        Ok(asked) => {
            let max = shared.settings.max_model_len;
            let body = json!({"count": asked.prompt.len(), "max_model_len": max, "tokens": asked.prompt, "token_strs": null});
            answer::json(StatusCode::OK, &body)
        }
        Err(refused) => *refused,
    }
}

fn embeddings(shared: &Shared, body: &[u8]) -> Response<Body> {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return refuse("invalid JSON") };
    let model = match model_of(shared, &body) {
        Ok((model, _)) => model,
        Err(refused) => return *refused,
    };
    let inputs = match &body["input"] {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => return refuse("input: Input should be a string or a list of strings"),
    };
    let tokens: usize = inputs.iter().map(|text| model::encode(text).len()).sum();
    let one = |(i, text): (usize, &String)| {
        let mut random = crate::random::Random::new(xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
        let vector: Vec<f64> = (0..16).map(|_| random.fraction() * 2.0 - 1.0).collect();
        json!({"object": "embedding", "index": i, "embedding": vector})
    };
    let data: Vec<Value> = inputs.iter().enumerate().map(one).collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    answer::json(StatusCode::OK, &json!({"object": "list", "model": model, "data": data, "usage": usage}))
}

fn sources(shared: &Shared) -> Response<Body> {
    let Some(events) = &shared.events else {
        return answer::json(StatusCode::OK, &json!({"0": {"enable_kv_cache_events": false}}));
    };
    let source = json!({
        "enable_kv_cache_events": true, "publisher": "zmq", "endpoint": events, "replay_endpoint": shared.replay,
        "buffer_steps": shared.settings.buffer_steps, "topic": shared.settings.topic,
    });
    answer::json(StatusCode::OK, &json!({"0": source}))
}

fn set_faults(shared: &Shared, body: &[u8]) -> Response<Body> {
    match serde_json::from_slice::<Faults>(body) {
        Ok(faults) => {
            shared.actor.gauges.drop_events.store(faults.drop_events, Ordering::Relaxed);
            *shared.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = faults.clone();
            answer::json(StatusCode::OK, &json!(faults))
        }
        Err(error) => refuse(&format!("faults: {error}")),
    }
}

fn metrics(shared: &Shared) -> Response<Body> {
    use std::fmt::Write as _;
    let gauges = &shared.actor.gauges;
    let get = |gauge: &std::sync::atomic::AtomicUsize| gauge.load(Ordering::Relaxed) as f64;
    let label = format!("{{engine=\"0\",model_name=\"{}\"}}", shared.settings.model);
    let usage = get(&gauges.used_blocks) / shared.settings.shape.blocks as f64;
    let rows = [
        ("vllm:num_requests_running", "gauge", get(&gauges.running)),
        ("vllm:num_requests_waiting", "gauge", get(&gauges.waiting)),
        ("vllm:kv_cache_usage_perc", "gauge", usage),
        ("vllm:request_success_total", "counter", get(&gauges.finished)),
        ("vllm:request_aborted_total", "counter", get(&gauges.aborted)),
        ("vllm:prompt_tokens_total", "counter", get(&gauges.prompt_tokens)),
        ("vllm:prefix_cache_hits_total", "counter", get(&gauges.cached_tokens)),
        ("vllm:external_prefix_cache_hits_total", "counter", get(&gauges.behind.loaded_tokens)),
        ("sim:loads", "gauge", get(&gauges.loading)),
        ("sim:loads_given_up_total", "counter", get(&gauges.behind.stopped)),
        ("sim:loads_failed_total", "counter", get(&gauges.behind.failed)),
        ("sim:loads_with_wrong_bytes_total", "counter", get(&gauges.behind.wrong)),
        ("sim:blocks_offloaded_total", "counter", get(&gauges.behind.stored)),
        ("sim:blocks_known_total", "counter", get(&gauges.behind.known)),
        ("sim:blocks_refused_total", "counter", get(&gauges.behind.refused)),
    ];
    let mut text = String::new();
    for (name, kind, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# TYPE {name} {kind}\n{name}{label} {value}");
    }
    let started = shared.started.as_secs_f64();
    let _ = writeln!(text, "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {started}");
    answer::text(StatusCode::OK, "text/plain; version=0.0.4", text)
}
