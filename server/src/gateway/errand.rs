//! A request of our own to an engine: what waits in a log has no client that listens.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;

use super::handle::{Order, outgoing};
use super::{upstream, usage};
use crate::fleet::{Failure, Ticket, Usage};
use crate::settings::Settings;

/// The largest answer that is kept in a log.
const MAX_ANSWER: usize = 16 << 20;

/// Sends it to the engine of this ticket and reads the whole answer.
pub(crate) async fn post(
    ticket: &Ticket,
    settings: &Settings,
    path: &str,
    id: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes, Option<Usage>), Failure> {
    let settings = &settings.gateway;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let order = Order {
        method: Method::POST,
        path: path.to_owned(),
        headers,
        body,
        repeatable: true,
        streams: false,
        usage_is_ours: false,
        strict: true,
    };
    let request = outgoing(&order, ticket, id);
    let (connect, first_byte) = (settings.connect_timeout.get(), settings.first_byte_timeout.get());
    let (answer, connection) = upstream::send(ticket.engine(), request, connect, first_byte).await?;
    let (head, mut incoming) = answer.into_parts();
    let mut whole = Vec::new();
    loop {
        match tokio::time::timeout(settings.engine_stall_timeout.get(), incoming.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    whole.extend_from_slice(&bytes);
                }
                if whole.len() > MAX_ANSWER {
                    return Err(Failure::Garbage);
                }
            }
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(Failure::Midway),
            Err(_) => return Err(Failure::Timeout),
        }
    }
    connection.keep();
    let usage = usage::in_answer(&whole);
    Ok((head.status, whole.into(), usage))
}
