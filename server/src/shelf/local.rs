//! A shelf in a local directory: temporary file, fsync, rename, fsync of the folder.
//!
//! Folders are made when they are needed, for our own user only: what stands here are people's prompts. Several
//! processes may share the directory, also over a network file system that has locks.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tempfile::NamedTempFile;

use super::{Error, Item, Name, Reading, clamp};

/// What a writer gathers before it goes to the disk, and what a reader takes from it at a time: a stream holds one of
/// these, and one more while it moves. Larger would save few system calls, smaller would cost many.
const PIECE: usize = 256 << 10;
/// Where unfinished files lie. No [`Name`] begins with a dot, so none can reach in here.
const UNFINISHED: &str = ".unfinished";
/// How often a folder is made again that is taken away at the same time: once happens when two owners of a batch overlap.
const TRIES: usize = 8;

/// A directory.
pub(super) struct Local(Arc<Path>);

/// A file that nobody sees yet.
///
/// While it lives it holds a lock on the temporary file; [`Local::sweep`] takes away only what nobody holds.
pub(super) struct Writer {
    root: Arc<Path>,
    name: Name,
    /// `None` once a write has failed.
    file: Option<NamedTempFile>,
    gathered: Vec<u8>,
}

// === impl Local ===

impl Local {
    pub(super) fn new(root: PathBuf) -> Self {
        Self(root.into())
    }

    pub(super) async fn put(&self, name: &Name, bytes: Bytes, replace: bool) -> Result<bool, Error> {
        let (root, name) = (self.0.clone(), name.clone());
        blocking(self.0.clone(), move || {
            let mut file = unfinished(&root)?;
            file.write_all(&bytes)?;
            show(&root, &name, file, replace)
        })
        .await
    }

    pub(super) async fn writer(&self, name: &Name) -> Result<Writer, Error> {
        let root = self.0.clone();
        let file = blocking(self.0.clone(), move || unfinished(&root)).await?;
        Ok(Writer { root: self.0.clone(), name: name.clone(), file: Some(file), gathered: Vec::new() })
    }

    pub(super) async fn read(
        &self,
        name: &Name,
        range: Option<Range<u64>>,
    ) -> Result<Option<Reading>, Error> {
        let (root, path) = (self.0.clone(), self.0.join(name.as_str()));
        let opened = blocking(self.0.clone(), move || {
            let Some(mut file) = if_there(File::open(&path))? else { return Ok(None) };
            let size = file.metadata()?.len();
            let range = clamp(range, size);
            file.seek(SeekFrom::Start(range.start))?;
            Ok(Some((file, size, range)))
        });
        let Some((file, size, range)) = opened.await? else { return Ok(None) };
        let left = range.end - range.start;
        let pieces = stream::try_unfold((file, left), move |(mut file, left)| {
            let root = root.clone();
            async move {
                if left == 0 {
                    return Ok(None);
                }
                let piece = move || {
                    let mut piece = vec![0; left.min(PIECE as u64) as usize];
                    file.read_exact(&mut piece)?;
                    Ok((piece, file))
                };
                let (piece, file) = blocking(root, piece).await?;
                let left = left - piece.len() as u64;
                Ok(Some((Bytes::from(piece), (file, left))))
            }
        });
        Ok(Some(Reading { size, range, stream: pieces.boxed() }))
    }

    pub(super) async fn head(&self, name: &Name) -> Result<Option<Item>, Error> {
        let (path, name) = (self.0.join(name.as_str()), name.clone());
        blocking(self.0.clone(), move || {
            Ok(if_there(std::fs::metadata(&path))?.map(|found| item(name, &found)))
        })
        .await
    }

    pub(super) async fn list(
        &self,
        folder: &Name,
        after: Option<&Name>,
        most: usize,
    ) -> Result<Vec<Item>, Error> {
        let (root, folder, after) = (self.0.clone(), folder.clone(), after.cloned());
        blocking(self.0.clone(), move || {
            let mut found = Vec::new();
            let after = after.as_ref().map_or("", Name::as_str);
            walk(&root, &format!("{folder}/"), after, most, &mut found)?;
            Ok(found)
        })
        .await
    }

    pub(super) async fn delete(&self, name: &Name) -> Result<(), Error> {
        let path = self.0.join(name.as_str());
        blocking(self.0.clone(), move || match if_there(std::fs::remove_file(&path))? {
            Some(()) => if_there(sync_folder(above(&path))).map(drop),
            None => Ok(()),
        })
        .await
    }

    pub(super) async fn drop_folder(&self, folder: &Name) -> Result<(), Error> {
        let path = self.0.join(folder.as_str());
        blocking(self.0.clone(), move || match std::fs::remove_dir(&path) {
            Ok(()) => if_there(sync_folder(above(&path))).map(drop),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            gone => if_there(gone).map(drop),
        })
        .await
    }

    pub(super) async fn sweep(&self, unix: Duration) -> Result<usize, Error> {
        let folder = self.0.join(UNFINISHED);
        blocking(self.0.clone(), move || {
            let Some(entries) = if_there(std::fs::read_dir(&folder))? else { return Ok(0) };
            let mut swept = 0;
            for entry in entries {
                swept += usize::from(take_away(&entry?.path(), unix)?);
            }
            Ok(swept)
        })
        .await
    }
}

// === impl Writer ===

impl Writer {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.chunks(PIECE) {
            if self.gathered.len() + piece.len() > PIECE {
                self.flush().await?;
            }
            self.gathered.extend_from_slice(piece);
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<(), Error> {
        self.flush().await?;
        let (root, name, file) = (self.root.clone(), self.name.clone(), self.file.take());
        blocking(self.root.clone(), move || show(&root, &name, file.ok_or(ErrorKind::BrokenPipe)?, true))
            .await
            .map(drop)
    }

    /// What was gathered, to the file. If this is cancelled the file is gone when the disk is done with it.
    async fn flush(&mut self) -> Result<(), Error> {
        let (file, mut gathered) = (self.file.take(), std::mem::take(&mut self.gathered));
        let write = move || {
            let mut file = file.ok_or(ErrorKind::BrokenPipe)?;
            file.write_all(&gathered)?;
            gathered.clear();
            Ok((file, gathered))
        };
        let (file, gathered) = blocking(self.root.clone(), write).await?;
        (self.file, self.gathered) = (Some(file), gathered);
        Ok(())
    }
}

// === Steps, all of them blocking ===

/// A new file that only its holder knows, locked for as long as it is open.
fn unfinished(root: &Path) -> std::io::Result<NamedTempFile> {
    let folder = root.join(UNFINISHED);
    loop {
        let file = match tempfile::Builder::new().prefix("w").tempfile_in(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(&folder)?;
                continue;
            }
            made => made?,
        };
        // A file system may have no locks: then litter is judged by its age.
        if file.as_file().lock().is_err() {
            return Ok(file);
        }
        // Between making and locking it a sweep may have taken it for litter.
        if file.as_file().metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// Makes a file durable, then visible, then its name durable. Says whether the name was free, or could be taken.
fn show(root: &Path, name: &Name, mut file: NamedTempFile, replace: bool) -> std::io::Result<bool> {
    file.as_file().sync_all()?;
    let path = root.join(name.as_str());
    let folder = root.join(name.folder());
    for again in (0..TRIES).rev() {
        // Whoever takes away an empty folder may do so between any two of these steps: then it is made again.
        let taken_away = |error: &std::io::Error| again > 0 && error.kind() == ErrorKind::NotFound;
        match make(&folder) {
            Err(error) if taken_away(&error) => continue,
            made => made?,
        }
        let shown = if replace { file.persist(&path) } else { file.persist_noclobber(&path) };
        match shown {
            Ok(_) => break,
            Err(error) if !replace && error.error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(error) if taken_away(&error.error) => file = error.file,
            Err(error) => return Err(error.error),
        }
    }
    // It may have been taken away already, and its folder with it.
    if_there(sync_folder(&folder))?;
    Ok(true)
}

/// Makes a folder and those above it, each durable in the one above.
fn make(folder: &Path) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => sync_folder(above(folder)),
        Err(_) if folder.is_dir() => Ok(()),
        // It was there, and is not: somebody has just taken it away.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && !folder.exists() => {
            Err(ErrorKind::NotFound.into())
        }
        Err(error) if error.kind() == ErrorKind::NotFound && above(folder) != folder => {
            make(above(folder))?;
            make(folder)
        }
        Err(error) => Err(error),
    }
}

/// The folder above; that of a bare name is the working directory.
fn above(folder: &Path) -> &Path {
    match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        Some(_) => Path::new("."),
        None => folder,
    }
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Takes away one unfinished file if nobody works on it.
fn take_away(path: &Path, unix: Duration) -> std::io::Result<bool> {
    const OLD: Duration = Duration::from_hours(24);
    let Some(file) = if_there(File::open(path))? else { return Ok(false) };
    let left = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        // A file system without locks: nobody uploads for a day.
        Err(TryLockError::Error(_)) => modified(&file.metadata()?) + OLD < unix,
    };
    if !left {
        return Ok(false);
    }
    Ok(if_there(std::fs::remove_file(path))?.is_some())
}

/// Goes through a folder in the order of whole names: that of a folder counts with its slash, as in a bucket. It holds
/// the names of one folder a level at a time.
fn walk(root: &Path, prefix: &str, after: &str, most: usize, found: &mut Vec<Item>) -> std::io::Result<()> {
    let Some(entries) = if_there(std::fs::read_dir(root.join(prefix)))? else { return Ok(()) };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        // What is not ours is not seen.
        let Some(name) = entry.file_name().to_str().map(|last| format!("{prefix}{last}")) else { continue };
        let Ok(name) = Name::new(name) else { continue };
        let folder = entry.file_type()?.is_dir();
        let name = if folder { format!("{name}/") } else { name.as_str().to_owned() };
        // A folder may hold names after its own.
        if name.as_str() > after || (folder && after.starts_with(&name)) {
            names.push(name);
        }
    }
    names.sort_unstable();
    for name in names {
        if found.len() >= most {
            break;
        }
        if name.ends_with('/') {
            walk(root, &name, after, most, found)?;
        } else if let Some(there) = if_there(std::fs::metadata(root.join(&name)))?
            && let Ok(name) = Name::new(name)
        {
            found.push(item(name, &there));
        }
    }
    Ok(())
}

fn item(name: Name, found: &std::fs::Metadata) -> Item {
    Item { name, size: found.len(), modified: modified(found), tag: None }
}

fn modified(found: &std::fs::Metadata) -> Duration {
    let time = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.unwrap_or_default()
}

/// What is not there is an answer, not an error.
fn if_there<T>(done: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match done {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Off the threads that serve connections.
async fn blocking<T: Send + 'static>(
    root: Arc<Path>,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|gone| Err(std::io::Error::other(gone))).map_err(|error| said(&root, &error))
}

/// The system's words, with what to do about them.
pub(super) fn said(root: &Path, error: &std::io::Error) -> Error {
    let place = root.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Error::Full(place.to_string())
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::Denied(format!(
            "{place} cannot be written or read: {error}; give this user the right, or set data.dir to a place it owns"
        )),
        ErrorKind::UnexpectedEof => {
            Error::Damaged(format!("a file in {place} is shorter than it was: {error}"))
        }
        _ => Error::Denied(format!(
            "{place} does not work as a place for files: {error}; set data.dir to one that does"
        )),
    }
}
