//! `warmline demo`: what a newcomer runs first.

use std::net::SocketAddr;

use clap::Args;

use super::output::{self, Failure};
use crate::demo::{Plan, chart, play, table, tiers};
use crate::settings::Log;
use crate::telemetry;

/// See it work: three simulated engines, the gateway, a store, a load, with nothing installed.
#[derive(Args)]
pub(super) struct Demo {
    /// Simulated engines.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    engines: u8,
    /// Users who talk at the same time.
    #[arg(long, default_value_t = 36, value_parser = clap::value_parser!(u16).range(1..=2000))]
    users: u16,
    /// Turns of each conversation.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=50))]
    turns: u16,
    /// Where the gateway listens; another port if it is taken.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where its admin listener is.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    admin_listen: SocketAddr,
    /// The same seed tells the same story.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after the table instead of leaving everything running.
    #[arg(long)]
    exit: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        telemetry::start(&Log { filter: "warn".to_owned(), ..Log::default() }).map_err(Failure::Input)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(self.show())
    }

    async fn show(self) -> Result<(), Failure> {
        let plan = Plan {
            engines: self.engines.into(),
            users: self.users.into(),
            turns: self.turns.into(),
            listen: self.listen,
            admin: self.admin_listen,
            seed: self.seed,
        };
        eprintln!(
            "{} simulated engines, the gateway, {} users who share four system prompts and take {} turns each.\n\
             The same conversations three times, on cold caches: each engine in turn; where the prefix is warm; and with a\n\
             store that keeps what engines must forget, in memory over disk, and warms what stands in line.\n",
            plan.engines, plan.users, plan.turns
        );
        let (phases, scene) = play(&plan).await.map_err(Failure::Work)?;
        if self.json {
            output::json(
                &serde_json::json!({"phases": phases, "gateway": scene.address(), "admin": scene.admin()}),
            )?;
        } else {
            output::line(&format!(
                "\n{}\n{}\n\n{}",
                table(&phases),
                chart(&phases).trim_end(),
                tiers(&phases)
            ))?;
        }
        if phases.iter().any(|phase| phase.failed > 0) {
            return Err(Failure::Work("some requests failed; see above".to_owned()));
        }
        if self.exit {
            return Ok(());
        }
        eprintln!(
            "\nEverything is still running. Ask it something, twice, and look at x-warmline-route:\n\n  \
             curl -i http://{0}/v1/chat/completions -H 'content-type: application/json' -d \
             '{{\"model\":\"sim\",\"messages\":[{{\"role\":\"user\",\"content\":\"Tell me about warm caches, at some length, please.\"}}],\"max_tokens\":16}}'\n\n  \
             warmline status --admin http://{1}\n  warmline explain --admin http://{1}\n\nCtrl-C ends it.",
            scene.address(),
            scene.admin()
        );
        super::serve::signal().await;
        Ok(())
    }
}
