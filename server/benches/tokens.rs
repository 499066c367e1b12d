//! What it costs to turn a chat into token ids: 400 bytes and 8 KB, with and without its earlier turns known.
//!
//! `scripts/fetch-tokenizers.sh && cargo bench -p warmline-server --bench tokens` prints medians of interleaved
//! rounds. Floors in the same run: the bare library on the new turn alone, the template's part, and one hash of the
//! whole text. At the end 10,000 prompts of 8 KB that share nothing, and what they leave in memory.

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value as Json, json};
use server::prompt::{Chat, Prompt};
use server::settings::Model;
use server::tokens::Tokeniser;
use tokenizers::pipeline::{EncodeOptions, PipelineTokenizer};

const ROUNDS: usize = 2_001;

/// Bytes of a new turn.
const TURN: usize = 300;

const WORDS: [&str; 24] = [
    "the", "request", "cache", "of", "a", "prefix", "engine", "and", "tokens", "is", "warm", "when", "it",
    "returns", "quickly", "but", "first", "gateway", "must", "route", "every", "message", "to", "blocks",
];

fn main() {
    let tokeniser = real();
    let library = bare();
    println!("microseconds, median and 99th percentile of {ROUNDS} interleaved rounds; Qwen3");
    println!("{:>8} {:<44} {:>8} {:>8}", "body", "what", "p50", "p99");
    for (name, size) in [("400 B", 400), ("8 KB", 8 << 10)] {
        let known = turns(size - 400);
        let text: String =
            known.iter().filter_map(|turn| turn["content"].as_str()).chain([&*fresh(TURN)]).collect();
        let again = body(&known, fresh(TURN));
        let mut times: [(&str, Vec<f64>); 5] = [
            ("new turn, earlier turns known", Vec::new()),
            ("identical request again", Vec::new()),
            ("nothing known", Vec::new()),
            ("floor: the bare library on the new turn", Vec::new()),
            ("floor: the whole text hashed once", Vec::new()),
        ];
        for _ in 0..ROUNDS {
            let new = body(&known, fresh(TURN));
            times[0].1.push(timed(|| ids(&tokeniser, &new)));
            times[1].1.push(timed(|| ids(&tokeniser, &again)));
            let unknown = body(&known.iter().map(renewed).collect::<Vec<_>>(), fresh(TURN));
            times[2].1.push(timed(|| ids(&tokeniser, &unknown)));
            let turn = fresh(TURN);
            times[3].1.push(timed(|| encoded(&library, &turn)));
            times[4].1.push(timed(|| xxhash_rust::xxh3::xxh3_128(text.as_bytes())));
        }
        for (what, times) in &mut times {
            times.sort_by(f64::total_cmp);
            println!("{name:>8} {what:<44} {:>8.1} {:>8.1}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
        }
    }
    let simulated =
        Tokeniser::from_json(&sim::model::tokenizer_json(), Some(sim::model::CHAT_TEMPLATE)).unwrap();
    for (name, size) in [("400 B", 400), ("8 KB", 8 << 10)] {
        let known = turns(size - 400);
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let new = body(&known, fresh(TURN));
                timed(|| ids(&simulated, &new))
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let what = "simulated model (bytes): new turn";
        println!("{name:>8} {what:<44} {:>8.1} {:>8.1}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
    }
    let before = resident_mib();
    for _ in 0..10_000 {
        ids(&tokeniser, &body(&turns(8 << 10), fresh(TURN)));
    }
    println!("10,000 prompts of 8 KB that share nothing: {before} -> {} MiB resident", resident_mib());
    println!("{}", serde_json::to_string(&tokeniser.stats()).unwrap());
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64() * 1e6
}

fn encoded(library: &PipelineTokenizer, text: &str) -> usize {
    let mut tokens = Vec::new();
    library.encode_into(text, &EncodeOptions::no_specials(), &mut tokens).unwrap();
    tokens.len()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1_024
}

/// Turns of some 500 bytes each, together of `bytes`.
fn turns(bytes: usize) -> Vec<Json> {
    let roles = ["user", "assistant"];
    (0..bytes / 500).map(|i| json!({ "role": roles[i % 2], "content": fresh(460) })).collect()
}

fn renewed(turn: &Json) -> Json {
    json!({ "role": turn["role"], "content": fresh(turn["content"].as_str().unwrap().len()) })
}

/// English-like text that has not been seen before.
fn fresh(bytes: usize) -> String {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0x9e37_79b9_7f4a_7c15) });
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        let mut x = STATE.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        STATE.set(x);
        text.push_str(WORDS[(x % 24) as usize]);
        text.push_str(if x.is_multiple_of(13) { ". " } else { " " });
        if x.is_multiple_of(29) {
            text.push_str(&(x >> 40).to_string());
        }
    }
    text
}

fn body(known: &[Json], turn: String) -> Box<RawValue> {
    let turn = json!({ "role": "user", "content": turn });
    to_raw_value(&known.iter().chain([&turn]).collect::<Vec<_>>()).unwrap()
}

fn ids(tokeniser: &Tokeniser, messages: &RawValue) -> usize {
    let chat = Chat {
        messages,
        tools: None,
        documents: None,
        kwargs: None,
        reasoning_effort: None,
        add_generation_prompt: true,
        continue_final_message: false,
    };
    tokeniser.tokens(&Prompt::Chat(chat)).unwrap().len()
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fixtures/qwen3/tokenizer.json")
}

fn real() -> Tokeniser {
    let model = Model { name: "qwen3".to_owned(), tokenizer: Some(path()), ..Model::default() };
    Tokeniser::load(&model).expect("run scripts/fetch-tokenizers.sh first").unwrap()
}

fn bare() -> PipelineTokenizer {
    let text = std::fs::read_to_string(path()).unwrap();
    let mut json: Json = serde_json::from_str(&text).unwrap();
    json["normalizer"] = Json::Null;
    tokenizers::from_json(&tokenizers::canonicalize_str(&json.to_string()).unwrap()).unwrap()
}
