//! The ZeroMQ library behind four small sockets, so that its name stands in this file only.

use std::time::Duration;

use bytes::Bytes;
use zeromq::{
    DealerSocket, PubSocket, RouterRecvHalf, RouterSendHalf, RouterSocket, Socket, SocketEvent, SocketRecv,
    SocketSend, SubSocket, ZmqMessage,
};

/// What goes wrong on a socket; where it matters, what it means is decided by the caller.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// How long a connection may take, handshake included.
const CONNECT: Duration = Duration::from_secs(1);
/// Frames of a message that anybody sends: identity, delimiter, topic, sequence, payload.
const MAX_FRAMES: usize = 8;

/// A live stream, as a subscriber.
pub(crate) struct Subscriber {
    socket: SubSocket,
    events: futures::channel::mpsc::Receiver<SocketEvent>,
}

/// What a subscriber hears.
pub(crate) enum Heard {
    Message(Vec<Bytes>),
    /// An engine connected to a socket that was bound for it.
    Accepted,
    /// The peer is gone. A connecting subscriber is to be dropped and made anew.
    Disconnected,
}

/// One question on a replay socket.
pub(crate) struct Question(DealerSocket);

/// A live stream, as the publisher.
pub(crate) struct Broadcast(PubSocket);

/// The replay socket, as the publisher.
pub(crate) struct Answers(RouterSocket);

/// The half of a replay socket that is asked.
pub(crate) struct Questions(RouterRecvHalf);

/// The half of a replay socket that answers.
pub(crate) struct Replies(RouterSendHalf);

impl Subscriber {
    pub(crate) async fn connect(endpoint: &str, topic: &str) -> Result<Self> {
        let mut socket = SubSocket::new();
        let events = socket.monitor();
        socket.subscribe(topic).await.map_err(text)?;
        within(socket.connect(endpoint)).await?;
        Ok(Self { socket, events })
    }

    /// For engines that connect to their subscriber.
    pub(crate) async fn bind(endpoint: &str, topic: &str) -> Result<Self> {
        let mut socket = SubSocket::new();
        let events = socket.monitor();
        socket.subscribe(topic).await.map_err(text)?;
        socket.bind(endpoint).await.map_err(text)?;
        Ok(Self { socket, events })
    }

    pub(crate) async fn next(&mut self) -> Result<Heard> {
        use futures::StreamExt;
        loop {
            tokio::select! {
                biased;
                message = self.socket.recv() => return Ok(Heard::Message(frames(message.map_err(text)?))),
                event = self.events.next() => match event {
                    Some(SocketEvent::Disconnected(_)) | None => return Ok(Heard::Disconnected),
                    Some(SocketEvent::Accepted(..)) => return Ok(Heard::Accepted),
                    Some(_) => {}
                },
            }
        }
    }
}

impl Question {
    pub(crate) async fn connect(endpoint: &str) -> Result<Self> {
        let mut socket = DealerSocket::new();
        within(socket.connect(endpoint)).await?;
        Ok(Self(socket))
    }

    pub(crate) async fn ask(&mut self, from: u64) -> Result<()> {
        let frames = vec![Bytes::new(), Bytes::copy_from_slice(&from.to_be_bytes())];
        self.0.send(message(frames)?).await.map_err(text)
    }

    pub(crate) async fn next(&mut self) -> Result<Vec<Bytes>> {
        Ok(frames(self.0.recv().await.map_err(text)?))
    }
}

impl Broadcast {
    /// Binds; returns the endpoint with the port that was chosen.
    pub(crate) async fn bind(endpoint: &str) -> Result<(Self, String)> {
        let mut socket = PubSocket::new();
        let bound = socket.bind(endpoint).await.map_err(text)?;
        Ok((Self(socket), bound.to_string()))
    }

    pub(crate) async fn send(&mut self, frames: Vec<Bytes>) -> Result<()> {
        self.0.send(message(frames)?).await.map_err(text)
    }
}

impl Answers {
    /// Binds; returns the endpoint with the port that was chosen.
    pub(crate) async fn bind(endpoint: &str) -> Result<(Self, String)> {
        let mut socket = RouterSocket::new();
        let bound = socket.bind(endpoint).await.map_err(text)?;
        Ok((Self(socket), bound.to_string()))
    }

    /// Two halves, for two threads: whoever answers slowly does not keep others from asking.
    pub(crate) fn split(self) -> (Replies, Questions) {
        let (replies, questions) = self.0.split();
        (Replies(replies), Questions(questions))
    }

    /// The next question: who asks, and the frames behind.
    pub(crate) async fn next(&mut self) -> Result<Vec<Bytes>> {
        Ok(frames(self.0.recv().await.map_err(text)?))
    }

    pub(crate) async fn send(&mut self, frames: Vec<Bytes>) -> Result<()> {
        self.0.send(message(frames)?).await.map_err(text)
    }
}

impl Questions {
    /// The next question: who asks, and the frames behind.
    pub(crate) async fn next(&mut self) -> Result<Vec<Bytes>> {
        Ok(frames(self.0.recv().await.map_err(text)?))
    }
}

impl Replies {
    pub(crate) async fn send(&mut self, frames: Vec<Bytes>) -> Result<()> {
        self.0.send(message(frames)?).await.map_err(text)
    }
}

fn frames(message: ZmqMessage) -> Vec<Bytes> {
    let mut frames = message.into_vec();
    frames.truncate(MAX_FRAMES);
    frames
}

fn message(frames: Vec<Bytes>) -> Result<ZmqMessage> {
    ZmqMessage::try_from(frames).map_err(|_| "a message without frames".to_owned())
}

fn text(error: zeromq::ZmqError) -> String {
    error.to_string()
}

async fn within<T>(connecting: impl Future<Output = zeromq::ZmqResult<T>>) -> Result<T> {
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected.map_err(text),
        Err(_) => Err("no connection within a second".to_owned()),
    }
}
