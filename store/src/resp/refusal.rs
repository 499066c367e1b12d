//! Why something was refused: a word that programs match, and words for people.

use std::borrow::Cow;
use std::fmt;

/// The word that an error answer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// What was asked makes no sense, or is not done here.
    Err,
    /// There is no space, and none could be made in time. Ask again later, or another node.
    Full,
    /// The tenant holds as much as it may.
    Quota,
    /// Another node answers for this key.
    WrongNode,
    /// Say who you are first.
    NoAuth,
    /// That key opens nothing.
    WrongPass,
    /// That version of the protocol is not spoken.
    NoProto,
    /// Too much is under way. Ask again.
    Busy,
    /// Larger than the settings allow.
    TooLarge,
    /// A disk or another machine failed; the object may still be there.
    Unavailable,
    /// The server is coming up.
    Loading,
    /// A word that this program does not know; it leads the words.
    Other,
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people. It never spans lines: what does is flattened where it is written.
    pub words: Cow<'static, str>,
}

// === impl Code ===

impl Code {
    /// Every code, in the order of their counters.
    pub const ALL: [Self; 12] = [
        Self::Err,
        Self::Full,
        Self::Quota,
        Self::WrongNode,
        Self::NoAuth,
        Self::WrongPass,
        Self::NoProto,
        Self::Busy,
        Self::TooLarge,
        Self::Unavailable,
        Self::Loading,
        Self::Other,
    ];

    /// The word on the wire; empty for [`Code::Other`], whose words bring their own.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Err => "ERR",
            Self::Full => "FULL",
            Self::Quota => "QUOTA",
            Self::WrongNode => "WRONGNODE",
            Self::NoAuth => "NOAUTH",
            Self::WrongPass => "WRONGPASS",
            Self::NoProto => "NOPROTO",
            Self::Busy => "BUSY",
            Self::TooLarge => "TOOLARGE",
            Self::Unavailable => "UNAVAILABLE",
            Self::Loading => "LOADING",
            Self::Other => "",
        }
    }
}

// === impl Refusal ===

impl Refusal {
    /// A refusal with this code.
    pub fn new(code: Code, words: impl Into<Cow<'static, str>>) -> Self {
        Self { code, words: words.into() }
    }

    /// A refusal that says `ERR`.
    pub fn err(words: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Err, words)
    }

    /// No space for `len` bytes.
    pub fn full(len: usize) -> Self {
        Self::new(Code::Full, format!("no space for {len} bytes, and none could be made in time"))
    }

    /// Nobody has said who they are.
    pub const fn no_auth() -> Self {
        Self { code: Code::NoAuth, words: Cow::Borrowed("Authentication required.") }
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn read(line: &str) -> Self {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match Code::ALL.into_iter().find(|code| *code != Code::Other && code.word() == word) {
            Some(code) => Self::new(code, rest.to_owned()),
            None => Self::new(Code::Other, line.to_owned()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Code::Other => f.write_str(&self.words),
            code => write!(f, "{} {}", code.word(), self.words),
        }
    }
}
