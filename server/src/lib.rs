//! The binary `warmline`: settings, gateway, admin, CLI, and the wiring of every room.

pub mod admin;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod demo;
pub mod endpoint;
pub mod error;
pub mod files;
pub mod fleet;
pub mod gateway;
pub mod http;
pub mod indexer;
pub mod journal;
pub mod memory;
pub mod metrics;
pub mod openapi;
pub mod posture;
pub mod prompt;
pub mod replicas;
pub mod route;
pub mod settings;
pub mod shelf;
pub mod sink;
pub mod telemetry;
pub mod tokens;
pub mod wiring;
