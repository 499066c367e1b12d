//! What would start next, for whoever prepares something for it: looked at, without holding up whoever decides.

use bytes::Bytes;

use super::Room;
use crate::ledger::{Ledger, Refused};
use crate::name::EntryId;
use crate::scheduler::{Coming, Next, Stands};

/// Entries that are listed at most, whatever is asked for: so many take a tenth of a millisecond under the lock.
const MOST: usize = 256;

impl<P: Send + 'static> Room<P> {
    /// What of the logs that are open here would start next, at most so many: see [`crate::scheduler::Scheduler::ahead`].
    /// Only what is in memory is listed. What should be there and is not is read meanwhile, by whoever reads for decisions:
    /// then [`Self::changes`] says so.
    pub fn ahead(&self, most: usize) -> Vec<Coming> {
        let shared = &self.0.shared;
        let (ahead, reads) = {
            let mut core = shared.core.lock();
            let ahead = core.sched.ahead(most.min(MOST), shared.now());
            let reads = core.sched.read_ahead(&ahead.unread);
            (ahead, reads)
        };
        if reads {
            shared.pump();
        }
        ahead.targets
    }

    /// What has become of entries that were listed.
    pub fn stand_still(&self, listed: &[Next]) -> Vec<Stands> {
        if listed.is_empty() {
            return Vec::new();
        }
        let core = self.0.shared.core.lock();
        listed.iter().map(|next| core.sched.stands(next)).collect()
    }

    /// Grows whenever [`Self::ahead`] may say something else, unless only time has passed.
    pub fn changes(&self) -> u64 {
        self.0.shared.core.lock().sched.changes()
    }

    /// What an entry is. Reads the log: it may block.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn payload(&self, id: EntryId) -> Result<Bytes, Refused> {
        let log = self.0.shared.core.lock().books.get(&id.partition).map(|book| book.log.clone());
        let log = log.ok_or(Refused::NotHere(id.partition))?;
        Ledger::payload(id.seq, &*log)?.ok_or(Refused::Unknown(id))
    }
}
