//! Objects, one by one and many at a time: where they are, whether they may leave, and that they are gone.

use http::{Method, StatusCode, request};
use hyper::body::Incoming;
use serde_json::json;
use store::master::name::{self, Tenant};
use store::master::{Error, Presence};
use store::node::desk::Local;

use super::api::{Pin, Pinning};
use super::keys::{self, Query, wrong};
use super::{Inside, Said, look, nothing_asked};
use crate::admin::parse;
use crate::error::ApiError;
use crate::http::json as respond;

/// Keys in a list, if nothing is said, and at most; a shard's worth more may come.
const KEYS: u64 = 1_000;
/// See [`KEYS`].
const MOST_KEYS: u64 = 100_000;

impl Inside {
    /// `/objects/{tenant}` and `/objects/{tenant}/{key}`. Slashes of the key may be written as they are.
    pub(super) async fn objects(
        &self,
        head: &request::Parts,
        tenant: Option<&str>,
        key: Option<&str>,
        query: &str,
        body: Incoming,
    ) -> Said {
        let Some(tenant) = tenant.filter(|tenant| !tenant.is_empty()) else {
            return Err(ApiError::NotFound("Whose objects? /objects/{tenant}; see /tenants.".to_owned()));
        };
        let name = keys::name(tenant)?;
        let (local, tenant) = self.tenant(&name)?;
        let Some(key) = key.filter(|key| !key.is_empty()) else {
            return match head.method {
                Method::GET => list(&local, tenant, query),
                Method::DELETE => remove_many(&local, (tenant, &name), query).await,
                _ => Err(ApiError::Method(format!("{}; here it is GET or DELETE", head.method))),
            };
        };
        nothing_asked(query)?;
        match (&head.method, key.strip_suffix("/pin")) {
            (&Method::GET, _) => show(&local, tenant, &name, &keys::bytes(key)?),
            (&Method::DELETE, _) => remove(&local, tenant, &name, &keys::bytes(key)?),
            (&Method::POST, Some(key)) => {
                let key = keys::bytes(key)?;
                let Pinning { pin } = parse(body).await?;
                let to = match pin {
                    Pin::None => name::Pin::None,
                    Pin::Soft => name::Pin::Soft,
                    Pin::Hard => name::Pin::Hard,
                };
                let pinned = local.master().pin(tenant, &key, to);
                pinned.map_err(|error| refused(&local, error, &name, &key))?;
                show(&local, tenant, &name, &key)
            }
            (&Method::POST, None) => {
                Err(ApiError::NotFound("What can be done to an object is …/pin.".to_owned()))
            }
            (method, _) => Err(ApiError::Method(format!("{method}; here it is GET, DELETE, or POST …/pin"))),
        }
    }
}

fn show(local: &Local, tenant: Tenant, name: &str, key: &[u8]) -> Said {
    let now = Inside::now(local);
    let look = local.master().look(tenant, key, now);
    let look = look.ok_or_else(|| absent(local, tenant, name, key))?;
    Ok(respond(StatusCode::OK, &look::object(local, name, key, &look, now)))
}

fn remove(local: &Local, tenant: Tenant, name: &str, key: &[u8]) -> Said {
    let removed = local.master().remove(tenant, key);
    let version = removed.map_err(|error| refused(local, error, name, key))?;
    Ok(respond(StatusCode::OK, &json!({"status": "removed", "version": version.0})))
}

fn list(local: &Local, tenant: Tenant, query: &str) -> Said {
    let query = Query::read(query, &["cursor", "count"])?;
    let cursor = query.number("cursor", 0, 0..=u64::from(u32::MAX))?;
    let count = query.number("count", KEYS, 1..=MOST_KEYS)?;
    let (next, keys) = local.master().scan(tenant, cursor, count as usize);
    let keys: Vec<String> = keys.iter().map(|key| keys::shown(key)).collect();
    Ok(respond(StatusCode::OK, &json!({"keys": keys, "cursor": next})))
}

async fn remove_many(local: &Local, of: (Tenant, &str), query: &str) -> Said {
    let (tenant, name) = of;
    let query = Query::read(query, &["prefix", "all"])?;
    let prefix = query.get("prefix").unwrap_or_default();
    if prefix.is_empty() && !query.flag("all")? {
        return Err(wrong("prefix", "without one everything is removed; say all=true if that is meant"));
    }
    if !prefix.is_empty() && query.flag("all")? {
        return Err(wrong("all", "there is a prefix as well; say one of them"));
    }
    let (mut removed, mut cursor) = (0, 0);
    loop {
        let (many, next) = local.master().remove_prefix(tenant, prefix, cursor).map_err(|_| {
            ApiError::StoreNotReady {
                message: format!(
                    "{removed} were removed, and then it stopped: a node that is not known may bring back what is \
                     removed now. Ask again when /readyz says yes."
                ),
                retry_after: 5,
            }
        })?;
        removed += many;
        cursor = next;
        if cursor == 0 {
            break;
        }
        // A shard at a time, and others in between.
        tokio::task::yield_now().await;
    }
    tracing::info!(tenant = name, prefix = keys::shown(prefix), removed, "an operator removed objects");
    Ok(respond(StatusCode::OK, &json!({"status": "removed", "removed": removed})))
}

fn refused(local: &Local, error: Error, name: &str, key: &[u8]) -> ApiError {
    match error {
        Error::Absent => match local.master().tenant_named(name) {
            Some(tenant) => absent(local, tenant, name, key),
            None => ApiError::Internal("a tenant was forgotten".to_owned()),
        },
        Error::Leaving => ApiError::Conflict(format!("Not now: {error}.")),
        _ => ApiError::StoreNotReady { message: format!("Not now: {error}."), retry_after: 5 },
    }
}

fn absent(local: &Local, tenant: Tenant, name: &str, key: &[u8]) -> ApiError {
    let key = keys::shown(key);
    match local.master().exists(tenant, key.as_bytes()) {
        Presence::Unknown => ApiError::StoreNotReady {
            message: format!("Whether {name} has {key} is not known: not every node is."),
            retry_after: 1,
        },
        Presence::Here | Presence::Absent => ApiError::NotFound(format!("{name} has no object {key}.")),
    }
}
