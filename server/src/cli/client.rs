//! A blocking HTTP client for the command line: one request, one answer, no pool, no runtime.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The longest answer that is read: an `explain` of a thousand engines is far below.
const MAX_ANSWER: u64 = 64 << 20;

/// Where to ask, and with which key.
pub(super) struct Client {
    authority: String,
    base_path: String,
    key: Option<String>,
    timeout: Duration,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

// === impl Client ===

impl Client {
    /// A client of `http://host:port[/path]`, or of `host:port`.
    pub(super) fn new(url: &str, key: Option<String>, timeout: Duration) -> Self {
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let base_path =
            if path.is_empty() { String::new() } else { format!("/{}", path.trim_end_matches('/')) };
        Self { authority: authority.to_owned(), base_path, key, timeout }
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, String> {
        self.ask("GET", path, b"")
    }

    pub(super) fn post(&self, path: &str, body: &[u8]) -> Result<Answer, String> {
        self.ask("POST", path, body)
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
        let unreachable = |error| format!("cannot reach {}: {error}", self.authority);
        let mut stream = self.connect().map_err(unreachable)?;
        let key = self.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {}{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{key}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.base_path,
            self.authority,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).map_err(unreachable)?;
        read(BufReader::new(stream)).map_err(|error| format!("{} answered badly: {error}", self.authority))
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let mut last = std::io::Error::other("the name has no address");
        let with_port = if self.authority.contains(':') {
            self.authority.clone()
        } else {
            format!("{}:80", self.authority)
        };
        for address in with_port.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(self.timeout))?;
                    stream.set_write_timeout(Some(self.timeout))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Reads a head and a body that is delimited by its length, by chunks, or by the end of the connection.
fn read(mut from: impl BufRead) -> Result<Answer, String> {
    let text = |error: std::io::Error| error.to_string();
    let status = line(&mut from)?;
    let status = status.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or("this is not HTTP")?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = line(&mut from)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or("a header has no colon")?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse::<u64>().ok(),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = line(&mut from)?;
            let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.map_err(|error| format!("a chunk has no size: {error}"))?;
            if size == 0 || body.len() as u64 + size > MAX_ANSWER {
                break;
            }
            from.by_ref().take(size).read_to_end(&mut body).map_err(text)?;
            line(&mut from)?;
        }
    } else {
        from.take(length.unwrap_or(MAX_ANSWER).min(MAX_ANSWER)).read_to_end(&mut body).map_err(text)?;
    }
    Ok(Answer { status, body })
}

fn line(from: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    let read = from.by_ref().take(64 << 10).read_line(&mut line).map_err(|error| error.to_string())?;
    if read == 0 {
        return Err("the connection ended in the middle of an answer".to_owned());
    }
    Ok(line.trim_end().to_owned())
}

// === impl Answer ===

impl Answer {
    /// The body as `T`, if the status is a success; else what the server said was wrong.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        if !(200..300).contains(&self.status) {
            return Err(self.complaint());
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("the answer is not what was expected: {error}"))
    }

    /// The server's own words about what is wrong.
    pub(super) fn complaint(&self) -> String {
        let json: Option<Value> = serde_json::from_slice(&self.body).ok();
        let message = json.as_ref().and_then(|json| {
            let error = json.get("error")?;
            error.get("message").unwrap_or(error).as_str()
        });
        match message {
            Some(message) => format!("{message} (HTTP {})", self.status),
            None => format!("HTTP {}: {}", self.status, String::from_utf8_lossy(&self.body).trim()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_end_by_length_by_chunks_or_by_the_end() {
        let cases = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, not this",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=1\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nhello",
        ];
        for case in cases {
            let answer = read(case.as_bytes()).unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]), "{case}");
        }
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        for case in ["", "SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] {
            assert!(read(case.as_bytes()).is_err(), "{case}");
        }
    }

    #[test]
    fn complaints_come_in_the_servers_own_words() {
        let answer = Answer { status: 404, body: br#"{"error":{"message":"no such id"}}"#.to_vec() };
        assert_eq!(answer.parse::<Value>().unwrap_err(), "no such id (HTTP 404)");
    }
}
