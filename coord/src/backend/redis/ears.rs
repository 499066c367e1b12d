//! Hears the notices of all shards: one task an instance, and a [`Heard::Gap`] whenever something may have been missed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::net::{ANSWER, Net};
use super::script::Names;
use crate::backend::Heard;
use crate::background::Background;
use crate::error::Error;
use crate::name::Shard;

/// Lines are asked so often whether they are still there, and so are their shards.
const PING: Duration = Duration::from_secs(2);
/// Between attempts to listen: doubling from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Listens as long as the connections are wanted.
pub(super) async fn listen(net: Weak<Net>, names: Names, notices: broadcast::Sender<Heard>) {
    let shards: HashMap<Vec<u8>, Shard> =
        Shard::all().map(|shard| (names.channel(shard).into_bytes(), shard)).collect();
    let mut wait = BACKOFF.0;
    let mut told = false;
    loop {
        let Some(strong) = net.upgrade() else { return };
        let (pushed, mut pushes) = mpsc::unbounded_channel();
        let lines = subscribe(&strong, &names, &pushed).await;
        drop(strong);
        match lines {
            Ok((lines, routes)) => {
                if told {
                    tracing::info!("notices of the coordinator are heard again");
                }
                (wait, told) = (BACKOFF.0, false);
                // Whatever was said before this moment may have been missed.
                let _unheard = notices.send(Heard::Gap);
                hear(&net, lines, routes, &mut pushes, &shards, &notices).await;
                let _unheard = notices.send(Heard::Gap);
            }
            Err(error) => {
                if !told {
                    tracing::warn!(%error, "notices of the coordinator are not heard; polling goes on");
                    told = true;
                }
                wait = (wait * 2).min(BACKOFF.1);
            }
        }
        sleep(wait).await;
    }
}

type Routes = BTreeMap<String, Vec<Shard>>;

async fn routes(net: &Net) -> Result<Routes, Error> {
    let mut routes = Routes::new();
    for shard in Shard::all() {
        routes.entry(net.route(shard).await?).or_default().push(shard);
    }
    Ok(routes)
}

/// One connection a node, each subscribed to the shards that are there.
async fn subscribe(
    net: &Net,
    names: &Names,
    pushed: &mpsc::UnboundedSender<PushInfo>,
) -> Result<(Vec<MultiplexedConnection>, Routes), Error> {
    let routes = routes(net).await?;
    let mut lines = Vec::new();
    for (host, shards) in &routes {
        let client = net.client(&net.address().node(host))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(pushed.clone());
        let gone = |why: String| Error::Unavailable(format!("{host}: {why}"));
        let joining = async {
            let mut line = client.get_multiplexed_async_connection_with_config(&config).await?;
            for shard in shards {
                let mut command = redis::cmd("SSUBSCRIBE");
                line.send_packed_command(command.arg(names.channel(*shard))).await?.extract_error()?;
            }
            Ok::<_, redis::RedisError>(line)
        };
        let joined = match timeout(ANSWER * 3, joining).await {
            Ok(joined) => joined.map_err(|error| gone(error.to_string())),
            Err(_) => Err(gone("no answer".to_owned())),
        };
        // It is gone, or its shards are: with nobody else to ask, we would go back to it for ever.
        lines.push(joined.inspect_err(|_| net.forget(host))?);
    }
    Ok((lines, routes))
}

/// Passes notices on until a line breaks or a shard has moved.
async fn hear(
    net: &Weak<Net>,
    mut lines: Vec<MultiplexedConnection>,
    known: Routes,
    pushes: &mut mpsc::UnboundedReceiver<PushInfo>,
    shards: &HashMap<Vec<u8>, Shard>,
    notices: &broadcast::Sender<Heard>,
) {
    let mut next_ping = Instant::now() + PING;
    loop {
        if Instant::now() >= next_ping {
            // Also while others talk: of several lines one may be mute.
            if !still_there(net, &mut lines, &known).await {
                return;
            }
            next_ping = Instant::now() + PING;
        }
        let push = match timeout_at(next_ping, pushes.recv()).await {
            Ok(Some(push)) => push,
            Ok(None) => return,
            Err(_) => continue,
        };
        match push.kind {
            PushKind::SMessage => {
                let mut data = push.data.into_iter();
                if let (Some(Value::BulkString(channel)), Some(Value::BulkString(text))) =
                    (data.next(), data.next())
                    && let Some(shard) = shards.get(&channel)
                {
                    let _unheard = notices.send(Heard::Notice(*shard, text.into()));
                }
            }
            PushKind::Disconnection | PushKind::SUnsubscribe => return,
            _ => {}
        }
    }
}

/// Whether every line answers and every shard is where it was.
async fn still_there(net: &Weak<Net>, lines: &mut [MultiplexedConnection], known: &Routes) -> bool {
    let ping = redis::cmd("PING");
    for line in lines {
        if !matches!(timeout(ANSWER, line.send_packed_command(&ping)).await, Ok(Ok(_))) {
            return false;
        }
    }
    let Some(net) = net.upgrade() else { return false };
    matches!(routes(&net).await, Ok(now) if now == *known)
}

/// Begins to listen in the background.
pub(super) fn begin(net: &Arc<Net>, names: Names, notices: broadcast::Sender<Heard>) -> Background {
    Background::spawn(listen(Arc::downgrade(net), names, notices))
}
