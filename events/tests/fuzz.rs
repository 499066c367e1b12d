//! Fuzzing without any tool: the corpus as it is, then changed at random from a seed, against the claims of `fuzz/targets.rs`.
//!
//! `WARMLINE_FUZZ=1000000` asks for that many changed inputs a target, `WARMLINE_FUZZ_SEED=7` for others than always.
//! `make fuzz` looks further, guided by what it has reached.

mod chance;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use chance::Chance;

/// Changed inputs a target where nobody asks for more: three seconds each, without optimisation.
const USUAL: u64 = 100_000;
/// No changed input grows beyond this; some arithmetic of lengths only goes wrong in two bytes.
const LONGEST: usize = 4_096;

impl Chance {
    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// A piece of something, of up to so many bytes.
    fn piece(&mut self, of: &[u8], most: usize) -> std::ops::Range<usize> {
        let from = self.below(of.len() + 1);
        from..from + self.below((of.len() - from).min(most) + 1)
    }
}

/// Heads with lengths that nothing can hold, and pieces that mean something to a decoder of events.
const PIECES: &[&[u8]] = &[
    b"\xdd\xff\xff\xff\xff",
    b"\xdd\x7f\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xde\xff\xff",
    b"\xc6\x40\x00\x00\x00",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91",
    b"\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0",
    b"\x91\xa0",
    b"\x91\x91\xa0",
    b"\x92\x01\x02",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xcf\x80\x00\x00\x00\x00\x00\x00\x05",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xfe",
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xa4type",
    b"\xabBlockStored",
    b"\xacBlockRemoved",
    b"\xb0AllBlocksCleared",
    b"\xacblock_hashes\x91\x01",
    b"\xb1parent_block_hash\x01",
    b"\xa9token_ids\x92\x92\x01\x02\x92\x02\x03",
    b"\xadtokens_hashes\x91\x05",
    b"\xaablock_size\x02",
    b"\xaaextra_keys\x92\xc0\x91\xa1x",
    b"\xa9lora_name\x81\xaacache_salt\xa1s",
    b"\xa6medium\xa3CPU",
    b"\xa9group_idx\x01",
    // Steps of a conversation: a live batch, a replayed one, a wait, a silence, a header.
    b"\x00\xff\xc8\x18",
    b"\x00\xf8\x00",
    b"\x05\xc4\xc8\x00",
    b"\x09",
    b"\x0b",
    b"\x0d\xff",
    b"\x0e",
    b"\x08\x08\x00\x00\x00\x00\x00\x00\x00\x05",
];

fn changed(corpus: &[(PathBuf, Vec<u8>)], chance: &mut Chance) -> Vec<u8> {
    let mut input = corpus[chance.below(corpus.len())].1.clone();
    for _ in 0..=chance.below(5) {
        let at = chance.below(input.len() + 1);
        match chance.below(9) {
            // A bit, a byte, a length.
            0 | 1 if at < input.len() => input[at] ^= 1 << chance.below(8),
            2 if at < input.len() => input[at] = chance.next() as u8,
            3 => {
                let piece = chance.one(PIECES);
                let end = (at + piece.len()).min(input.len());
                input.splice(at..end, piece.iter().copied());
            }
            4 => drop(input.splice(at..at, chance.one(PIECES).iter().copied())),
            // Less of it, more of it, something of another.
            5 => input.truncate(at),
            6 => drop(input.drain(chance.piece(&input, 64))),
            7 => {
                let piece = input[chance.piece(&input, 128)].to_vec();
                for _ in 0..=chance.below(8) {
                    input.splice(at..at, piece.iter().copied());
                }
            }
            _ => {
                let other = &corpus[chance.below(corpus.len())].1;
                let piece = chance.piece(other, LONGEST);
                input.splice(at..at, other[piece].iter().copied());
            }
        }
        input.truncate(LONGEST);
    }
    input
}

fn files(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() > 5, "{} is not the corpus", folder.display());
    files
}

fn number(variable: &str, usual: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a person asks for more")]
    std::env::var(variable).map_or(usual, |word| word.parse().expect("a number"))
}

/// Holds the claims of a target against the corpus, and against what chance makes of it.
fn holds(name: &str, target: fn(&[u8])) {
    let corpus = files(name);
    for (path, input) in &corpus {
        let done = catch_unwind(AssertUnwindSafe(|| target(input)));
        assert!(done.is_ok(), "{name} fails on {}", path.display());
    }
    let seed = number("WARMLINE_FUZZ_SEED", 1);
    for turn in 0..number("WARMLINE_FUZZ", USUAL) {
        let input = changed(&corpus, &mut Chance(seed << 40 ^ turn));
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}-{turn}"));
            std::fs::write(&path, &input).unwrap();
            panic!("{name} fails, seed {seed}, turn {turn}; the input is in {}", path.display());
        }
    }
}

#[test]
fn no_payload_breaks_the_codec() {
    holds("codec", targets::codec);
}

#[test]
fn no_conversation_breaks_the_state_machine() {
    holds("frames", targets::frames);
}

#[test]
fn no_header_breaks_a_snapshot() {
    holds("snapshot", targets::snapshot);
}
