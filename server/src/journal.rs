//! The last decisions, so that each of them can be asked about; bounded, oldest out first.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::admin::api::{Attempt, Explanation};

/// The journal.
#[derive(Debug)]
pub struct Journal {
    most: usize,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    entries: VecDeque<Explanation>,
    /// Where each id stands, counted from the first entry ever.
    places: HashMap<String, u64>,
    /// How many have left.
    gone: u64,
}

impl Journal {
    /// A journal of so many decisions; with 0 nothing is kept.
    pub fn new(most: usize) -> Self {
        Self { most, pages: Mutex::default() }
    }

    /// A decision was made. A second one for the same request is a further attempt.
    pub fn decided(&self, entry: impl FnOnce() -> Explanation, id: &str, attempt: Attempt) {
        if self.most == 0 {
            return;
        }
        let mut pages = self.pages.lock();
        if let Some(known) = pages.find(id) {
            known.attempts.push(attempt);
            return;
        }
        if pages.entries.len() == self.most
            && let Some(oldest) = pages.entries.pop_front()
        {
            pages.places.remove(&oldest.id);
            pages.gone += 1;
        }
        let place = pages.gone + pages.entries.len() as u64;
        let mut entry = entry();
        entry.attempts.push(attempt);
        pages.places.insert(entry.id.clone(), place);
        pages.entries.push_back(entry);
    }

    /// A request is known by another id from now on.
    pub fn rename(&self, id: &str, now: &str) {
        let mut pages = self.pages.lock();
        if let Some(entry) = pages.find(id) {
            now.clone_into(&mut entry.id);
            if let Some(place) = pages.places.remove(id) {
                pages.places.insert(now.to_owned(), place);
            }
        }
    }

    /// Something became known of the request.
    pub fn amend(&self, id: &str, change: impl FnOnce(&mut Explanation)) {
        if let Some(entry) = self.pages.lock().find(id) {
            change(entry);
        }
    }

    /// Why a request went where it went, if it is recent enough.
    pub fn explain(&self, id: &str) -> Option<Explanation> {
        self.pages.lock().find(id).cloned()
    }

    /// The ids of the newest decisions, newest first.
    pub fn newest(&self, count: usize) -> Vec<String> {
        self.pages.lock().entries.iter().rev().take(count).map(|entry| entry.id.clone()).collect()
    }
}

impl Pages {
    fn find(&mut self, id: &str) -> Option<&mut Explanation> {
        let place = self.places.get(id)?.checked_sub(self.gone)?;
        self.entries.get_mut(place as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Why;
    use crate::settings::Policy;
    use crate::tokens::Way;

    fn note(journal: &Journal, id: &str, engine: &str) {
        let entry = || Explanation {
            id: id.to_owned(),
            at: 0.0,
            model: "m".to_owned(),
            way: Way::Bytes,
            prompt_tokens: 0,
            policy: Policy::Warm,
            attempts: Vec::new(),
            predicted_tokens: None,
            cached_tokens: None,
            waited_ms: None,
            waited_for: None,
            replica: None,
        };
        let attempt = Attempt {
            engine: engine.to_owned(),
            why: Why::Load,
            candidates: Vec::new(),
            outcome: None,
            first_byte_ms: None,
            total_ms: None,
        };
        journal.decided(entry, id, attempt);
    }

    #[test]
    fn recent_decisions_are_found_with_all_their_attempts_and_old_ones_are_gone() {
        let journal = Journal::new(3);
        for id in ["a", "b", "c", "d"] {
            note(&journal, id, "one");
        }
        note(&journal, "b", "two");
        assert!(journal.explain("a").is_none());
        assert_eq!(journal.explain("b").unwrap().attempts.len(), 2);
        journal.amend("d", |entry| entry.cached_tokens = Some(5));
        assert_eq!(journal.explain("d").unwrap().cached_tokens, Some(5));
        assert_eq!(journal.newest(2), ["d", "c"]);
        journal.rename("c", "e");
        assert_eq!(journal.explain("e").unwrap().id, "e");
        assert!(journal.explain("c").is_none());
        let pages = journal.pages.lock();
        assert_eq!((pages.entries.len(), pages.places.len()), (3, 3));
    }
}
