//! What somebody will read: `WARM` says it and `COOL` takes it back; so does the end of the connection.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::put::{hash, time};
use super::{Ran, Session, answer, refuse, syntax};
use crate::resp::contract::{Life, Store, Wanted};
use crate::resp::decode::Args;
use crate::resp::out::Out;
use crate::resp::refusal::{Code, Refusal};

/// Promises that one connection may have open: each is a request that waits somewhere.
const OPEN: usize = 65_536;
/// Keys or blocks of one promise: a million tokens in blocks of sixteen.
const WANTED: usize = 65_536;
/// The longest name of a promise.
const NAME: usize = 128;

/// What a connection has promised, by the names it gave.
pub(super) type Promises<W> = Arc<Mutex<HashMap<Box<[u8]>, W>>>;

impl<S: Store> Session<S> {
    /// `WARM name milliseconds KEYS key…` or `BLOCKS prefix…`: how many are known, and how many are on their way. A name that
    /// is open already is taken back first.
    pub(super) fn warm(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        let name: Box<[u8]> = args.get(1).into();
        let within = match time(args.get(2), 1, "warm") {
            Ok(Life::For(within)) => within,
            Ok(_) => return refuse(out, &syntax()),
            Err(refusal) => return refuse(out, &refusal),
        };
        if args.count() - 4 > WANTED || name.len() > NAME {
            let words = format!("a name has up to {NAME} bytes and stands for up to {WANTED} keys or blocks");
            return refuse(out, &Refusal::new(Code::TooLarge, words));
        }
        let promises = self.promises.clone();
        let kept = promises.lock().remove(&name);
        drop(kept);
        if promises.lock().len() >= OPEN {
            return refuse(out, &Refusal::new(Code::Busy, "too many promises are open here: COOL some"));
        }
        let begun = match args.word(3).bytes() {
            b"KEYS" => {
                let keys: Vec<&[u8]> = args.from(4).collect();
                self.ask(|store, tenant| store.warm(tenant, Wanted::Keys(&keys), within))
            }
            b"BLOCKS" => match args.from(4).map(hash).collect::<Result<Vec<u64>, Refusal>>() {
                Ok(blocks) => self.ask(|store, tenant| store.warm(tenant, Wanted::Blocks(&blocks), within)),
                Err(refusal) => return refuse(out, &refusal),
            },
            _ => return refuse(out, &syntax()),
        };
        answer(begun, out, move |begun, out| {
            promises.lock().insert(name, begun.kept);
            out.list(2);
            out.number(i64::try_from(begun.known).unwrap_or(i64::MAX));
            out.number(i64::try_from(begun.pending).unwrap_or(i64::MAX));
        })
    }

    /// `COOL name…`: how many of them were open.
    pub(super) fn cool(&mut self, args: Args<'_>, out: &mut Out) -> Ran {
        if self.is_stranger() {
            return refuse(out, &Refusal::no_auth());
        }
        let kept: Vec<S::Warm> = {
            let mut promises = self.promises.lock();
            args.from(1).filter_map(|name| promises.remove(name)).collect()
        };
        out.number(i64::try_from(kept.len()).unwrap_or(i64::MAX));
        Ran::Done
    }
}
