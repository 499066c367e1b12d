//! The key that an operator's door asks for.

use std::path::Path;

use http::{HeaderMap, header};

use crate::settings::keys::first_line;

/// The key that an operator's door asks for, if any.
pub(crate) struct Key(Option<String>);

impl Key {
    /// The first line of a file; without one, anybody may come in.
    ///
    /// # Errors
    /// A file that cannot be read, or is empty, in words.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self(None)) };
        first_line("admin.key_file", path).map(|line| Self(Some(line)))
    }

    /// Whether whoever sent these headers may come in.
    pub(crate) fn opens(&self, headers: &HeaderMap) -> bool {
        let Some(key) = &self.0 else { return true };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        // Hashes are compared, so that the time it takes says nothing about the key.
        let hash = |text: &str| xxhash_rust::xxh3::xxh3_128(text.as_bytes());
        let given = given.and_then(|value| value.strip_prefix("Bearer "));
        given.is_some_and(|given| hash(given) == hash(key) && given == key)
    }
}
