//! One Redis server: its folder, its port, its process.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::{Client, FromRedisValue, RedisResult, TlsCertificates, Value};
use tempfile::TempDir;

use super::certificate::Certificate;
use super::port::Port;
use super::process::Process;

/// How long a server may take to answer after a start: disks of test machines are slow at times.
const START: Duration = Duration::from_secs(30);
/// How long one command of the kit may take; a frozen server must not freeze the test.
const COMMAND: Duration = Duration::from_secs(10);
/// How often another port is tried when one was taken between our look and the server's.
const ATTEMPTS: usize = 5;

/// What a server is started with. The default is a server on a free port that keeps nothing.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What a restart finds again.
    pub persistence: Persistence,
    /// The port to listen on; a free one by default.
    pub port: Option<u16>,
    /// The password of the default user; none by default.
    pub password: Option<String>,
    /// Whether it speaks TLS, and only TLS, with a certificate made for it.
    pub tls: bool,
    /// More arguments for `redis-server`, such as `--maxmemory 10mb`, one word each.
    pub arguments: Vec<String>,
}

/// What a server still knows after it was killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    #[default]
    None,
    /// Everything that it acknowledged: each write is on the disk before its reply is sent.
    Aof,
}

/// A Redis server, killed when dropped.
///
/// Fields are dropped in their order: the process ends before its folder goes.
#[derive(Debug)]
pub struct Server {
    process: Option<Process>,
    port: Port,
    options: Options,
    certificate: Option<Certificate>,
    /// Whether it is no store but one of those who watch stores.
    sentinel: bool,
    folder: TempDir,
}

// === Its life ===

impl Server {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// What is missing on this machine, or what the server's log says.
    pub async fn start(options: Options) -> Result<Self, String> {
        Self::start_as(options, None).await
    }

    /// The same for a sentinel, which has these lines in its configuration.
    pub(super) async fn start_sentinel(lines: &str) -> Result<Self, String> {
        Self::start_as(Options::default(), Some(lines)).await
    }

    async fn start_as(options: Options, sentinel: Option<&str>) -> Result<Self, String> {
        let mut attempts = if options.port.is_some() { 1 } else { ATTEMPTS };
        loop {
            let mut server = Self::prepare(options.clone(), sentinel)?;
            attempts -= 1;
            match server.run().await {
                Ok(()) => return Ok(server),
                Err(error) if attempts > 0 && error.contains("Address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes its folder: the configuration is written once only, since sentinels and nodes change it themselves.
    fn prepare(options: Options, sentinel: Option<&str>) -> Result<Self, String> {
        let port = options.port.map_or_else(Port::free, |number| Ok(Port::fixed(number)))?;
        let folder = tempfile::Builder::new().prefix("warmline-redis-").tempdir();
        let folder = folder.map_err(|e| format!("cannot make a folder for redis-server: {e}"))?;
        let certificate = options.tls.then(|| Certificate::make(folder.path())).transpose()?;
        let listen = certificate.as_ref().map_or_else(|| plain(port.number), |files| tls(port.number, files));
        let rest = sentinel.map_or_else(|| store(&options), str::to_owned);
        let text = format!("bind 127.0.0.1\ndir {}\n{listen}{rest}", folder.path().display());
        let server = Self { process: None, port, options, certificate, sentinel: sentinel.is_some(), folder };
        std::fs::write(server.path("server.conf"), text)
            .map_err(|e| format!("cannot write the configuration of redis-server: {e}"))?;
        Ok(server)
    }

    /// Starts the process and waits until it, and no stranger on its port, answers.
    async fn run(&mut self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.path("log"));
        let log = log.and_then(|log| Ok((log.try_clone()?, log)));
        let (output, errors) = log.map_err(|e| format!("cannot write the log of redis-server: {e}"))?;
        let mut command = Command::new("redis-server");
        command.arg(self.path("server.conf")).args(self.sentinel.then_some("--sentinel"));
        command.args(&self.options.arguments);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let process = Process::start(command).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                "redis-server is not on the PATH; install it: apt-get install redis-server".to_owned()
            }
            _ => format!("cannot start redis-server: {error}"),
        })?;
        self.process = Some(process);
        let answers = tokio::time::timeout(START, self.answers()).await;
        let answers = answers.unwrap_or_else(|_| Err(format!("no answer within {START:?}")));
        answers.map_err(|error| {
            self.process = None;
            format!("redis-server on port {} did not start: {error}\n{}", self.port(), self.log())
        })
    }

    async fn answers(&mut self) -> Result<(), String> {
        loop {
            if self.process.as_mut().is_none_or(Process::ended) {
                return Err("it ended".to_owned());
            }
            // A server that still reads its files answers INFO, but not PING.
            if self.send(&["PING"]).await.is_ok()
                && self.info("process_id").await == self.pid().map(|p| p.to_string())
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL. Returns when the process is gone.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port in the same folder; kills it first if it runs. What it still knows is a
    /// question of its [`Persistence`].
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn restart(&mut self) -> Result<(), String> {
        self.kill();
        self.run().await
    }

    /// SIGSTOP: its connections stay open and nothing is answered. Returns when it stands still.
    pub fn stop_the_world(&self) {
        if let Some(process) = &self.process {
            process.stop();
        }
    }

    /// SIGCONT: it goes on as if nothing had been, and answers what has been asked meanwhile.
    pub fn go_on(&self) {
        if let Some(process) = &self.process {
            process.go_on();
        }
    }
}

// === Questions ===

impl Server {
    /// Its port, also while it is down.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// What a client is told to reach it.
    pub fn dsn(&self) -> String {
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        let password = self.options.password.as_ref().map(|password| format!(":{password}@"));
        format!("{scheme}://{}127.0.0.1:{}/0", password.unwrap_or_default(), self.port())
    }

    /// The certificate of the authority to trust, if it speaks TLS.
    pub fn ca_file(&self) -> Option<&Path> {
        self.certificate.as_ref().map(|files| files.authority.as_path())
    }

    /// Its process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.path("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

// === Commands ===

impl Server {
    /// A client for it, with its password and the trust in its certificate.
    ///
    /// # Errors
    /// Those of the library.
    pub fn client(&self) -> RedisResult<Client> {
        let Some(authority) = self.ca_file() else {
            return Client::open(self.dsn());
        };
        // Fails if there is one already, and that one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root_cert = Some(std::fs::read(authority)?);
        Client::build_with_tls(self.dsn(), TlsCertificates { client_tls: None, root_cert })
    }

    /// Sends one command on a connection of its own.
    ///
    /// # Errors
    /// Those of the server, of the way to it, and ten seconds without an answer.
    pub async fn send(&self, words: &[&str]) -> RedisResult<Value> {
        let asked = tokio::time::timeout(COMMAND, async {
            let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
            let mut connection = self.client()?.get_multiplexed_async_connection_with_config(&config).await?;
            let mut command = redis::Cmd::new();
            command.arg(words);
            command.query_async(&mut connection).await
        });
        asked.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
    }

    /// The same with an answer of one kind and an error that says who was asked what.
    pub(super) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, String> {
        let answer = self.send(words).await.and_then(|value| Ok(redis::from_redis_value(value)?));
        answer.map_err(|error| format!("{} on port {}: {error}", words.join(" "), self.port()))
    }

    /// FLUSHALL: everything is gone, and nobody is told.
    ///
    /// # Errors
    /// As [`Server::send`].
    pub async fn flush(&self) -> RedisResult<()> {
        self.send(&["FLUSHALL"]).await.map(drop)
    }

    /// One field of INFO.
    pub async fn info(&self, field: &str) -> Option<String> {
        let info: String = self.ask(&["INFO"]).await.ok()?;
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.map(str::to_owned)
    }
}

fn plain(port: u16) -> String {
    format!("port {port}\n")
}

fn tls(port: u16, files: &Certificate) -> String {
    format!(
        "port 0\ntls-port {port}\ntls-auth-clients no\n\
         tls-ca-cert-file {}\ntls-cert-file {}\ntls-key-file {}\n",
        files.authority.display(),
        files.server.display(),
        files.key.display(),
    )
}

/// What only a store is told, and no sentinel.
fn store(options: &Options) -> String {
    let aof = match options.persistence {
        Persistence::None => "",
        Persistence::Aof => "appendonly yes\nappendfsync always\n",
    };
    let password = options.password.as_ref().map(|password| format!("requirepass {password:?}\n"));
    // Replicas are served at once: they would wait five seconds for company otherwise.
    format!("save \"\"\nrepl-diskless-sync-delay 0\n{aof}{}", password.unwrap_or_default())
}
