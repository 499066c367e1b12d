//! `warmline serve`: the gateway and everything behind it, until it is told to stop.

use std::net::SocketAddr;

use clap::Args;
use coord::backend::Registry;

use super::Source;
use super::output::Failure;
use crate::posture::posture;
use crate::settings::{self, Policy, Settings};
use crate::{telemetry, wiring};

/// Serve.
#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    source: Source,
    /// Where clients connect [setting: gateway.listen].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where operators connect [setting: admin.listen].
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// An engine, such as http://10.0.0.5:8000; its KV events are found by themselves. May be repeated.
    #[arg(long, value_name = "URL")]
    engine: Vec<String>,
    /// How an engine is chosen [setting: routing.policy].
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// What is logged, such as `debug` or `info,server=debug` [setting: log.filter].
    #[arg(long)]
    log: Option<String>,
}

impl Serve {
    pub(super) fn run(self, registry: &Registry) -> Result<(), Failure> {
        let settings = self.settings()?;
        telemetry::start(&settings.log).map_err(Failure::Input)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(serve(settings, registry))
    }

    fn settings(self) -> Result<Settings, Failure> {
        let mut settings = self.source.settings()?;
        settings.gateway.listen = self.listen.unwrap_or(settings.gateway.listen);
        settings.admin.listen = self.admin_listen.unwrap_or(settings.admin.listen);
        settings.routing.policy = self.policy.unwrap_or(settings.routing.policy);
        settings.log.filter = self.log.unwrap_or(settings.log.filter);
        for url in self.engine {
            let name = format!("e{}", settings.engines.len());
            let events = Some("auto".to_owned());
            settings.engines.push(settings::Engine { name, url, events, ..settings::Engine::default() });
        }
        settings::check::together(&settings).map_err(Failure::Input)?;
        Ok(settings)
    }
}

async fn serve(settings: Settings, registry: &Registry) -> Result<(), Failure> {
    let surfaces = posture(&settings);
    let running = wiring::start_with(settings, registry).await.map_err(Failure::Input)?;
    for surface in surfaces {
        tracing::info!("{surface}");
    }
    let model = running.fleet().names().into_iter().next().unwrap_or_else(|| "MODEL".to_owned());
    tracing::info!(
        "ready to try: curl http://{}/v1/chat/completions -H 'content-type: application/json' -d \
         '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'",
        running.address(),
    );
    tracing::info!("operators: warmline status --admin http://{}", running.admin());
    signal().await;
    tracing::info!("stopping: no new requests, what runs comes to its end");
    running.stop().await.map_err(Failure::Work)
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be heard; only SIGINT stops this process");
            drop(tokio::signal::ctrl_c().await);
            return;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
