//! What a tenant may use in a minute, over all replicas: requests and tokens.

use std::sync::Arc;
use std::time::Duration;

use super::{Budget, Replicas};
use crate::settings::Tenant;

/// What a tenant may use in a minute.
pub struct Rates {
    requests: Option<(Arc<Budget>, u64)>,
    tokens: Option<(Arc<Budget>, u64)>,
}

/// It has used it.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// What of.
    pub what: &'static str,
    /// How much of it a minute has.
    pub most: u64,
    /// When there will be enough again.
    pub wait: Duration,
}

impl Rates {
    /// Those of a tenant.
    ///
    /// # Errors
    /// A name that cannot be shared, in words.
    pub fn of(tenant: &Tenant, replicas: &Replicas) -> Result<Self, String> {
        let budget = |what: &str, most: Option<u64>| {
            let name = format!("{}/{what}", tenant.name);
            most.map(|most| Ok::<_, String>((replicas.budget(&name, most)?, most))).transpose()
        };
        Ok(Self {
            requests: budget("requests", tenant.requests_per_minute)?,
            tokens: budget("tokens", tenant.tokens_per_minute)?,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }

    /// Charges a request of so many tokens; what was charged for tokens is returned.
    ///
    /// # Errors
    /// What is used up.
    pub async fn charge(&self, tokens: f64) -> Result<f64, Used> {
        if let Some((requests, most)) = &self.requests {
            let spent = requests.spend(1.0).await;
            spent.map_err(|wait| Used { what: "requests", most: *most, wait })?;
        }
        let Some((budget, most)) = &self.tokens else { return Ok(0.0) };
        match budget.spend(tokens).await {
            Ok(()) => Ok(tokens),
            Err(wait) => {
                // A request that is not served counts as none.
                if let Some((requests, _)) = &self.requests {
                    requests.settle(-1.0);
                }
                Err(Used { what: "tokens", most: *most, wait })
            }
        }
    }

    /// What was charged turned out to be more or less.
    pub fn settle(&self, more: f64) {
        if let Some((budget, _)) = &self.tokens {
            budget.settle(more);
        }
    }
}
