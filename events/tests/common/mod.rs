//! What the socket tests share: a peer on libzmq, a sink that keeps names, a follower that is waited for.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blocks::{Event, View, Worker};
use events::follow::{Follower, Settings, Source, Status};
use events::sink::{Sink, UnknownParent};
use serde_json::{Value, json};

pub(crate) const WORKER: Worker = Worker { instance: 7, rank: 0 };

// === A peer on libzmq ===

pub(crate) struct Peer {
    pub(crate) child: Child,
    pub(crate) answers: BufReader<std::process::ChildStdout>,
    pub(crate) hello: Value,
}

impl Peer {
    pub(crate) fn start(settings: &Value) -> Self {
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/venv/bin/python");
        assert!(std::path::Path::new(python).exists(), "no {python}: run tests/setup.sh first");
        let mut child = Command::new(python)
            .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer.py"), &settings.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut peer = Self { child, answers, hello: Value::Null };
        peer.hello = peer.answer();
        peer
    }

    pub(crate) fn engine(live: &str, replay: &str, framing: &str, connect: bool, ring_size: usize) -> Self {
        Self::start(&json!({
            "role": "engine", "live": live, "replay": replay, "framing": framing,
            "connect": connect, "ring_size": ring_size,
        }))
    }

    pub(crate) fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("the peer answers in JSON")
    }

    pub(crate) fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.child.stdin.as_mut().unwrap(), "{command}").unwrap();
        self.answer()
    }

    /// Publishes one stored block in the map form of vLLM; `drop` keeps it from the live stream.
    pub(crate) fn store(&mut self, parent: Option<u64>, hash: u64, drop: bool) {
        let event = json!({
            "type": "BlockStored", "block_hashes": [hash], "parent_block_hash": parent, "token_ids": [hash, 1],
            "block_size": 2, "lora_id": null, "medium": "GPU", "lora_name": null,
        });
        self.ask(&json!({ "events": [event], "drop": drop }));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may already have been killed by its test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === A sink ===

#[derive(Default)]
pub(crate) struct Held(pub(crate) Mutex<(BTreeSet<u64>, Option<View>)>);

pub(crate) fn take(held: &mut BTreeSet<u64>, event: &Event) -> Result<(), UnknownParent> {
    match event {
        Event::Stored(stored) if stored.parent.is_some_and(|parent| !held.contains(&parent.0)) => {
            Err(UnknownParent)
        }
        Event::Stored(stored) => {
            held.extend(stored.blocks.iter().map(|block| block.engine.0));
            Ok(())
        }
        Event::Removed { blocks, .. } => {
            held.retain(|hash| blocks.iter().all(|block| block.0 != *hash));
            Ok(())
        }
        Event::Cleared => {
            held.clear();
            Ok(())
        }
    }
}

impl Sink for Held {
    fn apply(&self, _: Worker, event: &Event) -> Result<(), UnknownParent> {
        take(&mut self.0.lock().unwrap().0, event)
    }

    fn replace(&self, _: Worker, events: &[Event]) {
        let mut held = BTreeSet::new();
        for event in events {
            let _ = take(&mut held, event);
        }
        self.0.lock().unwrap().0 = held;
    }

    fn forget(&self, _: Worker) {
        *self.0.lock().unwrap() = (BTreeSet::new(), None);
    }

    fn set_view(&self, _: Worker, view: View) {
        self.0.lock().unwrap().1 = Some(view);
    }
}

pub(crate) struct Followed {
    pub(crate) follower: Follower,
    pub(crate) held: Arc<Held>,
}

impl Followed {
    pub(crate) fn start(endpoint: &str, replay: Option<&str>, bind: bool, topic: &str) -> Self {
        let held = Arc::new(Held::default());
        let source = Source {
            worker: WORKER,
            endpoint: endpoint.to_owned(),
            bind,
            replay: replay.map(str::to_owned),
            topic: topic.to_owned(),
        };
        let follower = Follower::start(source, held.clone(), Settings::default());
        Self { follower, held }
    }

    /// Waits, bounded, until the view is this one and holds exactly these blocks.
    pub(crate) async fn until(&self, view: View, blocks: impl IntoIterator<Item = u64>) -> Status {
        let wanted = (blocks.into_iter().collect::<BTreeSet<_>>(), Some(view));
        let Some(status) = self.within(3_000, &wanted).await else {
            panic!("wanted {wanted:?}, have {:?}: {:?}", self.held.0.lock().unwrap(), self.follower.status());
        };
        status
    }

    /// The same, with so many looks at most.
    pub(crate) async fn within(
        &self,
        looks: usize,
        wanted: &(BTreeSet<u64>, Option<View>),
    ) -> Option<Status> {
        for _ in 0..looks {
            let there = *self.held.0.lock().unwrap() == *wanted;
            // The status is written a moment after the view.
            let status = self.follower.status();
            if there && Some(status.view) == wanted.1 {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }
}

pub(crate) fn of<'v>(peer: &'v Peer, key: &str) -> &'v str {
    peer.hello[key].as_str().unwrap()
}
