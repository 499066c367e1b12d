//! The way of one batch, on the replica that owns the log in which its lines wait: lines in, parts of results out.
//!
//! Lines go in a hundred at a time, in their order, and at most [`AHEAD`] hundreds are under way. Whatever dies, the next
//! owner reads the file again from its beginning: hundreds whose part is on the shelf are passed over, lines that are in
//! the log already are found there by their number, and all others are put in. So each line runs until it is over once,
//! and is in one part.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{StreamExt, stream};
use queue::entry::{Known, Outcome, Stage};
use queue::name::{EntryId, Seq};
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::barrier::{self, Barrier};
use super::begin::{gone, unknown};
use super::finish::Finisher;
use super::line::{Judge, Judged, Wrong};
use super::note::{self, Begun, Cancel, Counts, Ended, Kind, Made, Problem, Progress, Status, Tokens};
use super::part::{self, Head, Sort};
use super::{Batches, NAMES, WEEK};
use crate::error::ApiError;
use crate::files::lines::Lines;
use crate::settings::Priority;
use crate::shelf::{self, Name};
use crate::work::{Errand, ErrandResult, Wanted};

/// Lines of a chunk: what is written at a time.
const CHUNK: u64 = 100;
/// Chunks under way: sixteen hundred lines keep every engine of a large fleet busy while the next are read.
const AHEAD: usize = 16;
/// Chunks that are announced at a time before they are put in: one small write for eight hundred lines.
const ANNOUNCED: u32 = 8;
/// Bodies that are put in together, in bytes: what of a batch is in memory at a time, and one line more.
const SLICE: usize = 4 << 20;
/// Things that are asked of the log or the shelf at a time.
const AT_ONCE: usize = 32;
/// How often an owner writes down how far it is, and looks whether anything has changed.
const BEAT: Duration = Duration::from_secs(1);
/// How often a batch that waits for its turn looks whether it was cancelled through another replica: hundreds may wait, and
/// in a bucket each look costs money.
const WAITING: Duration = Duration::from_secs(30);
/// Every so many beats it looks at each line that is under way, should a word have been lost.
const LOOK: u32 = 60;
/// What is put in only to be taken out again would not run before this.
const NEVER: Duration = Duration::from_hours(24);
/// The first pause after something went wrong; each is twice as long, up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// How many parts there are of so many lines.
pub(super) fn chunks(total: u64) -> u32 {
    total.div_ceil(CHUNK) as u32
}

/// Goes on with a batch until it is over, or its log is somebody else's.
pub(super) async fn look_after(all: Batches, made: Made, poke: Arc<Notify>) {
    let _here = Here::new(&all, &made);
    let mut pause = PAUSES.0;
    loop {
        let Err(why) = drive(&all, &made, &poke).await else { return };
        if !all.0.work.partitions().contains(&made.partition) {
            tracing::debug!(batch = %made.id, why, "a batch is gone on with by whoever owns its log");
            return;
        }
        tracing::warn!(batch = %made.id, why, "a batch could not be gone on with; trying again");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// One that is gone on with here.
struct Here<'a> {
    all: &'a Batches,
    made: &'a Made,
}

impl<'a> Here<'a> {
    fn new(all: &'a Batches, made: &'a Made) -> Self {
        all.0.counters.open.fetch_add(1, Ordering::Relaxed);
        Self { all, made }
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.all.0.counters.open.fetch_sub(1, Ordering::Relaxed);
        self.all.0.driven.lock().remove(&self.made.id);
    }
}

async fn drive(all: &Batches, made: &Made, poke: &Notify) -> Result<(), String> {
    all.show_to_all(made).await.map_err(words)?;
    if !all.has_ended(made).await? {
        let turns = all.turns_of(made.tenant.as_deref());
        let _turn = tokio::select! {
            turn = turns.run.acquire() => turn,
            off = all.called_off(made, poke) => {
                off?;
                tokio::select! {
                    turn = turns.run.acquire() => turn,
                    turn = turns.end.acquire() => turn,
                }
            }
        };
        // While it waited its log may have been elsewhere, and come back when everything was done.
        if !all.has_ended(made).await? {
            run(all, made, poke).await?;
        }
    }
    all.clear(made).await
}

/// From the first look at the file to the note that says how it ended.
async fn run(all: &Batches, made: &Made, poke: &Notify) -> Result<(), String> {
    let shelf = &all.0.shelf;
    let place = |kind: Kind| kind.of(made.tenant.as_deref(), &made.id);
    let finisher = Finisher::new(all.0.files.clone(), all.0.clock, all.0.counters.clone());
    let begun = match note::read::<Begun>(shelf, &place(Kind::Begun)).await.map_err(words)? {
        Some(begun) => Ok(begun),
        None => match all.cancel_of(made).await? {
            Some(cancel) => Err(nothing(all, Status::Cancelled, Some(cancel.at), Vec::new())),
            None => match all.begin(made).await {
                Ok(begun) => Ok(note::write_once(shelf, &place(Kind::Begun), begun).await.map_err(words)?.0),
                Err(Ok(problems)) => Err(nothing(all, Status::Failed, None, problems)),
                Err(Err(why)) => return Err(why),
            },
        },
    };
    let begun = match begun {
        Ok(begun) => begun,
        Err(ended) => return finisher.end(made, ended).await,
    };
    let mut driver = Driver::new(all, made, begun).await?;
    driver.run(poke).await?;
    driver.await_end(&finisher, poke).await
}

/// The end of a batch of which nothing was ever run.
fn nothing(all: &Batches, status: Status, cancelling_at: Option<u64>, problems: Vec<Problem>) -> Ended {
    Ended {
        status,
        at: all.now(),
        begun_at: None,
        cancelling_at,
        finalizing_at: None,
        counts: Counts::default(),
        usage: Tokens::default(),
        problems,
        output: None,
        errors: None,
    }
}

// === Questions to the shelf ===

impl Batches {
    async fn has_ended(&self, made: &Made) -> Result<bool, String> {
        let name = Kind::Ended.of(made.tenant.as_deref(), &made.id);
        self.0.shelf.head(&name).await.map(|found| found.is_some()).map_err(words)
    }

    async fn cancel_of(&self, made: &Made) -> Result<Option<Cancel>, String> {
        note::read(&self.0.shelf, &Kind::Cancel.of(made.tenant.as_deref(), &made.id)).await.map_err(words)
    }

    /// Returns when it needs no turn among those that run: somebody has cancelled it, or its time is over.
    async fn called_off(&self, made: &Made, poke: &Notify) -> Result<(), String> {
        loop {
            if !self.0.work.partitions().contains(&made.partition) {
                return Err("its log is not open here".to_owned());
            }
            let left = made.expires().saturating_sub(self.0.clock.unix());
            if left.is_zero() || self.cancel_of(made).await?.is_some() {
                return Ok(());
            }
            tokio::select! {
                // Somebody has cancelled it here.
                () = poke.notified() => {}
                () = sleep(left.min(WAITING)) => {}
            }
        }
    }

    /// Sees to it that its tenant is told, and takes away what only whoever went on with it needed; the marker last.
    async fn clear(&self, made: &Made) -> Result<(), String> {
        let (shelf, tenant) = (&self.0.shelf, made.tenant.as_deref());
        let ended = note::read::<Ended>(shelf, &Kind::Ended.of(tenant, &made.id)).await.map_err(words)?;
        if let Some(ended) = ended {
            // Before the marker goes, with which it would be forgotten.
            self.0.webhooks.of_batch(made, &ended).await.map_err(words)?;
        }
        self.drop_parts(&note::parts(made)).await.map_err(words)?;
        for kind in [Kind::Begun, Kind::Cancel, Kind::Progress, Kind::Final] {
            shelf.delete(&kind.of(tenant, &made.id)).await.map_err(words)?;
        }
        shelf.delete(&note::marker(made.partition, &made.id)).await.map_err(words)
    }

    /// Takes away all parts of a batch, and the folder in which they were: each batch has one of its own.
    pub(super) async fn drop_parts(&self, folder: &Name) -> Result<(), shelf::Error> {
        let shelf = &self.0.shelf;
        loop {
            let parts = shelf.list(folder, None, NAMES).await?;
            for part in &parts {
                shelf.delete(&part.name).await?;
            }
            if parts.len() < NAMES {
                return shelf.drop_folder(folder).await;
            }
        }
    }
}

fn words(error: shelf::Error) -> String {
    error.to_string()
}

// === The driver ===

struct Driver<'a> {
    all: &'a Batches,
    made: &'a Made,
    begun: Begun,
    ends: broadcast::Receiver<(EntryId, Outcome)>,
    /// `None`: the file is gone.
    lines: Option<Lines>,
    judge: Judge,
    /// The chunk that is read next.
    next: u32,
    /// What is written down, and what is true.
    said: Progress,
    now: Progress,
    /// Lines of chunks before this one may be in the log already.
    doubtful: u32,
    written: BTreeSet<u32>,
    under_way: BTreeMap<u32, Chunk>,
    at: HashMap<EntryId, (u32, usize)>,
    closing: Option<Closing>,
    barrier: Barrier,
}

/// Why no more lines are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Expired,
    Cancelled,
}

/// Lines that follow each other.
struct Chunk {
    rows: Vec<Row>,
    /// Rows that are not over.
    left: usize,
}

/// A line on its way.
struct Row {
    number: u64,
    custom_id: Option<String>,
    state: State,
}

enum State {
    /// It never had a chance.
    Bad(Problem),
    /// It was never put in.
    Never(Outcome),
    /// It is in the log, and over if there is an outcome.
    In(EntryId, Option<Outcome>),
}

impl<'a> Driver<'a> {
    async fn new(all: &'a Batches, made: &'a Made, begun: Begun) -> Result<Self, String> {
        // Heard from before anything is put in or looked at.
        let ends = all.0.work.ends();
        let shelf = &all.0.shelf;
        let progress = Kind::Progress.of(made.tenant.as_deref(), &made.id);
        let said = note::read::<Progress>(shelf, &progress).await.map_err(words)?.unwrap_or_default();
        let mut driver = Self {
            all,
            made,
            ends,
            lines: all.lines(made).await?,
            judge: Judge::new(&made.endpoint),
            next: 0,
            said,
            now: Progress { fed: said.fed, ..Progress::default() },
            doubtful: said.fed,
            written: BTreeSet::new(),
            under_way: BTreeMap::new(),
            at: HashMap::new(),
            closing: None,
            barrier: Barrier::new(
                &all.0.jobs,
                made,
                chunks(begun.total),
                all.0.clock.unix().as_millis() as u64,
            ),
            begun,
        };
        driver.find_parts().await?;
        Ok(driver)
    }

    /// Parts that an owner before us has written.
    async fn find_parts(&mut self) -> Result<(), String> {
        let shelf = &self.all.0.shelf;
        let names = shelf.list(&note::parts(self.made), None, NAMES).await.map_err(words)?;
        let heads = stream::iter(names).map(|item| async move {
            let number =
                item.name.last().parse::<u32>().map_err(|error| format!("{}: {error}", item.name))?;
            let reading = shelf.read(&item.name, Some(0..part::MAX_HEAD)).await.map_err(words)?;
            let Some(mut reading) = reading else { return Err(format!("{} is gone", item.name)) };
            let mut begin = Vec::new();
            while let Some(piece) = reading.stream.next().await {
                begin.extend_from_slice(&piece.map_err(words)?);
            }
            Ok((number, Head::read(&begin)?))
        });
        let heads: Vec<Result<(u32, Head), String>> = heads.buffer_unordered(AT_ONCE).collect().await;
        for head in heads {
            let (number, head) = head?;
            self.written.insert(number);
            self.now.completed += head.completed;
            self.now.failed += head.failed;
            // Perhaps whoever wrote it died before this.
            self.all.forget(self.made, head).await;
        }
        Ok(())
    }

    /// Until every part is written.
    async fn run(&mut self, poke: &Notify) -> Result<(), String> {
        let all_parts = chunks(self.begun.total);
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = 0;
        self.look_outside().await?;
        self.barrier.keep(self.written.iter().copied()).await;
        loop {
            self.hear().await?;
            self.write_what_is_over().await?;
            if self.written.len() as u32 == all_parts {
                return self.say().await;
            }
            if self.next < all_parts && self.under_way.len() < AHEAD {
                self.feed().await?;
                continue;
            }
            tokio::select! {
                end = self.ends.recv() => match end {
                    Ok((id, outcome)) => self.is_over(id, outcome),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all().await?,
                    Err(broadcast::error::RecvError::Closed) => return Err("the queues are closed".to_owned()),
                },
                () = poke.notified() => self.look_outside().await?,
                _ = beat.tick() => {
                    beats += 1;
                    self.look_outside().await?;
                    self.say().await?;
                    self.barrier.keep(self.written.iter().copied()).await;
                    if beats % LOOK == 0 {
                        self.look_at_all().await?;
                    }
                }
            }
        }
    }

    /// Waits until some replica has made the files; makes them itself if nobody does.
    async fn await_end(&mut self, finisher: &Finisher, poke: &Notify) -> Result<(), String> {
        let until = Instant::now() + barrier::PATIENCE;
        let mut pause = Duration::from_millis(20);
        while !self.all.has_ended(self.made).await? {
            if Instant::now() > until {
                finisher.make(self.made).await?;
            }
            self.barrier.keep(self.written.iter().copied()).await;
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(BEAT),
                () = poke.notified() => {}
            }
        }
        self.barrier.forget().await;
        Ok(())
    }

    /// Whether it is still ours to go on with, still wanted, and still in time.
    async fn look_outside(&mut self) -> Result<(), String> {
        if !self.all.0.work.partitions().contains(&self.made.partition) {
            return Err("its log is not open here".to_owned());
        }
        self.look_at_clock();
        if self.closing != Some(Closing::Cancelled) && self.all.cancel_of(self.made).await?.is_some() {
            self.closing = Some(Closing::Cancelled);
            self.look_at_all().await?;
        }
        Ok(())
    }

    fn look_at_clock(&mut self) {
        if self.closing.is_none() && self.all.0.clock.unix() >= self.made.expires() {
            // What is in the log knows its deadline; what runs may come to its end.
            self.closing = Some(Closing::Expired);
        }
    }
}

// === Lines in ===

impl Driver<'_> {
    /// Reads the next chunk and puts it in.
    async fn feed(&mut self) -> Result<(), String> {
        self.look_at_clock();
        let number = self.next;
        let there = self.written.contains(&number);
        let fresh = number >= self.doubtful;
        if !there && fresh && self.closing.is_none() && number >= self.now.fed {
            self.now.fed = number + ANNOUNCED;
            self.say().await?;
        }
        let count = CHUNK.min(self.begun.total - u64::from(number) * CHUNK);
        let mut chunk = Chunk { rows: Vec::with_capacity(count as usize), left: 0 };
        let (mut slice, mut bytes) = (Vec::new(), 0);
        for at in 0..count as usize {
            let Some(judged) = self.read().await? else {
                // It was deleted: what nobody has read is nobody's line.
                let state = State::Bad(gone());
                chunk.rows.push(Row { number: 0, custom_id: None, state });
                continue;
            };
            let Judged { number: line, custom_id, asks } = judged;
            let state = match asks {
                Err(Wrong { code, message }) => {
                    State::Bad(Problem { code: code.to_owned(), message, line: Some(line) })
                }
                Ok(_) if self.closing.is_some() && fresh => State::Never(self.closed_as()),
                Ok(_) if there => State::Never(Outcome::Done),
                Ok(errand) => {
                    bytes += errand.body.get().len();
                    slice.push((at, line, errand));
                    State::Never(Outcome::Failed)
                }
            };
            chunk.rows.push(Row { number: line, custom_id, state });
            if bytes > SLICE {
                self.put_in(number, &mut chunk, std::mem::take(&mut slice)).await?;
                bytes = 0;
            }
        }
        self.next += 1;
        if there {
            return Ok(());
        }
        self.put_in(number, &mut chunk, slice).await?;
        self.under_way.insert(number, chunk);
        if !fresh || self.closing.is_some() {
            // Some of it may have been over for long.
            let ids: Vec<EntryId> =
                self.at.iter().filter(|(_, at)| at.0 == number).map(|(id, _)| *id).collect();
            self.look_at(ids).await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Option<Judged>, String> {
        let Some(lines) = &mut self.lines else { return Ok(None) };
        let Some(line) = lines.next().await.map_err(words)? else { return Ok(None) };
        let models = &self.begun.models;
        let may_ask = |model: &str| {
            let known = models.binary_search_by(|known| known.as_str().cmp(model)).is_ok();
            if known { Ok(()) } else { Err(unknown(model)) }
        };
        Ok(Some(self.judge.judge(line, may_ask)))
    }

    async fn put_in(
        &mut self,
        number: u32,
        chunk: &mut Chunk,
        slice: Vec<(usize, u64, Errand)>,
    ) -> Result<(), String> {
        if slice.is_empty() {
            return Ok(());
        }
        let now = self.all.0.clock.unix();
        // A batch that is over only wants to know what became of lines that an owner before us has put in. One that is
        // new to the log is taken out again before its time comes.
        let (not_before, deadline) = match self.closing {
            Some(_) => (Some(now + NEVER), None),
            None => (None, Some(self.made.expires())),
        };
        let keep = self.made.expires().saturating_sub(now) + WEEK;
        let mut rows = Vec::with_capacity(slice.len());
        let mut orders = Vec::with_capacity(slice.len());
        for (at, line, errand) in slice {
            rows.push(at);
            orders.push(Wanted {
                queue: format!("batch/{}", self.made.id),
                errand,
                class: Priority::Batch.class(),
                not_before,
                deadline,
                once: Some(line.to_string()),
                keep,
            });
        }
        let tenant = self.made.tenant.as_deref().unwrap_or(crate::lines::EVERYBODY);
        let ids = self.all.0.work.submit_to(self.made.partition, tenant, orders).await;
        for (at, id) in rows.into_iter().zip(ids.map_err(|error| error.to_string())?) {
            chunk.rows[at].state = State::In(id, None);
            chunk.left += 1;
            self.at.insert(id, (number, at));
        }
        Ok(())
    }

    fn closed_as(&self) -> Outcome {
        if self.closing == Some(Closing::Cancelled) { Outcome::Cancelled } else { Outcome::Expired }
    }
}

// === What becomes of them ===

impl Driver<'_> {
    /// Everything that was said meanwhile.
    async fn hear(&mut self) -> Result<(), String> {
        loop {
            match self.ends.try_recv() {
                Ok((id, outcome)) => self.is_over(id, outcome),
                Err(broadcast::error::TryRecvError::Lagged(_)) => self.look_at_all().await?,
                Err(broadcast::error::TryRecvError::Empty) => return Ok(()),
                Err(broadcast::error::TryRecvError::Closed) => return Err("the queues are closed".to_owned()),
            }
        }
    }

    fn is_over(&mut self, id: EntryId, outcome: Outcome) {
        let Some((number, at)) = self.at.remove(&id) else { return };
        let Some(chunk) = self.under_way.get_mut(&number) else { return };
        chunk.rows[at].state = State::In(id, Some(outcome));
        chunk.left -= 1;
    }

    async fn look_at_all(&mut self) -> Result<(), String> {
        let ids = self.at.keys().copied().collect();
        self.look_at(ids).await
    }

    /// How these stand; what a batch that is over does not want any more is stopped.
    async fn look_at(&mut self, mut ids: Vec<EntryId>) -> Result<(), String> {
        // The last first: a place that becomes free must not be taken by one that is stopped next.
        ids.sort_unstable_by(|a, b| b.cmp(a));
        let (all, closing) = (self.all, self.closing);
        let looked = stream::iter(ids).map(|id| async move {
            let (stage, outcome) = all.stands(id).await?;
            let stop = match closing {
                None => false,
                Some(Closing::Cancelled) => true,
                Some(Closing::Expired) => stage != Stage::Running,
            };
            if outcome.is_some() || !stop {
                return Ok((id, outcome));
            }
            match all.0.work.cancel(id).await {
                // It came to its end in this very moment.
                Ok(()) | Err(ApiError::Conflict(_) | ApiError::NotFound(_)) => {}
                Err(error) => return Err(error.to_string()),
            }
            Ok((id, all.stands(id).await?.1))
        });
        let looked: Vec<Result<(EntryId, Option<Outcome>), String>> =
            looked.buffer_unordered(AT_ONCE).collect().await;
        for one in looked {
            let (id, outcome) = one?;
            if let Some(outcome) = outcome {
                self.is_over(id, outcome);
            }
        }
        Ok(())
    }

    async fn write_what_is_over(&mut self) -> Result<(), String> {
        while let Some(number) =
            self.under_way.iter().find(|(_, chunk)| chunk.left == 0).map(|(number, _)| *number)
        {
            let Some(chunk) = self.under_way.get(&number) else { return Ok(()) };
            let was_late = self.closing == Some(Closing::Expired);
            let head = self.all.write(self.made, number, chunk, was_late).await?;
            self.under_way.remove(&number);
            self.written.insert(number);
            self.now.completed += head.completed;
            self.now.failed += head.failed;
            // It is durable: from here on the log need not know (N2).
            self.all.forget(self.made, head).await;
            self.barrier.settle(number).await;
        }
        Ok(())
    }

    /// Writes down how far it is, if that has changed.
    async fn say(&mut self) -> Result<(), String> {
        if self.now != self.said {
            let name = Kind::Progress.of(self.made.tenant.as_deref(), &self.made.id);
            note::write(&self.all.0.shelf, &name, &self.now).await.map_err(words)?;
            self.said = self.now;
        }
        Ok(())
    }
}

impl Batches {
    /// Writes a part, one record in memory at a time.
    async fn write(&self, made: &Made, number: u32, chunk: &Chunk, was_late: bool) -> Result<Head, String> {
        let mut head = Head::default();
        for row in &chunk.rows {
            let good = matches!(row.state, State::In(_, Some(Outcome::Done)));
            *if good { &mut head.completed } else { &mut head.failed } += 1;
            if let State::In(id, _) = row.state {
                head.seqs.push(id.seq.0);
            }
        }
        let mut writer = self.0.shelf.writer(&note::part(made, number)).await.map_err(words)?;
        writer.write(&head.write()).await.map_err(words)?;
        for (row, at) in chunk.rows.iter().zip(u64::from(number) * CHUNK..) {
            let name = row.custom_id.as_deref();
            let line = match &row.state {
                State::Bad(problem) => part::problem(made, at, name, Sort::Bad, problem),
                State::Never(outcome) => part::answer(made, at, name, row.number, *outcome, None, was_late),
                State::In(id, outcome) => {
                    let result = self.result(*id).await?;
                    let outcome = outcome.unwrap_or(Outcome::Failed);
                    part::answer(made, at, name, row.number, outcome, result.as_ref(), was_late)
                }
            };
            writer.write(&line).await.map_err(words)?;
        }
        writer.finish().await.map_err(words)?;
        Ok(head)
    }

    /// Lets the log forget; what it does not forget now it forgets when its time is over.
    async fn forget(&self, made: &Made, head: Head) {
        let (work, partition) = (&self.0.work, made.partition);
        let ids = head.seqs.into_iter().map(|seq| EntryId { partition, seq: Seq(seq) });
        stream::iter(ids).for_each_concurrent(AT_ONCE, |id| async move { drop(work.forget(id).await) }).await;
    }

    /// Where an entry is. One that an operator has taken out of the log counts as lost.
    async fn stands(&self, id: EntryId) -> Result<(Stage, Option<Outcome>), String> {
        let known = self.known(id).await?;
        Ok(known.map_or((Stage::Finished, Some(Outcome::Failed)), |known| (known.stage, known.outcome)))
    }

    async fn result(&self, id: EntryId) -> Result<Option<ErrandResult>, String> {
        let known = self.known(id).await?;
        Ok(known.and_then(|known| ErrandResult::decode(&known.result)))
    }

    /// An entry, unless the log does not know it. A log that is not open here says something else.
    async fn known(&self, id: EntryId) -> Result<Option<Known>, String> {
        match self.0.work.show(id).await {
            Ok(shown) => Ok(Some(shown.entry)),
            Err(ApiError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}
