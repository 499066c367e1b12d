//! Several masters and nodes in one process, over sockets: any node answers for any key, whatever dies.

#[path = "chance/mod.rs"]
mod chance;
#[path = "contract/mod.rs"]
mod contract;
#[path = "link/deaths.rs"]
mod deaths;
#[path = "link/histories.rs"]
mod histories;
#[path = "link/hostile.rs"]
mod hostile;
#[path = "link/kit.rs"]
mod kit;
#[path = "objects/mod.rs"]
mod objects;
#[path = "link/reach.rs"]
mod reach;
#[path = "link/takeover.rs"]
mod takeover;
