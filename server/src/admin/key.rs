//! The key that an operator's door asks for.

use std::path::Path;

use http::{HeaderMap, header};

/// The key that an operator's door asks for, if any.
pub(crate) struct Key(Option<String>);

impl Key {
    /// The first line of a file; without one, anybody may come in.
    ///
    /// # Errors
    /// A file that cannot be read, or is empty, in words.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self(None)) };
        let text = std::fs::read_to_string(path);
        let text =
            text.map_err(|error| format!("admin.key_file: cannot read {}: {error}", path.display()))?;
        let line = text.lines().next().unwrap_or_default().trim().to_owned();
        if line.is_empty() {
            return Err(format!("admin.key_file: {} is empty", path.display()));
        }
        Ok(Self(Some(line)))
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
