//! The indexer over HTTP: the paths and bodies of the standalone indexer that others wrote, and the state of every view.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blocks::View;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use index::Matches;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;

use super::metrics::{self, Asked};
use super::question::{BARE, Kind, Question};
use super::registry::{Refusal, Registration, Registry, Standing};
use super::{answer, dump};
use crate::admin::api::StreamCounts;
use crate::clock::Clock;
use crate::http::{Answer, Unread, answer as respond_with, body, json as respond};

/// What answers.
pub(super) struct Api {
    registry: Arc<Registry>,
    asked: Asked,
    clock: Clock,
    /// Set once what was known before is known again.
    begun: AtomicBool,
    /// Bodies that are read at a time, unless they are small.
    bodies: Semaphore,
    /// Taken while everything is told: it may be much.
    telling: tokio::sync::Mutex<()>,
}

/// Each path, and how it is asked.
const PATHS: [(&str, Method); 12] = [
    ("/register", Method::POST),
    ("/unregister", Method::POST),
    ("/workers", Method::GET),
    ("/query", Method::POST),
    ("/query_by_hash", Method::POST),
    ("/dump", Method::GET),
    ("/register_peer", Method::POST),
    ("/deregister_peer", Method::POST),
    ("/peers", Method::GET),
    ("/health", Method::GET),
    ("/readyz", Method::GET),
    ("/metrics", Method::GET),
];
/// Large bodies that are read at a time: a gigabyte at most.
const BODIES: usize = 64;
/// A body that needs no leave: whatever registers something is far below.
const SMALL: usize = 64 << 10;
/// The largest body: a million token ids of ten digits each, and the names. A whole number less than this is no attack.
const MAX_BODY: usize = 16 << 20;

#[derive(Deserialize)]
struct Unregister {
    instance_id: u64,
    model_name: String,
    routing_group: Option<String>,
    dp_rank: Option<u32>,
}

#[derive(Deserialize)]
struct Peer {
    url: String,
}

/// One instance of `/workers`.
#[derive(Serialize)]
struct Instance {
    #[serde(rename = "instance_id")]
    id: u64,
    /// How its events come.
    source: &'static str,
    /// `active` if every stream is connected, else `pending`.
    status: &'static str,
    model_name: String,
    routing_group: String,
    block_size: u32,
    endpoints: BTreeMap<u32, String>,
    /// The worst of its streams.
    view: &'static str,
    listeners: BTreeMap<u32, Listener>,
}

/// One stream of `/workers`.
#[derive(Serialize)]
struct Listener {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_endpoint: Option<String>,
    status: &'static str,
    /// `exact`, `recovering` or `stale`.
    view: &'static str,
    /// The last sequence that is in the view.
    position: Option<u64>,
    blocks: usize,
    #[serde(flatten)]
    counts: StreamCounts,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

impl Api {
    pub(super) fn new(registry: Arc<Registry>, clock: Clock) -> Self {
        Self {
            registry,
            asked: Asked::new(PATHS.iter().map(|(path, _)| *path)),
            clock,
            begun: AtomicBool::new(false),
            bodies: Semaphore::new(BODIES),
            telling: tokio::sync::Mutex::default(),
        }
    }

    /// From now on everything is answered.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let began = self.clock.now();
        let answer = match self.route(&path, request).await {
            Ok(answer) => answer,
            Err((status, why)) => respond(status, &json!({"error": why})),
        };
        self.asked.answered(&path, answer.status(), self.clock.now().saturating_sub(began));
        answer
    }

    async fn route(&self, path: &str, request: Request<Incoming>) -> Result<Answer, (StatusCode, String)> {
        let Some((_, method)) = PATHS.iter().find(|(known, _)| *known == path) else {
            let known: Vec<&str> = PATHS.iter().map(|(known, _)| *known).collect();
            return Err((
                StatusCode::NOT_FOUND,
                format!("there is no {path}; there are {}", known.join(", ")),
            ));
        };
        // Whoever may GET may ask for the head alone.
        let asked = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
        if asked != *method {
            return Err((StatusCode::METHOD_NOT_ALLOWED, format!("{path} is asked with {method}")));
        }
        if !self.begun.load(Ordering::Acquire) && !["/health", "/metrics"].contains(&path) {
            let why = "it begins: what was known before and what peers know is being taken up";
            return Err((StatusCode::SERVICE_UNAVAILABLE, why.to_owned()));
        }
        match path {
            "/query" => self.query(Kind::Tokens, request).await,
            "/query_by_hash" => self.query(Kind::Hashes, request).await,
            "/register" => {
                let registration: Registration = read(request).await?;
                self.change(|registry| async move { registry.register(registration).await }).await?;
                Ok(respond(StatusCode::CREATED, &json!({"status": "ok"})))
            }
            "/unregister" => {
                let Unregister { instance_id, model_name, routing_group, dp_rank } = read(request).await?;
                self.change(|registry| async move {
                    registry.unregister(instance_id, &model_name, routing_group.as_deref(), dp_rank).await
                })
                .await?;
                Ok(ok())
            }
            "/workers" => Ok(self.workers(request.uri().query().unwrap_or_default())),
            "/dump" => Ok(self.dump(&request).await),
            "/register_peer" => {
                let Peer { url } = read(request).await?;
                self.change(|registry| async move { registry.add_peer(url).await }).await?;
                Ok(respond(StatusCode::CREATED, &json!({"status": "ok"})))
            }
            "/deregister_peer" => {
                let Peer { url } = read(request).await?;
                self.change(|registry| async move { registry.remove_peer(&url).await }).await?;
                Ok(ok())
            }
            "/peers" => Ok(respond(StatusCode::OK, &self.registry.peers())),
            "/health" => Ok(ok()),
            "/readyz" if self.registry.settled() => Ok(ok()),
            "/readyz" => {
                Err((StatusCode::SERVICE_UNAVAILABLE, "a view is still being built; see /workers".to_owned()))
            }
            _ => {
                let text = metrics::text(&self.registry, &self.asked);
                Ok(respond_with(StatusCode::OK, "text/plain; version=0.0.4", text))
            }
        }
    }

    /// Changes something in a task of its own: a client that leaves must not leave half a change behind.
    async fn change<Changing>(
        &self,
        change: impl FnOnce(Arc<Registry>) -> Changing,
    ) -> Result<(), (StatusCode, String)>
    where
        Changing: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        match tokio::spawn(change(self.registry.clone())).await {
            Ok(changed) => changed.map_err(refused),
            Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        }
    }

    async fn query(&self, kind: Kind, request: Request<Incoming>) -> Result<Answer, (StatusCode, String)> {
        let is = |name, kind: &str| {
            request
                .headers()
                .get(name)
                .is_some_and(|value: &http::HeaderValue| value.as_bytes().starts_with(kind.as_bytes()))
        };
        let (bare, rows) = (is(header::CONTENT_TYPE, BARE), is(header::ACCEPT, BARE));
        let target = request.uri().query().unwrap_or_default().to_owned();
        let said = length(&request);
        let _leave =
            if said.is_some_and(|said| said <= SMALL) { None } else { self.bodies.acquire().await.ok() };
        let body = take(request, MAX_BODY).await?;
        let question = if bare { Question::bare(kind, &target, &body) } else { Question::json(kind, &body) };
        let question = question.map_err(|why| (StatusCode::BAD_REQUEST, why))?;
        let part = self.registry.find(&question.partition).ok_or_else(|| {
            let super::registry::Partition { model, group } = &question.partition;
            (StatusCode::NOT_FOUND, format!("nobody is registered for model `{model}` in group `{group}`"))
        })?;
        let mut found = Matches::default();
        part.index.lookup(&question.chain(part.block_size), &mut found);
        Ok(if rows {
            respond_with(StatusCode::OK, BARE, answer::bare(&found, part.block_size))
        } else {
            respond_with(StatusCode::OK, "application/json", answer::json(&found, part.block_size))
        })
    }

    fn workers(&self, query: &str) -> Answer {
        let wanted = |key: &str, value: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(known, _)| *known == key).is_none_or(|(_, wanted)| {
                super::question::unescape(wanted).is_ok_and(|wanted| wanted == value)
            })
        };
        let mut instances: BTreeMap<u64, Instance> = BTreeMap::new();
        let mut worst = BTreeMap::new();
        for standing in self.registry.standings() {
            let of = &standing.registration;
            if !wanted("model_name", &of.model_name) || !wanted("routing_group", &of.routing_group) {
                continue;
            }
            let instance = instances.entry(of.instance_id).or_insert_with(|| Instance {
                id: of.instance_id,
                source: "zmq",
                status: "active",
                model_name: of.model_name.clone(),
                routing_group: of.routing_group.clone(),
                block_size: of.block_size,
                endpoints: BTreeMap::new(),
                view: "exact",
                listeners: BTreeMap::new(),
            });
            let worst = worst.entry(of.instance_id).or_insert(View::Exact);
            *worst = standing.status.view.max(*worst);
            instance.view = worst.name();
            instance.endpoints.insert(of.dp_rank, of.endpoint.clone());
            if !standing.status.connected {
                instance.status = "pending";
            }
            instance.listeners.insert(of.dp_rank, Listener::from(standing));
        }
        respond(StatusCode::OK, &instances.into_values().collect::<Vec<_>>())
    }

    async fn dump(&self, request: &Request<Incoming>) -> Answer {
        let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let own = accepts.is_some_and(|accepts| accepts.contains(dump::OWN));
        let _telling = self.telling.lock().await;
        let copies = self.registry.copies().await;
        // Millions of blocks are a second's work: not on a thread that others wait for.
        let bytes =
            tokio::task::spawn_blocking(move || if own { dump::own(&copies) } else { dump::json(copies) });
        match bytes.await {
            Ok(bytes) => {
                respond_with(StatusCode::OK, if own { dump::OWN } else { "application/json" }, bytes)
            }
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": error.to_string()})),
        }
    }
}

impl From<Standing> for Listener {
    fn from(standing: Standing) -> Self {
        let Standing { registration, status, blocks, other_size } = standing;
        let size = other_size.map(|told| {
            format!(
                "its blocks have {told} tokens, but {} were registered: nothing of it can be found",
                registration.block_size
            )
        });
        Self {
            endpoint: registration.endpoint,
            replay_endpoint: registration.replay_endpoint,
            status: if status.connected { "active" } else { "pending" },
            view: status.view.name(),
            position: status.last,
            blocks,
            counts: StreamCounts::from(&status.counters),
            last_error: size.or(status.trouble),
        }
    }
}

fn ok() -> Answer {
    respond(StatusCode::OK, &json!({"status": "ok"}))
}

fn refused(refusal: Refusal) -> (StatusCode, String) {
    let status = match refusal {
        Refusal::Wrong(_) => StatusCode::BAD_REQUEST,
        Refusal::Conflict(_) => StatusCode::CONFLICT,
        Refusal::Missing(_) => StatusCode::NOT_FOUND,
        Refusal::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
        Refusal::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, refusal.to_string())
}

async fn read<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, (StatusCode, String)> {
    let bytes = take(request, SMALL).await?;
    serde_json::from_slice(&bytes).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

fn length(request: &Request<Incoming>) -> Option<usize> {
    request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

async fn take(request: Request<Incoming>, most: usize) -> Result<Bytes, (StatusCode, String)> {
    let larger = || (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {most} bytes"));
    if length(&request).is_some_and(|said| said > most) {
        return Err(larger());
    }
    body(request.into_body(), most).await.map_err(|why| match why {
        Unread::Larger => larger(),
        Unread::Slow => (StatusCode::REQUEST_TIMEOUT, why.to_string()),
        Unread::Broken(_) => (StatusCode::BAD_REQUEST, why.to_string()),
    })
}
