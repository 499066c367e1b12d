//! `warmline events`: look at any engine's stream, keep it in a file, and play it back.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use events::codec::{self, Batch, Content, Said};
use events::stock::{Publisher, Settings};
use events::tap::{Message, Sound, Tap};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::output::{self, Failure};
use crate::endpoint;

/// An engine's event stream: look at it, keep it, play it back.
#[derive(Args)]
pub(super) struct Events {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print what an engine says, a line an event; gaps and rates go to stderr.
    Tap(Listen),
    /// Write what an engine says into a file, frame by frame.
    Record {
        #[command(flatten)]
        listen: Listen,
        /// The file; a line a message.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Publish what a file holds, as a stock engine would, replay included.
    Replay {
        /// What `record` wrote.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Where subscribers connect.
        #[arg(long, default_value = "tcp://127.0.0.1:5557", value_name = "ENDPOINT")]
        listen: String,
        /// Where replays are asked for.
        #[arg(long, default_value = "tcp://127.0.0.1:5558", value_name = "ENDPOINT")]
        replay: String,
        /// How much faster than it was recorded; 0 is as fast as possible.
        #[arg(long, default_value_t = 1.0)]
        speed: f64,
        /// Stay until told otherwise, so that replays can still be asked for.
        #[arg(long)]
        stay: bool,
    },
}

#[derive(Args)]
struct Listen {
    /// Where the engine's events are, such as tcp://10.0.0.5:5557.
    engine: String,
    /// Only topics that begin so.
    #[arg(long, default_value = "")]
    topic: String,
    /// Listen for an engine that connects to us.
    #[arg(long)]
    bind: bool,
    /// End after so many messages.
    #[arg(long, value_name = "MESSAGES")]
    count: Option<u64>,
    /// Print each event as JSON.
    #[arg(long)]
    json: bool,
    /// Print payloads as they came, in hex, and decode nothing.
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

/// One message in a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Microseconds since the first.
    at_us: u64,
    topic: String,
    sequence: Option<u64>,
    /// In hex.
    payload: String,
}

/// What has been heard so far.
struct Tally {
    begun: Instant,
    messages: u64,
    events: u64,
    bytes: u64,
    gaps: u64,
    undecodable: u64,
    last: Option<u64>,
}

impl Events {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match self.what {
                What::Tap(listen) => {
                    let print = |message: &Message, _: Duration| listen.print(message);
                    listen.listen(print).await
                }
                What::Record { listen, to } => {
                    let file = std::fs::File::create(&to)
                        .map_err(|error| Failure::Input(format!("--to {}: {error}", to.display())))?;
                    let mut file = std::io::BufWriter::new(file);
                    let mut keep = |message: &Message, at: Duration| {
                        let kept = Kept {
                            at_us: at.as_micros() as u64,
                            topic: String::from_utf8_lossy(&message.topic).into_owned(),
                            sequence: message.sequence,
                            payload: hex(&message.payload),
                        };
                        let line =
                            serde_json::to_string(&kept).map_err(|error| Failure::Work(error.to_string()))?;
                        // A recording that is cut short keeps every whole line.
                        writeln!(file, "{line}").and_then(|()| file.flush()).map_err(Failure::from)
                    };
                    listen.listen(&mut keep).await
                }
                What::Replay { from, listen, replay, speed, stay } => {
                    play(&from, listen, replay, speed, stay).await
                }
            }
        })
    }
}

impl Listen {
    async fn listen(
        &self,
        mut each: impl FnMut(&Message, Duration) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        endpoint::check(&self.engine).map_err(|why| Failure::Input(format!("ENGINE: {why}")))?;
        let mut tap = Tap::new(&self.engine, &self.topic, self.bind);
        let mut tally = Tally::new();
        let mut first = None;
        let mut lost = false;
        let signal = super::serve::signal();
        tokio::pin!(signal);
        while self.count.is_none_or(|count| tally.messages < count) {
            let sound = tokio::select! {
                () = &mut signal => break,
                sound = tap.next() => sound,
            };
            match sound {
                Sound::Connected => {
                    lost = false;
                    eprintln!("listening to {}", self.engine);
                }
                Sound::Lost(trouble) => {
                    if !std::mem::replace(&mut lost, true) {
                        eprintln!("{}: {trouble}; trying again", self.engine);
                    }
                }
                Sound::Message(message) => {
                    let now = now();
                    let at = now.saturating_duration_since(*first.get_or_insert(now));
                    tally.hear(&message);
                    each(&message, at)?;
                }
            }
        }
        eprintln!("{}", tally.summary());
        Ok(())
    }

    fn print(&self, message: &Message) -> Result<(), Failure> {
        let sequence = message.sequence.map_or_else(|| "-".to_owned(), |sequence| sequence.to_string());
        if self.raw {
            let topic = String::from_utf8_lossy(&message.topic);
            return output::line(&format!("{sequence} {topic} {}", hex(&message.payload)));
        }
        let batch = match codec::decode(&message.payload) {
            Ok(batch) => batch,
            Err(error) => {
                return if self.json {
                    output::line(
                        &json!({"sequence": message.sequence, "error": error.to_string()}).to_string(),
                    )
                } else {
                    output::line(&format!("{sequence:>8}  cannot be read: {error}"))
                };
            }
        };
        if batch.said.is_empty() {
            let life = batch.epoch.map_or_else(String::new, |epoch| format!(" of life {epoch:016x}"));
            return if self.json {
                let state = batch.state.map(blocks::View::name);
                output::line(&json!({"sequence": message.sequence, "type": "heartbeat", "epoch": batch.epoch, "state": state}).to_string())
            } else {
                output::line(&format!("{sequence:>8}  heartbeat{life}"))
            };
        }
        batch.said.iter().try_for_each(|said| {
            if self.json {
                output::line(&as_json(message.sequence, &batch, said).to_string())
            } else {
                output::line(&format!("{sequence:>8}  {}", in_words(said)))
            }
        })
    }
}

fn as_json(sequence: Option<u64>, batch: &Batch, said: &Said) -> serde_json::Value {
    // Hashes as text: other programs' numbers end at 2^53.
    let names =
        |hashes: &[blocks::EngineHash]| hashes.iter().map(|hash| hash.0.to_string()).collect::<Vec<_>>();
    let mut value = match said {
        Said::Stored(stored) => json!({
            "type": "BlockStored",
            "block_hashes": names(&stored.hashes),
            "parent_block_hash": stored.parent.map(|parent| parent.0.to_string()),
            "block_size": stored.block_size,
            "medium": stored.medium,
            "lora_name": stored.lora_name,
            "group_idx": stored.group,
        }),
        Said::Removed { hashes, medium, group } => {
            json!({"type": "BlockRemoved", "block_hashes": names(hashes), "medium": medium, "group_idx": group})
        }
        Said::Cleared => json!({"type": "AllBlocksCleared"}),
        Said::Unknown => json!({"type": "unknown"}),
    };
    if let Said::Stored(stored) = said {
        match &stored.content {
            Content::Tokens(ids) | Content::Pairs(ids) => value["token_ids"] = json!(ids),
            Content::Hashes(hashes) => {
                value["tokens_hashes"] =
                    json!(hashes.iter().map(|hash| hash.0.to_string()).collect::<Vec<_>>());
            }
        }
    }
    value["sequence"] = json!(sequence);
    value["timestamp"] = json!(batch.timestamp);
    value["rank"] = json!(batch.rank);
    value
}

fn in_words(said: &Said) -> String {
    match said {
        Said::Stored(stored) => {
            let what = match &stored.content {
                Content::Tokens(ids) | Content::Pairs(ids) => format!("{} tokens", ids.len()),
                Content::Hashes(_) => "as hashes".to_owned(),
            };
            let behind = stored
                .parent
                .map_or_else(|| "at the beginning".to_owned(), |parent| format!("behind {:016x}", parent.0));
            let first = stored.hashes.first().map_or(0, |hash| hash.0);
            let medium = stored.medium.as_deref().unwrap_or("GPU");
            format!(
                "stored   {:>5} blocks on {medium}, {what}, from {first:016x} {behind}",
                stored.hashes.len()
            )
        }
        Said::Removed { hashes, medium, .. } => {
            let first = hashes.first().map_or(0, |hash| hash.0);
            format!(
                "removed  {:>5} blocks on {}, from {first:016x}",
                hashes.len(),
                medium.as_deref().unwrap_or("GPU")
            )
        }
        Said::Cleared => "cleared everything".to_owned(),
        Said::Unknown => "said something that this version does not know".to_owned(),
    }
}

async fn play(
    from: &std::path::Path,
    listen: String,
    replay: String,
    speed: f64,
    stay: bool,
) -> Result<(), Failure> {
    if !(speed.is_finite() && speed >= 0.0) {
        return Err(Failure::Input(format!("--speed: found {speed}; allowed is 0 and more")));
    }
    let path = from.display();
    let file =
        std::fs::File::open(from).map_err(|error| Failure::Input(format!("--from {path}: {error}")))?;
    let mut kept = Vec::new();
    for (number, line) in std::io::BufReader::new(file).lines().enumerate() {
        let wrong = |why: String| Failure::Input(format!("--from {path}: line {}: {why}", number + 1));
        let line = line.map_err(|error| wrong(error.to_string()))?;
        let one: Kept = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        let payload = unhex(&one.payload).ok_or_else(|| wrong("`payload` is not hex".to_owned()))?;
        kept.push((Duration::from_micros(one.at_us), one.topic, payload));
    }
    let topic = kept.first().map(|(_, topic, _)| topic.clone()).unwrap_or_default();
    let settings = Settings { endpoint: listen, replay: Some(replay), topic, buffer_steps: kept.len() };
    let publisher = Publisher::start(settings).await.map_err(Failure::Work)?;
    let asked = publisher.replay_endpoint().unwrap_or_default();
    eprintln!("{} messages of {path} at {}, replay at {asked}", kept.len(), publisher.endpoint());
    let begun = now();
    for (at, _, payload) in kept {
        if speed > 0.0 {
            tokio::time::sleep(at.div_f64(speed).saturating_sub(begun.elapsed())).await;
        }
        publisher.publish_raw(payload.into());
    }
    eprintln!("all has been said, in {:.1} s", begun.elapsed().as_secs_f64());
    if stay {
        super::serve::signal().await;
    } else {
        // What was said last is still on its way.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(pair).collect())?
}

#[expect(clippy::disallowed_methods, reason = "what is shown is when it came")]
fn now() -> Instant {
    Instant::now()
}

// === impl Tally ===

impl Tally {
    fn new() -> Self {
        Self { begun: now(), messages: 0, events: 0, bytes: 0, gaps: 0, undecodable: 0, last: None }
    }

    fn hear(&mut self, message: &Message) {
        self.messages += 1;
        self.bytes += message.payload.len() as u64;
        match codec::decode(&message.payload) {
            Ok(batch) => self.events += batch.said.len() as u64,
            Err(_) => self.undecodable += 1,
        }
        if let (Some(last), Some(sequence)) = (self.last, message.sequence)
            && sequence != last + 1
        {
            self.gaps += 1;
            let what = if sequence > last { "a gap" } else { "another life, or an echo" };
            eprintln!("{what}: {sequence} after {last}");
        }
        self.last = message.sequence.or(self.last);
    }

    fn summary(&self) -> String {
        let seconds = self.begun.elapsed().as_secs_f64().max(1e-3);
        format!(
            "{} messages, {} events, {} bytes in {seconds:.1} s: {:.1} messages/s; {} gaps, {} that could not be read",
            self.messages,
            self.events,
            self.bytes,
            self.messages as f64 / seconds,
            self.gaps,
            self.undecodable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_back_and_what_is_not_hex_is_not() {
        assert_eq!(unhex(&hex(&[0, 1, 0xab, 0xff])), Some(vec![0, 1, 0xab, 0xff]));
        assert_eq!((unhex("abc"), unhex("zz"), unhex("é")), (None, None, None));
    }
}
