//! A tiered store that is split: which roles a process plays, and how masters and nodes find and trust each other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use store::link;

use super::{Span, keys};

/// What a process of the store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It knows where everything is, and decides; of several, one leads.
    Master,
    /// It holds objects, and answers clients.
    Node,
}

/// How masters and nodes of a store find and trust each other, where they are not one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Where a node looks for the master that leads; none: it is in this process.
    pub masters: Vec<String>,
    /// Where a master listens for nodes.
    pub master_listen: SocketAddr,
    /// Where a node listens for other nodes.
    pub node_listen: SocketAddr,
    /// By what host others reach this machine; none: by the address that is listened on.
    pub advertise: Option<String>,
    /// A file whose first line all masters and nodes must know. Anything but loopback wants one.
    pub secret_file: Option<PathBuf>,
    /// How long a master leads after it was last heard of by the coordinator: a dead one is followed after so long.
    pub lease: Span,
    /// How long a connection may be silent before whoever is at its other end is taken for dead.
    pub silence: Span,
    /// How long a node may be away before what only it had is called absent.
    pub lost: Span,
    /// How long a master that begins to lead calls nothing absent that it has not heard of.
    pub settle: Span,
}

impl Default for Link {
    fn default() -> Self {
        let link::Settings { silence, lost, settle, .. } = link::Settings::default();
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            masters: Vec::new(),
            master_listen: local(6390),
            node_listen: local(6391),
            advertise: None,
            secret_file: None,
            lease: Span::seconds(5),
            silence: Span::millis(silence.as_millis() as u64),
            lost: Span::millis(lost.as_millis() as u64),
            settle: Span::millis(settle.as_millis() as u64),
        }
    }
}

impl Link {
    /// The first thing that makes no sense for a process of these roles, in words; the key begins with `tiers.`.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub(super) fn check(&self, roles: &[Role]) -> Result<(), String> {
        let plays = |role| roles.contains(&role);
        if roles.is_empty() {
            return Err("tiers.roles: found none; allowed are master, node, or both".to_owned());
        }
        if roles.len() > 1 && roles[0] == roles[1] || roles.len() > 2 {
            return Err("tiers.roles: one is there twice; allowed are master, node, or both".to_owned());
        }
        if !plays(Role::Master) && self.masters.is_empty() {
            return Err(
                "tiers.link.masters: found none; a node without a master in its process must know where one is \
                 (--master HOST:PORT)"
                    .to_owned(),
            );
        }
        if !plays(Role::Node) && !self.masters.is_empty() {
            return Err(
                "tiers.link.masters: a process that is master only looks for none; leave it out, or add the role node"
                    .to_owned(),
            );
        }
        for (i, address) in self.masters.iter().enumerate() {
            place(address).map_err(|why| format!("tiers.link.masters[{i}]: {why}"))?;
        }
        if let Some(host) = &self.advertise {
            place(&format!("{host}:1")).map_err(|_| {
                format!("tiers.link.advertise: found `{host}`; allowed is a host, without a port")
            })?;
        }
        if self.is_used(roles) {
            self.check_listeners(roles)?;
        }
        for (key, span, least) in [
            ("lease", self.lease, 100),
            ("silence", self.silence, 100),
            ("lost", self.lost, 100),
            ("settle", self.settle, 0),
        ] {
            let most = Duration::from_hours(24);
            if span.get() < Duration::from_millis(least) || span.get() > most {
                return Err(format!("tiers.link.{key}: found {span}; allowed is {least}ms to 24h"));
            }
        }
        Ok(())
    }

    fn check_listeners(&self, roles: &[Role]) -> Result<(), String> {
        for (role, key, address) in [
            (Role::Master, "master_listen", self.master_listen),
            (Role::Node, "node_listen", self.node_listen),
        ] {
            if !roles.contains(&role) || address.ip().is_loopback() {
                continue;
            }
            if self.secret_file.is_none() {
                return Err(format!(
                    "tiers.link.{key}: found {address}, and no tiers.link.secret_file: whoever reaches that address could \
                     read and write everything. Allowed is a loopback address, or a secret that all masters and nodes know"
                ));
            }
            if address.ip().is_unspecified() && self.advertise.is_none() {
                return Err(format!(
                    "tiers.link.{key}: found {address}, by which nobody can reach this machine: set \
                     tiers.link.advertise to a host that others can"
                ));
            }
        }
        Ok(())
    }

    /// Whether masters and nodes speak over sockets at all.
    pub fn is_used(&self, roles: &[Role]) -> bool {
        roles.len() < 2 || !self.masters.is_empty()
    }

    /// What the rooms are told.
    ///
    /// # Errors
    /// A secret that cannot be read, in words.
    pub fn settings(&self) -> Result<link::Settings, String> {
        let silence = self.silence.get();
        let defaults = link::Settings::default();
        Ok(link::Settings {
            secret: self.secret()?,
            beat: defaults.beat.min(silence / 4),
            silence,
            lost: self.lost.get(),
            settle: self.settle.get(),
            ..defaults
        })
    }

    fn secret(&self) -> Result<link::Secret, String> {
        let Some(path) = &self.secret_file else { return Ok(link::Secret::default()) };
        let secret = keys::first_line("tiers.link.secret_file", path)?;
        if secret.len() < LEAST_SECRET {
            return Err(format!(
                "tiers.link.secret_file: the first line of {} is shorter than {LEAST_SECRET} bytes; make one with \
                 `openssl rand -hex 32`",
                path.display()
            ));
        }
        Ok(link::Secret::new(secret.as_bytes()))
    }

    /// What others are told of an address on which this process listens.
    pub fn told(&self, listens: SocketAddr) -> String {
        match &self.advertise {
            Some(host) => format!("{host}:{}", listens.port()),
            None => listens.to_string(),
        }
    }
}

/// Shorter ones can be guessed.
const LEAST_SECRET: usize = 16;

/// Whether this is a host and a port.
fn place(address: &str) -> Result<(), String> {
    let well =
        address.parse::<http::uri::Authority>().is_ok_and(|at| at.port_u16().is_some_and(|port| port > 0));
    if well && !address.contains('@') {
        return Ok(());
    }
    Err(format!("found `{address}`; allowed is host:port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[Role] = &[Role::Master, Role::Node];

    fn found(address: &str) -> Link {
        Link { masters: vec![address.to_owned()], ..Link::default() }
    }

    #[test]
    fn each_role_has_what_it_needs_and_says_what_is_missing() {
        let plain = Link::default();
        plain.check(BOTH).unwrap();
        plain.check(&[Role::Master]).unwrap();
        found("10.0.0.1:6390").check(&[Role::Node]).unwrap();
        found("10.0.0.1:6390").check(BOTH).unwrap();
        let open = |ip: [u8; 4]| SocketAddr::from((ip, 6390));
        for (link, roles, words) in [
            (plain.clone(), &[][..], "tiers.roles"),
            (plain.clone(), &[Role::Node, Role::Node], "twice"),
            (plain.clone(), &[Role::Node], "--master"),
            (found("10.0.0.1:6390"), &[Role::Master], "looks for none"),
            (found("10.0.0.1"), &[Role::Node], "masters[0]: found `10.0.0.1`"),
            (found("http://10.0.0.1:1"), &[Role::Node], "host:port"),
            (found("me@10.0.0.1:1"), &[Role::Node], "host:port"),
            (Link { advertise: Some("a:1".to_owned()), ..plain.clone() }, &[Role::Master], "without a port"),
            (Link { master_listen: open([10, 0, 0, 1]), ..plain.clone() }, &[Role::Master], "secret_file"),
            (
                Link { master_listen: open([0, 0, 0, 0]), secret_file: Some("s".into()), ..plain.clone() },
                &[Role::Master],
                "advertise",
            ),
            (Link { lease: Span::millis(1), ..plain.clone() }, BOTH, "tiers.link.lease: found 1ms"),
        ] {
            let why = link.check(roles).unwrap_err();
            assert!(why.contains(words), "`{words}` is missing from: {why}");
        }
        // What a process does not do needs no care.
        Link { master_listen: open([0, 0, 0, 0]), ..plain.clone() }.check(BOTH).unwrap();
        Link { master_listen: open([0, 0, 0, 0]), ..found("h:1") }.check(&[Role::Node]).unwrap();
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let link = Link { secret_file: Some(path.clone()), ..Link::default() };
        assert!(link.settings().unwrap_err().contains("cannot read"));
        for (text, words) in [("", "is empty"), ("\n0123456789abcdef", "is empty"), ("0123456789", "openssl")]
        {
            std::fs::write(&path, text).unwrap();
            let why = link.settings().unwrap_err();
            assert!(why.contains(words) && !why.contains("0123"), "{why}");
        }
        std::fs::write(&path, "0123456789abcdef\nmore").unwrap();
        assert_eq!(link.settings().unwrap().secret, link::Secret::new(b"0123456789abcdef"));
    }

    #[test]
    fn others_are_told_how_to_reach_it() {
        let at = SocketAddr::from(([127, 0, 0, 1], 6390));
        assert_eq!(Link::default().told(at), "127.0.0.1:6390");
        let link = Link { advertise: Some("store-1.internal".to_owned()), ..Link::default() };
        assert_eq!(link.told(at), "store-1.internal:6390");
    }
}
