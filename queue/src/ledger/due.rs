//! What happens at a time: entries that become ready, that expire, that are forgotten.

use std::collections::HashSet;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::ask::DueRow;
use super::{Ask, Done, Effect, Ledger, Plan, Seen, What};
use crate::entry::Stage;
use crate::format::{self, Due, Placed, meta};
use crate::log::{Error, Log, Patience, Span, Sync, Table};
use crate::name::{Millis, Seq};

/// Timers that one batch deals with.
const MOST: usize = 256;
/// What is said of a damaged row.
const PASSED_OVER: &str =
    "something is due, and cannot be read: it stays in the log as it is and is passed over";

/// Reads what is due. What is damaged is said and passed over: everybody else's time comes all the same.
pub(super) fn look(until: Millis, from: Millis, log: &dyn Log) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    let mut rows: Vec<(Millis, Due, Seq, Bytes)> = Vec::new();
    let span = Span { table: Table::Timers, from: format::timer(from, Due::Ready, Seq(0)), to: Bytes::new() };
    let mut visit = |key: &[u8], value: &[u8]| {
        match format::timer_key(key) {
            Ok((at, ..)) if at > until || rows.len() == MOST => {
                seen.next_due = Some(at);
                return ControlFlow::Break(());
            }
            Ok((at, due, seq)) => rows.push((at, due, seq, Bytes::copy_from_slice(value))),
            Err(error) => tracing::error!(key = %key.escape_ascii(), %error, "{PASSED_OVER}"),
        }
        ControlFlow::Continue(())
    };
    log.scan(&span, Patience::Wait, &mut visit)?.whole()?;
    for (at, due, seq, value) in rows {
        seen.due_until = Some(at);
        let found = match due {
            Due::Ready => Placed::decode(Table::Timers, &value).map(|placed| (Some(placed), Seen::default())),
            Due::Expire => Ledger::look_for(seq, log).map(|seen| (None, seen)),
            Due::Forget => Ledger::read(seq, log).map(|seen| (None, seen)),
        };
        match found {
            Ok((placed, of)) => seen.due.push(DueRow { at, due, seq, placed, seen: of }),
            Err(error @ Error::Damaged { .. }) => {
                tracing::error!(entry = seq.0, ?due, at = at.0, %error, "{PASSED_OVER}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}

impl Ledger {
    /// Scheduled -> Inbox, Inbox -> Finished, Finished -> gone: whatever is due
    pub(super) fn due(&mut self, seen: Seen, plan: &mut Plan, now: Millis) -> (Effect, u64) {
        // What this batch has set before was not read.
        self.next_due = earlier(seen.next_due, plan.first_timer);
        let Some(last) = seen.due_until else {
            return (Effect::Nothing(Done::Moved), 0);
        };
        // One entry may be due twice in one look; what was seen of it is true only the first time.
        let (mut ready, mut expired) = (HashSet::new(), HashSet::new());
        let mut again = None;
        for row in seen.due {
            if row.due == Due::Expire && ready.contains(&row.seq) {
                // It is not where it was seen: the next look finds it.
                again = earlier(again, Some(row.at));
                continue;
            }
            plan.batch.delete(Table::Timers, format::timer(row.at, row.due, row.seq));
            let (effect, queue) = match (row.due, row.placed) {
                (Due::Ready, Some(_)) if expired.contains(&row.seq) => continue,
                (Due::Ready, Some(placed)) => {
                    let Placed { queue, class, item, .. } = placed;
                    ready.insert(row.seq);
                    let added = self.make_ready(item, queue, class, false, plan);
                    (Effect::Added(added.into_iter().collect(), Done::Moved), queue)
                }
                // Also what would be ready only after its deadline.
                (Due::Expire, _) if matches!(row.seen.stage(), Some(Stage::Inbox | Stage::Scheduled)) => {
                    expired.insert(row.seq);
                    match self.expire(row.seq, row.seen, plan, now) {
                        Ok(moved) => moved,
                        Err(_) => continue,
                    }
                }
                (Due::Forget, _) => match self.forget(row.seq, row.seen, plan) {
                    Ok(moved) => moved,
                    Err(_) => continue,
                },
                // It runs, or was held back: it is no longer about starting in time.
                _ => continue,
            };
            plan.effects.push((effect, queue, Ask::of(What::Forget { seq: row.seq })));
        }
        self.next_due = earlier(self.next_due, again);
        let first = earlier(plan.first_timer, again);
        self.due_mark = first.map_or(last, |first| first.min(last));
        plan.batch.put(Table::Meta, meta::DUE, format::number(self.due_mark.0));
        plan.needs(Sync::Write);
        (Effect::Nothing(Done::Moved), 0)
    }

    /// Something is to happen at a time.
    pub(super) fn set_timer(&mut self, at: Millis, due: Due, seq: Seq, value: Bytes, plan: &mut Plan) {
        plan.batch.put(Table::Timers, format::timer(at, due, seq), value);
        self.next_due = earlier(self.next_due, Some(at));
        plan.first_timer = earlier(plan.first_timer, Some(at));
        if at < self.due_mark {
            self.due_mark = at;
            plan.batch.put(Table::Meta, meta::DUE, format::number(at.0));
        }
    }

    /// Where a read of timers begins.
    pub fn due_from(&self) -> Millis {
        self.due_mark
    }
}

pub(super) fn earlier(one: Option<Millis>, other: Option<Millis>) -> Option<Millis> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
