//! The operator's door: status, metrics, explanations, registration.

pub mod api;
pub(crate) mod key;
mod queues;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::error::ApiError;
use crate::fleet::Fleet;
use crate::gateway::Gateway;
use crate::http::{Answer, MAX_BODY, answer, body, json as respond, serve};
use crate::posture::posture;
use crate::replicas::{Asked, Replicas, Watch};
use crate::settings;
use key::Key;

/// What the admin listener needs.
pub struct Admin {
    gateway: Gateway,
    key: Key,
    /// Called with the name of an engine that was registered.
    watch: Watch,
    replicas: Replicas,
    desk: queues::Desk,
}

impl Admin {
    /// # Errors
    /// A key file that cannot be read, in words.
    pub fn new(gateway: Gateway, watch: Watch, replicas: Replicas) -> Result<Self, String> {
        let key = Key::read(gateway.fleet().settings().admin.key_file.as_deref())?;
        let desk = queues::Desk::new(gateway.clone(), replicas.clone());
        Ok(Self { gateway, key, watch, replicas, desk })
    }

    /// Serves until `stop` says so.
    pub async fn run(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        let admin = Arc::new(self);
        serve(
            listener,
            move |request| {
                let admin = admin.clone();
                async move { admin.handle(request).await }
            },
            stop,
        )
        .await;
    }

    fn fleet(&self) -> &Fleet {
        self.gateway.fleet()
    }

    async fn handle(&self, request: Request<Incoming>) -> Answer {
        let (head, incoming) = request.into_parts();
        let path = head.uri.path().trim_end_matches('/').to_owned();
        if !matches!(path.as_str(), "/healthz" | "/readyz") && !self.key.opens(&head.headers) {
            return failure(&ApiError::Unauthorized(
                "This listener asks for the key of admin.key_file.".to_owned(),
            ));
        }
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (&head.method, parts.as_slice()) {
            (&Method::GET, ["status"]) => {
                let mut status = self.fleet().status();
                status.waiting = queues::waiting(&self.gateway);
                if let Some(store) = &mut status.store {
                    store.warming = self.gateway.lines().warming();
                }
                respond(StatusCode::OK, &status)
            }
            (method, ["queues" | "entries", ..]) => {
                self.queues(method, &parts, head.uri.query().unwrap_or_default()).await
            }
            (&Method::GET, ["engines"]) => respond(StatusCode::OK, &self.fleet().status().engines),
            (&Method::POST, ["engines"]) => self.register(incoming).await,
            (&Method::DELETE, ["engines", name]) => {
                let found = self.fleet().remove(name);
                let shared = found && self.replicas.removed(name).await;
                self.found(name, found, shared)
            }
            (&Method::POST, ["engines", name, word @ ("drain" | "undrain")]) => {
                let found = self.fleet().drain(name, *word == "drain");
                let shared = found && self.replicas.drained(name, *word == "drain").await;
                self.found(name, found, shared)
            }
            (&Method::GET, ["explain"]) => respond(StatusCode::OK, &self.fleet().journal().newest(50)),
            (&Method::GET, ["explain", id]) => self.explain(id).await,
            (&Method::POST, ["route"]) => self.dry_run(incoming).await,
            (&Method::GET, ["metrics"]) => {
                let text = crate::metrics::text(&self.gateway);
                answer(StatusCode::OK, "text/plain; version=0.0.4", text)
            }
            (&Method::GET, ["config"]) => respond(StatusCode::OK, self.fleet().settings()),
            (&Method::GET, ["posture"]) => respond(StatusCode::OK, &posture(self.fleet().settings())),
            (&Method::GET, ["healthz"]) => respond(StatusCode::OK, &json!({"status": "ok"})),
            (&Method::GET, ["readyz"]) => ready(self.fleet()),
            (
                _,
                [
                    "status" | "engines" | "explain" | "route" | "metrics" | "config" | "posture" | "healthz"
                    | "readyz",
                    ..,
                ],
            ) => failure(&ApiError::Method(head.method.to_string())),
            _ => failure(&ApiError::UnknownPath(path)),
        }
    }

    async fn register(&self, incoming: Incoming) -> Answer {
        let engine = match parse::<settings::Engine>(incoming).await {
            Ok(engine) => engine,
            Err(error) => return failure(&error),
        };
        let (name, told) = (engine.name.clone(), engine.clone());
        match self.fleet().add(engine) {
            Ok(_) => {
                (self.watch)(&name);
                let shared = self.replicas.registered(&told).await;
                respond(StatusCode::CREATED, &json!({"status": "registered", "name": name, "shared": shared}))
            }
            Err(why) if why.contains("another engine") => respond(
                StatusCode::CONFLICT,
                &json!({"error": {"message": why, "type": "invalid_request_error", "code": "conflict", "param": "name"}}),
            ),
            Err(why) => failure(&ApiError::invalid(why)),
        }
    }

    /// `shared`: whether the other replicas have been told.
    fn found(&self, name: &str, found: bool, shared: bool) -> Answer {
        if found {
            return respond(StatusCode::OK, &json!({"status": "ok", "name": name, "shared": shared}));
        }
        let known: Vec<String> =
            self.fleet().status().engines.into_iter().map(|engine| engine.name).collect();
        failure(&ApiError::UnknownPath(format!("engine `{name}`; registered are {known:?}")))
    }

    async fn explain(&self, id: &str) -> Answer {
        if let Some(explanation) = self.fleet().journal().explain(id) {
            return respond(StatusCode::OK, &explanation);
        }
        let others = match self.replicas.explain(id).await {
            Asked::Found(explanation) => return respond(StatusCode::OK, &*explanation),
            Asked::Nobody(0) => String::new(),
            Asked::Nobody(others) => format!(", here and on {others} other replica(s), and none knows it"),
            Asked::Silent(silent) => format!("; {silent} other replica(s) did not answer and may know it"),
            Asked::Unasked(error) => format!("; the other replicas could not be asked: {error}"),
        };
        failure(&ApiError::UnknownPath(format!(
            "request id `{id}`; the last {} decisions are kept (routing.journal){others}",
            self.fleet().settings().routing.journal
        )))
    }

    async fn dry_run(&self, incoming: Incoming) -> Answer {
        let body = match body(incoming, MAX_BODY).await {
            Ok(body) => body,
            Err(why) => return failure(&ApiError::invalid(why.to_string())),
        };
        match self.gateway.dry_run(&body).await {
            Ok(decision) => respond(StatusCode::OK, &decision),
            Err(error) => failure(&error),
        }
    }
}

/// Whether to send us requests.
pub fn ready(fleet: &Fleet) -> Answer {
    match fleet.waiting_for() {
        None => respond(StatusCode::OK, &json!({"status": "ready"})),
        Some(why) => {
            respond(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "not ready", "waiting_for": why}))
        }
    }
}

pub(crate) async fn parse<T: serde::de::DeserializeOwned>(incoming: Incoming) -> Result<T, ApiError> {
    let body: Bytes = body(incoming, MAX_BODY).await.map_err(|why| ApiError::invalid(why.to_string()))?;
    serde_json::from_slice(&body).map_err(|error| ApiError::invalid(error.to_string()))
}

pub(crate) fn failure(error: &ApiError) -> Answer {
    answer(error.status(), "application/json", error.json())
}
