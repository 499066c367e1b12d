//! Names of shared things, and the shard in which each lives: what one operation touches lies in one shard.

use std::fmt;

use crate::error::Error;

/// Shards of the shared state. Each is one hash slot of a Redis Cluster, and the unit in which loss is noticed.
/// Sixteen spread evenly enough over the usual three to sixteen masters, and a sweep of all costs sixteen calls.
pub const SHARDS: u8 = 16;

/// The longest name. Names are keys in Redis and words in notices: room for a UUID and a path, not for a prompt.
pub const MAX_NAME: usize = 256;

/// One shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

/// A word without spaces: what people and other programs call a thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// A name and the shard in which it lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    shard: Shard,
    name: Name,
}

// === impl Shard ===

impl Shard {
    /// The shard of everything that instances say about themselves.
    pub const REPLICAS: Self = Self(0);

    /// Every shard.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }

    /// Its number.
    pub const fn number(self) -> usize {
        self.0 as usize
    }

    fn of(name: &str) -> Self {
        Self((xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % u64::from(SHARDS)) as u8)
    }
}

// === impl Name ===

impl Name {
    /// # Errors
    /// [`Error::Invalid`]: empty, longer than [`MAX_NAME`], or with a space or a control character in it.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let sane = (1..=MAX_NAME).contains(&name.len())
            && !name.chars().any(|c| c.is_whitespace() || c.is_control());
        if sane {
            Ok(Self(name))
        } else {
            let shown: String = name.chars().take(40).collect();
            Err(Error::Invalid(format!(
                "the name {shown:?} has {} bytes; allowed are 1 to {MAX_NAME}, without spaces and control characters",
                name.len()
            )))
        }
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it lives if nothing else is said.
    pub fn shard(&self) -> Shard {
        Shard::of(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<&str> for Name {
    type Error = Error;
    fn try_from(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

// === impl Key ===

impl Key {
    /// A key in the shard of its own name.
    ///
    /// # Errors
    /// As [`Name::new`].
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = Name::new(name)?;
        Ok(Self { shard: name.shard(), name })
    }

    /// A key in the shard of another name, so that one operation can touch both.
    ///
    /// # Errors
    /// As [`Name::new`].
    pub fn beside(other: &Name, name: impl Into<String>) -> Result<Self, Error> {
        Ok(Self { shard: other.shard(), name: Name::new(name)? })
    }

    /// Its shard.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_spaces_are_taken_and_all_others_are_refused_in_words() {
        for good in ["a", "job:1/ß", &"x".repeat(MAX_NAME)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "a\nb", "a\0", &"x".repeat(MAX_NAME + 1)] {
            let said = Name::new(bad).unwrap_err().to_string();
            assert!(said.contains("allowed are 1 to 256"), "{said}");
        }
    }

    #[test]
    fn shards_are_used_evenly_and_a_key_can_lie_beside_another() {
        let mut used = [0_usize; SHARDS as usize];
        for i in 0..16_000 {
            used[Key::new(format!("job-{i}")).unwrap().shard().number()] += 1;
        }
        assert!(used.iter().all(|count| (800..1_200).contains(count)), "{used:?}");
        let job = Name::new("job-1").unwrap();
        assert_eq!(Key::beside(&job, "effect").unwrap().shard(), job.shard());
    }
}
