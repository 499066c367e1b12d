//! Moves bytes between sockets and conversations: one task a connection, and a watch over those that stand still.

mod connection;
mod threads;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, interval, sleep};

use super::contract::Store;
use super::counters::Seen;
use super::house::House;
use super::settings::Settings;

pub use threads::Threads;

/// How often the watch goes round, and so how late the clock may be.
const ROUND: Duration = Duration::from_millis(100);
/// How often it goes round while everybody is leaving.
const LEAVING: Duration = Duration::from_millis(10);
/// What a failed accept waits: the usual reason is that there are no more file descriptors.
const BREATH: Duration = Duration::from_millis(50);
/// How long tasks that were ended may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// A server in front of a store; clones are the same one.
pub struct Server<S: Store>(Arc<House<S>>);

impl<S: Store> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// === impl Server ===

impl<S: Store> Server<S> {
    /// A server that listens nowhere yet.
    pub fn new(store: Arc<S>, settings: Settings) -> Self {
        Self(Arc::new(House::new(store, settings)))
    }

    /// What was counted.
    pub fn seen(&self) -> Seen {
        self.0.seen()
    }

    /// Serves a listener until `stop`, then lets who is in the middle of a command finish it for as long as `grace`.
    /// Connections live on this runtime, or in turn on those of `hands`.
    pub async fn serve(
        &self,
        listener: TcpListener,
        hands: &[Handle],
        stop: impl Future<Output = ()>,
        grace: Duration,
    ) {
        tokio::pin!(stop);
        let mut round = interval(ROUND);
        let mut turn = 0;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = round.tick() => self.0.watch(),
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        turn += 1;
                        self.welcome(stream, from, hands.get(turn % hands.len().max(1)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(BREATH).await;
                    }
                },
            }
        }
        drop(listener);
        self.end(grace).await;
    }

    fn welcome(&self, stream: TcpStream, from: SocketAddr, hand: Option<&Handle>) {
        let Ok(to) = stream.local_addr() else { return };
        let house = &self.0;
        let Some(peer) = house.enter(from, to) else {
            // It fits into any socket's buffer; who does not take it hears nothing.
            let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
            return;
        };
        // Answers are whole when they are written: waiting for more to send with them only costs time.
        let _ = stream.set_nodelay(true);
        let guest = connection::Connection::new(house.clone(), peer.clone());
        let task = match hand {
            None => tokio::spawn(guest.converse(stream)),
            Some(hand) => match stream.into_std() {
                Ok(stream) => hand.spawn(async move {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        guest.converse(stream).await;
                    }
                }),
                Err(_) => return,
            },
        };
        peer.runs_as(task.abort_handle());
    }

    async fn end(&self, grace: Duration) {
        self.0.ending.store(true, Ordering::Relaxed);
        let began = Instant::now();
        while self.0.connections() > 0 && began.elapsed() < grace {
            self.0.watch();
            sleep(LEAVING).await;
        }
        let began = Instant::now();
        while self.0.connections() > 0 && began.elapsed() < GONE {
            self.0.close();
            sleep(LEAVING).await;
        }
    }
}

/// A listener on an address, for callers that bind first and work later.
///
/// # Errors
/// What the system says, with the address.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}
