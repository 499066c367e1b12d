//! Who comes in: keys to tenants, and how many requests each may have at a time.

use std::collections::HashMap;
use std::sync::Arc;

use coord::replicas::{Place, Pool};
use http::HeaderMap;
use queue::entry::Cost;
use queue::room::Turn;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::error::ApiError;
use crate::fleet::Usage;
use crate::lines::{EVERYBODY, Spot, Who};
use crate::replicas::{Rates, Replicas, Used};
use crate::settings::{self, Priority};

/// All tenants by the hashes of their keys.
pub(super) struct Keys {
    tenants: HashMap<u128, Arc<Tenant>>,
    /// Makes the hashes unlike anybody else's.
    seed: u64,
    replicas: Replicas,
}

pub(super) struct Tenant {
    settings: settings::Tenant,
    /// What its line is called.
    line: Arc<str>,
    /// Its limits, which all replicas hold together.
    in_flight: Option<Arc<Pool>>,
    rates: Rates,
    /// The keys themselves: a hash only finds the candidate.
    keys: Vec<String>,
}

/// One request of a tenant; its place is free again when this is dropped.
pub(super) struct Admitted {
    tenant: Option<Arc<Tenant>>,
    _place: Option<Place>,
    /// Tokens that were charged.
    charged: f64,
    /// Its turn, if it had to wait for one: it ends with the request.
    turn: Option<Turn<Spot>>,
}

impl Keys {
    /// # Errors
    /// A file that cannot be read, holds no key, or a key that two tenants have; in words.
    pub(super) fn load(tenants: &[settings::Tenant], seed: u64, replicas: Replicas) -> Result<Self, String> {
        let mut keys = Self { tenants: HashMap::new(), seed, replicas: replicas.clone() };
        for (settings, lines) in tenants.iter().zip(settings::keys::of_tenants(tenants)?) {
            let name = &settings.name;
            let tenant = Arc::new(Tenant {
                settings: settings.clone(),
                line: settings.name.as_str().into(),
                in_flight: settings.max_in_flight.map(|most| replicas.limit(name, most)).transpose()?,
                rates: Rates::of(settings, &replicas)?,
                keys: lines,
            });
            for key in &tenant.keys {
                keys.tenants.insert(keys.hash(key), tenant.clone());
            }
        }
        Ok(keys)
    }

    /// Who asks, of those who ask for no engine: they take no place, so that nobody's own work keeps it from looking after it.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Admitted, ApiError> {
        let tenant = if self.tenants.is_empty() { None } else { Some(self.tenant(headers)?) };
        Ok(Admitted { tenant, _place: None, charged: 0.0, turn: None })
    }

    /// Lets a request in, or says why not. `model` is checked where it is known.
    pub(super) async fn admit(&self, headers: &HeaderMap) -> Result<Admitted, ApiError> {
        if self.tenants.is_empty() {
            return self.identify(headers);
        }
        let tenant = self.tenant(headers)?;
        let mut place = None;
        if let Some(pool) = &tenant.in_flight {
            place = self.replicas.enter(pool).await;
            if place.is_none() {
                let most = tenant.settings.max_in_flight.unwrap_or_default();
                return Err(ApiError::Busy {
                    message: format!("This key's tenant may have {most} requests at a time, and has them."),
                    retry_after: 1,
                });
            }
        }
        Ok(Admitted { tenant: Some(tenant), _place: place, charged: 0.0, turn: None })
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
    /// Whose request it is; with no tenants in the settings it is everybody's.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenant.as_ref().map(|tenant| tenant.settings.name.as_str())
    }

    /// Whether the tenant may use this model.
    pub(super) fn may_use(&self, model: &str) -> Result<(), ApiError> {
        match &self.tenant {
            Some(tenant)
                if !tenant.settings.models.is_empty()
                    && !tenant.settings.models.iter().any(|one| one == model) =>
            {
                Err(ApiError::Forbidden(format!("This key may not use the model `{model}`.")))
            }
            _ => Ok(()),
        }
    }

    /// In whose line it stands.
    pub(super) fn who(&self) -> Who {
        match &self.tenant {
            Some(tenant) => Who { tenant: tenant.line.clone(), class: tenant.settings.priority.class() },
            None => Who { tenant: EVERYBODY.into(), class: Priority::Normal.class() },
        }
    }

    /// It had to wait for its turn, which lasts as long as it.
    pub(super) fn has_turn(&mut self, turn: Option<Turn<Spot>>) {
        self.turn = turn;
    }

    /// Charges a request of so many tokens to the tenant's budgets, or says when there will be enough.
    pub(super) async fn charge(&mut self, tokens: usize) -> Result<(), ApiError> {
        if let Some(tenant) = &self.tenant {
            self.charged = tenant.rates.charge(tokens as f64).await.map_err(too_many)?;
        }
        Ok(())
    }

    /// What the request turned out to cost; what was charged for it before is taken into account.
    pub(super) fn used(&mut self, usage: Usage) {
        if let Some(turn) = &mut self.turn {
            let computed = usage.prompt.saturating_sub(usage.cached.unwrap_or(0));
            turn.used(Cost { tokens: computed.saturating_add(usage.completion), blocks: 0 });
        }
        if let Some(tenant) = &self.tenant {
            let cost = f64::from(usage.prompt) + f64::from(usage.completion);
            tenant.rates.settle(cost - self.charged);
            self.charged = cost;
        }
    }
}

fn too_many(used: Used) -> ApiError {
    let Used { what, most, wait } = used;
    ApiError::Busy {
        message: format!("This key's tenant may use {most} {what} a minute, and has used them."),
        retry_after: wait.as_secs_f64().ceil().clamp(1.0, 60.0) as u32,
    }
}
