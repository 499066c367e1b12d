//! `warmline config`: what the settings come to.

use clap::Args;

use super::Source;
use super::output::{self, Failure};

/// Show the effective settings.
#[derive(Args)]
pub(super) struct Config {
    #[command(flatten)]
    source: Source,
    /// Print every setting with its effective value, as TOML that can be saved and used.
    #[arg(long)]
    dump: bool,
    /// Print them as JSON.
    #[arg(long)]
    json: bool,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        let settings = self.source.settings()?;
        if self.json {
            return output::json(&settings);
        }
        if self.dump {
            let text = toml::to_string(&settings).map_err(|error| Failure::Work(error.to_string()))?;
            return output::line(text.trim_end());
        }
        let source = self.source.config.map_or("defaults".to_owned(), |path| path.display().to_string());
        let engines = settings.engines.len();
        output::line(&format!("settings are valid ({source}; {engines} engines); --dump prints them all"))
    }
}
