//! The effect of a job happens once, whoever dies when: three processes on one real server, parts delivered three times
//! in any order, and a SIGKILL or a SIGSTOP at the worst moments of the one that registered the job.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coord::backend::{Config, Registry};
use coord::kit::servers::{Options, Persistence, Server};
use coord::op::{Job, Op, Reply, Stage};
use coord::{Coord, Key, Name};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(40);
/// What the drill has: a lease, and a sweep after it.
const BOUND: Duration = Duration::from_millis(3_500);

/// A drill in a process of its own, gone when dropped.
struct Drill {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Drop for Drill {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drill {
    fn start(dsn: &str, who: &str, parts: usize, handler: Duration, point: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coord-drill"));
        command.args([dsn, who, &parts.to_string(), &handler.as_millis().to_string()]).args(point);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// An order; whoever is dead does not take it.
    fn order(&mut self, order: &str) {
        let _ = writeln!(self.child.stdin.as_mut().unwrap(), "{order}");
    }

    /// Waits for a line that begins so; `false`: the process has ended without it.
    async fn says(&mut self, what: &str) -> bool {
        let listening = async {
            while let Some(line) = self.lines.recv().await {
                if line.starts_with(what) {
                    return true;
                }
            }
            false
        };
        timeout(PATIENCE, listening).await.unwrap_or_else(|_| panic!("nobody says `{what}`"))
    }

    /// Waits for its death by SIGKILL.
    async fn dies(&mut self) {
        while self.lines.recv().await.is_some() {}
        assert_eq!(self.child.wait().unwrap().signal(), Some(9), "it was to be killed at its point");
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the child is ours and not yet waited for, so the id is its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

/// One who only looks.
struct Witness {
    coord: Coord,
    job: Name,
}

impl Witness {
    async fn of(server: &Server) -> Self {
        let config = Config { backend: "redis".to_owned(), dsn: server.dsn(), ..Config::default() };
        let backend = Registry::new().make(&config).await.unwrap();
        Self { coord: Coord::new(backend, Name::new("witness").unwrap(), 1), job: Name::new("job").unwrap() }
    }

    /// Looks until the job is as it should be.
    async fn sees(&self, what: &str, is: impl Fn(&Job) -> bool) -> Job {
        let op = Op::LookAtJob { job: self.job.clone() };
        let looking = async {
            loop {
                match self.coord.ask(&op).await {
                    Ok(Reply::Job(Some(job))) if is(&job) => return job,
                    Ok(Reply::Job(_)) => {}
                    Err(error) if error.is_absence() => {}
                    other => panic!("a look was answered with {other:?}"),
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("the job never was {what}"))
    }

    async fn effects(&self) -> i64 {
        self.coord.count(&Key::beside(&self.job, "effect").unwrap()).await.unwrap()
    }

    /// The end, as it must be: no sooner than all parts were settled, not long after it, and once.
    async fn sees_the_end(&self) -> Job {
        let job = self.sees("acknowledged", |job| job.stage == Stage::Acknowledged).await;
        assert_eq!(job.left, 0, "{job:?}");
        // By the server's clock; four times what it may take, since a machine may be busy.
        assert!(job.quiet < BOUND * 4, "{job:?}");
        assert_eq!(self.effects().await, 1, "{job:?}");
        job
    }
}

/// The owner is killed at a point; two others go on. In all, every part is delivered three times.
async fn the_effect_happens_once_if_the_owner_dies_at(point: &str, parts: usize) -> Job {
    let server = Server::start(Options::default()).await.unwrap();
    let witness = Witness::of(&server).await;
    let short = Duration::from_millis(100);
    let mut owner = Drill::start(&server.dsn(), "owner", parts, short, Some(point));
    owner.order("open");
    owner.order("deliver");
    witness.sees("open", |_| true).await;
    let mut others = ["b", "c"].map(|who| Drill::start(&server.dsn(), who, parts, short, None));
    for other in &mut others {
        other.order("open");
        other.order("deliver");
    }
    timeout(PATIENCE, owner.dies()).await.expect("the owner passes its point");
    let job = witness.sees_the_end().await;
    for other in &mut others {
        assert!(other.says("done deliver").await);
        other.order("mourn");
        assert!(other.says("done mourn").await, "others know of the end");
    }
    assert_eq!(witness.effects().await, 1, "what comes too late changes nothing");
    job
}

/// More parts than fit into one call, so that the owner dies with some of them registered and the job not sealed.
#[tokio::test]
async fn the_effect_happens_once_if_the_owner_dies_while_it_registers_parts() {
    let job = the_effect_happens_once_if_the_owner_dies_at("open.answered:1", 1_500).await;
    assert_eq!(
        (job.owner.as_str(), job.parts, job.attempts),
        ("owner", 0, 1),
        "its parts are forgotten with its end"
    );
}

#[tokio::test]
async fn the_effect_happens_once_if_the_owner_dies_while_it_settles() {
    let job = the_effect_happens_once_if_the_owner_dies_at("settle.answered:200", 1_000).await;
    assert_eq!(job.attempts, 1, "the dead do not begin");
}

#[tokio::test]
async fn the_effect_happens_once_if_the_owner_dies_with_the_completion_in_its_hand() {
    let job = the_effect_happens_once_if_the_owner_dies_at("task.taken:1", 1_000).await;
    assert_eq!(job.attempts, 2, "the owner's and its successor's");
}

#[tokio::test]
async fn the_effect_happens_once_if_the_owner_dies_after_its_handler() {
    let job = the_effect_happens_once_if_the_owner_dies_at("handler.done:1", 1_000).await;
    assert_eq!(job.attempts, 2, "the owner's and its successor's");
}

#[tokio::test]
async fn the_effect_happens_once_if_the_owner_dies_after_its_acknowledgement() {
    let job = the_effect_happens_once_if_the_owner_dies_at("ack.answered:1", 1_000).await;
    assert_eq!(job.attempts, 1, "it was done");
}

#[tokio::test]
async fn the_effect_happens_once_if_the_server_is_killed_in_the_middle() {
    let options = Options { persistence: Persistence::Aof, ..Options::default() };
    let mut server = Server::start(options).await.unwrap();
    let witness = Witness::of(&server).await;
    let short = Duration::from_millis(100);
    let mut all = ["owner", "b", "c"].map(|who| Drill::start(&server.dsn(), who, 1_000, short, None));
    for drill in &mut all {
        drill.order("open");
        drill.order("deliver");
    }
    witness.sees("half settled", |job| job.left < 700).await;
    server.restart().await.unwrap();
    witness.sees_the_end().await;
    for drill in &mut all {
        assert!(drill.says("done deliver").await);
        drill.order("mourn");
        assert!(drill.says("done mourn").await);
    }
    assert_eq!(witness.effects().await, 1);
    assert_eq!(witness.coord.counters().losses.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// The owner stands still in the middle of its handler for longer than its lease, and then goes on as if nothing had been.
#[tokio::test]
async fn the_effect_happens_once_if_the_owner_stands_still_past_its_lease() {
    let server = Server::start(Options::default()).await.unwrap();
    let witness = Witness::of(&server).await;
    let long = Duration::from_millis(500);
    let mut all = ["owner", "b", "c"].map(|who| Drill::start(&server.dsn(), who, 1_000, long, None));
    let [owner, others @ ..] = &mut all;
    owner.order("open");
    assert!(owner.says("done open").await);
    for drill in others.iter_mut() {
        drill.order("open");
        drill.order("deliver");
    }
    assert!(owner.says("handling").await);
    owner.signal(libc::SIGSTOP);
    let job = witness.sees_the_end().await;
    assert_eq!(job.attempts, 2, "{job:?}");
    assert_ne!(job.holder.as_ref().map(|(holder, _)| holder.as_str()), Some("owner"));
    owner.signal(libc::SIGCONT);
    // It finds that it is late, and lets go; its own deliveries come last of all.
    owner.order("mourn");
    owner.order("deliver");
    assert!(owner.says("done mourn").await && owner.says("done deliver").await);
    assert_eq!(witness.effects().await, 1);
    assert_eq!(witness.sees("acknowledged", |job| job.stage == Stage::Acknowledged).await.attempts, 2);
}
