//! Decoding a batch and putting it into the house's words, in both forms, beside their floors.
//!
//! `cargo bench -p warmline-events --bench stream` prints medians of interleaved rounds. The floor of token ids is
//! hashing the same tokens and nothing else; the floor of the compact form is copying its bytes.

use std::hint::black_box;
use std::time::Instant;

use blocks::{BlockSize, EngineHash, Event, Hasher, Seed};
use events::codec::{Batch, Content, Said, Stored, compact, decode, stock};
use events::translate::Translator;

/// Blocks in a run, and runs in a batch: a step that admits a few prompts.
const RUN: usize = 16;
const RUNS: usize = 4;
/// Batches in a round: 32,768 blocks.
const BATCHES: usize = 512;
const ROUNDS: usize = 21;

fn main() {
    println!("decode + translate, M blocks/s on one core, median of {ROUNDS} rounds; {RUN} blocks a run");
    println!(
        "{:>10} {:>11} {:>14} {:>11} {:>10} {:>18} {:>15}",
        "block size", "token ids", "hashing alone", "compact", "memcpy", "bytes, token ids", "bytes, compact"
    );
    [16, 32, 64].into_iter().for_each(row);
}

fn row(size: u32) {
    let hasher = Hasher::new(BlockSize::new(size).expect("in range"), Seed::PLAIN);
    let tokens: Vec<Vec<u32>> = (0..BATCHES * RUNS).map(|run| tokens(run, RUN * size as usize)).collect();
    let full: Vec<Vec<u8>> = batches(size, &tokens).map(|batch| stock(&batch)).collect();
    let short: Vec<Vec<u8>> = batches(size, &tokens).map(|batch| compact(&hashed(batch, &hasher))).collect();
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(timed(|| through(&full)));
        times[1].push(timed(|| tokens.iter().map(|run| hasher.tokens_hashes(black_box(run)).len()).sum()));
        times[2].push(timed(|| through(&short)));
        times[3].push(timed(|| short.iter().map(|bytes| black_box(black_box(bytes).clone()).len()).sum()));
    }
    let [ids, hashing, hashes, copying] = times.map(rate);
    let bytes = |payloads: &[Vec<u8>]| payloads.iter().map(Vec::len).sum::<usize>() as f64 / blocks() as f64;
    println!(
        "{size:>10} {ids:>11.2} {hashing:>14.2} {hashes:>11.2} {copying:>10.1} {:>18.1} {:>15.1}",
        bytes(&full),
        bytes(&short)
    );
}

/// Decodes and translates every payload; returns the blocks that came out.
fn through(payloads: &[Vec<u8>]) -> usize {
    let mut translator = Translator::default();
    let mut count = 0;
    for payload in payloads {
        for said in decode(black_box(payload)).expect("our own encoding").said {
            if let Some(Event::Stored(stored)) = translator.translate(said, |_| {}) {
                count += black_box(stored).blocks.len();
            }
        }
    }
    assert_eq!(count, blocks());
    count
}

const fn blocks() -> usize {
    BATCHES * RUNS * RUN
}

fn tokens(run: usize, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (run as u32 ^ i).wrapping_mul(2_654_435_761) % 151_936).collect()
}

fn batches(size: u32, tokens: &[Vec<u32>]) -> impl Iterator<Item = Batch> + use<'_> {
    tokens.chunks(RUNS).enumerate().map(move |(i, runs)| {
        let said = runs.iter().enumerate().map(|(j, run)| {
            let name = |k: usize| EngineHash(((i * RUNS + j) * RUN + k) as u64 ^ 0xdead_beef_0000_0000);
            Said::Stored(Box::new(Stored {
                hashes: (0..RUN).map(name).collect(),
                content: Content::Tokens(run.clone()),
                block_size: size,
                medium: Some("GPU".to_owned()),
                ..Stored::default()
            }))
        });
        Batch { timestamp: 1.0, said: said.collect(), rank: Some(0), epoch: None, state: None }
    })
}

fn hashed(mut batch: Batch, hasher: &Hasher) -> Batch {
    for said in &mut batch.said {
        if let Said::Stored(stored) = said
            && let Content::Tokens(tokens) = &stored.content
        {
            stored.content = Content::Hashes(hasher.tokens_hashes(tokens));
        }
    }
    batch
}

#[expect(clippy::disallowed_methods, reason = "a bench is about time")]
fn timed(work: impl FnOnce() -> usize) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64()
}

/// Millions of blocks a second, from the median time.
fn rate(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    blocks() as f64 / times[times.len() / 2] / 1e6
}
