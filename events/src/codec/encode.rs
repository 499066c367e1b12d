//! Encoding batches as engines do: the stock form with token ids, and the compact form with hashes.

use blocks::{EngineHash, TokensHash};

use super::{Batch, Content, Extras, Said, Stored};

/// A batch in the form of a stock vLLM: maps with every field present, nil where there is nothing.
pub fn stock(batch: &Batch) -> Vec<u8> {
    write(batch, Form::Stock)
}

/// A batch in the compact form: no token ids, one precomputed hash a block, nothing that is nil.
///
/// Runs that hold token ids are written with them; hash them first ([`crate::translate`]).
pub fn compact(batch: &Batch) -> Vec<u8> {
    write(batch, Form::Compact)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Stock,
    Compact,
}

fn write(batch: &Batch, form: Form) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(256));
    let fields = if batch.state.is_some() { 5 } else { 3 + usize::from(batch.epoch.is_some()) };
    out.array(fields);
    out.float(batch.timestamp);
    out.array(batch.said.len());
    for said in &batch.said {
        match said {
            Said::Stored(stored) => out.stored(stored, form),
            Said::Removed { hashes, medium, group } => out.removed(hashes, medium.as_deref(), *group, form),
            Said::Cleared | Said::Unknown => {
                out.map(1);
                out.text("type");
                out.text(if *said == Said::Cleared { "AllBlocksCleared" } else { "Ignored" });
            }
        }
    }
    out.maybe_int(batch.rank.map(u64::from));
    if fields > 3 {
        out.maybe_int(batch.epoch);
    }
    if let Some(state) = batch.state {
        out.int(state as u64);
    }
    out.0
}

struct Writer(Vec<u8>);

impl Writer {
    fn stored(&mut self, stored: &Stored, form: Form) {
        let all = form == Form::Stock;
        let fields = [
            stored.parent.is_some(),
            stored.medium.is_some(),
            stored.lora_name.is_some(),
            !stored.extras.is_empty(),
            stored.group.is_some(),
            stored.kind.is_some(),
        ];
        let salted = usize::from(stored.cache_salt.is_some());
        let optional = fields.iter().filter(|present| all || **present).count();
        self.map(4 + optional + usize::from(all) + salted);
        self.text("type");
        self.text("BlockStored");
        self.text("block_hashes");
        self.hashes(&stored.hashes);
        if all || stored.parent.is_some() {
            self.text("parent_block_hash");
            self.maybe_int(stored.parent.map(|hash| hash.0));
        }
        self.content(&stored.content);
        self.text("block_size");
        self.int(u64::from(stored.block_size));
        if all {
            self.text("lora_id");
            self.nil();
        }
        for (name, value) in [
            ("medium", &stored.medium),
            ("lora_name", &stored.lora_name),
            ("kv_cache_spec_kind", &stored.kind),
        ] {
            if all || value.is_some() {
                self.text(name);
                self.maybe_text(value.as_deref());
            }
        }
        if let Some(salt) = &stored.cache_salt {
            self.text("cache_salt");
            self.text(salt);
        }
        if all || !stored.extras.is_empty() {
            self.text("extra_keys");
            self.extras(&stored.extras, stored.hashes.len());
        }
        if all || stored.group.is_some() {
            self.text("group_idx");
            self.maybe_int(stored.group.map(u64::from));
        }
    }

    fn removed(&mut self, hashes: &[EngineHash], medium: Option<&str>, group: Option<u32>, form: Form) {
        let all = form == Form::Stock;
        self.map(2 + usize::from(all || medium.is_some()) + usize::from(all || group.is_some()));
        self.text("type");
        self.text("BlockRemoved");
        self.text("block_hashes");
        self.hashes(hashes);
        if all || medium.is_some() {
            self.text("medium");
            self.maybe_text(medium);
        }
        if all || group.is_some() {
            self.text("group_idx");
            self.maybe_int(group.map(u64::from));
        }
    }

    fn content(&mut self, content: &Content) {
        match content {
            Content::Tokens(ids) => {
                self.text("token_ids");
                self.array(ids.len());
                for id in ids {
                    self.int(u64::from(*id));
                }
            }
            Content::Pairs(ids) => {
                self.text("token_ids");
                self.array(ids.len().saturating_sub(1));
                for pair in ids.windows(2) {
                    self.array(2);
                    self.int(u64::from(pair[0]));
                    self.int(u64::from(pair[1]));
                }
            }
            Content::Hashes(hashes) => {
                self.text("tokens_hashes");
                self.array(hashes.len());
                for TokensHash(hash) in hashes {
                    self.int(*hash);
                }
            }
        }
    }

    /// One entry a block, nil where there is nothing.
    fn extras(&mut self, extras: &[Extras], blocks: usize) {
        self.array(blocks);
        for i in 0..blocks {
            let Some(extra) = extras.get(i).filter(|extra| **extra != Extras::default()) else {
                self.nil();
                continue;
            };
            self.array(extra.words.len() + extra.media.len());
            for id in &extra.media {
                self.array(2);
                self.text(id);
                self.int(0);
            }
            for word in &extra.words {
                self.text(word);
            }
        }
    }

    fn hashes(&mut self, hashes: &[EngineHash]) {
        self.array(hashes.len());
        for EngineHash(hash) in hashes {
            self.int(*hash);
        }
    }

    fn nil(&mut self) {
        self.0.push(0xc0);
    }

    fn float(&mut self, number: f64) {
        self.0.push(0xcb);
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn int(&mut self, number: u64) {
        match number {
            0..=0x7f => self.0.push(number as u8),
            0x80..=0xff => self.0.extend_from_slice(&[0xcc, number as u8]),
            0x100..=0xffff => {
                self.0.push(0xcd);
                self.0.extend_from_slice(&(number as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                self.0.push(0xce);
                self.0.extend_from_slice(&(number as u32).to_be_bytes());
            }
            _ => {
                self.0.push(0xcf);
                self.0.extend_from_slice(&number.to_be_bytes());
            }
        }
    }

    fn maybe_int(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.int(number),
            None => self.nil(),
        }
    }

    fn text(&mut self, text: &str) {
        self.head(text.len(), 0xa0, 32, [0xd9, 0xda, 0xdb]);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn maybe_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.nil(),
        }
    }

    fn array(&mut self, count: usize) {
        self.head(count, 0x90, 16, [0xdc, 0xdc, 0xdd]);
    }

    fn map(&mut self, count: usize) {
        self.head(count, 0x80, 16, [0xde, 0xde, 0xdf]);
    }

    /// A length within the tag if it is below `short`, else in one (texts only), two or four bytes.
    fn head(&mut self, length: usize, tag: u8, short: usize, [one, two, four]: [u8; 3]) {
        if length < short {
            self.0.push(tag | length as u8);
        } else if length <= 0xff && one != two {
            self.0.extend_from_slice(&[one, length as u8]);
        } else if length <= 0xffff {
            self.0.push(two);
            self.0.extend_from_slice(&(length as u16).to_be_bytes());
        } else {
            self.0.push(four);
            self.0.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}
