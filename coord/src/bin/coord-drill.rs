//! A process that the fault tests kill: it registers a job, delivers its parts in an order of its own and runs its handler.
//!
//! `coord-drill DSN NAME PARTS HANDLER_MS [POINT:NTH]`, and then a line on its input for each thing to do: `open`
//! registers the job or joins it, `deliver` settles every part. It ends with its input, and says on its output what it
//! has done. Whatever has no answer is done again, as whoever has a durable queue would.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord::backend::{Config, Registry};
use coord::jobs::{Handler, Jobs, Options};
use coord::kit::point::Points;
use coord::op::{Effect, Opened, Settled, Task};
use coord::{Coord, Error, Key, Name};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Settled at the same time.
const TOGETHER: usize = 4;

struct Drill {
    coord: Coord,
    jobs: Jobs,
    job: Name,
    parts: Vec<Name>,
}

/// Says that it runs, takes its time, and counts itself in one step with its acknowledgement.
struct Counts {
    effect: Key,
    time: Duration,
}

impl Handler for Counts {
    fn finish<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Vec<Effect>, String>> {
        Box::pin(async move {
            say(&format!("handling {}", task.fence));
            sleep(self.time).await;
            Ok(vec![Effect::Add { key: self.effect.clone(), by: 1 }])
        })
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(drill(&words)),
        Err(error) => Err(error.to_string()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coord-drill: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn drill(words: &[String]) -> Result<(), String> {
    let drill = Drill::begin(words).await?;
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        match order.as_str() {
            "open" => drill.open().await?,
            "deliver" => drill.deliver().await?,
            "mourn" => drill.is_over().await,
            other => return Err(format!("found the order {other:?}; known are open, deliver and mourn")),
        }
        say(&format!("done {order}"));
    }
    Ok(())
}

impl Drill {
    async fn begin(words: &[String]) -> Result<Self, String> {
        let [dsn, who, parts, time, point @ ..] = words else {
            return Err("say DSN NAME PARTS HANDLER_MS [POINT:NTH]".to_owned());
        };
        let number = |word: &String| word.parse::<u64>().map_err(|error| format!("{word}: {error}"));
        let points = point.first().map_or(Ok(Points::none()), |point| Points::parse(point))?;
        let config = Config { backend: "redis".to_owned(), dsn: dsn.clone(), ..Config::default() };
        let backend = Registry::new().make(&config).await.map_err(said)?;
        let instance = Name::new(who.as_str()).map_err(said)?;
        let coord = Coord::new(backend, instance, u64::from(std::process::id()));
        let job = Name::new("job").map_err(said)?;
        let effect = Key::beside(&job, "effect").map_err(said)?;
        let handler = Arc::new(Counts { effect, time: Duration::from_millis(number(time)?) });
        let options = Options {
            lease: Duration::from_secs(3),
            poll: Duration::from_millis(200),
            sweep: Duration::from_millis(500),
            points,
            ..Options::default()
        };
        let jobs = Jobs::begin(&coord, vec![(Name::new("counts").map_err(said)?, handler)], options);
        let parts = (0..number(parts)?).map(|part| Name::new(format!("part-{part}")).map_err(said));
        Ok(Self { coord, jobs, job, parts: parts.collect::<Result<_, _>>()? })
    }

    async fn open(&self) -> Result<(), String> {
        let handler = Name::new("counts").map_err(said)?;
        loop {
            match self.jobs.open(&self.job, 1, &handler, Bytes::new(), &self.parts, true).await {
                Ok(Opened::New(_) | Opened::Joined(_) | Opened::Over) => return Ok(()),
                Err(error) if error.is_absence() => {}
                other => return Err(format!("a job was opened as {other:?}")),
            }
        }
    }

    async fn deliver(&self) -> Result<(), String> {
        let mut parts = self.parts.clone();
        for last in (1..parts.len()).rev() {
            parts.swap(last, (self.coord.chance().next() % (last as u64 + 1)) as usize);
        }
        let settled = futures::stream::iter(parts).map(|part| self.settle(part)).buffer_unordered(TOGETHER);
        settled.fold(Ok(()), |all, one: Result<(), String>| std::future::ready(all.and(one))).await
    }

    async fn settle(&self, part: Name) -> Result<(), String> {
        loop {
            match self.jobs.settle(&self.job, 1, &part).await {
                Ok(Settled::Accepted { .. } | Settled::Last | Settled::Duplicate) => return Ok(()),
                Err(error) if error.is_absence() => {}
                other => return Err(format!("{part} was settled as {other:?}")),
            }
        }
    }

    /// Until this process has seen the end of its job.
    async fn is_over(&self) {
        while self.jobs.mine() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The lines of the input; a thread reads them, since input does not wait politely.
fn orders() -> mpsc::UnboundedReceiver<String> {
    let (sender, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    orders
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    // Whoever listened may be gone: then so are we, soon.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn said(error: Error) -> String {
    error.to_string()
}
