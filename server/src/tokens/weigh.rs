//! How many values a JSON text holds, counted without keeping any.
//!
//! A body of `[[],[],[]…` is small, and large once it is parsed: some 30 times. Counting first keeps a client from
//! turning the largest body into half a gigabyte.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Values that one argument of a chat may hold. A parsed value takes about 100 bytes, so this is some 10 MB; a
/// conversation of 10,000 messages has 30,000.
const MOST: usize = 100_000;

/// Texts up to here cannot hold enough values to matter: 64 KiB of `[],` are 22,000.
const LIGHT: usize = 64 << 10;

/// Whether a JSON text may be parsed into values.
///
/// # Errors
/// When it holds too many, or is not JSON.
pub(super) fn fits(json: &str) -> serde_json::Result<()> {
    if json.len() <= LIGHT { Ok(()) } else { serde_json::from_str::<Count>(json).map(drop) }
}

struct Count(usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Counter)
    }
}

struct Counter;

impl<'de> Visitor<'de> for Counter {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
        Ok(Count(1))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Count, E> {
        Ok(Count(1))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Count, E> {
        Ok(Count(1))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Count, E> {
        Ok(Count(1))
    }

    fn visit_str<E>(self, _: &str) -> Result<Count, E> {
        Ok(Count(1))
    }

    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count(1))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Count, A::Error> {
        let mut count = 1;
        while let Some(Count(more)) = items.next_element()? {
            count = added(count, more)?;
        }
        Ok(Count(count))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Count, A::Error> {
        let mut count = 1;
        while let Some((IgnoredAny, Count(more))) = entries.next_entry()? {
            count = added(count, more)?;
        }
        Ok(Count(count))
    }
}

fn added<E: Error>(count: usize, more: usize) -> Result<usize, E> {
    let sum = count + more;
    if sum <= MOST { Ok(sum) } else { Err(E::custom(format_args!("more than {MOST} values"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grows_when_parsed_is_refused() {
        let many = |item: &str, times: usize| format!("[{}]", vec![item; times].join(","));
        assert!(fits(&many("[]", 90_000)).is_ok());
        assert!(fits(&many("[]", 110_000)).is_err());
        assert!(fits(&many(r#"{"a":1}"#, 60_000)).is_err());
        assert!(fits(&many(&format!("\"{}\"", "[],".repeat(1_000)), 1_000)).is_ok());
        assert!(fits(&"[".repeat(LIGHT + 1)).is_err());
    }
}
