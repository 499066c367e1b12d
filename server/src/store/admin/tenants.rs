//! Tenants: what each uses, and what it may use.

use http::{Method, StatusCode, request};
use hyper::body::Incoming;
use serde::{Deserialize, Deserializer};
use store::master::Quota;
use store::master::name::{self, Tier};
use store::node::desk::Local;

use super::api::{Share, Tenant};
use super::keys;
use super::{Inside, Said, must_be, nothing_asked};
use crate::admin::parse;
use crate::error::ApiError;
use crate::http::json as respond;
use crate::settings::Size;

/// What is to change: what is not there stays; `null` takes a bound away.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Change {
    memory: Bound,
    disk: Bound,
    weight: Option<u32>,
}

/// What a bound becomes.
#[derive(Default)]
enum Bound {
    #[default]
    Stays,
    Goes,
    Is(Size),
}

/// The greatest weight, as for requests.
const MOST_WEIGHT: u32 = 1_000;

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(from)?.map_or(Self::Goes, Self::Is))
    }
}

impl Bound {
    fn after(&self, before: Option<u64>) -> Option<u64> {
        match self {
            Self::Stays => before,
            Self::Goes => None,
            Self::Is(size) => Some(size.get()),
        }
    }
}

impl Inside {
    /// `/tenants` and `/tenants/{name}`.
    pub(super) async fn tenants(
        &self,
        head: &request::Parts,
        name: Option<&str>,
        query: &str,
        body: Incoming,
    ) -> Said {
        nothing_asked(query)?;
        let Some(name) = name else {
            must_be(&head.method, &Method::GET)?;
            let local = self.local()?;
            let all = local.master().tenant_list();
            let all: Vec<Tenant> =
                all.into_iter().map(|(tenant, name)| show(&local, tenant, &name)).collect();
            return Ok(respond(StatusCode::OK, &all));
        };
        let name = keys::name(name)?;
        let (local, tenant) = self.tenant(&name)?;
        match head.method {
            Method::GET => {}
            Method::PUT => {
                // A list would do for a structure whose fields may all be missing.
                let fields: serde_json::Map<String, serde_json::Value> = parse(body).await?;
                let change = serde_json::from_value::<Change>(fields.into());
                let change = change.map_err(|error| ApiError::invalid(error.to_string()))?;
                let master = local.master();
                let before = master.quota(tenant);
                let weight = change.weight.unwrap_or(before.weight);
                if !(1..=MOST_WEIGHT).contains(&weight) {
                    let why = format!("found {weight}; allowed is 1 to {MOST_WEIGHT}");
                    return Err(keys::wrong("weight", &why));
                }
                let quota = Quota {
                    memory: change.memory.after(before.memory),
                    disk: change.disk.after(before.disk),
                    weight,
                };
                master.set_quota(tenant, quota);
                tracing::info!(
                    tenant = name,
                    ?quota,
                    "an operator set what a tenant may use, until the next start"
                );
            }
            _ => return Err(ApiError::Method(format!("{}; here it is GET or PUT", head.method))),
        }
        Ok(respond(StatusCode::OK, &show(&local, tenant, &name)))
    }

    /// The tenant of that name: one that was seen, or stands in the settings.
    pub(super) fn tenant(&self, name: &str) -> Result<(Local, name::Tenant), ApiError> {
        let local = self.local()?;
        let master = local.master();
        if let Some(tenant) = master.tenant_named(name) {
            return Ok((local, tenant));
        }
        let settings = &self.settings;
        let open = settings.tenants.is_empty() && name == store::resp::Tenant::default().name();
        if open || settings.tenants.iter().any(|tenant| tenant.name == name) {
            return match master.tenant(name) {
                Ok(tenant) => Ok((local, tenant)),
                Err(error) => Err(ApiError::Conflict(format!("{error}."))),
            };
        }
        let known: Vec<_> = master.tenant_list().into_iter().map(|(_, name)| name).collect();
        Err(ApiError::NotFound(format!("There is no tenant {name:?}; seen were {known:?}.")))
    }
}

fn show(local: &Local, tenant: name::Tenant, name: &str) -> Tenant {
    let master = local.master();
    let Quota { memory, disk, weight } = master.quota(tenant);
    Tenant {
        name: name.to_owned(),
        objects: master.count(tenant),
        memory: Share { used: master.used(tenant, Tier::Memory), quota: memory },
        disk: Share { used: master.used(tenant, Tier::Disk), quota: disk },
        weight,
    }
}
