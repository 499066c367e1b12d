//! Kill points: named places in the code at which a test ends the process, as a power cut would.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What happens at named points; nothing, unless a test wants it.
#[derive(Clone, Debug, Default)]
pub struct Points(Option<Arc<Armed>>);

#[derive(Debug)]
struct Armed {
    name: String,
    left: AtomicUsize,
}

impl Points {
    /// Nothing happens.
    pub fn none() -> Self {
        Self(None)
    }

    /// The process is killed when the point of this name is passed for the `nth` time, counted from 1.
    pub fn kill_at(name: &str, nth: usize) -> Self {
        Self(Some(Arc::new(Armed { name: name.to_owned(), left: AtomicUsize::new(nth.max(1)) })))
    }

    /// From a command line: `name` or `name:nth`.
    ///
    /// # Errors
    /// What was found, and the form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
        match nth.parse() {
            Ok(nth) if nth > 0 && !name.is_empty() => Ok(Self::kill_at(name, nth)),
            _ => Err(format!(
                "found `{text}`; allowed is NAME or NAME:NTH, such as settle.last or settle.asked:500"
            )),
        }
    }

    /// A point is passed.
    pub fn pass(&self, name: &str) {
        if let Some(armed) = &self.0
            && armed.name == name
            && armed.left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            // SAFETY: both calls take and give plain numbers.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    }
}
