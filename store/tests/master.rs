//! The master from outside: each claim of its design beside nodes that really hold what they are told to hold.
//!
//! `WARMLINE_SEEDS=10000 cargo test -p warmline-store --test master` runs more histories; a failure prints its seed.

#[path = "master/kit.rs"]
mod kit;

#[path = "master/admission.rs"]
mod admission;
#[path = "master/delivery.rs"]
mod delivery;
#[path = "master/eviction.rs"]
mod eviction;
#[path = "master/histories.rs"]
mod histories;
#[path = "master/operator.rs"]
mod operator;
#[path = "master/puts.rs"]
mod puts;
#[path = "master/recovery.rs"]
mod recovery;
#[path = "master/retry.rs"]
mod retry;
#[path = "master/warming.rs"]
mod warming;
