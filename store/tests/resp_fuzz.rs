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

/// Changed inputs a target where nobody asks for more: some seconds each, without optimisation.
const USUAL: u64 = 100_000;
/// No changed input grows beyond this, which is several times the limits of the targets.
const LONGEST: usize = 2_048;

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

/// Heads with lengths that nothing can hold, and pieces that mean something to either side.
const PIECES: &[&[u8]] = &[
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"*5\r\n$4\r\nMSET\r\n",
    b"*4\r\n$5\r\nSETEX\r\n$1\r\nk\r\n$2\r\n10\r\n",
    b"*1\r\n$5\r\nRESET\r\n",
    b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"$0\r\n\r\n",
    b"$1\r\na\r\n",
    b"$2\r\nNX\r\n",
    b"$2\r\nEX\r\n$1\r\n9\r\n",
    b"$9223372036854775807\r\n",
    b"$-9223372036854775808\r\n",
    b"$-1\r\n",
    b"$536870912\r\n",
    b"$201\r\n",
    b"*24\r\n",
    b"*25\r\n",
    b"*-1\r\n",
    b"%2\r\n",
    b"=4\r\ntxt:\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"\r\n",
    b"\n",
    b"\"",
    b"'",
    b"\\x4",
    b"PING\r\n",
    b"SET a b\r\n",
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
fn no_bytes_of_a_client_break_the_reading() {
    holds("commands", targets::commands);
}

#[test]
fn no_conversation_leaves_a_command_unanswered_or_space_lost() {
    holds("talk", targets::talk);
}

#[test]
fn no_bytes_of_a_server_break_the_client() {
    holds("replies", targets::replies);
}
