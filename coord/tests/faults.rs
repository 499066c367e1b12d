//! What was promised holds on real servers that die, hang, forget, hand over and move, and on a network that loses things.
//!
//! Nothing here is decided by how long it took: a condition is waited for with far more patience than it needs, and what
//! must never happen is counted at the end.

#[path = "faults/clusters.rs"]
mod clusters;
#[path = "faults/ground.rs"]
mod ground;
#[path = "faults/lines.rs"]
mod lines;
#[path = "faults/sentinels.rs"]
mod sentinels;
#[path = "faults/servers.rs"]
mod servers;
#[path = "faults/strangers.rs"]
mod strangers;
