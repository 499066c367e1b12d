//! What each value alone cannot show: names that clash, addresses that make no sense, bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use blocks::BlockSize;

use super::{Coordination, Engine, Settings};
use crate::endpoint;

/// The longest name of an engine: it is part of names that all replicas share.
const MAX_NAME: usize = 128;

/// Whether the settings make sense together.
///
/// # Errors
/// The key, what was found and what is allowed.
pub fn together(settings: &Settings) -> Result<(), String> {
    bounds(settings)?;
    queue(settings)?;
    coordination(settings)?;
    settings.store.check()?;
    settings.files.check()?;
    settings.batches.check()?;
    settings.webhook.check().map_err(|why| format!("webhook.{why}"))?;
    for (i, tenant) in settings.tenants.iter().enumerate() {
        tenant.webhook.check().map_err(|why| format!("tenants[{i}].webhook.{why}"))?;
    }
    if settings.data.dir.as_os_str().is_empty() {
        return Err("data.dir: it is empty; allowed is a directory, such as warmline-data".to_owned());
    }
    unique("engines", "name", settings.engines.iter().map(|engine| engine.name.as_str()))?;
    unique("models", "name", settings.models.iter().map(|model| model.name.as_str()))?;
    unique("tenants", "name", settings.tenants.iter().map(|tenant| tenant.name.as_str()))?;
    for (i, one) in settings.engines.iter().enumerate() {
        engine(one).map_err(|why| format!("engines[{i}].{why}"))?;
    }
    Ok(())
}

/// Whether one engine makes sense, also when it is registered later.
///
/// # Errors
/// The key, what was found and what is allowed.
pub fn engine(engine: &Engine) -> Result<(), String> {
    let Engine { name, url, events, replay, relay, block_size, ranks, .. } = engine;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c)) {
        return Err(format!("name: found `{name}`; allowed are letters, digits and - _ . :"));
    }
    if name.len() > MAX_NAME {
        return Err(format!("name: found {} characters; allowed are up to {MAX_NAME}", name.len()));
    }
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    if authority.is_none_or(|authority| authority.parse::<http::uri::Authority>().is_err()) {
        return Err(format!("url: found `{url}`; allowed is http://host:port, perhaps with a path"));
    }
    if BlockSize::new(*block_size).is_none() {
        return Err(format!("block_size: found {block_size}; allowed is 1 to {}", BlockSize::MAX));
    }
    if !(1..=1024).contains(ranks) {
        return Err(format!("ranks: found {ranks}; allowed is 1 to 1024"));
    }
    for (key, found) in [("events", events), ("replay", replay)] {
        let known = found.as_deref().filter(|found| key != "events" || *found != "auto");
        known.map_or(Ok(()), endpoint::check).map_err(|why| format!("{key}: {why}, or (events) auto"))?;
    }
    if let Some(relay) = relay {
        endpoint::check(relay).map_err(|why| format!("relay: {why}"))?;
        if events.is_none() {
            return Err("relay: there is nothing to tell again; set events as well".to_owned());
        }
    }
    Ok(())
}

fn queue(settings: &Settings) -> Result<(), String> {
    let super::Queue { reach, shares, .. } = &settings.queue;
    if !(1..=8).contains(reach) {
        return Err(format!("queue.reach: found {reach}; allowed is 1 to 8"));
    }
    let sum: u32 = shares.iter().sum();
    if sum > 500 {
        return Err(format!("queue.shares: found {shares:?}, which is {sum} together; allowed is up to 500"));
    }
    for (i, tenant) in settings.tenants.iter().enumerate() {
        if !(1..=1_000).contains(&tenant.weight) {
            return Err(format!("tenants[{i}].weight: found {}; allowed is 1 to 1000", tenant.weight));
        }
    }
    Ok(())
}

fn coordination(settings: &Settings) -> Result<(), String> {
    let Coordination { backend, dsn, dsn_file, replicas, instance, lease, beat, .. } = &settings.coordination;
    let wrong = |key: &str, why: String| Err(format!("coordination.{key}: {why}"));
    if *replicas == 0 {
        return wrong("replicas", "found 0; allowed is 1 or more".to_owned());
    }
    if *replicas > 1 && backend == "memory" {
        return wrong(
            "backend",
            format!(
                "found `memory` with replicas = {replicas}: each would be alone with its own memory; allowed are \
                 `redis` or a backend of your own"
            ),
        );
    }
    if !dsn.is_empty() && dsn_file.is_some() {
        return wrong("dsn_file", "there is a dsn as well; give one of the two".to_owned());
    }
    // A DSN in a file is looked at when the file is read; everything else now.
    if dsn_file.is_none() {
        let config = settings.coordination.config()?;
        config.check().map_err(|error| format!("coordination.{error}"))?;
    }
    if let Some(name) = instance {
        coord::Name::new(name.as_str()).map_err(|error| format!("coordination.instance: {error}"))?;
    }
    if lease.get() < beat.get() * 3 || beat.get() < Duration::from_millis(10) {
        return wrong(
            "lease",
            format!(
                "found {} ms with a beat of {} ms; allowed is a beat of 10ms or more, and a lease of three beats or more",
                lease.get().as_millis(),
                beat.get().as_millis()
            ),
        );
    }
    for (i, tenant) in settings.tenants.iter().enumerate() {
        let limits = [
            ("requests_per_minute", tenant.requests_per_minute),
            ("tokens_per_minute", tenant.tokens_per_minute),
        ];
        for (key, found) in limits {
            if found == Some(0) {
                return Err(format!(
                    "tenants[{i}].{key}: found 0; allowed is 1 or more, or nothing for no limit"
                ));
            }
        }
        coord::Name::new(format!("tenant/{}", tenant.name)).map_err(|_| {
            format!("tenants[{i}].name: found `{}`; allowed are words without spaces", tenant.name)
        })?;
    }
    Ok(())
}

fn bounds(settings: &Settings) -> Result<(), String> {
    let Settings { gateway, routing, closed_loop, .. } = settings;
    let at_least = [
        ("gateway.max_body_bytes", gateway.max_body_bytes, 1024),
        ("gateway.max_head_bytes", gateway.max_head_bytes, 8192),
        ("gateway.max_connections", gateway.max_connections, 1),
        ("gateway.max_attempts", gateway.max_attempts, 1),
    ];
    for (key, found, least) in at_least {
        if found < least {
            return Err(format!("{key}: found {found}; allowed is {least} or more"));
        }
    }
    let fractions = [
        ("routing.host_discount", routing.host_discount),
        ("routing.store_discount", routing.store_discount),
        ("closed_loop.smoothing", closed_loop.smoothing),
        ("closed_loop.rebuild_below", closed_loop.rebuild_below),
    ];
    for (key, found) in fractions {
        if !(0.0..=1.0).contains(&found) {
            return Err(format!("{key}: found {found}; allowed is 0 to 1"));
        }
    }
    let weights = [
        ("routing.prefill_weight", routing.prefill_weight),
        ("routing.decode_weight", routing.decode_weight),
    ];
    for (key, found) in weights {
        if !found.is_finite() || found < 0.0 {
            return Err(format!("{key}: found {found}; allowed is 0 or more"));
        }
    }
    Ok(())
}

fn unique<'a>(list: &str, key: &str, found: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    for (i, name) in found.enumerate() {
        if name.is_empty() {
            return Err(format!("{list}[{i}].{key}: it is empty; give it a short name"));
        }
        if let Some(first) = seen.insert(name, i) {
            return Err(format!("{list}[{i}].{key}: found `{name}`, which {list}[{first}] has already"));
        }
    }
    Ok(())
}
