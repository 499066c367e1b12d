//! HTTP for ourselves: small questions to engines and small answers to operators. The gateway has its own, faster way.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The largest answer that is read from an engine, and the largest question from an operator.
pub(crate) const MAX_BODY: usize = 16 << 20;
/// How long a connection may take to say what it wants, and how long it may stay without wanting anything.
const HEAD_TIMEOUT: Duration = Duration::from_mins(2);
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait before accepting again, where that failed: out of files, most likely, and some will be closed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// Connections at a time; the next ones wait to be accepted.
const MAX_CONNECTIONS: usize = 4_096;

/// What a server of ours answers.
pub type Answer = Response<Full<Bytes>>;

/// Asks once, on a connection of its own.
///
/// # Errors
/// What went wrong, in words; a status is not an error.
pub async fn ask(
    method: Method,
    authority: &str,
    path: &str,
    bearer: Option<&http::HeaderValue>,
    body: Bytes,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(bearer) = bearer {
        request = request.header(header::AUTHORIZATION, bearer);
    }
    let request = request.header(header::CONTENT_TYPE, "application/json").body(body);
    let (head, body) =
        send(authority, request.map_err(|error| error.to_string())?, MAX_BODY, timeout).await?.into_parts();
    Ok((head.status, body))
}

/// Sends one request on a connection of its own, and takes an answer of at most `most` bytes.
///
/// # Errors
/// What went wrong, in words; a status is not an error.
pub async fn send(
    authority: &str,
    request: Request<Bytes>,
    most: usize,
    timeout: Duration,
) -> Result<Response<Bytes>, String> {
    let sent = async {
        let stream = TcpStream::connect(authority).await.map_err(|error| format!("connect: {error}"))?;
        // A socket that refuses the option still works, only later.
        let _ = stream.set_nodelay(true);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(connection);
        let (mut head, body) = request.into_parts();
        let host = http::HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
        head.headers.insert(header::HOST, host);
        let answer = sender.send_request(Request::from_parts(head, Full::new(body))).await;
        let (head, body) = answer.map_err(|error| error.to_string())?.into_parts();
        let body = Limited::new(body, most).collect().await.map_err(|error| error.to_string())?;
        driver.abort();
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    match tokio::time::timeout(timeout, sent).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
    }
}

/// Serves until `stop` says so; connections end with this.
pub async fn serve<Handler, Answering>(
    listener: TcpListener,
    handler: Handler,
    mut stop: watch::Receiver<bool>,
) where
    Handler: Fn(Request<Incoming>) -> Answering + Send + Sync + 'static,
    Answering: Future<Output = Answer> + Send + 'static,
{
    let handler = Arc::new(handler);
    let mut connections = JoinSet::new();
    let mut refused = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
            // Nothing that a connection holds is held when this ends.
            () = stopped(&mut stop) => return connections.shutdown().await,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(%error, "connections cannot be accepted; is the limit on open files too low?");
                }
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        refused = false;
        let handler = handler.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let handler = handler.clone();
                async move { Ok::<_, Infallible>(handler(request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            // A connection that breaks is the business of whoever broke it.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Waits until it is said to stop, or nobody is left to say it.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stopped| *stopped).await);
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It is larger than it may be.
    #[error("the body is too large")]
    Larger,
    /// It did not come in time.
    #[error("the body did not come within {} s", BODY_TIMEOUT.as_secs())]
    Slow,
    /// It broke off.
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// Reads a whole body.
///
/// # Errors
/// [`Unread`].
pub async fn body(incoming: Incoming, most: usize) -> Result<Bytes, Unread> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(incoming, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Unread::Larger),
        Ok(Err(error)) => Err(Unread::Broken(error.to_string())),
        Err(_) => Err(Unread::Slow),
    }
}

/// An answer in JSON.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_vec(value).unwrap_or_default();
    answer(status, "application/json", body)
}

/// Any answer.
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
