//! Connections to an object store: hyper and rustls, as everywhere in the house, with bounds on every wait.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Dial;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Sleep;

/// For a store to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// For a store to take a request and begin its answer: a part of 8 MiB at 2 Mbit/s, and then some.
const ANSWER: Duration = Duration::from_mins(1);
/// For a store to go on within an answer.
const STALL: Duration = Duration::from_secs(30);
/// Idle connections that are kept to one store.
const IDLE: usize = 32;

/// A pool of connections.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    client: Client<HttpsConnector<Dial>, HttpRequestBody>,
    /// Where they live: the threads of the gateway come and go with its listener.
    home: Handle,
}

impl Connections {
    pub(super) fn new() -> Result<Self, String> {
        let home = Handle::try_current().map_err(|error| format!("files.url: {error}"))?;
        let mut dial = Dial::new();
        dial.enforce_http(false);
        dial.set_nodelay(true);
        dial.set_connect_timeout(Some(CONNECT));
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| format!("files.url: the system's certificates cannot be read: {error}"))?;
        let connector = tls.https_or_http().enable_http1().wrap_connector(dial);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { client, home })
    }

    async fn ask(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Stores take no body of unknown length.
        let length = HeaderValue::from(request.body().content_length());
        request.headers_mut().insert(header::CONTENT_LENGTH, length);
        // Whoever no longer waits for the answer calls the question off: the set goes with it.
        let mut asking = JoinSet::new();
        asking.spawn_on(self.client.request(request), &self.home);
        match tokio::time::timeout(ANSWER, asking.join_next()).await {
            Ok(Some(Ok(Ok(answer)))) => {
                Ok(answer.map(|incoming| HttpResponseBody::new(Patient::new(incoming))))
            }
            Ok(Some(Ok(Err(error)))) if error.is_connect() => {
                Err(HttpError::new(HttpErrorKind::Connect, error))
            }
            Ok(Some(Ok(Err(error)))) => Err(HttpError::new(HttpErrorKind::Interrupted, error)),
            Ok(Some(Err(gone))) => Err(HttpError::new(HttpErrorKind::Interrupted, gone)),
            Ok(None) | Err(_) => {
                Err(HttpError::new(HttpErrorKind::Timeout, silent("the store does not answer")))
            }
        }
    }
}

impl HttpConnector for Connections {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Connections {
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(self.ask(request))
    }
}

fn silent(why: &'static str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, why)
}

/// An answer whose silence has a bound.
struct Patient {
    incoming: Incoming,
    silence: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(incoming: Incoming) -> Self {
        Self { incoming, silence: None }
    }
}

impl Body for Patient {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) {
            self.silence = None;
            let broken = |error| HttpError::new(HttpErrorKind::Interrupted, error);
            return Poll::Ready(frame.map(|frame| frame.map_err(broken)));
        }
        let silence = self.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        silence.as_mut().poll(context).map(|()| {
            Some(Err(HttpError::new(HttpErrorKind::Timeout, silent("the store was silent for too long"))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
