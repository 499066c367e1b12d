//! Hashing a prompt's blocks, beside its floors: XXH3 over the same bytes, at once and block by block.
//!
//! `cargo bench -p warmline-blocks --bench hashing` prints medians of interleaved rounds, so that a
//! noisy machine disturbs both sides of a ratio alike.

use std::hint::black_box;
use std::time::Instant;

use blocks::{BlockSize, Chain, Hasher, Seed};
use twox_hash::XxHash3_64;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Tokens in the prompt: 512 KiB of ids, larger than the first-level cache and smaller than the second.
const TOKENS: usize = 128 * 1024;
const ROUNDS: usize = 61;

/// One thing to time: its name and one run of it over the whole prompt.
type Contender<'a> = (&'static str, Box<dyn Fn() -> u64 + 'a>);

fn main() {
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| i.wrapping_mul(2_654_435_761) % 151_936).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&tokens);
    println!("{TOKENS} tokens ({} KiB); GB/s of token bytes, median of {ROUNDS} rounds", bytes.len() >> 10);
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>14} {:>16} {:>8} {:>8} {:>8}",
        "block size",
        "once, wide",
        "once, SSE2",
        "per block",
        "tokens hashes",
        "+ prefix hashes",
        "of wide",
        "of SSE2",
        "of each"
    );
    for size in [16, 32, 64, 128] {
        row(size, &tokens, bytes);
    }
    growing(&tokens);
}

fn row(size: u32, tokens: &[u32], bytes: &[u8]) {
    let hasher = Hasher::new(BlockSize::new(size).expect("in range"), Seed::PLAIN);
    let block = size as usize * 4;
    let contenders: [Contender<'_>; 5] = [
        ("wide", Box::new(|| XxHash3_64::oneshot(black_box(bytes)))),
        ("once", Box::new(|| xxh3_64(black_box(bytes)))),
        (
            "each",
            Box::new(|| {
                bytes
                    .chunks_exact(block)
                    .fold(0, |sum: u64, block| sum.wrapping_add(xxh3_64_with_seed(block, 1337)))
            }),
        ),
        (
            "tokens",
            Box::new(|| {
                let mut sum = 0_u64;
                hasher.for_each(black_box(tokens), |hash| sum = sum.wrapping_add(hash.0));
                sum
            }),
        ),
        (
            "chain",
            Box::new(|| {
                let mut chain = Chain::new(hasher.clone());
                chain.extend(black_box(tokens));
                chain.prefix_hashes().last().map_or(0, |hash| hash.0)
            }),
        ),
    ];
    let [wide, once, each, tokens, chain] =
        medians(&contenders).map(|seconds| bytes.len() as f64 / seconds / 1e9);
    let of = |floor: f64| format!("{:.0}%", 100.0 * tokens / floor);
    println!(
        "{size:>10} {wide:>10.1} {once:>10.1} {each:>10.1} {tokens:>14.1} {chain:>16.1} {:>8} {:>8} {:>8}",
        of(wide),
        of(once),
        of(each)
    );
}

/// What a conversation pays for one more turn of 256 tokens, against hashing it all again.
fn growing(tokens: &[u32]) {
    let hasher = Hasher::new(BlockSize::new(16).expect("in range"), Seed::PLAIN);
    let (past, turn) = (&tokens[..32 * 1024], &tokens[32 * 1024..32 * 1024 + 256]);
    let mut chain = Chain::new(hasher.clone());
    chain.extend(past);
    let contenders: [Contender<'_>; 3] = [
        ("clone", Box::new(|| chain.clone().len() as u64)),
        (
            "clone and turn",
            Box::new(|| {
                let mut chain = chain.clone();
                chain.extend(black_box(turn)) as u64
            }),
        ),
        (
            "all again",
            Box::new(|| {
                let mut chain = Chain::new(hasher.clone());
                (chain.extend(black_box(past)) + chain.extend(black_box(turn))) as u64
            }),
        ),
    ];
    let [clone, both, again] = medians(&contenders).map(|seconds| seconds * 1e6);
    println!("\na turn of 256 tokens after 32,768: {:.2} us; hashing all again: {again:.0} us", both - clone);
}

/// Median seconds of each contender, rounds interleaved.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn medians<const N: usize>(contenders: &[Contender<'_>; N]) -> [f64; N] {
    let mut seconds = [(); N].map(|()| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for ((_, run), seconds) in contenders.iter().zip(&mut seconds) {
            let start = Instant::now();
            black_box(run());
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[ROUNDS / 2]
    })
}
