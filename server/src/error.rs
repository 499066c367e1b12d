//! Every failure that a client can see, its HTTP status, and OpenAI's error body; decided here and nowhere else.

use http::StatusCode;
use serde::Serialize;

use crate::{files, shelf};

/// Why a request was not served. Each kind tells the client what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The body or a parameter cannot be understood: fix the request.
    #[error("{message}")]
    Invalid {
        /// What is wrong, and what would be right.
        message: String,
        /// The parameter at fault.
        param: Option<String>,
    },
    /// No key, or one nobody knows: send a valid key.
    #[error("{0}")]
    Unauthorized(String),
    /// The key is known but may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// No engine serves this model.
    #[error("The model `{0}` does not exist or no engine serves it.")]
    UnknownModel(String),
    /// There is nothing at this path.
    #[error("Unknown request URL: {0}. See /openapi.json for what is served.")]
    UnknownPath(String),
    /// What is named is not there, or no longer.
    #[error("{0}")]
    NotFound(String),
    /// It is not as the request takes it to be.
    #[error("{0}")]
    Conflict(String),
    /// The path exists, the method does not.
    #[error("Method not allowed: {0}.")]
    Method(String),
    /// The body is larger than the limit.
    #[error("The request body is larger than the limit of {limit} bytes.")]
    TooLarge {
        /// The setting `gateway.max_body_bytes`.
        limit: usize,
    },
    /// The file is larger than one may be.
    #[error("The file is larger than the limit of {limit} bytes.")]
    FileTooLarge {
        /// The setting `files.max_file_bytes`.
        limit: u64,
    },
    /// The tenant's files are larger than they may be: delete some.
    #[error(
        "With this file all your files would be larger than the limit of {limit} bytes; delete some first."
    )]
    FileQuota {
        /// The setting `files.max_total_bytes`.
        limit: u64,
    },
    /// The tenant has no such file.
    #[error("No such File object: {0}.")]
    UnknownFile(String),
    /// A range that is not in the file.
    #[error("The range is not within the {size} bytes of the file.")]
    BadRange {
        /// How long the file is.
        size: u64,
    },
    /// No room is left for files.
    #[error("No space is left for files; delete some, or ask the operator for more.")]
    StorageFull,
    /// The store of files does not answer: retry after a while.
    #[error("The store of files does not answer. Try again.")]
    StorageAway,
    /// Files cannot be stored or read until an operator has done something.
    #[error("Files cannot be stored or read; the operator finds the reason in the log.")]
    Storage,
    /// The client took too long to send its request.
    #[error("The request did not arrive in time: {0}.")]
    TooSlow(&'static str),
    /// A limit of the tenant or fleet is reached: retry after a while.
    #[error("{message}")]
    Busy {
        /// Which limit.
        message: String,
        /// Whole seconds to wait.
        retry_after: u32,
    },
    /// No engine is there to take it: retry after a while.
    #[error("{message}")]
    Unavailable {
        /// What is missing.
        message: String,
        /// Whole seconds to wait.
        retry_after: u32,
    },
    /// The durable queue cannot be used at the moment: retry after a while.
    #[error("{message}")]
    NoQueue {
        /// What is the matter.
        message: String,
        /// Whole seconds to wait.
        retry_after: u32,
    },
    /// The store is coming up, or does not know all of its nodes: retry after a while.
    #[error("{message}")]
    StoreNotReady {
        /// What it waits for.
        message: String,
        /// Whole seconds to wait.
        retry_after: u32,
    },
    /// The engine broke before it answered, and so did every other that was tried.
    #[error("{0}")]
    BadEngine(String),
    /// The engine did not answer in time.
    #[error("{0}")]
    EngineTimeout(String),
    /// A bug of ours.
    #[error("Internal error: {0}. The request id helps to find it in the logs.")]
    Internal(String),
}

/// OpenAI's error body.
#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: String,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

// === impl ApiError ===

impl ApiError {
    /// Shorthand for an invalid body.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), param: None }
    }

    /// The HTTP status; the only place where one is chosen.
    pub fn status(&self) -> StatusCode {
        self.row().0
    }

    /// Seconds for `Retry-After`, where waiting helps.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Busy { retry_after, .. }
            | Self::Unavailable { retry_after, .. }
            | Self::NoQueue { retry_after, .. }
            | Self::StoreNotReady { retry_after, .. } => Some(*retry_after),
            Self::StorageAway => Some(2),
            _ => None,
        }
    }

    /// `error.code`: stable, for programs.
    pub fn code(&self) -> &'static str {
        self.row().2
    }

    /// The body in OpenAI's form.
    pub fn json(&self) -> String {
        let (_, kind, code) = self.row();
        let param = match self {
            Self::Invalid { param, .. } => param.as_deref(),
            Self::UnknownModel(_) => Some("model"),
            Self::UnknownFile(_) => Some("id"),
            Self::FileTooLarge { .. } => Some("file"),
            _ => None,
        };
        let error = Inner { message: self.to_string(), r#type: kind, param, code };
        serde_json::to_string(&Body { error }).expect("strings always serialise")
    }

    /// The body in Anthropic's form.
    pub fn anthropic(&self) -> String {
        let kind = match self {
            Self::Invalid { .. }
            | Self::TooSlow(_)
            | Self::Method(_)
            | Self::BadRange { .. }
            | Self::Conflict(_) => "invalid_request_error",
            Self::Unauthorized(_) => "authentication_error",
            Self::Forbidden(_) => "permission_error",
            Self::UnknownModel(_) | Self::UnknownPath(_) | Self::UnknownFile(_) | Self::NotFound(_) => {
                "not_found_error"
            }
            Self::TooLarge { .. } | Self::FileTooLarge { .. } | Self::FileQuota { .. } => "request_too_large",
            Self::Busy { .. } => "rate_limit_error",
            Self::Unavailable { .. }
            | Self::NoQueue { .. }
            | Self::StoreNotReady { .. }
            | Self::StorageAway => "overloaded_error",
            Self::EngineTimeout(_) => "timeout_error",
            Self::BadEngine(_) | Self::Internal(_) | Self::Storage | Self::StorageFull => "api_error",
        };
        serde_json::json!({"type": "error", "error": {"type": kind, "message": self.to_string()}}).to_string()
    }

    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        const INVALID: &str = "invalid_request_error";
        match self {
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, INVALID, "invalid_request"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, INVALID, "invalid_api_key"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, INVALID, "forbidden"),
            Self::UnknownModel(_) => (StatusCode::NOT_FOUND, INVALID, "model_not_found"),
            Self::UnknownPath(_) => (StatusCode::NOT_FOUND, INVALID, "unknown_url"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, INVALID, "not_found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, INVALID, "conflict"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, "request_too_large"),
            Self::FileTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, "file_too_large"),
            Self::FileQuota { .. } => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, "file_quota_exceeded"),
            Self::UnknownFile(_) => (StatusCode::NOT_FOUND, INVALID, "file_not_found"),
            Self::BadRange { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, INVALID, "range_not_satisfiable"),
            Self::StorageFull => (StatusCode::INSUFFICIENT_STORAGE, "server_error", "storage_full"),
            Self::StorageAway => (StatusCode::SERVICE_UNAVAILABLE, "server_error", "storage_unavailable"),
            Self::Storage => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "storage_failed"),
            Self::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, INVALID, "request_timeout"),
            Self::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded"),
            Self::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_engine"),
            Self::NoQueue { .. } => (StatusCode::SERVICE_UNAVAILABLE, "server_error", "queue_unavailable"),
            Self::StoreNotReady { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", "store_not_ready")
            }
            Self::BadEngine(_) => (StatusCode::BAD_GATEWAY, "server_error", "engine_failed"),
            Self::EngineTimeout(_) => (StatusCode::GATEWAY_TIMEOUT, "server_error", "engine_timeout"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error"),
        }
    }
}

impl From<files::Error> for ApiError {
    /// Where and why a store of ours fails is for the log: tenants get to know what they can do.
    fn from(error: files::Error) -> Self {
        match error {
            files::Error::TooLarge { limit } => Self::FileTooLarge { limit },
            files::Error::Quota { limit } => Self::FileQuota { limit },
            files::Error::Gone(id) => Self::UnknownFile(id.to_string()),
            files::Error::Taken(_) => Self::Internal(error.to_string()),
            files::Error::Needed { id, by } => {
                Self::Conflict(format!("The file `{id}` cannot be deleted now: it is needed by {by}."))
            }
            files::Error::Shelf(error) => {
                tracing::error!(%error, "files cannot be stored or read");
                match error {
                    shelf::Error::Full(_) => Self::StorageFull,
                    shelf::Error::Away(_) => Self::StorageAway,
                    shelf::Error::Denied(_) | shelf::Error::Damaged(_) => Self::Storage,
                }
            }
        }
    }
}
