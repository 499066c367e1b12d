//! Processes that are measured from outside, by what the kernel says of them; and the clock of benchmarks.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child process that is measured; it is killed when dropped.
pub(super) struct Process {
    /// `None`: somebody else's.
    child: Option<Child>,
    pub(super) address: SocketAddr,
}

impl Process {
    pub(super) fn start(command: &mut Command, address: SocketAddr) -> Result<Self, String> {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        let middle = Self { child: Some(child), address };
        let begun = now();
        while std::net::TcpStream::connect(address).is_err() {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err(format!("nobody listens on {address}"));
            }
            std::thread::yield_now();
        }
        Ok(middle)
    }

    /// A process that somebody else has started, and whose cost is not asked for.
    pub(super) fn alone(address: SocketAddr) -> Self {
        Self { child: None, address }
    }

    /// What the kernel says of it in one of its files.
    fn read(&self, file: &str) -> Result<String, String> {
        let Some(child) = &self.child else { return Ok(String::new()) };
        std::fs::read_to_string(format!("/proc/{}/{file}", child.id())).map_err(|error| error.to_string())
    }

    /// User and system time so far; the kernel counts in hundredths of a second.
    pub(super) fn cpu(&self) -> Result<Duration, String> {
        let text = self.read("stat")?;
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
    }

    pub(super) fn rss_mib(&self) -> Result<f64, String> {
        let text = self.read("statm")?;
        let pages: f64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
        Ok(pages * 4096.0 / 1_048_576.0)
    }
}

impl Process {
    /// Asks it to end, and waits until it has.
    pub(super) fn end(mut self, patience: Duration) -> Result<(), String> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let id = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let id = id.ok_or("a process without a number")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM)
            .map_err(|error| error.to_string())?;
        let begun = now();
        loop {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("a server ended badly: {status}")),
                None if begun.elapsed() > patience => return Err("a server does not end".to_owned()),
                None => std::thread::yield_now(),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An address that nobody listens on now.
pub(super) fn free() -> Result<SocketAddr, String> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

/// The median and the slowest hundredth, in milliseconds.
pub(super) fn percentiles(times: &mut [Duration]) -> [f64; 2] {
    times.sort_unstable();
    [0.5, 0.99].map(|part| {
        let at = (times.len().saturating_sub(1) as f64 * part) as usize;
        times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    })
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}
