//! Where event sockets are: which words name one, which are for binding, and where further ranks listen.

/// The longest name of a host is 253 bytes; paths of sockets are shorter.
const LONGEST: usize = 512;

/// Whether this names a socket.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check(endpoint: &str) -> Result<(), String> {
    let well = match endpoint.split_once("://") {
        Some(("tcp", place)) => place
            .rsplit_once(':')
            .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0)),
        Some(("ipc", path)) => !path.is_empty() && !path.contains(char::is_control),
        _ => false,
    };
    let well = well && endpoint.len() <= LONGEST && !endpoint.contains(":+");
    if well { Ok(()) } else { Err(format!("found `{endpoint}`; allowed is tcp://host:port or ipc://path")) }
}

fn is_host(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.*".contains(letter))
        }
    }
}

/// Whether it is ours to bind, because the engine connects to it.
pub fn binds(endpoint: &str) -> bool {
    ["//*:", "//0.0.0.0:", "//[::]:"].iter().any(|wildcard| endpoint.contains(wildcard))
}

/// Where rank `rank` is, if rank 0 is here: so many ports higher.
pub fn nth(endpoint: &str, rank: u32) -> String {
    let endpoint = endpoint.replace("//*:", "//0.0.0.0:");
    match endpoint.rsplit_once(':').map(|(host, port)| (host, port.parse::<u32>())) {
        Some((host, Ok(port))) if endpoint.starts_with("tcp://") => format!("{host}:{}", port + rank),
        _ if rank > 0 => format!("{endpoint}_{rank}"),
        _ => endpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_a_port_apart_and_wildcards_are_bound() {
        assert_eq!(nth("tcp://10.0.0.5:5557", 3), "tcp://10.0.0.5:5560");
        assert_eq!(nth("ipc:///tmp/kv", 1), "ipc:///tmp/kv_1");
        assert_eq!((nth("tcp://*:5557", 0), binds("tcp://*:5557")), ("tcp://0.0.0.0:5557".to_owned(), true));
    }

    #[test]
    fn what_names_no_socket_is_refused_with_what_would() {
        for well in ["tcp://10.0.0.5:5557", "tcp://*:5557", "tcp://[::1]:5557", "ipc:///tmp/kv"] {
            assert_eq!(check(well), Ok(()));
        }
        for ill in [
            "10.0.0.5:5557",
            "tcp://10.0.0.5",
            "tcp://:5557",
            "tcp://host:0",
            "tcp://host:70000",
            "ipc://",
            "udp://a:1",
            "tcp://a b:1",
            "tcp://[::1:5",
            "tcp://x:+5",
            "tcp://\n:1",
            "",
        ] {
            assert!(check(ill).unwrap_err().contains("allowed is tcp://host:port"), "{ill}");
        }
    }
}
