//! How a command speaks: results on stdout, everything else on stderr, one exit status a kind of failure.

use std::process::ExitCode;

use serde::Serialize;

use crate::settings;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The input or a setting is wrong: exit status 2, as for a wrong flag.
    Input(String),
    /// It was tried and did not work: exit status 1.
    Work(String),
    /// Whoever read our output has left; nothing is wrong.
    Unheard,
}

/// Prints a result as one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Work(error.to_string()))?;
    line(&text)
}

/// Prints a line of a result.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{text}").map_err(Failure::from)
}

// === impl Failure ===

impl Failure {
    pub(super) fn report(self) -> ExitCode {
        match self {
            Self::Input(why) => {
                eprintln!("error: {why}");
                ExitCode::from(2)
            }
            Self::Work(why) => {
                eprintln!("error: {why}");
                ExitCode::FAILURE
            }
            Self::Unheard => ExitCode::SUCCESS,
        }
    }
}

impl From<settings::Error> for Failure {
    fn from(error: settings::Error) -> Self {
        Self::Input(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::Unheard,
            _ => Self::Work(error.to_string()),
        }
    }
}
