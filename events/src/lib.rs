//! The KV event stream: what engines say about their caches, decoded, followed and, where something was lost, recovered.
//!
//! - [`codec`]: bytes to events and back; every form that engines in use speak.
//! - [`translate`]: an engine's words to the house's: tokens become hashes, salts are inherited.
//! - [`follow`]: one pure state machine a source, and the sockets around it.
//! - [`publish`]: the engine's side, which can always tell everything again.
//! - [`relay`]: the two together, for engines that cannot do it themselves.
//! - [`copy`]: a view as bytes, for another process that goes on from it.
//! - [`tap`]: the frames as they come, for people.
//! - [`stock`]: a publisher that behaves as a stock vLLM does, for simulated engines and tests.

pub mod codec;
pub mod copy;
pub mod follow;
pub mod publish;
pub mod relay;
pub mod sink;
pub mod stock;
pub mod tap;
pub mod translate;
mod wire;
