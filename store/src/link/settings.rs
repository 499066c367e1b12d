//! What can be set about the sockets between masters and nodes.

use std::fmt;
use std::time::Duration;

/// How masters and nodes speak to each other. All of them should be set alike.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What everybody must know to be listened to. Without one, anybody who can connect is listened to: bind loopback then.
    pub secret: Secret,
    /// How often something is said at least.
    pub beat: Duration,
    /// How long a connection may be silent before it is given up, and its node is away. Shorter notices sooner, and takes a
    /// busy machine for a dead one.
    pub silence: Duration,
    /// How long a node may be away before it is lost: until then, what only it may have is not called absent.
    pub lost: Duration,
    /// How long a master that begins calls nothing absent that it has not heard of: nodes need so long to find it.
    pub settle: Duration,
    /// How long connecting may take.
    pub connect: Duration,
    /// The longest pause between two tries to find a master.
    pub pause: Duration,
    /// How long a transfer between nodes may stand still.
    pub patience: Duration,
    /// Connections that a listener has at a time.
    pub connections: usize,
    /// Transfers to one node at a time; more wait.
    pub transfers: usize,
}

/// A shared secret. It is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Option<Box<[u8]>>);

impl Default for Settings {
    fn default() -> Self {
        Self {
            secret: Secret::default(),
            beat: Duration::from_secs(1),
            silence: Duration::from_secs(4),
            lost: Duration::from_mins(1),
            settle: Duration::from_secs(3),
            connect: Duration::from_secs(1),
            pause: Duration::from_secs(1),
            patience: Duration::from_secs(5),
            connections: 4_096,
            transfers: 32,
        }
    }
}

impl Secret {
    /// These bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Some(bytes.into()))
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether this is it. The time taken tells nothing of where it differs.
    pub(super) fn is(&self, said: &[u8]) -> bool {
        let own = self.bytes();
        let at = |place: usize| own.get(place).copied().unwrap_or_default();
        let different = said.iter().enumerate().fold(0, |all, (place, byte)| all | (at(place) ^ byte));
        std::hint::black_box(different) == 0 && own.len() == said.len()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_none() { "none" } else { "(secret)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_is_it_and_none_is_shown() {
        let secret = Secret::new(b"open sesame");
        assert!(secret.is(b"open sesame"));
        for other in [b"open sesam".as_slice(), b"open sesame!", b"open sesamE", b"", b"open sesame\0"] {
            assert!(!secret.is(other), "{other:?}");
        }
        assert!(Secret::default().is(b"") && !Secret::default().is(b"x"));
        assert_eq!(format!("{secret:?}"), "(secret)");
    }
}
