//! Decoding one payload into what the engine said, in the order in which it said it.

use blocks::{Block, EngineHash, Event, Tier, TokensHash, View};

pub use super::pack::Malformed;
use super::pack::{Cursor, Value};

/// One payload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Seconds since 1970, by the engine's clock.
    pub timestamp: f64,
    /// What was said.
    pub said: Vec<Said>,
    /// The data-parallel rank, if it was given.
    pub rank: Option<u32>,
    /// The life of the publisher, if this batch is a heartbeat.
    pub epoch: Option<u64>,
    /// How far the publisher itself is in step with what it tells of, if it says so: a relay does.
    pub state: Option<View>,
}

/// One event, before anything is hashed.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// `BlockStored`.
    Stored(Box<Stored>),
    /// `BlockRemoved`.
    Removed {
        /// The engine's names.
        hashes: Vec<EngineHash>,
        /// The engine's word for where they lay.
        medium: Option<String>,
        /// The KV cache group.
        group: Option<u32>,
    },
    /// `AllBlocksCleared`.
    Cleared,
    /// A type that this version does not know; skipped and counted.
    Unknown,
}

/// `BlockStored`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// The engine's names of the blocks, in order.
    pub hashes: Vec<EngineHash>,
    /// The block before the first.
    pub parent: Option<EngineHash>,
    /// What the blocks say.
    pub content: Content,
    /// Tokens in a block.
    pub block_size: u32,
    /// The LoRA adapter.
    pub lora_name: Option<String>,
    /// The salt, where the engine says it in a field of its own.
    pub cache_salt: Option<String>,
    /// What else went into each block's hash, as far as the list reaches.
    pub extras: Vec<Extras>,
    /// The engine's word for where the blocks lie.
    pub medium: Option<String>,
    /// The KV cache group.
    pub group: Option<u32>,
    /// The kind of attention that the group serves.
    pub kind: Option<String>,
}

/// What blocks say.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Token ids, flat.
    Tokens(Vec<u32>),
    /// Token ids whose last is only looked ahead at (Eagle).
    Pairs(Vec<u32>),
    /// One hash a block, computed by the engine.
    Hashes(Vec<TokensHash>),
}

/// What else went into one block's hash.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// Words: LoRA names and salts, untagged.
    pub words: Vec<String>,
    /// Identifiers of images and other media.
    pub media: Vec<String>,
}

impl Stored {
    /// Blocks in the compact form.
    pub fn hashed(parent: Option<EngineHash>, blocks: &[Block], tier: Tier, block_size: u32) -> Self {
        Self {
            hashes: blocks.iter().map(|block| block.engine).collect(),
            parent,
            content: Content::Hashes(blocks.iter().map(|block| block.tokens).collect()),
            block_size,
            medium: Some(tier.medium().to_owned()),
            ..Self::default()
        }
    }
}

impl Said {
    /// A change in the words of the stream, its blocks in the compact form.
    pub fn of(event: &Event, block_size: u32) -> Self {
        match event {
            Event::Stored(blocks::Stored { parent, blocks, tier }) => {
                Self::Stored(Box::new(Stored::hashed(*parent, blocks, *tier, block_size)))
            }
            Event::Removed { blocks, tier } => {
                Self::Removed { hashes: blocks.clone(), medium: Some(tier.medium().to_owned()), group: None }
            }
            Event::Cleared => Self::Cleared,
        }
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Tokens(Vec::new())
    }
}

/// Decodes one payload.
///
/// # Errors
/// The payload is not a batch of events; nothing of it can be used.
pub fn decode(payload: &[u8]) -> Result<Batch, Malformed> {
    let mut at = Cursor::new(payload);
    let fields = at.array()?;
    if fields < 2 {
        return Err(Malformed::Expected("[timestamp, events, …]"));
    }
    let timestamp = match at.next()? {
        Value::Float(seconds) => seconds,
        Value::Int(seconds) => seconds as f64,
        _ => return Err(Malformed::Expected("a timestamp")),
    };
    let count = at.array()?;
    // An event is two bytes at least, and `Said` is not many times that.
    let mut said = Vec::with_capacity(count.min(payload.len() / 2));
    for _ in 0..count {
        said.push(event(&mut at)?);
    }
    let rank = if fields > 2 { number(&mut at)? } else { None };
    // Ours have their highest bit set: whatever others may put here one day is not taken for a life.
    let epoch = if fields > 3 { whole_number(&mut at)?.filter(|epoch| epoch >> 63 == 1) } else { None };
    let state = if fields > 4 { whole_number(&mut at)?.map(view) } else { None };
    (5..fields).try_for_each(|_| at.skip())?;
    Ok(Batch { timestamp, said, rank, epoch, state })
}

fn event(at: &mut Cursor<'_>) -> Result<Said, Malformed> {
    let start = at.clone();
    match at.next()? {
        Value::Map(fields) => {
            let tag = tag_of_map(&mut start.clone())?;
            let mut event = Draft::of(tag);
            for _ in 0..fields {
                match at.next()? {
                    Value::Text(key) => event.field(key, at)?,
                    _ => at.skip()?,
                }
            }
            Ok(event.finish())
        }
        Value::Array(fields) if fields > 0 => {
            let Value::Text(tag) = at.next()? else { return Err(Malformed::Expected("an event's tag")) };
            let mut event = Draft::of(tag);
            let names = event.names();
            for i in 0..fields - 1 {
                match names.get(i) {
                    Some(name) => event.field(name.as_bytes(), at)?,
                    None => at.skip()?,
                }
            }
            Ok(event.finish())
        }
        // Some older adapters say a bare tag for events without fields.
        Value::Text(tag) => Ok(Draft::of(tag).finish()),
        _ => Err(Malformed::Expected("an event")),
    }
}

/// The tag may stand anywhere in a map: find it before the fields are read.
fn tag_of_map<'a>(at: &mut Cursor<'a>) -> Result<&'a [u8], Malformed> {
    let Value::Map(fields) = at.next()? else { return Err(Malformed::Expected("a map")) };
    for _ in 0..fields {
        match at.next()? {
            Value::Text(b"type") => match at.next()? {
                Value::Text(tag) => return Ok(tag),
                _ => return Err(Malformed::Expected("a text as type")),
            },
            _ => at.skip()?,
        }
    }
    Err(Malformed::Expected("an event with a type"))
}

/// An event that is being read field by field, whatever form it has.
enum Draft {
    Stored(Box<Stored>),
    Removed { hashes: Vec<EngineHash>, medium: Option<String>, group: Option<u32> },
    Cleared,
    Unknown,
}

/// The order of the fields where events are arrays; later versions append.
const STORED: &[&str] = &[
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
];
const REMOVED: &[&str] = &["block_hashes", "medium", "group_idx"];

impl Draft {
    fn of(tag: &[u8]) -> Self {
        match tag {
            b"BlockStored" => Self::Stored(Box::default()),
            b"BlockRemoved" => Self::Removed { hashes: Vec::new(), medium: None, group: None },
            b"AllBlocksCleared" => Self::Cleared,
            _ => Self::Unknown,
        }
    }

    const fn names(&self) -> &'static [&'static str] {
        match self {
            Self::Stored(_) => STORED,
            Self::Removed { .. } => REMOVED,
            Self::Cleared | Self::Unknown => &[],
        }
    }

    fn field(&mut self, name: &[u8], at: &mut Cursor<'_>) -> Result<(), Malformed> {
        match self {
            Self::Stored(stored) => stored.field(name, at),
            Self::Removed { hashes, medium, group } => match name {
                b"block_hashes" => hashes_of(at, hashes),
                b"medium" => text(at).map(|word| *medium = word),
                b"group_idx" => number(at).map(|number| *group = number),
                _ => at.skip(),
            },
            Self::Cleared | Self::Unknown => at.skip(),
        }
    }

    fn finish(self) -> Said {
        match self {
            Self::Stored(mut stored) => {
                // The list may come before the blocks that it is about; what reaches beyond them is about nothing.
                stored.extras.truncate(stored.hashes.len());
                while stored.extras.last().is_some_and(|extra| *extra == Extras::default()) {
                    stored.extras.pop();
                }
                Said::Stored(stored)
            }
            Self::Removed { hashes, medium, group } => Said::Removed { hashes, medium, group },
            Self::Cleared => Said::Cleared,
            Self::Unknown => Said::Unknown,
        }
    }
}

impl Stored {
    fn field(&mut self, name: &[u8], at: &mut Cursor<'_>) -> Result<(), Malformed> {
        match name {
            b"block_hashes" => hashes_of(at, &mut self.hashes),
            b"parent_block_hash" => {
                self.parent = if at.nil() { None } else { Some(hash(at)?) };
                Ok(())
            }
            b"token_ids" => self.tokens(at),
            b"tokens_hashes" => {
                let count = at.array()?;
                let mut hashes = Vec::with_capacity(count);
                for _ in 0..count {
                    hashes.push(TokensHash(hash(at)?.0));
                }
                self.content = Content::Hashes(hashes);
                Ok(())
            }
            b"block_size" => {
                self.block_size = number(at)?.ok_or(Malformed::Expected("a block size"))?;
                Ok(())
            }
            b"medium" => text(at).map(|word| self.medium = word),
            b"lora_name" => self.lora_name(at),
            b"cache_salt" => text(at).map(|word| self.cache_salt = word),
            b"extra_keys" => {
                self.extras.clear();
                extras(at, &mut self.extras)
            }
            b"group_idx" => number(at).map(|number| self.group = number),
            b"kv_cache_spec_kind" => text(at).map(|word| self.kind = word),
            _ => at.skip(),
        }
    }

    /// Flat ids, or for Eagle one pair a position: each token with the one after it.
    fn tokens(&mut self, at: &mut Cursor<'_>) -> Result<(), Malformed> {
        if at.nil() {
            return Ok(());
        }
        let count = at.array()?;
        let mut ids = Vec::new();
        // Behind an empty list stands something else, which may be an array of two as well.
        if count > 0 && matches!(at.clone().next(), Ok(Value::Array(2))) {
            for i in 0..count {
                if at.array()? != 2 {
                    return Err(Malformed::Expected("a pair of tokens"));
                }
                ids.truncate(i);
                at.u32s(2, &mut ids)?;
            }
            self.content = Content::Pairs(ids);
        } else {
            at.u32s(count, &mut ids)?;
            self.content = Content::Tokens(ids);
        }
        Ok(())
    }

    /// A name; in older SGLang arrays a map with the salt stands here.
    fn lora_name(&mut self, at: &mut Cursor<'_>) -> Result<(), Malformed> {
        let mut peek = at.clone();
        let Value::Map(fields) = peek.next()? else {
            self.lora_name = text(at)?;
            return Ok(());
        };
        *at = peek;
        for _ in 0..fields {
            match at.next()? {
                Value::Text(b"cache_salt") => self.cache_salt = text(at)?,
                Value::Text(b"lora_name") => self.lora_name = text(at)?,
                _ => at.skip()?,
            }
        }
        Ok(())
    }
}

/// A text, nil, or anything else, which counts as nil: a field that changed its kind is not fatal.
fn text(at: &mut Cursor<'_>) -> Result<Option<String>, Malformed> {
    let mut peek = at.clone();
    if let Value::Text(bytes) = peek.next()? {
        *at = peek;
        return Ok(Some(String::from_utf8_lossy(bytes).into_owned()));
    }
    at.skip().map(|()| None)
}

fn number(at: &mut Cursor<'_>) -> Result<Option<u32>, Malformed> {
    Ok(whole_number(at)?.and_then(|number| u32::try_from(number).ok()))
}

/// A state as a number; what is not known is not trusted.
pub(crate) fn view(number: u64) -> View {
    match number {
        0 => View::Exact,
        1 => View::Recovering,
        _ => View::Stale,
    }
}

fn whole_number(at: &mut Cursor<'_>) -> Result<Option<u64>, Malformed> {
    let mut peek = at.clone();
    if let Value::Int(number) = peek.next()? {
        *at = peek;
        return Ok(Some(number));
    }
    at.skip().map(|()| None)
}

fn hash(at: &mut Cursor<'_>) -> Result<EngineHash, Malformed> {
    match at.next()? {
        Value::Int(number) => Ok(EngineHash(number)),
        Value::Bytes(bytes) | Value::Text(bytes) if !bytes.is_empty() && bytes.len() <= 32 => {
            Ok(EngineHash::from_bytes(bytes))
        }
        _ => Err(Malformed::Expected("a block hash")),
    }
}

fn hashes_of(at: &mut Cursor<'_>, to: &mut Vec<EngineHash>) -> Result<(), Malformed> {
    let count = at.array()?;
    to.reserve(count);
    for _ in 0..count {
        to.push(hash(at)?);
    }
    Ok(())
}

fn extras(at: &mut Cursor<'_>, to: &mut Vec<Extras>) -> Result<(), Malformed> {
    if at.nil() {
        return Ok(());
    }
    let mut peek = at.clone();
    let Value::Array(blocks) = peek.next()? else { return at.skip() };
    *at = peek;
    for i in 0..blocks {
        if at.nil() {
            continue;
        }
        let mut peek = at.clone();
        let Value::Array(keys) = peek.next()? else {
            at.skip()?;
            continue;
        };
        *at = peek;
        let mut extra = Extras::default();
        for _ in 0..keys {
            key(at, &mut extra)?;
        }
        // Blocks without extras cost nothing: the list is only as long as its last entry.
        if extra != Extras::default() {
            to.resize(i + 1, Extras::default());
            to[i] = extra;
        }
    }
    Ok(())
}

/// A word, or a pair of a medium's identifier and its place.
fn key(at: &mut Cursor<'_>, extra: &mut Extras) -> Result<(), Malformed> {
    let mut peek = at.clone();
    match peek.next()? {
        Value::Text(word) => {
            extra.words.push(String::from_utf8_lossy(word).into_owned());
            *at = peek;
            Ok(())
        }
        Value::Array(count) if count > 0 => {
            let mut inner = peek.clone();
            if let Value::Text(id) = inner.next()? {
                extra.media.push(String::from_utf8_lossy(id).into_owned());
            }
            at.skip()
        }
        _ => at.skip(),
    }
}
