//! The id of a file: opaque to others, for us it says when the file was made.
//!
//! `file-` and 24 characters of base 32: nine for the time in milliseconds, counted downwards, and fifteen that make it
//! unlike any other. In the order of their ids files go from new to old: a shelf lists names in one direction only, and
//! what is asked for is the newest first.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

const PREFIX: &str = "file-";
/// In the order of their bytes.
const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const TIME: usize = 9;
const CHANCE: usize = 15;
/// The last millisecond that has a number: in the year 3084.
const MAX_TIME: u64 = (1 << (5 * TIME)) - 1;

/// Whose file it is, among all of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Id(String);

impl Id {
    /// An id unlike any other.
    pub fn mint(unix: Duration) -> Self {
        Self::made(unix, random())
    }

    /// The same id for the same file, whoever makes it and how often: `what` says which file it is, `unix` when it was
    /// begun to be made.
    pub fn derived(unix: Duration, what: &str) -> Self {
        Self::made(unix, xxh3_128(what.as_bytes()))
    }

    /// An id as clients send it.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let fine = digits.len() == TIME + CHANCE && digits.bytes().all(|byte| DIGITS.contains(&byte));
        fine.then(|| Self(text.to_owned()))
    }

    /// When the file was made, since 1970, to the millisecond.
    pub fn time(&self) -> Duration {
        let digits = self.0[PREFIX.len()..].bytes().take(TIME);
        let digit = |byte| DIGITS.iter().position(|digit| *digit == byte).unwrap_or_default() as u64;
        Duration::from_millis(MAX_TIME - digits.fold(0, |number, byte| number << 5 | digit(byte)))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn made(unix: Duration, chance: u128) -> Self {
        let time = MAX_TIME.saturating_sub(unix.as_millis() as u64);
        let mut text = PREFIX.to_owned();
        let mut digit = |number: u128| text.push(char::from(DIGITS[(number & 31) as usize]));
        (0..TIME).rev().for_each(|i| digit(u128::from(time >> (5 * i))));
        text.push_str(&digits(chance));
        Self(text)
    }
}

/// As many digits as make an id unlike any other.
pub(super) fn chance() -> String {
    digits(random())
}

fn digits(number: u128) -> String {
    (0..CHANCE).map(|i| char::from(DIGITS[(number >> (5 * i) & 31) as usize])).collect()
}

fn random() -> u128 {
    let half = || u128::from(crate::chance::number());
    half() << 64 | half()
}

impl TryFrom<String> for Id {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is no id of a file"))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_id_says_when_and_the_newest_comes_first() {
        let times = [0, 1, 1_700_000_000_000, 1_700_000_000_001, 1_800_000_000_000, MAX_TIME];
        let ids: Vec<Id> = times.iter().map(|time| Id::mint(Duration::from_millis(*time))).collect();
        for (id, time) in ids.iter().zip(times) {
            assert_eq!(id.time(), Duration::from_millis(time));
            assert_eq!(Id::parse(id.as_str()).as_ref(), Some(id));
            assert_eq!(id.as_str().len(), 29);
        }
        assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
    }

    #[test]
    fn ids_of_one_moment_differ_and_derived_ones_do_not() {
        let now = Duration::from_secs(1_700_000_000);
        let ids: BTreeSet<Id> = (0..10_000).map(|_| Id::mint(now)).collect();
        assert_eq!(ids.len(), 10_000);
        assert_eq!(Id::derived(now, "batch_1/output"), Id::derived(now, "batch_1/output"));
        assert_ne!(Id::derived(now, "batch_1/output"), Id::derived(now, "batch_1/errors"));
        assert_ne!(Id::derived(now, "a"), Id::derived(now + Duration::from_millis(1), "a"));
    }

    #[test]
    fn what_is_no_id_is_not_taken_for_one() {
        let good = Id::mint(Duration::from_secs(1)).as_str().to_owned();
        for text in [
            "",
            "file-",
            "file-abc123",
            &good[1..],
            &format!("{good}0"),
            &good.to_uppercase(),
            "file-../../../../etc/passwd00",
        ] {
            assert_eq!(Id::parse(text), None, "{text}");
        }
        assert_eq!(Id::parse(&good.replace('0', "z")), None);
    }
}
