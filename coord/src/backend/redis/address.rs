//! Where Redis is: one address for a server, for Sentinels, or for a cluster.

use std::fmt;

use crate::error::Error;

/// A parsed DSN.
///
/// - `redis://[user:password@]host[:port][/db]`, and `rediss://` with TLS
/// - `redis+sentinel://[user:password@]host:port[,host:port…]/master[/db]`, and `rediss+sentinel://`
/// - `redis+cluster://[user:password@]host:port[,host:port…]`, and `rediss+cluster://`
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What is there.
    pub kind: Kind,
    /// `host:port` of the server, of the Sentinels, or of some nodes of the cluster.
    pub hosts: Vec<String>,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// `user:password`, percent-encoded as it was given.
    userinfo: Option<String>,
    db: i64,
}

/// What is at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Server,
    /// Sentinels that know where the master of this name is.
    Sentinel(String),
    /// Nodes of a cluster.
    Cluster,
}

const FORMS: &str = "redis://host:port/db, redis+sentinel://host:port,host:port/master/db or redis+cluster://host:port,host:port \
                     (rediss… with TLS; user:password@ before the hosts)";

// === impl Address ===

impl Address {
    /// # Errors
    /// What was found and what is allowed; a password is not repeated.
    pub fn parse(dsn: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Invalid(format!("dsn: {why}; allowed are {FORMS}"));
        if dsn.is_empty() {
            return Err(wrong("it is empty (WARMLINE_COORD_DSN can hold it as well)"));
        }
        let (scheme, rest) = dsn.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let (tls, kind) = match scheme {
            "redis" | "rediss" => (scheme == "rediss", ""),
            "redis+sentinel" | "rediss+sentinel" => (scheme.starts_with("rediss"), "sentinel"),
            "redis+cluster" | "rediss+cluster" => (scheme.starts_with("rediss"), "cluster"),
            other if other.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
                return Err(wrong(&format!("found the scheme `{other}`")));
            }
            // It may be anything, also a password.
            _ => return Err(wrong("what stands before :// is no scheme")),
        };
        let (userinfo, rest) = match rest.rsplit_once('@') {
            Some((userinfo, rest)) => (Some(userinfo.to_owned()), rest),
            None => (None, rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts: Vec<String> =
            hosts.split(',').map(with_port).collect::<Result<_, _>>().map_err(|why| wrong(&why))?;
        let mut path = path.split('/').filter(|part| !part.is_empty());
        let kind = match kind {
            "sentinel" => {
                Kind::Sentinel(path.next().ok_or_else(|| wrong("the master's name is missing"))?.to_owned())
            }
            "cluster" => Kind::Cluster,
            _ if hosts.len() > 1 => return Err(wrong("found several hosts of one server")),
            _ => Kind::Server,
        };
        let db = path
            .next()
            .map_or(Ok(0), str::parse::<i64>)
            .map_err(|_| wrong("the database is not a number"))?;
        if db != 0 && kind == Kind::Cluster {
            return Err(wrong("a cluster has only database 0"));
        }
        if db < 0 {
            return Err(wrong("the database is less than 0"));
        }
        if path.next().is_some() {
            return Err(wrong("it goes on after the database"));
        }
        let address = Self { kind, hosts, tls, userinfo, db };
        // What is only found out when somebody connects would be found out at night.
        let host = address.hosts.first().map_or("", String::as_str);
        if redis::parse_redis_url(&address.node(host)).is_none()
            || redis::Client::open(address.node(host)).is_err()
        {
            return Err(wrong("it cannot be read; are / # ? @ : in the password percent-encoded?"));
        }
        Ok(address)
    }

    /// The URL of one data node.
    pub(super) fn node(&self, host: &str) -> String {
        let userinfo = self.userinfo.as_ref().map(|info| format!("{info}@")).unwrap_or_default();
        format!("{}://{userinfo}{host}/{}?protocol=resp3", if self.tls { "rediss" } else { "redis" }, self.db)
    }

    /// The URLs by which one Sentinel may be reached: most ask for no password, and where they do it is the same.
    pub(super) fn sentinel(&self, host: &str) -> Vec<String> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let with = self.userinfo.as_ref().map(|info| format!("{scheme}://{info}@{host}/"));
        std::iter::once(format!("{scheme}://{host}/")).chain(with).collect()
    }
}

fn with_port(host: &str) -> Result<String, String> {
    let host = host.trim();
    let after_brackets = host.rsplit(']').next().unwrap_or(host);
    let (name, port) = match after_brackets.rsplit_once(':') {
        Some((_, port)) => (&host[..host.len() - port.len() - 1], port),
        None => (host, "6379"),
    };
    if name.is_empty() {
        return Err("a host is missing".to_owned());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(format!("{name}:{port}")),
        _ if port.chars().all(|c| c.is_ascii_digit()) => Err(format!("found the port `{port}`")),
        _ => Err("a port is not a number".to_owned()),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.kind {
            Kind::Server => "redis".to_owned(),
            Kind::Sentinel(master) => format!("redis master `{master}` by sentinels"),
            Kind::Cluster => "redis cluster".to_owned(),
        };
        let tls = if self.tls { " (TLS)" } else { "" };
        write!(f, "{what} at {}{tls}", self.hosts.join(", "))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let one = Address::parse("redis://localhost").unwrap();
        assert_eq!((one.kind.clone(), one.hosts.clone()), (Kind::Server, vec!["localhost:6379".to_owned()]));
        assert_eq!(one.node("localhost:6379"), "redis://localhost:6379/0?protocol=resp3");
        let tls = Address::parse("rediss://me:p%40ss@[::1]:7000/3").unwrap();
        assert_eq!(tls.node("[::1]:7000"), "rediss://me:p%40ss@[::1]:7000/3?protocol=resp3");
        let sentinel = Address::parse("redis+sentinel://a:1,b:2/mymaster/1").unwrap();
        assert_eq!(sentinel.kind, Kind::Sentinel("mymaster".to_owned()));
        assert_eq!(sentinel.hosts, ["a:1", "b:2"]);
        assert_eq!(Address::parse("redis+cluster://a,b:7001").unwrap().hosts, ["a:6379", "b:7001"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_repeating_a_password() {
        for bad in [
            "",
            "localhost:6379",
            "http://localhost",
            "redis://",
            "redis://:6379",
            "redis://a:0",
            "redis://a:99999",
            "redis://a,b",
            "redis://a/x",
            "redis://a/0/1",
            "redis+sentinel://a:1",
            "redis+cluster://a:1/2",
            "redis://u:hunter2@a:x",
            "me:hunter2@h://x",
            "redis://me:hunter2",
            "redis://:hunter2/x@h",
            "redis://a/-5",
        ] {
            let said = Address::parse(bad).unwrap_err().to_string();
            assert!(said.starts_with("dsn: ") && said.contains("allowed are"), "{bad}: {said}");
            assert!(!said.contains("hunter2"));
        }
        let shown = Address::parse("redis://u:hunter2@a").unwrap();
        assert!(!format!("{shown} {shown:?}").contains("hunter2"));
    }
}
