//! Kill points: named places between two steps, where a test lets the process die.
//!
//! ```
//! use coord::kit::point::Points;
//!
//! let points = Points::watch();
//! points.pass("settle.sent");
//! assert_eq!(points.passed(), ["settle.sent"]);
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// What happens where a point is passed. All copies are the same; nothing happens by default.
#[derive(Clone, Debug, Default)]
pub struct Points(Option<Arc<Plan>>);

#[derive(Debug)]
enum Plan {
    Kill { name: String, nth: u64, passed: AtomicU64 },
    Watch(Mutex<Vec<String>>),
}

impl Points {
    /// Nothing happens, at the cost of one branch.
    pub fn none() -> Self {
        Self(None)
    }

    /// The process is killed where the point of this name is passed for the nth time (1 is the first).
    pub fn kill_at(name: &str, nth: u64) -> Self {
        Self(Some(Arc::new(Plan::Kill { name: name.to_owned(), nth, passed: AtomicU64::new(0) })))
    }

    /// The names are kept, for [`Points::passed`]; for tests, since nobody forgets them.
    pub fn watch() -> Self {
        Self(Some(Arc::new(Plan::Watch(Mutex::default()))))
    }

    /// What a command line says: `settle.sent:2` kills at the second time.
    ///
    /// # Errors
    /// What the form is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let point = text.rsplit_once(':').and_then(|(name, nth)| Some((name, nth.parse().ok()?)));
        match point {
            Some((name, nth @ 1..)) if !name.is_empty() => Ok(Self::kill_at(name, nth)),
            _ => Err(format!(
                "a kill point is name:nth, such as settle.sent:1 for the first time, not {text:?}"
            )),
        }
    }

    /// The process is at this point.
    #[inline]
    pub fn pass(&self, name: &str) {
        if let Some(plan) = &self.0 {
            plan.pass(name);
        }
    }

    /// The points passed so far, if they are watched.
    pub fn passed(&self) -> Vec<String> {
        match self.0.as_deref() {
            Some(Plan::Watch(names)) => names.lock().clone(),
            _ => Vec::new(),
        }
    }
}

impl Plan {
    #[cold]
    fn pass(&self, at: &str) {
        match self {
            Self::Watch(names) => names.lock().push(at.to_owned()),
            Self::Kill { name, nth, passed } => {
                if name == at && passed.fetch_add(1, Relaxed) + 1 == *nth {
                    // No destructor runs and nothing is flushed: that is the point. The call does not return.
                    // SAFETY: a plain system call.
                    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                }
            }
        }
    }
}
