//! Tokenising against what the Python libraries make of the same requests, with two real tokenizers.
//!
//! `scripts/fetch-tokenizers.sh` brings them (`make test` runs it); `scripts/make-token-fixtures.py` made the answers.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::{RawValue, to_raw_value};
use server::prompt::{Chat, Prompt};
use server::settings::Model;
use server::tokens::{CannotTokenise, Tokeniser};
use tokenizers::pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer};
use unicode_normalization_alignments::UnicodeNormalization;

static QWEN: LazyLock<Tokeniser> = LazyLock::new(|| real("qwen3"));
static LLAMA: LazyLock<Tokeniser> = LazyLock::new(|| real("llama3_1"));

#[derive(Deserialize)]
struct Fixtures {
    chats: Vec<ChatCase>,
    texts: Vec<TextCase>,
    templates: Vec<TemplateCase>,
}

#[derive(Deserialize)]
struct ChatCase {
    name: String,
    request: Body,
    ids: Ids,
}

#[derive(Deserialize)]
struct TextCase {
    name: String,
    text: String,
    ids: Ids,
}

#[derive(Deserialize)]
struct TemplateCase {
    name: String,
    template: String,
    request: Body,
    text: String,
}

#[derive(Deserialize)]
struct Ids {
    qwen3: Vec<u32>,
    llama3_1: Vec<u32>,
}

/// The part of a request's body that matters here.
#[derive(Deserialize)]
struct Body {
    messages: Box<RawValue>,
    tools: Option<Box<RawValue>>,
    documents: Option<Box<RawValue>>,
    chat_template_kwargs: Option<Box<RawValue>>,
    reasoning_effort: Option<Box<RawValue>>,
    #[serde(default = "yes")]
    add_generation_prompt: bool,
    #[serde(default)]
    continue_final_message: bool,
}

impl Body {
    fn parse(json: &Json) -> Self {
        serde_json::from_str(&json.to_string()).unwrap()
    }

    fn prompt(&self) -> Prompt<'_> {
        Prompt::Chat(Chat {
            messages: &self.messages,
            tools: self.tools.as_deref(),
            documents: self.documents.as_deref(),
            kwargs: self.chat_template_kwargs.as_deref(),
            reasoning_effort: self.reasoning_effort.as_deref(),
            add_generation_prompt: self.add_generation_prompt,
            continue_final_message: self.continue_final_message,
        })
    }
}

fn yes() -> bool {
    true
}

fn fixtures() -> Fixtures {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokens.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn real(name: &str) -> Tokeniser {
    let tokenizer =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/fixtures/{name}/tokenizer.json"));
    let model = Model { name: name.to_owned(), tokenizer: Some(tokenizer), ..Model::default() };
    let loaded =
        Tokeniser::load(&model).unwrap_or_else(|e| panic!("{e}\nrun scripts/fetch-tokenizers.sh first"));
    loaded.expect("the settings name a tokenizer")
}

/// As small as a `tokenizer.json` can be: bytes, no merges, and the tokens of a chat.
fn bytes_only(template: &str) -> Tokeniser {
    Tokeniser::from_json(&bytes_only_json(), Some(template)).unwrap()
}

fn bytes_only_json() -> String {
    let printable = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let (direct, shifted): (Vec<u8>, Vec<u8>) = (0..=255).partition(printable);
    let shifted = shifted.iter().zip(0x100..).map(|(b, c)| (*b, char::from_u32(c).unwrap()));
    let alphabet = direct.iter().map(|b| (*b, char::from(*b))).chain(shifted);
    let vocab: serde_json::Map<String, Json> = alphabet.map(|(b, c)| (c.to_string(), b.into())).collect();
    let special = |(i, content): (usize, &str)| {
        serde_json::json!({ "id": 256 + i, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true })
    };
    let added: Vec<Json> = ["<|im_start|>", "<|im_end|>"].into_iter().enumerate().map(special).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    json.to_string()
}

fn chat(tokeniser: &Tokeniser, body: &Json) -> Result<Arc<[u32]>, CannotTokenise> {
    tokeniser.tokens(&Body::parse(body).prompt())
}

/// Compares ids, and says where they part.
fn same(tokeniser: &Tokeniser, name: &str, got: &[u32], want: &[u32]) {
    if got != want {
        let at = got.iter().zip(want).take_while(|(a, b)| a == b).count();
        panic!("{name}:\n ours {}\nother {}", tokeniser.locate(got, at), tokeniser.locate(want, at));
    }
}

#[test]
fn chats_become_the_ids_that_python_makes() {
    for case in fixtures().chats {
        for (tokeniser, want) in [(&*QWEN, &case.ids.qwen3), (&*LLAMA, &case.ids.llama3_1)] {
            for time in ["first", "second"] {
                let got =
                    tokeniser.tokens(&case.request.prompt()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
                same(tokeniser, &format!("{} ({time} time)", case.name), &got, want);
            }
        }
    }
}

#[test]
fn completions_become_the_ids_that_python_makes() {
    for case in fixtures().texts {
        for (tokeniser, want) in [(&*QWEN, &case.ids.qwen3), (&*LLAMA, &case.ids.llama3_1)] {
            let got = tokeniser.tokens(&Prompt::Text(case.text.as_str().into())).unwrap();
            same(tokeniser, &case.name, &got, want);
        }
    }
}

#[test]
fn templates_print_what_transformers_prints() {
    let config = serde_json::json!({ "bos_token": "<s>", "eos_token": { "content": "</s>" } });
    for case in fixtures().templates {
        let mut config = config.clone();
        config["chat_template"] = case.template.into();
        let tokeniser = bytes_only(&config.to_string());
        let ids = tokeniser.tokens(&case.request.prompt()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_eq!(tokeniser.decode(&ids), case.text, "{}", case.name);
    }
}

#[test]
fn a_vocabulary_of_bytes_without_merges_is_exact() {
    let tokeniser =
        bytes_only("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}");
    let body = serde_json::json!({ "messages": [{ "role": "user", "content": "hé <|im_end|>\u{0}" }] });
    let ids = chat(&tokeniser, &body).unwrap();
    let mut want = vec![256];
    want.extend("user\nhé ".bytes().map(u32::from));
    want.extend([257, 0, 257]);
    assert_eq!(&*ids, want);
}

#[test]
fn the_least_that_a_file_must_say_is_enough() {
    let mut json: Json = serde_json::from_str(&bytes_only_json()).unwrap();
    let fields = json.as_object_mut().unwrap();
    for optional in ["truncation", "padding", "normalizer", "post_processor", "decoder"] {
        fields.remove(optional);
    }
    fields["pre_tokenizer"]["use_regex"] = true.into();
    let tokeniser = Tokeniser::from_json(&json.to_string(), None).unwrap();
    let ids = tokeniser.tokens(&Prompt::Text("It's 10 °C <|im_end|>\n".into())).unwrap();
    let mut want: Vec<u32> = "It's 10 °C ".bytes().map(u32::from).collect();
    want.extend([257, 10]);
    assert_eq!(*ids, want[..]);
}

#[test]
fn threads_that_share_a_tokeniser_get_the_same_ids() {
    let tokeniser = real("llama3_1");
    let bodies: Vec<Json> = (0..50)
        .map(|i| serde_json::json!({ "messages": [{ "role": "user", "content": format!("question {} of some length", i % 10) }] }))
        .collect();
    let answers: Vec<Vec<Arc<[u32]>>> = std::thread::scope(|scope| {
        let work = || bodies.iter().map(|body| chat(&tokeniser, body).unwrap()).collect();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
        assert_eq!(answer[3], answer[13]);
        assert_ne!(answer[3], answer[4]);
    }
}

#[test]
fn a_growing_conversation_costs_only_its_new_turn() {
    let tokeniser = real("qwen3");
    let turn = |i: usize| {
        let role = ["user", "assistant"][i % 2];
        serde_json::json!({ "role": role, "content": format!("turn {i}: {}", "some words ".repeat(100)) })
    };
    let mut messages = Vec::new();
    for i in 0..20 {
        messages.push(turn(i));
        chat(&tokeniser, &serde_json::json!({ "messages": messages.clone() })).unwrap();
    }
    let stats = tokeniser.stats();
    // While an answer is the last message it is printed with an empty thought; nine of them cease to be the last.
    assert_eq!(stats.misses, 20 + 9, "{stats:?}");
}

#[test]
fn history_that_the_template_rewrites_is_not_taken_from_the_cache() {
    // Qwen's template drops the thinking of earlier turns, so the second rendering does not extend the first.
    let tokeniser = real("qwen3");
    let thinking = "<think>\nIt is in Europe, I am sure of that.\n</think>\n\nParis.";
    let mut body = serde_json::json!({ "add_generation_prompt": false, "messages": [
        { "role": "user", "content": "Capital of France?" }, { "role": "assistant", "content": thinking } ] });
    let first = chat(&tokeniser, &body).unwrap();
    body["messages"].as_array_mut().unwrap().push(serde_json::json!({ "role": "user", "content": "Thanks" }));
    let second = chat(&tokeniser, &body).unwrap();
    assert!(tokeniser.decode(&first).contains("I am sure"));
    assert!(!tokeniser.decode(&second).contains("I am sure"));
    same(&tokeniser, "afresh", &second, &chat(&real("qwen3"), &body).unwrap());
}

#[test]
fn what_engines_refuse_or_see_otherwise_is_refused() {
    let user = serde_json::json!({ "role": "user", "content": "x" });
    let called = |arguments: &str| {
        let call = serde_json::json!({ "function": { "name": "f", "arguments": arguments } });
        serde_json::json!({ "messages": [{ "role": "assistant", "content": "", "tool_calls": [call] }] })
    };
    for (why, body) in [
        ("empty", serde_json::json!({ "messages": [] })),
        ("no role", serde_json::json!({ "messages": [{ "content": "x" }] })),
        ("a number", serde_json::json!({ "messages": [{ "role": "user", "content": 1 }] })),
        (
            "an image",
            serde_json::json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "u" } }] }] }),
        ),
        ("not a list", serde_json::json!({ "messages": "x" })),
        ("null", serde_json::json!({ "messages": null })),
        ("tools of strings", serde_json::json!({ "messages": [user], "tools": ["x"] })),
        (
            "a tool without name",
            serde_json::json!({ "messages": [user], "tools": [{ "type": "function", "function": {} }] }),
        ),
        ("reserved", serde_json::json!({ "messages": [user], "chat_template_kwargs": { "messages": [] } })),
        ("kwargs list", serde_json::json!({ "messages": [user], "chat_template_kwargs": [] })),
        ("documents", serde_json::json!({ "messages": [user], "documents": [1] })),
        ("both", serde_json::json!({ "messages": [user], "continue_final_message": true })),
        ("calls", serde_json::json!({ "messages": [{ "role": "assistant", "tool_calls": [{}] }] })),
        ("not a number", called(r#"{"a":NaN}"#)),
        ("half a pair", called(r#"{"a":"\ud800"}"#)),
        ("endless", called(r#"{"a":1e999}"#)),
        ("too deep", called(&"[".repeat(1_000))),
        ("too wide", called(&format!("[{}0]", "0,".repeat(200_000)))),
        ("too many", serde_json::json!({ "messages": vec![user.clone(); 60_000] })),
    ] {
        assert!(chat(&QWEN, &body).is_err(), "{why}");
    }
    assert!(QWEN.tokens(&Prompt::Opaque).is_err());
}

#[test]
fn files_that_disagree_about_the_first_token_leave_completions_to_the_engine() {
    let prompt = Prompt::Text("x".into());
    for (config, certain) in [(r#"{"add_bos_token":false}"#, true), (r#"{"add_bos_token":true}"#, false)] {
        let tokeniser = Tokeniser::from_json(&bytes_only_json(), Some(config)).unwrap();
        assert_eq!(tokeniser.tokens(&prompt).is_ok(), certain, "{config}");
    }
}

#[test]
fn files_beside_the_tokenizer_are_found_as_engines_find_them() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let tokenizer = Some(folder.path().join("tokenizer.json"));
    let mut model = Model { name: "m".to_owned(), tokenizer, ..Model::default() };
    let body = serde_json::json!({ "messages": [{ "role": "user", "content": "x" }] });
    let says = |model: &Model| {
        let tokeniser = Tokeniser::load(model).unwrap().unwrap();
        chat(&tokeniser, &body).map(|ids| tokeniser.decode(&ids)).map_err(|e| e.to_string())
    };
    write("tokenizer.json", &bytes_only_json());
    assert_eq!(says(&model), Err("no chat template is configured".to_owned()));
    write(
        "tokenizer_config.json",
        r#"{"eos_token":"E","chat_template":[{"name":"default","template":"list {{ eos_token }}"},{"name":"tool_use","template":"tools"}]}"#,
    );
    assert_eq!(says(&model).unwrap(), "list E");
    write("chat_template.json", r#"{"chat_template":"json {{ eos_token }}"}"#);
    assert_eq!(says(&model).unwrap(), "json E");
    write("chat_template.jinja", "jinja {{ eos_token }}");
    assert_eq!(says(&model).unwrap(), "jinja E");
    write("other.jinja", "{{ 'named' }} {{ eos_token }}");
    model.chat_template = Some(folder.path().join("other.jinja"));
    assert_eq!(says(&model).unwrap(), "named E");
}

#[test]
fn a_mismatch_is_located_for_people() {
    let body =
        serde_json::json!({ "messages": [{ "role": "user", "content": "What is the capital of France?" }] });
    let ids = chat(&QWEN, &body).unwrap();
    let place = QWEN.locate(&ids, 7);
    assert!(
        place.starts_with("token 7, 7 tokens after `<|im_start|>` (number 1 of its kind), in"),
        "{place}"
    );
    assert!(place.contains("⟦"), "{place}");
    assert!(QWEN.locate(&[], 9).contains("before any special token"));
}

#[test]
fn unusable_files_are_named_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let model = Model { name: "m".to_owned(), tokenizer: Some(path.clone()), ..Model::default() };
    let error = |model: &Model| Tokeniser::load(model).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error(&model).contains("tokenizer.json of model `m` cannot be read"), "{}", error(&model));
    for (json, what) in [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "cannot be read"),
        (r#"{"normalizer":{"type":"NFKC"}}"#, "normalises text by `NFKC`"),
        (r#"{"model":{"type":"BPE","dropout":0.1}}"#, "dropout"),
    ] {
        std::fs::write(&path, json).unwrap();
        assert!(
            error(&model).contains(what) && error(&model).contains("tokenizer.json"),
            "{}",
            error(&model)
        );
    }
    let lonely = Model { name: "m".to_owned(), chat_template: Some(path), ..Model::default() };
    assert!(error(&lonely).contains("no tokenizer"));
    assert!(Tokeniser::load(&Model::default()).unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_cache_changes_nothing(turns in prop::collection::vec((any::<bool>(), text()), 1..8), keep in 1_usize..8) {
        let role = |assistant: bool| if assistant { "assistant" } else { "user" };
        let messages: Vec<Json> = turns
            .iter()
            .map(|(assistant, text)| serde_json::json!({ "role": role(*assistant), "content": text }))
            .collect();
        for model in &*PLAIN {
            // Warm with a prefix, then the whole, twice; the truth is the bare library on the whole text at once.
            let prefix = &messages[..keep.min(messages.len())];
            chat(&model.cached, &serde_json::json!({ "messages": prefix })).unwrap();
            let body = serde_json::json!({ "messages": messages });
            let ids = chat(&model.cached, &body).unwrap();
            prop_assert_eq!(&chat(&model.cached, &body).unwrap(), &ids);
            let turn = |(assistant, text): &(bool, String)| format!("<|im_start|>{}\n{text}<|im_end|>\n", role(*assistant));
            let text: String = turns.iter().map(turn).collect();
            // Form C is ours, not the library's, and the fixtures prove it; here it must have nothing to do.
            if text.nfc().map(|(c, _)| c).eq(text.chars()) {
                prop_assert_eq!(whole(&model.library, &text), &*ids);
            }
        }
    }

    #[test]
    fn simulated_engines_read_what_we_read(turns in prop::collection::vec((any::<bool>(), text()), 1..8), open in any::<bool>()) {
        use sim::model::{CHAT_TEMPLATE, encode, render, tokenizer_json};
        static SIM: LazyLock<Tokeniser> =
            LazyLock::new(|| Tokeniser::from_json(&tokenizer_json(), Some(CHAT_TEMPLATE)).unwrap());
        let messages: Json = turns
            .iter()
            .map(|(assistant, text)| serde_json::json!({ "role": if *assistant { "assistant" } else { "user" }, "content": text }))
            .collect();
        let ids = chat(&SIM, &serde_json::json!({ "messages": messages, "add_generation_prompt": open })).unwrap();
        prop_assert_eq!(&*ids, encode(&render(&messages, open).unwrap()));
    }

    #[test]
    fn no_json_makes_it_panic(messages in json(), tools in json(), kwargs in json(), go_on in any::<bool>()) {
        let raw = |json: &Json| to_raw_value(json).unwrap();
        let (messages, tools, kwargs) = (raw(&messages), raw(&tools), raw(&kwargs));
        let prompt = Prompt::Chat(Chat {
            messages: &messages, tools: Some(&tools), documents: Some(&tools), kwargs: Some(&kwargs), reasoning_effort: Some(&kwargs),
            add_generation_prompt: !go_on, continue_final_message: go_on,
        });
        for tokeniser in [&*QWEN, &*LLAMA] {
            drop(tokeniser.tokens(&prompt));
        }
    }
}

/// A real vocabulary under a template that can be written out by hand, beside the library with nothing of ours between.
struct Plain {
    cached: Tokeniser,
    library: PipelineTokenizer,
}

static PLAIN: LazyLock<Vec<Plain>> = LazyLock::new(|| {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    let load = |name: &str| {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/fixtures/{name}/tokenizer.json"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut json: Json = serde_json::from_str(&text).unwrap();
        json["normalizer"] = Json::Null;
        let canonical = tokenizers::canonicalize_str(&json.to_string()).unwrap();
        Plain {
            cached: Tokeniser::from_json(&text, Some(template)).unwrap(),
            library: tokenizers::from_json(&canonical).unwrap(),
        }
    };
    ["qwen3", "llama3_1"].into_iter().map(load).collect()
});

fn whole(library: &PipelineTokenizer, text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    library.encode_into(text, &EncodeOptions::no_specials(), &mut tokens).unwrap();
    tokens.into_iter().map(PipelineToken::id).collect()
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ -~]{0,40}",
        "\\PC{0,12}",
        "[\\n\\r\\t ]{0,6}",
        Just("<|im_end|>\n<|im_start|>user\n".to_owned()),
        Just("<|eot_id|>".to_owned()),
        Just("<think>\nhm\n</think>\n\n".to_owned()),
        Just("<tool_response>".to_owned()),
        Just("a sentence of some length, to be found again in the cache. ".to_owned()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn json() -> impl Strategy<Value = Json> {
    let word = prop_oneof![
        "[a-z]{0,3}",
        prop::sample::select(vec![
            "role",
            "content",
            "user",
            "assistant",
            "tool",
            "system",
            "type",
            "text",
            "function",
            "name",
            "arguments",
            "parameters",
            "tool_calls",
            "enable_thinking",
            "</think>",
            "{\"a\":1}",
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        word.clone().prop_map(Json::String),
    ];
    let message = (word.clone(), word.clone(), leaf.clone())
        .prop_map(|(role, key, value)| serde_json::json!({ "role": role, "content": "x", key: value }));
    let any = leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            prop::collection::btree_map(word.clone(), inner, 0..4)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    });
    prop_oneof![prop::collection::vec(message, 0..4).prop_map(Json::Array), any]
}
