//! What is asked of an indexer: tokens or hashes, as JSON or as bare numbers.

use std::borrow::Cow;

use blocks::{BlockSize, Hasher, Seed, TokensHash};
use serde::Deserialize;

use super::registry::{Partition, default_group};

/// A question, as it came.
#[derive(Debug, PartialEq)]
pub(super) struct Question {
    pub(super) partition: Partition,
    about: About,
    lora: Option<String>,
    salt: Option<String>,
}

#[derive(Debug, PartialEq)]
enum About {
    Tokens(Vec<u32>),
    Hashes(Vec<TokensHash>),
}

/// Which of the two questions it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tokens,
    Hashes,
}

/// The type of bodies that are bare numbers, least byte first.
pub(super) const BARE: &str = "application/octet-stream";
/// Model, group, adapter and salt are names; nobody's are longer.
pub(super) const MAX_NAME: usize = 1_024;

/// A body in JSON, its numbers apart or not.
#[derive(Deserialize)]
struct Body<'a> {
    token_ids: Option<Vec<u32>>,
    block_hashes: Option<Vec<Hash>>,
    #[serde(borrow)]
    model_name: Cow<'a, str>,
    #[serde(borrow)]
    routing_group: Option<Cow<'a, str>>,
    #[serde(borrow)]
    lora_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    cache_salt: Option<Cow<'a, str>>,
}

/// A hash as others write it: signed, or not.
#[derive(Deserialize)]
#[serde(untagged)]
enum Hash {
    Signed(i64),
    Unsigned(u64),
}

// === impl Question ===

impl Question {
    /// Reads a body in JSON.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn json(kind: Kind, body: &[u8]) -> Result<Self, String> {
        let key = kind.key();
        // Nearly all of a body is one list of numbers. It is read apart, and what is left is a few names; if anything about
        // it is unusual, the whole is read again in the usual way, which knows what to say.
        if let Some((around, numbers)) = numbers(kind, body)
            && let Ok(body) = serde_json::from_slice::<Body<'_>>(&around)
            && (body.token_ids.is_some(), body.block_hashes.is_some())
                == (kind == Kind::Tokens, kind == Kind::Hashes)
        {
            return body.question(numbers);
        }
        let mut body: Body<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let about = match kind {
            Kind::Tokens => body.token_ids.take().map(About::Tokens),
            Kind::Hashes => {
                body.block_hashes.take().map(|hashes| About::Hashes(hashes.iter().map(Hash::hash).collect()))
            }
        };
        body.question(about.ok_or_else(|| format!("missing field `{key}`"))?)
    }

    /// Reads a body of bare numbers; the names stand in the query of the request's target.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn bare(kind: Kind, query: &str, body: &[u8]) -> Result<Self, String> {
        let mut names = [const { None }; 4];
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let at = ["model_name", "routing_group", "lora_name", "cache_salt"]
                .iter()
                .position(|known| *known == key);
            if let Some(at) = at {
                names[at] = Some(Cow::Owned(unescape(value)?));
            }
        }
        let [model, routing_group, lora_name, cache_salt] = names;
        let model_name = model.ok_or("missing `model_name` in the query of the target")?;
        let about = match kind {
            Kind::Tokens => About::Tokens(words(body).ok_or("the body is not a number of 4-byte token ids")?),
            Kind::Hashes => {
                let hashes: Vec<u64> = words(body).ok_or("the body is not a number of 8-byte hashes")?;
                About::Hashes(hashes.into_iter().map(TokensHash).collect())
            }
        };
        Body { token_ids: None, block_hashes: None, model_name, routing_group, lora_name, cache_salt }
            .question(about)
    }

    /// The chain that is asked about.
    pub(super) fn chain(self, block_size: BlockSize) -> Vec<TokensHash> {
        match self.about {
            About::Hashes(hashes) => hashes,
            About::Tokens(tokens) => {
                let seed = Seed::of(self.lora.as_deref(), self.salt.as_deref());
                Hasher::new(block_size, seed).tokens_hashes(&tokens)
            }
        }
    }
}

impl Body<'_> {
    fn question(self, about: About) -> Result<Question, String> {
        let Self { model_name, routing_group, lora_name, cache_salt, .. } = self;
        let long = [Some(&model_name), routing_group.as_ref(), lora_name.as_ref(), cache_salt.as_ref()];
        if long.into_iter().flatten().any(|name| name.len() > MAX_NAME) {
            return Err(format!("a name is longer than {MAX_NAME} bytes"));
        }
        if matches!(about, About::Hashes(_)) && cache_salt.is_some() {
            return Err("cache_salt: hashes hold it already; leave it out".to_owned());
        }
        let group = routing_group.map_or_else(default_group, Cow::into_owned);
        let partition = Partition { model: model_name.into_owned(), group };
        let (lora, salt) = (lora_name.map(Cow::into_owned), cache_salt.map(Cow::into_owned));
        Ok(Question { partition, about, lora, salt })
    }
}

impl Kind {
    const fn key(self) -> &'static str {
        match self {
            Self::Tokens => "token_ids",
            Self::Hashes => "block_hashes",
        }
    }
}

impl Hash {
    fn hash(&self) -> TokensHash {
        match self {
            Self::Signed(hash) => TokensHash(hash.cast_unsigned()),
            Self::Unsigned(hash) => TokensHash(*hash),
        }
    }
}

// === Numbers ===

/// The list of numbers in a body, and the body with an empty list in its place. `None`: it has another form than usual.
fn numbers(kind: Kind, body: &[u8]) -> Option<(Vec<u8>, About)> {
    let key = kind.key().as_bytes();
    let (mut from, mut list) = (0, None);
    while list.is_none() {
        let quote = from + body[from..].iter().position(|byte| *byte == b'"')?;
        from = quote + 1;
        let Some(rest) = body[from..].strip_prefix(key).and_then(|rest| rest.strip_prefix(b"\"")) else {
            continue;
        };
        // Nested or escaped, it is not the key that is meant; whatever looks so is left to the usual way.
        let before = &body[..quote];
        let mut opened = before.iter().filter(|byte| **byte == b'{');
        let nested = opened.next().is_none() || opened.next().is_some();
        if nested || before.contains(&b'[') || before.ends_with(b"\\") {
            return None;
        }
        // A value may be called like the key; only a key has a colon behind it.
        let Some(rest) = rest.trim_ascii_start().strip_prefix(b":") else { continue };
        list = rest.trim_ascii_start().strip_prefix(b"[");
    }
    let list = list?;
    // Most numbers are of five digits and a comma, or of nineteen.
    let (about, rest) = match kind {
        Kind::Tokens => {
            let mut tokens = Vec::with_capacity(list.len() / 6);
            let rest = each(list, |negative, value| {
                tokens.push(u32::try_from(value).ok().filter(|_| !negative)?);
                Some(())
            })?;
            (About::Tokens(tokens), rest)
        }
        Kind::Hashes => {
            let mut hashes = Vec::with_capacity(list.len() / 18);
            let rest = each(list, |negative, value| {
                let hash =
                    if negative { i64::try_from(value).ok()?.wrapping_neg().cast_unsigned() } else { value };
                hashes.push(TokensHash(hash));
                Some(())
            })?;
            (About::Hashes(hashes), rest)
        }
    };
    let begin = body.len() - list.len();
    Some(([&body[..begin], b"]", rest].concat(), about))
}

/// Calls `take` with each whole number of a list; what stands behind its end. `None`: it is not that simple.
fn each(list: &[u8], mut take: impl FnMut(bool, u64) -> Option<()>) -> Option<&[u8]> {
    let mut rest = list.trim_ascii_start();
    if let Some(behind) = rest.strip_prefix(b"]") {
        return Some(behind);
    }
    loop {
        let negative = rest.first() == Some(&b'-');
        rest = &rest[usize::from(negative)..];
        let (value, digits) = number(rest)?;
        // JSON has no leading zeros.
        if digits == 0 || digits > 1 && rest[0] == b'0' {
            return None;
        }
        take(negative, value)?;
        rest = &rest[digits..];
        loop {
            match rest.split_first()? {
                (b',', behind) => {
                    rest = behind;
                    break;
                }
                (b']', behind) => return Some(behind),
                (b' ' | b'\n' | b'\r' | b'\t', behind) => rest = behind,
                _ => return None,
            }
        }
        while let Some((b' ' | b'\n' | b'\r' | b'\t', behind)) = rest.split_first() {
            rest = behind;
        }
    }
}

/// The number that a text begins with, and its digits.
#[inline]
fn number(text: &[u8]) -> Option<(u64, usize)> {
    // Eight bytes at once: which of them are digits, and what they say. Token ids have six.
    if let Some(eight) = text.first_chunk() {
        let digits = u64::from_le_bytes(*eight) ^ 0x3030_3030_3030_3030;
        let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
        let count = others.trailing_zeros() / 8;
        if (1..8).contains(&count) {
            // The last digit stands in the highest byte; what is behind it falls out, and zeros come in before it.
            let digits = digits << (64 - 8 * count);
            let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
            let high = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
            let low = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
            return Some((high.wrapping_add(low) >> 32, count as usize));
        }
    }
    let (mut value, mut digits) = (0_u64, 0);
    while let Some(digit) = text.get(digits).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
        digits += 1;
    }
    Some((value, digits))
}

/// Bare numbers, least byte first.
fn words<const N: usize, W: Word<N>>(body: &[u8]) -> Option<Vec<W>> {
    let (words, rest) = body.as_chunks::<N>();
    rest.is_empty().then(|| words.iter().map(|bytes| W::of(*bytes)).collect())
}

trait Word<const N: usize> {
    fn of(bytes: [u8; N]) -> Self;
}

impl Word<4> for u32 {
    fn of(bytes: [u8; 4]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

impl Word<8> for u64 {
    fn of(bytes: [u8; 8]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

/// A value of a target's query.
pub(super) fn unescape(value: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                rest = behind.get(2..).unwrap_or_default();
                byte.ok_or_else(|| format!("`{value}` has a % without two digits behind it"))?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).map_err(|_| format!("`{value}` is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(body: &str) -> Result<Question, String> {
        Question::json(Kind::Tokens, body.as_bytes())
    }

    #[test]
    fn names_and_numbers_may_stand_in_any_order_and_look_like_each_other() {
        let partition = Partition { model: "m".into(), group: "default".into() };
        let about = About::Tokens(vec![1, 2, 3]);
        let plain = Ok(Question { partition, about, lora: None, salt: None });
        assert_eq!(tokens(r#"{"token_ids":[1,2,3],"model_name":"m"}"#), plain);
        for same in [
            r#" { "model_name" : "m" , "token_ids" : [ 1 , 2,3 ] , "new_field": {"a": ["]"]} } "#,
            r#"{"tenant_id":"token_ids","model_name":"m","token_ids":[1,2,3]}"#,
            r#"{"x":"\"token_ids\":[7]","model_name":"m","token_ids":[1,2,3]}"#,
            r#"{"x":{"token_ids":[7]},"model_name":"m","token_ids":[1,2,3]}"#,
            r#"{"\"token_ids":[7],"model_name":"m","token_ids":[1,2,3]}"#,
            r#"{"x":[{"token_ids":[7]}],"model_name":"m","token_ids":[1,2,3]}"#,
            "{\"model_name\":\"\\u006d\",\"token_ids\":\n[1,\n2,3\n]}",
        ] {
            assert_eq!(tokens(same), plain, "{same}");
        }
    }

    #[test]
    fn what_is_no_question_is_told_what_it_lacks() {
        for (body, word) in [
            ("", "EOF"),
            ("[]", "expected"),
            (r#"{"model_name":"m"}"#, "token_ids"),
            (r#"{"token_ids":[1]}"#, "model_name"),
            (r#"{"token_ids":[-1],"model_name":"m"}"#, "-1"),
            (r#"{"token_ids":[4294967296],"model_name":"m"}"#, "4294967296"),
            (r#"{"token_ids":[1.5],"model_name":"m"}"#, "1.5"),
            (r#"{"token_ids":["1"],"model_name":"m"}"#, "string"),
            (r#"{"token_ids":[01],"model_name":"m"}"#, "invalid number"),
            (r#"{"token_ids":[1,],"model_name":"m"}"#, "trailing comma"),
            (r#"{"token_ids":[1],"token_ids":[2],"model_name":"m"}"#, "duplicate"),
            (r#"{"x":{"token_ids":[1]},"model_name":"m"}"#, "token_ids"),
            (r#"{"token_ids":[1"#, "EOF"),
            (r#"{"token_ids":[1],"model_name":7}"#, "string"),
        ] {
            let why = tokens(body).unwrap_err();
            assert!(why.contains(word), "{body}: {why}");
        }
        let salted = br#"{"block_hashes":[1],"model_name":"m","cache_salt":"s"}"#;
        assert!(Question::json(Kind::Hashes, salted).unwrap_err().contains("cache_salt"));
        let long = format!(r#"{{"token_ids":[1],"model_name":"{}"}}"#, "m".repeat(MAX_NAME + 1));
        assert!(tokens(&long).unwrap_err().contains("longer"));
    }

    #[test]
    fn bare_numbers_are_named_in_the_target() {
        let body = [7_u32, 8].map(u32::to_le_bytes).concat();
        let bare = Question::bare(Kind::Tokens, "model_name=a%2Fb+c&lora_name=l&x=1&&", &body).unwrap();
        let json = tokens(r#"{"token_ids":[7,8],"model_name":"a/b c","lora_name":"l"}"#).unwrap();
        assert_eq!(bare, json);
        let hashes = Question::bare(Kind::Hashes, "model_name=m", &u64::MAX.to_le_bytes()).unwrap();
        assert_eq!(
            hashes,
            Question::json(Kind::Hashes, br#"{"block_hashes":[-1],"model_name":"m"}"#).unwrap()
        );
        assert!(Question::bare(Kind::Tokens, "model_name=m", &body[..7]).unwrap_err().contains("4-byte"));
        assert!(Question::bare(Kind::Tokens, "", &body).unwrap_err().contains("model_name"));
        assert!(Question::bare(Kind::Tokens, "model_name=%zz", &body).unwrap_err().contains('%'));
        assert!(Question::bare(Kind::Tokens, "model_name=%ff", &body).unwrap_err().contains("UTF-8"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_short_way_reads_what_the_usual_one_reads(
            hashes in proptest::collection::vec(any::<i64>(), 0..40),
            unsigned in proptest::collection::vec(any::<u64>(), 0..4),
            space in "[ \n\t]{0,3}",
        ) {
            let words: Vec<String> = hashes
                .iter()
                .map(i64::to_string)
                .chain(unsigned.iter().map(u64::to_string))
                .map(|number| format!("{space}{number}{space}"))
                .collect();
            let body = format!(r#"{{"block_hashes":[{}],"model_name":"m"}}"#, words.join(","));
            let (_, short) = numbers(Kind::Hashes, body.as_bytes()).unwrap();
            let usual: Body<'_> = serde_json::from_str(&body).unwrap();
            let usual = usual.block_hashes.unwrap().iter().map(Hash::hash).collect();
            prop_assert_eq!(short, About::Hashes(usual));
        }

        #[test]
        fn every_number_is_read(value: u64, fewer in 0_u32..20, behind in "[^0-9]{0,9}") {
            let value = value / 10_u64.pow(fewer);
            let text = format!("{value}{behind}");
            prop_assert_eq!(number(text.as_bytes()), Some((value, value.to_string().len())));
        }

        #[test]
        fn a_body_that_was_changed_anywhere_is_read_the_same_by_both(at in 0_usize..60, byte: u8) {
            let mut body = br#"{"token_ids":[1,20,300],"model_name":"m","cache_salt":null}"#.to_vec();
            let at = at % body.len();
            body[at] = byte;
            let usual = serde_json::from_slice::<Body<'_>>(&body).map_err(|error| error.to_string()).and_then(|mut body| {
                let about = body.token_ids.take().map(About::Tokens);
                body.question(about.ok_or("missing field `token_ids`")?)
            });
            prop_assert_eq!(Question::json(Kind::Tokens, &body), usual);
        }
    }
}
