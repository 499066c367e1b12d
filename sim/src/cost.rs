//! What a step of an engine costs in time. The defaults are an 8B model on one H200; the reasons are in decision 0004.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Prices in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cost {
    /// Each step, whatever it does: weights are read once, kernels are started.
    pub step_us: f64,
    /// Each prompt token that is computed.
    pub prefill_us: f64,
    /// Each sequence that gets one more token.
    pub decode_us: f64,
}

impl Cost {
    /// How long a step takes that computes so many prompt tokens and decodes so many sequences.
    pub fn step(&self, prefill_tokens: usize, decoding: usize) -> Duration {
        let us = self.step_us + self.prefill_us * prefill_tokens as f64 + self.decode_us * decoding as f64;
        Duration::from_nanos((us * 1e3) as u64)
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self { step_us: 7_000.0, prefill_us: 35.0, decode_us: 60.0 }
    }
}
