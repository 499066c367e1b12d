//! Ports that stay ours while a server of ours is down.
//!
//! The kernel gives out ports from 32768 on, both to whoever binds port 0 and to every outgoing connection. A port
//! from there can be lost between a kill and a restart. So ports come from below, and a name that the kernel forgets
//! with our process keeps other tests from picking the same one.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// The first port that is given out, and how many there are. What nodes of a cluster say to each other goes through
/// the port that is 10,000 above, so no port is in both ranges.
const FIRST: u16 = 10_000;
const MANY: u16 = 10_000;
const BUS: u16 = 10_000;

/// A port on loopback.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    /// Held as long as the port is: the kernel lets only one process have this name.
    _name: Option<UnixListener>,
}

impl Port {
    /// This very port, whoever else may want it.
    pub(super) fn fixed(number: u16) -> Self {
        Self { number, _name: None }
    }

    /// A port that nobody has, with the one for the bus of a cluster free as well.
    pub(super) fn free() -> Result<Self, String> {
        let start = RandomState::new().hash_one("port") % u64::from(MANY);
        (0..MANY)
            .map(|step| FIRST + (start as u16 + step) % MANY)
            .find_map(Self::take)
            .ok_or_else(|| format!("no port from {FIRST} to {} is free", FIRST + MANY))
    }

    fn take(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("warmline-port-{number}")).ok()?;
        let name = UnixListener::bind_addr(&name).ok()?;
        for number in [number, number + BUS] {
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        }
        Some(Self { number, _name: Some(name) })
    }
}
