//! What every log takes: the bounds of keys and values, the same for all, so that none is found out late.

use super::{Batch, Error};

/// The longest key: its length is written in two bytes.
pub const MAX_KEY: usize = u16::MAX as usize;

/// The longest value: its length is written in four bytes, and nobody reads so much at once who is well.
pub const MAX_VALUE: usize = 1 << 30;

/// Whether a log takes the batch.
///
/// # Errors
/// [`Error::Batch`], which says what is too long or empty.
pub fn check(batch: &Batch) -> Result<(), Error> {
    for edit in batch.edits() {
        let wrong = |why: String| Err(Error::Batch { table: edit.table, why });
        if edit.key.is_empty() {
            return wrong("a key is empty".to_owned());
        }
        if edit.key.len() > MAX_KEY {
            return wrong(format!("a key has {} bytes, {MAX_KEY} are allowed", edit.key.len()));
        }
        let value = edit.value.as_ref().map_or(0, bytes::Bytes::len);
        if value > MAX_VALUE {
            return wrong(format!("a value has {value} bytes, {MAX_VALUE} are allowed"));
        }
    }
    Ok(())
}
