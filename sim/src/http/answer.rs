//! What leaves a simulated engine: plain answers, and streams that say a token at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use serde_json::{Value, json};

use super::actor::{Tick, Ticks};
use crate::model;

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Which API an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Chat,
    Completion,
    Responses,
    Messages,
}

/// All that is known of an answer before it is given.
pub(super) struct Plan {
    pub(super) form: Form,
    pub(super) id: String,
    pub(super) model: String,
    pub(super) created: u64,
    pub(super) prompt: usize,
    pub(super) output: Arc<[u32]>,
    /// Whether the answer ended because it was as long as it may be.
    pub(super) cut: bool,
    pub(super) usage_in_stream: bool,
    pub(super) die_after: Option<usize>,
}

/// A body that says what its job says.
pub(super) struct Stream {
    plan: Plan,
    ticks: Ticks,
    said: usize,
    ended: bool,
}

pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    text(status, "application/json", value.to_string())
}

pub(super) fn text(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// An error in the words of vLLM.
pub(super) fn error(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": status.as_u16()}});
    json(status, &body)
}

// === impl Plan ===

impl Plan {
    fn text(&self, from: usize, to: usize) -> String {
        model::decode(&self.output[from..to])
    }

    fn finish(&self) -> &'static str {
        match (self.form, self.cut) {
            (Form::Messages, true) => "max_tokens",
            (Form::Messages, false) => "end_turn",
            (_, true) => "length",
            (_, false) => "stop",
        }
    }

    fn usage(&self, tick: &Tick) -> Value {
        let (prompt, output, cached) = (self.prompt, self.output.len(), tick.cached);
        let mut details = json!({"cached_tokens": cached});
        if tick.loaded > 0 {
            // Not a field of OpenAI's: what of the cached tokens came from behind the engine's own cache.
            details["loaded_tokens"] = json!(tick.loaded);
        }
        match self.form {
            Form::Chat | Form::Completion => json!({
                "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
                "prompt_tokens_details": details,
            }),
            Form::Responses => json!({
                "input_tokens": prompt, "output_tokens": output, "total_tokens": prompt + output,
                "input_tokens_details": details,
                "output_tokens_details": {"reasoning_tokens": 0},
            }),
            Form::Messages => json!({
                "input_tokens": prompt - cached, "output_tokens": output, "cache_read_input_tokens": cached,
            }),
        }
    }

    /// The whole answer.
    pub(super) fn whole(&self, tick: &Tick) -> Value {
        let (id, model, created, text) =
            (&self.id, &self.model, self.created, self.text(0, self.output.len()));
        let usage = self.usage(tick);
        match self.form {
            Form::Chat => json!({
                "id": id, "object": "chat.completion", "created": created, "model": model,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": null,
                             "finish_reason": self.finish()}],
                "usage": usage,
            }),
            Form::Completion => json!({
                "id": id, "object": "text_completion", "created": created, "model": model,
                "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": self.finish()}],
                "usage": usage,
            }),
            Form::Responses => json!({
                "id": id, "object": "response", "created_at": created, "model": model, "status": "completed",
                "output": [{"type": "message", "id": format!("{id}-0"), "role": "assistant", "status": "completed",
                            "content": [{"type": "output_text", "text": text, "annotations": []}]}],
                "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "usage": usage,
            }),
            Form::Messages => json!({
                "id": id, "type": "message", "role": "assistant", "model": model,
                "content": [{"type": "text", "text": text}], "stop_reason": self.finish(), "stop_sequence": null,
                "usage": usage,
            }),
        }
    }

    fn opening(&self, tick: &Tick) -> String {
        match self.form {
            Form::Chat => data(&self.chunk(&json!({"role": "assistant", "content": ""}), &Value::Null)),
            Form::Completion => String::new(),
            Form::Responses => {
                let response = json!({"id": self.id, "object": "response", "created_at": self.created,
                                      "model": self.model, "status": "in_progress", "output": []});
                event("response.created", &json!({"type": "response.created", "response": response}))
            }
            Form::Messages => {
                let message = json!({"id": self.id, "type": "message", "role": "assistant", "model": self.model,
                                     "content": [], "stop_reason": null, "stop_sequence": null,
                                     "usage": {"input_tokens": self.prompt - tick.cached, "output_tokens": 0,
                                               "cache_read_input_tokens": tick.cached}});
                let block = json!({"type": "content_block_start", "index": 0,
                                   "content_block": {"type": "text", "text": ""}});
                event("message_start", &json!({"type": "message_start", "message": message}))
                    + &event("content_block_start", &block)
            }
        }
    }

    fn delta(&self, text: &str) -> String {
        match self.form {
            Form::Chat => data(&self.chunk(&json!({"content": text}), &Value::Null)),
            Form::Completion => data(&json!({
                "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
                "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": null}],
            })),
            Form::Responses => event(
                "response.output_text.delta",
                &json!({"type": "response.output_text.delta", "item_id": format!("{}-0", self.id),
                        "output_index": 0, "content_index": 0, "delta": text}),
            ),
            Form::Messages => event(
                "content_block_delta",
                &json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}),
            ),
        }
    }

    fn closing(&self, tick: &Tick) -> String {
        let mut closing = match self.form {
            Form::Chat => data(&self.chunk(&json!({}), &json!(self.finish()))),
            Form::Completion => data(&json!({
                "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
                "choices": [{"index": 0, "text": "", "logprobs": null, "finish_reason": self.finish()}],
            })),
            Form::Responses => {
                let response = self.whole(tick);
                return event(
                    "response.completed",
                    &json!({"type": "response.completed", "response": response}),
                );
            }
            Form::Messages => {
                let delta = json!({"type": "message_delta", "usage": self.usage(tick),
                                   "delta": {"stop_reason": self.finish(), "stop_sequence": null}});
                return event("content_block_stop", &json!({"type": "content_block_stop", "index": 0}))
                    + &event("message_delta", &delta)
                    + &event("message_stop", &json!({"type": "message_stop"}));
            }
        };
        if self.usage_in_stream {
            let object = if self.form == Form::Chat { "chat.completion.chunk" } else { "text_completion" };
            closing += &data(&json!({
                "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": [],
                "usage": self.usage(tick),
            }));
        }
        closing + "data: [DONE]\n\n"
    }

    fn chunk(&self, delta: &Value, finish: &Value) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
        })
    }
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn event(name: &str, value: &Value) -> String {
    format!("event: {name}\ndata: {value}\n\n")
}

// === impl Stream ===

impl Stream {
    pub(super) fn new(plan: Plan, ticks: Ticks) -> Self {
        Self { plan, ticks, said: 0, ended: false }
    }
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(tick) = self.ticks.poll_next(context) else { return Poll::Pending };
        let broken = || Poll::Ready(Some(Err(std::io::Error::other("the engine died"))));
        let Some(tick) = tick else { return broken() };
        if self.plan.die_after.is_some_and(|tokens| tick.count > tokens) {
            return broken();
        }
        let mut text = if self.said == 0 { self.plan.opening(&tick) } else { String::new() };
        text += &self.plan.delta(&self.plan.text(self.said, tick.count));
        self.said = tick.count;
        if tick.done {
            text += &self.plan.closing(&tick);
            self.ended = true;
        }
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
