//! The task that owns an engine: it hands jobs in, lets time pass, and passes on what happened.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use events::codec::{Batch, Content, Extras, Said, Stored};
use events::stock::Publisher;
use tokio::sync::{mpsc, oneshot};

use super::behind::{Behind, Counts, Errands};
use super::{clock, unix};
use crate::engine::{Engine, Job, Output, Shape, Told, What};

/// One more token of a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tick {
    pub(super) count: usize,
    pub(super) cached: usize,
    /// Of these, loaded from the tier behind the cache.
    pub(super) loaded: usize,
    pub(super) done: bool,
}

/// A way to the engine.
#[derive(Clone)]
pub(super) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    pub(super) gauges: Arc<Gauges>,
}

/// What `/metrics` tells.
#[derive(Default)]
pub(super) struct Gauges {
    pub(super) running: AtomicUsize,
    pub(super) waiting: AtomicUsize,
    pub(super) used_blocks: AtomicUsize,
    pub(super) finished: AtomicUsize,
    pub(super) aborted: AtomicUsize,
    pub(super) prompt_tokens: AtomicUsize,
    pub(super) cached_tokens: AtomicUsize,
    pub(super) loading: AtomicUsize,
    /// What was done with the tier behind the cache.
    pub(super) behind: Arc<Counts>,
    /// Events are swallowed.
    pub(super) drop_events: AtomicBool,
}

/// A job that is under way; dropping it ends the job at once.
pub(super) struct Ticks {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
    from: mpsc::UnboundedReceiver<Tick>,
}

pub(super) enum Command {
    Submit(Job, mpsc::UnboundedSender<Tick>),
    Abort(u64),
    /// So many blocks that a job wants are there.
    Found(u64, usize),
    /// So many have arrived.
    Loaded(u64, usize),
    Reset(oneshot::Sender<bool>),
}

pub(super) fn start(
    shape: Shape,
    speed: f64,
    publisher: Option<Publisher>,
    behind: Option<Behind>,
) -> Handle {
    // Unbounded as an engine's own input queue is; whoever tests with it bounds what it sends.
    let (commands, inbox) = mpsc::unbounded_channel();
    let gauges = Arc::new(Gauges::default());
    let errand = |behind| Errands::start(behind, shape.block_size, commands.clone(), gauges.behind.clone());
    let errands = behind.map(errand);
    let (engine, jobs) = (Engine::new(shape), HashMap::new());
    let actor = Actor { engine, speed, publisher, jobs, gauges: gauges.clone(), errands };
    tokio::spawn(actor.run(inbox));
    Handle { commands, gauges }
}

// === impl Handle ===

impl Handle {
    pub(super) fn submit(&self, job: Job) -> Ticks {
        let (to, ticks) = mpsc::unbounded_channel();
        let id = job.id;
        // The engine outlives its connections.
        let _ = self.commands.send(Command::Submit(job, to));
        Ticks { id, commands: self.commands.clone(), from: ticks }
    }

    pub(super) async fn reset(&self) -> bool {
        let (answer, reset) = oneshot::channel();
        let _ = self.commands.send(Command::Reset(answer));
        reset.await.unwrap_or(false)
    }
}

impl Ticks {
    pub(super) async fn next(&mut self) -> Option<Tick> {
        self.from.recv().await
    }

    pub(super) fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Tick>> {
        self.from.poll_recv(context)
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Abort(self.id));
    }
}

// === The task ===

struct Actor {
    engine: Engine,
    speed: f64,
    publisher: Option<Publisher>,
    jobs: HashMap<u64, mpsc::UnboundedSender<Tick>>,
    gauges: Arc<Gauges>,
    errands: Option<Errands>,
}

impl Actor {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let origin = clock();
        let mut out = Vec::new();
        loop {
            let now = origin.elapsed().mul_f64(self.speed);
            self.engine.advance(now, &mut out);
            self.deliver(&mut out);
            let pause = self.engine.next_at().map(|at| at.saturating_sub(now).div_f64(self.speed));
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.command(command, origin.elapsed().mul_f64(self.speed)),
                    None => return,
                },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
            self.measure();
        }
    }

    fn command(&mut self, command: Command, now: Duration) {
        match command {
            Command::Submit(job, to) => {
                self.jobs.insert(job.id, to);
                self.engine.submit(job, now);
            }
            Command::Abort(id) => {
                self.jobs.remove(&id);
                if let Some(errands) = &mut self.errands {
                    errands.end(id);
                }
                if self.engine.abort(id) {
                    self.gauges.aborted.fetch_add(1, Ordering::Relaxed);
                }
            }
            Command::Found(job, blocks) => drop(self.engine.found(job, blocks, now)),
            Command::Loaded(job, blocks) => drop(self.engine.loaded(job, blocks, now)),
            Command::Reset(answer) => drop(answer.send(self.engine.reset())),
        }
    }

    /// Tokens go to their jobs; the changes of one step go out as one batch.
    fn deliver(&mut self, out: &mut Vec<Output>) {
        let mut said = Vec::new();
        let mut at = None;
        for output in out.drain(..) {
            if at != Some(output.at) {
                self.publish(&mut said);
                at = Some(output.at);
            }
            match output.what {
                What::Told(told) => said.push(self.say(told)),
                What::Wants { job, text, first, blocks } => {
                    if let Some(errands) = &mut self.errands {
                        errands.load(job, &text, first, blocks);
                    }
                }
                What::Stops { job } => {
                    if let Some(errands) = &mut self.errands {
                        errands.stopped(job);
                    }
                }
                What::Offloads(blocks) => {
                    if let Some(errands) = &self.errands {
                        errands.offload(blocks);
                    }
                }
                What::Token { job, count, cached, loaded, done } => {
                    if count == 1 {
                        self.gauges.behind.loaded_tokens.fetch_add(loaded, Ordering::Relaxed);
                        if let Some(errands) = &mut self.errands {
                            errands.end(job);
                        }
                    }
                    if let Some(to) = self.jobs.get(&job) {
                        // A listener that has gone aborts its job by itself.
                        let _ = to.send(Tick { count, cached, loaded, done });
                    }
                    if done {
                        self.jobs.remove(&job);
                        self.gauges.finished.fetch_add(1, Ordering::Relaxed);
                        self.gauges.cached_tokens.fetch_add(cached, Ordering::Relaxed);
                    }
                }
            }
        }
        self.publish(&mut said);
    }

    fn publish(&self, said: &mut Vec<Said>) {
        let said = std::mem::take(said);
        let Some(publisher) = self.publisher.as_ref().filter(|_| !said.is_empty()) else { return };
        if !self.gauges.drop_events.load(Ordering::Relaxed) {
            publisher.publish(&Batch {
                timestamp: unix().as_secs_f64(),
                said,
                rank: Some(0),
                epoch: None,
                state: None,
            });
        }
    }

    /// A change in the words of a stock engine.
    fn say(&self, told: Told) -> Said {
        let medium = Some("GPU".to_owned());
        match told {
            Told::Stored { parent, hashes, first, text } => {
                let size = self.engine.shape().block_size;
                let tokens = text.tokens[first * size..(first + hashes.len()) * size].to_vec();
                let mut extras = vec![Extras::default(); hashes.len()];
                if let Some(lora) = &text.lora {
                    for extra in &mut extras {
                        extra.words.push(lora.clone());
                    }
                }
                if let (Some(salt), 0) = (&text.salt, first) {
                    extras[0].words.push(salt.clone());
                }
                Said::Stored(Box::new(Stored {
                    hashes,
                    parent,
                    content: Content::Tokens(tokens),
                    block_size: size as u32,
                    lora_name: text.lora.clone(),
                    cache_salt: None,
                    extras,
                    medium,
                    group: Some(0),
                    kind: Some("full_attention".to_owned()),
                }))
            }
            Told::Removed(hash) => Said::Removed { hashes: vec![hash], medium, group: Some(0) },
            Told::Cleared => Said::Cleared,
        }
    }

    fn measure(&self) {
        let (running, waiting) = self.engine.load();
        let used = self.engine.cache().size() - self.engine.cache().available();
        self.gauges.loading.store(self.engine.loading(), Ordering::Relaxed);
        self.gauges.running.store(running, Ordering::Relaxed);
        self.gauges.waiting.store(waiting, Ordering::Relaxed);
        self.gauges.used_blocks.store(used, Ordering::Relaxed);
    }
}
