//! The connection to the store over which it is told what will be read.
//!
//! What was asked belongs to the connection: a connection that breaks takes all of it back. So there is one, kept open, and
//! whoever loses it begins anew. A store that is away, slow, or refuses is left alone for a while, longer each time.

use std::time::Duration;

use store::client::{Client, Error, Options, Reply};

use super::plan::Ask;

/// The way to the store.
pub(super) struct Link {
    /// Nodes of it, any of which will do.
    addresses: Vec<String>,
    /// Which of them is asked.
    at: usize,
    options: Options,
    client: Option<Client>,
    /// Until then it is left alone.
    shunned_until: Duration,
    pause: Duration,
    pub(super) trouble: Option<String>,
}

/// The first pause after a failure, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Names in one command that takes back.
const NAMES: usize = 1_024;

impl Link {
    pub(super) fn new(addresses: Vec<String>, key: Option<(String, String)>, patience: Duration) -> Self {
        let options = Options { key, patience, largest: 1 << 20 };
        Self {
            addresses,
            at: 0,
            options,
            client: None,
            shunned_until: Duration::ZERO,
            pause: PAUSE.0,
            trouble: None,
        }
    }

    /// Whether it makes sense to try.
    pub(super) fn may(&self, now: Duration) -> bool {
        self.client.is_some() || now >= self.shunned_until
    }

    pub(super) fn is_open(&self) -> bool {
        self.client.is_some()
    }

    /// Says what will be read; how many objects are on their way by the store's own word.
    pub(super) async fn warm(&mut self, ask: &Ask) -> Result<u64, Error> {
        let millis = ask.within.as_millis().max(1).to_string();
        let name = ask.id.to_string();
        let blocks: Vec<String> = ask.blocks.iter().map(|block| format!("{:016x}", block.prefix)).collect();
        let mut words: Vec<&[u8]> = vec![b"WARM", name.as_bytes(), millis.as_bytes(), b"BLOCKS"];
        words.extend(blocks.iter().map(String::as_bytes));
        // How many are known, and how many are on their way.
        let told = self.say(&words).await?.list()?;
        let pending = told.into_iter().last().map_or(Ok(0), Reply::number)?;
        Ok(u64::try_from(pending).unwrap_or(0))
    }

    /// Takes back what was said.
    pub(super) async fn cool(&mut self, ids: &[u64]) -> Result<(), Error> {
        for ids in ids.chunks(NAMES) {
            let names: Vec<String> = ids.iter().map(u64::to_string).collect();
            let words: Vec<&[u8]> =
                std::iter::once("COOL").chain(names.iter().map(String::as_str)).map(str::as_bytes).collect();
            self.say(&words).await?;
        }
        Ok(())
    }

    /// It is away, slow, or refuses.
    pub(super) fn failed(&mut self, error: &Error, now: Duration) {
        let why = match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        if self.trouble.is_none() {
            tracing::warn!(
                store = self.address(),
                why,
                "the store does not warm what waits; requests go on without"
            );
        }
        self.trouble = Some(why);
        // Whatever it has been asked is taken back with the connection.
        self.client = None;
        self.at += 1;
        // The next one is asked at once; all of them have a rest after a round.
        if self.at.is_multiple_of(self.addresses.len().max(1)) {
            self.shunned_until = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
    }

    fn address(&self) -> &str {
        let at = self.at % self.addresses.len().max(1);
        self.addresses.get(at).map_or("", String::as_str)
    }

    async fn say(&mut self, words: &[&[u8]]) -> Result<Reply, Error> {
        let client = if let Some(client) = &mut self.client {
            client
        } else {
            let client = Client::connect(self.address(), self.options.clone()).await?;
            self.client.insert(client)
        };
        let reply = match client.one(words).await? {
            Reply::Refused(refusal) => return Err(refusal.into()),
            reply => reply,
        };
        if self.trouble.take().is_some() {
            tracing::info!(store = self.address(), "the store warms what waits again");
        }
        self.pause = PAUSE.0;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_node_is_asked_at_once_and_all_have_a_rest_after_a_round() {
        let nodes = ["a:1", "b:2"].map(str::to_owned).to_vec();
        let mut link = Link::new(nodes, None, Duration::from_secs(1));
        let error = || Error::from(std::io::Error::other("away"));
        let at = Duration::from_secs;
        assert_eq!((link.address(), link.may(at(0))), ("a:1", true));
        link.failed(&error(), at(10));
        assert_eq!((link.address(), link.may(at(10))), ("b:2", true));
        link.failed(&error(), at(10));
        assert_eq!((link.address(), link.may(at(10)), link.may(at(11))), ("a:1", false, true));
        assert!(link.trouble.as_ref().is_some_and(|why| why.contains("away")));
        // Each rest is longer, up to a bound.
        for round in 0..10 {
            link.failed(&error(), at(100 * round));
            link.failed(&error(), at(100 * round));
        }
        assert!(!link.may(at(900) + PAUSE.1 / 2) && link.may(at(900) + PAUSE.1));
    }
}
