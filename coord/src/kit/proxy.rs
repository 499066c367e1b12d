//! A TCP proxy in front of a Redis server that loses requests, replies or everything, when it is told to.
//!
//! It knows just enough of the protocol to see where a command ends and which reply is its own, in RESP2 and RESP3,
//! with pipelines and messages of subscriptions. It does not follow MONITOR, CLIENT REPLY OFF or a replica's stream.
//!
//! ```no_run
//! # async fn example() {
//! use coord::kit::proxy::{Fault, Proxy};
//! use coord::kit::servers::{Options, Server};
//!
//! let server = Server::start(Options::default()).await.unwrap();
//! let proxy = Proxy::start(server.address()).await;
//! // The next script runs, and its caller never learns what came of it.
//! proxy.faults().set_for("EVALSHA", Fault::CutReply { nth: 1 });
//! # }
//! ```

mod faults;
mod frames;
mod line;

use crate::background::Background;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use faults::{Count, Fault, Faults};

/// A proxy that listens on a free port of loopback; it and its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    faults: Faults,
    _task: Background,
}

impl Proxy {
    /// Starts one that passes everything on to `upstream`, which need not be there yet.
    ///
    /// # Panics
    /// If loopback has no free port.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let faults = Faults::default();
        let task = Background::spawn(accept(listener, upstream, faults.clone()));
        Self { address, faults, _task: task }
    }

    /// What it does to those who come through; may be kept and changed anywhere.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Its own port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client is told to go through it, for a server without password and TLS.
    pub fn dsn(&self) -> String {
        format!("redis://{}/0", self.address)
    }
}

/// Takes connections until it is aborted; they are aborted with it, since they are its own.
async fn accept(listener: TcpListener, upstream: SocketAddr, faults: Faults) {
    let mut lines = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                lines.spawn(line::serve(client, upstream, faults.clone()));
            }
            // Only to forget those that ended.
            Some(_) = lines.join_next() => {}
        }
    }
}
