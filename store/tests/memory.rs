//! What the master costs in memory, by an allocator that counts; in a process of its own, so that nothing else is counted.

#[path = "../fuzz/counting.rs"]
mod counting;

use std::sync::Arc;

use store::master::name::{Group, Millis, Name, Pin, Tenant, Tier, Version};
use store::master::options::{Offload, Options, Promotion};
use store::master::{Deaf, Found, Item, Joining, Master, News, Put, Terms};

/// As many to a shard as of a million with all shards.
const OBJECTS: u64 = 125_000;
const SHARDS: usize = 128;
/// Beyond its key.
const MOST: usize = 200;

fn key(number: u64) -> [u8; 32] {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    key
}

fn master(offload: Offload) -> (Master, store::master::name::Node, Tenant) {
    let promotion = Promotion { on: true, ..Promotion::default() };
    let options = Options { shards: SHARDS, offload, promotion, ..Options::default() };
    let master = Master::new(options, Arc::new(Deaf), Arc::new(Deaf));
    let tenant = master.tenant("a").unwrap();
    let node = master.join(&Joining { id: "n", life: 1, memory: 1 << 50, disk: 1 << 50 }).unwrap().node;
    master.begin_inventory(node, 1).unwrap();
    master.end_inventory(node, 1, 0, Millis(0)).unwrap();
    (master, node, tenant)
}

/// Bytes an object, beyond its key, at the most that it ever comes to.
fn each<T>(what: &str, make: impl FnOnce() -> T) -> T {
    let (made, bytes) = counting::peak_of(make);
    let each = bytes / OBJECTS as usize - size_of_val(&key(0));
    assert!((80..MOST).contains(&each), "{what}: {each} bytes an object");
    made
}

#[test]
fn an_object_costs_less_than_two_hundred_bytes_beyond_its_key() {
    let (master, _, tenant) = each("in memory", || {
        let made = master(Offload::Off);
        for number in 0..OBJECTS {
            let put = made.0.reserve(&Put::new(made.2, &key(number), 4_096), Millis(0)).unwrap().put;
            made.0.commit(put, &Terms::default(), Millis(0)).unwrap();
        }
        made
    });
    assert_eq!(master.count(tenant), OBJECTS);
    let (master, ..) = each("on disk, and each read once", || {
        let made = self::master(Offload::Off);
        let (pin, group, tier) = (Pin::None, Group::NONE, Tier::Disk);
        for number in 0..OBJECTS {
            let name = Name { tenant: made.2, key: key(number).into() };
            let version = Version(number + 1);
            let item = Item {
                name,
                version,
                size: 4_096,
                tier,
                pin,
                group,
                block: None,
                ends: None,
                doubtful: false,
            };
            made.0.tell(made.1, 1, number + 1, &News::Adopted(item), Millis(0)).unwrap();
            assert!(matches!(made.0.get(made.2, &key(number), Millis(0)), Found::Here(_)));
        }
        made
    });
    assert_eq!(master.gauges().objects, OBJECTS);
}
