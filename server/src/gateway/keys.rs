//! Who comes in: keys to tenants, and how many requests each may have at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::error::ApiError;
use crate::settings;

/// All tenants by the hashes of their keys.
pub(super) struct Keys {
    tenants: HashMap<u128, Arc<Tenant>>,
    /// Makes the hashes unlike anybody else's.
    seed: u64,
}

pub(super) struct Tenant {
    settings: settings::Tenant,
    in_flight: AtomicUsize,
    /// The keys themselves: a hash only finds the candidate.
    keys: Vec<String>,
}

/// One request of a tenant; its place is free again when this is dropped.
pub(super) struct Admitted(Option<Arc<Tenant>>);

impl Keys {
    /// # Errors
    /// A file that cannot be read, holds no key, or a key that two tenants have; in words.
    pub(super) fn load(tenants: &[settings::Tenant], seed: u64) -> Result<Self, String> {
        let mut keys = Self { tenants: HashMap::new(), seed };
        for (i, settings) in tenants.iter().enumerate() {
            let path = &settings.keys_file;
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| {
                format!("tenants[{i}].keys_file: cannot read {}: {error}", path.display())
            })?;
            let lines: Vec<String> =
                text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
            if lines.is_empty() {
                return Err(format!("tenants[{i}].keys_file: {} holds no key", path.display()));
            }
            let tenant = Arc::new(Tenant {
                settings: settings.clone(),
                in_flight: AtomicUsize::new(0),
                keys: lines.clone(),
            });
            for key in lines {
                if let Some(other) = keys.tenants.insert(keys.hash(&key), tenant.clone()) {
                    return Err(format!(
                        "tenants[{i}].keys_file: {} holds a key that `{}` has already",
                        path.display(),
                        other.settings.name
                    ));
                }
            }
        }
        Ok(keys)
    }

    /// Lets a request in, or says why not. `model` is checked where it is known.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Admitted, ApiError> {
        if self.tenants.is_empty() {
            return Ok(Admitted(None));
        }
        let tenant = self.tenant(headers)?;
        let most = tenant.settings.max_in_flight.unwrap_or(usize::MAX);
        let raised = tenant
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < most).then_some(now + 1));
        match raised {
            Ok(_) => Ok(Admitted(Some(tenant))),
            Err(_) => Err(ApiError::Busy {
                message: format!("This key's tenant may have {most} requests at a time, and has them."),
                retry_after: 1,
            }),
        }
    }

    /// OpenAI's clients send a bearer token, Anthropic's an `x-api-key`.
    fn tenant(&self, headers: &HeaderMap) -> Result<Arc<Tenant>, ApiError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text("authorization").and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        let key = bearer.or(text("x-api-key")).ok_or_else(|| {
            ApiError::Unauthorized(
                "You didn't provide an API key. Send it as `Authorization: Bearer KEY`.".to_owned(),
            )
        })?;
        // The hash finds the tenant in a time that says nothing about other keys.
        let found =
            self.tenants.get(&self.hash(key)).filter(|tenant| tenant.keys.iter().any(|known| known == key));
        found.cloned().ok_or_else(|| ApiError::Unauthorized("Incorrect API key provided.".to_owned()))
    }

    fn hash(&self, key: &str) -> u128 {
        xxh3_128_with_seed(key.as_bytes(), self.seed)
    }
}

impl Admitted {
    /// Whether the tenant may use this model.
    pub(super) fn may_use(&self, model: &str) -> Result<(), ApiError> {
        match &self.0 {
            Some(tenant)
                if !tenant.settings.models.is_empty()
                    && !tenant.settings.models.iter().any(|one| one == model) =>
            {
                Err(ApiError::Forbidden(format!("This key may not use the model `{model}`.")))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(tenant) = &self.0 {
            tenant.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
