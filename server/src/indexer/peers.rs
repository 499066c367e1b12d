//! Other indexers: at the start, one of them is asked for what it knows.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};

use super::dump;
use super::question::MAX_NAME;
use super::registry::Inherited;
use crate::http::send;

/// How long a peer may take to tell everything.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The most that is taken from a peer: 23 bytes a block in our own form, 90 in JSON; ten million blocks and more.
const MAX_DUMP: usize = 1 << 30;

/// `host:port` of a peer's URL.
pub(super) fn authority(url: &str) -> Option<&str> {
    let authority = url.strip_prefix("http://")?.trim_end_matches('/');
    let parsed: http::uri::Authority = authority.parse().ok()?;
    parsed.port_u16().map(|_| authority)
}

/// Whether this is a peer's URL.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn check(url: &str) -> Result<(), String> {
    if authority(url).is_none() || url.len() > MAX_NAME {
        return Err(format!("found `{url}`; allowed is http://host:port"));
    }
    Ok(())
}

/// What the first peer that answers knows. `ourselves` is not asked: a list of all replicas is given to all.
pub(super) async fn ask_first(peers: &[String], ourselves: SocketAddr) -> Vec<Inherited> {
    let others = |peer: &&String| authority(peer).and_then(|peer| peer.parse().ok()) != Some(ourselves);
    let others: Vec<&String> = peers.iter().filter(others).collect();
    for peer in &others {
        match ask(peer).await {
            Ok(views) => {
                tracing::info!(peer, views = views.len(), "a peer has told what it knows");
                return views;
            }
            Err(why) => tracing::warn!(peer, why, "a peer does not tell what it knows; trying the next"),
        }
    }
    if !others.is_empty() {
        tracing::warn!("no peer tells what it knows; beginning with what the engines say");
    }
    Vec::new()
}

async fn ask(peer: &str) -> Result<Vec<Inherited>, String> {
    let authority = authority(peer).ok_or("its URL is not http://host:port")?;
    let accept = format!("{}, application/json;q=0.5", dump::OWN);
    let request = Request::get("/dump").header(header::ACCEPT, accept).body(Bytes::new());
    let request = request.map_err(|error| error.to_string())?;
    let (head, body) = send(authority, request, MAX_DUMP, TIMEOUT).await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("/dump answered {}", head.status));
    }
    let own = head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == dump::OWN);
    let read =
        tokio::task::spawn_blocking(move || if own { dump::read_own(&body) } else { dump::read_json(&body) });
    let read = read.await.map_err(|error| error.to_string())?;
    read.map_err(|why| format!("its answer cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::authority;

    #[test]
    fn a_peer_is_a_host_and_a_port() {
        assert_eq!(authority("http://10.0.0.5:8090"), Some("10.0.0.5:8090"));
        assert_eq!(authority("http://indexer:8090/"), Some("indexer:8090"));
        for ill in ["10.0.0.5:8090", "https://a:1", "http://a", "http://", "http://a:1/path", ""] {
            assert_eq!(authority(ill), None, "{ill}");
        }
    }
}
