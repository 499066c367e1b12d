//! Traces of real requests: when they came, how long they were, and which prefixes they shared.
//!
//! The format is the one that the Mooncake project published: a JSON object a line with `timestamp` (ms),
//! `input_length` and `output_length` (tokens) and `hash_ids`, one a 512-token block of the prompt; equal ids mean
//! equal prefixes up to and including that block.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use blocks::{PrefixHash, TokensHash};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::engine::{Job, Text};

/// Tokens in one block of a trace.
pub const TRACE_BLOCK: usize = 512;

/// One request of a load.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it comes.
    pub at: Duration,
    /// What it asks for.
    pub job: Job,
}

#[derive(Deserialize)]
struct Line {
    timestamp: f64,
    input_length: usize,
    output_length: usize,
    hash_ids: Vec<u64>,
}

/// Reads a trace for engines with blocks of `block_size` tokens.
///
/// # Errors
/// The number of the first line that is not a request, and why.
pub fn read(lines: impl BufRead, block_size: usize) -> Result<Vec<Request>, String> {
    let mut requests = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let wrong = |why: String| format!("line {}: {why}", number + 1);
        let line = line.map_err(|error| wrong(error.to_string()))?;
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        if line.input_length == 0 || line.hash_ids.len() * TRACE_BLOCK < line.input_length {
            return Err(wrong(format!(
                "{} hash_ids cannot name {} tokens in blocks of {TRACE_BLOCK}",
                line.hash_ids.len(),
                line.input_length
            )));
        }
        if !line.timestamp.is_finite() || line.timestamp < 0.0 {
            return Err(wrong(format!("timestamp: found {}", line.timestamp)));
        }
        requests.push(request(requests.len() as u64, &line, block_size));
    }
    requests.sort_by_key(|request| request.at);
    Ok(requests)
}

/// The blocks of a request: those of its prompt are equal where the trace says so, those of its answer are its own.
fn request(id: u64, line: &Line, block_size: usize) -> Request {
    let output = line.output_length.max(1);
    let prompt_blocks = line.input_length / block_size;
    let all = (line.input_length + output) / block_size;
    let block = |i: usize| {
        let (name, seed) = if i < prompt_blocks {
            let of_trace = i * block_size / TRACE_BLOCK;
            (line.hash_ids[of_trace], (i * block_size % TRACE_BLOCK) as u64)
        } else {
            (id, i as u64 | 1 << 63)
        };
        TokensHash(xxh3_64_with_seed(&name.to_le_bytes(), seed))
    };
    let tokens_hashes: Vec<TokensHash> = (0..all).map(block).collect();
    let prefix_hashes = PrefixHash::chain(&tokens_hashes);
    let text = Arc::new(Text { tokens_hashes, prefix_hashes, ..Text::default() });
    let at = Duration::from_nanos((line.timestamp * 1e6) as u64);
    Request { at, job: Job { id, prompt: line.input_length, output, text } }
}

/// The same load, faster or slower: `scale` 2 makes everything come in half the time.
pub fn scale(requests: &mut [Request], scale: f64) {
    for request in requests {
        request.at = request.at.div_f64(scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"timestamp": 27, "input_length": 1030, "output_length": 20, "hash_ids": [0, 1, 2]}
{"timestamp": 0, "input_length": 1024, "output_length": 3, "hash_ids": [0, 1]}
"#;

    #[test]
    fn requests_share_blocks_where_their_ids_are_equal_and_come_in_order() {
        let requests = read(LINES.as_bytes(), 16).unwrap();
        assert_eq!((requests[0].job.id, requests[0].job.prompt), (1, 1024));
        let (a, b) = (&requests[0].job.text.prefix_hashes, &requests[1].job.text.prefix_hashes);
        let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        assert_eq!((common, a.len(), b.len()), (64, 64, 65));
    }

    #[test]
    fn a_bad_line_is_named() {
        for bad in ["{}", "[1]", r#"{"timestamp":0,"input_length":600,"output_length":1,"hash_ids":[1]}"#] {
            let error = read(format!("{LINES}{bad}\n").as_bytes(), 16).unwrap_err();
            assert!(error.starts_with("line 3: "), "{error}");
        }
    }
}
