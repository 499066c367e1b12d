//! What outlives the process: who is registered, and, after an orderly end, what was known.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::registry::Registration;

/// A data directory, held by one process at a time.
pub(super) struct Keep {
    folder: PathBuf,
    /// Its lock ends with the process, however that ends.
    _lock: File,
}

/// The registry's file.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// The form of this file.
    version: u32,
    pub(super) streams: Vec<Registration>,
    pub(super) peers: Vec<String>,
}

const VERSION: u32 = 1;
const REGISTRY: &str = "registry.json";
const VIEWS: &str = "views.warmline";

impl Keep {
    /// Opens a data directory, made if need be, and reads what it holds.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn open(folder: &Path) -> Result<(Self, Kept), String> {
        let wrong =
            |what: &str, error: &dyn std::fmt::Display| format!("{}: {what}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(|error| wrong("cannot be made", &error))?;
        let lock =
            File::create(folder.join("lock")).map_err(|error| wrong("cannot be written to", &error))?;
        if let Err(error) = lock.try_lock() {
            return Err(wrong("another process has it", &error));
        }
        let path = folder.join(REGISTRY);
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Kept>(&bytes).map_err(|error| {
                format!(
                    "{} cannot be read: {error}; mend it, or move it away to begin with nobody registered",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Kept { version: VERSION, ..Kept::default() }
            }
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        if kept.version != VERSION {
            return Err(format!(
                "{}: found version {}; this program reads version {VERSION}",
                path.display(),
                kept.version
            ));
        }
        Ok((Self { folder: folder.to_owned(), _lock: lock }, kept))
    }

    /// Writes who is registered; when this returns, it is there for good.
    pub(super) async fn write(&self, streams: Vec<Registration>, peers: Vec<String>) -> Result<(), String> {
        let folder = self.folder.clone();
        let written = tokio::task::spawn_blocking(move || {
            let kept = Kept { version: VERSION, streams, peers };
            let bytes = serde_json::to_vec_pretty(&kept).map_err(std::io::Error::other)?;
            replace(&folder, REGISTRY, &bytes)
        });
        match written.await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Writes what is known, for the next start.
    pub(super) fn write_views(&self, views: &[u8]) -> Result<(), String> {
        replace(&self.folder, VIEWS, views).map_err(|error| format!("{VIEWS}: {error}"))
    }

    /// What was known at the last orderly end.
    pub(super) fn read_views(&self) -> Option<Vec<u8>> {
        let path = self.folder.join(VIEWS);
        match fs::read(&path) {
            Ok(views) => Some(views),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %path.display(), "what was known at the last end cannot be read");
                }
                None
            }
        }
    }

    /// Forgets what was known at the last end: a second start has no use for what is older still.
    pub(super) fn forget_views(&self) {
        // It may never have been there; and what an old view stands at is proved before it is believed.
        let _ = fs::remove_file(self.folder.join(VIEWS));
    }
}

/// The old file or the new one, whatever happens in between.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, folder.join(name))?;
    File::open(folder)?.sync_all()
}
