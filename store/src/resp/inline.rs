//! Words and numbers as people and clients write them.

/// Reads a whole number, as strictly as Redis: no sign `+`, no spaces, no leading zeros.
pub fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] => return None,
        [b'0', ..] => return (digits.len() == 1 && !negative).then_some(0),
        _ => (),
    }
    let mut number: i64 = 0;
    for digit in digits {
        let digit = i64::from(digit.wrapping_sub(b'0'));
        if !(0..10).contains(&digit) {
            return None;
        }
        // Downwards, since the least number has no counterpart.
        number = number.checked_mul(10)?.checked_sub(digit)?;
    }
    if negative { Some(number) } else { number.checked_neg() }
}

/// Splits a line into words, with quotes as in a shell; `None` if a quote does not end, or does not end a word.
pub fn split(line: &[u8], words: &mut Vec<u8>, places: &mut Vec<(u32, u32)>) -> Option<()> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(());
        }
        let from = words.len() as u32;
        rest = word(rest, words)?;
        places.push((from, words.len() as u32));
    }
}

/// One word; what follows it.
fn word<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] | [b' ' | b'\t' | b'\r' | b'\n' | b'\x0c', ..] => return Some(rest),
            [b'"', inside @ ..] => return quoted(inside, words),
            [b'\'', inside @ ..] => return verbatim(inside, words),
            [byte, more @ ..] => {
                words.push(*byte);
                rest = more;
            }
        }
    }
}

fn quoted<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, more) = match rest {
            [b'"', more @ ..] => return ends(more),
            [b'\\', b'x', high, low, more @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), more)
            }
            [b'\\', escaped, more @ ..] => (meant(*escaped), more),
            [byte, more @ ..] => (*byte, more),
            [] => return None,
        };
        words.push(byte);
        rest = more;
    }
}

fn verbatim<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, more) = match rest {
            [b'\'', more @ ..] => return ends(more),
            [b'\\', b'\'', more @ ..] => (b'\'', more),
            [byte, more @ ..] => (*byte, more),
            [] => return None,
        };
        words.push(byte);
        rest = more;
    }
}

/// A closing quote ends a word, or nothing.
fn ends(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

fn meant(escaped: u8) -> u8 {
    match escaped {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).map_or(0, |digit| digit as u8)
}
