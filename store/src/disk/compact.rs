//! Compaction: what is still needed of segments that are mostly dead is moved together, and the segments go.
//!
//! 1. What is needed is copied, with its number, into a new segment, which is sealed and synced.
//! 2. The index is told; a reader that has the old segment open goes on reading there.
//! 3. The old segments are taken away, and that is synced.
//! 4. Only then are deletions given up that covered nothing else: before, a cut of power could have brought the puts back.
//!
//! After a crash in between an object is there twice, with one number; either will do.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::error::Error;
use super::format::{Copy, HEAD, Head, Kind, SEGMENT_HEAD, TRAILER};
use super::index::Use;
use super::options::Options;
use super::recover;
use super::report::Counts;
use super::segment::Segment;

/// Bytes that are copied at once.
const STEP: usize = 1 << 20;

/// What is known of a segment when one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) number: u32,
    pub(super) size: u64,
    pub(super) needed: u64,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that are gone.
    pub segments: u64,
    /// Bytes that were moved.
    pub moved: u64,
    /// Bytes that are free now.
    pub freed: u64,
}

/// Hears how many bytes were copied, and says whether to go on.
pub(super) type Pace<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Which segments are compacted together: the deadest first, as many as fit into one. Small ones, which each start leaves
/// behind, are moved together when there are some.
pub(super) fn choose(mut all: Vec<Candidate>, options: &Options, pressed: bool) -> Vec<Candidate> {
    let least = if pressed { 12 } else { u64::from(options.dead_percent) };
    let dead = |one: &Candidate| one.size.saturating_sub(one.needed + SEGMENT_HEAD + TRAILER as u64);
    let worth = |one: &Candidate| dead(one) * 100 >= one.size * least && dead(one) > 0;
    let small = |one: &Candidate| one.size < options.segment_bytes / 8;
    let many_small = all.iter().filter(|one| small(one)).count() >= 8;
    all.retain(|one| worth(one) || (many_small && small(one)));
    all.sort_by_key(|one| (dead(one) * 1000 / one.size.max(1), one.number));
    let mut chosen = Vec::new();
    let mut sum = SEGMENT_HEAD + TRAILER as u64;
    while let Some(one) = all.pop() {
        if sum + one.needed > options.segment_bytes && !chosen.is_empty() && one.needed > 0 {
            continue;
        }
        sum += one.needed;
        chosen.push(one);
    }
    chosen
}

impl Core {
    /// Compacts once; `None` if nothing is worth it.
    pub(super) fn compact(&self, pace: Pace<'_>) -> Result<Option<Compacted>, Error> {
        let _one = self.compacting.lock();
        self.must_be_well()?;
        let chosen = choose(self.candidates(), &self.options, self.is_pressed());
        if chosen.is_empty() {
            return Ok(None);
        }
        let victims: Vec<Arc<Segment>> = {
            let segments = self.segments.read();
            chosen.iter().filter_map(|one| segments.get(&one.number).cloned()).collect()
        };
        let before = self.on_disk.load(Ordering::Relaxed);
        let Some(moved) = self.gather(&victims, pace)? else { return Ok(None) };
        for victim in &victims {
            self.retire(victim)?;
        }
        let freed = before.saturating_sub(self.on_disk.load(Ordering::Relaxed));
        Counts::add(&self.counts.compactions, 1);
        Counts::add(&self.counts.moved_bytes, moved);
        Counts::add(&self.counts.freed_bytes, freed);
        Ok(Some(Compacted { segments: victims.len() as u64, moved, freed }))
    }

    fn candidates(&self) -> Vec<Candidate> {
        let segments = self.segments.read();
        let whole = segments.values().filter(|segment| segment.is_sealed() && !segment.is_stuck());
        whole.map(|one| Candidate { number: one.number, size: one.size(), needed: one.needed() }).collect()
    }

    /// Whether little of the budget is left.
    pub(super) fn is_pressed(&self) -> bool {
        let usable = self.options.budget_bytes - self.options.kept();
        self.on_disk.load(Ordering::Relaxed) + self.options.segment_bytes > usable / 10 * 9
    }

    /// Copies what is needed and tells the index; `None` if it was told to stop.
    fn gather(&self, victims: &[Arc<Segment>], pace: Pace<'_>) -> Result<Option<u64>, Error> {
        let needed: u64 = victims.iter().map(|victim| victim.needed()).sum();
        if needed == 0 {
            return Ok(Some(0));
        }
        let room = needed + SEGMENT_HEAD + TRAILER as u64;
        if self.on_disk.load(Ordering::Relaxed) + room > self.options.budget_bytes {
            return Err(self.full(0, room));
        }
        let segment = self.begin(room)?;
        let mut output = Output { segment, end: SEGMENT_HEAD, footer: Vec::new(), moved: Vec::new() };
        for (from, victim) in victims.iter().enumerate() {
            match self.copy((from, victim), &mut output, pace) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(Stopped::Reading(error)) => {
                    // A segment that cannot be read is left to its readers, who are told what is wrong.
                    tracing::warn!(%error, segment = %victim.path.display(), "a segment cannot be compacted");
                    victim.give_up();
                }
                Err(Stopped::Writing(e)) => {
                    self.discard(&output.segment, room);
                    return Err(Error::io(format!("compacting into {}", output.segment.path.display()), e));
                }
            }
            self.discard(&output.segment, room);
            return Ok(None);
        }
        if let Err(e) = self.must_be_well() {
            self.discard(&output.segment, room);
            return Err(e);
        }
        let Output { segment, end, footer, moved } = output;
        let sealed = segment.seal(end, moved.len() as u64, footer);
        if let Err(e) = sealed {
            if Error::no_space(&e) {
                self.discard(&segment, room);
                return Err(Error::NoSpace(format!("compacting into {}: {e}", segment.path.display())));
            }
            return Err(self.give_up("sealing", segment.number, e));
        }
        self.shrunk(room, segment.size());
        for (from, head, names) in moved {
            self.index.moved(&head, &names, &victims[from], &segment);
        }
        Ok(Some(end - SEGMENT_HEAD))
    }

    /// Copies what is needed of one segment; `false` if it was told to stop.
    fn copy(
        &self,
        (from, victim): (usize, &Segment),
        output: &mut Output,
        pace: Pace<'_>,
    ) -> Result<bool, Stopped> {
        let mut needed = Vec::new();
        recover::read(victim, &mut |head, names| {
            if self.index.use_of(&head, names, victim.number) == Use::Needed {
                needed.push((head, names.to_vec()));
            }
        })
        .map_err(Stopped::Reading)?;
        for (head, names) in needed {
            output.append(victim, from, head, names)?;
            if !pace(head.size().record()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes away a segment of which nothing is needed any more, and what it was needed for.
    fn retire(&self, victim: &Segment) -> Result<(), Error> {
        self.must_be_well()?;
        let mut puts = Vec::new();
        let read = recover::read(victim, &mut |head, names| {
            if head.kind == Kind::Put {
                puts.push((head, names.to_vec()));
            }
        });
        if let Err(error) = read {
            // Deletions that cover what was in it stay until the next start: that costs a little room, and nothing else.
            tracing::warn!(%error, segment = %victim.path.display(), "a segment that goes cannot be read");
            puts.clear();
        }
        let gone = self.files.remove(&victim.path).and_then(|()| self.files.sync_folder(&self.folder));
        gone.map_err(|e| self.give_up("removing", victim.number, e))?;
        for (head, names) in puts {
            self.index.forget(&head, &names, victim.number, &self.segments.read());
        }
        self.segments.write().remove(&victim.number);
        self.on_disk.fetch_sub(victim.size(), Ordering::Relaxed);
        Ok(())
    }

    /// Takes away an output that nobody was told of.
    fn discard(&self, output: &Segment, room: u64) {
        self.segments.write().remove(&output.number);
        if self.files.remove(&output.path).is_ok() {
            self.on_disk.fetch_sub(room, Ordering::Relaxed);
        }
    }
}

/// Why copying stopped.
enum Stopped {
    Reading(io::Error),
    Writing(io::Error),
}

/// The segment into which things are moved.
struct Output {
    segment: Arc<Segment>,
    end: u64,
    footer: Vec<u8>,
    /// From which victim, as what, under which names.
    moved: Vec<(usize, Head, Vec<u8>)>,
}

impl Output {
    /// Copies one record. Its value is not verified here: it keeps its hash, so what was damaged stays damaged.
    fn append(&mut self, from: &Segment, victim: usize, head: Head, names: Vec<u8>) -> Result<(), Stopped> {
        let size = head.size();
        let moved = Head { at: self.end, batch: self.end, settled: false, ..head };
        let mut bytes = Vec::new();
        moved.encode(Copy::Head, self.segment.salt, &names, &mut bytes);
        self.segment.write(&mut [IoSlice::new(&bytes)], self.end).map_err(Stopped::Writing)?;
        let skipped = (HEAD + size.names) as u64;
        let mut at = skipped;
        let mut buffer = vec![0; STEP.min((size.to_repeat() - skipped) as usize)];
        while at < size.to_repeat() {
            let many = buffer.len().min((size.to_repeat() - at) as usize);
            from.read(&mut buffer[..many], head.at + at).map_err(Stopped::Reading)?;
            self.segment
                .write(&mut [IoSlice::new(&buffer[..many])], self.end + at)
                .map_err(Stopped::Writing)?;
            at += many as u64;
        }
        bytes.clear();
        moved.encode(Copy::Repeat, self.segment.salt, &names, &mut bytes);
        bytes.resize((size.record() - size.to_repeat()) as usize, 0);
        self.segment
            .write(&mut [IoSlice::new(&bytes)], self.end + size.to_repeat())
            .map_err(Stopped::Writing)?;
        moved.encode(Copy::Footer, self.segment.salt, &names, &mut self.footer);
        self.end += size.record();
        self.moved.push((victim, moved, names));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { segment_bytes: 1_000_000, budget_bytes: 8_000_000, ..Options::default() }
    }

    fn chosen(all: &[(u32, u64, u64)], pressed: bool) -> Vec<u32> {
        let all = all.iter().map(|(number, size, needed)| Candidate {
            number: *number,
            size: *size,
            needed: *needed,
        });
        choose(all.collect(), &options(), pressed).iter().map(|one| one.number).collect()
    }

    #[test]
    fn the_deadest_go_first_and_together_as_many_as_fit_into_one() {
        let all =
            [(1, 1_000_000, 400_000), (2, 1_000_000, 600_000), (3, 1_000_000, 100_000), (4, 1_000_000, 0)];
        assert_eq!(chosen(&all, false), [4, 3, 1]);
        assert_eq!(
            chosen(&[(1, 1_000_000, 490_000), (2, 1_000_000, 400_000), (3, 1_000_000, 300_000)], false),
            [3, 2]
        );
    }

    #[test]
    fn little_is_worth_it_when_the_disk_is_nearly_full_and_nothing_when_nothing_is_dead() {
        let all = [(1, 1_000_000, 800_000), (2, 1_000_000, 950_000)];
        assert_eq!(chosen(&all, false), []);
        assert_eq!(chosen(&all, true), [1]);
        assert_eq!(chosen(&[(1, 1_000_000, 1_000_000)], true), []);
    }

    #[test]
    fn small_ones_are_moved_together_when_there_are_some() {
        let small: Vec<(u32, u64, u64)> = (0..8).map(|number| (number, 10_000, 9_832)).collect();
        assert_eq!(chosen(&small[..7], false), []);
        assert_eq!(chosen(&small, false).len(), 8);
    }
}
