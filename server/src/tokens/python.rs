//! Python's habits that chat templates rely on: how it prints values, writes JSON, strips text and formats time.
//!
//! Where this file cannot be sure to print what Python would, it is an error, never a guess.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// What Python's `str.strip()` removes: Unicode's white space and four control characters more.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.title()`: a letter after anything but a letter is a capital.
///
/// # Errors
/// When the text is not ASCII: scripts have title cases of their own.
pub(super) fn title(text: &str) -> Result<String, Error> {
    if !text.is_ascii() {
        return Err(unsure("the title case of a text that is not ASCII"));
    }
    let mut within = false;
    let turn = |c: char| {
        let first = !std::mem::replace(&mut within, c.is_ascii_alphabetic());
        if first { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
    };
    Ok(text.chars().map(turn).collect())
}

/// `str(value)`, as `{{ value }}` prints it.
///
/// # Errors
/// When Python's spelling is not certain.
pub(super) fn display(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => {
            out.push_str(value.as_str().unwrap_or_default());
            Ok(())
        }
        _ => repr(value, out),
    }
}

/// `repr(value)`.
///
/// # Errors
/// When Python's spelling is not certain.
pub(super) fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(value, out)?,
        ValueKind::String => repr_text(value.as_str().unwrap_or_default(), out)?,
        ValueKind::Seq if !value.is_tuple() => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(&item, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(&key, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        other => return Err(unsure(format!("Python's spelling of a value of kind {other}"))),
    }
    Ok(())
}

fn repr_text(text: &str, out: &mut String) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_control() => write!(out, "\\x{:02x}", c as u32)?,
            c if c.is_ascii() || c.is_alphanumeric() => out.push(c),
            c => return Err(unsure(format!("whether Python prints {c:?} as it is"))),
        }
    }
    out.push(quote);
    Ok(())
}

/// Every whole number up to here is a float of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn number(value: &Value, out: &mut String) -> Result<(), Error> {
    if value.is_integer() {
        write!(out, "{value}")?;
        return Ok(());
    }
    // What a JSON parser hands us as a float may have been an integer that Python would have kept.
    let float = f64::try_from(value.clone())?;
    if !float.is_finite()
        || float.abs() > EXACT && float.fract() == 0.0
        || (float == 0.0 && float.is_sign_negative())
    {
        return Err(unsure(format!("how Python would have read the number {float}")));
    }
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => out.push_str(&text),
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
            write!(out, "{digits}e{sign}{exponent:0>2}")?;
        }
    }
    Ok(())
}

/// `json.dumps`, with the arguments that `transformers` lets a template choose.
///
/// # Errors
/// For what JSON cannot hold, and when Python's spelling is not certain.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        None => None,
        Some(indent) => match indent.as_str() {
            Some(text) => Some(text.to_owned()),
            None => Some(" ".repeat(usize::try_from(indent)?)),
        },
    };
    let separators = kwargs.get::<Option<Vec<String>>>("separators")?;
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two strings")),
    };
    let mut writer = Json {
        out: String::new(),
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    kwargs.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Json {
    out: String,
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Json {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => number(value, &mut self.out)?,
            ValueKind::String => self.text(value.as_str().unwrap_or_default())?,
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.wrapped(['[', ']'], &items, depth, |json, item| json.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
                }
                self.wrapped(['{', '}'], &keys, depth, |json, key| {
                    let name = key.as_str().ok_or_else(|| unsure("the JSON of a key that is no string"))?;
                    json.text(name)?;
                    json.out.push_str(&json.key.clone());
                    json.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            other => {
                let message = format!("a value of kind {other} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn wrapped(
        &mut self,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(&self.item.clone());
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || self.ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}")?;
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// `datetime.strftime` of a UTC time, for the directives that templates use.
///
/// # Errors
/// For any other directive.
pub(super) fn strftime(format: &str, unix_seconds: u64) -> Result<String, Error> {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    let (weekday, name) = (DAYS[(days % 7) as usize], MONTHS[month as usize - 1]);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => write!(out, "{year}")?,
            Some('y') => write!(out, "{:02}", year % 100)?,
            Some('m') => write!(out, "{month:02}")?,
            Some('d') => write!(out, "{day:02}")?,
            Some('e') => write!(out, "{day:2}")?,
            Some('B') => out.push_str(name),
            Some('b' | 'h') => out.push_str(&name[..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('H') => write!(out, "{hour:02}")?,
            Some('I') => write!(out, "{:02}", (hour + 11) % 12 + 1)?,
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => write!(out, "{minute:02}")?,
            Some('S') => write!(out, "{second:02}")?,
            Some('F') => write!(out, "{year}-{month:02}-{day:02}")?,
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}")?,
            Some('%') => out.push('%'),
            other => return Err(unsure(format!("strftime's directive %{}", other.unwrap_or(' ')))),
        }
    }
    Ok(out)
}

/// Year, month and day of a count of days since 1970-01-01 (Gregorian; eras of 400 years that begin in March).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn unsure(of: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("this gateway does not know {of}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: &str) -> Result<String, Error> {
        let mut out = String::new();
        display(&serde_json::from_str(json).unwrap(), &mut out)?;
        Ok(out)
    }

    fn dumped(json: &str, kwargs: &[(&str, Value)]) -> String {
        let value: Value = serde_json::from_str(json).unwrap();
        tojson(&value, kwargs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()).unwrap()
    }

    #[test]
    fn values_print_as_python_prints_them() {
        for (json, python) in [
            ("true", "True"),
            ("null", "None"),
            ("1.0", "1.0"),
            ("1e16", ""),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.5e-7", "1.5e-07"),
            (r#"{"a":[1,"it's"],"b":"\n"}"#, r#"{'a': [1, "it's"], 'b': '\n'}"#),
        ] {
            assert_eq!(printed(json).unwrap_or_default(), python, "{json}");
        }
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let json = r#"{"b":[1,2.50,{}],"a":"é<\u0001\u007f\"😀"}"#;
        assert_eq!(dumped(json, &[]), "{\"b\": [1, 2.5, {}], \"a\": \"é<\\u0001\u{7f}\\\"😀\"}");
        assert_eq!(
            dumped(json, &[("sort_keys", true.into()), ("ensure_ascii", true.into())]),
            "{\"a\": \"\\u00e9<\\u0001\\u007f\\\"\\ud83d\\ude00\", \"b\": [1, 2.5, {}]}"
        );
        assert_eq!(dumped("[1,[],[2]]", &[("indent", 2.into())]), "[\n  1,\n  [],\n  [\n    2\n  ]\n]");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "Thu 01 January 1970"),
            (951_782_400, "Tue 29 February 2000"),
            (4_107_542_400, "Mon 01 March 2100"),
        ] {
            assert_eq!(strftime("%a %d %B %Y", seconds).unwrap(), date);
        }
        assert!(strftime("%Q", 0).is_err());
    }
}
