//! What is written: options are read when the value is there, and decide at the commit.

use std::time::Duration;

use super::{Ran, Session, answer, inline, not_a_number, refuse, syntax};
use crate::resp::contract::{Answer, Block, Life, Only, Put, Sink, Store, Written, together};
use crate::resp::decode::Args;
use crate::resp::out::Out;
use crate::resp::refusal::Refusal;

impl<S: Store> Session<S> {
    pub(super) fn set(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        match options(args) {
            Ok(put) => self.write(put, out, |written, out| match written {
                Written::Stored => out.simple("OK"),
                Written::Unchanged => out.null(),
            }),
            Err(refusal) => refuse(out, &refusal),
        }
    }

    pub(super) fn set_if_absent(&mut self, out: &mut Out) -> Ran {
        let put = Put { only: Only::Absent, ..Put::default() };
        self.write(put, out, |written, out| out.number((written == Written::Stored).into()))
    }

    /// `SETEX key 10 value`: the life was read when the value was announced.
    pub(super) fn set_for(&mut self, out: &mut Out) -> Ran {
        match self.life.take() {
            Some(Ok(life)) => self.write(Put { life, ..Put::default() }, out, |_, out| out.simple("OK")),
            Some(Err(refusal)) => refuse(out, &refusal),
            None => refuse(out, &syntax()),
        }
    }

    /// All of them have arrived, or none is written. What the store refuses at the commit is said, and how many were written.
    pub(super) fn set_many(&mut self, out: &mut Out) -> Ran {
        let values = std::mem::take(&mut self.values);
        if let Some(Err(refusal)) = values.iter().find(|value| value.is_err()) {
            return refuse(out, refusal);
        }
        let put = Put::default();
        let written = together(values.into_iter().flatten().map(|sink| sink.commit(put)));
        answer(written, out, |written, out| {
            let all = written.len();
            let refused: Vec<Refusal> = written.into_iter().filter_map(Result::err).collect();
            match refused.first() {
                None => out.simple("OK"),
                Some(first) => {
                    let words = format!("{}; {} of {all} were written", first.words, all - refused.len());
                    out.refuse(&Refusal::new(first.code, words));
                }
            }
        })
    }

    fn write(&mut self, put: Put, out: &mut Out, say: fn(Written, &mut Out)) -> Ran {
        let written = match self.values.pop() {
            Some(Ok(sink)) => sink.commit(put),
            Some(Err(refusal)) => Answer::refused(refusal),
            None => Answer::refused(syntax()),
        };
        answer(written, out, say)
    }
}

/// What follows key and value.
fn options(args: Args<'_>) -> Result<Put, Refusal> {
    let mut put = Put::default();
    let mut at = 3;
    while at < args.count() {
        let more = at + 1 < args.count();
        match args.word(at).bytes() {
            b"NX" if put.only == Only::Always => put.only = Only::Absent,
            b"XX" if put.only == Only::Always => put.only = Only::Present,
            b"KEEPTTL" if put.life == Life::Open => put.life = Life::Kept,
            word @ (b"EX" | b"PX") if put.life == Life::Open && more => {
                let unit = if word == b"EX" { 1000 } else { 1 };
                at += 1;
                put.life = time(args.get(at), unit, "set")?;
            }
            b"BLOCK" if put.block.is_none() && at + 3 < args.count() => {
                put.block = Some(block(args.get(at + 1), args.get(at + 2), args.get(at + 3))?);
                at += 3;
            }
            b"EXAT" | b"PXAT" => {
                return Err(Refusal::err("a life is said as how long, not until when: use EX or PX"));
            }
            b"GET" => return Err(Refusal::err("SET with GET is not done here: use GET, then SET")),
            _ => return Err(syntax()),
        }
        at += 1;
    }
    Ok(put)
}

/// What a block is known as: `BLOCK prefix parent tokens`, each as hexadecimal digits, `-` where there is no parent.
fn block(prefix: &[u8], parent: &[u8], tokens: &[u8]) -> Result<Block, Refusal> {
    let parent = if parent == b"-" { None } else { Some(hash(parent)?) };
    Ok(Block { prefix: hash(prefix)?, parent, tokens: hash(tokens)? })
}

/// A hash as it is written: up to sixteen hexadecimal digits.
pub(super) fn hash(text: &[u8]) -> Result<u64, Refusal> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
    let hash = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    hash.ok_or_else(|| Refusal::err("a hash is written as up to sixteen hexadecimal digits"))
}

/// A time as it is written, in units of so many milliseconds.
pub(super) fn time(text: &[u8], unit: u64, name: &str) -> Result<Life, Refusal> {
    let number = inline::number(text).ok_or_else(not_a_number)?;
    let positive = u64::try_from(number).ok().filter(|number| *number > 0);
    let millis =
        positive.and_then(|number| number.checked_mul(unit)).filter(|millis| i64::try_from(*millis).is_ok());
    let millis = millis.ok_or_else(|| Refusal::err(format!("invalid expire time in '{name}' command")))?;
    Ok(Life::For(Duration::from_millis(millis)))
}
