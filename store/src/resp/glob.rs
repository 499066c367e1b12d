//! Patterns as in Redis: `*`, `?`, `[a-z]`, `[^a]` and `\` before what is meant as it is.

/// Whether a text fits a pattern. It takes at most the product of their lengths in steps.
pub fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where the last star was, and what it has not swallowed yet.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            star = Some((rest, text));
            pattern = rest;
            continue;
        }
        let next = match (pattern.is_empty(), text) {
            (true, []) => return true,
            (false, [byte, rest @ ..]) => one(pattern, *byte).map(|pattern| (pattern, rest)),
            _ => None,
        };
        if let Some(next) = next {
            (pattern, text) = next;
            continue;
        }
        // The last star takes one byte more. Earlier ones need not: they found the earliest place already.
        let Some((after, [_, rest @ ..])) = star else { return false };
        star = Some((after, rest));
        (pattern, text) = (after, rest);
    }
}

/// What is left of a pattern that begins with something that this byte fits.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', escaped, rest @ ..] => (*escaped == byte).then_some(rest),
        [own, rest @ ..] => (*own == byte).then_some(rest),
        [] => None,
    }
}

/// The inside of `[…]`; one that does not end ends with the pattern.
fn class(inside: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match inside {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut found = false;
    loop {
        rest = match rest {
            [] => break,
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [b'\\', escaped, after @ ..] => {
                found |= *escaped == byte;
                after
            }
            [from, b'-', to, after @ ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                after
            }
            [own, after @ ..] => {
                found |= *own == byte;
                after
            }
        };
    }
    (found != negated).then_some(rest)
}
