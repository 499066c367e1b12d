//! What is returned when something does not fit: a number for programs, words for people, and no panic.

use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why nothing was said. The numbers are `enum warmline_code` of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Trouble {
    /// A pointer is NULL that must not be, or is not aligned.
    Pointer = -1,
    /// Counts do not fit together, or are absurd.
    Count = -2,
    /// Nobody has heard of this tier.
    Tier = -3,
    /// A text is not UTF-8.
    Text = -4,
    /// A structure is not one that this library knows.
    Struct = -5,
    /// The publisher's threads are in another process.
    Forked = -6,
    /// A block hash that is no block hash.
    Hash = -7,
    /// Something panicked.
    Defect = -8,
}

/// `WARMLINE_OK`.
pub(crate) const OK: c_int = 0;

// === impl Trouble ===

impl Trouble {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Pointer,
        Self::Count,
        Self::Tier,
        Self::Text,
        Self::Struct,
        Self::Forked,
        Self::Hash,
        Self::Defect,
    ];

    /// What it means, and what to do.
    pub const fn words(self) -> &'static CStr {
        match self {
            Self::Pointer => c"a pointer is NULL that must not be, or is not aligned for what it points to",
            Self::Count => {
                c"the token ids are not block_size for each block, or there are more than 1048576 blocks in one call"
            }
            Self::Tier => c"the tier is not one of WARMLINE_DEVICE, _HOST, _DISK and _STORE",
            Self::Text => c"a text is not UTF-8",
            Self::Struct => {
                c"struct_size is not the size of the structure, or fields that this library does not know are not 0"
            }
            Self::Forked => {
                c"the publisher was started before this process was forked; start another one in this process"
            }
            Self::Hash => c"a block hash has 1 to 32 bytes",
            Self::Defect => c"a defect of the library, which has said more on standard error",
        }
    }
}

/// The words for any number.
pub(crate) fn words(code: c_int) -> &'static CStr {
    if code == OK {
        return c"no error";
    }
    Trouble::ALL
        .iter()
        .find(|trouble| **trouble as c_int == code)
        .map_or(c"not a code of this library", |trouble| trouble.words())
}

/// Does what a function is for; whatever happens comes back as a number.
pub(crate) fn answer(work: impl FnOnce() -> Result<(), Trouble>) -> c_int {
    match caught(work) {
        Some(Ok(())) => OK,
        Some(Err(trouble)) => trouble as c_int,
        None => Trouble::Defect as c_int,
    }
}

/// What the work comes to, or nothing if it panicked.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    // What a panic leaves behind here is only ever lent or dropped whole.
    catch_unwind(AssertUnwindSafe(work)).map_err(std::mem::forget).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_number() {
        assert_eq!(answer(|| panic!("on purpose")), -8);
        assert_eq!((answer(|| Ok(())), answer(|| Err(Trouble::Tier))), (0, -3));
    }

    #[test]
    fn every_number_has_words_of_its_own() {
        let all: std::collections::BTreeSet<_> = (-9..=1).map(words).collect();
        assert_eq!(all.len(), 10, "0, eight troubles, and one text for all that is no code");
        assert_eq!(words(c_int::MIN), words(1));
    }
}
