//! What tools ask of a server: `INFO`, `COMMAND`, `CONFIG`.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::meet::{REDIS, wrong_sub};
use super::{Ran, Session, answer, refuse};
use crate::resp::command::{Command, TABLE, find};
use crate::resp::contract::Store;
use crate::resp::decode::Args;
use crate::resp::glob;
use crate::resp::out::Out;
use crate::resp::refusal::Refusal;

impl<S: Store> Session<S> {
    pub(super) fn info(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        let asked: Vec<String> =
            args.from(1).take(32).map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
        let text = self.sections(&asked);
        if !wanted(&asked, "keyspace") {
            out.text(&text);
            return Ran::Done;
        }
        answer(self.ask(Store::count), out, move |keys, out| {
            let mut text = text;
            text.push_str("# Keyspace\r\n");
            if keys > 0 {
                let _ = write!(text, "db0:keys={keys},expires=0,avg_ttl=0\r\n");
            }
            out.text(&text);
        })
    }

    fn sections(&self, asked: &[String]) -> String {
        let house = &self.house;
        let (seen, space, age) = (house.seen(), house.store.space(), house.age().as_secs());
        let mut text = String::new();
        let mut section = |name: &str, lines: &[(&str, String)]| {
            if wanted(asked, &name.to_ascii_lowercase()) {
                let _ = write!(text, "# {name}\r\n");
                for (name, value) in lines {
                    let _ = write!(text, "{name}:{value}\r\n");
                }
                text.push_str("\r\n");
            }
        };
        section(
            "Server",
            &[
                ("redis_version", REDIS.to_owned()),
                ("redis_mode", "standalone".to_owned()),
                ("warmline_version", env!("CARGO_PKG_VERSION").to_owned()),
                ("os", std::env::consts::OS.to_owned()),
                ("arch_bits", usize::BITS.to_string()),
                ("process_id", std::process::id().to_string()),
                ("tcp_port", self.peer.to.port().to_string()),
                ("uptime_in_seconds", age.to_string()),
                ("uptime_in_days", (age / 86_400).to_string()),
            ],
        );
        section(
            "Clients",
            &[
                ("connected_clients", seen.connections.to_string()),
                ("maxclients", house.settings.connections.to_string()),
                ("blocked_clients", "0".to_owned()),
            ],
        );
        section(
            "Memory",
            &[
                ("used_memory", space.used.to_string()),
                ("used_memory_human", human(space.used)),
                ("used_memory_peak", space.used.to_string()),
                ("maxmemory", space.total.to_string()),
                ("maxmemory_human", human(space.total)),
                ("maxmemory_policy", "allkeys-lru".to_owned()),
                ("mem_fragmentation_ratio", "1.00".to_owned()),
            ],
        );
        section("Persistence", &[("loading", "0".to_owned())]);
        let commands: u64 = seen.commands.iter().map(|(_, count)| count).sum();
        section(
            "Stats",
            &[
                ("total_connections_received", seen.accepted.to_string()),
                ("total_commands_processed", commands.to_string()),
                ("instantaneous_ops_per_sec", house.rate.load(Ordering::Relaxed).to_string()),
                ("total_net_input_bytes", seen.received.to_string()),
                ("total_net_output_bytes", seen.sent.to_string()),
                ("rejected_connections", seen.turned_away.to_string()),
                ("expired_keys", "0".to_owned()),
                ("evicted_keys", space.evicted.to_string()),
                ("keyspace_hits", seen.hits.to_string()),
                ("keyspace_misses", seen.misses.to_string()),
                (
                    "total_error_replies",
                    seen.refusals.iter().map(|(_, count)| count).sum::<u64>().to_string(),
                ),
            ],
        );
        section("Replication", &[("role", "master".to_owned()), ("connected_slaves", "0".to_owned())]);
        if asked.iter().any(|name| matches!(name.as_str(), "commandstats" | "all" | "everything")) {
            text.push_str("# Commandstats\r\n");
            for (name, count) in &seen.commands {
                let _ = write!(text, "cmdstat_{}:calls={count}\r\n", name.to_ascii_lowercase());
            }
            text.push_str("\r\n");
        }
        if wanted(asked, "errorstats") {
            text.push_str("# Errorstats\r\n");
            for (word, count) in &seen.refusals {
                let _ = write!(text, "errorstat_{word}:count={count}\r\n");
            }
            text.push_str("\r\n");
        }
        if wanted(asked, "cluster") {
            text.push_str("# Cluster\r\ncluster_enabled:0\r\n\r\n");
        }
        text
    }

    pub(super) fn config(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        match (args.word(1).bytes(), args.count()) {
            (b"GET", 3..) => {
                let settings = self.settings();
                let patterns: Vec<Vec<u8>> = args.from(2).take(32).map(<[u8]>::to_ascii_lowercase).collect();
                let fits = |name: &str| {
                    patterns.iter().any(|pattern| pattern.len() <= 64 && glob::fits(pattern, name.as_bytes()))
                };
                let found: Vec<_> = settings.iter().filter(|(name, _)| fits(name)).collect();
                out.map(found.len());
                for (name, value) in found {
                    out.bulk(name.as_bytes());
                    out.bulk(value.as_bytes());
                }
                Ran::Done
            }
            (b"SET" | b"REWRITE" | b"RESETSTAT", _) => {
                refuse(out, &Refusal::err("settings are changed in the settings file, not by clients"))
            }
            (sub, _) => refuse(out, &wrong_sub("config", args, sub, &["GET"])),
        }
    }

    /// What benchmarks and dashboards ask for, under the names they know.
    fn settings(&self) -> [(&'static str, String); 8] {
        let settings = &self.house.settings;
        [
            ("appendonly", "no".to_owned()),
            ("databases", "1".to_owned()),
            ("maxclients", settings.connections.to_string()),
            ("maxmemory", self.house.store.space().total.to_string()),
            ("maxmemory-policy", "allkeys-lru".to_owned()),
            ("proto-max-bulk-len", settings.value.to_string()),
            ("save", String::new()),
            ("timeout", settings.idle.map_or(0, |idle| idle.as_secs()).to_string()),
        ]
    }
}

pub(super) fn commands(args: Args<'_>, out: &mut Out) -> Ran {
    let named = || -> Vec<Option<&'static Command>> {
        match args.count() {
            ..=2 => TABLE.iter().map(Some).collect(),
            _ => args.from(2).map(find).collect(),
        }
    };
    match (args.word(1).bytes(), args.count()) {
        (_, 1) => list(&TABLE.iter().map(Some).collect::<Vec<_>>(), out),
        (b"INFO", _) => list(&named(), out),
        (b"COUNT", 2) => out.number(TABLE.len() as i64),
        (b"LIST", 2) => {
            out.list(TABLE.len());
            for command in &TABLE {
                out.bulk(command.name.to_ascii_lowercase().as_bytes());
            }
        }
        (b"DOCS", _) => {
            let named: Vec<_> = named().into_iter().flatten().collect();
            out.map(named.len());
            for command in named {
                document(command, out);
            }
        }
        (sub, _) => out.refuse(&wrong_sub("command", args, sub, &["COUNT", "LIST"])),
    }
    Ran::Done
}

fn list(commands: &[Option<&'static Command>], out: &mut Out) {
    out.list(commands.len());
    for command in commands {
        let Some(command) = command else {
            out.null_list();
            continue;
        };
        let (first, last, step) = command.keys;
        out.list(10);
        out.bulk(command.name.to_ascii_lowercase().as_bytes());
        out.number(command.arity);
        out.set(command.flags.len());
        command.flags.iter().for_each(|flag| out.simple(flag));
        for number in [first, last, step] {
            out.number(number);
        }
        // Categories, tips, key specifications and subcommands: none.
        out.set(0);
        (0..3).for_each(|_| out.list(0));
    }
}

fn document(command: &Command, out: &mut Out) {
    out.bulk(command.name.to_ascii_lowercase().as_bytes());
    let lines = [("summary", command.summary), ("since", "1.0.0"), ("group", command.group)];
    out.map(lines.len());
    for (name, line) in lines {
        out.bulk(name.as_bytes());
        out.bulk(line.as_bytes());
    }
}

/// Whether a section is asked for; without a name, all but those that grow with the commands are.
fn wanted(asked: &[String], name: &str) -> bool {
    let all = |asked: &String| matches!(asked.as_str(), "default" | "all" | "everything");
    asked.is_empty() || asked.iter().any(|asked| all(asked) || asked == name)
}

fn human(bytes: u64) -> String {
    let units = ["B", "K", "M", "G", "T"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{size:.2}{}", units[unit]) }
}
