//! The file that makes a folder a log: who has it open, and in what state it was left.
//!
//! It is three lines of text, made once and then only overwritten in place, since a full disk must not keep it from being
//! told that something is wrong. It is locked as long as the log is open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::failing;
use crate::log::{Error, stamp};

/// The name of the file.
const NAME: &str = "warmline-queue";

/// The first line. The number is that of the folder's layout; what lies in the tables has its own.
const TITLE: &str = "warmline queue log, folder 1\n";

/// What is always in the root of a disk of its own.
const NOT_OURS_BUT_FINE: &str = "lost+found";

/// Where the log is, and what is known about its last life.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
}

/// What a life tells the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    /// A commit failed: what the kernel holds of the journal may not be what the disk holds. This is true until the
    /// kernel forgets, and then the flag, which is never synced, is forgotten as well.
    Doubt,
    /// Something was committed that was not synced: after a crash of the machine the end of the journal may have holes.
    Loose,
}

impl Mark {
    /// Makes the folder a log if it is nothing yet, and takes the lock.
    pub(super) fn take(folder: &Path) -> Result<Self, Error> {
        let what = || format!("opening the log in {}", folder.display());
        std::fs::create_dir_all(folder).map_err(|source| failing(what(), source))?;
        let path = folder.join(NAME);
        if !path.try_exists().map_err(|source| failing(what(), source))? {
            refuse_strangers(folder)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|source| failing(what(), source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked(folder.display().to_string())),
            Err(TryLockError::Error(source)) => return Err(failing(what(), source)),
        }
        let mark = Self { file, path };
        mark.read_or_write(folder).map_err(|source| failing(what(), source))??;
        Ok(mark)
    }

    /// Whether the last life said so.
    pub(super) fn get(&self, flag: Flag) -> Result<bool, Error> {
        let mut found = [0; 3];
        let read = self.file.read_exact_at(&mut found, flag.at());
        read.map_err(|source| failing(format!("reading {}", self.path.display()), source))?;
        Ok(&found != b"no ")
    }

    /// Tells the next life. It reaches the disk when it pleases, or with [`Mark::sync`].
    pub(super) fn set(&self, flag: Flag, holds: bool) -> Result<(), Error> {
        let word = if holds { b"yes" } else { b"no " };
        let written = self.file.write_all_at(word, flag.at());
        written.map_err(|source| failing(format!("writing {}", self.path.display()), source))
    }

    /// From here on it survives a crash of the machine.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let synced = self.file.sync_all();
        synced.map_err(|source| failing(format!("syncing {}", self.path.display()), source))
    }

    /// A file that is shorter than it should be was left by somebody who died while making the log.
    fn read_or_write(&self, folder: &Path) -> io::Result<Result<(), Error>> {
        let mut found = vec![0; TITLE.len()];
        match self.file.read_exact_at(&mut found, 0) {
            Ok(()) if found == TITLE.as_bytes() => {}
            Ok(()) => return Ok(Err(stranger(folder, &String::from_utf8_lossy(&found)))),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {}
            Err(e) => return Err(e),
        }
        let text = format!("{TITLE}doubt: no \nloose: no \n");
        if self.file.metadata()?.len() < text.len() as u64 {
            self.file.write_all_at(text.as_bytes(), 0)?;
            self.file.sync_all()?;
            sync_folder(folder)?;
            folder.parent().map_or(Ok(()), sync_folder)?;
        }
        Ok(Ok(()))
    }
}

impl Flag {
    /// Where its word is in the file.
    const fn at(self) -> u64 {
        let line = "doubt: no \n".len();
        let word = "doubt: ".len();
        (TITLE.len() + word + self as usize * line) as u64
    }
}

/// Makes the names in a folder survive a crash of the machine.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of a relative name is the empty one.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

fn refuse_strangers(folder: &Path) -> Result<(), Error> {
    let what = || format!("looking into {}", folder.display());
    let mut strangers = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|source| failing(what(), source))? {
        let name =
            entry.map_err(|source| failing(what(), source))?.file_name().to_string_lossy().into_owned();
        if name != NOT_OURS_BUT_FINE {
            strangers.push(name);
        }
    }
    strangers.sort();
    if strangers.is_empty() {
        return Ok(());
    }
    strangers.truncate(3);
    Err(stranger(folder, &strangers.join(", ")))
}

fn stranger(folder: &Path, found: &str) -> Error {
    let place = folder.display();
    Error::Format {
        place: place.to_string(),
        found: format!("that of something else ({}): give the log an empty folder", found.trim_end()),
        known: stamp::FORMAT,
    }
}
