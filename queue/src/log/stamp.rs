//! Which format a log is in: one row, written when the log is made, read before anything else is.

use bytes::Bytes;

use super::{Error, Table};

/// The format that this program writes and reads: of keys, of values and of what lies in which table; `docs/format.md` draws
/// it.
pub const FORMAT: u32 = 1;

/// Where the row is.
pub const TABLE: Table = Table::Meta;

/// Its key in [`TABLE`].
pub const KEY: &[u8] = b"format";

/// Its value: four bytes, the largest first.
pub fn value() -> Bytes {
    Bytes::copy_from_slice(&FORMAT.to_be_bytes())
}

/// Whether this program knows the format of the row it found.
///
/// # Errors
/// [`Error::Format`], which says what was found at `place`.
pub fn check(found: &[u8], place: &str) -> Result<(), Error> {
    if found == value() {
        return Ok(());
    }
    let found = match <[u8; 4]>::try_from(found) {
        Ok(bytes) => u32::from_be_bytes(bytes).to_string(),
        Err(_) => format!("{} bytes that are no number of a format", found.len()),
    };
    Err(Error::Format { place: place.to_owned(), found, known: FORMAT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_is_not_ours_is_named() {
        assert!(check(&value(), "here").is_ok());
        let future = check(&7_u32.to_be_bytes(), "/data").unwrap_err().to_string();
        assert_eq!(future, "/data: its format is 7, this program knows 1");
        let noise = check(b"abc", "/data").unwrap_err().to_string();
        assert_eq!(
            noise,
            "/data: its format is 3 bytes that are no number of a format, this program knows 1"
        );
    }
}
