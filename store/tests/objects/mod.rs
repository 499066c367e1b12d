//! What tests of whole nodes have in common: what is put and how, on which disk, under which master.

use std::time::Duration;

use store::disk;
use store::master::options::{Options, Promotion};
use store::node::Node;
use store::resp::contract::{Put, Sink, Store, Tenant, Written};
use store::resp::refusal::Refusal;

pub(crate) const MIB: u64 = 1 << 20;

/// What the master of a test is like: promotion on, at the second touch.
pub(crate) fn options() -> Options {
    Options { lease: 0, promotion: Promotion { on: true, ..Promotion::default() }, ..Options::default() }
}

/// A disk of a few small segments.
pub(crate) fn disk(budget: u64) -> disk::Options {
    disk::Options {
        budget_bytes: budget,
        segment_bytes: budget / 64,
        durability: disk::Durability::Write,
        delay: Duration::ZERO,
        ..disk::Options::default()
    }
}

pub(crate) async fn put_as(
    node: &Node,
    tenant: &Tenant,
    key: &[u8],
    value: &[u8],
    put: Put,
) -> Result<Written, Refusal> {
    let mut sink = node.reserve(tenant, key, value.len()).wait().await?;
    sink.space().copy_from_slice(value);
    sink.commit(put).wait().await
}

/// A value that tells of which key and turn it is, in every part of it.
pub(crate) fn value(key: usize, turn: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + key * 7 + turn * 101 + (at >> 8)) as u8).collect()
}

pub(crate) fn key(number: usize) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}
