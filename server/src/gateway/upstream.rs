//! Connections to engines: kept per thread, taken newest first, never shared, and made anew when they turn out stale.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::fleet::{Engine, EngineId, Failure};

type Sender = SendRequest<Full<Bytes>>;

/// A connection that is not in use. It goes back to its thread's pool when its answer has been read to the end.
pub(super) struct Connection {
    engine: EngineId,
    sender: Sender,
}

/// Idle connections that one thread keeps to one engine.
const MAX_IDLE: usize = 256;

thread_local! {
    static POOL: RefCell<HashMap<EngineId, Vec<Sender>>> = RefCell::default();
}

impl Connection {
    /// Keeps the connection for the next request of this thread.
    pub(super) fn keep(self) {
        if self.sender.is_closed() {
            return;
        }
        POOL.with_borrow_mut(|pool| {
            let idle = pool.entry(self.engine).or_default();
            if idle.len() < MAX_IDLE {
                idle.push(self.sender);
            }
        });
    }
}

/// Sends a request and waits for the head of its answer.
pub(super) async fn send(
    engine: &Engine,
    mut request: Request<Full<Bytes>>,
    connect_timeout: Duration,
    first_byte_timeout: Duration,
) -> Result<(Response<Incoming>, Connection), Failure> {
    let exchange = async {
        // A kept connection may have been closed by the engine meanwhile; then the request was not sent,
        // comes back whole, and goes out on another one.
        while let Some(mut sender) = idle(engine.id) {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok((answer, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failure(error.error())),
                },
            }
        }
        let Ok(Ok(mut sender)) = tokio::time::timeout(connect_timeout, connect(engine)).await else {
            return Err(Failure::Connect);
        };
        match sender.try_send_request(request).await {
            Ok(answer) => Ok((answer, sender)),
            Err(error) => Err(failure(error.error())),
        }
    };
    match tokio::time::timeout(first_byte_timeout, exchange).await {
        Ok(exchanged) => exchanged.map(|(answer, sender)| (answer, Connection { engine: engine.id, sender })),
        Err(_) => Err(Failure::Timeout),
    }
}

fn idle(engine: EngineId) -> Option<Sender> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.get_mut(&engine)?;
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    })
}

async fn connect(engine: &Engine) -> Result<Sender, std::io::Error> {
    let stream = TcpStream::connect(&*engine.authority).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(async move {
        // How a connection ends is told to whoever waits for an answer on it.
        let _ = connection.await;
    });
    Ok(sender)
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse() { Failure::Garbage } else { Failure::BeforeFirstByte }
}
