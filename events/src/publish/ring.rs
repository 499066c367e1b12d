//! The last batches that were published, by sequence.

use std::collections::VecDeque;

use bytes::Bytes;

/// The last batches, as they went out.
#[derive(Debug)]
pub(crate) struct Ring {
    steps: VecDeque<Bytes>,
    most: usize,
    /// The sequence that the next batch will have.
    next: u64,
}

// === impl Ring ===

impl Ring {
    /// An empty ring for so many batches.
    pub(crate) fn new(most: usize) -> Self {
        Self { steps: VecDeque::new(), most, next: 0 }
    }

    /// Takes a batch in; its sequence.
    pub(crate) fn push(&mut self, batch: Bytes) -> u64 {
        let sequence = self.next;
        self.next += 1;
        if self.most > 0 {
            if self.steps.len() == self.most {
                self.steps.pop_front();
            }
            self.steps.push_back(batch);
        }
        sequence
    }

    /// Everything from a sequence on, if nothing of it is gone.
    pub(crate) fn since(&self, start: u64) -> Option<impl Iterator<Item = (u64, &Bytes)>> {
        let floor = self.next - self.steps.len() as u64;
        // What has not been published yet is not missing.
        let skip = start.min(self.next).checked_sub(floor)?;
        Some((floor..).zip(&self.steps).skip(skip as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(ring: &Ring, start: u64) -> Option<Vec<u64>> {
        ring.since(start).map(|steps| steps.map(|(sequence, _)| sequence).collect())
    }

    #[test]
    fn a_ring_gives_back_what_it_has_or_says_that_it_has_not() {
        let mut ring = Ring::new(3);
        assert_eq!(sequences(&ring, 0), Some(vec![]), "nothing was said, so nothing is missing");
        for step in 0..5_u8 {
            assert_eq!(ring.push(Bytes::copy_from_slice(&[step])), u64::from(step));
        }
        assert_eq!(sequences(&ring, 2), Some(vec![2, 3, 4]));
        assert_eq!(sequences(&ring, 4), Some(vec![4]));
        assert_eq!(
            sequences(&ring, 9),
            Some(vec![]),
            "a subscriber that is ahead lacks nothing that we have"
        );
        assert_eq!(sequences(&ring, 1), None);
        let (_, bytes) = ring.since(3).unwrap().next().unwrap();
        assert_eq!(bytes[..], [3]);
    }

    #[test]
    fn without_a_ring_everything_that_was_said_is_gone() {
        let mut ring = Ring::new(0);
        ring.push(Bytes::new());
        assert_eq!((sequences(&ring, 0), sequences(&ring, 1)), (None, Some(vec![])));
    }
}
