//! A whole node in front of a real master: memory, disk, promotion, restart, damage and full disks.

#[path = "contract/mod.rs"]
mod contract;
#[path = "node/kit.rs"]
mod kit;
#[path = "objects/mod.rs"]
mod objects;
#[path = "node/serving.rs"]
mod serving;
#[path = "node/socket.rs"]
mod socket;
#[path = "node/tiers.rs"]
mod tiers;
