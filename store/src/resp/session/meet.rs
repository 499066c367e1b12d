//! Who is there, and how they speak: `HELLO`, `AUTH`, `RESET`, `CLIENT`.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::{Ran, Session, inline, refuse, said, syntax};
use crate::resp::command::TABLE;
use crate::resp::contract::Store;
use crate::resp::decode::Args;
use crate::resp::house::{Peer, State, Told};
use crate::resp::out::{Out, Protocol};
use crate::resp::refusal::{Code, Refusal};

/// The Redis whose answers these are; clients look for what it could do.
pub(super) const REDIS: &str = "7.0.15";
/// Names longer than this are refused: everybody's are listed together.
const NAME: usize = 128;

impl<S: Store> Session<S> {
    pub(super) fn auth(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        let done = match args.count() {
            2 => self.open(None, args.get(1)),
            3 => self.open(Some(args.get(1)), args.get(2)),
            _ => Err(syntax()),
        };
        match done {
            Ok(()) => said(out, |out| out.simple("OK")),
            Err(refusal) => refuse(out, &refusal),
        }
    }

    pub(super) fn hello(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        match self.greet(args, out.protocol) {
            Ok(protocol) => self.speaks(protocol, out),
            Err(refusal) => return refuse(out, &refusal),
        }
        out.map(7);
        for (name, word) in [("server", "redis"), ("version", REDIS)] {
            out.bulk(name.as_bytes());
            out.bulk(word.as_bytes());
        }
        out.bulk(b"proto");
        out.number(if out.protocol == Protocol::Two { 2 } else { 3 });
        out.bulk(b"id");
        out.number(self.peer.id as i64);
        for (name, word) in [("mode", "standalone"), ("role", "master")] {
            out.bulk(name.as_bytes());
            out.bulk(word.as_bytes());
        }
        out.bulk(b"modules");
        out.list(0);
        Ran::Done
    }

    /// Nothing changes unless all of it is right.
    fn greet(&mut self, args: Args<'_>, now: Protocol) -> Result<Protocol, Refusal> {
        let protocol = match (args.count(), inline::number(args.get(1))) {
            (1, _) => now,
            (_, None) => return Err(Refusal::err("Protocol version is not an integer or out of range")),
            (_, Some(2)) => Protocol::Two,
            (_, Some(3)) => Protocol::Three,
            _ => return Err(Refusal::new(Code::NoProto, "unsupported protocol version")),
        };
        let (mut at, mut name, mut key) = (2, None, None);
        while at < args.count() {
            let left = args.count() - at;
            match args.word(at).bytes() {
                b"AUTH" if left >= 3 => {
                    key = Some((args.get(at + 1), args.get(at + 2)));
                    at += 3;
                }
                b"SETNAME" if left >= 2 => {
                    name = Some(plain(args.get(at + 1), "Client names")?);
                    at += 2;
                }
                _ => {
                    let option = String::from_utf8_lossy(args.get(at));
                    return Err(Refusal::err(format!("Syntax error in HELLO option '{option}'")));
                }
            }
        }
        if let Some((tenant, key)) = key {
            self.open(Some(tenant), key)?;
        }
        if self.tenant.is_none() {
            return Err(Refusal::new(
                Code::NoAuth,
                "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> \
                 <pass> option can be used to authenticate the client and select the RESP protocol version at the same \
                 time",
            ));
        }
        if let Some(name) = name {
            self.peer.told.lock().name = name;
        }
        Ok(protocol)
    }

    fn open(&mut self, name: Option<&[u8]>, key: &[u8]) -> Result<(), Refusal> {
        let access = &self.house.settings.access;
        if access.is_open() {
            return match name {
                Some(b"default") => Ok(()),
                Some(_) => Err(wrong()),
                None => Err(Refusal::err(
                    "AUTH <password> called without any password configured for the default user. Are you sure your \
                     configuration is correct?",
                )),
            };
        }
        let tenant = access.open(name, key).ok_or_else(wrong)?;
        self.peer.told.lock().tenant = Some(tenant.clone());
        self.tenant = Some(tenant);
        Ok(())
    }

    pub(super) fn reset(&mut self, out: &mut Out) -> Ran {
        self.speaks(Protocol::Two, out);
        *self.peer.told.lock() = Told::default();
        self.anonymous();
        said(out, |out| out.simple("RESET"))
    }

    pub(super) fn client(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        match (args.word(1).bytes(), args.count()) {
            (b"ID", 2) => out.number(self.peer.id as i64),
            (b"GETNAME", 2) => match &*self.peer.told.lock().name {
                "" => out.null(),
                name => out.bulk(name.as_bytes()),
            },
            (b"SETNAME", 3) => match plain(args.get(2), "Client names") {
                Ok(name) => {
                    self.peer.told.lock().name = name;
                    out.simple("OK");
                }
                Err(refusal) => out.refuse(&refusal),
            },
            (b"SETINFO", 4) => match self.set_info(args) {
                Ok(()) => out.simple("OK"),
                Err(refusal) => out.refuse(&refusal),
            },
            (b"INFO", 2) => out.text(&(self.line(&self.peer) + "\n")),
            (b"LIST", _) => match self.list(args) {
                Ok(list) => out.text(&list),
                Err(refusal) => out.refuse(&refusal),
            },
            // Nothing here is evicted for the sake of clients, and looking at keys does not count.
            (b"NO-EVICT" | b"NO-TOUCH", 3) => match args.word(2).bytes() {
                b"ON" | b"OFF" => out.simple("OK"),
                _ => out.refuse(&syntax()),
            },
            (sub, _) => out.refuse(&wrong_sub("client", args, sub, &CLIENT)),
        }
        Ran::Done
    }

    fn set_info(&mut self, args: Args<'_>) -> Result<(), Refusal> {
        let word = plain(args.get(3), "lib-name and lib-ver")?;
        let mut told = self.peer.told.lock();
        match args.word(2).bytes() {
            b"LIB-NAME" => told.library = word,
            b"LIB-VER" => told.version = word,
            _ => {
                let option = String::from_utf8_lossy(args.get(2));
                return Err(Refusal::err(format!("Unrecognized option '{option}'")));
            }
        }
        Ok(())
    }

    /// Connections of this tenant: who the others are is none of its business.
    fn list(&self, args: Args<'_>) -> Result<String, Refusal> {
        let mut ids = Vec::new();
        match (args.count(), args.word(2).bytes()) {
            (2, _) => (),
            (4, b"TYPE") if args.word(3).bytes() == b"NORMAL" => (),
            (4.., b"ID") => {
                for id in args.from(3) {
                    ids.push(inline::number(id).ok_or_else(|| Refusal::err("Invalid client ID"))? as u64);
                }
            }
            _ => return Err(syntax()),
        }
        let mut list = String::new();
        for peer in self.house.peers() {
            if peer.told.lock().tenant == self.tenant && (ids.is_empty() || ids.contains(&peer.id)) {
                list.push_str(&self.line(&peer));
                list.push('\n');
            }
        }
        Ok(list)
    }

    fn line(&self, peer: &Peer) -> String {
        let now = self.house.now();
        let told = peer.told.lock().clone();
        let idle = if peer.state() == State::Idle { now.saturating_sub(peer.stamp()) / 1000 } else { 0 };
        let age = now.saturating_sub(peer.since) / 1000;
        let last = TABLE.get(usize::from(peer.last.load(Ordering::Relaxed)));
        let last = last.map_or_else(|| "NULL".to_owned(), |command| command.name.to_ascii_lowercase());
        let user = told.tenant.as_ref().map_or("", |tenant| tenant.name());
        let mut line = String::new();
        // Writing into a string cannot fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={age} idle={idle} flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 \
             qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={last} user={user} \
             redir=-1 resp={} lib-name={} lib-ver={}",
            peer.id,
            peer.from,
            peer.to,
            told.name,
            peer.protocol.load(Ordering::Relaxed),
            told.library,
            told.version,
        );
        line
    }
}

/// Subcommands that are known, so that a wrong number of arguments is called that.
const CLIENT: [&str; 8] = ["ID", "GETNAME", "SETNAME", "SETINFO", "INFO", "LIST", "NO-EVICT", "NO-TOUCH"];

/// What is wrong with `CONTAINER SUB …`.
pub(super) fn wrong_sub(name: &str, args: Args<'_>, sub: &[u8], known: &[&str]) -> Refusal {
    if known.iter().any(|known| known.as_bytes() == sub) {
        let sub = String::from_utf8_lossy(sub).to_ascii_lowercase();
        return Refusal::err(format!("wrong number of arguments for '{name}|{sub}' command"));
    }
    let shown = args.get(1);
    let shown = String::from_utf8_lossy(&shown[..shown.len().min(128)]);
    Refusal::err(format!("unknown subcommand '{shown}'. Try {} HELP.", name.to_ascii_uppercase()))
}

fn wrong() -> Refusal {
    Refusal::new(Code::WrongPass, "invalid username-password pair or user is disabled.")
}

/// A name that can stand in a line of words.
fn plain(name: &[u8], what: &str) -> Result<String, Refusal> {
    if name.len() > NAME {
        return Err(Refusal::err(format!("{what} may have up to {NAME} bytes.")));
    }
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(Refusal::err(format!("{what} cannot contain spaces, newlines or special characters.")));
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}
