//! A load over HTTP, measured as a client sees it: users who talk, wait for the answer, think, and go on.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::talk::Conversation;

/// What a load is sent to, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of the API.
    pub authority: String,
    /// The model.
    pub model: String,
    /// Tokens of each answer.
    pub answer_tokens: usize,
    /// The mean pause before a turn.
    pub pause: Duration,
}

/// One request as its client saw it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Until the first piece of the answer's text.
    pub ttft: Duration,
    /// Until its end.
    pub total: Duration,
    /// Prompt tokens.
    pub prompt: u64,
    /// Of these, found in the engine's cache.
    pub cached: u64,
    /// The engine that answered, if the gateway said so.
    pub engine: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// The samples of a load that is under way.
pub type Samples = Arc<Mutex<Vec<Sample>>>;

/// Plays all conversations, each on a connection of its own; samples are added as they come.
pub async fn play(settings: Settings, conversations: Vec<Conversation>, samples: Samples) {
    let mut users = JoinSet::new();
    for conversation in conversations {
        users.spawn(user(settings.clone(), conversation, samples.clone()));
    }
    while users.join_next().await.is_some() {}
}

async fn user(settings: Settings, conversation: Conversation, samples: Samples) {
    let mut messages = vec![json!({"role": "system", "content": conversation.system})];
    for (turn, pause) in conversation.turns.iter().zip(&conversation.pauses) {
        tokio::time::sleep(settings.pause.mul_f64(*pause)).await;
        messages.push(json!({"role": "user", "content": turn}));
        let (sample, answer) = ask(&settings, &messages).await;
        let failed = sample.error.is_some();
        samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sample);
        if failed {
            return;
        }
        messages.push(json!({"role": "assistant", "content": answer}));
    }
}

/// One streamed request; the answer's text goes into the next turn.
async fn ask(settings: &Settings, messages: &[Value]) -> (Sample, String) {
    let start = clock();
    let mut sample = Sample {
        ttft: Duration::ZERO,
        total: Duration::ZERO,
        prompt: 0,
        cached: 0,
        engine: String::new(),
        error: None,
    };
    let mut answer = String::new();
    if let Err(error) = exchange(settings, messages, start, &mut sample, &mut answer).await {
        sample.error = Some(error);
    }
    sample.total = start.elapsed();
    (sample, answer)
}

async fn exchange(
    settings: &Settings,
    messages: &[Value],
    start: Instant,
    sample: &mut Sample,
    answer: &mut String,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(&settings.authority).await.map_err(|error| text(&error))?;
    // A socket that refuses the option still works, only later.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let driver = tokio::spawn(connection);
    let body = json!({
        "model": settings.model, "messages": messages, "max_tokens": settings.answer_tokens, "stream": true,
        "stream_options": {"include_usage": true},
    });
    let request = Request::post("/v1/chat/completions")
        .header(header::HOST, &settings.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|error| text(&error))?;
    let mut response = sender.send_request(request).await.map_err(|error| text(&error))?;
    let route =
        response.headers().get("x-warmline-route").and_then(|route| route.to_str().ok()).unwrap_or_default();
    let engine = route.split(';').next().and_then(|part| part.strip_prefix("engine="));
    engine.unwrap_or_default().clone_into(&mut sample.engine);
    let good = response.status().is_success();
    let mut held = Vec::new();
    let mut done = false;
    while let Some(frame) = response.frame().await {
        let frame = frame.map_err(|error| text(&error))?;
        let Ok(bytes) = frame.into_data() else { continue };
        held.extend_from_slice(&bytes);
        while let Some(end) = held.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = held.drain(..end + 2).collect();
            done |= take(&event, start, sample, answer)?;
        }
    }
    driver.abort();
    match (good, done) {
        (false, _) => Err(String::from_utf8_lossy(&held).into_owned()),
        (true, false) => Err("the stream ended without [DONE]".to_owned()),
        (true, true) => Ok(()),
    }
}

/// Takes one event; whether it was the last.
fn take(event: &[u8], start: Instant, sample: &mut Sample, answer: &mut String) -> Result<bool, String> {
    let Some(data) = event.strip_prefix(b"data: ") else { return Ok(false) };
    if data.trim_ascii() == b"[DONE]" {
        return Ok(true);
    }
    let data: Value = serde_json::from_slice(data).map_err(|error| error.to_string())?;
    if let Some(error) = data.get("error") {
        return Err(error.to_string());
    }
    if let Some(text) = data["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
        if answer.is_empty() {
            sample.ttft = start.elapsed();
        }
        answer.push_str(text);
    }
    if let Some(prompt) = data["usage"]["prompt_tokens"].as_u64() {
        sample.prompt = prompt;
        sample.cached = data["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
    }
    Ok(false)
}

#[expect(clippy::disallowed_methods, reason = "a load measures in real time")]
fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Faults, serve};
    use crate::talk;

    async fn samples(faults: Faults) -> Vec<Sample> {
        let fast =
            crate::http::Settings { speed: 200.0, events: None, replay: None, faults, ..Default::default() };
        let engine = serve(fast).await.unwrap();
        let load = talk::Settings { users: 1, turns: 4, ..talk::Settings::default() };
        let authority = engine.address().to_string();
        let settings =
            Settings { authority, model: "sim".to_owned(), answer_tokens: 50, pause: Duration::ZERO };
        let samples = Samples::default();
        play(settings, talk::conversations(&load), samples.clone()).await;
        std::mem::take(&mut *samples.lock().unwrap())
    }

    #[tokio::test]
    async fn all_that_was_said_is_cached_except_for_the_last_word_which_was_never_read_back() {
        let samples = samples(Faults::default()).await;
        let cached: Vec<u64> = samples.iter().map(|sample| sample.cached).collect();
        let known = |sample: &Sample| (sample.prompt + 50 - 1) / 16 * 16;
        let expected: Vec<u64> = std::iter::once(0).chain(samples[..3].iter().map(known)).collect();
        assert_eq!(cached, expected);
        assert!(samples.iter().all(|sample| sample.ttft > Duration::ZERO && sample.ttft <= sample.total));
    }

    #[tokio::test]
    async fn a_conversation_ends_with_the_answer_that_broke_off_or_was_refused() {
        let broken = Faults { die_after: Some(3), ..Faults::default() };
        let refused = Faults { status: Some(503), ..Faults::default() };
        for faults in [broken, refused] {
            let samples = samples(faults.clone()).await;
            assert_eq!(samples.len(), 1, "{faults:?}");
            assert!(samples[0].error.is_some(), "{faults:?}");
        }
    }
}
