//! Listening without following: the frames of a live stream as they come, for people who want to see them.

use std::time::Duration;

use bytes::Bytes;

use crate::wire::{Heard, Subscriber};

/// A live stream that is listened to. It connects again whenever it is cut off.
pub struct Tap {
    endpoint: String,
    topic: String,
    bind: bool,
    socket: Option<Subscriber>,
}

/// What a tap hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sound {
    /// It is connected; whatever was said before was not heard.
    Connected,
    /// One message.
    Message(Message),
    /// The publisher is gone, or not there; it tries again.
    Lost(String),
}

/// One message of a live stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic; empty if the publisher leaves it out.
    pub topic: Bytes,
    /// The sequence; `None` if that frame is not a number of eight bytes.
    pub sequence: Option<u64>,
    /// What is said.
    pub payload: Bytes,
}

/// The pause before a lost publisher is tried again.
const RECONNECT: Duration = Duration::from_millis(200);

impl Tap {
    /// A tap on an endpoint; `bind` where the engine connects.
    pub fn new(endpoint: &str, topic: &str, bind: bool) -> Self {
        Self { endpoint: endpoint.to_owned(), topic: topic.to_owned(), bind, socket: None }
    }

    /// What comes next. Nothing is lost if this is dropped while it waits for a message.
    pub async fn next(&mut self) -> Sound {
        let Some(socket) = &mut self.socket else { return self.connect().await };
        loop {
            match socket.next().await {
                Ok(Heard::Message(frames)) => {
                    if let Some(message) = Message::of(frames) {
                        return Sound::Message(message);
                    }
                }
                Ok(Heard::Accepted) => return Sound::Connected,
                Ok(Heard::Disconnected) if self.bind => return Sound::Lost("the engine left".to_owned()),
                Ok(Heard::Disconnected) => {
                    self.socket = None;
                    return Sound::Lost("the engine closed the connection".to_owned());
                }
                Err(trouble) => {
                    self.socket = None;
                    return Sound::Lost(trouble);
                }
            }
        }
    }

    async fn connect(&mut self) -> Sound {
        let connected = if self.bind {
            Subscriber::bind(&self.endpoint, &self.topic).await
        } else {
            Subscriber::connect(&self.endpoint, &self.topic).await
        };
        match connected {
            Ok(socket) => {
                self.socket = Some(socket);
                Sound::Connected
            }
            Err(trouble) => {
                tokio::time::sleep(RECONNECT).await;
                Sound::Lost(trouble)
            }
        }
    }
}

impl Message {
    fn of(mut frames: Vec<Bytes>) -> Option<Self> {
        let payload = frames.pop()?;
        let sequence = frames.pop().and_then(|frame| Some(u64::from_be_bytes(frame[..].try_into().ok()?)));
        Some(Self { topic: frames.pop().unwrap_or_default(), sequence, payload })
    }
}
