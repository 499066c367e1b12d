//! Every failure that a client can see, its HTTP status, and OpenAI's error body; decided here and nowhere else.

use http::StatusCode;
use serde::Serialize;

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
    /// The path exists, the method does not.
    #[error("Method not allowed: {0}.")]
    Method(String),
    /// The body is larger than the limit.
    #[error("The request body is larger than the limit of {limit} bytes.")]
    TooLarge {
        /// The setting `gateway.max_body_bytes`.
        limit: usize,
    },
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
            Self::Busy { retry_after, .. } | Self::Unavailable { retry_after, .. } => Some(*retry_after),
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
            _ => None,
        };
        let error = Inner { message: self.to_string(), r#type: kind, param, code };
        serde_json::to_string(&Body { error }).expect("strings always serialise")
    }

    /// The body in Anthropic's form.
    pub fn anthropic(&self) -> String {
        let kind = match self {
            Self::Invalid { .. } | Self::TooSlow(_) | Self::Method(_) => "invalid_request_error",
            Self::Unauthorized(_) => "authentication_error",
            Self::Forbidden(_) => "permission_error",
            Self::UnknownModel(_) | Self::UnknownPath(_) => "not_found_error",
            Self::TooLarge { .. } => "request_too_large",
            Self::Busy { .. } => "rate_limit_error",
            Self::Unavailable { .. } => "overloaded_error",
            Self::EngineTimeout(_) => "timeout_error",
            Self::BadEngine(_) | Self::Internal(_) => "api_error",
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
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, "request_too_large"),
            Self::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, INVALID, "request_timeout"),
            Self::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded"),
            Self::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "server_error", "no_engine"),
            Self::BadEngine(_) => (StatusCode::BAD_GATEWAY, "server_error", "engine_failed"),
            Self::EngineTimeout(_) => (StatusCode::GATEWAY_TIMEOUT, "server_error", "engine_timeout"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error"),
        }
    }
}
