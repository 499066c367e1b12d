//! The public crate's standalone indexer on the port that is given, with as many threads as it takes by default.

use dynamo_kv_router::services::indexer::{IndexerConfig, run_server};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| anyhow::anyhow!("usage: warmline-bench-peers-indexer PORT [PEERS]"))?;
    run_server(IndexerConfig {
        block_size: None,
        port,
        threads: 4,
        workers: None,
        model_name: "default".to_owned(),
        routing_group: "default".to_owned(),
        peers: arguments.next(),
        access_log: None,
        trace_id_header: http::header::HeaderName::from_static("x-trace-id"),
        access_log_local_time: false,
    })
    .await
}
