//! Placing a request: what is cached where, who has how much in hand, the choice, and the ticket.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blocks::{BlockSize, Chain, Hasher, Seed, Tier, TokensHash, View, Worker};
use http::HeaderValue;
use index::Matches;

use super::backlog::Order;
use super::member::{Awaited, Load, Member, Room};
use super::truth::Advice;
use super::{Ask, Engine, Failure, Fleet, Outcome, Usage, breaker};
use crate::admin::api::{Attempt, Considered, DryRun, Explanation};
use crate::error::ApiError;
use crate::route::{self, Candidate, Choice, Lent, Nobody, Why, Wish};
use crate::settings::Policy;
use crate::tokens::Way;

/// A request's place on an engine. Its load counts there until the ticket is handed back or dropped.
pub struct Ticket {
    fleet: Fleet,
    member: Arc<Member>,
    /// The data-parallel rank, where there are several.
    rank: Option<u32>,
    route: HeaderValue,
    id: String,
    /// Tokens that it counts for.
    tokens: i64,
    /// Its place in the engine's backlog.
    order: Order,
    decoding: bool,
    placed: Duration,
    first_byte: Option<Duration>,
    prediction: Option<Prediction>,
    ended: bool,
}

/// What we believed when a request was placed, where it can be held against the truth.
struct Prediction {
    tokens: u32,
    /// What it could load from the store on top: an engine may count that as cached, or not.
    lent: u32,
    prompt: u32,
    block: u32,
    /// The engine's first block of this prompt, if it did not have it: it should tell of it.
    awaited: Option<Awaited>,
}

/// A candidate with what was found out about it.
struct Found {
    member: Arc<Member>,
    candidate: Candidate,
    worker: Worker,
    /// `None`: the engine does not tell, or what it tells cannot be used.
    view: Option<View>,
    /// Whether all of `candidate.cached` was told, none of it only expected.
    certain: bool,
    /// Whether the engine has told of the prompt's first block.
    root_told: bool,
    block: u32,
    /// Where in the chains its blocks are.
    chain: usize,
}

/// The blocks of one request for one block size and adapter.
struct Blocks {
    size: u32,
    adapter: Option<String>,
    chain: Chain,
    matches: Matches,
}

/// Bytes that stand for one token where nothing better is known.
const BYTES_A_TOKEN: u32 = 4;
/// Bytes in one block of approximate routing: 64 tokens or so.
const BYTES_A_BLOCK: u32 = 256;
/// How far a view is relied on that is being repaired, and one that cannot be.
const TRUST_RECOVERING: f64 = 0.9;
/// See [`TRUST_RECOVERING`].
const TRUST_STALE: f64 = 0.5;
/// How far a guess from our own history is relied on.
const TRUST_GUESS: f64 = 0.8;
/// When an engine should have told of a block that it computed: events leave at the end of a step.
const TELL_WITHIN: Duration = Duration::from_secs(1);

/// How often a request looks again that lost the last place to another: each time somebody else went ahead.
const TRIES: usize = 16;

thread_local! {
    static MATCHES: RefCell<Vec<Matches>> = const { RefCell::new(Vec::new()) };
}

impl Fleet {
    /// An engine for this request, by what is warm and loaded now.
    ///
    /// # Errors
    /// [`ApiError::UnknownModel`], [`ApiError::Unavailable`] or [`ApiError::Busy`].
    pub fn place(&self, ask: &Ask<'_>) -> Result<Ticket, ApiError> {
        let now = self.now();
        let wish = self.wish(ask, true);
        for _ in 0..TRIES {
            let (chains, found) = self.consider(ask, now)?;
            let candidates: Vec<Candidate> = found.iter().map(|found| found.candidate).collect();
            let choice = match route::choose(&wish, &candidates, &self.0.settings.routing) {
                Ok(choice) => choice,
                Err(nobody) => {
                    self.0.decided.nobody.fetch_add(1, Ordering::Relaxed);
                    return Err(refusal(ask, nobody));
                }
            };
            let one = &found[choice.at];
            let room = Room { requests: one.candidate.limit, tokens: self.budget(&one.member) };
            if one.member.load.enter(tokens_of(ask, &wish), room) {
                let ticket = self.seat(ask, &wish, choice, &found, &chains, now);
                recycle(chains);
                return Ok(ticket);
            }
            // Another request took the last place in this very moment.
            recycle(chains);
        }
        self.0.decided.nobody.fetch_add(1, Ordering::Relaxed);
        Err(refusal(ask, Nobody::Full))
    }

    /// How much of the prompt lies where this request would go now, in thousandths; nothing changes.
    ///
    /// # Errors
    /// As [`Fleet::place`].
    pub fn warmth(&self, ask: &Ask<'_>) -> Result<u32, ApiError> {
        let (chains, found) = self.consider(ask, self.now())?;
        recycle(chains);
        let wish = self.wish(ask, false);
        let candidates: Vec<Candidate> = found.iter().map(|found| found.candidate).collect();
        let choice = route::choose(&wish, &candidates, &self.0.settings.routing);
        let choice = choice.map_err(|nobody| refusal(ask, nobody))?;
        let Candidate { cached, lent, .. } = candidates[choice.at];
        // What lies on the store's disk is no reason to go first: if it waits, it can be warmed.
        let warm = f64::from(cached[2]) + f64::from(lent.memory) * lent.trust;
        let cached = warm as u64;
        Ok((cached * 1_000 / u64::from(wish.prompt)) as u32)
    }

    /// Where a request would go now; nothing changes.
    ///
    /// # Errors
    /// As [`Fleet::place`], except that nobody being free is an answer.
    pub fn dry_run(&self, ask: &Ask<'_>) -> Result<DryRun, ApiError> {
        let (_, found) = self.consider(ask, self.now())?;
        let wish = self.wish(ask, false);
        let candidates: Vec<Candidate> = found.iter().map(|found| found.candidate).collect();
        let choice = route::choose(&wish, &candidates, &self.0.settings.routing).ok();
        Ok(DryRun {
            model: ask.model.to_owned(),
            way: ask.way,
            prompt_tokens: wish.prompt,
            policy: wish.policy,
            engine: choice.map(|choice| found[choice.at].member.settings.name.clone()),
            why: choice.map(|choice| choice.why),
            candidates: self.considered(&wish, &found),
        })
    }

    /// What is known of every engine that could take this request.
    fn consider(&self, ask: &Ask<'_>, now: Duration) -> Result<(Vec<Blocks>, Vec<Found>), ApiError> {
        let members = self.0.members.load();
        let mut chains: Vec<Blocks> = Vec::new();
        let mut found = Vec::with_capacity(members.len());
        let mut served = false;
        for member in members.iter().filter(|member| self.takes(member, ask.model)) {
            served = true;
            if ask.tried.contains(&member.engine.id) {
                continue;
            }
            let adapter = self.adapter(member, ask.model);
            let size =
                if ask.way == Way::Bytes { BYTES_A_BLOCK } else { member.block_size.load(Ordering::Relaxed) };
            let known = chains.iter().position(|blocks| blocks.size == size && blocks.adapter == adapter);
            let chain = known.unwrap_or_else(|| {
                chains.push(self.blocks(ask, size, adapter));
                chains.len() - 1
            });
            found.push(self.find_out(ask, member, &chains[chain], chain, now));
        }
        if served { Ok((chains, found)) } else { Err(ApiError::UnknownModel(ask.model.to_owned())) }
    }

    fn blocks(&self, ask: &Ask<'_>, size: u32, adapter: Option<String>) -> Blocks {
        let block_size =
            BlockSize::new(size).unwrap_or_else(|| unreachable!("checked when the engine was taken in"));
        let mut chain = Chain::new(Hasher::new(block_size, Seed::of(adapter.as_deref(), ask.cache_salt)));
        let looks = self.0.settings.routing.policy.looks_at_caches();
        let mut hashes =
            ask.hashes.filter(|hashes| looks && hashes.block_size == size).map(|hashes| hashes.blocks);
        if !looks || ask.hashes.is_some() {
            // Nobody will ask, or there is nothing else than the hashes.
        } else if ask.way == Way::Bytes {
            chain.extend(&ask.bytes.iter().map(|byte| u32::from(*byte)).collect::<Vec<_>>());
        } else {
            chain.extend(ask.tokens);
        }
        let mut matches = MATCHES.with_borrow_mut(Vec::pop).unwrap_or_default();
        matches.clear();
        if ask.way != Way::Bytes && self.0.settings.routing.policy == Policy::Warm {
            self.0.index.lookup(hashes.take().unwrap_or(chain.tokens_hashes()), &mut matches);
        }
        Blocks { size, adapter, chain, matches }
    }

    fn find_out(
        &self,
        ask: &Ask<'_>,
        member: &Arc<Member>,
        blocks: &Blocks,
        chain: usize,
        now: Duration,
    ) -> Found {
        let routing = &self.0.settings.routing;
        let (mismatched, confidence) = {
            let truth = member.truth.lock();
            (truth.mismatch().is_some(), truth.confidence())
        };
        let tells =
            ask.way != Way::Bytes && routing.policy != Policy::Approximate && member.tells() && !mismatched;
        let others = |at: usize| member.load.others[at].load(Ordering::Relaxed);
        let mut found = Found {
            candidate: Candidate {
                engine: member.engine.id,
                cached: [0; 3],
                trust: TRUST_GUESS,
                lent: Lent::default(),
                backlog: member.load.backlog.lock().left(now).saturating_add(others(1)),
                decoding: Load::count(&member.load.decoding).saturating_add(others(2)),
                in_flight: Load::count(&member.load.in_flight).saturating_add(others(0)),
                limit: member.settings.max_in_flight.unwrap_or(routing.max_in_flight) as u32,
                crowded: self.is_crowded(member, ask),
                standing: member.standing(now),
            },
            member: member.clone(),
            worker: member.workers[0],
            view: None,
            certain: false,
            root_told: false,
            block: blocks.size,
            chain,
        };
        if !routing.policy.looks_at_caches() {
            return found;
        }
        if !tells {
            let depth = member.history.lock().depth(blocks.chain.prefix_hashes()) as u32;
            let tokens = if ask.way == Way::Bytes { BYTES_A_BLOCK / BYTES_A_TOKEN } else { blocks.size };
            found.candidate.cached = [depth * tokens; 3];
            if !mismatched {
                found.candidate.lent = self.lent(ask, blocks, &found.candidate);
            }
            return found;
        }
        let best = member
            .workers
            .iter()
            .filter_map(|worker| blocks.matches.of(*worker))
            .max_by_key(|found| found.blocks());
        let view = match best {
            Some(best) => best.view,
            None => self.0.index.view(member.workers[0]).unwrap_or(View::Stale),
        };
        let most = most_of(ask, blocks.size);
        if let Some(best) = best {
            let on = |tier| (best.on(tier) as u32).min(most) * blocks.size;
            found.candidate.cached = [on(Tier::Device), on(Tier::Host), on(Tier::Store)];
            found.certain = best.told() >= best.blocks().min(most as usize);
            found.root_told = best.told() > 0;
            found.worker = best.worker;
        } else {
            found.certain = true;
        }
        found.view = Some(view);
        found.candidate.trust = confidence
            * match view {
                View::Exact => 1.0,
                View::Recovering => TRUST_RECOVERING,
                View::Stale => TRUST_STALE,
            };
        found.candidate.lent = self.lent(ask, blocks, &found.candidate);
        found
    }

    /// What an engine can load from the store, beyond what it has itself.
    fn lent(&self, ask: &Ask<'_>, blocks: &Blocks, candidate: &Candidate) -> Lent {
        let shared = self.0.shared.as_ref().filter(|shared| shared.serves(self.target(ask.model)));
        let Some(shared) = shared.filter(|_| ask.way != Way::Bytes) else { return Lent::default() };
        shared.lends(&blocks.matches, candidate.cached[2], most_of(ask, blocks.size), blocks.size)
    }

    /// Whether a request would be more than the engine's budget of tokens in flight. An engine that has nothing takes
    /// whatever comes: a request that is larger than the budget runs alone.
    fn is_crowded(&self, member: &Member, ask: &Ask<'_>) -> bool {
        let tokens = i64::from(prompt_of(ask).max(1)) + i64::from(ask.answer);
        member.load.is_crowded(member.load.tokens.load(Ordering::Relaxed), tokens, self.budget(member))
    }

    fn budget(&self, member: &Member) -> u64 {
        member.settings.max_tokens.unwrap_or(self.0.settings.routing.max_tokens)
    }

    fn wish(&self, ask: &Ask<'_>, counts: bool) -> Wish {
        let turn = if counts {
            self.0.turn.fetch_add(1, Ordering::Relaxed)
        } else {
            self.0.turn.load(Ordering::Relaxed)
        };
        let pinned = ask.pinned.and_then(|name| {
            self.0
                .members
                .load()
                .iter()
                .find(|member| member.settings.name == name)
                .map(|member| member.engine.id)
        });
        let prompt = prompt_of(ask);
        let chance = xxhash_rust::xxh3::xxh3_64(&turn.to_le_bytes());
        let store = self.0.shared.as_ref().map_or([1.0; 2], super::shared::Shared::left);
        Wish { prompt: prompt.max(1), policy: self.0.settings.routing.policy, store, pinned, chance, turn }
    }

    /// Makes the ticket of a place that was taken.
    fn seat(
        &self,
        ask: &Ask<'_>,
        wish: &Wish,
        choice: Choice,
        all: &[Found],
        chains: &[Blocks],
        now: Duration,
    ) -> Ticket {
        let found = &all[choice.at];
        let Found { member, candidate, .. } = found;
        let blocks = &chains[found.chain];
        let prefix = blocks.chain.prefix_hashes();
        let cached = candidate.cached[2];
        let to_compute = wish.prompt.saturating_sub(cached).max(1);
        let order = member.load.backlog.lock().send(to_compute, ask.streams, now);
        if choice.why == Why::Trial {
            member.breaker.lock().try_one(now, self.rule());
        }
        let prediction = predict(ask, wish, found, blocks.chain.tokens_hashes(), now);
        match found.view {
            Some(_) => {
                let until = now + self.0.settings.routing.expect_for.get();
                self.0.index.expect(found.worker, blocks.chain.tokens_hashes(), until);
            }
            None if self.0.settings.routing.policy.looks_at_caches() => {
                member.history.lock().note(prefix);
            }
            None => {}
        }
        self.count(choice.why, candidate, all, wish);
        self.write_down(ask, wish, choice, all, prediction.as_ref());
        let several = member.workers.len() > 1;
        Ticket {
            fleet: self.clone(),
            member: member.clone(),
            rank: several.then_some(found.worker.rank),
            route: header(found, choice.why, ask.way, wish.prompt, self.0.shared.is_some()),
            id: ask.id.to_owned(),
            tokens: tokens_of(ask, wish),
            order,
            decoding: false,
            placed: now,
            first_byte: None,
            prediction,
            ended: false,
        }
    }

    fn count(&self, why: Why, chosen: &Candidate, all: &[Found], wish: &Wish) {
        let best = all.iter().map(|found| found.candidate.cached[2]).max().unwrap_or_default();
        let decided = &self.0.decided;
        decided.by_why[why as usize].fetch_add(1, Ordering::Relaxed);
        decided.best_tokens.fetch_add(u64::from(best), Ordering::Relaxed);
        decided.chosen_tokens.fetch_add(u64::from(chosen.cached[2]), Ordering::Relaxed);
        decided.prompt_tokens.fetch_add(u64::from(wish.prompt), Ordering::Relaxed);
        for (counter, tokens) in decided.lent_tokens.iter().zip([chosen.lent.memory, chosen.lent.disk]) {
            counter.fetch_add(u64::from(tokens), Ordering::Relaxed);
        }
    }

    fn write_down(
        &self,
        ask: &Ask<'_>,
        wish: &Wish,
        choice: Choice,
        all: &[Found],
        prediction: Option<&Prediction>,
    ) {
        if self.0.settings.routing.journal == 0 {
            return;
        }
        let predicted =
            prediction.filter(|prediction| prediction.tokens != u32::MAX).map(|prediction| prediction.tokens);
        let attempt = Attempt {
            engine: all[choice.at].member.settings.name.clone(),
            why: choice.why,
            candidates: self.considered(wish, all),
            outcome: None,
            first_byte_ms: None,
            total_ms: None,
        };
        let entry = || Explanation {
            id: ask.id.to_owned(),
            at: self.0.clock.unix().as_secs_f64(),
            model: ask.model.to_owned(),
            way: ask.way,
            prompt_tokens: wish.prompt,
            policy: wish.policy,
            attempts: Vec::with_capacity(1),
            predicted_tokens: predicted,
            cached_tokens: None,
            waited_ms: None,
            waited_for: None,
            replica: None,
        };
        self.0.journal.decided(entry, ask.id, attempt);
    }

    fn considered(&self, wish: &Wish, all: &[Found]) -> Vec<Considered> {
        let one = |found: &Found| Considered {
            engine: found.member.settings.name.clone(),
            standing: found.candidate.standing,
            view: found.view.map_or("none", View::name).to_owned(),
            cached_tokens: found.candidate.cached,
            trust: found.candidate.trust,
            store_tokens: [found.candidate.lent.memory, found.candidate.lent.disk],
            store_trust: found.candidate.lent.trust,
            backlog_tokens: found.candidate.backlog,
            decoding: found.candidate.decoding,
            in_flight: found.candidate.in_flight,
            cost: found.candidate.cost(wish, &self.0.settings.routing),
        };
        all.iter().map(one).collect()
    }

    fn rule(&self) -> breaker::Rule {
        let health = &self.0.settings.health;
        breaker::Rule { trip_after: health.trip_after, retry_after: health.retry_after.get() }
    }
}

fn predict(
    ask: &Ask<'_>,
    wish: &Wish,
    found: &Found,
    chain: &[TokensHash],
    now: Duration,
) -> Option<Prediction> {
    // Only what the engine itself told can be proven wrong.
    if found.view.is_none() && !found.member.tells() || ask.way == Way::Bytes {
        return None;
    }
    let cached = found.candidate.cached[2];
    // Whether the engine computes this block or has it: if it reads the tokens that we read, it tells of it.
    let root = chain.first().copied().filter(|_| !found.root_told && wish.prompt > found.block);
    let awaited = root.map(|root| Awaited {
        due: now + TELL_WITHIN,
        worker: found.worker,
        root,
        tokens: ask.tokens.iter().copied().take(4_096).collect(),
        model: ask.model.to_owned(),
    });
    let certain = found.view.is_some() && found.certain;
    (certain || awaited.is_some()).then_some(Prediction {
        tokens: if certain { cached } else { u32::MAX },
        lent: found.candidate.lent.memory + found.candidate.lent.disk,
        prompt: wish.prompt,
        block: found.block,
        awaited,
    })
}

/// Tokens that a request counts for while it is in flight.
fn tokens_of(ask: &Ask<'_>, wish: &Wish) -> i64 {
    i64::from(wish.prompt) + i64::from(ask.answer)
}

fn prompt_of(ask: &Ask<'_>) -> u32 {
    match (ask.hashes, ask.way) {
        (Some(hashes), _) => hashes.prompt,
        (None, Way::Bytes) => ask.bytes.len() as u32 / BYTES_A_TOKEN,
        (None, _) => ask.tokens.len() as u32,
    }
}

/// Blocks of a prompt that can be cached: an engine computes at least the last token itself, and counts whole blocks.
fn most_of(ask: &Ask<'_>, size: u32) -> u32 {
    prompt_of(ask).saturating_sub(1) / size.max(1)
}

fn recycle(chains: Vec<Blocks>) {
    MATCHES.with_borrow_mut(|pool| pool.extend(chains.into_iter().map(|blocks| blocks.matches).take(4)));
}

fn refusal(ask: &Ask<'_>, nobody: Nobody) -> ApiError {
    match nobody {
        Nobody::Full => ApiError::Busy {
            message: format!("Every engine that serves `{}` has as many requests as it may have.", ask.model),
            retry_after: 1,
        },
        Nobody::Gone if ask.tried.is_empty() => ApiError::Unavailable {
            message: format!("No engine that serves `{}` is well at the moment.", ask.model),
            retry_after: 2,
        },
        Nobody::Gone => ApiError::BadEngine(format!(
            "{} engine(s) were tried for `{}` and failed before they answered; no other is left.",
            ask.tried.len(),
            ask.model
        )),
    }
}

/// `engine=a; cached=96; of=128; tier=device; view=exact; why=warm; tokens=local`, and where engines share a store what of the
/// prompt lies there beyond that, in memory and on disk: `; store=16; store-disk=0`.
fn header(found: &Found, why: Why, way: Way, prompt: u32, shared: bool) -> HeaderValue {
    let view = found.view.map_or("none", View::name);
    let [device, host, any] = found.candidate.cached;
    let tier = match (any, device == any, host == any) {
        (0, ..) => "none",
        (_, true, _) => "device",
        (_, _, true) => "host",
        _ => "store",
    };
    let Lent { memory, disk, .. } = found.candidate.lent;
    let store = if shared { format!("; store={memory}; store-disk={disk}") } else { String::new() };
    let text = format!(
        "engine={}; cached={any}; of={prompt}; tier={tier}; view={view}; why={}; tokens={}{store}",
        found.member.settings.name,
        why.name(),
        way.name(),
    );
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
        .unwrap_or_else(|_| HeaderValue::from_static("unprintable"))
}

// === impl Ticket ===

impl Ticket {
    /// Where to send the request.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.member.engine
    }

    /// What it is called from now on, for whoever asks about its decision.
    pub fn rename(&mut self, id: &str) {
        self.fleet.0.journal.rename(&self.id, id);
        id.clone_into(&mut self.id);
    }

    /// The data-parallel rank to ask for, where the engine has several.
    pub fn rank(&self) -> Option<u32> {
        self.rank
    }

    /// The value of `x-warmline-route`.
    pub fn route(&self) -> &HeaderValue {
        &self.route
    }

    /// The first byte of the answer's body has come: the prompt is computed, decoding has begun.
    pub fn first_byte(&mut self) {
        if self.first_byte.is_some() {
            return;
        }
        let now = self.fleet.now();
        self.first_byte = Some(now);
        let load = &self.member.load;
        load.backlog.lock().arrived(self.order, now);
        load.decoding.fetch_add(1, Ordering::Relaxed);
        self.decoding = true;
    }

    /// Gives the place back.
    pub fn finish(mut self, outcome: Outcome) {
        let now = self.fleet.now();
        self.ended = true;
        let load = &self.member.load;
        match outcome {
            Outcome::Served(usage) => {
                load.served.fetch_add(1, Ordering::Relaxed);
                self.member.breaker.lock().succeeded();
                if let Some(usage) = usage {
                    self.learn(usage);
                }
            }
            Outcome::Failed(failure) => {
                load.failed.fetch_add(1, Ordering::Relaxed);
                self.member.breaker.lock().failed(failure, now, self.fleet.rule());
                *self.member.trouble.lock() = Some(failure.name().to_owned());
            }
            Outcome::ClientLeft => {}
        }
        self.close(outcome, now);
    }

    /// Holds what was predicted against what the engine says.
    fn learn(&mut self, usage: Usage) {
        let load = &self.member.load;
        load.prompt.fetch_add(u64::from(usage.prompt), Ordering::Relaxed);
        let Some(cached) = usage.cached else { return };
        load.cached.fetch_add(u64::from(cached), Ordering::Relaxed);
        self.fleet.0.journal.amend(&self.id, |entry| entry.cached_tokens = Some(cached));
        let Some(mut prediction) = self.prediction.take() else { return };
        if let Some(awaited) = prediction.awaited.take().filter(|_| usage.prompt > prediction.block) {
            let due = self.fleet.now() + TELL_WITHIN;
            self.member.await_root(Awaited { due, ..awaited });
        }
        if prediction.tokens == u32::MAX {
            return;
        }
        // Some engines count what they load from a store as cached: anything between the two is what was predicted.
        prediction.tokens = cached.clamp(prediction.tokens, prediction.tokens + prediction.lent);
        load.predicted.fetch_add(u64::from(prediction.tokens), Ordering::Relaxed);
        let rule = &self.fleet.0.settings.closed_loop;
        let advice = self.member.truth.lock().observe(
            prediction.tokens,
            cached,
            prediction.prompt,
            prediction.block,
            rule,
        );
        if advice == Advice::Rebuild {
            tracing::warn!(engine = %self.member.settings.name, "predictions of cached tokens fail: its view is built anew");
            for follower in self.member.followers.lock().iter() {
                follower.distrusted();
            }
        }
    }

    fn close(&self, outcome: Outcome, now: Duration) {
        let millis = |at: Duration| (at.saturating_sub(self.placed)).as_secs_f64() * 1e3;
        let word = match outcome {
            Outcome::Served(_) => "served",
            Outcome::ClientLeft => "the client left",
            Outcome::Failed(failure) => failure.name(),
        };
        self.fleet.0.journal.amend(&self.id, |entry| {
            if let Some(attempt) = entry.attempts.last_mut() {
                attempt.outcome = Some(word.to_owned());
                attempt.first_byte_ms = self.first_byte.map(millis);
                attempt.total_ms = Some(millis(now));
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let load = &self.member.load;
        load.backlog.lock().withdraw(self.order);
        load.decoding.fetch_sub(i64::from(self.decoding), Ordering::Relaxed);
        load.in_flight.fetch_sub(1, Ordering::Relaxed);
        load.tokens.fetch_sub(self.tokens, Ordering::Relaxed);
        if !self.ended {
            self.close(Outcome::ClientLeft, self.fleet.now());
        }
        self.fleet.freed();
    }
}

impl Failure {
    /// Whether the same request may be tried elsewhere: the engine cannot have answered it.
    pub const fn before_answer(self) -> bool {
        matches!(self, Self::Connect | Self::BeforeFirstByte | Self::Overloaded)
    }
}
