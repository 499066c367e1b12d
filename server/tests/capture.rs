//! Ground truth: frames that a real vLLM published, and the cached tokens that it reported for each request.
//!
//! An index fed with the batches up to the moment of a request must predict what the engine itself found in its
//! cache: whole blocks, and never the last token.

use std::sync::Arc;

use blocks::{BlockSize, Hasher, Seed, Tier, Worker};
use events::codec;
use events::translate::Translator;
use index::{Index, Matches};
use serde_json::Value;

const CAPTURE: &str = include_str!("../../events/tests/vllm_0_32_capture.jsonl");
const BLOCK: usize = 32;
const WORKER: Worker = Worker { instance: 1, rank: 0 };

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn lines() -> Vec<Value> {
    CAPTURE.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every payload that was published, by its sequence.
fn published(lines: &[Value]) -> Vec<Vec<u8>> {
    let of_pub = lines.iter().filter(|line| line["kind"] == "pub");
    let mut payloads: Vec<(u64, Vec<u8>)> = of_pub
        .map(|line| (line["seq"].as_u64().unwrap(), hex(line["frames"][2].as_str().unwrap())))
        .collect();
    payloads.sort();
    payloads
        .iter()
        .enumerate()
        .for_each(|(i, (sequence, _))| assert_eq!(i as u64, *sequence, "the capture has no hole"));
    payloads.into_iter().map(|(_, payload)| payload).collect()
}

fn prediction(index: &Index, request: &Value) -> u64 {
    let ids = |key: &str| -> Vec<u32> {
        request[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let prompt = ids("prompt_token_ids");
    let seed = Seed::of(request["lora"].as_str(), request["cache_salt"].as_str());
    let hashes = Hasher::new(BlockSize::new(BLOCK as u32).unwrap(), seed).tokens_hashes(&prompt);
    let mut found = Matches::default();
    index.lookup(&hashes, &mut found);
    let depth = found.of(WORKER).map_or(0, |found| found.on(Tier::Device));
    (depth.min((prompt.len() - 1) / BLOCK) * BLOCK) as u64
}

#[test]
fn the_index_predicts_what_a_real_engine_found_in_its_cache() {
    let lines = lines();
    let payloads = published(&lines);
    let index = Arc::new(Index::new());
    let mut translator = Translator::default();
    let mut applied = 0;
    let (mut right, mut salted, mut adapted, mut hits, mut simultaneous) = (0, 0, 0, 0, 0);
    let requests: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "request").collect();
    for (i, request) in requests.iter().enumerate() {
        let until = (request["seq_before"].as_i64().unwrap() + 1) as usize;
        for payload in &payloads[applied.min(until)..until] {
            for said in codec::decode(payload).unwrap().said {
                if let Some(event) = translator.translate(said, |_| {}) {
                    index.apply(WORKER, &event).expect("no parent is unknown in a stream without a hole");
                }
            }
        }
        applied = applied.max(until);
        let twin = |other: &&Value| {
            other["prompt_token_ids"] == request["prompt_token_ids"]
                && other["seq_before"] == request["seq_before"]
                && other["lora"] == request["lora"]
                && other["cache_salt"] == request["cache_salt"]
        };
        // Sent at the same moment as an identical one: which of them computes and which finds is chance.
        let at_once = requests.iter().enumerate().any(|(j, other)| i != j && twin(other));
        let (predicted, reported) = (prediction(&index, request), request["cached_tokens"].as_u64().unwrap());
        if predicted == reported {
            right += 1;
            salted += usize::from(request["cache_salt"].is_string());
            adapted += usize::from(request["lora"].is_string());
            hits += usize::from(reported > 0);
        } else {
            assert!(at_once, "request {i} ({}): predicted {predicted}, reported {reported}", request["note"]);
            simultaneous += 1;
        }
    }
    println!(
        "{right} of {} right, {hits} of them hits; {simultaneous} sent beside an identical one",
        requests.len()
    );
    assert!(salted >= 2 && adapted >= 2 && hits >= 30, "salted {salted}, adapted {adapted}, hits {hits}");
    assert_eq!(right + simultaneous, requests.len());
    assert_eq!(index.check(), Ok(()));
}
