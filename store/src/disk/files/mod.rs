//! What the disk asks of a file system, so that tests can put a failing one in its place.
//!
//! [`Real`] is the one of the machine; [`Memory`] has a cache that is lost with the power, fails on command, and passes the
//! same tests.

mod memory;
mod real;

use std::any::Any;
use std::io::{self, IoSlice};
use std::path::Path;

pub use self::memory::{Faults, Memory};
pub use self::real::Real;

/// A file system, as far as it is needed. All of it may block.
pub trait Files: Send + Sync + 'static {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// Those of the file system, here and below.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Locks the file against everybody else, or answers `None` if somebody has it; held until the answer is dropped.
    ///
    /// # Errors
    /// See above.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;

    /// Names of what is in the folder, in any order.
    ///
    /// # Errors
    /// See above.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// A new file, to be read and written.
    ///
    /// # Errors
    /// See above; also if there is one.
    fn make(&self, path: &Path) -> io::Result<Box<dyn Handle>>;

    /// A file that is there, to be read and written.
    ///
    /// # Errors
    /// See above.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Handle>>;

    /// Takes away a name. Whoever has the file open can still read it.
    ///
    /// # Errors
    /// See above.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Which names there are survives a cut of power from now on.
    ///
    /// # Errors
    /// See above.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// A number that nobody can guess.
    fn chance(&self) -> u64;
}

/// An open file. Reading and writing name the place, so that many do it at once.
pub trait Handle: Send + Sync + 'static {
    /// How many bytes it has.
    ///
    /// # Errors
    /// Those of the file system, here and below.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has none.
    ///
    /// # Errors
    /// See above.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads some bytes; none at the end.
    ///
    /// # Errors
    /// See above.
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes some of the bytes.
    ///
    /// # Errors
    /// See above.
    fn write_at(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize>;

    /// Sets room aside up to `len` bytes, which read as zeros. A file system that cannot do so does nothing.
    ///
    /// # Errors
    /// See above.
    fn reserve(&self, len: u64) -> io::Result<()>;

    /// Cuts it off.
    ///
    /// # Errors
    /// See above.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// All of it survives a cut of power from now on.
    ///
    /// # Errors
    /// See above.
    fn sync(&self) -> io::Result<()>;
}

/// Reads until the buffer is full, or the file ends, and says how much that was.
pub(super) fn read_full(file: &dyn Handle, to: &mut [u8], at: u64) -> io::Result<usize> {
    let mut have = 0;
    while have < to.len() {
        match file.read_at(&mut to[have..], at + have as u64) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

/// Reads all of the buffer, or fails.
pub(super) fn read_exact(file: &dyn Handle, to: &mut [u8], at: u64) -> io::Result<()> {
    let have = read_full(file, to, at)?;
    if have == to.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Pieces in one call: what Linux takes.
const PIECES: usize = 1024;

/// Writes all pieces one behind the other, whatever the file system takes at once.
pub(super) fn write_all(file: &dyn Handle, mut pieces: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut pieces, 0);
    while !pieces.is_empty() {
        match file.write_at(&pieces[..pieces.len().min(PIECES)], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut pieces, written);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
