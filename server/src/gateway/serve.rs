//! Threads and connections: one thread accepts, each other thread serves its share with a runtime of its own.
//!
//! A connection stays on its thread, and so do its connections to engines: nothing is handed from core to core on
//! the way of a request.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Sleep;

use super::Gateway;
use crate::http::stopped;

/// Accepted connections on their way to a thread: a moment's worth.
const HANDOVER: usize = 1_024;
/// How often a gateway that stops looks whether everything has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Serves until `stop` says so, then lets what runs come to its end, within `gateway.shutdown_grace`.
///
/// # Errors
/// A thread that cannot be started.
pub async fn run(
    gateway: Gateway,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let settings = gateway.0.settings.gateway.clone();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let count = if settings.threads == 0 { cores } else { settings.threads };
    let mut threads = Vec::with_capacity(count);
    for number in 0..count {
        let (sender, inbox) = mpsc::channel(HANDOVER);
        let (gateway, stop) = (gateway.clone(), stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("gateway-{number}"));
        let handle = thread.spawn(move || runtime.block_on(thread_main(gateway, inbox, stop)))?;
        threads.push((sender, handle));
    }
    let mut turn = 0_usize;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors, most likely: let some connections end first.
                    tokio::time::sleep(LOOK).await;
                    continue;
                };
                let counters = &gateway.0.counters;
                let open = counters.connections.get().saturating_sub(counters.connections_ended.get());
                if open >= settings.max_connections as u64 {
                    counters.connections_refused.add(1);
                    continue;
                }
                counters.connections.add(1);
                turn = turn.wrapping_add(1);
                let Ok(stream) = stream.into_std() else { continue };
                let (sender, _) = &threads[turn % count];
                if sender.send(stream).await.is_err() {
                    counters.connections_ended.add(1);
                }
            }
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    let handles: Vec<_> = threads.into_iter().map(|(_, handle)| handle).collect();
    let joined =
        tokio::task::spawn_blocking(move || handles.into_iter().for_each(|handle| drop(handle.join())));
    joined.await.map_err(std::io::Error::other)
}

async fn thread_main(
    gateway: Gateway,
    mut inbox: mpsc::Receiver<std::net::TcpStream>,
    stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            stream = inbox.recv() => match stream.map(TcpStream::from_std) {
                Some(Ok(stream)) => drop(connections.spawn(connection(gateway.clone(), stream, stop.clone()))),
                Some(Err(_)) => gateway.0.counters.connections_ended.add(1),
                None => break,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    let grace = gateway.0.settings.gateway.shutdown_grace.get();
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(
            grace_s = grace.as_secs(),
            "requests were still running after the grace time; they are cut off"
        );
    }
}

async fn connection(gateway: Gateway, stream: TcpStream, mut stop: watch::Receiver<bool>) {
    // A socket that refuses the option still works, only later.
    let _ = stream.set_nodelay(true);
    let settings = &gateway.0.settings.gateway;
    let io = Impatient { stream, patience: settings.client_stall_timeout.get(), waiting: None };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(settings.head_timeout.get())
        // Not `pipeline_flush`: it holds an answer back while bytes are unread, and a connection that is closed because of
        // them takes the answer with it: whoever was refused before its body was read would never hear why.
        .max_buf_size(settings.max_head_bytes.max(8192));
    let counters = gateway.0.counters.clone();
    let _ended = Ended(&counters);
    let serving = gateway.clone();
    let service = service_fn(move |request| {
        let gateway = serving.clone();
        async move { Ok::<_, Infallible>(gateway.handle(request).await) }
    });
    let connection = http.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    tokio::select! {
        // How a client's connection ends is the client's business.
        _ = connection.as_mut() => {}
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Counts a connection as ended however it ends.
struct Ended<'a>(&'a Arc<super::Counters>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.connections_ended.add(1);
    }
}

/// A client's socket that gives up on a client who takes nothing: a slow reader would hold an engine.
struct Impatient {
    stream: TcpStream,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
