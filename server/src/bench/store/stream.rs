//! The client of the benchmark: plain sockets, commands made beforehand, answers of known length read into the same memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::super::process::now;

/// One kind of work.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) write: bool,
    pub(super) size: usize,
    /// Requests under way at a time.
    pub(super) depth: usize,
    /// Bytes that one round moves, about.
    pub(super) bytes: usize,
}

/// Keys that are used in turn, so that a value is not always the one that was just touched.
pub(super) const KEYS: usize = 8;
/// From here on each request is sent by itself.
const LARGE: usize = 64 << 10;

impl Work {
    pub(super) fn name(self) -> String {
        let verb = if self.write { "put" } else { "get" };
        let size = if self.size >= 1 << 20 {
            format!("{} MiB", self.size >> 20)
        } else {
            format!("{} KiB", self.size >> 10)
        };
        format!("{verb} {size}, {} under way", self.depth)
    }

    /// How long an answer is.
    pub(super) fn answered(self) -> usize {
        if self.write { 5 } else { format!("${}\r\n\r\n", self.size).len() + self.size }
    }

    /// Requests that are sent with one write.
    pub(super) fn together(self) -> usize {
        if self.size < LARGE { self.depth } else { 1 }
    }
}

pub(super) fn get(key: usize) -> Vec<u8> {
    format!("*2\r\n$3\r\nGET\r\n$5\r\nkey:{key}\r\n").into_bytes()
}

pub(super) fn set(key: usize, size: usize) -> Vec<u8> {
    let mut command = format!("*3\r\n$3\r\nSET\r\n$5\r\nkey:{key}\r\n${size}\r\n").into_bytes();
    command.resize(command.len() + size, b'x');
    command.extend_from_slice(b"\r\n");
    command
}

fn broken(error: std::io::Error) -> String {
    format!("a server broke off: {error}")
}

/// Bytes of values a second.
pub(super) fn rate(address: SocketAddr, work: Work) -> Result<f64, String> {
    let mut stream = TcpStream::connect(address).map_err(broken)?;
    stream.set_nodelay(true).map_err(broken)?;
    for key in 0..KEYS {
        stream.write_all(&set(key, work.size)).map_err(broken)?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).map_err(broken)?;
        if answer != *b"+OK\r\n" {
            return Err(format!("a server refused: {}", String::from_utf8_lossy(&answer)));
        }
    }
    let one = |key: usize| if work.write { set(key, work.size) } else { get(key) };
    let each = work.together();
    let batches: Vec<Vec<u8>> = match each {
        1 => (0..KEYS).map(one).collect(),
        _ => vec![(0..each).flat_map(|i| one(i % KEYS)).collect()],
    };
    let mut answer = vec![0; work.answered() * each];
    let rounds = (work.bytes / work.size / work.depth).max(2);
    let mut turn = |stream: &mut TcpStream, count: usize| -> std::io::Result<()> {
        for _ in 0..count {
            for i in 0..work.depth / each {
                stream.write_all(&batches[i % batches.len()])?;
            }
            for _ in 0..work.depth / each {
                stream.read_exact(&mut answer)?;
            }
        }
        Ok(())
    };
    turn(&mut stream, rounds.div_ceil(8)).map_err(broken)?;
    let begun = now();
    turn(&mut stream, rounds).map_err(broken)?;
    Ok((rounds * work.depth * work.size) as f64 / begun.elapsed().as_secs_f64())
}

/// A client that looks at its answers.
pub(super) struct Client {
    reads: BufReader<TcpStream>,
    writes: TcpStream,
    out: Vec<u8>,
}

impl Client {
    pub(super) fn connect(address: SocketAddr) -> Result<Self, String> {
        let writes = TcpStream::connect(address).map_err(broken)?;
        writes.set_nodelay(true).map_err(broken)?;
        let reads = BufReader::with_capacity(64 << 10, writes.try_clone().map_err(broken)?);
        Ok(Self { reads, writes, out: Vec::new() })
    }

    fn command(&mut self, words: &[&[u8]]) {
        self.out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn send(&mut self) -> Result<(), String> {
        self.writes.write_all(&self.out).map_err(broken)?;
        self.out.clear();
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.reads.read_line(&mut line).map_err(broken)?;
        let line = line.trim_end().to_owned();
        if line.is_empty() || line.starts_with('-') {
            Err(format!("a server refused: {line}"))
        } else {
            Ok(line)
        }
    }

    fn number(&mut self) -> Result<u64, String> {
        let line = self.line()?;
        line[1..].parse().map_err(|_| format!("`{line}` is no number"))
    }

    fn skip(&mut self, bytes: usize) -> Result<(), String> {
        let mut left = bytes;
        while left > 0 {
            let there = self.reads.fill_buf().map_err(broken)?.len().min(left);
            if there == 0 {
                return Err("a server broke off".to_owned());
            }
            self.reads.consume(there);
            left -= there;
        }
        Ok(())
    }

    pub(super) fn set_many<K: AsRef<[u8]>>(
        &mut self,
        keys: impl Iterator<Item = K>,
        value: &[u8],
    ) -> Result<(), String> {
        let mut many = 0;
        for key in keys {
            self.command(&[b"SET", key.as_ref(), value]);
            many += 1;
        }
        self.send()?;
        (0..many).try_for_each(|_| self.line().map(drop))
    }

    pub(super) fn get(&mut self, key: &[u8], len: usize) -> Result<(), String> {
        self.command(&[b"GET", key]);
        self.send()?;
        let line = self.line()?;
        if line != format!("${len}") {
            return Err(format!("{} should have {len} bytes: {line}", String::from_utf8_lossy(key)));
        }
        self.skip(len + 2)
    }

    /// So many questions of so many keys each, all under way at once; how many keys there were.
    pub(super) fn exist_batches<K: AsRef<[u8]>>(
        &mut self,
        batches: usize,
        keys: usize,
        key: impl Fn(usize) -> K,
    ) -> Result<usize, String> {
        for batch in 0..batches {
            let names: Vec<K> = (0..keys).map(|i| key(batch * keys + i)).collect();
            let words: Vec<&[u8]> =
                std::iter::once(b"EXISTS".as_slice()).chain(names.iter().map(AsRef::as_ref)).collect();
            self.command(&words);
        }
        self.send()?;
        for _ in 0..batches {
            self.number()?;
        }
        Ok(batches * keys)
    }

    pub(super) fn count(&mut self) -> Result<u64, String> {
        self.command(&[b"DBSIZE"]);
        self.send()?;
        self.number()
    }

    /// Objects that left memory for lack of room.
    pub(super) fn evicted(&mut self) -> Result<u64, String> {
        self.command(&[b"INFO", b"stats"]);
        self.send()?;
        let line = self.line()?;
        let len: usize = line[1..].parse().map_err(|_| line.clone())?;
        let mut text = vec![0; len + 2];
        self.reads.read_exact(&mut text).map_err(broken)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let evicted = text.lines().find_map(|line| line.strip_prefix("evicted_keys:"));
        evicted
            .and_then(|count| count.trim().parse().ok())
            .ok_or_else(|| "no evicted_keys in INFO".to_owned())
    }
}
