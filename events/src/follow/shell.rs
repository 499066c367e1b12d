//! The sockets around a [`Core`]: one task a source, which waits for whatever comes first.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use blocks::{View, Worker};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::core::{Action, Core, Counters, Mark, Phase, Settings, pause};
use crate::sink::Sink;
use crate::translate;
use crate::wire::{Heard, Question, Subscriber};

/// Where one worker's events are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Whose cache they tell of.
    pub worker: Worker,
    /// The live stream, such as `tcp://10.0.0.5:5557` or `ipc:///tmp/kv`.
    pub endpoint: String,
    /// Whether to bind the endpoint because the engine connects to it.
    pub bind: bool,
    /// The replay socket.
    pub replay: Option<String>,
    /// The topic; empty takes all.
    pub topic: String,
}

/// A stream that is being followed, until this is dropped.
pub struct Follower {
    commands: mpsc::Sender<Command>,
    status: Arc<Mutex<Status>>,
    task: JoinHandle<()>,
    /// Closed when the task has ended.
    ended: watch::Receiver<()>,
}

/// Somebody who may look at what a follower has built, without keeping it alive.
pub struct Looker(mpsc::Sender<Command>);

/// How a stream is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where it is.
    pub phase: Phase,
    /// How far its view can be trusted.
    pub view: View,
    /// Whether the live socket has its peer.
    pub connected: bool,
    /// The last sequence that was applied.
    pub last: Option<u64>,
    /// What has happened.
    pub counters: Counters,
    /// What was left out in translation.
    pub left_out: translate::Counts,
    /// What last went wrong, in words.
    pub trouble: Option<String>,
}

enum Command {
    Restarted,
    Distrusted,
    Look(Box<dyn FnOnce(Option<Mark>) + Send>),
}

/// A message of a replay task, with the number of its request.
enum Reply {
    Batch(u64, u64, Bytes),
    /// The source answers, and others are being taken in.
    Waits(u64),
    End(u64),
    Failed(u64, String),
}

/// The pause before a lost engine is tried again. It begins short, because a restarted engine should be known at once,
/// and stays short enough for one that comes back after an hour.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Replays and snapshots that are taken in at the same time, in this process: each may hold as much as `MAX_HELD_BYTES`,
/// and building a view takes a core. Whoever waits for a turn leaves its answer with the source.
static TURNS: Semaphore = Semaphore::const_new(4);
/// How often somebody who waits for a turn says so.
const WAITS: Duration = Duration::from_millis(200);
/// Commands that may wait: there are few kinds, and a repeated one says nothing new.
const COMMANDS: usize = 8;
/// Batches of a replay between socket and machine.
const REPLIES: usize = 256;
/// Applied batches between two looks at the other inputs' results.
const BURST: usize = 64;

// === impl Follower ===

impl Follower {
    /// Follows a source into a sink, until dropped. Must be called within a tokio runtime.
    pub fn start(source: Source, sink: Arc<dyn Sink>, settings: Settings) -> Self {
        Self::resume(source, sink, settings, None)
    }

    /// The same, going on from a copy of somebody else's view, which the sink holds already.
    pub fn resume(source: Source, sink: Arc<dyn Sink>, settings: Settings, mark: Option<&Mark>) -> Self {
        let settings = Settings { replay: source.replay.is_some(), ..settings };
        let mut core = Core::new(source.worker, sink, settings);
        if let Some(mark) = mark {
            core.resume(mark);
        }
        let status = Arc::new(Mutex::new(status(&core, false, None)));
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (replies, replay) = mpsc::channel(REPLIES);
        let shell = Shell {
            source,
            core,
            status: status.clone(),
            inbox,
            replies,
            replay,
            request: 0,
            asking: None,
            lost: 0,
            random: settings.seed | 1,
            clock: clock(),
        };
        let (living, ended) = watch::channel(());
        let task = tokio::spawn(async move {
            shell.run().await;
            drop(living);
        });
        Self { commands, status, task, ended }
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The engine is known to have begun a new life, or to be gone: drop its view at once.
    pub fn restarted(&self) {
        // A full inbox already holds the same news.
        let _ = self.commands.try_send(Command::Restarted);
    }

    /// The view's predictions fail: build it anew.
    pub fn distrusted(&self) {
        let _ = self.commands.try_send(Command::Distrusted);
    }

    /// Somebody who may look at what it has built.
    pub fn looker(&self) -> Looker {
        Looker(self.commands.clone())
    }

    /// Ends it, and returns when nothing more comes from it.
    pub async fn stop(&self) {
        self.task.abort();
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

impl Looker {
    /// Calls `look` between two batches, while nothing of the view changes, with the mark that the view has reached;
    /// `None` for it if nobody could go on from a copy. Returns `None` if the follower ends before.
    pub async fn look<T: Send + 'static>(
        self,
        look: impl FnOnce(Option<Mark>) -> T + Send + 'static,
    ) -> Option<T> {
        let (seen, answer) = oneshot::channel();
        // Whoever asked may be gone by then.
        let look = Box::new(move |mark| drop(seen.send(look(mark))));
        self.0.send(Command::Look(look)).await.ok()?;
        drop(self.0);
        answer.await.ok()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn status(core: &Core, connected: bool, trouble: Option<String>) -> Status {
    Status {
        phase: core.phase(),
        view: core.view(),
        connected,
        last: core.last(),
        counters: core.counters(),
        left_out: core.left_out(),
        trouble,
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell is where time comes in")]
fn clock() -> Instant {
    Instant::now()
}

// === The task ===

struct Shell {
    source: Source,
    core: Core,
    status: Arc<Mutex<Status>>,
    inbox: mpsc::Receiver<Command>,
    replies: mpsc::Sender<Reply>,
    replay: mpsc::Receiver<Reply>,
    /// The number of the newest replay request; replies to older ones are dropped.
    request: u64,
    asking: Option<JoinHandle<()>>,
    /// Attempts to connect since the last that worked.
    lost: u32,
    random: u64,
    clock: Instant,
}

impl Shell {
    async fn run(mut self) {
        loop {
            match self.connect().await {
                Ok(subscriber) => {
                    self.lost = 0;
                    tracing::debug!(worker = %self.source.worker, endpoint = %self.source.endpoint, "following");
                    // A socket that was bound has no engine yet; what is said until one is there is lost.
                    if !self.source.bind {
                        let action = self.core.connected(self.now());
                        self.act(action);
                    }
                    self.report(!self.source.bind, None);
                    let trouble = self.follow(subscriber).await;
                    tracing::debug!(worker = %self.source.worker, trouble, "lost the event stream");
                    self.stop_asking();
                    self.core.disconnected();
                    self.report(false, Some(trouble));
                }
                Err(trouble) => self.report(false, Some(trouble)),
            }
            self.wait().await;
        }
    }

    /// Connects or binds; commands are heard meanwhile.
    async fn connect(&mut self) -> Result<Subscriber, String> {
        let Source { endpoint, topic, bind, .. } = self.source.clone();
        let connecting = async {
            if bind {
                Subscriber::bind(&endpoint, &topic).await
            } else {
                Subscriber::connect(&endpoint, &topic).await
            }
        };
        tokio::pin!(connecting);
        loop {
            tokio::select! {
                connected = &mut connecting => return connected,
                Some(command) = self.inbox.recv() => {
                    self.command(command);
                    self.report(false, None);
                }
            }
        }
    }

    /// Takes what comes until the peer is lost; returns what was lost.
    async fn follow(&mut self, mut subscriber: Subscriber) -> String {
        let mut since_report = 0;
        let mut connected = !self.source.bind;
        loop {
            let before = self.core.view();
            let tick = self.core.next_tick().map(|at| at.saturating_sub(self.now()));
            let action = tokio::select! {
                heard = subscriber.next() => match heard {
                    Ok(Heard::Message(frames)) => {
                        since_report += 1;
                        self.live(frames)
                    }
                    Ok(Heard::Accepted) => {
                        connected = true;
                        since_report = 0;
                        self.core.connected(self.now())
                    }
                    Ok(Heard::Disconnected) if self.source.bind => {
                        // The socket stays; what the engine says until it is back is lost.
                        connected = false;
                        self.stop_asking();
                        self.core.disconnected();
                        None
                    }
                    Ok(Heard::Disconnected) => return "the engine closed the connection".to_owned(),
                    Err(trouble) => return trouble,
                },
                Some(reply) = self.replay.recv() => self.reply(reply),
                Some(command) = self.inbox.recv() => self.command(command),
                () = tokio::time::sleep(tick.unwrap_or_default()), if tick.is_some() => self.core.tick(self.now()),
            };
            // What others are told of a view changes with it, however few messages come.
            let changed = action.is_some() || self.core.view() != before;
            self.act(action);
            if changed || since_report == 0 || since_report >= BURST || self.core.view() != View::Exact {
                self.report(connected, None);
                since_report = 0;
            } else {
                self.report_progress();
            }
        }
    }

    fn live(&mut self, mut frames: Vec<Bytes>) -> Option<Action> {
        // Topic, sequence, payload; some publishers leave the topic out.
        let payload = frames.pop()?;
        let sequence = frames.pop().and_then(|frame| number(&frame))?;
        self.core.live(sequence, payload, self.now())
    }

    fn reply(&mut self, reply: Reply) -> Option<Action> {
        let now = self.now();
        match reply {
            Reply::Batch(request, sequence, payload) if request == self.request => {
                self.core.replayed(sequence, payload, now)
            }
            Reply::Waits(request) if request == self.request => {
                self.core.replay_waits(now);
                None
            }
            Reply::End(request) if request == self.request => self.core.replay_ended(now),
            Reply::Failed(request, trouble) if request == self.request => {
                tracing::debug!(worker = %self.source.worker, trouble, "replay failed");
                self.core.replay_failed(now)
            }
            _ => None,
        }
    }

    fn command(&mut self, command: Command) -> Option<Action> {
        match command {
            Command::Restarted => self.core.restarted(self.now()),
            Command::Distrusted => self.core.distrusted(self.now()),
            Command::Look(look) => {
                look(self.core.mark());
                None
            }
        }
    }

    fn act(&mut self, action: Option<Action>) {
        let (Some(Action::Replay { from }), Some(endpoint)) = (action, self.source.replay.clone()) else {
            return;
        };
        self.stop_asking();
        self.request += 1;
        self.asking = Some(tokio::spawn(ask(endpoint, from, self.request, self.replies.clone())));
    }

    fn stop_asking(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        self.request += 1;
    }

    /// The pause before the next attempt, in which commands are still heard.
    async fn wait(&mut self) {
        let (shortest, longest) = RECONNECT;
        let pause = tokio::time::sleep(pause(&mut self.random, shortest, longest, self.lost));
        self.lost += 1;
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return,
                Some(command) = self.inbox.recv() => {
                    self.command(command);
                    self.report(false, None);
                }
            }
        }
    }

    fn report(&self, connected: bool, trouble: Option<String>) {
        let mut shared = self.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let trouble = trouble.or_else(|| shared.trouble.take().filter(|_| !connected));
        *shared = status(&self.core, connected, trouble);
    }

    fn report_progress(&self) {
        if let Ok(mut shared) = self.status.try_lock() {
            shared.last = self.core.last();
            shared.counters = self.core.counters();
        }
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.stop_asking();
    }
}

/// Asks one replay socket for one replay and passes on what it answers.
async fn ask(endpoint: String, from: u64, request: u64, replies: mpsc::Sender<Reply>) {
    let answered = async {
        let mut question = Question::connect(&endpoint).await?;
        question.ask(from).await?;
        let mut turn = None;
        loop {
            let mut frames = question.next().await?;
            if turn.is_none() {
                turn = Some(own_turn(request, &replies).await?);
            }
            // Delimiter, perhaps a topic, sequence, payload.
            let payload = frames.pop().ok_or("an empty answer")?;
            let sequence =
                frames.pop().and_then(|frame| number(&frame)).ok_or("an answer without a sequence")?;
            if sequence == u64::MAX {
                return Ok::<_, String>(());
            }
            if replies.send(Reply::Batch(request, sequence, payload)).await.is_err() {
                return Ok(());
            }
        }
    };
    let last = match answered.await {
        Ok(()) => Reply::End(request),
        Err(trouble) => Reply::Failed(request, trouble),
    };
    // Nobody is left to hear it if the follower was dropped.
    let _ = replies.send(last).await;
}

/// Waits for one of the turns, and says meanwhile that it does. A source that says nothing takes no turn.
async fn own_turn(
    request: u64,
    replies: &mpsc::Sender<Reply>,
) -> Result<tokio::sync::SemaphorePermit<'static>, String> {
    loop {
        match tokio::time::timeout(WAITS, TURNS.acquire()).await {
            Ok(turn) => return turn.map_err(|error| error.to_string()),
            Err(_) => replies.send(Reply::Waits(request)).await.map_err(|error| error.to_string())?,
        }
    }
}

/// A sequence number: eight bytes, big-endian.
fn number(frame: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(frame.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use blocks::Event;

    use super::*;
    use crate::codec::{Batch, Said};
    use crate::sink::UnknownParent;
    use crate::stock;

    struct Nothing;

    impl Sink for Nothing {
        fn apply(&self, _: Worker, _: &Event) -> Result<(), UnknownParent> {
            Ok(())
        }

        fn replace(&self, _: Worker, _: &[Event]) {}

        fn forget(&self, _: Worker) {}

        fn set_view(&self, _: Worker, _: View) {}
    }

    async fn until(what: &str, so: impl Fn() -> bool) {
        for _ in 0..3_000 {
            if so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited for {what}");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_turn_has_not_failed() {
        let settings = stock::Settings {
            endpoint: "tcp://127.0.0.1:0".to_owned(),
            replay: Some("tcp://127.0.0.1:0".to_owned()),
            topic: String::new(),
            buffer_steps: 10,
        };
        let engine = stock::Publisher::start(settings).await.unwrap();
        engine.publish(&Batch { said: vec![Said::Cleared], ..Batch::default() });
        let source = Source {
            worker: Worker { instance: 1, rank: 0 },
            endpoint: engine.endpoint().to_owned(),
            bind: false,
            replay: engine.replay_endpoint().map(str::to_owned),
            topic: String::new(),
        };
        // Everybody else's turns; the patience of this one is shorter than they take.
        let turns = TURNS.acquire_many(4).await.unwrap();
        let settings = Settings { replay_timeout: Duration::from_millis(600), ..Settings::default() };
        let follower = Follower::start(source, Arc::new(Nothing), settings);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let status = follower.status();
        assert_eq!((status.view, status.counters.replays), (View::Recovering, 1), "{status:?}");
        assert_eq!(status.counters.failed_replays, 0, "{status:?}");
        drop(turns);
        until("the view to be exact", || follower.status().view == View::Exact).await;
    }

    #[tokio::test]
    async fn a_source_that_says_nothing_takes_no_turn() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("tcp://{}", silent.local_addr().unwrap());
        let (replies, _heard) = mpsc::channel(REPLIES);
        let asking: Vec<_> =
            (0..8).map(|request| tokio::spawn(ask(endpoint.clone(), 0, request, replies.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(TURNS.available_permits(), 4);
        asking.iter().for_each(JoinHandle::abort);
    }
}
