//! One message on its way: signed, posted, and heard if the answer is 2xx.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::sign::Secret;
use crate::settings;

/// For whoever is told to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who is told.
pub(super) struct Target {
    url: Uri,
    secret: Secret,
}

/// Connections to those who are told.
pub(super) type Connections = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

impl Target {
    /// Whoever these settings name, if they name anybody.
    ///
    /// # Errors
    /// The key, what was found and what is allowed.
    pub(super) fn read(settings: &settings::Webhook) -> Result<Option<Self>, String> {
        let (Some(url), Some(file)) = (&settings.url, &settings.secret_file) else { return Ok(None) };
        let url = url.parse().map_err(|error| format!("url: {error}"))?;
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("secret_file: cannot read {}: {error}", file.display()))?;
        let secret =
            Secret::read(text.trim()).map_err(|why| format!("secret_file: {}: {why}", file.display()))?;
        Ok(Some(Self { url, secret }))
    }

    /// Tells it.
    ///
    /// # Errors
    /// Why it was not heard, in words.
    pub(super) async fn tell(
        &self,
        connections: &Connections,
        id: &str,
        timestamp: u64,
        message: String,
    ) -> Result<(), String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("warmline/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", self.secret.sign(id, timestamp, &message))
            .body(Full::new(Bytes::from(message)))
            .map_err(|error| error.to_string())?;
        // Nothing of the answer is read but its status.
        match tokio::time::timeout(PATIENCE, connections.request(request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(format!("{} answered {}", self.host(), answer.status())),
            Ok(Err(error)) => {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                Err(format!("{}: {error}{}", self.host(), source.unwrap_or_default()))
            }
            Err(_) => Err(format!("{} did not answer within {} s", self.host(), PATIENCE.as_secs())),
        }
    }

    /// Its path may be a secret.
    fn host(&self) -> &str {
        self.url.host().unwrap_or_default()
    }
}

/// No connection yet.
///
/// # Errors
/// The system's certificates cannot be read.
pub(super) fn connections() -> Result<Connections, String> {
    let mut dial = HttpConnector::new();
    dial.enforce_http(false);
    dial.set_connect_timeout(Some(PATIENCE));
    let tls = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|error| format!("webhook.url: the system's certificates cannot be read: {error}"))?;
    let connector = tls.https_or_http().enable_http1().wrap_connector(dial);
    Ok(Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector))
}
