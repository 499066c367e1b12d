//! `warmline hash`: block hashes for scripts, one JSON line in, one out.

use std::io::{BufRead, BufWriter, Write};

use blocks::{BlockSize, Hasher, PrefixHash, Seed, Shape};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::output::Failure;

/// Hash tokens into block hashes.
///
/// Reads JSON lines such as {"tokens":[1,2,3,4],"block_size":4} on stdin; `lora_name`, `cache_salt`,
/// `mm_hashes_per_block` and `is_eagle` may be given as well.
#[derive(Args)]
pub(super) struct Hash {
    /// Answer each line with one JSON object: `tokens_hashes` and `prefix_hashes`, numbers as decimal strings.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Line {
    tokens: Vec<u32>,
    block_size: u32,
    lora_name: Option<String>,
    cache_salt: Option<String>,
    mm_hashes_per_block: Option<Vec<Vec<u64>>>,
    is_eagle: Option<bool>,
}

#[derive(Serialize)]
struct Answer {
    tokens_hashes: Vec<String>,
    prefix_hashes: Vec<String>,
}

impl Hash {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut out = BufWriter::new(std::io::stdout().lock());
        let done = self.answer(std::io::stdin().lock(), &mut out);
        out.flush()?;
        done
    }

    /// Answers line after line and stops at the first bad one; what was answered stays answered.
    fn answer(&self, lines: impl BufRead, out: &mut impl Write) -> Result<(), Failure> {
        for (i, line) in lines.split(b'\n').enumerate() {
            let line = line?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let answer = hash(&line).map_err(|why| Failure::Input(format!("line {}: {why}", i + 1)))?;
            if self.json {
                let text =
                    serde_json::to_string(&answer).map_err(|error| Failure::Work(error.to_string()))?;
                writeln!(out, "{text}")?;
            } else {
                for (block, (tokens, prefix)) in
                    answer.tokens_hashes.iter().zip(&answer.prefix_hashes).enumerate()
                {
                    writeln!(out, "block {block:<6} tokens {tokens:>20}  prefix {prefix:>20}")?;
                }
            }
        }
        Ok(())
    }
}

fn hash(line: &[u8]) -> Result<Answer, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let block_size = BlockSize::new(line.block_size).ok_or_else(|| {
        format!("block_size: found {}; allowed is 1 to {}", line.block_size, BlockSize::MAX)
    })?;
    let shape = if line.is_eagle == Some(true) { Shape::Eagle } else { Shape::Plain };
    let seed = Seed::of(line.lora_name.as_deref(), line.cache_salt.as_deref());
    let media = line.mm_hashes_per_block.unwrap_or_default();
    let hashes = Hasher::new(block_size, seed).shaped(shape).tokens_hashes_with(&line.tokens, &media);
    Ok(Answer {
        prefix_hashes: PrefixHash::chain(&hashes).iter().map(|hash| hash.0.to_string()).collect(),
        tokens_hashes: hashes.iter().map(|hash| hash.0.to_string()).collect(),
    })
}
