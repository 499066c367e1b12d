//! Names on a shelf: safe as a path and as an S3 key by construction.

use serde::{Deserialize, Serialize};

/// The longest name. S3 takes 1,024 bytes, of which the operator's prefix has its share.
const MAX_NAME: usize = 512;
/// The longest part between two slashes: file systems take 255 bytes.
const MAX_PART: usize = 200;

/// Parts of `a-z 0-9 _ . -` with a slash between them. No part begins with a dot, so that none is `..` and none is a
/// folder of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// A name, if it is one.
    ///
    /// # Errors
    /// What was found and what is allowed.
    pub fn new(name: impl Into<String>) -> Result<Self, String> {
        let name = name.into();
        let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
        let fine = |part: &str| {
            !part.is_empty() && part.len() <= MAX_PART && !part.starts_with('.') && part.bytes().all(known)
        };
        if name.len() > MAX_NAME || !name.split('/').all(fine) {
            return Err(format!(
                "`{}` is no name: allowed are parts of a-z, 0-9, _, . and - with / between them, none empty, none \
                 beginning with a dot, {MAX_PART} bytes each and {MAX_NAME} together",
                name.chars().take(80).collect::<String>().escape_debug()
            ));
        }
        Ok(Self(name))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the last slash.
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// What comes before the last slash.
    pub fn folder(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::new(name)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_everywhere_is_a_name() {
        let long = "a".repeat(MAX_PART);
        for name in ["a", "a/b", "meta/t-x/file-0.1_2", "a..b", &long] {
            assert_eq!(Name::new(name).map(|name| name.as_str().to_owned()), Ok(name.to_owned()));
        }
        let longer = "a".repeat(MAX_PART + 1);
        let deep = "ab/".repeat(MAX_NAME / 3) + "abc";
        let refused = [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", ".", "./a", ".tmp/x", "a/.b", "A", "a b", "a\\b",
            "ü", "a\0", "a%2e", &longer, &deep,
        ];
        for name in refused {
            let error = Name::new(name).expect_err(name);
            assert!(error.contains("allowed"), "{error}");
        }
    }

    #[test]
    fn a_name_knows_its_folder() {
        let name = Name::new("a/b/c").unwrap();
        assert_eq!((name.folder(), name.last()), ("a/b", "c"));
        let name = Name::new("c").unwrap();
        assert_eq!((name.folder(), name.last()), ("", "c"));
    }
}
