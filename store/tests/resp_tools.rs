//! The programs that people use: redis-cli and redis-benchmark against the drill, and redis-server beside it, word for word.
//!
//! They must be installed: a machine without them fails here rather than claim what was not seen.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

/// A server that ends with the test.
struct Served {
    child: Child,
    port: u16,
    // Kept open: a program that cannot print may end.
    _printed: Option<ChildStdout>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn drill() -> Served {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resp-drill"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut printed = child.stdout.take().unwrap();
    let mut port = Vec::new();
    while port.last() != Some(&b'\n') {
        let mut byte = [0];
        printed.read_exact(&mut byte).unwrap();
        port.push(byte[0]);
    }
    let port = String::from_utf8(port).unwrap().trim().parse().unwrap();
    Served { child, port, _printed: Some(printed) }
}

fn redis() -> Served {
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let number = port.to_string();
        let args = [
            "--port",
            &number,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--databases",
            "1",
        ];
        let mut command = Command::new("redis-server");
        let mut child = command.args(args).stdout(Stdio::null()).spawn().expect("redis-server is installed");
        // Somebody else may have taken the port meanwhile: then it ends, and another is tried.
        loop {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() && child.try_wait().unwrap().is_none() {
                return Served { child, port, _printed: None };
            }
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::yield_now();
        }
    }
}

fn ran(name: &str, port: u16, args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(name);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} must be installed: {error}"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn cli(port: u16, args: &[&str], input: &[u8]) -> String {
    let out = ran("redis-cli", port, args, input);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn redis_cli_works_as_people_use_it() {
    let drill = drill();
    let cli = |args: &[&str], input: &[u8]| cli(drill.port, args, input);
    assert_eq!(cli(&["SET", "k", "a value"], b""), "OK\n");
    assert_eq!(cli(&["GET", "k"], b""), "a value\n");
    assert_eq!(cli(&["-3", "GET", "none"], b""), "\n");
    // Binary, through its own way in and out: `-x` is the last argument from its input.
    let value: Vec<u8> = (0..2_000_000u32).map(|at| (at % 251) as u8).collect();
    assert_eq!(cli(&["-x", "SET", "binary"], &value), "OK\n");
    let out = ran("redis-cli", drill.port, &["--raw", "GET", "binary"], b"");
    assert!(out.stdout[..value.len()] == value[..], "{} bytes came back", out.stdout.len());
    assert_eq!(cli(&["STRLEN", "binary"], b""), "2000000\n");
    // A session as it is typed, with the questions that redis-cli asks by itself.
    let typed = b"SET a 1 EX 100\nTTL a\nTYPE a\nMGET a b\nSETNX a 2\nFOO\n";
    assert_eq!(
        cli(&[], typed),
        "OK\n100\nstring\n1\n\n0\nERR unknown command 'FOO', with args beginning with: \n\n"
    );
    let keys = cli(&["--scan", "--pattern", "?"], b"");
    assert_eq!(keys.lines().collect::<std::collections::BTreeSet<_>>(), ["a", "k"].into());
    assert!(cli(&["--bigkeys"], b"").contains("Biggest string found '\"binary\"' has 2000000 bytes"));
    let info = cli(&["INFO"], b"");
    for line in ["redis_version:", "connected_clients:1", "db0:keys=3", "# Memory", "maxmemory:"] {
        assert!(info.contains(line), "{line} in\n{info}");
    }
    assert!(cli(&["CLIENT", "LIST"], b"").contains("cmd=client"));
    assert!(cli(&["-3", "HELLO"], b"").contains("proto 3"));
    assert!(cli(&["COMMAND", "DOCS", "get"], b"").contains("Reads a value."));
    // Mass insertion: the protocol itself, from a file.
    let mut mass = Vec::new();
    for i in 0..1_000 {
        write!(mass, "*3\r\n$3\r\nSET\r\n${}\r\nmass:{i}\r\n$1\r\nx\r\n", format!("mass:{i}").len()).unwrap();
    }
    assert!(cli(&["--pipe"], &mass).contains("errors: 0, replies: 1000"));
    assert_eq!(cli(&["DBSIZE"], b""), "1003\n");
}

#[test]
fn redis_benchmark_works_with_the_flags_people_give_it() {
    let drill = drill();
    for flags in [["-P", "1"], ["-P", "16"]] {
        let args = ["-n", "2000", "-c", "20", "-d", "4096", "-t", "ping,set,get,mset", "-r", "100", "--csv"];
        let out = ran("redis-benchmark", drill.port, &[&args[..], &flags[..]].concat(), b"");
        let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success() && errors.is_empty(), "{text}{errors}");
        for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "MSET (10 keys)"] {
            assert!(text.contains(&format!("\"{test}\",")), "{test} in\n{text}");
        }
    }
}

/// What a server answers, byte for byte, until it has said `.` or closed.
fn talk(port: u16, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(sent).unwrap();
    let mut heard = Vec::new();
    let mut some = [0; 4_096];
    loop {
        let count = stream.read(&mut some).unwrap_or(0);
        heard.extend_from_slice(&some[..count]);
        if count == 0 || heard.ends_with(b"$1\r\n.\r\n") {
            return String::from_utf8_lossy(&heard).into_owned();
        }
    }
}

/// Conversations whose answers must be those of Redis, to the byte. Each ends with `ECHO .`, unless it is closed.
const SAME: &[&str] = &[
    "PING|PING x|ECHO y|SELECT 0|SELECT 1|SELECT x|AUTH default x|AUTH nobody x|AUTH x",
    "SET k v|GET k|STRLEN k|EXISTS k k none|TYPE k|TYPE none|TTL k|TTL none|PTTL none|DBSIZE|DEL k k none|GET k|STRLEN k",
    "SET k v NX|SET k w NX|SET n v XX|SET k w XX|GET k|SETNX k z|SETNX m z|GET m|DEL k m",
    "SET k v EX 100|TTL k|SET k w KEEPTTL|TTL k|SET k w|TTL k|SET k v PX 100000|TTL k|SETEX k 50 v|TTL k|DEL k",
    "PSETEX k 70000 v|TTL k|SETEX k 0 v|SETEX k -1 v|SETEX k x v|PSETEX k 0 v|SET k v EX 0|SET k v PX -5|SET k v EX x|DEL k",
    "SET k v EX|SET k v FOO|SET k v NX XX|SET k v EX 10 PX 10|SET k v EX 9223372036854775807|EXISTS k",
    "MSET a 1 b 2 c 3|MGET a b none c|MGET a|MSET a 1 b|UNLINK a b|DEL c",
    "SET k 0123456789|GETRANGE k 0 3|GETRANGE k -3 -1|GETRANGE k -100 2|GETRANGE k 5 100|GETRANGE k 7 3|GETRANGE k 0 -100|DEL k",
    "GETRANGE none 0 -1|GETRANGE none x 1|SUBSTR none 0 1|SET e \"\"|GET e|STRLEN e|GETRANGE e 0 -1|EXISTS e|DEL e",
    "GET|GET a b|SET a|STRLEN|EXISTS|DEL|MGET|MSET|MSET a|TTL|SCAN|ECHO|PING a b|GETRANGE a 1|SETEX a 1|DBSIZE x|TYPE",
    "FOO|foo bar baz|FOO \"a b\"|get|client foo|CLIENT|CLIENT SETNAME|COMMAND FOO|CONFIG FOO|CONFIG",
    "SCAN x|SCAN 0 COUNT 0|SCAN 0 COUNT x|SCAN 0 FOO|SCAN 0 MATCH|SCAN 0 COUNT 5|SCAN 0 MATCH * COUNT 5 TYPE string",
    "CLIENT GETNAME|CLIENT SETNAME me|CLIENT GETNAME|CLIENT SETNAME \"a b\"|CLIENT NO-EVICT on|CLIENT NO-EVICT x|RESET|CLIENT GETNAME",
    "HELLO 4|HELLO x|HELLO 2 FOO|HELLO 2 AUTH nobody x|CONFIG GET save|CONFIG GET none|CONFIG GET appendonly",
    "|   |PING",
    "QUIT|PING",
    "PING|SET k \"unbalanced",
];

/// The same as bytes that no line can say.
const RAW: &[&[u8]] = &[
    b"*1\r\n$4\r\nPING\r\n*0\r\n*-1\r\n*2\r\n$4\r\nECHO\r\n$1\r\n.\r\n",
    b"*1\r\n$-1\r\n",
    b"*x\r\n",
    b"*1\r\n:1\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$536870913\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\n\xff\r\n$4\r\n\r\n\0.\r\n*2\r\n$3\r\nGET\r\n$1\r\n\xff\r\n*2\r\n$3\r\nDEL\r\n$1\r\n\xff\r\n*2\r\n$4\r\nECHO\r\n$1\r\n.\r\n",
    b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*2\r\n$3\r\nGET\r\n$4\r\nnone\r\n*2\r\n$4\r\nMGET\r\n$4\r\nnone\r\n*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nsave\r\n*2\r\n$4\r\nECHO\r\n$1\r\n.\r\n",
];

#[test]
fn answers_and_refusals_are_those_of_redis() {
    let (drill, redis) = (drill(), redis());
    let mut different = Vec::new();
    for conversation in SAME {
        let lines = conversation.replace('|', "\r\n");
        different.extend(compare(&drill, &redis, format!("{lines}\r\nECHO .\r\n").as_bytes()));
    }
    for bytes in RAW {
        different.extend(compare(&drill, &redis, bytes));
    }
    assert!(different.is_empty(), "{}", different.concat());
}

/// What differs, if anything does.
fn compare(drill: &Served, redis: &Served, sent: &[u8]) -> Option<String> {
    // A greeting tells who greets.
    let plain = |heard: String| {
        heard.split_once("$7\r\nmodules\r\n").map_or(heard.clone(), |(_, rest)| rest.to_owned())
    };
    let (ours, theirs) = (plain(talk(drill.port, sent)), plain(talk(redis.port, sent)));
    let sent = String::from_utf8_lossy(sent);
    (ours != theirs).then(|| format!("after  {sent:?}\nours   {ours:?}\nredis  {theirs:?}\n\n"))
}
