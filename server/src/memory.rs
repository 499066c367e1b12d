//! Memory that was needed once goes back to the system.
//!
//! A view that is built anew holds, for a moment, all that its source told: ten times what is left of it. The allocator
//! keeps that for later; this process may never need as much again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Set when much was freed, or soon will be.
static FREED: AtomicBool = AtomicBool::new(false);
/// Whoever says that much will be freed is done with it by then.
const SOON: Duration = Duration::from_secs(1);

/// Says that much memory is about to be freed.
pub fn much_is_freed() {
    FREED.store(true, Ordering::Relaxed);
}

/// Gives memory back whenever much was freed, for as long as the process lives.
pub async fn give_back() {
    loop {
        tokio::time::sleep(SOON).await;
        if FREED.swap(false, Ordering::Relaxed) {
            tokio::time::sleep(SOON).await;
            // It takes milliseconds, and the allocator's lock: not on a thread that answers. That it was done is all
            // there is to know.
            drop(tokio::task::spawn_blocking(trim).await);
        }
    }
}

fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it takes no pointer and may be called at any time, from any thread.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
