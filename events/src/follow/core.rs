//! The state machine of one followed stream: messages and time in, changes of a view and wishes for replay out.
//!
//! It does no I/O and reads no clock.
//!
//! Invariants:
//! - E1: while the view is `Exact`, every batch up to `last` has been applied, in order, of one life of the engine.
//! - E2: `held` is only filled while a replay is under way, in ascending order, and within its bounds.
//! - E3: a replay is under way if and only if there is a deadline for it.
//! - E4: a view that is in doubt is never `Exact`, and no splice makes it so.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use blocks::{EngineHash, Event, View, Worker};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::codec;
use crate::publish::snapshot::{Header, SNAPSHOT};
use crate::sink::Sink;
use crate::translate::{self, Translator};

/// The state machine.
pub struct Core {
    worker: Worker,
    sink: Arc<dyn Sink>,
    settings: Settings,
    translator: Translator,
    phase: Phase,
    /// How far this end is in step; what others are told is no better than `source`.
    view: View,
    source: View,
    /// The last sequence that was applied.
    last: Option<u64>,
    /// What the batches up to `last` were, newest at the back: tells a duplicate from another life.
    seen: VecDeque<u64>,
    /// The last sequence that was heard live since the connection was made.
    heard: Option<u64>,
    heard_at: Duration,
    /// The life of a publisher that says which it is. Only such a one can be silent for too long.
    epoch: Option<u64>,
    /// What the newest snapshot contains and the live stream may still bring.
    echo: Option<Echo>,
    /// Blocks that the newest snapshot lacks together with all below them: if one comes back, the view is incomplete.
    broken: HashSet<EngineHash>,
    /// A batch up to `last` could not be applied whole, so that what follows cannot mend the view: only all of it, told
    /// anew, can.
    doubted: bool,
    repair: Option<Repair>,
    /// Live batches that came while a replay was under way.
    held: VecDeque<(u64, Bytes)>,
    held_bytes: usize,
    attempts: u32,
    retry_at: Option<Duration>,
    /// When to ask once more after a connection was made: a subscription takes effect a little after it was sent, and
    /// what an engine says in between is in neither the replay nor the live stream.
    confirm_at: Option<Duration>,
    random: u64,
    counters: Counters,
}

/// What can be had from the source, and how patiently.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether there is a replay socket.
    pub replay: bool,
    /// How long a replay may be silent.
    pub replay_timeout: Duration,
    /// The pause after the first failed replay; it doubles, with jitter, up to `retry_max`.
    pub retry_min: Duration,
    /// The longest pause.
    pub retry_max: Duration,
    /// How long a publisher that says that it is alive may say nothing.
    pub silence: Duration,
    /// Begins the jitter.
    pub seed: u64,
}

/// Where a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not connected.
    Joining,
    /// In step.
    Live,
    /// A replay is under way or due.
    Recovering,
    /// In step with what comes, but something was lost that the source cannot give back.
    Stale,
}

/// What the shell is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the replay socket for everything from this sequence on. It replaces any request before.
    Replay {
        /// The first sequence.
        from: u64,
    },
}

/// What has happened to a stream since it was first followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Batches that were applied.
    pub batches: u64,
    /// Events that were applied.
    pub events: u64,
    /// Holes in the sequence.
    pub gaps: u64,
    /// New lives of the engine.
    pub restarts: u64,
    /// Runs whose parent was not known.
    pub refused: u64,
    /// Payloads that were not batches.
    pub undecodable: u64,
    /// Batches that came twice.
    pub duplicates: u64,
    /// Replays that were asked for.
    pub replays: u64,
    /// Replays that failed or were silent.
    pub failed_replays: u64,
    /// Times that the bound on held batches was hit.
    pub overflows: u64,
    /// Views that were built anew.
    pub rebuilds: u64,
    /// Of these, from a snapshot.
    pub snapshots: u64,
    /// Blocks that the newest snapshot left out, because one before them is gone.
    pub orphans: u64,
    /// Silences that were too long.
    pub silences: u64,
}

/// How far a view has come: enough for another follower to go on from a copy of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The last sequence that was applied.
    pub last: u64,
    /// What that batch was, so that whoever goes on can tell this life of the engine from another.
    pub proof: u64,
    /// How far the source is in step with what it tells of.
    pub source: View,
    /// Blocks that the view lacks together with all below them.
    pub broken: Vec<EngineHash>,
}

/// A replay that is under way.
struct Repair {
    kind: Kind,
    from: u64,
    deadline: Duration,
    /// Set once the source answers with all that it holds.
    snapshot: Option<Header>,
    /// The batches that have come, ascending.
    got: Vec<(u64, Bytes)>,
    got_bytes: usize,
    /// Batches that earlier answers gave, the last of which the next answer has to begin with.
    kept: usize,
    /// Whether it did.
    proved: bool,
}

/// A snapshot overtakes the live stream: batches that it contains come once more, in order.
struct Echo {
    /// The next one, if any was heard before.
    next: Option<u64>,
    until: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// From `last`, which is asked for again: if it comes back the same, the life is the same.
    Splice,
    /// The same, from a view that is probably whole.
    Confirm,
    /// From 0, into a hidden view.
    Rebuild,
}

/// Why a batch was not applied.
enum Rejected {
    Refused,
    Undecodable,
    /// It follows in sequence, and comes from another life of the publisher.
    AnotherLife,
}

/// Batches that are remembered by hash: a replay may overtake the live stream by so many. 8 bytes each, 64 KiB.
const SEEN: usize = 8_192;
/// Live batches held during one replay: 65,536 batches are 10 seconds of 100 engines' steps each ten times over.
const MAX_HELD: usize = 65_536;
/// Bytes held live, and bytes of one replay: a vLLM ring of 10,000 steps at 700 bytes is 7 MB; tenfold, and then some.
const MAX_HELD_BYTES: usize = 256 << 20;
/// Batches of one replay: at 256 bytes each they are as many as the bytes allow. Only empty ones can be more; they cost 40
/// bytes here and nothing there, and somebody could send them for ever.
const MAX_REPLAYED: usize = 1 << 20;
/// How long a subscription may take to have an effect.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);
/// Failed replays in a row after which a view is no longer called recovering.
const PATIENCE: u32 = 4;

// === Inputs ===

impl Core {
    /// A stream that has not been connected yet.
    pub fn new(worker: Worker, sink: Arc<dyn Sink>, settings: Settings) -> Self {
        sink.set_view(worker, View::Recovering);
        Self {
            worker,
            sink,
            settings,
            translator: Translator::default(),
            phase: Phase::Joining,
            view: View::Recovering,
            source: View::Exact,
            last: None,
            seen: VecDeque::new(),
            heard: None,
            heard_at: Duration::ZERO,
            epoch: None,
            echo: None,
            broken: HashSet::new(),
            doubted: false,
            repair: None,
            held: VecDeque::new(),
            held_bytes: 0,
            attempts: 0,
            retry_at: None,
            confirm_at: None,
            random: settings.seed | 1,
            counters: Counters::default(),
        }
    }

    /// Goes on from a copy of a view that somebody else has built up to `mark`; the sink holds it already. It is called
    /// recovering until the source has proved that it is of the same life and has told what came since.
    pub fn resume(&mut self, mark: &Mark) {
        self.seen.clear();
        self.seen.push_back(mark.proof);
        self.last = Some(mark.last);
        self.broken = mark.broken.iter().copied().collect();
        self.source_is(Some(mark.source));
    }

    /// The live socket is connected: whatever was said before may have been missed.
    pub fn connected(&mut self, now: Duration) -> Option<Action> {
        self.attempts = 0;
        (self.heard, self.heard_at, self.epoch, self.echo) = (None, now, None, None);
        self.confirm_at = Some(now + CONFIRM_AFTER);
        if !self.settings.replay {
            // Without replay only the first live batch can tell; an empty wait is no proof of anything. And what
            // was said between two connections is lost for good.
            self.phase = Phase::Live;
            if self.last.is_some() {
                self.lost();
            }
            return None;
        }
        Some(self.recover(now))
    }

    /// The live socket lost its peer. What is known stays a lower bound until something proves otherwise.
    pub fn disconnected(&mut self) {
        self.abandon_repair();
        (self.retry_at, self.confirm_at) = (None, None);
        self.phase = Phase::Joining;
        self.say(if self.view == View::Stale { View::Stale } else { View::Recovering });
    }

    /// The engine is known to have begun a new life, or to be gone: its old view is dropped at once.
    pub fn restarted(&mut self, now: Duration) -> Option<Action> {
        self.counters.restarts += 1;
        self.abandon_repair();
        self.drop_view();
        if self.phase == Phase::Joining || !self.settings.replay {
            return None;
        }
        Some(self.rebuild(now))
    }

    /// Somebody does not trust the view (its predictions failed): build it anew.
    pub fn distrusted(&mut self, now: Duration) -> Option<Action> {
        let idle = self.repair.is_none() && self.phase != Phase::Joining;
        (idle && self.settings.replay).then(|| {
            self.doubted = true;
            self.rebuild(now)
        })
    }

    /// The replay has not failed: it waits for its turn.
    pub fn replay_waits(&mut self, now: Duration) {
        let timeout = self.settings.replay_timeout;
        if let Some(repair) = &mut self.repair {
            repair.deadline = now + timeout;
        }
    }

    /// A live batch.
    pub fn live(&mut self, sequence: u64, payload: Bytes, now: Duration) -> Option<Action> {
        if sequence >= SNAPSHOT {
            // No batch has this number. If it stood for one that was lost, the next will show it.
            self.counters.undecodable += 1;
            return None;
        }
        (self.heard, self.heard_at) = (Some(sequence), now);
        self.take(sequence, payload, now)
    }

    fn take(&mut self, sequence: u64, payload: Bytes, now: Duration) -> Option<Action> {
        if self.repair.is_some() || self.retry_at.is_some() && self.phase == Phase::Recovering {
            return self.hold(sequence, payload, now);
        }
        match self.last {
            None if sequence == 0 => self.first(payload, now),
            None => self.gap(now, sequence, payload),
            Some(last) if sequence == last + 1 => self.in_step(sequence, payload, now),
            Some(last) if sequence > last => self.gap(now, sequence, payload),
            Some(last) => self.backwards(last, sequence, payload, now),
        }
    }

    /// A batch of the replay.
    pub fn replayed(&mut self, sequence: u64, payload: Bytes, now: Duration) -> Option<Action> {
        let timeout = self.settings.replay_timeout;
        let repair = self.repair.as_mut()?;
        repair.deadline = now + timeout;
        if sequence == SNAPSHOT {
            let Some(header) = Header::decode(&payload) else { return self.replay_failed(now) };
            (repair.snapshot, repair.got_bytes) = (Some(header), 0);
            repair.got.clear();
            return None;
        }
        if sequence > SNAPSHOT {
            return None; // an end, which is told as such
        }
        let ordered = repair.snapshot.is_none();
        if ordered && let Some((last, seen)) = repair.got.last() {
            if sequence == *last {
                // Two of one number: another life, or parts of a snapshot whose header was lost.
                repair.proved |= repair.kept == repair.got.len() && *seen == payload;
                return if *seen == payload { None } else { self.give_up(now) };
            }
            if sequence < *last {
                return None; // a duplicate
            }
        }
        if ordered && sequence < repair.from {
            return None; // an answer to a question that was given up
        }
        // Of a snapshot only the order counts.
        let sequence = if ordered { sequence } else { repair.got.len() as u64 };
        repair.got_bytes += payload.len();
        repair.got.push((sequence, payload));
        if repair.got.len() > MAX_REPLAYED || repair.got_bytes > MAX_HELD_BYTES {
            self.counters.overflows += 1;
            return self.give_up(now);
        }
        None
    }

    /// The replay is complete.
    pub fn replay_ended(&mut self, now: Duration) -> Option<Action> {
        let repair = self.repair.take()?;
        self.heard_at = now;
        if let Some(header) = repair.snapshot {
            return self.take_snapshot(&header, &repair.got, now);
        }
        if repair.kept > 0 && !repair.proved {
            return self.fail(now); // nothing says that it is the same life
        }
        if repair.is_lone_clear() {
            return self.fail(now);
        }
        if let Some(whole) = self.gone_on_from(&repair, false) {
            return Some(self.go_on(repair, whole, now));
        }
        match repair.kind {
            Kind::Splice | Kind::Confirm => self.splice(repair, now),
            Kind::Rebuild => self.publish(repair, now),
        }
    }

    /// The replay socket broke, or answered with something that is not a replay.
    pub fn replay_failed(&mut self, now: Duration) -> Option<Action> {
        let repair = self.repair.take()?;
        if let Some(whole) = self.gone_on_from(&repair, true) {
            return Some(self.go_on(repair, whole, now));
        }
        if repair.kind == Kind::Confirm && self.view == View::Exact {
            // It was only to be sure; what comes next will tell.
            self.counters.failed_replays += 1;
            return self.drain(now);
        }
        self.fail(now)
    }

    /// How many batches of an answer can be kept, if it broke off or lost some on its way, as a socket loses what overruns
    /// its mark. `None` if nothing was lost, or what was lost was asked for already: then the source lacks it.
    fn gone_on_from(&self, repair: &Repair, failed: bool) -> Option<usize> {
        let step = |pair: &[(u64, Bytes)]| pair[1].0 != pair[0].0 + 1;
        let whole = repair.got.windows(2).position(step).map_or(repair.got.len(), |hole| hole + 1);
        let splices = repair.kind != Kind::Rebuild;
        let lost = failed || whole < repair.got.len();
        let ours = !splices || self.begins_where_we_are(repair);
        let more = whole > repair.kept.max(usize::from(splices));
        (repair.snapshot.is_none() && lost && more && ours).then_some(whole)
    }

    /// Keeps the first `whole` batches of an answer, and asks from the last of them on.
    fn go_on(&mut self, mut repair: Repair, whole: usize, now: Duration) -> Action {
        repair.got.truncate(whole);
        repair.got_bytes = repair.got.iter().map(|(_, payload)| payload.len()).sum();
        let from = repair.got[whole - 1].0;
        (repair.kept, repair.proved) = (whole, false);
        repair.deadline = now + self.settings.replay_timeout;
        self.counters.replays += 1;
        self.repair = Some(repair);
        Action::Replay { from }
    }

    /// Whether an answer begins with the last batch that was applied.
    fn begins_where_we_are(&self, repair: &Repair) -> bool {
        match (repair.got.first(), self.seen.back()) {
            (Some((first, payload)), Some(seen)) => *first == repair.from && xxh3_64(payload) == *seen,
            _ => false,
        }
    }

    /// Nothing of the answer can be used.
    fn give_up(&mut self, now: Duration) -> Option<Action> {
        self.repair = None;
        self.fail(now)
    }

    fn fail(&mut self, now: Duration) -> Option<Action> {
        self.counters.failed_replays += 1;
        self.attempts += 1;
        self.retry_at = Some(now + self.pause());
        if self.attempts >= PATIENCE || self.view == View::Stale {
            self.phase = Phase::Stale;
            self.say(View::Stale);
            // Nothing waits for the next answer any more.
            return self.drain(now);
        }
        self.phase = Phase::Recovering;
        self.say(View::Recovering);
        None
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Option<Action> {
        if self.repair.as_ref().is_some_and(|repair| now >= repair.deadline) {
            return self.replay_failed(now);
        }
        if self.phase != Phase::Joining && self.retry_at.is_some_and(|at| now >= at) {
            return Some(self.recover(now));
        }
        if self.is_settled() && self.confirm_at.is_some_and(|at| now >= at) {
            self.confirm_at = None;
            // A view that may lack a batch for a second is not called recovering for it: it is not known to lack any.
            // And of a publisher with a heartbeat the next one tells.
            if let (View::Exact, Some(last), None) = (self.view, self.last, self.epoch) {
                return Some(self.ask(Kind::Confirm, last, now));
            }
        }
        if self.silent_at().is_some_and(|at| now >= at) {
            self.counters.silences += 1;
            self.heard_at = now;
            return Some(self.recover(now));
        }
        None
    }

    /// When `tick` has something to do, if ever.
    pub fn next_tick(&self) -> Option<Duration> {
        let confirm = self.confirm_at.filter(|_| self.is_settled());
        let pending = self.repair.as_ref().map(|repair| repair.deadline).or(self.retry_at);
        pending.or_else(|| confirm.into_iter().chain(self.silent_at()).min())
    }

    /// Connected, with nothing under way.
    fn is_settled(&self) -> bool {
        self.phase != Phase::Joining
            && self.repair.is_none()
            && self.retry_at.is_none()
            && self.settings.replay
    }

    /// When a publisher that says that it is alive will have been silent for too long.
    fn silent_at(&self) -> Option<Duration> {
        (self.is_settled() && self.epoch.is_some()).then_some(self.heard_at + self.settings.silence)
    }
}

// === Questions ===

impl Core {
    /// Where the stream is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How far the view can be trusted.
    pub fn view(&self) -> View {
        self.view.max(self.source)
    }

    /// The last sequence that was applied.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// What somebody needs to go on from a copy of the view; `None` if nobody could make an exact one of it: something
    /// is missing, or was said that a copy does not hold.
    pub fn mark(&self) -> Option<Mark> {
        if self.doubted || self.view == View::Stale || self.translator.remembers() {
            return None;
        }
        Some(Mark {
            last: self.last?,
            proof: *self.seen.back()?,
            source: self.source,
            broken: self.broken.iter().copied().collect(),
        })
    }

    /// What has happened.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What was left out in translation.
    pub fn left_out(&self) -> translate::Counts {
        self.translator.counts
    }

    /// The invariants of the module header, one line each.
    ///
    /// # Errors
    /// The name of the first invariant that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        let ensure = |holds: bool, name| if holds { Ok(()) } else { Err(name) };
        ensure(self.view() != View::Exact || self.phase == Phase::Live, "E1")?;
        let ascending = self.held.iter().zip(self.held.iter().skip(1)).all(|(a, b)| a.0 < b.0);
        ensure(ascending && self.held.len() <= MAX_HELD && self.held_bytes <= MAX_HELD_BYTES, "E2")?;
        ensure(self.repair.is_none() || self.phase != Phase::Joining, "E3")?;
        ensure(!self.doubted || self.view() != View::Exact, "E4")
    }
}

// === Live ===

impl Core {
    /// The stream begins here: nothing was said before, so nothing is cached.
    fn first(&mut self, payload: Bytes, now: Duration) -> Option<Action> {
        self.sink.forget(self.worker);
        self.translator.reset();
        self.seen.clear();
        self.doubted = false;
        self.phase = Phase::Live;
        // Said again even if it was said before: whoever forgets a worker forgets its view.
        self.view = View::Exact;
        self.sink.set_view(self.worker, self.view());
        self.in_step(0, payload, now)
    }

    fn in_step(&mut self, sequence: u64, payload: Bytes, now: Duration) -> Option<Action> {
        let applied = self.apply(&payload);
        self.remember(sequence, &payload);
        match applied {
            Ok(()) => None,
            Err(rejected) => {
                match rejected {
                    Rejected::Refused => self.counters.refused += 1,
                    Rejected::Undecodable => self.counters.undecodable += 1,
                    Rejected::AnotherLife => {
                        let epoch = self.epoch;
                        let action = self.restarted(now);
                        self.epoch = epoch;
                        return action;
                    }
                }
                // A view that refuses is already known to have a hole; only an exact one is worth rebuilding.
                if self.view == View::Stale { None } else { self.incomplete(now) }
            }
        }
    }

    /// A hole before this batch.
    fn gap(&mut self, now: Duration, sequence: u64, payload: Bytes) -> Option<Action> {
        self.counters.gaps += 1;
        if !self.can_ask_about(sequence) {
            self.lost();
            return self.in_step(sequence, payload, now);
        }
        let action = self.recover(now);
        self.hold(sequence, payload, now).or(Some(action))
    }

    /// Whether there is a hole before this batch, and somebody who may fill it.
    fn can_ask_about(&self, sequence: u64) -> bool {
        let next = self.last.map_or(0, |last| last + 1);
        sequence > next && self.settings.replay && self.attempts < PATIENCE
    }

    /// The sequence went back: an echo of what was applied, or another life.
    fn backwards(&mut self, last: u64, sequence: u64, payload: Bytes, now: Duration) -> Option<Action> {
        if let Some(echo) = &mut self.echo
            && sequence <= echo.until
            && echo.next.is_none_or(|next| next == sequence)
        {
            echo.next = Some(sequence + 1);
            self.counters.duplicates += 1;
            return None;
        }
        let age = (last - sequence) as usize;
        let before = self.seen.len().checked_sub(age + 1).map(|at| self.seen[at]);
        if before == Some(xxh3_64(&payload)) {
            self.counters.duplicates += 1;
            return None;
        }
        self.counters.restarts += 1;
        self.drop_view();
        if sequence == 0 {
            return self.first(payload, now);
        }
        self.gap(now, sequence, payload)
    }

    fn hold(&mut self, sequence: u64, payload: Bytes, now: Duration) -> Option<Action> {
        if self.held.back().is_some_and(|(last, _)| sequence <= *last) {
            let echo = self.held.iter().any(|(held, bytes)| *held == sequence && *bytes == payload);
            if echo {
                self.counters.duplicates += 1;
                return None;
            }
            // Two lives within one repair: what is held belongs to the old one.
            self.counters.restarts += 1;
            self.abandon_repair();
            self.drop_view();
            let action = self.rebuild(now);
            return self.hold(sequence, payload, now).or(Some(action));
        }
        self.held_bytes += payload.len();
        self.held.push_back((sequence, payload));
        if self.held.len() > MAX_HELD || self.held_bytes > MAX_HELD_BYTES {
            self.counters.overflows += 1;
            self.clear_held();
            self.abandon_repair();
            return Some(self.rebuild(now));
        }
        None
    }
}

// === Repair ===

impl Core {
    /// Begins the cheapest repair that is exact.
    fn recover(&mut self, now: Duration) -> Action {
        match self.last {
            Some(last) if self.view != View::Stale && !self.doubted => self.ask(Kind::Splice, last, now),
            _ => self.rebuild(now),
        }
    }

    fn rebuild(&mut self, now: Duration) -> Action {
        self.ask(Kind::Rebuild, 0, now)
    }

    fn ask(&mut self, kind: Kind, from: u64, now: Duration) -> Action {
        self.counters.replays += 1;
        self.retry_at = None;
        let deadline = now + self.settings.replay_timeout;
        let (got, proved) = (Vec::new(), false);
        self.repair =
            Some(Repair { kind, from, deadline, snapshot: None, got, got_bytes: 0, kept: 0, proved });
        if kind == Kind::Confirm {
            return Action::Replay { from };
        }
        self.phase = Phase::Recovering;
        if self.view != View::Stale {
            self.say(View::Recovering);
        }
        Action::Replay { from }
    }

    /// Exchanges the view for all that the source holds, and goes on behind it.
    fn take_snapshot(&mut self, header: &Header, batches: &[(u64, Bytes)], now: Duration) -> Option<Action> {
        let (events, complete) = self.digest(batches, true);
        let stored =
            |event: &Event| if let Event::Stored(stored) = event { stored.blocks.len() as u64 } else { 0 };
        let blocks: u64 = events.iter().map(stored).sum();
        let lost = header.batches.is_some_and(|said| batches.len() as u64 != said);
        if !complete || lost || header.blocks.is_some_and(|said| blocks < said) {
            return self.fail(now); // cut short on its way
        }
        self.counters.rebuilds += 1;
        self.counters.snapshots += 1;
        self.counters.orphans = header.orphans;
        self.broken = header.broken.iter().copied().collect();
        self.doubted = false;
        self.sink.replace(self.worker, &events);
        self.seen.clear();
        // -1: nothing was ever said. Nor can a batch have said that it was a header.
        self.last = Some(header.version).filter(|version| *version < SNAPSHOT);
        self.echo = self.last.map(|until| Echo { next: self.heard.map(|heard| heard + 1), until });
        self.epoch = header.epoch.or(self.epoch);
        self.source_is(Some(header.state));
        self.attempts = 0;
        self.phase = Phase::Live;
        // What is held may lack something behind the snapshot; then it is asked for at once.
        self.say(if self.held_hole().is_none() { View::Exact } else { View::Recovering });
        self.drain(now)
    }

    /// Joins the replay to what was applied, if it is the same life and reaches back to it.
    fn splice(&mut self, repair: Repair, now: Duration) -> Option<Action> {
        if !self.begins_where_we_are(&repair) {
            // Another life, or a ring that has moved on: only the whole can be exact.
            return Some(self.rebuild(now));
        }
        let batches = repair.got.into_iter().skip(1).collect();
        self.catch_up(batches, now)
    }

    /// Builds the view anew, hidden, and exchanges it in one step.
    fn publish(&mut self, repair: Repair, now: Duration) -> Option<Action> {
        let mut batches = repair.got;
        let next = batches.last().map_or(0, |(last, _)| last + 1);
        // What was held continues the replay, as far as it does.
        let mut expected = next;
        while let Some((sequence, payload)) = self.held.pop_front() {
            self.held_bytes -= payload.len();
            if sequence < expected {
                continue;
            }
            if sequence != expected {
                self.held_bytes += payload.len();
                self.held.push_front((sequence, payload));
                break;
            }
            expected += 1;
            batches.push((sequence, payload));
        }
        let whole = batches.first().is_none_or(|(first, _)| *first == 0)
            && batches.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
        let (events, complete) = self.digest(&batches, whole);
        // A replay that does not reach the live stream has a hole at its end.
        let complete = complete && self.held.is_empty();
        if !complete && self.same_life(&batches) {
            // The source cannot give back what is missing, and what we have is of this life: keep it, and
            // go on from what we know.
            let last = self.last.unwrap_or_default();
            self.attempts += 1;
            let newer = batches.into_iter().filter(|(sequence, _)| *sequence > last).collect();
            self.lost();
            return self.catch_up(newer, now);
        }
        if self.last.is_some() && !self.same_life(&batches) && !batches.is_empty() {
            self.counters.restarts += 1;
        }
        self.counters.rebuilds += 1;
        self.broken.clear();
        self.doubted = false;
        self.counters.batches += batches.len() as u64;
        self.sink.replace(self.worker, &events);
        self.seen.clear();
        self.last = None;
        for (sequence, payload) in &batches {
            self.remember(*sequence, payload);
        }
        if complete {
            self.attempts = 0;
            self.phase = Phase::Live;
            self.say(View::Exact);
        } else {
            self.attempts += 1;
            self.lost();
        }
        self.drain(now)
    }

    /// Whether a replay contains the last batch that was applied, unchanged.
    fn same_life(&self, batches: &[(u64, Bytes)]) -> bool {
        let (Some(last), Some(seen)) = (self.last, self.seen.back()) else { return false };
        batches.iter().any(|(sequence, payload)| *sequence == last && xxh3_64(payload) == *seen)
    }

    /// The events of a replay, and whether they leave nothing out: from sequence 0, or from a clear, on.
    fn digest(&mut self, batches: &[(u64, Bytes)], whole: bool) -> (Vec<Event>, bool) {
        self.translator.reset();
        let mut events = Vec::new();
        let mut complete = whole;
        let mut expected = None;
        for (sequence, payload) in batches {
            if expected.is_some_and(|expected| expected != *sequence) {
                complete = false;
            }
            expected = Some(sequence + 1);
            let Ok(batch) = codec::decode(payload) else {
                self.counters.undecodable += 1;
                complete = false;
                continue;
            };
            self.epoch = batch.epoch.or(self.epoch);
            self.source_is(batch.state);
            for said in batch.said {
                let event = self.translator.translate(said, |root| self.sink.saw_root(self.worker, root));
                if event == Some(Event::Cleared) {
                    complete = true;
                    events.clear();
                }
                complete &= !self.translator.take_misfit();
                events.extend(event);
            }
        }
        (events, complete)
    }

    /// Applies what a replay added to a view that stands, then what was held meanwhile.
    fn catch_up(&mut self, batches: Vec<(u64, Bytes)>, now: Duration) -> Option<Action> {
        let was_stale = self.view == View::Stale;
        let before = self.last;
        for (sequence, payload) in batches {
            if self.last.is_some_and(|last| sequence != last + 1) {
                self.counters.gaps += 1;
                self.lost();
            }
            if let Some(action) = self.in_step(sequence, payload, now) {
                return Some(action);
            }
        }
        let hole = self.held_hole();
        if hole == self.last.map(|last| last + 1) && self.last == before && !was_stale {
            // The answer lacks what was asked for. Asked again at once, the source would say the same.
            return self.fail(now);
        }
        if self.view == View::Recovering && !was_stale && hole.is_none() {
            self.attempts = 0;
            self.phase = Phase::Live;
            self.say(View::Exact);
        }
        self.drain(now)
    }

    /// The first batch that is missing before one that is held.
    fn held_hole(&self) -> Option<u64> {
        let mut next = self.last.map_or(0, |last| last + 1);
        for (sequence, _) in &self.held {
            if *sequence > next {
                return Some(next);
            }
            next = next.max(sequence + 1);
        }
        None
    }

    /// Takes up the live stream where the replay ended.
    fn drain(&mut self, now: Duration) -> Option<Action> {
        if self.phase == Phase::Recovering {
            self.phase = if self.view == View::Stale { Phase::Stale } else { Phase::Live };
        }
        while let Some((sequence, payload)) = self.held.pop_front() {
            self.held_bytes -= payload.len();
            if self.last.is_some_and(|last| sequence <= last) {
                continue;
            }
            if self.can_ask_about(sequence) {
                // A second hole. What is behind it waits where it was, before what is held already.
                self.counters.gaps += 1;
                self.held_bytes += payload.len();
                self.held.push_front((sequence, payload));
                return Some(self.recover(now));
            }
            if let Some(action) = self.take(sequence, payload, now) {
                return Some(action);
            }
        }
        None
    }

    /// A batch could not be applied: something is missing.
    fn incomplete(&mut self, now: Duration) -> Option<Action> {
        self.doubted = true;
        if self.settings.replay && self.attempts < PATIENCE {
            self.attempts += 1;
            return Some(self.rebuild(now));
        }
        self.lost();
        None
    }

    /// Something is missing for good, until a clear.
    fn lost(&mut self) {
        self.phase = Phase::Stale;
        self.say(View::Stale);
    }

    fn abandon_repair(&mut self) {
        self.repair = None;
        self.clear_held();
    }

    fn clear_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    fn drop_view(&mut self) {
        self.sink.forget(self.worker);
        self.translator.reset();
        self.seen.clear();
        (self.last, self.epoch, self.echo) = (None, None, None);
        self.broken.clear();
        self.doubted = false;
        self.attempts = 0;
        self.view = View::Recovering;
        self.sink.set_view(self.worker, self.view());
    }
}

// === Small steps ===

impl Core {
    fn apply(&mut self, payload: &Bytes) -> Result<(), Rejected> {
        let batch = codec::decode(payload).map_err(|_| Rejected::Undecodable)?;
        if let Some(epoch) = batch.epoch
            && self.epoch.replace(epoch).is_some_and(|before| before != epoch)
        {
            return Err(Rejected::AnotherLife);
        }
        let mut refused = false;
        for said in batch.said {
            let event = self.translator.translate(said, |root| self.sink.saw_root(self.worker, root));
            if self.translator.take_misfit() {
                // The engine holds blocks that the view does not, and no replay would say more of them.
                self.lost();
            }
            let Some(event) = event else { continue };
            refused |= self.sink.apply(self.worker, &event).is_err();
            if let Event::Stored(stored) = &event
                && !self.broken.is_empty()
            {
                refused |= stored.blocks.iter().any(|block| self.broken.contains(&block.engine));
            }
            self.counters.events += 1;
            if event == Event::Cleared {
                // An empty cache hides nothing: whatever was lost before no longer matters.
                refused = false;
                self.broken.clear();
                self.doubted = false;
                self.attempts = 0;
                self.phase = Phase::Live;
                self.say(View::Exact);
            }
        }
        self.counters.batches += 1;
        self.source_is(batch.state);
        if refused { Err(Rejected::Refused) } else { Ok(()) }
    }

    fn remember(&mut self, sequence: u64, payload: &Bytes) {
        if self.last.is_none_or(|last| sequence != last + 1) {
            self.seen.clear();
        }
        self.last = Some(sequence);
        if self.seen.len() == SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(xxh3_64(payload));
    }

    fn say(&mut self, view: View) {
        let before = self.view();
        self.view = view;
        self.show(before);
    }

    /// What the source says of itself: a relay cannot be better than what it follows.
    fn source_is(&mut self, state: Option<View>) {
        let before = self.view();
        self.source = state.unwrap_or(self.source);
        self.show(before);
    }

    fn show(&self, before: View) {
        if self.view() != before {
            self.sink.set_view(self.worker, self.view());
        }
    }

    /// Doubles with each failure, up to the longest, and is then shortened by up to a half.
    fn pause(&mut self) -> Duration {
        let Settings { retry_min, retry_max, .. } = self.settings;
        pause(&mut self.random, retry_min, retry_max, self.attempts.saturating_sub(1))
    }
}

/// The shortest pause, doubled `times`, at most the longest; then shortened by up to a half, so that not everybody who
/// lost the same thing comes back at the same moment.
pub(super) fn pause(random: &mut u64, shortest: Duration, longest: Duration, times: u32) -> Duration {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let pause = shortest.saturating_mul(1 << times.min(16)).min(longest);
    pause.mul_f64(1.0 - 0.5 * (*random >> 11) as f64 / (1_u64 << 53) as f64)
}

// === impl Repair ===

impl Repair {
    /// Whether all that came is one word that the cache is empty. It may be what is left of a snapshot, whose header and
    /// blocks were lost on their way; a cache is too easily emptied so.
    fn is_lone_clear(&self) -> bool {
        let [(sequence, payload)] = &self.got[..] else { return false };
        *sequence > 0 && codec::decode(payload).is_ok_and(|batch| batch.said == [codec::Said::Cleared])
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replay: true,
            replay_timeout: Duration::from_secs(5),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(10),
            silence: Duration::from_secs(5),
            seed: 1,
        }
    }
}
