//! Keys of objects are any bytes; in addresses and answers they are percent-encoded.

use crate::error::ApiError;

/// The parameters of a question, decoded.
pub(super) struct Query(Vec<(Vec<u8>, Vec<u8>)>);

/// A key as it can be put into an address: what is not plain is `%XX`.
pub(super) fn shown(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' | b':' | b',' => {
                text.push(char::from(*byte));
            }
            byte => {
                text.push('%');
                text.extend(
                    [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])),
                );
            }
        }
    }
    text
}

/// The bytes that a part of an address stands for.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, more)) = rest.split_first() {
        rest = more;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digit = |at: usize| more.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(ApiError::invalid(format!(
                "{text:?}: a % must be followed by two hexadecimal digits; a % of the key itself is written %25."
            )));
        };
        bytes.push((high * 16 + low) as u8);
        rest = &more[2..];
    }
    Ok(bytes)
}

/// The name that a part of an address stands for.
pub(super) fn name(text: &str) -> Result<String, ApiError> {
    let wrong = |_| ApiError::invalid(format!("{text:?} is no UTF-8, and so no name."));
    String::from_utf8(bytes(text)?).map_err(wrong)
}

// === impl Query ===

impl Query {
    /// Only these parameters may be there, each once.
    pub(super) fn read(text: &str, allowed: &[&str]) -> Result<Self, ApiError> {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // As forms are sent: a plus of the key itself is written %2B.
            let (name, value) = (bytes(&name.replace('+', " "))?, bytes(&value.replace('+', " "))?);
            let said = String::from_utf8_lossy(&name).into_owned();
            if !allowed.iter().any(|known| known.as_bytes() == name) {
                let known = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                return Err(wrong(&said, &format!("there is no such parameter here; allowed are: {known}")));
            }
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(wrong(&said, "it is there twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| &**value)
    }

    pub(super) fn number(
        &self,
        name: &str,
        default: u64,
        allowed: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, ApiError> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        number.filter(|number| allowed.contains(number)).ok_or_else(|| {
            let found = String::from_utf8_lossy(text);
            wrong(name, &format!("found {found:?}; allowed is {} to {}", allowed.start(), allowed.end()))
        })
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some(b"false") => Ok(false),
            Some(b"true") => Ok(true),
            Some(_) => Err(wrong(name, "allowed are true and false")),
        }
    }
}

pub(super) fn wrong(param: &str, why: &str) -> ApiError {
    ApiError::Invalid { message: format!("{param}: {why}."), param: Some(param.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_comes_back_from_how_it_is_shown() {
        let all: Vec<u8> = (0..=255).collect();
        for key in [&all[..], b"", b"plain", b"a/b%2Fc d+e", "\u{1f600}".as_bytes()] {
            let text = shown(key);
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{text}");
            assert_eq!(bytes(&text).unwrap(), key, "{text}");
        }
        assert_eq!(shown(b"vllm@m:1,x/\xff"), "vllm@m:1,x%2F%FF");
        assert_eq!(bytes("a%2fb").unwrap(), b"a/b");
    }

    #[test]
    fn what_is_broken_is_refused_and_never_guessed_at() {
        for text in ["%", "a%2", "%zz", "%+1", "%%41"] {
            assert!(bytes(text).unwrap_err().to_string().contains("two hexadecimal digits"), "{text}");
        }
        assert!(name("%ff").is_err());
        let read = |text| Query::read(text, &["prefix", "count", "all"]);
        for text in ["prefx=a", "prefix=a&prefix=b", "prefix=%", "%ff=1"] {
            assert!(read(text).is_err(), "{text}");
        }
        let query = read("prefix=a+b%2B%FF&count=7&all=true").unwrap();
        assert_eq!(query.get("prefix"), Some(&b"a b+\xff"[..]));
        assert_eq!(query.number("count", 1, 1..=9).unwrap(), 7);
        assert!(query.flag("all").unwrap());
        assert_eq!(read("").unwrap().number("count", 5, 1..=9).unwrap(), 5);
        for text in ["count=0", "count=10", "count=x", "count="] {
            assert!(
                read(text).unwrap().number("count", 5, 1..=9).unwrap_err().to_string().contains("1 to 9")
            );
        }
        assert!(read("all=yes").unwrap().flag("all").is_err());
    }
}
