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
use store::node::desk::{Desk as _, Local};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Parts, Seat, Served};
use crate::admin::failure;
use crate::admin::key::Key;
use crate::clock::Clock;
use crate::error::ApiError;
use crate::http::{Answer, answer, json as respond, serve};
use crate::settings::{Role, Settings, Tiers};

use api::{Candidate, Led, NodeSeen, Status};
use drain::Drains;
use keys::Query;
use look::waiting_for;

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
    /// There once it is known.
    seat: OnceLock<Seat>,
    /// There once the store works.
    parts: OnceLock<Parts>,
    drains: Drains,
}

/// What there is to be seen of a store at this moment.
struct Seen<'a> {
    seat: &'a Seat,
    /// The master, if this process leads.
    local: Option<Local>,
    parts: Option<&'a Parts>,
    tiers: &'a Tiers,
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
            seat: OnceLock::new(),
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

    /// This is where the master is.
    pub(super) fn find(&self, seat: Seat) {
        // It is said once.
        let _ = self.inside.seat.set(seat);
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

// === impl Seen ===

impl<'a> Seen<'a> {
    /// The node of this process, if it has one and that has joined.
    fn served(&self) -> Option<&'a Served> {
        self.parts.and_then(|parts| parts.node.as_ref())
    }

    /// Where nodes reach the master that leads, if that is known and another process.
    fn leader(&self) -> Option<String> {
        let told = if let Seat::Shared(masters) = self.seat { masters.leader() } else { None };
        told.or_else(|| self.served()?.remote.as_ref()?.master())
    }

    /// Where a master is looked for, in words.
    fn sought(&self) -> String {
        let masters = &self.tiers.link.masters;
        if masters.is_empty() {
            return "this one waits for the coordinator's leave".to_owned();
        }
        format!("none answers at {}", masters.join(", "))
    }

    /// What is waited for, in words; none if nothing is.
    fn waiting_for(&self) -> Option<String> {
        let has_node = self.tiers.plays(Role::Node);
        match self.served() {
            None if has_node => Some(format!("there is no master of the store: {}", self.sought())),
            Some(Served { remote: Some(remote), .. }) if !remote.is_up() => {
                Some(format!("there is no master of the store: {}", self.sought()))
            }
            // Whoever does not hear of the coordinator would not hear that it may lead.
            None if self.local.is_none() && self.leader().is_none() => Some(
                "it is not known who leads: the coordinator does not answer, or nobody does yet".to_owned(),
            ),
            _ => self.local.as_ref().and_then(waiting_for),
        }
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
                let text = metrics::text(&self.seen()?, self.clock.now());
                Ok(answer(StatusCode::OK, "text/plain; version=0.0.4", text))
            }
            _ => Err(ApiError::NotFound(format!(
                "There is nothing at {path}. There are /status, /healthz, /readyz, /metrics, /config, /objects, /nodes, \
                 /tenants and /candidates; see docs/store.md."
            ))),
        }
    }

    /// What there is to be seen of this process.
    fn seen(&self) -> Result<Seen<'_>, ApiError> {
        let coming = || ApiError::StoreNotReady {
            message: "The store is coming up: it reads what is on its disk.".to_owned(),
            retry_after: 1,
        };
        let seat = self.seat.get().ok_or_else(coming)?;
        let parts = self.parts.get();
        // A master of its own shows nothing before its node has told what it has.
        if matches!(seat, Seat::Own(_)) && parts.is_none() {
            return Err(coming());
        }
        Ok(Seen { seat, local: seat.local(), parts, tiers: &self.settings.tiers })
    }

    /// The master, if this process leads.
    fn local(&self) -> Result<Local, ApiError> {
        let seen = self.seen()?;
        match (&seen.local, seen.leader()) {
            (Some(local), _) => Ok(local.clone()),
            (None, Some(leader)) => Err(ApiError::Conflict(format!(
                "The master that leads is another process, which nodes reach at {leader}: ask its operator's door."
            ))),
            (None, None) => Err(ApiError::StoreNotReady {
                message: format!("No master leads as far as is known here: {}.", seen.sought()),
                retry_after: 1,
            }),
        }
    }

    /// The master's time.
    fn now(local: &Local) -> Millis {
        local.clock().now()
    }

    fn ready(&self) -> Result<serde_json::Value, ApiError> {
        let seen = self.seen()?;
        match seen.waiting_for() {
            Some(why) => Err(ApiError::StoreNotReady {
                message: format!("Not everything can be answered yet: {why}."),
                retry_after: 1,
            }),
            None if seen.local.is_none() && seen.served().is_none() => Ok(json!({"status": "standby"})),
            None => Ok(json!({"status": "ready"})),
        }
    }

    fn status(&self, query: &str) -> Result<Status, ApiError> {
        nothing_asked(query)?;
        let seen = self.seen()?;
        let waiting_for = seen.waiting_for();
        let node = seen.served().map(look::here);
        let led = seen.local.as_ref().map(|local| {
            let (counters, reads) = look::counted(local);
            let nodes = local.master().node_list();
            let nodes = nodes.iter().map(|one| look::node(one, self.drains.of(one.node))).collect();
            Led { now: look::now(local), reads, counters, nodes }
        });
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.clock.now().as_secs_f64(),
            ready: waiting_for.is_none(),
            waiting_for,
            trouble: look::trouble(node.as_ref(), led.as_ref().map(|led| &led.counters)),
            link: look::link(&seen),
            node,
            led,
            clients: seen.served().map(look::clients),
            events: look::events(&seen),
        })
    }

    fn nodes(&self, query: &str) -> Result<Vec<NodeSeen>, ApiError> {
        nothing_asked(query)?;
        let looks = self.local()?.master().node_list();
        Ok(looks.iter().map(|one| look::node(one, self.drains.of(one.node))).collect())
    }

    fn candidates(&self, head: &request::Parts, query: &str) -> Said {
        must_be(&head.method, &Method::GET)?;
        let count = Query::read(query, &["count"])?.number("count", CANDIDATES, 1..=MOST_CANDIDATES)?;
        let local = self.local()?;
        let now = Self::now(&local);
        let shown = local.master().hottest(count as usize).into_iter().map(|one| Candidate {
            tenant: local.name(one.name.tenant).to_string(),
            key: keys::shown(&one.name.key),
            bytes: one.size,
            waits: look::waits(&one.waits, now),
        });
        let shown: Vec<Candidate> = shown.collect();
        Ok(respond(StatusCode::OK, &json!({"candidates": shown, "total": local.master().candidates()})))
    }

    fn clear(&self, head: &request::Parts, query: &str) -> Said {
        nothing_asked(query)?;
        must_be(&head.method, &Method::POST)?;
        let local = self.local()?;
        let master = local.master();
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
