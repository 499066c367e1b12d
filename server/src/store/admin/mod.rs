//! The operator's door of a store: how it is, where a key is, and what can be done about it, as JSON over HTTP.

pub mod api;
mod drain;
mod keys;
mod look;
mod metrics;
mod objects;
mod tenants;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::request;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::json;
use store::master::name::Millis;
use store::node::desk::Desk as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Parts;
use crate::admin::failure;
use crate::admin::key::Key;
use crate::clock::Clock;
use crate::error::ApiError;
use crate::http::{Answer, answer, json as respond, serve};
use crate::settings::Settings;

use api::{Candidate, NodeSeen, Status};
use drain::Drains;
use keys::Query;

/// The door, open as long as this lives.
pub(super) struct Door {
    address: SocketAddr,
    inside: Arc<Inside>,
    serving: JoinHandle<()>,
    // Dropping it ends the connections.
    stop: watch::Sender<bool>,
}

/// What is behind the door.
struct Inside {
    key: Key,
    settings: Settings,
    clock: Clock,
    /// There once the store works.
    parts: OnceLock<Parts>,
    drains: Drains,
}

/// Candidates in a list, if nothing is said, and at most.
const CANDIDATES: u64 = 100;
/// See [`CANDIDATES`]: each takes about 300 bytes of the answer.
const MOST_CANDIDATES: u64 = 10_000;

/// What is answered, or why not.
type Said = Result<Answer, ApiError>;

// === impl Door ===

impl Door {
    /// Binds, and answers from now on; what is asked of the store before it works is answered with "not yet".
    ///
    /// # Errors
    /// What stands in the way, in words.
    pub(super) async fn open(settings: &Settings) -> Result<Self, String> {
        let wanted = settings.tiers.admin;
        let listener = TcpListener::bind(wanted).await;
        let listener =
            listener.map_err(|error| format!("tiers.admin: cannot listen on {wanted}: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let inside = Arc::new(Inside {
            key: Key::read(settings.admin.key_file.as_deref())?,
            settings: settings.clone(),
            clock: Clock::start(),
            parts: OnceLock::new(),
            drains: Drains::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let answers = inside.clone();
        let handler = move |request| {
            let inside = answers.clone();
            async move { inside.answer(request).await }
        };
        let serving = tokio::spawn(serve(listener, handler, stopped));
        Ok(Self { address, inside, serving, stop })
    }

    /// The store works.
    pub(super) fn show(&self, parts: Parts) {
        // It is said once.
        let _ = self.inside.parts.set(parts);
    }

    /// Answers nothing more; nothing is held for it from then on.
    pub(super) async fn close(&mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.serving).await {
            tracing::error!(%error, "the operator's door ended by itself");
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

// === impl Inside ===

impl Inside {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        match self.route(&head, body).await {
            Ok(answer) => answer,
            Err(error) => {
                let mut answer = failure(&error);
                if let Some(seconds) = error.retry_after() {
                    answer.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
                }
                answer
            }
        }
    }

    async fn route(&self, head: &request::Parts, body: Incoming) -> Said {
        let path = head.uri.path();
        let query = head.uri.query().unwrap_or_default();
        match path {
            "/healthz" => return only_get(head, &json!({"status": "ok"})),
            "/readyz" => return only_get(head, &self.ready()?),
            _ => {}
        }
        if !self.key.opens(&head.headers) {
            return Err(ApiError::Unauthorized(
                "This listener asks for the key of admin.key_file.".to_owned(),
            ));
        }
        let mut segments = path.splitn(4, '/').skip(1);
        let (room, name, rest) = (segments.next().unwrap_or_default(), segments.next(), segments.next());
        if room == "objects" {
            return self.objects(head, name, rest, query, body).await;
        }
        match (room, name.filter(|name| !name.is_empty()), rest) {
            ("tenants", name, None) => self.tenants(head, name, query, body).await,
            ("nodes", Some(id), Some(word @ ("drain" | "undrain"))) => {
                nothing_asked(query)?;
                self.drain(&head.method, &keys::name(id)?, word == "drain")
            }
            ("candidates", Some("clear"), None) => self.clear(head, query),
            ("candidates", None, None) => self.candidates(head, query),
            ("status", None, None) => only_get(head, &self.status(query)?),
            ("nodes", None, None) => only_get(head, &self.nodes(query)?),
            ("config", None, None) => only_get(head, &self.settings),
            ("metrics", None, None) => {
                nothing_asked(query)?;
                must_be(&head.method, &Method::GET)?;
                let text = metrics::text(self.parts()?, self.clock.now());
                Ok(answer(StatusCode::OK, "text/plain; version=0.0.4", text))
            }
            _ => Err(ApiError::NotFound(format!(
                "There is nothing at {path}. There are /status, /healthz, /readyz, /metrics, /config, /objects, /nodes, \
                 /tenants and /candidates; see docs/store.md."
            ))),
        }
    }

    fn parts(&self) -> Result<&Parts, ApiError> {
        self.parts.get().ok_or_else(|| ApiError::StoreNotReady {
            message: "The store is coming up: it reads what is on its disk.".to_owned(),
            retry_after: 1,
        })
    }

    /// The master's time.
    fn now(parts: &Parts) -> Millis {
        parts.local.clock().now()
    }

    fn ready(&self) -> Result<serde_json::Value, ApiError> {
        let nodes = self.parts()?.local.master().node_list();
        match look::waiting_for(&nodes) {
            None => Ok(json!({"status": "ready"})),
            Some(why) => Err(ApiError::StoreNotReady {
                message: format!("What some keys are is not known: {why}."),
                retry_after: 1,
            }),
        }
    }

    fn status(&self, query: &str) -> Result<Status, ApiError> {
        nothing_asked(query)?;
        let parts = self.parts()?;
        let looks = parts.local.master().node_list();
        let waiting_for = look::waiting_for(&looks);
        let here = look::here(parts);
        let (counters, reads) = look::counted(parts);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.clock.now().as_secs_f64(),
            ready: waiting_for.is_none(),
            waiting_for,
            trouble: look::trouble(&here, &counters),
            node: here,
            now: look::now(parts),
            reads,
            counters,
            nodes: looks.iter().map(|one| look::node(one, self.drains.of(one.node))).collect(),
            clients: look::clients(parts),
            events: look::events(parts),
        })
    }

    fn nodes(&self, query: &str) -> Result<Vec<NodeSeen>, ApiError> {
        nothing_asked(query)?;
        let looks = self.parts()?.local.master().node_list();
        Ok(looks.iter().map(|one| look::node(one, self.drains.of(one.node))).collect())
    }

    fn candidates(&self, head: &request::Parts, query: &str) -> Said {
        must_be(&head.method, &Method::GET)?;
        let count = Query::read(query, &["count"])?.number("count", CANDIDATES, 1..=MOST_CANDIDATES)?;
        let parts = self.parts()?;
        let now = Self::now(parts);
        let shown = parts.local.master().hottest(count as usize).into_iter().map(|one| Candidate {
            tenant: parts.local.name(one.name.tenant).to_string(),
            key: keys::shown(&one.name.key),
            bytes: one.size,
            waits: look::waits(&one.waits, now),
        });
        let shown: Vec<Candidate> = shown.collect();
        Ok(respond(StatusCode::OK, &json!({"candidates": shown, "total": parts.local.master().candidates()})))
    }

    fn clear(&self, head: &request::Parts, query: &str) -> Said {
        nothing_asked(query)?;
        must_be(&head.method, &Method::POST)?;
        let master = self.parts()?.local.master();
        let cleared = master.candidates();
        master.clear_candidates();
        tracing::info!(cleared, "an operator cleared the candidates for promotion");
        Ok(respond(StatusCode::OK, &json!({"status": "ok", "cleared": cleared})))
    }
}

fn only_get(head: &request::Parts, value: &impl Serialize) -> Said {
    must_be(&head.method, &Method::GET)?;
    Ok(respond(StatusCode::OK, value))
}

fn must_be(method: &Method, allowed: &Method) -> Result<(), ApiError> {
    if method == allowed { Ok(()) } else { Err(ApiError::Method(format!("{method}; here it is {allowed}"))) }
}

fn nothing_asked(query: &str) -> Result<(), ApiError> {
    Query::read(query, &[]).map(drop)
}
