//! How often something was touched lately: a number that grows by one a touch and halves with time.

use super::name::Millis;

/// Touches, each worth half after a half-life, and when they were added up last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heat {
    /// In 256ths of a touch.
    value: u16,
    /// In eighths of a half-life, modulo 2^16: with 300 s, what was not touched for 28 days may look fresh once.
    seen: u16,
}

/// A point in time, in eighths of a half-life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u16);

/// Eighths of a half-life in a half-life.
const PARTS: u16 = 8;

/// What is left of 256 after so many eighths of a half-life.
const LEFT: [u32; PARTS as usize] = [256, 235, 215, 197, 181, 166, 152, 140];

/// One touch.
const TOUCH: u16 = 256;

impl Moment {
    /// `now`, with this half-life in milliseconds.
    pub fn of(now: Millis, half_life: u64) -> Self {
        Self((now.0.saturating_mul(PARTS.into()) / half_life.max(1)) as u16)
    }
}

impl Heat {
    /// No touch yet.
    pub fn cold(now: Moment) -> Self {
        Self { value: 0, seen: now.0 }
    }

    /// As if it had been touched so often just now.
    pub fn of(score: u8, now: Moment) -> Self {
        Self { value: u16::from(score) * TOUCH, seen: now.0 }
    }

    /// One touch, now.
    pub fn first(now: Moment) -> Self {
        Self { value: TOUCH, seen: now.0 }
    }

    /// One touch more.
    pub fn touch(&mut self, now: Moment) {
        *self = Self { value: self.left(now).saturating_add(TOUCH), seen: now.0 };
    }

    /// So many touches were worth a touch within the last half-life: two within one half-life are 2.
    pub fn score(self, now: Moment) -> u8 {
        (self.left(now).saturating_add(TOUCH / 2) / TOUCH).min(255) as u8
    }

    fn left(self, now: Moment) -> u16 {
        let passed = now.0.wrapping_sub(self.seen);
        let halves = u32::from(passed / PARTS).min(31);
        ((u32::from(self.value) * LEFT[usize::from(passed % PARTS)] / 256) >> halves) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u64 = 300_000;

    fn at(seconds: u64) -> Moment {
        Moment::of(Millis(seconds * 1_000), HALF)
    }

    #[test]
    fn two_touches_count_as_two_within_a_half_life_and_as_one_long_after() {
        for (gap, score) in [(0, 2), (60, 2), (150, 2), (299, 2), (400, 1), (3_000, 1)] {
            let mut heat = Heat::first(at(1_000));
            assert_eq!(heat.score(at(1_000)), 1);
            heat.touch(at(1_000 + gap));
            assert_eq!(heat.score(at(1_000 + gap)), score, "after {gap} s");
        }
    }

    #[test]
    fn what_is_touched_seldom_never_grows_and_what_is_left_alone_is_forgotten() {
        let mut heat = Heat::first(at(0));
        for round in 1..100 {
            heat.touch(at(round * 600));
            assert_eq!(heat.score(at(round * 600)), 1);
        }
        for _ in 0..1_000 {
            heat.touch(at(60_000));
        }
        assert_eq!(heat.score(at(60_000)), 255, "it stops at the most that can be told");
        assert_eq!(heat.score(at(60_000 + 300 * 12)), 0);
    }
}
