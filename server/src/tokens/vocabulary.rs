//! A model's `tokenizer.json`: text to token ids and back, exactly as the engine's library makes them.
//!
//! Text is cut at added tokens (`<|im_start|>` and the like), because there the library itself starts afresh; the
//! pieces between are tokenised once and remembered. Kinds of tokenizers for which a piece alone would come out
//! differently are recognised from the file and tokenised whole.

use serde_json::Value as Json;
use tokenizers::pipeline::{
    EncodeOptions, PipelineToken, PipelineTokenizer, Segment, SpecialSegmentIterator,
};
use unicode_normalization_alignments::UnicodeNormalization;

use super::CannotTokenise;
use super::segments::Segments;

/// One model's vocabulary and merges.
pub(super) struct Vocabulary {
    pipeline: PipelineTokenizer,
    /// Text is brought into Unicode's form C first, with the tables that engines' libraries use.
    composes: bool,
    /// Pieces between added tokens come out as they would in place.
    cuts: bool,
    /// What a completion's prompt is put between, such as Llama's begin-of-text.
    before: Vec<u32>,
    after: Vec<u32>,
    /// Why a completion's prompt cannot be put between them for certain.
    doubt: Option<&'static str>,
}

impl Vocabulary {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// What is wrong with it, or what in it cannot be done exactly.
    pub(super) fn read(json: &str) -> Result<Self, String> {
        let mut file: Json = serde_json::from_str(json).map_err(|e| format!("is not JSON: {e}"))?;
        let fields = file.as_object_mut().ok_or("is not a JSON object")?;
        // Engines bound a prompt's length by themselves, and never pad one.
        for absent in ["truncation", "padding"] {
            fields.insert(absent.to_owned(), Json::Null);
        }
        let composes = takes_over_normalizer(fields.entry("normalizer").or_insert(Json::Null))?;
        if !fields.get("model").and_then(|m| m.get("dropout")).is_none_or(Json::is_null) {
            return Err("has BPE dropout, so it answers differently every time".to_owned());
        }
        let alone = fields.get("added_tokens").and_then(Json::as_array);
        let alone = alone.is_none_or(|tokens| tokens.iter().all(|t| t["single_word"] != Json::Bool(true)));
        let cuts = alone && fields.get("pre_tokenizer").is_none_or(forgets_its_place);
        if composes && !cuts {
            return Err("combines normalisation with tokens that depend on their place".to_owned());
        }
        let canonical =
            tokenizers::canonicalize_str(&file.to_string()).map_err(|e| format!("cannot be read: {e}"))?;
        drop(file);
        let pipeline = tokenizers::from_json(&canonical).map_err(|e| format!("cannot be read: {e}"))?;
        let (before, after) = surroundings(&pipeline)?;
        Ok(Self { pipeline, composes, cuts, before, after, doubt: None })
    }

    /// Holds what `tokenizer_config.json` says about a text's ends against what `tokenizer.json` does: of the classes
    /// that read the file, some let the one win and some the other.
    pub(super) fn compare_ends(&mut self, adds_bos: Option<bool>, adds_eos: Option<bool>) {
        let differ = |says: Option<bool>, does: &[u32]| says.is_some_and(|says| says == does.is_empty());
        if differ(adds_bos, &self.before) || differ(adds_eos, &self.after) {
            self.doubt = Some(
                "tokenizer_config.json and tokenizer.json disagree about a prompt's first or last token",
            );
        }
    }

    /// The ids of `text` as it is.
    ///
    /// # Errors
    /// When the library fails, or cannot be trusted to do as the engine does.
    pub(super) fn encode(&self, text: &str, segments: &Segments) -> Result<Vec<u32>, CannotTokenise> {
        // A token is rarely shorter than three bytes of text.
        let mut ids = Vec::with_capacity(text.len() / 3 + self.before.len() + self.after.len());
        if !self.cuts {
            segments.with(text, || self.piece(text), |piece| ids.extend_from_slice(piece))?;
            return Ok(ids);
        }
        for segment in self.cut(text) {
            match segment {
                Segment::SpecialToken(id) => ids.push(id),
                Segment::Text { text, .. } => {
                    segments.with(text, || self.piece(text), |piece| ids.extend_from_slice(piece))?;
                }
            }
        }
        Ok(ids)
    }

    /// The ids of `text` as a completion's prompt.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(super) fn encode_prompt(&self, text: &str, segments: &Segments) -> Result<Vec<u32>, CannotTokenise> {
        if let Some(doubt) = self.doubt {
            return Err(CannotTokenise(doubt.to_owned()));
        }
        let mut ids = self.encode(text, segments)?;
        ids.splice(0..0, self.before.iter().copied());
        ids.extend_from_slice(&self.after);
        Ok(ids)
    }

    /// The text of ids; ids that nobody knows are left out, and broken characters are replaced.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        self.pipeline.decode(ids, false).unwrap_or_default()
    }

    /// The text of an added token.
    pub(super) fn added(&self, id: u32) -> Option<String> {
        self.pipeline.get_added_vocabulary().simple_id_to_token(id)
    }

    fn cut<'t>(&'t self, text: &'t str) -> impl Iterator<Item = Segment<'t>> {
        SpecialSegmentIterator::new(text, self.pipeline.get_added_vocabulary(), false, false)
    }

    fn piece(&self, text: &str) -> Result<Vec<u32>, CannotTokenise> {
        if !self.composes || text.is_ascii() {
            return plain(&self.pipeline, text);
        }
        let composed: String = text.nfc().map(|(c, _)| c).collect();
        // The engine's library looks for these tokens before it composes, ours would look afterwards.
        if composed != text && self.cut(&composed).any(|segment| matches!(segment, Segment::SpecialToken(_)))
        {
            return Err(CannotTokenise("the text composes into a special token".to_owned()));
        }
        plain(&self.pipeline, &composed)
    }
}

fn plain(pipeline: &PipelineTokenizer, text: &str) -> Result<Vec<u32>, CannotTokenise> {
    let mut tokens = Vec::with_capacity(text.len() / 3);
    pipeline
        .encode_into(text, &EncodeOptions::no_specials(), &mut tokens)
        .map_err(|e| CannotTokenise(format!("the tokenizer failed: {e}")))?;
    Ok(tokens.into_iter().map(PipelineToken::id).collect())
}

/// Removes Unicode's form C from the file, which we do ourselves: the library's tables are newer than those that
/// engines run, and disagree about characters that came after Unicode 9. Whether it was there.
fn takes_over_normalizer(normalizer: &mut Json) -> Result<bool, String> {
    let steps = match normalizer["type"].as_str() {
        Some("Sequence") => normalizer["normalizers"].as_array().cloned().unwrap_or_default(),
        Some(_) => vec![normalizer.clone()],
        None => return Ok(false),
    };
    let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or("nameless")).collect();
    if kinds.iter().all(|kind| *kind == "NFC") {
        *normalizer = Json::Null;
        return Ok(!kinds.is_empty());
    }
    match kinds.iter().find(|kind| !["Replace", "Prepend"].contains(kind)) {
        Some(other) => Err(format!("normalises text by `{other}`, which is not done here")),
        None => Ok(false),
    }
}

/// Whether a pre-tokenizer treats a text's beginning like any other place.
fn forgets_its_place(pre_tokenizer: &Json) -> bool {
    match pre_tokenizer["type"].as_str() {
        None => pre_tokenizer.is_null(),
        Some("Sequence") => {
            pre_tokenizer["pretokenizers"].as_array().is_some_and(|steps| steps.iter().all(forgets_its_place))
        }
        Some("Metaspace") => matches!(pre_tokenizer["prepend_scheme"].as_str(), Some("always" | "never")),
        Some(kind) => {
            ["ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"].contains(&kind)
        }
    }
}

/// What the post-processor puts before and after a text.
fn surroundings(pipeline: &PipelineTokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    const PROBE: &str = "a";
    let bare = plain(pipeline, PROBE).map_err(|e| e.to_string())?;
    let mut tokens = Vec::new();
    let encoded = pipeline.encode_into(PROBE, &EncodeOptions::default(), &mut tokens);
    encoded.map_err(|e| format!("has a post-processor that fails: {e}"))?;
    let whole = PipelineToken::cast_slice(&tokens);
    let at = whole.windows(bare.len().max(1)).position(|window| window == bare);
    let at = at.ok_or("has a post-processor that changes a text's own tokens")?;
    Ok((whole[..at].to_vec(), whole[at + bare.len()..].to_vec()))
}
