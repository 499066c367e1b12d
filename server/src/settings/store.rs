//! Settings of the store that engines share: where it is, what its tiers weigh, and how what waits is warmed there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Span;
use super::keys::first_line;
use crate::endpoint;

/// The store as the gateway knows it. With neither `events` nor `address` there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Where its KV events are, such as `tcp://10.0.0.9:5557`; of several masters each, with commas. None: nothing is known of
    /// what it holds.
    pub events: Option<String>,
    /// Where its replay sockets are, in the same order.
    pub replay: Option<String>,
    /// Where it speaks the protocol of Redis, `host:port`; several nodes with commas, the next if one is away. None: nothing is
    /// warmed.
    pub address: Option<String>,
    /// Whose blocks are warmed there. The key decides, where keys are asked for.
    pub tenant: String,
    /// A file whose one line is the key that the store asks for.
    pub key_file: Option<PathBuf>,
    /// Models whose engines use it; empty: all.
    pub models: Vec<String>,
    /// What is left of a prompt token's cost if its block lies in the store's memory.
    pub memory_discount: f64,
    /// The same for its disk.
    pub disk_discount: f64,
    /// Whether what waits, in line or as a job, is warmed.
    pub warm: bool,
    /// Blocks that may be on their way for this replica at a time. More evicts what was warmed before it is used.
    pub warm_blocks: usize,
    /// Among how many of those who wait, those whose turn comes next, something to warm is looked for: requests in line, then
    /// jobs and lines of batches.
    pub warm_requests: usize,
    /// How long the store may take to answer; then it is left alone for a while.
    pub patience: Span,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            events: None,
            replay: None,
            address: None,
            tenant: "default".to_owned(),
            key_file: None,
            models: Vec::new(),
            memory_discount: 0.3,
            disk_discount: 0.6,
            warm: true,
            warm_blocks: 4_096,
            warm_requests: 64,
            patience: Span::seconds(1),
        }
    }
}

impl Store {
    /// What stands in a list with commas.
    pub fn each(list: Option<&str>) -> impl Iterator<Item = &str> {
        list.into_iter().flat_map(|list| list.split(',')).map(str::trim)
    }

    /// Whether all of it makes sense together.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub(super) fn check(&self) -> Result<(), String> {
        for (key, found) in [("events", &self.events), ("replay", &self.replay)] {
            for one in Self::each(found.as_deref()) {
                endpoint::check(one).map_err(|why| format!("store.{key}: {why}"))?;
            }
        }
        let wrong = |key: &str, why: String| Err(format!("store.{key}: {why}"));
        if self.events.is_none() && (self.replay.is_some() || self.address.is_some()) {
            return wrong(
                "events",
                "it is missing; what the store holds is known by its events only".to_owned(),
            );
        }
        let many = |list: &Option<String>| Self::each(list.as_deref()).count();
        if self.replay.is_some() && many(&self.replay) != many(&self.events) {
            return wrong(
                "replay",
                format!(
                    "found {} for {} in events; allowed is one for each",
                    many(&self.replay),
                    many(&self.events)
                ),
            );
        }
        for address in Self::each(self.address.as_deref()) {
            let well = address.parse::<http::uri::Authority>().is_ok_and(|at| at.port_u16().is_some());
            if !well || address.contains('@') {
                return wrong("address", format!("found `{address}`; allowed is host:port"));
            }
        }
        if self.key_file.is_some() && self.address.is_none() {
            return wrong("address", "it is missing, and there is a key_file for it".to_owned());
        }
        if self.tenant.is_empty() || self.tenant.contains(char::is_whitespace) {
            return wrong("tenant", format!("found `{}`; allowed are words without spaces", self.tenant));
        }
        for (key, found) in [("memory_discount", self.memory_discount), ("disk_discount", self.disk_discount)]
        {
            if !(0.0..=1.0).contains(&found) {
                return wrong(key, format!("found {found}; allowed is 0 to 1"));
            }
        }
        for (key, found, most) in
            [("warm_blocks", self.warm_blocks, 1 << 20), ("warm_requests", self.warm_requests, 1 << 12)]
        {
            if !(1..=most).contains(&found) {
                return wrong(
                    key,
                    format!("found {found}; allowed is 1 to {most}; warm = false warms nothing"),
                );
            }
        }
        Ok(())
    }

    /// The key that the store asks for, with the tenant's name.
    ///
    /// # Errors
    /// A file that cannot be read or is empty, in words.
    pub fn key(&self) -> Result<Option<(String, String)>, String> {
        let Some(path) = &self.key_file else { return Ok(None) };
        let key = first_line("store.key_file", path)?;
        Ok(Some((self.tenant.clone(), key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        let events = || Some("tcp://store:5557".to_owned());
        let well = Store { events: events(), address: Some("store:6379".into()), ..Store::default() };
        assert_eq!((well.check(), Store::default().check()), (Ok(()), Ok(())));
        let cases = [
            (
                Store { events: Some("store:5557".into()), ..well.clone() },
                ["store.events", "tcp://host:port"],
            ),
            (Store { replay: Some("udp://x:1".into()), ..well.clone() }, ["store.replay", "tcp://host:port"]),
            (Store { events: None, ..well.clone() }, ["store.events", "missing"]),
            (Store { address: Some("store".into()), ..well.clone() }, ["store.address", "host:port"]),
            (Store { address: Some("key@store:1".into()), ..well.clone() }, ["store.address", "host:port"]),
            (
                Store { address: None, key_file: Some("/k".into()), ..well.clone() },
                ["store.address", "key_file"],
            ),
            (Store { tenant: "a b".into(), ..well.clone() }, ["store.tenant", "a b"]),
            (Store { memory_discount: 1.5, ..well.clone() }, ["store.memory_discount", "0 to 1"]),
            (Store { disk_discount: f64::NAN, ..well.clone() }, ["store.disk_discount", "0 to 1"]),
            (Store { warm_blocks: 0, ..well.clone() }, ["store.warm_blocks", "warm = false"]),
            (Store { warm_requests: 1 << 20, ..well }, ["store.warm_requests", "1 to 4096"]),
        ];
        for (settings, words) in cases {
            let error = settings.check().expect_err("it is wrong");
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn a_key_is_the_first_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let settings = Store { tenant: "a".into(), key_file: Some(path.clone()), ..Store::default() };
        assert!(settings.key().unwrap_err().contains("cannot read"));
        std::fs::write(&path, "\n").unwrap();
        assert!(settings.key().unwrap_err().contains("is empty"));
        std::fs::write(&path, " secret \nmore").unwrap();
        assert_eq!(settings.key(), Ok(Some(("a".to_owned(), "secret".to_owned()))));
    }
}
