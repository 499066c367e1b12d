//! The card of a file: what is known of it, and where on the shelf its content lies.

use serde::{Deserialize, Serialize};

use super::id::{self, Id};
use crate::shelf::{Error, Name};

/// The largest card: a file's name of 255 characters, each escaped, and 400 bytes around it.
pub(super) const MAX: u64 = 8 << 10;
/// The form of a card; another one is another program's.
const VERSION: u32 = 1;
/// A tenant's name beyond this is told by its hash.
const MAX_TENANT: usize = 120;

/// One file of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    version: u32,
    /// Its id.
    pub id: Id,
    /// How long its content is.
    pub bytes: u64,
    /// When it was made, in seconds since 1970.
    pub created_at: u64,
    /// When it goes away by itself.
    pub expires_at: Option<u64>,
    /// What its owner calls it.
    pub filename: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Where on the shelf its content lies.
    pub(super) content: Name,
    /// XXH3 of its content: two files with one id are told apart by it.
    digest: String,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Requests of a batch, one a line.
    #[serde(rename = "batch")]
    Batch,
    /// What a batch made of them.
    #[serde(rename = "batch_output")]
    BatchOutput,
    /// For assistants.
    #[serde(rename = "assistants")]
    Assistants,
    /// For evaluations.
    #[serde(rename = "evals")]
    Evals,
    /// For training.
    #[serde(rename = "fine-tune")]
    FineTune,
    /// Anything.
    #[serde(rename = "user_data")]
    UserData,
    /// Pictures.
    #[serde(rename = "vision")]
    Vision,
}

impl Purpose {
    /// Those that a client may give.
    pub const OF_CLIENTS: [Self; 6] =
        [Self::Assistants, Self::Batch, Self::Evals, Self::FineTune, Self::UserData, Self::Vision];

    /// As clients write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::BatchOutput => "batch_output",
            Self::Assistants => "assistants",
            Self::Evals => "evals",
            Self::FineTune => "fine-tune",
            Self::UserData => "user_data",
            Self::Vision => "vision",
        }
    }
}

// === impl File ===

/// What is known when the content is there.
pub(super) struct Known {
    pub(super) id: Id,
    pub(super) bytes: u64,
    pub(super) expires_at: Option<u64>,
    pub(super) filename: String,
    pub(super) purpose: Purpose,
    pub(super) content: Name,
    pub(super) digest: u128,
}

impl File {
    pub(super) fn new(known: Known) -> Self {
        let Known { id, bytes, expires_at, filename, purpose, content, digest } = known;
        Self {
            version: VERSION,
            bytes,
            created_at: id.time().as_secs(),
            expires_at,
            filename,
            purpose,
            content,
            digest: format!("{digest:032x}"),
            id,
        }
    }

    pub(super) fn read(card: &[u8]) -> Result<Self, Error> {
        let damaged = |why: String| Error::Damaged(format!("a file's card cannot be read: {why}"));
        let file: Self = serde_json::from_slice(card).map_err(|error| damaged(error.to_string()))?;
        if file.version != VERSION {
            return Err(damaged(format!(
                "it has version {}, and this program knows {VERSION}",
                file.version
            )));
        }
        Ok(file)
    }

    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }

    /// Whether it is the same file under the same id, wherever its content lies and however long it is kept: `files.keep`
    /// may have changed since the first was made, and its card says what holds.
    pub(super) fn same(&self, other: &Self) -> bool {
        let parts = |file: &Self| {
            let File { id, bytes, filename, purpose, digest, .. } = file.clone();
            (id, bytes, filename, purpose, digest)
        };
        parts(self) == parts(other)
    }
}

// === Places on the shelf ===

/// Where the cards of all tenants are.
pub(super) const CARDS: &str = "cards";
/// Where the contents are.
pub(super) const CONTENTS: &str = "contents";

/// Where a card is.
pub(super) fn place(tenant: Option<&str>, id: &Id) -> Name {
    named(format!("{CARDS}/{}/{id}", space(tenant)))
}

/// The folder of a tenant's cards.
pub(super) fn cards(tenant: Option<&str>) -> Name {
    named(format!("{CARDS}/{}", space(tenant)))
}

/// The folder of a tenant's contents.
pub(super) fn contents(tenant: Option<&str>) -> Name {
    named(format!("{CONTENTS}/{}", space(tenant)))
}

/// A place for content that nobody has used yet: whoever writes under one id at the same time writes elsewhere.
pub(super) fn fresh(tenant: Option<&str>, id: &Id) -> Name {
    named(format!("{CONTENTS}/{}/{id}.{}", space(tenant), id::chance()))
}

/// A tenant's name as part of a path, unlike every other tenant's: `t-` and the name, with what is not a-z, 0-9 or `-`
/// written as `_` and its number. Without tenants: `open`.
pub(crate) fn space(tenant: Option<&str>) -> String {
    let Some(tenant) = tenant else { return "open".to_owned() };
    let mut space = "t-".to_owned();
    for byte in tenant.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => space.push(char::from(byte)),
            other => space.extend(format!("_{other:02x}").chars()),
        }
    }
    if space.len() > MAX_TENANT {
        return format!("h-{:032x}", xxhash_rust::xxh3::xxh3_128(tenant.as_bytes()));
    }
    space
}

fn named(name: String) -> Name {
    Name::new(name).expect("made of parts that are names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_have_places_of_their_own() {
        let long = "x".repeat(500);
        let longer = "x".repeat(501);
        let tenants = ["open", "a", "A", "_41", "a/b", "a_b", "a.b", "..", "ü", "t-a", &long, &longer];
        let mut spaces: Vec<String> = tenants.iter().map(|tenant| space(Some(tenant))).collect();
        spaces.push(space(None));
        for one in &spaces {
            assert!(Name::new(one.as_str()).is_ok() && !one.contains('/') && !one.contains('.'), "{one}");
        }
        let different: std::collections::BTreeSet<_> = spaces.iter().collect();
        assert_eq!(different.len(), spaces.len(), "{spaces:?}");
        assert_eq!(space(Some("Search team")), "t-_53earch_20team");
    }

    #[test]
    fn a_card_is_read_as_it_was_written_and_a_strange_one_is_refused() {
        let id = Id::mint(std::time::Duration::from_secs(1_700_000_000));
        let content = fresh(Some("a"), &id);
        let file = File::new(Known {
            id,
            bytes: 3,
            expires_at: Some(5),
            filename: "ü\"\n.jsonl".to_owned(),
            purpose: Purpose::FineTune,
            content,
            digest: 7,
        });
        assert_eq!(file.created_at, 1_700_000_000);
        assert_eq!(File::read(&file.write()), Ok(file.clone()));
        let text = String::from_utf8(file.write()).unwrap();
        let strange = [
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("contents/", "../"),
            text.replace("fine-tune", "fun"),
            text[1..].to_owned(),
            String::new(),
        ];
        for card in strange {
            assert!(matches!(File::read(card.as_bytes()), Err(Error::Damaged(_))), "{card}");
        }
        let name = "\u{1}".repeat(255);
        assert!((File { filename: name, ..file }).write().len() as u64 + 200 < MAX);
    }

    #[test]
    fn a_purpose_has_the_name_that_it_is_written_with() {
        for purpose in Purpose::OF_CLIENTS.into_iter().chain([Purpose::BatchOutput]) {
            assert_eq!(serde_json::to_value(purpose).unwrap(), purpose.name());
        }
    }
}
