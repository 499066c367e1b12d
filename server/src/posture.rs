//! What of us is open, to whom, and which setting closes it: said at every start.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// One way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surface {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// How it stands.
    pub state: State,
    /// What that means, and what would close it.
    pub advice: String,
}

/// How a way in stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Only those who hold a key, or only this machine.
    Closed,
    /// Everybody on this machine.
    Local,
    /// Everybody who can reach it.
    Open,
}

/// Every way in, worst first.
pub fn posture(settings: &Settings) -> Vec<Surface> {
    let mut surfaces = vec![gateway(settings), admin(settings)];
    surfaces.sort_by_key(|surface| std::cmp::Reverse(surface.state as u8));
    surfaces
}

fn gateway(settings: &Settings) -> Surface {
    let listen = settings.gateway.listen;
    let keys = !settings.tenants.is_empty();
    let advice = match (listen.ip().is_loopback(), keys) {
        (true, true) => "loopback only, and keys are asked for",
        (true, false) => "any local process may send requests; [[tenants]] with keys_file asks for keys",
        (false, true) => {
            "keys are asked for, but they and all prompts travel in the clear: put a TLS terminator in front, or \
             set gateway.listen to a loopback address"
        }
        (false, false) => {
            "anybody who reaches this address may use the engines: add [[tenants]] with keys_file, or set \
             gateway.listen to a loopback address"
        }
    };
    surface("gateway", listen, keys, advice)
}

fn admin(settings: &Settings) -> Surface {
    let listen = settings.admin.listen;
    let key = settings.admin.key_file.is_some();
    let advice = match (listen.ip().is_loopback(), key) {
        (true, true) => "loopback only, and a key is asked for",
        (true, false) => {
            "any local process may read metrics and register engines; admin.key_file asks for a key"
        }
        (false, true) => {
            "a key is asked for, but it travels in the clear: set admin.listen to a loopback address"
        }
        (false, false) => {
            "anybody who reaches this address may register engines, and so read prompts: set admin.key_file, or \
             admin.listen to a loopback address"
        }
    };
    surface("admin", listen, key, advice)
}

fn surface(name: &str, listen: SocketAddr, keys: bool, advice: &str) -> Surface {
    let state = match (listen.ip().is_loopback(), keys) {
        (_, true) => State::Closed,
        (true, false) => State::Local,
        (false, false) => State::Open,
    };
    Surface { name: name.to_owned(), address: listen.to_string(), state, advice: advice.to_owned() }
}

impl std::fmt::Display for Surface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::Closed => "closed",
            State::Local => "local",
            State::Open => "OPEN",
        };
        write!(f, "{:<8} {:<22} {:<7} {}", self.name, self.address, state, self.advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(gateway: &str, admin: &str, tenants: usize, key: bool) -> Settings {
        let mut settings = Settings::default();
        settings.gateway.listen = gateway.parse().unwrap();
        settings.admin.listen = admin.parse().unwrap();
        settings.admin.key_file = key.then(|| "/key".into());
        settings.tenants = vec![crate::settings::Tenant::default(); tenants];
        settings
    }

    #[test]
    fn what_is_open_comes_first_and_names_the_setting_that_closes_it() {
        let found = posture(&settings("127.0.0.1:1", "0.0.0.0:2", 1, false));
        assert_eq!((found[0].name.as_str(), found[0].state), ("admin", State::Open));
        assert!(found[0].advice.contains("admin.key_file"), "{}", found[0].advice);
        assert_eq!((found[1].name.as_str(), found[1].state), ("gateway", State::Closed));
    }

    #[test]
    fn each_combination_has_its_state() {
        let cases = [
            ("127.0.0.1:1", 0, State::Local),
            ("127.0.0.1:1", 1, State::Closed),
            ("[::1]:1", 0, State::Local),
            ("0.0.0.0:1", 0, State::Open),
            ("0.0.0.0:1", 1, State::Closed),
        ];
        for (listen, tenants, expected) in cases {
            let found = gateway(&settings(listen, "127.0.0.1:2", tenants, false));
            assert_eq!(found.state, expected, "{listen} with {tenants} tenants");
        }
    }
}
