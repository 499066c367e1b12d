//! Logs: set up once, on stderr, for people or for programs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::settings::{Log, LogFormat};

/// Begins to log as the settings say.
///
/// # Errors
/// A filter that cannot be understood.
pub fn start(log: &Log) -> Result<(), String> {
    let wrong = |why| format!("log.filter: found `{}`: {why}; an example is `info,server=debug`", log.filter);
    let filter = EnvFilter::builder().parse(&log.filter).map_err(wrong)?;
    let plain = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => plain.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => plain.json().flatten_event(true).with_current_span(false).try_init(),
    }
    .map_err(|error| error.to_string())
}
