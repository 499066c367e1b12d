//! A chat request as the engine hands it to the template: rebuilt field by field, the way vLLM does it.
//!
//! What a template never gets to see on the engine it must not see here, and what engines treat differently from
//! one another is refused rather than guessed.

use std::borrow::Cow;

use minijinja::Value;
use minijinja::value::ValueKind;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::template::Template;
use super::{CannotTokenise, python, weigh};
use crate::prompt::Chat;

/// Stands at the end of the message to be continued while the template runs; what comes after it is cut off.
const CONTINUE: &str = "warmline-continues-here ";

/// Arguments that `chat_template_kwargs` may not carry: they are the request's own, or change how, not what.
const RESERVED: [&str; 13] = [
    "messages",
    "conversation",
    "tools",
    "documents",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
];

/// The text that the engine would tokenise for this chat.
///
/// # Errors
/// When the engine would refuse it, or when it holds what is not text.
pub(super) fn render(chat: &Chat<'_>, template: &Template) -> Result<String, CannotTokenise> {
    if chat.add_generation_prompt && chat.continue_final_message {
        return Err(cannot("`add_generation_prompt` and `continue_final_message` exclude each other"));
    }
    let messages: Vec<Message<'_>> = parsed("messages", chat.messages)?;
    let last = messages.len().checked_sub(1).ok_or_else(|| cannot("`messages` is empty"))?;
    let mut unfinished = None;
    let messages = messages.into_iter().enumerate().map(|(i, message)| {
        let continued = (chat.continue_final_message && i == last).then_some(&mut unfinished);
        message.into_value(template.takes_parts, continued)
    });
    let messages: Vec<Value> = messages.collect::<Result<_, _>>()?;

    let tools = match chat.tools {
        Some(raw) => optional::<Vec<Value>>("tools", raw)?
            .map(|tools| tools.iter().map(tool).collect::<Result<Vec<_>, _>>())
            .transpose()?
            .into(),
        None => Value::from(()),
    };
    let mut others = vec![
        ("documents".to_owned(), chat.documents.map_or(Ok(().into()), documents)?),
        ("add_generation_prompt".to_owned(), chat.add_generation_prompt.into()),
    ];
    others.extend(arguments(chat)?);
    let text = template.render(messages.into(), tools, others);
    let text =
        text.map_err(|e| CannotTokenise(format!("the chat template refused the conversation: {e}")))?;
    match unfinished {
        Some(said) => cut_after(text, &said),
        None => Ok(text),
    }
}

/// What engines read of a message; they drop everything else.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    reasoning: Value,
    #[serde(default)]
    reasoning_content: Value,
    #[serde(default)]
    tool_calls: Value,
    tool_call_id: Option<Value>,
    #[serde(default)]
    name: Value,
    #[serde(default)]
    task: Value,
    #[serde(default)]
    tools: Value,
}

impl Message<'_> {
    fn into_value(
        self,
        parts: bool,
        continued: Option<&mut Option<String>>,
    ) -> Result<Value, CannotTokenise> {
        let mut texts = texts(&self.content)?;
        if let Some(said) = continued {
            let text =
                texts.last_mut().ok_or_else(|| cannot("the last message has no content to continue"))?;
            *said = Some(text.as_str().unwrap_or_default().to_owned());
            *text = format!("{text}{CONTINUE}").into();
        }
        let content = if parts && self.role != "tool" {
            let wrap = |text| Value::from_pairs([("type", Value::from("text")), ("text", text)]);
            texts.into_iter().map(wrap).collect()
        } else {
            joined(texts, parts)
        };
        let mut fields = vec![("role", Value::from(&self.role)), ("content", content)];
        if self.role == "assistant" {
            if let Some(calls) = tool_calls(&self.tool_calls)? {
                fields.push(("tool_calls", calls));
            }
            let reasoning = if is_set(&self.reasoning) { self.reasoning } else { self.reasoning_content };
            if is_set(&reasoning) {
                fields.extend([("reasoning", reasoning.clone()), ("reasoning_content", reasoning)]);
            }
        }
        if let Some(id) = self.tool_call_id.filter(|_| self.role == "tool") {
            fields.push(("tool_call_id", id));
        }
        fields.extend(
            [("name", self.name), ("task", self.task)].into_iter().filter(|(_, v)| v.as_str().is_some()),
        );
        if self.role == "developer" {
            fields.push(("tools", if is_set(&self.tools) { self.tools } else { ().into() }));
        }
        Ok(Value::from_pairs(fields))
    }
}

/// The pieces of text of a content, which is a string, a list of parts, or nothing.
fn texts(content: &Value) -> Result<Vec<Value>, CannotTokenise> {
    match content.kind() {
        ValueKind::None | ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::String => Ok(vec![content.clone()]),
        ValueKind::Seq => {
            content.try_iter().map_err(jinja)?.filter_map(|part| text_of(&part).transpose()).collect()
        }
        other => Err(CannotTokenise(format!("a message's content is a {other}, not text or parts"))),
    }
}

fn text_of(part: &Value) -> Result<Option<Value>, CannotTokenise> {
    if part.kind() == ValueKind::String {
        return Ok(Some(part.clone()));
    }
    let field =
        |name| if part.kind() == ValueKind::Map { part.get_attr(name).map_err(jinja) } else { Ok(().into()) };
    let kind = field("type")?;
    let text = match kind.as_str() {
        _ if is_set(&field("uuid")?) => return Err(cannot("a part of a content is media")),
        Some("text" | "input_text" | "output_text") => field("text")?,
        Some("refusal") => field("refusal")?,
        Some("thinking") => field("thinking")?,
        Some(other) => {
            return Err(CannotTokenise(format!("a part of a content is of type `{other}`, not text")));
        }
        None => return Err(cannot("a part of a content has no type")),
    };
    match text.kind() {
        ValueKind::String => Ok(Some(text)),
        _ if !is_set(&text) && matches!(kind.as_str(), Some("text" | "refusal")) => Ok(None),
        _ => Err(cannot("a part of a content has no text")),
    }
}

/// Texts of one message as one string. Where texts stay apart for the template empty ones count, else they do not.
fn joined(mut texts: Vec<Value>, keep_empty: bool) -> Value {
    if texts.len() == 1 {
        return texts.remove(0);
    }
    let texts = texts.iter().filter_map(Value::as_str).filter(|text| keep_empty || !text.is_empty());
    texts.collect::<Vec<_>>().join("\n").into()
}

/// Tool calls, each with its declared fields first and in their order, and with its arguments as an object: engines
/// pass calls through a schema and parse the strings that clients send.
fn tool_calls(calls: &Value) -> Result<Option<Value>, CannotTokenise> {
    if !is_set(calls) {
        return Ok(None);
    }
    if calls.kind() != ValueKind::Seq {
        return Err(cannot("`tool_calls` is not a list"));
    }
    let calls: Vec<Value> =
        calls.try_iter().map_err(jinja)?.map(|call| tool_call(&call)).collect::<Result<_, _>>()?;
    Ok((!calls.is_empty()).then(|| calls.into()))
}

fn tool_call(call: &Value) -> Result<Value, CannotTokenise> {
    let mut call = ordered(call, "a tool call", &["id", "function", "type"])?;
    let mut function = ordered(&call[1].1, "a tool call's function", &["arguments", "name"])?;
    let arguments = &mut function[0].1;
    *arguments = match arguments.kind() {
        ValueKind::String => arguments_of(arguments.as_str().unwrap_or_default())?,
        ValueKind::Map | ValueKind::Seq => arguments.clone(),
        _ => empty_map(),
    };
    call[1].1 = present(function);
    Ok(present(call))
}

fn arguments_of(json: &str) -> Result<Value, CannotTokenise> {
    /// What Python's parser takes and ours does not: two words, half a surrogate pair, endless numbers; and limits.
    const DISPUTED: [&str; 2] = ["NaN", "Infinity"];
    const LIMITS: [&str; 4] = ["hex escape", "out of range", "recursion limit", "more than"];
    let error = match weigh::fits(json).and_then(|()| serde_json::from_str(json)) {
        Ok(value) => return Ok(value),
        Err(error) => error.to_string(),
    };
    if DISPUTED.iter().any(|word| json.contains(word)) || LIMITS.iter().any(|limit| error.contains(limit)) {
        return Err(cannot("a tool call's arguments are JSON to some parsers only"));
    }
    Ok(empty_map())
}

/// A tool with its declared fields first and in their order, absent ones null: engines pass it through a schema.
fn tool(tool: &Value) -> Result<Value, CannotTokenise> {
    let mut outer = ordered(tool, "a tool", &["type", "function"])?;
    if !is_set(&outer[0].1) {
        outer[0].1 = "function".into();
    }
    let mut function = ordered(&outer[1].1, "a tool's function", &["name", "description", "parameters"])?;
    let [name, description, parameters] = [0, 1, 2].map(|i| function[i].1.kind());
    let fits = outer[0].1.as_str() == Some("function")
        && name == ValueKind::String
        && matches!(description, ValueKind::String | ValueKind::None | ValueKind::Undefined)
        && matches!(parameters, ValueKind::Map | ValueKind::None | ValueKind::Undefined);
    if !fits {
        return Err(cannot(
            "a tool is not a function with a name, a description and an object of parameters",
        ));
    }
    for (_, value) in &mut function[1..3] {
        if !is_set(value) {
            *value = ().into();
        }
    }
    outer[1].1 = Value::from_pairs(function);
    Ok(Value::from_pairs(outer))
}

/// The fields of a map: the declared ones first (undefined if absent), then the rest as they came.
fn ordered(map: &Value, what: &str, declared: &[&str]) -> Result<Vec<(Value, Value)>, CannotTokenise> {
    let given = fields(map, what)?;
    let mut out = Vec::with_capacity(given.len() + declared.len());
    for name in declared {
        let value = given.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value.clone());
        out.push((Value::from(*name), value.unwrap_or_default()));
    }
    out.extend(given.into_iter().filter(|(key, _)| key.as_str().is_none_or(|key| !declared.contains(&key))));
    Ok(out)
}

fn present(fields: Vec<(Value, Value)>) -> Value {
    Value::from_pairs(fields.into_iter().filter(|(_, value)| !value.is_undefined()))
}

fn fields(map: &Value, what: &str) -> Result<Vec<(Value, Value)>, CannotTokenise> {
    if map.kind() != ValueKind::Map {
        return Err(CannotTokenise(format!("{what} is not an object")));
    }
    let pair = |key: Value| map.get_item(&key).map(|value| (key, value));
    map.try_iter().and_then(|keys| keys.map(pair).collect()).map_err(jinja)
}

fn documents(raw: &RawValue) -> Result<Value, CannotTokenise> {
    let Some(documents) = optional::<Vec<Value>>("documents", raw)? else { return Ok(().into()) };
    if documents.iter().any(|document| document.kind() != ValueKind::Map) {
        return Err(cannot("a document is not an object"));
    }
    Ok(documents.into())
}

/// `chat_template_kwargs`, and what `reasoning_effort` adds to them.
fn arguments(chat: &Chat<'_>) -> Result<Vec<(String, Value)>, CannotTokenise> {
    const THINKS: &str = "enable_thinking";
    let mut named = Vec::new();
    let given = chat.kwargs.map(|raw| optional::<Value>("chat_template_kwargs", raw)).transpose()?.flatten();
    for (key, value) in given.map_or(Ok(Vec::new()), |given| fields(&given, "`chat_template_kwargs`"))? {
        let name = key.as_str().unwrap_or_default();
        if RESERVED.contains(&name) {
            return Err(CannotTokenise(format!("`chat_template_kwargs` may not set `{name}`")));
        }
        named.push((name.to_owned(), value));
    }
    let effort =
        chat.reasoning_effort.map(|raw| optional::<String>("reasoning_effort", raw)).transpose()?.flatten();
    if let Some(effort) = effort {
        if !named.iter().any(|(name, _)| name == THINKS) {
            named.push((THINKS.to_owned(), (effort != "none").into()));
        }
        named.push(("reasoning_effort".to_owned(), effort.into()));
    }
    Ok(named)
}

/// Ends a rendering where the last message's own text ends.
fn cut_after(mut text: String, said: &str) -> Result<String, CannotTokenise> {
    let mark = CONTINUE.trim_end();
    let at = text.rfind(mark).filter(|_| text.contains(said.trim_matches(python::is_space)));
    let at = at.ok_or_else(|| cannot("the chat template drops the message that is to be continued"))?;
    let kept = text[at..].starts_with(CONTINUE);
    text.truncate(at);
    if !kept {
        text.truncate(text.trim_end_matches(python::is_space).len());
    }
    Ok(text)
}

fn parsed<'a, T: Deserialize<'a>>(name: &str, raw: &'a RawValue) -> Result<T, CannotTokenise> {
    let read = weigh::fits(raw.get()).and_then(|()| serde_json::from_str(raw.get()));
    read.map_err(|e| CannotTokenise(format!("`{name}` cannot be read: {e}")))
}

fn optional<'a, T: Deserialize<'a>>(name: &str, raw: &'a RawValue) -> Result<Option<T>, CannotTokenise> {
    parsed::<Option<T>>(name, raw)
}

fn is_set(value: &Value) -> bool {
    !value.is_undefined() && !value.is_none()
}

fn empty_map() -> Value {
    Value::from_pairs::<_, &str, Value>([])
}

fn jinja(error: minijinja::Error) -> CannotTokenise {
    CannotTokenise(error.to_string())
}

fn cannot(why: &str) -> CannotTokenise {
    CannotTokenise(why.to_owned())
}
