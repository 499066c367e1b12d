//! One request from its head to its answer: who is it, what is asked, where does it go, how did it end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::keys::Admitted;
use super::relay::{Answer, Patience, Relay};
use super::sse::Stream;
use super::upstream::{self, Connection};
use super::{Gateway, batches, edit, files, jobs, usage};
use crate::error::ApiError;
use crate::fleet::{Ask, Failure, Model, Outcome, Ticket};
use crate::lines::Entered;
use crate::prompt::{Kind, Prompt, Request as Asked};
use crate::tokens::{QUICK_BYTES, Way};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ROUTE: HeaderName = HeaderName::from_static("x-warmline-route");
const PIN: HeaderName = HeaderName::from_static("x-warmline-engine");
const RANK: HeaderName = HeaderName::from_static("x-data-parallel-rank");

/// A plain answer up to this size is read to its end before the client gets its first byte: if the engine
/// breaks off, the client gets an honest error instead of a stump. Larger ones pass through.
const MAX_WHOLE: usize = 8 << 20;
/// Tokens that an answer is taken to have if the client does not say how many it wants at most.
const ANSWER: u32 = 256;
/// The longest request id that is taken from a client.
const MAX_ID: usize = 128;

/// What is served at a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Models,
    Model,
    Health,
    Ready,
    OpenApi,
    Files(files::Target),
    Jobs(jobs::Target),
    Batches(batches::Target),
    /// Goes to an engine; these the gateway understands.
    Inference(Kind, Form),
    /// Goes to an engine as it is.
    Other,
    Nothing,
}

/// In which form errors are said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    OpenAi,
    Anthropic,
}

/// A request whose body has been read, on its way to an engine.
pub(super) struct Order {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether another engine may be asked if this one breaks before it answers.
    pub(super) repeatable: bool,
    pub(super) streams: bool,
    pub(super) usage_is_ours: bool,
    /// Whether the answer must be JSON or a stream of events.
    pub(super) strict: bool,
}

impl Gateway {
    /// Answers one request; never fails.
    pub(super) async fn handle(&self, request: Request<Incoming>) -> Response<Answer> {
        let counters = &self.0.counters;
        counters.requests.add(1);
        let id = self.request_id(request.headers());
        let endpoint = endpoint(request.uri().path());
        let form = match endpoint {
            Endpoint::Inference(_, form) => form,
            _ => Form::OpenAi,
        };
        let mut answer = match self.answer(endpoint, request, &id).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(id, error = %error, "refused");
                failure(&error, form)
            }
        };
        match answer.status().as_u16() {
            200..=399 => counters.answered.add(1),
            400..=499 => counters.refused.add(1),
            _ => counters.failed.add(1),
        }
        if let Ok(id) = HeaderValue::from_maybe_shared(Bytes::from(id)) {
            answer.headers_mut().insert(REQUEST_ID, id);
        }
        answer
    }

    async fn answer(
        &self,
        endpoint: Endpoint,
        request: Request<Incoming>,
        id: &str,
    ) -> Result<Response<Answer>, ApiError> {
        let method = request.method();
        let allowed: &[Method] = match endpoint {
            Endpoint::Inference(..) => &[Method::POST],
            Endpoint::Files(target) => target.allowed(),
            Endpoint::Jobs(target) => target.allowed(),
            Endpoint::Batches(target) => target.allowed(),
            Endpoint::Other => return self.pass(request, id).await,
            Endpoint::Nothing => return Err(ApiError::UnknownPath(request.uri().path().to_owned())),
            _ => &[Method::GET, Method::HEAD],
        };
        if !allowed.contains(method) {
            return Ok(method_not_allowed(method, allowed));
        }
        match endpoint {
            Endpoint::Health => Ok(json(StatusCode::OK, br#"{"status":"ok"}"#.as_slice().into())),
            Endpoint::Ready => Ok(self.ready()),
            Endpoint::OpenApi => {
                Ok(json(StatusCode::OK, Bytes::from_static(crate::openapi::JSON.as_bytes())))
            }
            Endpoint::Models | Endpoint::Model => {
                let _known = self.0.keys.identify(request.headers())?;
                self.models(request.uri().path())
            }
            Endpoint::Inference(kind, _) => self.infer(kind, request, id).await,
            // Boxed: it is larger than what every other request carries along.
            Endpoint::Files(target) => Box::pin(self.files(target, request)).await,
            Endpoint::Jobs(target) => Box::pin(self.jobs(target, request)).await,
            Endpoint::Batches(target) => Box::pin(self.batches_of(target, request)).await,
            Endpoint::Other | Endpoint::Nothing => unreachable!("answered above"),
        }
    }

    /// A request that the gateway understands.
    async fn infer(
        &self,
        kind: Kind,
        request: Request<Incoming>,
        id: &str,
    ) -> Result<Response<Answer>, ApiError> {
        let mut admitted = self.0.keys.admit(request.headers()).await?;
        let (head, incoming) = request.into_parts();
        let body = self.read(&head.headers, incoming).await?;
        let asked = Asked::read(kind, &body)?;
        admitted.may_use(&asked.model)?;
        let fleet = self.fleet();
        if !fleet.serves(&asked.model) {
            if let Some(why) = fleet.is_new() {
                // Nobody can say yet that no engine serves it.
                let message = format!("This replica has just started: {why}.");
                return Err(ApiError::Unavailable { message, retry_after: 1 });
            }
            return Err(ApiError::UnknownModel(asked.model.into_owned()));
        }
        let (way, tokens) = self.tokens(&asked, &body).await;
        let length = if way == Way::Bytes { bytes_of(&asked, &body).len() / 4 } else { tokens.len() };
        admitted.charge(length).await?;
        let ask_usage = self.0.settings.closed_loop.ask_usage;
        let edited = edit::edit(&body, &asked, ask_usage, kind != Kind::Other);
        let pinned = head.headers.get(PIN).and_then(|name| name.to_str().ok()).map(str::to_owned);
        let ask = Ask {
            id,
            model: &asked.model,
            tokens: &tokens,
            bytes: bytes_of(&asked, &body),
            way,
            cache_salt: asked.cache_salt.as_deref(),
            streams: asked.stream,
            pinned: pinned.as_deref(),
            answer: asked.max_tokens.unwrap_or(ANSWER),
            hashes: None,
            tried: Vec::new(),
        };
        let order = Order {
            method: head.method,
            path: path_of(&head.uri),
            headers: head.headers,
            body: edited.body,
            repeatable: true,
            streams: asked.stream,
            usage_is_ours: edited.usage_is_ours,
            strict: true,
        };
        self.deliver(ask, order, admitted).await
    }

    /// Anything else under `/v1`: to an engine as it is.
    async fn pass(&self, request: Request<Incoming>, id: &str) -> Result<Response<Answer>, ApiError> {
        let mut admitted = self.0.keys.admit(request.headers()).await?;
        let (head, incoming) = request.into_parts();
        let body = self.read(&head.headers, incoming).await?;
        let model = Asked::read(Kind::Other, &body).map(|asked| asked.model.into_owned()).unwrap_or_default();
        let names = self.fleet().names();
        let model =
            if self.fleet().serves(&model) { model } else { names.into_iter().next().unwrap_or_default() };
        admitted.may_use(&model)?;
        admitted.charge(body.len() / 4).await?;
        if model.is_empty() {
            return Err(ApiError::Unavailable {
                message: "No engine is known yet.".to_owned(),
                retry_after: 2,
            });
        }
        let ask = Ask {
            id,
            model: &model,
            tokens: &[],
            bytes: &body[..body.len().min(4_096)],
            way: Way::Bytes,
            cache_salt: None,
            streams: false,
            pinned: None,
            answer: 0,
            hashes: None,
            tried: Vec::new(),
        };
        let repeatable = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let order = Order {
            path: path_of(&head.uri),
            method: head.method,
            headers: head.headers,
            body: body.clone(),
            repeatable,
            streams: false,
            usage_is_ours: false,
            strict: false,
        };
        self.deliver(ask, order, admitted).await
    }

    /// Tries engines until one answers.
    async fn deliver(
        &self,
        mut ask: Ask<'_>,
        order: Order,
        admitted: Admitted,
    ) -> Result<Response<Answer>, ApiError> {
        let settings = &self.0.settings.gateway;
        let (connect, first_byte) = (settings.connect_timeout.get(), settings.first_byte_timeout.get());
        let who = admitted.who();
        let mut waited = Duration::ZERO;
        let mut admitted = Some(admitted);
        let mut last = None;
        for attempt in 1..=settings.max_attempts {
            if let Some(admitted) = &mut admitted {
                // The turn of the attempt before: while it lasts it counts, and others of its class might wait for it.
                admitted.has_turn(None);
            }
            let entered = self.0.lines.enter(&ask, &order.body, &who).await;
            let ticket = match entered {
                Ok(Entered { ticket, turn, waited: more }) => {
                    waited += more;
                    if let Some(admitted) = &mut admitted {
                        admitted.has_turn(turn);
                    }
                    ticket
                }
                // What went wrong before says more than that nobody is left.
                Err(error) => return Err(last.unwrap_or(error)),
            };
            let engine = ticket.engine().clone();
            ask.tried.push(engine.id);
            let request = outgoing(&order, &ticket, ask.id);
            let received = match upstream::send(&engine, request, connect, first_byte).await {
                Ok((answer, connection)) => {
                    let final_try = attempt == settings.max_attempts;
                    let received =
                        self.receive(answer, &order, ticket, connection, &mut admitted, final_try).await;
                    received.map(|answer| with_wait(answer, waited))
                }
                Err(failure) => {
                    ticket.finish(Outcome::Failed(failure));
                    Err(failure)
                }
            };
            let failure = match received {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            tracing::warn!(id = ask.id, engine = %engine.name, attempt, failure = failure.name(), "an engine failed a request");
            last = Some(blame(&engine.name, failure));
            if !order.repeatable && failure != Failure::Connect {
                break;
            }
            self.0.counters.retries.add(1);
        }
        Err(last.unwrap_or_else(|| ApiError::Internal("no attempt was made".to_owned())))
    }

    /// From the head of an engine's answer to ours. On failure the client has seen nothing yet.
    async fn receive(
        &self,
        answer: Response<Incoming>,
        order: &Order,
        mut ticket: Ticket,
        connection: Connection,
        admitted: &mut Option<Admitted>,
        final_try: bool,
    ) -> Result<Response<Answer>, Failure> {
        let (head, mut incoming) = answer.into_parts();
        let busy = matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if busy && !final_try && order.strict {
            ticket.finish(Outcome::Failed(Failure::Overloaded));
            return Err(Failure::Overloaded);
        }
        let kind =
            head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let streams = kind.starts_with("text/event-stream");
        let expected = if order.streams { streams } else { kind.starts_with("application/json") };
        if order.strict && head.status.is_success() && !expected {
            ticket.finish(Outcome::Failed(Failure::Garbage));
            return Err(Failure::Garbage);
        }
        let mut ours = Response::new(());
        *ours.status_mut() = head.status;
        *ours.headers_mut() = returning(head.headers);
        ours.headers_mut().insert(ROUTE, ticket.route().clone());
        let settings = &self.0.settings.gateway;
        let patience = Patience {
            stall: settings.engine_stall_timeout.get(),
            keep_alive: settings.keep_alive_every.get(),
        };
        let mut admit = || admitted.take().unwrap_or_else(|| unreachable!("an answer is given once"));
        if streams || !order.strict {
            let stream = streams.then(|| Stream::new(order.usage_is_ours));
            let held = (ticket, connection, admit());
            let relay = Relay::new(incoming, None, held, stream, self.0.counters.clone(), patience);
            return Ok(ours.map(|()| Answer::Relay(Box::new(relay))));
        }
        let mut whole = Vec::new();
        loop {
            let frame = tokio::time::timeout(patience.stall, incoming.frame()).await;
            let failure = match frame {
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        ticket.first_byte();
                        whole.push(bytes);
                    }
                    if whole.iter().map(Bytes::len).sum::<usize>() <= MAX_WHOLE {
                        continue;
                    }
                    let held = (ticket, connection, admit());
                    let first = Some(joined(&mut whole));
                    let relay = Relay::new(incoming, first, held, None, self.0.counters.clone(), patience);
                    ours.headers_mut().remove(header::CONTENT_LENGTH);
                    return Ok(ours.map(|()| Answer::Relay(Box::new(relay))));
                }
                Ok(None) => break,
                Ok(Some(Err(_))) => Failure::Midway,
                Err(_) => Failure::Timeout,
            };
            ticket.finish(Outcome::Failed(failure));
            return Err(failure);
        }
        connection.keep();
        let whole = joined(&mut whole);
        let outcome = if head.status.is_server_error() {
            Outcome::Failed(if busy { Failure::Overloaded } else { Failure::Garbage })
        } else {
            let usage = usage::in_answer(&whole);
            if let (Some(admitted), Some(usage)) = (admitted.as_mut(), usage) {
                admitted.used(usage);
            }
            Outcome::Served(usage)
        };
        ticket.finish(outcome);
        ours.headers_mut().remove(header::CONTENT_LENGTH);
        Ok(ours.map(|()| Answer::Whole(Some(whole))))
    }
}

/// Adds to `x-warmline-route` how long the request stood in line, if it did.
fn with_wait(mut answer: Response<Answer>, waited: Duration) -> Response<Answer> {
    if !waited.is_zero()
        && let Some(route) = answer.headers().get(&ROUTE).and_then(|route| route.to_str().ok())
        && let Ok(route) = HeaderValue::from_str(&format!("{route}; waited={}ms", waited.as_millis()))
    {
        answer.headers_mut().insert(ROUTE, route);
    }
    answer
}

// === Small steps ===

impl Gateway {
    fn request_id(&self, headers: &HeaderMap) -> String {
        let given = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
        let sane = |id: &&str| {
            !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(|byte| byte.is_ascii_graphic())
        };
        given.filter(sane).map_or_else(|| self.mint(), str::to_owned)
    }

    /// Reads a body, within the limits of size and time.
    pub(super) async fn read(&self, headers: &HeaderMap, mut incoming: Incoming) -> Result<Bytes, ApiError> {
        let settings = &self.0.settings.gateway;
        let limit = settings.max_body_bytes;
        let promised = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if promised.is_some_and(|promised| promised > limit) {
            return Err(ApiError::TooLarge { limit });
        }
        let reading = async {
            let mut parts: Vec<Bytes> = Vec::new();
            let mut size = 0;
            while let Some(frame) = incoming.frame().await {
                let frame = frame.map_err(|_| ApiError::invalid("The request body broke off."))?;
                if let Ok(bytes) = frame.into_data() {
                    size += bytes.len();
                    if size > limit {
                        return Err(ApiError::TooLarge { limit });
                    }
                    parts.push(bytes);
                }
            }
            Ok(joined(&mut parts))
        };
        match tokio::time::timeout(settings.body_timeout.get(), reading).await {
            Ok(read) => read,
            Err(_) => Err(ApiError::TooSlow("gateway.body_timeout")),
        }
    }

    /// The prompt's token ids, and how they were had.
    pub(super) async fn tokens(&self, asked: &Asked<'_>, body: &Bytes) -> (Way, Arc<[u32]>) {
        let none = || (Way::Bytes, Arc::from([]));
        match &asked.prompt {
            Prompt::Opaque => return none(),
            Prompt::Tokens(ids) => return (Way::Given, ids.as_slice().into()),
            // Turns and loads need no tokens: their length in bytes is good enough.
            Prompt::Chat(_) | Prompt::Text(_) if !self.0.settings.routing.policy.looks_at_caches() => {
                return none();
            }
            Prompt::Chat(_) | Prompt::Text(_) => {}
        }
        if let Some(model) = self.fleet().model(&asked.model).filter(|model| model.tokeniser.is_some()) {
            return match here(model, asked, body).await {
                Ok(ids) => (Way::Local, ids),
                Err(why) => {
                    tracing::debug!(model = %asked.model, why, "not tokenised here");
                    none()
                }
            };
        }
        // Asking an engine costs a round trip: only worth it if somebody tells what it has cached.
        if !self.fleet().anybody_tells() {
            return none();
        }
        match self.ask_engine(&asked.model, body).await {
            Some(ids) => (Way::Engine, ids.into()),
            None => none(),
        }
    }

    /// Asks an engine's own `/tokenize`.
    async fn ask_engine(&self, model: &str, body: &Bytes) -> Option<Vec<u32>> {
        #[derive(serde::Deserialize)]
        struct Tokenized {
            tokens: Vec<u32>,
        }
        let engine = self.fleet().any(Some(model))?;
        let path = format!("{}/tokenize", engine.base_path);
        let timeout = self.0.settings.gateway.connect_timeout.get();
        let asked = crate::http::ask(
            Method::POST,
            &engine.authority,
            &path,
            engine.bearer.as_ref(),
            body.clone(),
            timeout,
        );
        let (status, answer) = asked.await.ok()?;
        let tokenized: Tokenized =
            serde_json::from_slice(&answer).ok().filter(|_| status == StatusCode::OK)?;
        Some(tokenized.tokens)
    }

    fn ready(&self) -> Response<Answer> {
        match self.fleet().waiting_for() {
            None => json(StatusCode::OK, br#"{"status":"ready"}"#.as_slice().into()),
            Some(why) => {
                let body = serde_json::json!({"status": "not ready", "waiting_for": why});
                json(StatusCode::SERVICE_UNAVAILABLE, body.to_string().into())
            }
        }
    }

    fn models(&self, path: &str) -> Result<Response<Answer>, ApiError> {
        let one =
            |id: &str| serde_json::json!({"id": id, "object": "model", "created": 0, "owned_by": "warmline"});
        let names = self.fleet().names();
        let body = match path.strip_prefix("/v1/models/") {
            Some(name) => {
                let name = decoded(name);
                let found = names.iter().find(|known| **known == name);
                one(found.ok_or(ApiError::UnknownModel(name))?)
            }
            None => {
                serde_json::json!({"object": "list", "data": names.iter().map(|name| one(name)).collect::<Vec<_>>()})
            }
        };
        Ok(json(StatusCode::OK, body.to_string().into()))
    }
}

/// Tokenises here; a long prompt elsewhere than on the thread that serves everybody's connections.
async fn here(model: &Arc<Model>, asked: &Asked<'_>, body: &Bytes) -> Result<Arc<[u32]>, String> {
    let tokenise = |model: &Model, prompt: &Prompt<'_>| match &model.tokeniser {
        Some(tokeniser) => tokeniser.tokens(prompt).map_err(|error| error.to_string()),
        None => Err("no tokenizer is configured".to_owned()),
    };
    if body.len() <= QUICK_BYTES {
        return tokenise(model, &asked.prompt);
    }
    let kind = if matches!(asked.prompt, Prompt::Chat(_)) { Kind::Chat } else { Kind::Completion };
    let (model, body) = (model.clone(), body.clone());
    // The prompt is borrowed from the body, so it is read again where it is used.
    let long = move || {
        let asked = Asked::read(kind, &body).map_err(|error| error.to_string())?;
        tokenise(&model, &asked.prompt)
    };
    tokio::task::spawn_blocking(long).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn endpoint(path: &str) -> Endpoint {
    match path {
        "/v1/chat/completions" => Endpoint::Inference(Kind::Chat, Form::OpenAi),
        "/v1/completions" => Endpoint::Inference(Kind::Completion, Form::OpenAi),
        "/v1/embeddings" | "/v1/responses" => Endpoint::Inference(Kind::Other, Form::OpenAi),
        "/v1/messages" => Endpoint::Inference(Kind::Other, Form::Anthropic),
        "/v1/models" => Endpoint::Models,
        "/healthz" | "/health" => Endpoint::Health,
        "/readyz" => Endpoint::Ready,
        "/openapi.json" => Endpoint::OpenApi,
        path if path.starts_with("/v1/models/") => Endpoint::Model,
        path if path == "/v1/files" || path.starts_with("/v1/files/") => {
            files::Target::at(path).map_or(Endpoint::Nothing, Endpoint::Files)
        }
        path if path == "/v1/jobs" || path.starts_with("/v1/jobs/") => {
            jobs::Target::at(path).map_or(Endpoint::Nothing, Endpoint::Jobs)
        }
        path if path == "/v1/batches" || path.starts_with("/v1/batches/") => {
            batches::Target::at(path).map_or(Endpoint::Nothing, Endpoint::Batches)
        }
        path if path.starts_with("/v1/") || path == "/tokenize" || path == "/detokenize" => Endpoint::Other,
        _ => Endpoint::Nothing,
    }
}

/// What an approximate prefix is made of: the text itself, without the fields around it.
fn bytes_of<'a>(asked: &'a Asked<'_>, body: &'a Bytes) -> &'a [u8] {
    match &asked.prompt {
        Prompt::Chat(chat) => chat.messages.get().as_bytes(),
        Prompt::Text(text) => text.as_bytes(),
        Prompt::Tokens(_) | Prompt::Opaque => body,
    }
}

fn path_of(uri: &Uri) -> String {
    uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()
}

fn joined(parts: &mut Vec<Bytes>) -> Bytes {
    match parts.len() {
        0 => Bytes::new(),
        1 => parts.remove(0),
        _ => parts.concat().into(),
    }
}

/// `%2F` and its like in a name.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, more)) = rest.split_first() {
        let code =
            more.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        if let (b'%', Some(code)) = (byte, code) {
            bytes.push(code);
            rest = &more[2..];
        } else {
            bytes.push(*byte);
            rest = more;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Headers that belong to one connection, not to the request.
fn hop_by_hop(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 7] = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    NAMES.contains(name) || name == "keep-alive" || name == "proxy-connection"
}

/// The request as the engine gets it: its own host and key, the client's everything else.
pub(super) fn outgoing(order: &Order, ticket: &Ticket, id: &str) -> Request<Full<Bytes>> {
    let engine = ticket.engine();
    let mut request = Request::new(Full::new(order.body.clone()));
    *request.method_mut() = order.method.clone();
    let path = if engine.base_path.is_empty() {
        order.path.clone()
    } else {
        format!("{}{}", engine.base_path, order.path)
    };
    *request.uri_mut() = Uri::try_from(path).unwrap_or_else(|_| Uri::from_static("/"));
    let headers = request.headers_mut();
    headers.reserve(order.headers.len() + 3);
    for (name, value) in &order.headers {
        let ours =
            matches!(*name, header::HOST | header::AUTHORIZATION | header::CONTENT_LENGTH | header::EXPECT);
        if !ours && !hop_by_hop(name) && name != "x-api-key" && *name != PIN {
            headers.append(name, value.clone());
        }
    }
    headers.insert(header::HOST, engine.host.clone());
    if let Some(bearer) = &engine.bearer {
        headers.insert(header::AUTHORIZATION, bearer.clone());
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(rank) = ticket.rank() {
        headers.insert(RANK, HeaderValue::from(rank));
    }
    request
}

/// An engine's headers as the client gets them.
fn returning(mut headers: HeaderMap) -> HeaderMap {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| hop_by_hop(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    headers
}

fn blame(engine: &str, failure: Failure) -> ApiError {
    match failure {
        Failure::Timeout => ApiError::EngineTimeout(format!("The engine `{engine}` {}.", failure.name())),
        Failure::Overloaded => {
            ApiError::Unavailable { message: format!("The engine `{engine}` is overloaded."), retry_after: 1 }
        }
        Failure::Connect => ApiError::BadEngine(format!("The engine `{engine}` cannot be reached.")),
        _ => ApiError::BadEngine(format!("The engine `{engine}` {}.", failure.name())),
    }
}

pub(super) fn json(status: StatusCode, body: Bytes) -> Response<Answer> {
    let mut answer = Response::new(Answer::Whole(Some(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn method_not_allowed(method: &Method, allowed: &[Method]) -> Response<Answer> {
    let mut answer = failure(&ApiError::Method(method.to_string()), Form::OpenAi);
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
        answer.headers_mut().insert(header::ALLOW, names);
    }
    answer
}

fn failure(error: &ApiError, form: Form) -> Response<Answer> {
    let body = match form {
        Form::OpenAi => error.json(),
        Form::Anthropic => error.anthropic(),
    };
    let mut answer = json(error.status(), body.into());
    if let Some(seconds) = error.retry_after() {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let ApiError::BadRange { size } = error {
        answer.headers_mut().insert(header::CONTENT_RANGE, files::content_range(None, *size));
    }
    answer
}
