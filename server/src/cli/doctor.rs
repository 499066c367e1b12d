//! `warmline doctor`: can all of it be reached, and do the parts agree? Asked before serving, not at night.

mod disk;

use std::net::TcpListener;
use std::time::Duration;

use clap::Args;
use coord::backend::Registry;
use serde::Serialize;
use serde_json::{Value, json};

use super::Source;
use super::client::Client;
use super::output::{self, Failure};
use crate::clock::Clock;
use crate::files::Files;
use crate::prompt::{Kind, Request};
use crate::settings::{self, Settings, keys::first_line};
use crate::tokens::Tokeniser;

/// How long an engine may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Check the settings against the world.
#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    source: Source,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    verdict: Verdict,
    what: String,
    detail: String,
}

#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// It works, but less well than it could.
    Poor,
    Bad,
}

impl Doctor {
    pub(super) fn run(self, registry: &Registry) -> Result<(), Failure> {
        let settings = self.source.settings()?;
        let mut findings = examine(&settings);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        findings.push(runtime.block_on(examine_files(&settings)));
        if settings.coordination.backend != "memory" {
            findings.push(runtime.block_on(examine_coordination(&settings.coordination, registry)));
        }
        let bad = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
        if self.json {
            output::json(&findings)?;
        } else {
            for Finding { verdict, what, detail } in &findings {
                let mark = match verdict {
                    Verdict::Good => "ok  ",
                    Verdict::Poor => "poor",
                    Verdict::Bad => "BAD ",
                };
                output::line(&format!("{mark}  {what}: {detail}"))?;
            }
        }
        match bad {
            0 => Ok(()),
            bad => Err(Failure::Work(format!("{bad} of {} findings are bad", findings.len()))),
        }
    }
}

fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings =
        vec![finding(Verdict::Good, "settings", "they can be understood and make sense together".to_owned())];
    for (key, address) in
        [("gateway.listen", settings.gateway.listen), ("admin.listen", settings.admin.listen)]
    {
        findings.push(match TcpListener::bind(address) {
            Ok(_) => finding(Verdict::Good, key, format!("{address} is free")),
            Err(error) => finding(Verdict::Bad, key, format!("cannot listen on {address}: {error}")),
        });
    }
    for surface in crate::posture::posture(settings) {
        if surface.state == crate::posture::State::Open {
            findings.push(finding(Verdict::Poor, &format!("{} listener", surface.name), surface.advice));
        }
    }
    findings.extend(disk::examine(settings));
    let tokenisers: Vec<(settings::Model, Option<Tokeniser>)> = settings
        .models
        .iter()
        .map(|model| {
            let loaded = Tokeniser::load(model);
            findings.push(match &loaded {
                Ok(Some(_)) => finding(
                    Verdict::Good,
                    &format!("model {}", model.name),
                    "its tokenizer and template load".to_owned(),
                ),
                Ok(None) => finding(
                    Verdict::Poor,
                    &format!("model {}", model.name),
                    "no tokenizer is set: each prompt is tokenised by an engine, over the network".to_owned(),
                ),
                Err(error) => finding(Verdict::Bad, &format!("model {}", model.name), error.to_string()),
            });
            (model.clone(), loaded.ok().flatten())
        })
        .collect();
    if settings.engines.is_empty() {
        findings.push(finding(
            Verdict::Poor,
            "engines",
            "none are set; they can be registered later over the admin API".to_owned(),
        ));
    }
    for engine in &settings.engines {
        examine_engine(engine, &tokenisers, &mut findings);
    }
    findings
}

/// Whether the coordinator answers, runs our scripts, and lets us send notices, in every shard.
async fn examine_coordination(settings: &settings::Coordination, registry: &Registry) -> Finding {
    let what = "coordination";
    let made = match settings.config() {
        Ok(config) => registry.make(&config).await.map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    let backend = match made {
        Ok(backend) => backend,
        Err(why) => return finding(Verdict::Bad, what, why),
    };
    let described = backend.describe();
    let asked = async {
        let me = coord::Name::new(format!("doctor.{}", std::process::id()))?;
        let coord = coord::Coord::new(backend, me, u64::from(std::process::id()));
        for shard in coord::Shard::all() {
            let op = coord::op::Op::Tell { shard, notice: "doctor".into() };
            coord.ask_within(&op, TIMEOUT).await?;
        }
        Ok::<_, coord::Error>(())
    };
    match asked.await {
        Ok(()) => finding(Verdict::Good, what, format!("{described} runs our scripts in all of its shards")),
        Err(error) => finding(Verdict::Bad, what, format!("{described}: {error}")),
    }
}

async fn examine_files(settings: &Settings) -> Finding {
    let what = "files";
    let place = match &settings.files.url {
        Some(url) => url.clone(),
        None => settings.data.dir.display().to_string(),
    };
    if settings.files.url.is_none() && !settings.data.dir.exists() {
        return finding(Verdict::Good, what, format!("{place} is made with the first file"));
    }
    // Opened here: its connections live in this runtime.
    let proved = match Files::open(settings, Clock::start()) {
        Ok(files) => files.prove().await,
        Err(why) => Err(why),
    };
    match proved {
        Ok(()) => finding(
            Verdict::Good,
            what,
            format!("{place} takes, lists, gives and deletes, and gives no name twice"),
        ),
        Err(why) => finding(Verdict::Bad, what, why),
    }
}

fn examine_engine(
    engine: &settings::Engine,
    tokenisers: &[(settings::Model, Option<Tokeniser>)],
    findings: &mut Vec<Finding>,
) {
    let what = |part: &str| format!("engine {} {part}", engine.name);
    let key = match engine.key_file.as_deref().map(|path| first_line("key_file", path)).transpose() {
        Ok(key) => key,
        // The gateway would not start with it either.
        Err(why) => return findings.push(finding(Verdict::Bad, &what("key"), why)),
    };
    let client = Client::new(&engine.url, key, TIMEOUT);
    let models: Value = match client.get("/v1/models").and_then(|answer| answer.parse()) {
        Ok(models) => models,
        Err(why) => {
            findings.push(finding(Verdict::Bad, &what("API"), format!("{}/v1/models: {why}", engine.url)));
            return;
        }
    };
    let ids: Vec<&str> =
        models["data"].as_array().into_iter().flatten().filter_map(|model| model["id"].as_str()).collect();
    findings.push(finding(Verdict::Good, &what("API"), format!("it serves {}", ids.join(", "))));
    examine_events(engine, &client, &what("events"), findings);
    for (model, tokeniser) in tokenisers {
        if let (Some(tokeniser), true) = (tokeniser, ids.contains(&model.name.as_str())) {
            findings.push(compare(&client, &model.name, tokeniser, &what("tokens")));
        }
    }
}

fn examine_events(engine: &settings::Engine, client: &Client, what: &str, findings: &mut Vec<Finding>) {
    let Some(events) = &engine.events else {
        findings.push(finding(
            Verdict::Poor,
            what,
            "none are set: it is routed by what was sent to it, a guess".to_owned(),
        ));
        return;
    };
    if events != "auto" {
        let host = events.strip_prefix("tcp://").filter(|host| !host.starts_with('*'));
        let open = host.map(|host| {
            std::net::ToSocketAddrs::to_socket_addrs(host).ok().and_then(|mut found| found.next())
        });
        findings.push(match open {
            Some(Some(address)) => match std::net::TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(_) => finding(Verdict::Good, what, format!("{events} can be reached")),
                Err(error) => finding(
                    Verdict::Bad,
                    what,
                    format!("{events}: {error}; is the engine started with KV events?"),
                ),
            },
            Some(None) => finding(Verdict::Bad, what, format!("{events}: the name has no address")),
            None => finding(
                Verdict::Good,
                what,
                format!("{events}: the engine connects to us; that shows when it does"),
            ),
        });
        return;
    }
    let sources: Result<Value, String> = client.get("/kv_event_sources").and_then(|answer| answer.parse());
    findings.push(match sources {
        Err(why) => finding(
            Verdict::Bad,
            what,
            format!("/kv_event_sources: {why}; set `events` to the endpoint itself"),
        ),
        Ok(sources) => match (sources["0"]["endpoint"].as_str(), sources["0"]["replay_endpoint"].as_str()) {
            (Some(endpoint), Some(replay)) => {
                finding(Verdict::Good, what, format!("at {endpoint}, replay at {replay}"))
            }
            (Some(endpoint), None) => finding(
                Verdict::Poor,
                what,
                format!("at {endpoint}, without replay: a lost event leaves its view stale"),
            ),
            (None, _) => finding(
                Verdict::Bad,
                what,
                "the engine publishes none: start it with --kv-events-config".to_owned(),
            ),
        },
    });
}

/// Whether our tokens and the engine's are the same for a chat.
fn compare(client: &Client, model: &str, tokeniser: &Tokeniser, what: &str) -> Finding {
    let body = json!({"model": model, "messages": [
        {"role": "system", "content": "You are a doctor."},
        {"role": "user", "content": "Do our tokens agree?\nÄ 你好 🙂"},
    ]});
    let text = body.to_string();
    let ours = Request::read(Kind::Chat, text.as_bytes()).map_err(|error| error.to_string());
    let ours = ours.and_then(|request| tokeniser.tokens(&request.prompt).map_err(|error| error.to_string()));
    let ours = match ours {
        Ok(ours) => ours,
        Err(why) => return finding(Verdict::Poor, what, format!("a chat cannot be tokenised here: {why}")),
    };
    let theirs = client.post("/tokenize", text.as_bytes()).and_then(|answer| answer.parse::<Value>());
    let theirs: Vec<u32> = match theirs {
        Ok(theirs) => theirs["tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|id| id.as_u64().map(|id| id as u32))
            .collect(),
        Err(why) => return finding(Verdict::Poor, what, format!("its /tokenize cannot be asked: {why}")),
    };
    if *ours == *theirs {
        return finding(
            Verdict::Good,
            what,
            format!("the same {} ids as ours for a chat with {model}", ours.len()),
        );
    }
    let at = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let detail = format!(
        "{model}: token {at} differs, ours {:?}, its own {:?}; {}",
        ours.get(at),
        theirs.get(at),
        tokeniser.locate(&ours, at)
    );
    finding(Verdict::Bad, what, detail)
}

fn finding(verdict: Verdict, what: &str, detail: String) -> Finding {
    Finding { verdict, what: what.to_owned(), detail }
}
