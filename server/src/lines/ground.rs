//! Where what waits can run: the fleet, asked from within a decision.

use std::sync::Arc;

use blocks::TokensHash;
use parking_lot::Mutex;
use queue::entry::Item;
use queue::scheduler::{Ground, Placed, Window};

use super::gate::{Gate, Spot};
use super::{Crowd, Pending};
use crate::fleet::{Ask, Fleet, Hashes, Ticket};
use crate::tokens::Way;

/// The fleet as the scheduler sees it.
pub(super) struct Engines {
    fleet: Fleet,
    standing: Arc<Mutex<Crowd>>,
    gate: Arc<Gate>,
}

/// What a durable entry says of its prompt: the block size, the prompt's tokens, then the hash of each of the first blocks.
pub struct Hint {
    /// Tokens in a block; 0: nothing is known.
    pub block_size: u32,
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Of each of the first blocks.
    pub blocks: Vec<TokensHash>,
}

/// What is known of one entry of a window.
enum Wanted {
    Standing(Arc<Pending>),
    Durable(Hint),
}

impl Engines {
    pub(super) fn new(fleet: Fleet, standing: Arc<Mutex<Crowd>>, gate: Arc<Gate>) -> Self {
        Self { fleet, standing, gate }
    }

    fn wanted(&self, item: &Item) -> Option<Wanted> {
        if !item.key.seq.is_volatile() {
            return Some(Wanted::Durable(Hint::decode(
                item.hint.as_deref().unwrap_or_default(),
                item.cost.tokens,
            )));
        }
        self.standing.lock().asks.get(&item.key.seq).cloned().map(Wanted::Standing)
    }
}

impl Wanted {
    fn ask<'a>(&'a self, target: &'a str, id: &'a str, answer: u32) -> Ask<'a> {
        match self {
            Self::Standing(pending) => pending.ask(),
            Self::Durable(hint) => Ask {
                id,
                model: target,
                tokens: &[],
                bytes: &[],
                way: if hint.block_size == 0 { Way::Bytes } else { Way::Local },
                cache_salt: None,
                streams: false,
                pinned: None,
                answer,
                hashes: Some(Hashes {
                    blocks: &hint.blocks,
                    block_size: hint.block_size,
                    prompt: hint.prompt,
                }),
                tried: Vec::new(),
            },
        }
    }

    /// Whether others for the same target may go where this one cannot.
    fn is_picky(&self, target: &str) -> bool {
        match self {
            Self::Standing(pending) => {
                pending.pinned.is_some() || !pending.tried.is_empty() || pending.model != target
            }
            Self::Durable(_) => false,
        }
    }
}

impl Ground for Engines {
    type Place = Spot;

    fn place(&mut self, target: &str, tenant: &str, window: Window<'_>) -> Placed<Spot> {
        // A lane is all durable, or all of it stands in line.
        let durable = window.first().is_some_and(|item| !item.key.seq.is_volatile());
        let pass = if durable { self.gate.pass(tenant) } else { None };
        if durable && pass.is_none() {
            return Placed::NotThese;
        }
        let placed = self.on_an_engine(target, window);
        match (placed, pass) {
            (Placed::At(at, ticket), pass) => Placed::At(at, Spot { ticket, pass }),
            (no_place, pass) => {
                if let Some(pass) = pass {
                    pass.unused();
                }
                match no_place {
                    Placed::Full => Placed::Full,
                    _ => Placed::NotThese,
                }
            }
        }
    }
}

impl Engines {
    fn on_an_engine(&self, target: &str, window: Window<'_>) -> Placed<Ticket> {
        let ids: Vec<String> = window.iter().map(|item| format!("wl-entry-{:x}", item.key.seq.0)).collect();
        let mut warmest: Option<(u32, usize, Wanted)> = None;
        let mut full = true;
        for (at, item) in window.iter().enumerate() {
            let Some(wanted) = self.wanted(item) else { continue };
            match self.fleet.warmth(&wanted.ask(target, &ids[at], answer_of(item, &wanted))) {
                // The first of equals goes first.
                Ok(warmth) if warmest.as_ref().is_none_or(|(most, ..)| warmth > *most) => {
                    warmest = Some((warmth, at, wanted));
                }
                Ok(_) => {}
                // No room, nobody who is well, or nobody who serves it any more: others for it fare no better, unless this one
                // asks for more than the model.
                Err(_) => full &= !wanted.is_picky(target),
            }
        }
        let Some((_, at, wanted)) = warmest else {
            return if full { Placed::Full } else { Placed::NotThese };
        };
        match self.fleet.place(&wanted.ask(target, &ids[at], answer_of(window[at], &wanted))) {
            Ok(ticket) => Placed::At(at, ticket),
            Err(_) => Placed::NotThese,
        }
    }
}

fn answer_of(item: &Item, wanted: &Wanted) -> u32 {
    match wanted {
        Wanted::Standing(pending) => pending.answer,
        Wanted::Durable(hint) => item.cost.tokens.saturating_sub(hint.prompt),
    }
}

// === impl Hint ===

impl Hint {
    /// As bytes, at most as many as a hint may have.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.blocks.len() * 8);
        bytes.extend(self.block_size.to_be_bytes());
        bytes.extend(self.prompt.to_be_bytes());
        let most = (queue::entry::MAX_HINT - 8) / 8;
        for block in self.blocks.iter().take(most) {
            bytes.extend(block.0.to_be_bytes());
        }
        bytes
    }

    /// From bytes; without any, nothing is known but what it takes.
    pub fn decode(bytes: &[u8], tokens: u32) -> Self {
        let number =
            |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_be_bytes);
        let (Some(block_size), Some(prompt)) = (number(0), number(4)) else {
            return Self { block_size: 0, prompt: tokens, blocks: Vec::new() };
        };
        let blocks = bytes[8..].chunks_exact(8).filter_map(|eight| eight.try_into().ok());
        let blocks = blocks.map(|eight| TokensHash(u64::from_be_bytes(eight))).collect();
        Self { block_size, prompt, blocks }
    }
}
