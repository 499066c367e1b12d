//! `warmline coord`: what replicas agree on, as it is in the backend; and whether the backend keeps what it must promise.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ::coord::backend::{Backend, Registry};
use ::coord::op::{End, Job, Op, Reply, Stage};
use ::coord::{Error, Key, Name, conform};
use clap::{Args, Subcommand};

use super::Source;
use super::output::{self, Failure};
use crate::clock::Clock;
use crate::settings::Coordination;

/// Look at what replicas agree on, and hold a backend against what it must promise.
#[derive(Args)]
pub(super) struct Coord {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Show what is known of a job, a request or a key: what is pending, who holds it, since when, what happens next.
    Explain(Explain),
    /// Hold a backend against every promise; exit status 1 and the name of the first that it breaks.
    Conform(Conform),
}

#[derive(Args)]
struct Explain {
    /// The name of a job, of a request that somebody waits for, or of a key.
    id: String,
    #[command(flatten)]
    source: Source,
}

#[derive(Args)]
struct Conform {
    /// The backend to try [setting: coordination.backend].
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Where Redis is [setting: coordination.dsn, or WARMLINE_COORD_DSN].
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
    /// Chooses names and random histories; another one every time unless given.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    source: Source,
}

/// Keys of the suite begin with this, whatever the settings say: it ends lives of the shared state on purpose.
const CONFORM_PREFIX: &str = "warmline:conform:";

impl Coord {
    pub(super) fn run(self, registry: &Registry) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        match self.what {
            What::Explain(command) => runtime.block_on(command.run(registry)),
            What::Conform(command) => runtime.block_on(command.run(registry)),
        }
    }
}

async fn make(settings: &Coordination, registry: &Registry) -> Result<Arc<dyn Backend>, Failure> {
    let config = settings.config().map_err(Failure::Input)?;
    registry.make(&config).await.map_err(|error| Failure::Input(format!("coordination.{error}")))
}

impl Conform {
    async fn run(self, registry: &Registry) -> Result<(), Failure> {
        let mut settings = self.source.settings()?.coordination;
        let chosen = self.backend.is_some();
        settings.backend = self.backend.unwrap_or(settings.backend);
        if let Some(dsn) = self.dsn {
            (settings.dsn, settings.dsn_file) = (dsn, None);
            if !chosen {
                // Whoever says where Redis is means Redis.
                "redis".clone_into(&mut settings.backend);
            }
        }
        CONFORM_PREFIX.clone_into(&mut settings.key_prefix);
        let backend = make(&settings, registry).await?;
        let unix = Clock::start().unix();
        let seed = self.seed.unwrap_or(unix.as_micros() as u64);
        output::line(&format!("{}, seed {seed}", backend.describe()))?;
        let kept = conform::run(backend, seed, |name| {
            // A broken pipe shows at the next line that matters.
            let _written = output::line(&format!("  kept  {name}"));
        });
        match kept.await {
            Ok(count) => output::line(&format!("all {count} promises are kept")),
            Err(broken) => Err(Failure::Work(broken.to_string())),
        }
    }
}

impl Explain {
    async fn run(self, registry: &Registry) -> Result<(), Failure> {
        let settings = self.source.settings()?.coordination;
        if settings.backend == "memory" {
            return Err(Failure::Input(
                "coordination.backend: found `memory`, which lives in the gateway's process; allowed here is a backend \
                 that can be reached from outside"
                    .to_owned(),
            ));
        }
        let backend = make(&settings, registry).await?;
        let seed = Clock::start().unix().as_nanos() as u64;
        let me = Name::new(format!("explain.{seed:x}")).map_err(|error| Failure::Input(error.to_string()))?;
        let coord = ::coord::Coord::new(backend, me, seed);
        let name = Name::new(self.id.as_str()).map_err(|error| Failure::Input(error.to_string()))?;
        let found = explain(&coord, &name).await.map_err(|error| Failure::Work(error.to_string()))?;
        if found.is_empty() {
            return Err(Failure::Work(format!(
                "nothing is known of `{name}` in {}: it never was, it was cleaned up, or its time is over",
                coord.backend().describe()
            )));
        }
        output::line(found.trim_end())
    }
}

/// What is known of a name, in whatever role.
async fn explain(coord: &::coord::Coord, name: &Name) -> Result<String, Error> {
    let mut out = String::new();
    if let Reply::Job(Some(job)) = coord.ask(&Op::LookAtJob { job: name.clone() }).await? {
        show_job(&mut out, name, &job);
    }
    match coord.ask(&Op::Gate { request: name.clone() }).await {
        Ok(Reply::Pending(pending)) => {
            line(
                &mut out,
                format_args!(
                    "request {name}: {}",
                    if pending.is_empty() { "nothing is pending" } else { "pending are" }
                ),
            );
            for (set, count) in pending {
                line(&mut out, format_args!("  {count} of {set}"));
            }
            if let Reply::Statuses(statuses) = coord.ask(&Op::Statuses { request: name.clone() }).await? {
                for (set, status) in statuses {
                    line(&mut out, format_args!("  {set} said last: {}", String::from_utf8_lossy(&status)));
                }
            }
        }
        Ok(_) | Err(Error::NotFound) => {}
        Err(error) => return Err(error),
    }
    show_key(coord, &mut out, &Key::new(name.as_str())?).await?;
    Ok(out)
}

fn show_job(out: &mut String, name: &Name, job: &Job) {
    let stage = match job.stage {
        Stage::Open if job.sealed => "its parts are out".to_owned(),
        Stage::Open => "its parts are out, and more may come".to_owned(),
        Stage::Ended(End::Complete) => "every part is settled; its handler is to run".to_owned(),
        Stage::Ended(End::Stalled { left }) => {
            format!("given up with {left} part(s) unsettled; its handler is to run")
        }
        Stage::Acknowledged => "over: its handler is done".to_owned(),
    };
    line(out, format_args!("job {name}, epoch {}: {stage}", job.epoch));
    line(
        out,
        format_args!(
            "  {} of {} parts are left; registered {} ago by {}, last moved {} ago",
            job.left,
            job.parts,
            ago(job.age),
            job.owner,
            ago(job.quiet)
        ),
    );
    if !job.pending.is_empty() {
        let names: Vec<&str> = job.pending.iter().map(Name::as_str).collect();
        let more = job.left.saturating_sub(names.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        line(out, format_args!("  pending: {}{more}", names.join(", ")));
    }
    if let Some((holder, fence)) = &job.holder {
        line(
            out,
            format_args!(
                "  handler `{}` is held by {holder} (fence {fence}), attempt {}",
                job.handler, job.attempts
            ),
        );
    }
    let next = match (job.stage, job.due, &job.holder) {
        (Stage::Open, Some(due), _) => format!("in {} it is given up, unless a part is settled", ago(due)),
        (Stage::Open, None, _) => "it waits for its parts for as long as it takes".to_owned(),
        (Stage::Ended(_), Some(due), None) => {
            format!("{} runs handler `{}`; in {} any other may", job.owner, job.handler, ago(due))
        }
        (Stage::Ended(_), Some(due), Some(_)) => {
            format!("in {} any other may take over, unless the lease is renewed", ago(due))
        }
        _ => "nothing".to_owned(),
    };
    line(out, format_args!("  next: {next}"));
}

async fn show_key(coord: &::coord::Coord, out: &mut String, key: &Key) -> Result<(), Error> {
    let name = key.name();
    // One type a key: the wrong questions say so and nothing more.
    let answers = [
        coord.ask(&Op::Get { key: key.clone() }).await,
        coord.ask(&Op::Members { key: key.clone() }).await,
        coord.ask(&Op::List { key: key.clone() }).await,
        coord.ask(&Op::Version { key: key.clone() }).await,
    ];
    let count = coord.ask(&Op::Count { key: key.clone() }).await;
    if let Reply::Holder(Some((holder, fence, left))) = coord.ask(&Op::Holder { key: key.clone() }).await? {
        line(out, format_args!("key {name}: claimed by {holder} (fence {fence}), for {} more", ago(left)));
    }
    if let Ok(Reply::Count(count)) = count
        && count != 0
    {
        line(out, format_args!("key {name}: a counter at {count}"));
    }
    for answer in answers {
        match answer {
            Ok(Reply::Value(Some(value))) => line(
                out,
                format_args!(
                    "key {name}: version {} of a value of {} bytes (fence {})",
                    value.version,
                    value.bytes.len(),
                    value.fence
                ),
            ),
            Ok(Reply::Values(values)) if !values.is_empty() => {
                line(out, format_args!("key {name}: {} entries", values.len()));
            }
            Ok(Reply::Count(version)) if version != 0 => {
                line(out, format_args!("key {name}: version {version} is the newest"));
            }
            Err(error) if error.is_absence() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn ago(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} s", time.as_secs())
    }
}

fn line(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{line}");
}
