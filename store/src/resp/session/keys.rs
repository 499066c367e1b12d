//! What is asked about keys: read, look, remove, list.

use super::{Ran, Session, answer, inline, not_a_number, refuse, syntax};
use crate::resp::contract::{Answer, Look, Page, Part, Store, Tenant};
use crate::resp::decode::Args;
use crate::resp::glob;
use crate::resp::out::Out;
use crate::resp::refusal::Refusal;

/// Keys that `MGET` asks for together: what they hold is lent, or read from disk, before any of it is sent.
const TOGETHER: usize = 32;
/// The most keys that one page of a scan looks at.
const PAGE: usize = 10_000;
/// The longest pattern: matching may take the product of pattern and key.
const PATTERN: usize = 256;

impl<S: Store> Session<S> {
    pub(super) fn get(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        let read = self.ask(|store, tenant| store.get(tenant, args.get(1), Part::Whole));
        answer(read, out, |value, out| {
            out.tally.read(value.is_some());
            match value {
                Some(value) => out.value(value),
                None => out.null(),
            }
        })
    }

    pub(super) fn get_range(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        let (Some(from), Some(to)) = (inline::number(args.get(2)), inline::number(args.get(3))) else {
            return refuse(out, &not_a_number());
        };
        let read = self.ask(|store, tenant| store.get(tenant, args.get(1), Part::Between(from, to)));
        // As in Redis, a part of nothing is empty.
        answer(read, out, |value, out| {
            out.tally.read(value.is_some());
            out.value(value.unwrap_or_default());
        })
    }

    /// Some keys at a time, so that a long list holds no more than a short one.
    pub(super) fn get_many(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        if self.next == 0 {
            out.list(args.count() - 1);
            self.next = 1;
        }
        let keys: Vec<&[u8]> = args.from(self.next).take(TOGETHER).collect();
        self.next += keys.len();
        let asked = keys.len();
        let read = self.ask(|store, tenant| store.get_many(tenant, &keys));
        let say = move |read: Result<Vec<Result<Option<bytes::Bytes>, Refusal>>, Refusal>, out: &mut Out| {
            // The list has begun: whatever went wrong is said for each key.
            let read = read.unwrap_or_else(|refusal| vec![Err(refusal); asked]);
            debug_assert_eq!(read.len(), asked, "an answer for each key");
            for value in read {
                out.tally.read(matches!(value, Ok(Some(_))));
                match value {
                    Ok(Some(value)) => out.value(value),
                    Ok(None) => out.null(),
                    Err(refusal) => out.refuse(&refusal),
                }
            }
        };
        let last = self.next == args.count();
        if last {
            self.next = 0;
        }
        match read {
            Answer::Now(read) => {
                say(read, out);
                if last { Ran::Done } else { Ran::Again }
            }
            Answer::Later(later) => answer(Answer::later(async move { Ok(later.await) }), out, say),
        }
    }

    pub(super) fn exists(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        if args.count() == 2 {
            let look = self.ask(|store, tenant| store.look(tenant, args.get(1)));
            return answer(look, out, |look, out| out.number(look.is_some().into()));
        }
        let keys: Vec<&[u8]> = args.from(1).collect();
        let looks = self.ask(|store, tenant| store.look_many(tenant, &keys));
        answer(looks, out, |looks, out| total(looks, Option::is_some, out))
    }

    pub(super) fn remove(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        if args.count() == 2 {
            let removed = self.ask(|store, tenant| store.remove(tenant, args.get(1)));
            return answer(removed, out, |removed, out| out.number(removed.into()));
        }
        let keys: Vec<&[u8]> = args.from(1).collect();
        let removed = self.ask(|store, tenant| store.remove_many(tenant, &keys));
        answer(removed, out, |removed, out| total(removed, |removed| *removed, out))
    }

    pub(super) fn length(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        let look = self.ask(|store, tenant| store.look(tenant, args.get(1)));
        answer(look, out, |look, out| out.number(look.map_or(0, |look| look.len as i64)))
    }

    /// How long a key lives, in units of so many milliseconds.
    pub(super) fn life(&mut self, args: Args<'_>, unit: i64, out: &mut Out) -> Ran {
        let look = self.ask(|store, tenant| store.look(tenant, args.get(1)));
        answer(look, out, move |look, out| {
            out.number(match look {
                None => -2,
                Some(Look { life: None, .. }) => -1,
                Some(Look { life: Some(life), .. }) => {
                    let millis = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
                    millis.saturating_add(unit / 2) / unit
                }
            });
        })
    }

    pub(super) fn kind(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        let look = self.ask(|store, tenant| store.look(tenant, args.get(1)));
        answer(look, out, |look, out| out.simple(if look.is_some() { "string" } else { "none" }))
    }

    pub(super) fn scan(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        let wish = match Wish::read(args) {
            Ok(wish) => wish,
            Err(refusal) => return refuse(out, &refusal),
        };
        let page = self.ask(|store, tenant| store.scan(tenant, wish.cursor, wish.count));
        answer(page, out, move |page: Page, out| {
            let fits = |key: &&bytes::Bytes| {
                wish.strings && wish.pattern.as_ref().is_none_or(|pattern| glob::fits(pattern, key))
            };
            let keys: Vec<_> = page.keys.iter().filter(fits).collect();
            out.list(2);
            out.bulk(page.next.to_string().as_bytes());
            out.list(keys.len());
            for key in keys {
                out.bulk(key);
            }
        })
    }

    pub(super) fn count(&mut self, out: &mut Out) -> Ran {
        let count = self.ask(Store::count);
        answer(count, out, |count, out| out.number(count as i64))
    }

    pub(super) fn flush(&mut self, out: &mut Out) -> Ran {
        if !self.house.settings.flush {
            return refuse(
                out,
                &Refusal::err("emptying a tenant is not allowed by the settings of this store"),
            );
        }
        let cleared = self.ask(Store::clear);
        answer(cleared, out, |(), out| out.simple("OK"))
    }

    /// Asks the store in the name of the tenant.
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&S, &Tenant) -> Answer<T>) -> Answer<T> {
        match &self.tenant {
            Some(tenant) => ask(&self.house.store, tenant),
            None => Answer::refused(Refusal::no_auth()),
        }
    }
}

/// How many of them are so, or the first refusal.
fn total<T>(each: Vec<Result<T, Refusal>>, counts: impl Fn(&T) -> bool, out: &mut Out) {
    let mut total = 0;
    for one in each {
        match one {
            Ok(one) => total += i64::from(counts(&one)),
            Err(refusal) => return out.refuse(&refusal),
        }
    }
    out.number(total);
}

/// What a scan asks for.
struct Wish {
    cursor: u64,
    count: usize,
    pattern: Option<Vec<u8>>,
    strings: bool,
}

impl Wish {
    fn read(args: Args<'_>) -> Result<Self, Refusal> {
        let cursor = std::str::from_utf8(args.get(1)).ok().and_then(|text| text.parse().ok());
        let cursor = cursor.ok_or_else(|| Refusal::err("invalid cursor"))?;
        let mut wish = Self { cursor, count: 10, pattern: None, strings: true };
        let mut at = 2;
        while at < args.count() {
            if at + 1 == args.count() {
                return Err(syntax());
            }
            let value = args.get(at + 1);
            match args.word(at).bytes() {
                b"COUNT" => match inline::number(value).ok_or_else(not_a_number)? {
                    ..=0 => return Err(syntax()),
                    count => wish.count = usize::try_from(count).map_or(PAGE, |count| count.min(PAGE)),
                },
                b"MATCH" if value.len() > PATTERN => {
                    return Err(Refusal::err(format!("a pattern may have up to {PATTERN} bytes")));
                }
                b"MATCH" => wish.pattern = Some(value.to_vec()),
                b"TYPE" => wish.strings = value.eq_ignore_ascii_case(b"string"),
                _ => return Err(syntax()),
            }
            at += 2;
        }
        Ok(wish)
    }
}
