//! The command line: what each command takes, and how failures leave.

mod bench;
mod client;
mod config;
mod coord;
mod demo;
mod doctor;
mod events;
mod hash;
mod indexer;
mod operate;
mod output;
mod queue;
mod relay;
mod serve;
mod sim;
mod store;
mod store_status;

use std::path::PathBuf;
use std::process::ExitCode;

use ::coord::backend::Registry;
use clap::{Args, Parser, Subcommand};

use crate::settings::{self, Settings};
use output::Failure;

/// Keeps LLM requests in line and their KV cache warm.
#[derive(Parser)]
#[command(name = "warmline", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// See it work: simulated engines, the gateway, a load, with nothing installed.
    Demo(demo::Demo),
    /// Serve: the gateway, the index and everything behind it.
    Serve(serve::Serve),
    /// Show engines, views, load and confidence at a glance.
    Status(operate::StatusCommand),
    /// Show why a request went where it went.
    Explain(operate::Explain),
    /// Show what waits and why; hold it back, cancel it, try it again.
    Queue(queue::Queue),
    /// Show where a request would go now.
    Route(operate::Route),
    /// Check the settings against the world: addresses, engines, events, tokens.
    Doctor(doctor::Doctor),
    /// Look at an engine's event stream, keep it, play it back.
    Events(events::Events),
    /// Tell engines' event streams again, with snapshots for whoever comes late.
    Relay(relay::Relay),
    /// Look at what replicas agree on, and hold a backend against what it must promise.
    Coord(coord::Coord),
    /// Answer who holds how much of a prefix, over HTTP.
    Indexer(indexer::Indexer),
    /// Keep KV blocks in memory over disk, for engines that speak the Redis protocol.
    Store(store::Store),
    /// Run simulated engines, for trying things out.
    Sim(sim::Sim),
    /// Measure what is claimed.
    Bench(bench::Bench),
    /// Show the effective settings: defaults, file, environment and flags put together.
    Config(config::Config),
    /// Hash tokens into block hashes, as engines' event streams and other routers do.
    Hash(hash::Hash),
}

/// Where settings come from, on every command that needs them.
#[derive(Args, Clone, Default)]
struct Source {
    /// The settings file; without one, the defaults and `WARMLINE_…` variables are all there is.
    #[arg(long, short, value_name = "FILE", env = "WARMLINE_CONFIG", global = true)]
    config: Option<PathBuf>,
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    main_with(Registry::new())
}

/// The same for a program with backends of coordination of its own: register them, and settings can name them.
pub fn main_with(registry: Registry) -> ExitCode {
    match run(Cli::parse(), &registry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli, registry: &Registry) -> Result<(), Failure> {
    match cli.command {
        Command::Demo(command) => command.run(),
        Command::Serve(command) => command.run(registry),
        Command::Status(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Queue(command) => command.run(),
        Command::Route(command) => command.run(),
        Command::Doctor(command) => command.run(registry),
        Command::Events(command) => command.run(),
        Command::Relay(command) => command.run(),
        Command::Coord(command) => command.run(registry),
        Command::Indexer(command) => command.run(),
        Command::Store(command) => command.run(registry),
        Command::Sim(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Hash(command) => command.run(),
    }
}

// === impl Source ===

impl Source {
    fn settings(&self) -> Result<Settings, Failure> {
        Ok(settings::load(self.config.as_deref(), std::env::vars())?)
    }
}
