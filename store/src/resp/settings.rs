//! What can be set, and what each setting weighs.

use std::time::Duration;

use super::access::Access;
use super::decode::Limits;

/// How a server treats its clients.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may come in.
    pub access: Access,
    /// The largest value. Larger ones are read and dropped, so that the client hears why.
    pub value: usize,
    /// How much of a command may be there at once.
    pub command: Limits,
    /// Bytes of values that all connections together may be in the middle of sending: space that is taken and shows nothing
    /// yet. Too little, and honest bursts hear `BUSY`; too much, and liars hold the store's memory until `patience` ends.
    pub arriving: usize,
    /// Bytes of answers that wait for one client before it is read no further. What large values hold is lent, not copied,
    /// but it cannot be evicted meanwhile.
    pub unsent: usize,
    /// The most connections. One more is told so, and closed.
    pub connections: usize,
    /// A command that has begun, and answers that are due, may stand still for so long...
    pub patience: Duration,
    /// ... and one second longer for each so many bytes that have moved.
    pub slowest: u64,
    /// How long a connection may do nothing between commands. Pools of clients keep theirs for hours.
    pub idle: Option<Duration>,
    /// Whether `FLUSHALL` and `FLUSHDB` empty a tenant.
    pub flush: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            value: 128 << 20,
            command: Limits { argument: 4 << 10, arguments: 64 << 10, head: 4 << 20 },
            arriving: 4 << 30,
            unsent: 32 << 20,
            connections: 10_000,
            patience: Duration::from_secs(20),
            slowest: 256 << 10,
            idle: None,
            flush: false,
        }
    }
}
