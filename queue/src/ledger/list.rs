//! What lies in a queue: its entries, stage by stage, a page at a time, each page from where the last one ended.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Ledger, Refused};
use crate::entry::Stage;
use crate::format::{self, Due, Placed};
use crate::log::{Error, Log, Patience, Scanned, Span, Table};
use crate::name::{Class, Key, Millis, Seq};

/// Entries of a queue that wait, are held back or are over; those that run the scheduler knows.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order in which they would run; then those that are held back or over, then those whose time comes later.
    pub found: Vec<Listed>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<Place>,
}

/// An entry in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub seq: Seq,
    /// Where it is.
    pub stage: Stage,
    /// How urgent it is.
    pub class: Class,
    /// From when it may run.
    pub at: Millis,
}

/// A place in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    table: Table,
    from: Bytes,
}

/// Rows that one page looks at: timers of other queues lie in between, and a snapshot should not be held for long.
const LOOKED: usize = 10_000;
/// The tables of a list, in its order.
const TABLES: [Table; 3] = [Table::Inbox, Table::Aside, Table::Timers];

impl Ledger {
    /// A page of the entries of a queue that are at one of the stages that `wanted` says yes to. An entry that moves while
    /// pages are read may be on two of them, or on none.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn page(
        log: &dyn Log,
        queue: u64,
        from: Option<&Place>,
        most: usize,
        wanted: impl Fn(Stage) -> bool,
    ) -> Result<Page, Refused> {
        let mut page = Page::default();
        let mut looked = 0;
        let first = from.map_or(Table::Inbox, |place| place.table);
        for table in TABLES.into_iter().skip_while(|table| *table != first) {
            let mut span = span_of(table, queue);
            if let Some(from) = from.filter(|place| place.table == table) {
                span.from = from.from.clone();
            }
            let mut wrong = None;
            let mut visit = |key: &[u8], value: &[u8]| {
                if page.found.len() == most || looked == LOOKED {
                    page.next = Some(Place { table, from: Bytes::copy_from_slice(key) });
                    return ControlFlow::Break(());
                }
                looked += 1;
                match listed(table, queue, key, value) {
                    Ok(Some(one)) if wanted(one.stage) => page.found.push(one),
                    Ok(_) => {}
                    Err(error) => {
                        wrong = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            };
            let scanned = log.scan(&span, Patience::Wait, &mut visit).and_then(Scanned::whole);
            if let Some(error) = scanned.err().or(wrong) {
                return Err(Refused::Log(error.to_string()));
            }
            if page.next.is_some() {
                return Ok(page);
            }
        }
        Ok(page)
    }
}

fn span_of(table: Table, queue: u64) -> Span {
    match table {
        Table::Inbox => Span { table, from: format::number(queue), to: format::number(queue + 1) },
        Table::Aside => format::aside_of(queue, Seq(0)),
        _ => Span { table, from: Bytes::new(), to: Bytes::new() },
    }
}

/// What a row says, if it is an entry of this queue.
fn listed(table: Table, queue: u64, key: &[u8], value: &[u8]) -> Result<Option<Listed>, Error> {
    let of = |placed: &Placed| Listed {
        seq: placed.item.key.seq,
        stage: placed.stage,
        class: placed.class,
        at: placed.item.key.at,
    };
    if table == Table::Inbox {
        let (_, class, item) = format::inbox_row(key, value)?;
        let Key { at, seq } = item.key;
        return Ok(Some(Listed { seq, stage: Stage::Inbox, class, at }));
    }
    if table == Table::Timers && format::timer_key(key)?.1 != Due::Ready {
        return Ok(None);
    }
    let placed = Placed::decode(table, value)?;
    Ok((placed.queue == queue).then(|| of(&placed)))
}
