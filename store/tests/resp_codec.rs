//! The codec as claims: any cut gives the same commands, what is written can be read, numbers and patterns are exact.

#[path = "frames/mod.rs"]
mod frames;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use store::client;
use store::resp::contract::Part;
use store::resp::decode::{Decoder, Limits, Step};
use store::resp::out::{COPIED, Out, Protocol, SLICES};
use store::resp::{Code, Refusal, glob, inline};

use frames::encode;

const LIMITS: Limits = Limits { argument: 100, arguments: 50, head: 4_000 };

/// Commands as they are read when bytes arrive in pieces of these lengths; values are put back where they stood, unless they
/// are not wanted.
fn read(mut bytes: &[u8], cuts: &[usize], wanted: &[bool]) -> Vec<Vec<Vec<u8>>> {
    let mut decoder = Decoder::new(LIMITS);
    let mut cuts = cuts.iter().cycle();
    let mut wanted = wanted.iter().cycle();
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
            Step::Value(len) if *wanted.next().unwrap() => {
                values.push(vec![0; len]);
                decoder.accept();
            }
            Step::Value(_) => {
                values.push(Vec::new());
                decoder.skip();
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

/// The same without the values that are not wanted.
fn without<'a>(command: &[Vec<u8>], wanted: &mut impl Iterator<Item = &'a bool>) -> Vec<Vec<u8>> {
    let mut kept = kept(command);
    if let Some(known) = store::resp::command::find(&command[0]) {
        for (index, word) in kept.iter_mut().enumerate() {
            if known.takes_value_at(index) && !*wanted.next().unwrap() {
                word.clear();
            }
        }
    }
    kept
}

proptest! {
    #[test]
    fn any_cut_gives_the_commands_that_were_sent(
        commands in prop::collection::vec(command(), 0..12),
        cuts in prop::collection::vec(1usize..300, 1..20),
        wanted in prop::collection::vec(any::<bool>(), 1..7),
    ) {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        let sent: Vec<_> = commands.iter().map(|command| kept(command)).collect();
        prop_assert_eq!(read(&bytes, &cuts, &[true]), &sent[..]);
        // Whatever is not wanted is read to its end: all the rest is as it was sent.
        let mut left = wanted.iter().cycle();
        let rest: Vec<_> = commands.iter().map(|command| without(command, &mut left)).collect();
        prop_assert_eq!(read(&bytes, &cuts, &wanted), rest);
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
    let accepts = |name: &str| {
        let command = store::resp::command::find(name.as_bytes()).unwrap();
        (1..7).filter(|count| command.accepts(*count)).collect::<Vec<usize>>()
    };
    assert_eq!((accepts("GET"), accepts("DEL")), (vec![2], vec![2, 3, 4, 5, 6]));
    assert_eq!(accepts("MSET"), [3, 5], "each key has a value");
    assert!(store::resp::command::find(b"").is_none());
    assert!(store::resp::command::find(b"GETT").is_none());
}

/// The last that a decoder says of these bytes.
fn said(decoder: &mut Decoder, mut bytes: &[u8]) -> String {
    loop {
        match decoder.step() {
            Step::More if !bytes.is_empty() => {
                let space = decoder.space();
                let count = space.len().min(bytes.len());
                space[..count].copy_from_slice(&bytes[..count]);
                decoder.filled(count);
                bytes = &bytes[count..];
            }
            Step::Broken(broken) => return broken.0.into_owned(),
            other => return format!("{other:?}"),
        }
    }
}

#[test]
fn limits_are_kept_and_said_in_the_words_of_redis() {
    let broken = |bytes: &[u8]| said(&mut Decoder::new(LIMITS), bytes);
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

#[test]
fn a_bound_is_the_last_that_passes() {
    let check = |stranger: bool, well: &[u8], passes: &str, beyond: &[u8], words: &str| {
        for (bytes, expected) in [(well, passes), (beyond, words)] {
            let mut decoder = Decoder::new(LIMITS);
            decoder.distrust(stranger);
            let (said, shown) = (said(&mut decoder, bytes), bytes.len().min(40));
            assert_eq!(said, expected, "{:?}", String::from_utf8_lossy(&bytes[..shown]));
        }
    };
    let typed = |words: usize| format!("{}\n", "x ".repeat(words)).into_bytes();
    let endless = |len: usize| vec![b'x'; len];
    check(true, b"*10\r\n", "More", b"*11\r\n", "unauthenticated multibulk length");
    check(true, b"*1\r\n$16384\r\n", "More", b"*1\r\n$16385\r\n", "unauthenticated bulk length");
    check(true, &endless(16_383), "More", &endless(16_384), "too big inline request");
    check(false, &endless(65_535), "More", &endless(65_536), "too big inline request");
    check(false, b"*1\r\n$536870912\r\n", "More", b"*1\r\n$536870913\r\n", "invalid bulk length");
    check(false, &typed(50), "Ready", &typed(51), "invalid multibulk length");
    check(false, b"*1\r", "More", b"*1\rx", "invalid multibulk length");
}

#[test]
fn a_list_of_nothing_is_nothing() {
    for none in [&b"*0\r\n"[..], b"*-1\r\n", b"\r\n", b" \n"] {
        let mut decoder = Decoder::new(LIMITS);
        assert_eq!((said(&mut decoder, none), decoder.midway()), ("More".to_owned(), false));
        assert_eq!(said(&mut decoder, b"*1\r\n$4\r\nPING\r\n"), "Ready", "and what follows is a command");
    }
}

#[test]
fn an_argument_that_is_too_long_is_left_out_and_only_its_command_suffers() {
    let sent = |len: usize| encode(&[b"GET".to_vec(), vec![b'x'; len]]);
    let typed = |len: usize| format!("GET {}\r\n", "x".repeat(len)).into_bytes();
    let mut decoder = Decoder::new(LIMITS);
    for (bytes, too_long) in [
        (sent(100), None),
        (sent(101), Some(101)),
        (sent(100), None),
        (typed(100), None),
        (typed(101), Some(101)),
        (sent(10_000_000), Some(10_000_000)),
        (typed(1), None),
    ] {
        assert_eq!(said(&mut decoder, &bytes), "Ready");
        assert_eq!(decoder.too_long(), too_long);
        decoder.done();
    }
    assert!(decoder.held() < 1 << 20, "what was left out was never kept: {} bytes", decoder.held());
}

#[test]
fn numbers_at_the_edges() {
    let cases = [
        ("0", Some(0)),
        ("-0", None),
        ("00", None),
        ("01", None),
        ("-1", Some(-1)),
        ("-", None),
        ("", None),
        ("+1", None),
        ("1 ", None),
        ("9223372036854775807", Some(i64::MAX)),
        ("9223372036854775808", None),
        ("-9223372036854775808", Some(i64::MIN)),
        ("-9223372036854775809", None),
        ("92233720368547758070", None),
    ];
    for (text, number) in cases {
        assert_eq!(inline::number(text.as_bytes()), number, "{text}");
    }
}

#[test]
fn words_of_a_line_are_those_of_a_shell() {
    let check = |line: &[u8], expected: Option<&[&[u8]]>| {
        let (mut words, mut places) = (Vec::new(), Vec::new());
        let whole = inline::split(line, &mut words, &mut places);
        let words: Vec<&[u8]> =
            places.iter().map(|(from, to)| &words[*from as usize..*to as usize]).collect();
        assert_eq!(whole.map(|()| &words[..]), expected, "{}", line.escape_ascii());
    };
    check(b" a\tbc  ", Some(&[b"a", b"bc"]));
    check(br#""\x41\x0a\xfz""#, Some(&[b"A\nxfz"]));
    check(br#""\n\r\t\b\a\"\\\q""#, Some(&[b"\n\r\t\x08\x07\"\\q"]));
    check(br"'it\'s' '\n' ''", Some(&[b"it's", b"\\n", b""]));
    check(br#"a"b c" d"#, Some(&[b"ab c", b"d"]));
    for open in [&br#""a"b"#[..], b"'a'b", br#""a"#, b"'a", br#""a\""#] {
        check(open, None);
    }
}

#[test]
fn each_version_has_its_own_words_for_what_the_other_lacks() {
    type Say = fn(&mut Out);
    let written = |protocol: Protocol, say: Say| {
        let (mut out, mut sent) = (Out::default(), BytesMut::new());
        out.protocol = protocol;
        say(&mut out);
        send(&mut out, &mut sent, usize::MAX);
        String::from_utf8(sent.to_vec()).unwrap()
    };
    let cases: [(Say, &str, &str); 7] = [
        (Out::null, "$-1\r\n", "_\r\n"),
        (Out::null_list, "*-1\r\n", "_\r\n"),
        (|out| out.set(3), "*3\r\n", "~3\r\n"),
        (|out| out.map(3), "*6\r\n", "%3\r\n"),
        (|out| out.text("ab"), "$2\r\nab\r\n", "=6\r\ntxt:ab\r\n"),
        (|out| out.number(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
        (|out| out.refuse(&Refusal::err("a\r\nb\nc\rd")), "-ERR a  b c d\r\n", "-ERR a  b c d\r\n"),
    ];
    for (say, two, three) in cases {
        assert_eq!((&*written(Protocol::Two, say), &*written(Protocol::Three, say)), (two, three));
    }
}

#[test]
fn each_code_has_the_word_that_clients_match() {
    let told = |code: Code| match code {
        Code::Err => "ERR",
        Code::Full => "FULL",
        Code::Quota => "QUOTA",
        Code::WrongNode => "WRONGNODE",
        Code::NoAuth => "NOAUTH",
        Code::WrongPass => "WRONGPASS",
        Code::NoProto => "NOPROTO",
        Code::Busy => "BUSY",
        Code::TooLarge => "TOOLARGE",
        Code::Unavailable => "UNAVAILABLE",
        Code::Loading => "LOADING",
        Code::Other => "EXECABORT",
    };
    for (number, code) in Code::ALL.into_iter().enumerate() {
        let words = if code == Code::Other { "EXECABORT of it" } else { "of it" };
        assert_eq!(Refusal::new(code, words).to_string(), format!("{} of it", told(code)));
        assert_eq!(Refusal::read(&format!("{} of it", told(code))).code, code);
        assert_eq!(Code::ALL.iter().position(|one| *one == code), Some(number), "each is there once");
    }
    assert_eq!(Refusal::full(7).to_string(), "FULL no space for 7 bytes, and none could be made in time");
}

#[test]
fn a_refusal_is_read_as_it_was_written() {
    for code in Code::ALL {
        let refusal = Refusal::new(code, "some words");
        assert_eq!(Refusal::read(&refusal.to_string()), refusal);
    }
    // A line that begins with no word at all brings its own words, and so does a bare word.
    for line in [" words", "", "EXECABORT it was", "ERR"] {
        assert_eq!(Refusal::read(line).to_string().trim_end(), line.trim_end());
    }
    assert_eq!(Refusal::read(" words").code, Code::Other);
}
