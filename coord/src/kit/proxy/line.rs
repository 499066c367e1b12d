//! One connection through the proxy: which reply is whose, and how the connection ends.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::faults::{Fate, Faults};
use super::frames::{Frames, words};

/// How long a client that was hung up on is listened to.
const MOMENT: Duration = Duration::from_secs(1);

/// What both directions of a connection share.
struct Line {
    faults: Faults,
    state: Mutex<State>,
    /// The connection is to end as soon as nothing is due.
    end: Notify,
}

#[derive(Default)]
struct State {
    /// What the client waits for, in its order. As long as the pipeline that the client has sent.
    due: VecDeque<Due>,
    /// When nothing is due any more, the connection ends.
    ending: bool,
    /// Something was swallowed, so no later reply can be told from a lost one.
    mute: bool,
    /// In RESP3 messages of subscriptions are marked as such; in RESP2 they look like replies.
    resp3: bool,
    subscribed: bool,
}

/// The answer to one command.
struct Due {
    /// So many confirmations of (un)subscribing, which come as messages, or one error. 0: a reply.
    confirmations: usize,
    /// Not before this.
    at: Option<Instant>,
    /// The command, if its answer is not passed on and the connection ends instead.
    withheld: Option<String>,
}

/// What becomes of a frame from the server.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Deliver(Option<Instant>),
    Swallow,
    End,
}

/// Serves one client until one of the two hangs up or a fault ends it.
pub(super) async fn serve(mut client: TcpStream, upstream: SocketAddr, faults: Faults) {
    let mut cuts = faults.cuts();
    if !faults.takes() {
        return;
    }
    tokio::select! {
        // First of all: what comes in after a cut is not sent on.
        biased;
        _ = cuts.changed() => {}
        // An error here is one of the two sockets': the connection ends, which is all there is to say.
        _ = both_ways(&mut client, upstream, faults) => {}
    }
    // A socket closed over unread bytes takes back even the replies that were sent before. So the client is told
    // that no more comes, and what it still says is heard, if it does not hang up, for a moment.
    let _ = client.shutdown().await;
    let _ = timeout(MOMENT, drain(&mut client.split().0)).await;
}

async fn both_ways(client: &mut TcpStream, upstream: SocketAddr, faults: Faults) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut from_client, to_client) = client.split();
    if faults.half_open() {
        return drain(&mut from_client).await;
    }
    let mut upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    let (from_server, to_server) = upstream.split();
    let line = Line { faults, state: Mutex::default(), end: Notify::new() };
    tokio::select! {
        ended = line.requests(&mut from_client, to_server) => ended,
        ended = line.replies(from_server, to_client) => ended,
    }
}

/// Reads and forgets until the client hangs up.
async fn drain(client: &mut ReadHalf<'_>) -> io::Result<()> {
    let mut lost = [0; 4096];
    while client.read(&mut lost).await? > 0 {}
    Ok(())
}

impl Line {
    /// From the client to the server, one command at a time.
    async fn requests(&self, client: &mut ReadHalf<'_>, mut server: WriteHalf<'_>) -> io::Result<()> {
        let mut frames = Frames::default();
        loop {
            while let Some(command) = frames.next()? {
                let words = words(&command);
                let name = words.first().map(|name| String::from_utf8_lossy(name).to_ascii_uppercase());
                // An empty command has no reply either.
                let Some(name) = name else { continue };
                let fate = self.faults.judge(&name);
                self.expect(&fate, name, &words);
                match fate {
                    Fate::Forward { .. } => server.write_all(&command).await?,
                    Fate::Execute => {
                        server.write_all(&command).await?;
                        return pending().await;
                    }
                    Fate::Close => return pending().await,
                    Fate::Swallow => return drain(client).await,
                }
            }
            if client.read_buf(&mut frames.buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Notes, before the command is sent, what has to come back.
    fn expect(&self, fate: &Fate, name: String, words: &[&[u8]]) {
        let mut state = self.state.lock();
        let subscribing = is_subscribing(&name);
        let confirmations = if subscribing { (words.len() - 1).max(1) } else { 0 };
        state.subscribed |= subscribing;
        state.resp3 |= name == "HELLO" && words.get(1) == Some(&&b"3"[..]);
        let (at, withheld) = match *fate {
            Fate::Forward { delay } => ((!delay.is_zero()).then(|| Instant::now() + delay), None),
            Fate::Execute => (None, Some(name)),
            Fate::Close => {
                state.ending = true;
                return self.end.notify_one();
            }
            Fate::Swallow => {
                state.mute = true;
                return;
            }
        };
        state.due.push_back(Due { confirmations, at, withheld });
    }

    /// From the server to the client, one reply or message at a time.
    async fn replies(&self, mut server: ReadHalf<'_>, mut client: WriteHalf<'_>) -> io::Result<()> {
        let mut frames = Frames::default();
        loop {
            while let Some(frame) = frames.next()? {
                match self.arrived(&frame) {
                    Outcome::Deliver(at) => {
                        if let Some(at) = at {
                            sleep_until(at).await;
                        }
                        client.write_all(&frame).await?;
                    }
                    Outcome::Swallow => {}
                    Outcome::End => return Ok(()),
                }
            }
            if self.is_over() {
                return Ok(());
            }
            tokio::select! {
                read = server.read_buf(&mut frames.buffer) => if read? == 0 {
                    // A half-open connection outlives its server.
                    return if self.is_mute() { pending().await } else { Ok(()) };
                },
                () = self.end.notified() => {}
            }
        }
    }

    fn is_mute(&self) -> bool {
        self.state.lock().mute || self.faults.half_open()
    }

    fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.ending && state.due.is_empty()
    }

    /// Whose frame this is, and so what becomes of it.
    fn arrived(&self, frame: &[u8]) -> Outcome {
        let mut state = self.state.lock();
        if state.mute || self.faults.half_open() {
            state.mute = true;
            return Outcome::Swallow;
        }
        let message = state.message(frame);
        let confirms = message.as_deref().is_some_and(is_subscribing);
        // A server may say why it hangs up before it is asked anything.
        let Some(due) = state.due.front_mut() else { return Outcome::Deliver(None) };
        if message.is_some() && !(confirms && due.confirmations > 0) {
            return Outcome::Deliver(None);
        }
        due.confirmations = if confirms { due.confirmations - 1 } else { 0 };
        let (at, withheld) = (due.at, due.withheld.take());
        if due.confirmations == 0 {
            state.due.pop_front();
        }
        let Some(command) = withheld else { return Outcome::Deliver(at) };
        self.faults.withheld(&command);
        Outcome::End
    }
}

impl State {
    /// The kind of a frame that is no reply but a message of a subscription, or speaks about subscriptions.
    fn message(&self, frame: &[u8]) -> Option<String> {
        let marked = frame.first() == Some(&b'>');
        let looks = frame.first() == Some(&b'*') && self.subscribed && !self.resp3;
        let kind = (marked || looks)
            .then(|| words(frame).first().map(|kind| String::from_utf8_lossy(kind).into()))?;
        kind.filter(|kind: &String| marked || MESSAGES.contains(&kind.as_str()) || is_subscribing(kind))
    }
}

const MESSAGES: [&str; 3] = ["message", "pmessage", "smessage"];

/// Commands that are answered by messages; the messages are called like them.
const SUBSCRIBING: [&str; 6] =
    ["subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"];

fn is_subscribing(name: &str) -> bool {
    SUBSCRIBING.iter().any(|kind| kind.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::super::faults::Fault;
    use super::*;

    fn line() -> Line {
        Line { faults: Faults::default(), state: Mutex::default(), end: Notify::new() }
    }

    fn ask(line: &Line, command: &str) {
        let words: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        let name = command.split(' ').next().unwrap().to_owned();
        line.expect(&line.faults.judge(&name), name, &words);
    }

    /// Texts in the shape of a message of RESP3, or of an array.
    fn frame(kind: char, texts: &[&str]) -> String {
        let texts = texts.iter().map(|text| format!("${}\r\n{text}\r\n", text.len()));
        format!("{kind}{}\r\n{}", texts.len(), texts.collect::<String>())
    }

    fn check(line: &Line, frames: &[(String, Outcome)]) {
        for (frame, expected) in frames {
            assert_eq!(line.arrived(frame.as_bytes()), *expected, "{frame:?}");
        }
    }

    const PASSED: Outcome = Outcome::Deliver(None);

    /// Only the fourth command is to lose its reply, whatever comes between.
    #[test]
    fn messages_are_nobodys_reply() {
        for (hello, kind) in [("HELLO 3", '>'), ("HELLO 2", '*')] {
            let line = line();
            line.faults.set_for("PING", Fault::CutReply { nth: 1 });
            for command in [hello, "SUBSCRIBE a b", "PSUBSCRIBE c", "PING"] {
                ask(&line, command);
            }
            let message = frame(kind, &["message", "a", "subscribe"]);
            check(
                &line,
                &[
                    ("+greeting\r\n".to_owned(), PASSED),
                    (frame(kind, &["subscribe", "a", "1"]), PASSED),
                    (message.clone(), PASSED),
                    (frame(kind, &["subscribe", "b", "2"]), PASSED),
                    ("-NOPERM no\r\n".to_owned(), PASSED),
                    (message, PASSED),
                    (frame('*', &["pong", ""]), Outcome::End),
                ],
            );
        }
    }

    #[test]
    fn a_confirmation_that_is_cut_is_that_of_its_command() {
        let line = line();
        line.faults.set_for("PSUBSCRIBE", Fault::CutReply { nth: 1 });
        ask(&line, "SUBSCRIBE a b");
        ask(&line, "PSUBSCRIBE c");
        check(
            &line,
            &[
                (frame('*', &["subscribe", "a", "1"]), PASSED),
                (frame('*', &["subscribe", "b", "2"]), PASSED),
                (frame('*', &["psubscribe", "c", "3"]), Outcome::End),
            ],
        );
        assert_eq!(line.faults.count("PSUBSCRIBE").replies_cut, 1);
    }

    /// In RESP3 an array is a reply, even if it looks like a message.
    #[test]
    fn a_reply_may_look_like_a_message() {
        let line = line();
        line.faults.set_for("PING", Fault::CutReply { nth: 1 });
        for command in ["HELLO 3", "SUBSCRIBE a", "LRANGE l 0 -1", "PING"] {
            ask(&line, command);
        }
        check(
            &line,
            &[
                ("%0\r\n".to_owned(), PASSED),
                (frame('>', &["subscribe", "a", "1"]), PASSED),
                (frame('*', &["message", "a", "b"]), PASSED),
                ("+PONG\r\n".to_owned(), Outcome::End),
            ],
        );
    }

    #[test]
    fn who_lost_something_stays_mute() {
        let line = line();
        line.faults.set(Fault::HalfOpen);
        check(&line, &[(frame('>', &["message", "a", "b"]), Outcome::Swallow)]);
        line.faults.set(Fault::Pass);
        ask(&line, "PING");
        check(&line, &[("+PONG\r\n".to_owned(), Outcome::Swallow)]);
    }
}
