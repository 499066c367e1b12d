//! One connection: reads while there is room for answers, works through what is there, sends what the client takes.
//!
//! - N1: memory is bounded by the settings, whatever the client sends or does not take.
//! - N2: while a large value arrives, the socket is read straight into its place.
//! - N3: a wait of the store never holds back answers that are there.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::resp::contract::{Answer, Store};
use crate::resp::counters::Counters;
use crate::resp::decode::{Broken, Decoder, Step};
use crate::resp::house::{House, Peer, State};
use crate::resp::out::{Out, SLICES};
use crate::resp::pool;
use crate::resp::refusal::Refusal;
use crate::resp::session::{Ran, Session};

/// What is read behind a value in the same call: the end of its line and the next command, but little of the next value.
const BEHIND: usize = 4 << 10;
/// Answers that are worth a write of their own: the client begins to read, and the room for them stays in the cache.
const ENOUGH: usize = 48 << 10;
/// What is read from a client that broke the protocol, so that it finds our last words and not a reset.
const LAST: usize = 1 << 20;

/// One connection.
pub(super) struct Connection<S: Store> {
    house: Arc<House<S>>,
    peer: Arc<Peer>,
    decoder: Decoder,
    session: Session<S>,
    out: Out,
    /// Whether the client broke the protocol.
    broken: bool,
}

/// Why the work stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    /// More bytes are needed.
    Hungry,
    /// There are as many answers as may wait.
    Full,
    /// Nothing more is to be said.
    Over,
}

// === impl Connection ===

impl<S: Store> Connection<S> {
    pub(super) fn new(house: Arc<House<S>>, peer: Arc<Peer>) -> Self {
        let decoder = Decoder::new(house.settings.command);
        let session = Session::new(house.clone(), peer.clone());
        Self { house, peer, decoder, session, out: Out::default(), broken: false }
    }

    /// Until either side has had enough.
    pub(super) async fn converse(mut self, stream: TcpStream) {
        // Errors of sockets are how clients leave.
        if self.work_and_wait(&stream).await.is_ok() && self.broken {
            self.part(&stream).await;
        }
    }

    async fn work_and_wait(&mut self, stream: &TcpStream) -> io::Result<()> {
        let most = self.house.settings.unsent;
        let mut heard_all = false;
        loop {
            let mut stopped = self.work(stream).await?;
            self.send(stream)?;
            if stopped == Stopped::Full && self.out.unsent() < most {
                // Others of this thread want to go on, too.
                tokio::task::coop::consume_budget().await;
                continue;
            }
            if heard_all && stopped == Stopped::Hungry {
                stopped = Stopped::Over;
            }
            if self.out.unsent() == 0 && (stopped == Stopped::Over || self.may_leave()) {
                return Ok(());
            }
            let mut interest = None;
            if stopped == Stopped::Hungry {
                interest = Some(Interest::READABLE);
            }
            if self.out.unsent() > 0 {
                interest = Some(interest.map_or(Interest::WRITABLE, |reads| reads | Interest::WRITABLE));
            }
            self.settle();
            tokio::task::coop::consume_budget().await;
            let Some(interest) = interest else { continue };
            let ready = stream.ready(interest).await?;
            if stopped == Stopped::Hungry && ready.is_readable() {
                heard_all = self.receive(stream)?;
            }
        }
    }

    /// Carries out what has arrived.
    async fn work(&mut self, stream: &TcpStream) -> io::Result<Stopped> {
        let most = self.house.settings.unsent;
        loop {
            if self.out.unsent() >= most {
                return Ok(Stopped::Full);
            }
            self.decoder.distrust(self.session.is_stranger());
            match self.decoder.step() {
                Step::More => return Ok(Stopped::Hungry),
                Step::Value(len) => {
                    let space = self.session.announce(&self.decoder, len);
                    let space = self.wait(space, stream).await?;
                    if self.session.expect(space, len) {
                        self.decoder.accept();
                    } else {
                        self.decoder.skip();
                    }
                }
                Step::Fill => {
                    let space = self.session.filling();
                    let from = space.len() - self.decoder.gap();
                    self.decoder.take(&mut space[from..]);
                    if self.decoder.gap() > 0 {
                        return Ok(Stopped::Hungry);
                    }
                }
                Step::Ready => {
                    self.peer.wait_for(State::Works, self.house.now());
                    if self.carry_out(stream).await? == Stopped::Over {
                        return Ok(Stopped::Over);
                    }
                    if self.out.unsent() >= ENOUGH {
                        self.send(stream)?;
                    }
                }
                Step::Broken(Broken(words)) => {
                    Counters::one(&self.house.counters.broken);
                    self.broken = true;
                    self.out.refuse(&Refusal::err(format!("Protocol error: {words}")));
                    return Ok(Stopped::Over);
                }
            }
        }
    }

    async fn carry_out(&mut self, stream: &TcpStream) -> io::Result<Stopped> {
        while let Some(index) = self.session.next_typed(&self.decoder) {
            let space = self.session.announce_typed(&self.decoder, index);
            let space = self.wait(space, stream).await?;
            let value = self.decoder.args().get(index);
            if self.session.expect(space, value.len()) {
                self.session.filling().copy_from_slice(value);
            }
        }
        match self.session.run(&self.decoder, &mut self.out) {
            Ran::Done => (),
            // The room for answers is looked at before it goes on.
            Ran::Again => return Ok(Stopped::Hungry),
            Ran::Wait(wait) => {
                self.send(stream)?;
                let finish = wait.await;
                finish(&mut self.out);
                if self.session.goes_on() {
                    return Ok(Stopped::Hungry);
                }
            }
            Ran::Close => {
                self.over();
                return Ok(Stopped::Over);
            }
        }
        self.over();
        Ok(Stopped::Hungry)
    }

    fn over(&mut self) {
        self.session.over();
        self.decoder.done();
    }

    async fn wait<T>(&mut self, answer: Answer<T>, stream: &TcpStream) -> io::Result<Result<T, Refusal>> {
        if let Answer::Later(_) = answer {
            self.send(stream)?;
            self.peer.wait_for(State::Works, self.house.now());
        }
        Ok(answer.wait().await)
    }

    /// Reads what is there; whether that was the last of it.
    fn receive(&mut self, stream: &TcpStream) -> io::Result<bool> {
        let gap = self.decoder.gap();
        let (count, over) = if gap == 0 {
            read(stream, &mut [IoSliceMut::new(self.decoder.space())])?
        } else {
            let place = self.session.filling();
            let from = place.len() - gap;
            let behind = self.decoder.space();
            // A small rest is read together with as much else as any other read.
            let behind_len = if gap < pool::BUFFER { behind.len() } else { behind.len().min(BEHIND) };
            read(
                stream,
                &mut [IoSliceMut::new(&mut place[from..]), IoSliceMut::new(&mut behind[..behind_len])],
            )?
        };
        let direct = count.min(gap);
        self.decoder.bypassed(direct);
        self.decoder.filled(count - direct);
        self.peer.moved(count);
        self.house.counters.received.fetch_add(count as u64, Ordering::Relaxed);
        Ok(over)
    }

    /// Sends what the client takes.
    fn send(&mut self, stream: &TcpStream) -> io::Result<()> {
        let mut total = 0;
        while self.out.unsent() > 0 {
            let (count, short) = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let used = self.out.slices(&mut slices);
                write(stream, &slices[..used])?
            };
            self.out.sent(count);
            total += count;
            if short {
                break;
            }
        }
        if total > 0 {
            self.peer.moved(total);
            self.house.counters.sent.fetch_add(total as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Before a wait: says what for, tells what was counted, and holds no memory that is not needed.
    fn settle(&mut self) {
        let state = if self.out.unsent() > 0 {
            State::Unread
        } else if self.decoder.midway() {
            State::Half
        } else {
            State::Idle
        };
        self.peer.wait_for(state, self.house.now());
        self.house.counters.add(&mut self.out.tally);
        if self.decoder.gap() == 0 {
            self.decoder.park();
        }
        self.out.park();
    }

    /// Whether everybody is leaving, and nothing was begun.
    fn may_leave(&self) -> bool {
        self.house.ending.load(Ordering::Relaxed) && !self.decoder.midway()
    }

    /// Says that nothing follows, and lets the client say the same.
    async fn part(&mut self, stream: &TcpStream) {
        self.peer.wait_for(State::Half, self.house.now());
        let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Write);
        let mut left = LAST;
        while left > 0 && stream.readable().await.is_ok() {
            let space = self.decoder.space();
            match read(stream, &mut [IoSliceMut::new(space)]) {
                Ok((count, false)) => left = left.saturating_sub(count),
                Ok((_, true)) | Err(_) => return,
            }
        }
    }
}

impl<S: Store> Drop for Connection<S> {
    fn drop(&mut self) {
        self.house.counters.add(&mut self.out.tally);
        self.house.leave(&self.peer);
    }
}

// === Sockets ===

/// How much was read, and whether that was the end. Less than asked for means that nothing is left: the runtime is told, and
/// no call is wasted on finding out.
fn read(stream: &TcpStream, slices: &mut [IoSliceMut<'_>]) -> io::Result<(usize, bool)> {
    let asked: usize = slices.iter().map(|slice| slice.len()).sum();
    let (mut count, mut over) = (0, false);
    let done = stream.try_io(Interest::READABLE, || {
        count = (&*SockRef::from(stream)).read_vectored(slices)?;
        over = count == 0;
        if count < asked && !over { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    passed(done).map(|_| (count, over))
}

/// How much was written, and whether more must wait.
fn write(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<(usize, bool)> {
    let asked: usize = slices.iter().map(|slice| slice.len()).sum();
    let mut count = 0;
    let done = stream.try_io(Interest::WRITABLE, || {
        count = (&*SockRef::from(stream)).write_vectored(slices)?;
        if count < asked { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    passed(done).map(|short| (count, short))
}

/// Whether it would have to wait.
fn passed(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(false),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}
