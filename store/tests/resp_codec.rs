//! The codec as claims: any cut gives the same commands, what is written can be read, numbers and patterns are exact.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use store::client;
use store::resp::contract::Part;
use store::resp::decode::{Decoder, Limits, Step};
use store::resp::out::{COPIED, Out, Protocol, SLICES};
use store::resp::{Refusal, glob, inline};

const LIMITS: Limits = Limits { argument: 100, arguments: 50, head: 4_000 };

fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Commands as they are read when bytes arrive in pieces of these lengths; values are put back where they stood.
fn read(mut bytes: &[u8], cuts: &[usize]) -> Vec<Vec<Vec<u8>>> {
    let mut decoder = Decoder::new(LIMITS);
    let mut cuts = cuts.iter().cycle();
    let (mut commands, mut values) = (Vec::new(), Vec::<Vec<u8>>::new());
    loop {
        match decoder.step() {
            Step::More => {
                decoder.park();
                let space = decoder.space();
                let count = (*cuts.next().unwrap()).min(bytes.len()).min(space.len());
                if bytes.is_empty() {
                    return commands;
                }
                space[..count].copy_from_slice(&bytes[..count]);
                decoder.filled(count);
                bytes = &bytes[count..];
            }
            Step::Value(len) => {
                values.push(vec![0; len]);
                decoder.accept();
            }
            Step::Fill => {
                let place = values.last_mut().unwrap();
                let from = place.len() - decoder.gap();
                let taken = decoder.take(&mut place[from..]);
                if decoder.gap() > 0 {
                    let count = (*cuts.next().unwrap()).min(bytes.len()).min(decoder.gap());
                    if count == 0 {
                        return commands;
                    }
                    place[from + taken..from + taken + count].copy_from_slice(&bytes[..count]);
                    decoder.bypassed(count);
                    bytes = &bytes[count..];
                }
            }
            Step::Ready => {
                let args = decoder.args();
                let mut left = std::mem::take(&mut values).into_iter();
                let word = |index: usize| match decoder.command() {
                    Some(command) if command.takes_value_at(index) => left.next().unwrap(),
                    _ => args.get(index).to_vec(),
                };
                commands.push((0..args.count()).map(word).collect());
                decoder.done();
            }
            Step::Broken(broken) => panic!("{broken:?}"),
        }
    }
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        Just(b"\r\n".to_vec()),
        Just(b"$3\r\nGET\r\n".to_vec())
    ]
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let name =
        prop::sample::select(vec!["GET", "set", "MGET", "mset", "SETEX", "PSETEX", "SETNX", "NONE", "DEL"]);
    (name, prop::collection::vec(word(), 0..12)).prop_map(|(name, words)| {
        let mut command = vec![name.as_bytes().to_vec()];
        command.extend(words);
        // What comes before a value is not kept, as its place knows it: only the value is looked at.
        command
    })
}

/// What is kept of a command: values and what follows the last of them, and all of one without.
fn kept(command: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let Some(known) = store::resp::command::find(&command[0]) else { return command.to_vec() };
    let last = (0..command.len()).rev().find(|index| known.takes_value_at(*index));
    let keep = |index: usize| last.is_none_or(|last| index > last || known.takes_value_at(index));
    command.iter().enumerate().map(|(at, word)| if keep(at) { word.clone() } else { Vec::new() }).collect()
}

proptest! {
    #[test]
    fn any_cut_gives_the_commands_that_were_sent(
        commands in prop::collection::vec(command(), 0..12),
        cuts in prop::collection::vec(1usize..300, 1..20),
    ) {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        let sent: Vec<_> = commands.iter().map(|command| kept(command)).collect();
        prop_assert_eq!(read(&bytes, &cuts), sent);
    }

    #[test]
    fn answers_are_read_as_they_were_written(
        sizes in prop::collection::vec(prop_oneof![0usize..200, COPIED - 2..COPIED + 2, Just(100_000)], 1..90),
        cuts in prop::collection::vec(1usize..200_000, 1..9),
        three in any::<bool>(),
    ) {
        let mut out = Out::default();
        out.protocol = if three { Protocol::Three } else { Protocol::Two };
        let values: Vec<Bytes> = sizes.iter().enumerate().map(|(at, len)| Bytes::from(vec![at as u8; *len])).collect();
        let mut cuts = cuts.iter().cycle();
        let mut sent = BytesMut::new();
        for (at, value) in values.iter().enumerate() {
            out.value(value.clone());
            out.null();
            out.number(at as i64 - 3);
            out.refuse(&Refusal::full(at));
            // Some of it leaves before the rest is there.
            if at % 3 == 0 {
                send(&mut out, &mut sent, *cuts.next().unwrap());
            }
        }
        while out.unsent() > 0 {
            send(&mut out, &mut sent, *cuts.next().unwrap());
        }
        let mut decoder = client::Decoder::default();
        for (at, value) in values.iter().enumerate() {
            let mut next = || decoder.next(&mut sent, 1 << 20).unwrap().unwrap();
            prop_assert_eq!(next(), client::Reply::Bytes(value.clone()));
            prop_assert_eq!(next(), client::Reply::Null);
            prop_assert_eq!(next(), client::Reply::Number(at as i64 - 3));
            prop_assert_eq!(next(), client::Reply::Refused(Refusal::full(at)));
        }
        prop_assert!(sent.is_empty());
    }

    #[test]
    fn numbers_are_read_as_they_are_written(number in any::<i64>(), text in "[-+]?[0-9 x]{0,21}") {
        prop_assert_eq!(inline::number(number.to_string().as_bytes()), Some(number));
        let exact = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
        prop_assert_eq!(inline::number(text.as_bytes()), exact);
    }

    #[test]
    fn a_part_is_what_slices_say(len in 0usize..12, from in -15i64..15, to in -15i64..15) {
        // As Redis documents it: ends included, negative from the end, cut to what is there.
        let size = len as i64;
        let (first, last) = (if from < 0 { (size + from).max(0) } else { from }, if to < 0 { size + to } else { to.min(size - 1) });
        let last = if to < 0 { last.max(0) } else { last };
        let expected: Vec<i64> = (0..size).filter(|at| *at >= first && *at <= last && !(from < 0 && to < 0 && from > to)).collect();
        let part: Vec<i64> = Part::Between(from, to).of(len).map(|at| at as i64).collect();
        prop_assert_eq!(part, expected);
    }

    #[test]
    fn patterns_fit_what_a_slow_reading_of_them_fits(pattern in "[ab*?]{0,7}", text in "[abc]{0,8}") {
        prop_assert_eq!(glob::fits(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
    }
}

fn send(out: &mut Out, sent: &mut BytesMut, count: usize) {
    let mut slices = [std::io::IoSlice::new(&[]); SLICES];
    let used = out.slices(&mut slices);
    let some: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).take(count).collect();
    sent.extend_from_slice(&some);
    out.sent(some.len());
}

fn slow(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|from| slow(rest, &text[from..])),
        ([b'?', rest @ ..], [_, more @ ..]) => slow(rest, more),
        ([own, rest @ ..], [byte, more @ ..]) => own == byte && slow(rest, more),
        _ => false,
    }
}

#[test]
fn classes_and_escapes_of_patterns() {
    let check = |pattern: &str, text: &str, fits: bool| {
        assert_eq!(glob::fits(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} and {text}");
    };
    check("h[ae]llo", "hello", true);
    check("h[ae]llo", "hillo", false);
    check("h[^e]llo", "hallo", true);
    check("h[^e]llo", "hello", false);
    check("h[a-c]llo", "hbllo", true);
    check("h[c-a]llo", "hbllo", true);
    check("h[a-c]llo", "hdllo", false);
    check("h\\*llo", "h*llo", true);
    check("h\\*llo", "hello", false);
    check("[a\\]]", "]", true);
    check("*[0-9]", "key7", true);
    check("*[0-9]x", "7y7x", true);
}

#[test]
fn the_table_of_commands_can_be_searched() {
    for command in &store::resp::command::TABLE {
        let found = store::resp::command::find(command.name.to_ascii_lowercase().as_bytes()).unwrap();
        assert_eq!(found.name, command.name);
    }
    assert!(store::resp::command::find(b"").is_none());
    assert!(store::resp::command::find(b"GETT").is_none());
}

#[test]
fn limits_are_kept_and_said_in_the_words_of_redis() {
    let broken = |bytes: &[u8]| -> String {
        let mut decoder = Decoder::new(LIMITS);
        decoder.space()[..bytes.len()].copy_from_slice(bytes);
        decoder.filled(bytes.len());
        match decoder.step() {
            Step::Broken(broken) => broken.0.into_owned(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(broken(b"*51\r\n"), "invalid multibulk length");
    assert_eq!(broken(b"*50\r\n"), "More");
    assert_eq!(broken(b"*x\r\n"), "invalid multibulk length");
    assert_eq!(broken(b"*1\r\n$-1\r\n"), "invalid bulk length");
    assert_eq!(broken(b"*1\r\n$536870913\r\n"), "invalid bulk length");
    assert_eq!(broken(b"*1\r\n+PING\r\n"), "expected '$', got '+'");
    assert_eq!(broken(b"SET a \"b\r\n"), "unbalanced quotes in request");
    let long: Vec<u8> =
        (0..50).flat_map(|_| format!("$100\r\n{}\r\n", "x".repeat(100)).into_bytes()).collect();
    assert_eq!(broken(&[b"*50\r\n".as_slice(), &long].concat()), "too big request");
}
