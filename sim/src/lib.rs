//! Simulated engines, traces and load; used by tests, benches and `warmline demo`.
//!
//! - [`cache`], [`cost`], [`engine`]: one engine as a pure machine: a prefix cache, a price list, a batching scheduler.
//! - [`model`]: the simulated model: a byte-level tokenizer, a chat template, and what it answers.
//! - [`http`]: the same engine behind OpenAI's API, in real time, with its KV events.
//! - [`trace`], [`talk`], [`fleet`], [`load`]: what to send, and who sends it, in virtual and in real time.

pub mod cache;
pub mod cost;
pub mod engine;
pub mod fleet;
pub mod http;
pub mod load;
pub mod model;
pub mod random;
pub mod talk;
pub mod trace;
