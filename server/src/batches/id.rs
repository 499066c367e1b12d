//! The id of a batch: opaque to others, for us it says when the batch was made, and the newest comes first.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::files;

const PREFIX: &str = "batch_";
const FILE: &str = "file-";

/// Which batch it is, among all.
///
/// Behind its prefix it is made as the id of a file is: time counted downwards, then chance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Id(String);

impl Id {
    /// An id unlike any other.
    pub fn mint(unix: Duration) -> Self {
        Self(files::Id::mint(unix).as_str().replacen(FILE, PREFIX, 1))
    }

    /// An id as clients send it.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        files::Id::parse(&format!("{FILE}{digits}"))?;
        Some(Self(text.to_owned()))
    }

    /// When the batch was made, since 1970, to the millisecond.
    pub fn time(&self) -> Duration {
        let twin = self.0.replacen(PREFIX, FILE, 1);
        files::Id::parse(&twin).map(|id| id.time()).unwrap_or_default()
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Id {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is no id of a batch"))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_when_and_the_newest_comes_first() {
        let ids: Vec<Id> = (1..5).map(|second| Id::mint(Duration::from_secs(second))).collect();
        for (id, second) in ids.iter().zip(1..) {
            assert_eq!((id.time(), Id::parse(id.as_str()).as_ref()), (Duration::from_secs(second), Some(id)));
        }
        assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
        let good = ids[0].as_str();
        for text in [
            "",
            "batch_",
            "batch_1",
            &good[1..],
            &good.replace("batch_", "file-"),
            "batch_../../../../etc/passwd",
        ] {
            assert_eq!(Id::parse(text), None, "{text}");
        }
    }
}
