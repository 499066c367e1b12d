//! Watching the engines: probes, restarts, where their events are, and whether they told of what they computed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use events::follow::{Follower, Settings, Source};
use events::publish;
use events::relay::Teller;
use events::sink::{Both, Root, Sink};
use http::{Method, StatusCode};
use serde_json::Value;

use super::Fleet;
use super::member::Member;
use crate::endpoint;
use crate::http::ask;
use crate::settings;

/// The pause between probes of an engine that is down: its return should be noticed at once.
const PROBE_DOWN: Duration = Duration::from_millis(100);
/// Expectations are swept this often.
const SWEEP: Duration = Duration::from_millis(200);
/// Probes between two looks at the engine's list of models.
const MODELS_EVERY: u32 = 30;

/// Watches one engine until it is removed.
pub async fn engine(fleet: Fleet, name: String, sink: Arc<dyn Sink>) {
    let mut round = 0_u32;
    loop {
        let members = fleet.members();
        let Some(member) = members.iter().find(|member| member.settings.name == name).cloned() else {
            return;
        };
        drop(members);
        probe(&fleet, &member, &sink, round).await;
        check_awaited(&fleet, &member);
        round = round.wrapping_add(1);
        let up = member.up.load(Ordering::Relaxed);
        let every = fleet.settings().health.probe_every.get();
        tokio::time::sleep(if up { every } else { PROBE_DOWN.min(every) }).await;
    }
}

/// Drops expectations that nobody confirmed, for as long as the process lives.
pub async fn expectations(fleet: Fleet) {
    loop {
        tokio::time::sleep(SWEEP).await;
        fleet.index().expire(fleet.clock().now());
    }
}

async fn probe(fleet: &Fleet, member: &Arc<Member>, sink: &Arc<dyn Sink>, round: u32) {
    let health = get(fleet, member, "/health").await;
    let was_up = member.up.load(Ordering::Relaxed);
    match health {
        Ok((status, _)) if status.is_success() => {
            if let Ok((StatusCode::OK, metrics)) = get(fleet, member, "/metrics").await {
                read_metrics(member, &String::from_utf8_lossy(&metrics));
            }
            if member.models.load().is_empty()
                || member.settings.models.is_empty() && round.is_multiple_of(MODELS_EVERY)
            {
                learn_models(fleet, member).await;
            }
            if !member.tells() {
                follow(fleet, member, sink).await;
            }
            if !member.up.swap(true, Ordering::Relaxed) {
                tracing::info!(engine = %member.settings.name, "the engine answers again");
                member.breaker.lock().succeeded();
            }
            *member.trouble.lock() = None;
        }
        Ok((status, _)) => down(member, was_up, &format!("/health answered {status}")),
        Err(why) => {
            // A process that refuses connections is not there: whatever it had cached is gone.
            if was_up && why.starts_with("connect") {
                member.restarted();
            }
            down(member, was_up, &why);
        }
    }
}

fn down(member: &Member, was_up: bool, why: &str) {
    member.up.store(false, Ordering::Relaxed);
    *member.trouble.lock() = Some(why.to_owned());
    if was_up {
        tracing::warn!(engine = %member.settings.name, why, "the engine is down; it gets no requests until it answers");
    }
}

async fn get(fleet: &Fleet, member: &Member, path: &str) -> Result<(StatusCode, Bytes), String> {
    let path = format!("{}{path}", member.engine.base_path);
    let timeout = fleet.settings().health.probe_timeout.get();
    ask(Method::GET, &member.engine.authority, &path, member.engine.bearer.as_ref(), Bytes::new(), timeout)
        .await
}

/// Load, and the start of the process: a new one is a new life.
fn read_metrics(member: &Member, metrics: &str) {
    let value = |name: &str| -> Option<f64> {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    };
    for (name, gauge) in [
        ("vllm:num_requests_running", &member.load.running),
        ("vllm:num_requests_waiting", &member.load.waiting),
        ("sglang:num_running_reqs", &member.load.running),
        ("sglang:num_queue_reqs", &member.load.waiting),
    ] {
        if let Some(value) = value(name) {
            gauge.store(value.max(0.0) as u32, Ordering::Relaxed);
        }
    }
    let Some(started) = value("process_start_time_seconds") else { return };
    let before = member.started.swap(started.to_bits(), Ordering::Relaxed);
    if before != 0 && before != started.to_bits() {
        tracing::info!(engine = %member.settings.name, "the engine was restarted; its old view is dropped");
        member.restarted();
    }
}

async fn learn_models(fleet: &Fleet, member: &Member) {
    let Ok((StatusCode::OK, body)) = get(fleet, member, "/v1/models").await else { return };
    let Ok(list) = serde_json::from_slice::<Value>(&body) else { return };
    let ids = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids: Vec<String> = ids.iter().filter_map(|model| model["id"].as_str().map(str::to_owned)).collect();
    if !ids.is_empty() && **member.models.load() != ids {
        tracing::info!(engine = %member.settings.name, models = ?ids, "the engine serves");
        member.models.store(Arc::new(ids));
    }
}

/// Follows the engine's events, once it is known where they are.
async fn follow(fleet: &Fleet, member: &Arc<Member>, sink: &Arc<dyn Sink>) {
    let Some(events) = member.settings.events.clone() else { return };
    let sources = if events == "auto" {
        discover(fleet, member).await
    } else {
        let rank = |worker: &blocks::Worker| Source {
            worker: *worker,
            endpoint: endpoint::nth(&events, worker.rank),
            bind: endpoint::binds(&events),
            replay: member.settings.replay.as_ref().map(|replay| endpoint::nth(replay, worker.rank)),
            topic: member.settings.topic.clone(),
        };
        member.workers.iter().map(rank).collect()
    };
    if sources.len() != member.workers.len() {
        return;
    }
    let mut followers = member.followers.lock();
    for source in sources {
        tracing::info!(engine = %member.settings.name, endpoint = %source.endpoint, replay = ?source.replay, "following its KV events");
        let seed = (u64::from(member.engine.id.0) << 32) | (u64::from(source.worker.rank) + 1);
        let sink = relayed(member, source.worker.rank, sink);
        followers.push(Follower::start(source, sink, Settings { seed, ..Settings::default() }));
    }
}

/// The sink of an engine's rank, and beside it, if that is wished, one that tells everything again.
fn relayed(member: &Member, rank: u32, sink: &Arc<dyn Sink>) -> Arc<dyn Sink> {
    let settings::Engine { name, relay: Some(relay), ranks, block_size, .. } = &member.settings else {
        return sink.clone();
    };
    let (endpoint, replay) = (endpoint::nth(relay, rank), endpoint::nth(relay, ranks + rank));
    match Teller::start(publish::Settings::of_relay(endpoint, replay, *block_size)) {
        Ok(teller) => {
            let (endpoint, replay) = (teller.endpoint(), teller.replay_endpoint());
            tracing::info!(engine = name, endpoint, replay, "its KV events are told again");
            Arc::new(Both(sink.clone(), teller))
        }
        Err(error) => {
            tracing::error!(engine = name, %error, "its KV events are not told again");
            sink.clone()
        }
    }
}

/// Asks the engine where its events are.
async fn discover(fleet: &Fleet, member: &Member) -> Vec<Source> {
    let Ok((StatusCode::OK, body)) = get(fleet, member, "/kv_event_sources").await else { return Vec::new() };
    let Ok(ranks) = serde_json::from_slice::<Value>(&body) else { return Vec::new() };
    let host = member.engine.authority.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
    let one = |worker: &blocks::Worker| {
        let source = &ranks[worker.rank.to_string()];
        let endpoint = source["endpoint"].as_str()?;
        let replay = source["replay_endpoint"].as_str();
        Some(Source {
            worker: *worker,
            endpoint: reachable(endpoint, host),
            bind: false,
            replay: replay.map(|replay| reachable(replay, host)),
            topic: source["topic"].as_str().unwrap_or_default().to_owned(),
        })
    };
    member.workers.iter().filter_map(one).collect()
}

/// An endpoint with a wildcard host means the engine's own address.
fn reachable(endpoint: &str, host: &str) -> String {
    endpoint
        .replace("//*:", &format!("//{host}:"))
        .replace("//0.0.0.0:", &format!("//{host}:"))
        .replace("//[::]:", &format!("//{host}:"))
}

/// An engine has told of the beginning of a prompt: what its blocks and our tokens are held against.
pub fn root(fleet: &Fleet, worker: blocks::Worker, root: &Root<'_>) {
    let members = fleet.members();
    let Some(member) = members.iter().find(|member| member.workers.contains(&worker)) else { return };
    let believed = member.block_size.swap(root.block_size.max(1), Ordering::Relaxed);
    if believed != root.block_size {
        tracing::info!(
            engine = %member.settings.name, believed, told = root.block_size,
            "the engine's blocks have another size than was set; its events are believed"
        );
    }
    member.truth.lock().root(root.tokens);
}

/// Prompts that were computed some time ago must have been told of by now.
fn check_awaited(fleet: &Fleet, member: &Member) {
    let now = fleet.clock().now();
    loop {
        let awaited = {
            let mut queue = member.awaited.lock();
            match queue.front() {
                Some(awaited) if awaited.due <= now => queue.pop_front(),
                _ => return,
            }
        };
        let Some(awaited) = awaited else { return };
        if fleet.index().view(awaited.worker) != Some(blocks::View::Exact) {
            continue;
        }
        let mut found = index::Matches::default();
        fleet.index().lookup(&[awaited.root], &mut found);
        let mut truth = member.truth.lock();
        if found.of(awaited.worker).is_some_and(|found| found.told() > 0) {
            truth.seen();
            continue;
        }
        let model = fleet.model(&awaited.model).cloned();
        let explain = |position: usize, ours: Option<u32>, theirs: Option<u32>, told: &[u32]| {
            let Some(tokeniser) = model.as_ref().and_then(|model| model.tokeniser.as_ref()) else {
                return "the engine computed this prompt but told of other tokens".to_owned();
            };
            if told.is_empty() {
                return "the engine computed prompts but told of none".to_owned();
            }
            let word = |id: Option<u32>| {
                id.map_or("nothing".to_owned(), |id| format!("{:?}", tokeniser.decode(&[id])))
            };
            format!(
                "{}: ours is {}, the engine's {}; the engine reads {:?}",
                tokeniser.locate(&awaited.tokens, position),
                word(ours),
                word(theirs),
                tokeniser.decode(&told[position.saturating_sub(8)..told.len().min(position + 8)]),
            )
        };
        if let Some(mismatch) = truth.unseen(&awaited.tokens, explain) {
            tracing::warn!(
                engine = %member.settings.name, position = mismatch.position, ours = ?mismatch.ours,
                theirs = ?mismatch.theirs, explanation = %mismatch.explanation,
                "our tokens and the engine's differ: it is routed approximately until they agree"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_reached_where_the_engine_is() {
        assert_eq!(reachable("tcp://*:5557", "10.0.0.5"), "tcp://10.0.0.5:5557");
        assert_eq!(reachable("tcp://127.0.0.1:5557", "10.0.0.5"), "tcp://127.0.0.1:5557");
    }
}
