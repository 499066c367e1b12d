//! `warmline store`: the tiered store, until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use coord::backend::Registry;

use super::Source;
use super::output::{self, Failure};
use crate::settings::{Offload, Role, Settings, Size};
use crate::{store, telemetry};

/// Keep KV blocks in memory over disk, for engines that speak the Redis protocol.
///
/// Try it: `warmline store --data ./kv`, then `redis-cli -p 6380 set a b`. See docs/store.md.
#[derive(Args)]
pub(super) struct Store {
    #[command(flatten)]
    source: Source,
    /// Where clients connect with the Redis protocol [setting: tiers.listen].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where operators connect [setting: tiers.admin].
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// Where the disk's segments lie; without it, memory only [setting: tiers.folder].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Bytes of values in memory, such as 4GiB [setting: tiers.memory].
    #[arg(long, value_name = "BYTES")]
    memory: Option<Size>,
    /// Bytes on disk, such as 64GiB [setting: tiers.disk].
    #[arg(long, value_name = "BYTES")]
    disk: Option<Size>,
    /// Where gateways hear which blocks are there [setting: tiers.events].
    #[arg(long, value_name = "ENDPOINT", requires = "replay")]
    events: Option<String>,
    /// Where they ask for what they missed [setting: tiers.replay].
    #[arg(long, value_name = "ENDPOINT")]
    replay: Option<String>,
    /// What this process does [setting: tiers.roles].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "master,node")]
    roles: Vec<Role>,
    /// Where a node looks for the master that leads; may be repeated [setting: tiers.link.masters].
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    master: Vec<String>,
    /// Where a master listens for nodes of other processes [setting: tiers.link.master_listen].
    #[arg(long, value_name = "ADDRESS")]
    master_listen: Option<SocketAddr>,
    /// Where a node listens for other nodes [setting: tiers.link.node_listen].
    #[arg(long, value_name = "ADDRESS")]
    node_listen: Option<SocketAddr>,
    /// When objects are written to disk [setting: tiers.offload].
    #[arg(long, value_enum)]
    offload: Option<Offload>,
    /// Print where it listens as JSON.
    #[arg(long)]
    json: bool,
}

impl Store {
    pub(super) fn run(self, registry: &Registry) -> Result<(), Failure> {
        let settings = self.settings()?;
        telemetry::start(&settings.log).map_err(Failure::Input)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(serve(&self, settings, registry))
    }

    /// What is set now: flags over variables over the file.
    fn settings(&self) -> Result<Settings, Failure> {
        let mut settings = self.source.settings()?;
        let tiers = &mut settings.tiers;
        tiers.listen = self.listen.unwrap_or(tiers.listen);
        tiers.admin = self.admin_listen.unwrap_or(tiers.admin);
        tiers.folder = self.data.clone().or(tiers.folder.take());
        tiers.memory = self.memory.unwrap_or(tiers.memory);
        tiers.disk = self.disk.unwrap_or(tiers.disk);
        tiers.events = self.events.clone().or(tiers.events.take());
        tiers.replay = self.replay.clone().or(tiers.replay.take());
        tiers.offload = self.offload.unwrap_or(tiers.offload);
        if !self.roles.is_empty() {
            tiers.roles.clone_from(&self.roles);
        }
        if !self.master.is_empty() {
            tiers.link.masters.clone_from(&self.master);
        }
        tiers.link.master_listen = self.master_listen.unwrap_or(tiers.link.master_listen);
        tiers.link.node_listen = self.node_listen.unwrap_or(tiers.link.node_listen);
        tiers.check().map_err(Failure::Input)?;
        Ok(settings)
    }
}

async fn serve(flags: &Store, settings: Settings, registry: &Registry) -> Result<(), Failure> {
    // Starting may take as long as there is no master, and is to be ended by a signal, too.
    let running = tokio::select! {
        running = store::start(&settings, registry) => running.map_err(Failure::Input)?,
        () = super::serve::signal() => return Ok(()),
    };
    if flags.json {
        let at = |address: Option<SocketAddr>| address.map(|address| address.to_string());
        let told = serde_json::json!({
            "listen": at(running.address()),
            "admin": running.admin().to_string(),
            "master": at(running.master_link()),
            "node": at(running.node_link()),
        });
        output::line(&told.to_string())?;
    }
    say(&settings, &running);
    tokio::select! {
        () = super::serve::signal() => {}
        () = reload(flags, &running) => {}
    }
    tracing::info!("stopping: no new clients, what arrives is written to disk");
    running.stop().await;
    Ok(())
}

/// Reads the settings again on each SIGHUP; never ends.
async fn reload(flags: &Store, running: &store::Running) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangs_up = match signal(SignalKind::hangup()) {
        Ok(hangs_up) => hangs_up,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be heard; settings are read at the start only");
            return std::future::pending().await;
        }
    };
    loop {
        hangs_up.recv().await;
        let settings = flags.settings().map_err(|failure| match failure {
            Failure::Input(why) | Failure::Work(why) => why,
            Failure::Unheard => "nobody listens".to_owned(),
        });
        match settings.and_then(|settings| running.reload(&settings)) {
            Ok(store::Reloaded { promotion, quotas, waiting }) => {
                tracing::info!(
                    promotion,
                    quotas,
                    "the settings were read again; what is new of these counts now"
                );
                if promotion {
                    tracing::info!("candidates for promotion, and what was counted of them, begin anew");
                }
                if !waiting.is_empty() {
                    tracing::warn!("changed, and waits for a restart: {}", waiting.join(", "));
                }
            }
            Err(why) => {
                tracing::error!("the settings are as they were, since the new ones make no sense: {why}");
            }
        }
    }
}

/// What somebody who has just started it wants to know.
fn say(settings: &Settings, running: &store::Running) {
    let tiers = &settings.tiers;
    if let Some(served) = &running.parts().node {
        let look = served.node.look();
        let objects = served.node.disk().map_or(0, |disk| disk.count().0);
        if let Some(folder) = &tiers.folder {
            tracing::info!(
                "{} in memory over {} in {}; {objects} objects were there (node {})",
                tiers.memory,
                tiers.disk,
                folder.display(),
                look.id,
            );
        } else {
            tracing::info!(
                "{} in memory and no disk: --data FOLDER adds one (node {})",
                tiers.memory,
                look.id
            );
        }
    }
    if let Some(address) = running.master_link() {
        tracing::info!(
            "nodes find this master: warmline store --roles node --master {}",
            tiers.link.told(address)
        );
    }
    if let Some(address) = running.address() {
        if !address.ip().is_loopback() && settings.tenants.is_empty() {
            tracing::warn!(
                "anybody who reaches {address} may read and write: add [[tenants]] with keys_file"
            );
        }
        tracing::info!("ready to try: redis-cli -h {} -p {} set a b", address.ip(), address.port());
    }
    tracing::info!("how it is: warmline status --store http://{}", running.admin());
    if !running.admin().ip().is_loopback() && settings.admin.key_file.is_none() {
        tracing::warn!("anybody who reaches {} may remove objects: set admin.key_file", running.admin());
    }
}
