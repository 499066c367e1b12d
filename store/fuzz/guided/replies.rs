//! Bytes of a server, guided by what they reach.
#![no_main]

#[path = "../targets.rs"]
#[allow(dead_code, reason = "each program runs one target")]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::replies(input));
