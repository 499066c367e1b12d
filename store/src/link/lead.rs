//! Who may lead: a lease that lasts until a moment, and a term that is greater than any before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::node::desk::Later;

/// The right to lead, wherever it is had from: a coordinator, or nobody else being there.
pub trait Lead: Send + Sync + 'static {
    /// Waits until this process leads. Dropped, it no longer asks for it.
    fn hold(&self) -> Later<Held>;

    /// Somebody has seen a master of this term: whoever counts terms had forgotten it. The next one held must be greater.
    fn after(&self, term: u32);

    /// Where the master that leads can be reached, if that is known: nodes that come here are told.
    fn leader(&self) -> Option<String> {
        None
    }
}

/// The right to lead, given up when it is dropped.
pub struct Held {
    /// Greater than any that anybody ever held: the fence of the lease. At most [`LAST_TERM`].
    pub term: u32,
    /// The moment until which nobody else can hold it, reckoned from before the lease was asked for or renewed. It moves as
    /// the lease is renewed; a moment that has passed says that it is lost.
    pub until: watch::Receiver<Instant>,
    /// Kept as long as this process leads.
    pub keep: Box<dyn Send + Sync>,
}

/// The last term that there can be: versions have 24 bits for it.
pub const LAST_TERM: u32 = (1 << 24) - 1;

/// Terms that a master believes to have been led beyond one for each minute since 2026: eight years of them. Masters count one
/// each time that they lead, so real ones are not far from the minutes, and a clock may be behind.
const BEYOND: u32 = 1 << 22;
/// Terms that are always left for counting, whatever somebody says to have seen.
pub const SPARE: u32 = 1 << 20;
/// 2026-01-01, in seconds since 1970.
const EPOCH: u64 = 1_767_225_600;

/// Minutes since 2026, at this time since 1970.
pub fn minutes(unix: Duration) -> u32 {
    u32::try_from(unix.as_secs().saturating_sub(EPOCH) / 60).unwrap_or(u32::MAX)
}

/// The last term that a master believes, at this time since 1970, when somebody says to have seen it. It does not depend on
/// what was said before: however often whoever knows the secret says so, terms are not used up.
pub fn credible(unix: Duration) -> u32 {
    minutes(unix).saturating_add(BEYOND).min(LAST_TERM - SPARE)
}

/// Nobody else ever leads: for one master without a coordinator.
#[derive(Debug)]
pub struct Alone {
    term: AtomicU32,
}

/// [`Alone`], with a term that is written down: each start has a greater one than any before.
#[derive(Debug)]
pub struct Noted {
    alone: Alone,
    path: PathBuf,
    /// Locked as long as this process has it.
    file: Mutex<File>,
}

/// As good as for ever.
const ALWAYS: Duration = Duration::from_hours(100 * 365 * 24);

// === impls ===

impl Held {
    /// Whether the lease lasts at this moment, and for how long it certainly will.
    pub fn left(&self) -> Duration {
        left(&self.until)
    }
}

/// How long a lease certainly lasts.
pub(super) fn left(until: &watch::Receiver<Instant>) -> Duration {
    until.borrow().saturating_duration_since(Instant::now())
}

impl Alone {
    /// With this term.
    pub fn new(term: u32) -> Self {
        Self { term: AtomicU32::new(term) }
    }

    fn term(&self) -> u32 {
        self.term.load(Ordering::Acquire)
    }
}

impl Lead for Alone {
    fn after(&self, term: u32) {
        self.term.fetch_max(term.saturating_add(1), Ordering::AcqRel);
    }

    fn hold(&self) -> Later<Held> {
        let term = self.term();
        Box::pin(async move {
            let (always, until) = watch::channel(Instant::now() + ALWAYS);
            Held { term, until, keep: Box::new(always) }
        })
    }
}

impl Noted {
    /// Takes the next term of the ones that are written down in this file, and locks it.
    ///
    /// # Errors
    /// What the system says; `InvalidData` if something else is in the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("the term of the master, {}: {error}", path.display()))
        };
        Self::next(path).map_err(named)
    }

    fn next(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.try_lock().map_err(|_| io::Error::other("another process has it"))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let before = match text.trim() {
            "" => 0,
            written => {
                written.parse::<u32>().map_err(|_| io::Error::other("there is something else in it"))?
            }
        };
        let term = before.saturating_add(1);
        if term > LAST_TERM {
            return Err(io::Error::other("there are no more terms"));
        }
        note(&mut file, term)?;
        let (path, file) = (path.to_owned(), Mutex::new(file));
        Ok(Self { alone: Alone::new(term), path, file })
    }

    /// The term.
    pub fn term(&self) -> u32 {
        self.alone.term()
    }
}

fn note(file: &mut File, term: u32) -> io::Result<()> {
    // As long as what it replaces, or longer: half of it can only be seen as a greater one or as something else.
    file.rewind()?;
    file.write_all(format!("{term:010}\n").as_bytes())?;
    file.sync_all()
}

impl Lead for Noted {
    fn after(&self, term: u32) {
        self.alone.after(term);
        // Written down or not, this process leads in no earlier one; a later process would be told the same.
        if let Err(error) = note(&mut self.file.lock(), self.term()) {
            tracing::warn!(%error, path = %self.path.display(), "the term of the master could not be written down");
        }
    }

    fn hold(&self) -> Later<Held> {
        self.alone.hold()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_a_greater_term_and_one_process_at_a_time_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("term");
        for term in 1..4 {
            let noted = Noted::open(&path).unwrap();
            assert_eq!(noted.term(), term);
            assert!(Noted::open(&path).unwrap_err().to_string().contains("another process"));
        }
        let noted = Noted::open(&path).unwrap();
        noted.after(70);
        assert_eq!(noted.term(), 71, "what somebody has seen is written down as well");
        drop(noted);
        assert_eq!(Noted::open(&path).unwrap().term(), 72);
        std::fs::write(&path, "soon").unwrap();
        assert!(Noted::open(&path).unwrap_err().to_string().contains("something else"));
        for last in [LAST_TERM, u32::MAX] {
            std::fs::write(&path, last.to_string()).unwrap();
            assert!(Noted::open(&path).unwrap_err().to_string().contains("no more terms"));
        }
    }

    #[test]
    fn what_is_believed_grows_with_time_and_always_leaves_terms_to_count() {
        let at = |minutes: u64| Duration::from_secs(EPOCH + minutes * 60);
        assert_eq!((minutes(Duration::ZERO), minutes(at(7))), (0, 7));
        assert_eq!((credible(Duration::ZERO), credible(at(7))), (BEYOND, BEYOND + 7));
        for far in [at(u64::from(LAST_TERM)), at(1 << 40)] {
            assert_eq!(credible(far), LAST_TERM - SPARE);
        }
    }
}
