//! Scripted races between a refill and what is told meanwhile: the reader's snapshot is frozen first, then events, then
//! the reader's answer.

use super::*;
use crate::entry::Cost;
use crate::name::{Millis, Seq};

fn key(seq: u64) -> Key {
    Key { at: Millis(1), seq: Seq(seq) }
}

fn item(seq: u64) -> Item {
    worth(seq, 1)
}

fn worth(seq: u64, tokens: u32) -> Item {
    Item {
        key: key(seq),
        cost: Cost { tokens, blocks: 0 },
        deadline: None,
        attempt: 0,
        overtaken: 0,
        remembered: false,
        hint: None,
    }
}

fn rows(seqs: impl IntoIterator<Item = u64>, full: bool) -> Found {
    Found { items: seqs.into_iter().map(item).collect(), full }
}

fn shown(inbox: &Inbox) -> Vec<u64> {
    inbox.items().iter().map(|item| item.key.seq.0).collect()
}

/// A lane of which nothing is known, with a reader under way.
fn reading() -> (Inbox, Ticket) {
    let mut inbox = Inbox::unknown();
    let ticket = inbox.begin().expect("nothing is known");
    (inbox, ticket)
}

/// A lane that knows these and the end, with room to know more.
fn known(seqs: impl IntoIterator<Item = u64>, full: bool) -> Inbox {
    let (mut inbox, ticket) = reading();
    assert!(inbox.finish(&ticket, rows(seqs, full)));
    inbox
}

#[test]
fn a_refill_alone_brings_what_is_there_and_proves_the_end() {
    let inbox = known([1, 2, 3], false);
    assert_eq!((shown(&inbox), inbox.edge()), (vec![1, 2, 3], Edge::End));
    let inbox = known(1..=24, true);
    assert_eq!((shown(&inbox), inbox.edge()), ((1..=24).collect(), Edge::At(key(25))));
    let inbox = known([], false);
    assert!(inbox.is_bare() && inbox.edge() == Edge::End);
}

#[test]
fn a_tombstone_suppresses_the_row_that_it_names() {
    let (mut inbox, ticket) = reading();
    assert_eq!(inbox.removed(key(2)), Left::Unknown);
    assert!(inbox.finish(&ticket, rows([1, 2, 3], false)));
    assert_eq!((shown(&inbox), inbox.edge()), (vec![1, 3], Edge::End));
}

#[test]
fn an_entry_that_was_added_meanwhile_joins() {
    let (mut inbox, ticket) = reading();
    inbox.added(item(2)).expect("new");
    inbox.added(item(9)).expect("new");
    assert!(inbox.finish(&ticket, rows([1, 3], false)));
    assert_eq!((shown(&inbox), inbox.edge()), (vec![1, 2, 3, 9], Edge::End));
}

#[test]
fn an_entry_that_both_know_is_there_once() {
    let (mut inbox, ticket) = reading();
    inbox.added(worth(2, 7)).expect("new");
    assert!(inbox.finish(&ticket, rows([1, 2, 3], false)));
    assert_eq!(shown(&inbox), [1, 2, 3]);
    assert_eq!(inbox.items()[1].cost.tokens, 7);
}

/// The overlay is full with a tombstone at its back; one more event must not let the removed row back in.
#[test]
fn a_full_overlay_lowers_the_horizon_and_forgets_no_tombstone() {
    let (mut inbox, ticket) = reading();
    inbox.removed(key(50));
    inbox.removed(key(100));
    for seq in 150..150 + CAPACITY as u64 - 3 {
        inbox.added(item(seq)).expect("new");
    }
    inbox.removed(key(500));
    // One more than fits, and it sorts before the tombstone at the back.
    inbox.added(item(400)).expect("new");
    assert!(inbox.finish(&ticket, rows([500], false)));
    assert!(!shown(&inbox).contains(&500), "the row was removed: {:?}", shown(&inbox));
    assert_eq!(inbox.edge(), Edge::At(key(500)), "what lies beyond the horizon is read again");
    let again = inbox.begin();
    assert!(again.is_none_or(|ticket| ticket.from == key(500)));
}

#[test]
fn what_lies_beyond_the_horizon_is_found_by_the_next_refill() {
    let (mut inbox, ticket) = reading();
    for seq in 0..=CAPACITY as u64 {
        inbox.removed(key(seq * 2));
    }
    inbox.added(item(1_001)).expect("new");
    // All rows of the refill were removed, and one entry lies beyond the horizon.
    assert!(inbox.finish(&ticket, rows((0..CAPACITY as u64).map(|seq| seq * 2), true)));
    assert_eq!(shown(&inbox), [] as [u64; 0]);
    assert!(inbox.is_hungry());
    let ticket = inbox.begin().expect("there is more");
    assert!(ticket.from <= key(1_001));
    assert!(inbox.finish(&ticket, rows([1_001], false)));
    assert_eq!((shown(&inbox), inbox.edge()), (vec![1_001], Edge::End));
}

#[test]
fn removed_and_added_again_is_there_with_its_new_value() {
    let (mut inbox, ticket) = reading();
    inbox.removed(key(2));
    inbox.added(worth(2, 9)).expect("it had left");
    assert!(inbox.finish(&ticket, rows([1, 2], false)));
    assert_eq!(shown(&inbox), [1, 2]);
    assert_eq!(inbox.items()[1].cost.tokens, 9);
}

#[test]
fn added_twice_is_loud() {
    let (mut inbox, _ticket) = reading();
    inbox.added(item(2)).expect("new");
    assert_eq!(inbox.added(item(2)), Err(Twice(key(2))), "while it is read");
    let mut inbox = known([1], false);
    assert_eq!(inbox.added(item(1)), Err(Twice(key(1))), "what is known");
    inbox.take(0).expect("one");
    assert_eq!(inbox.added(item(1)), Err(Twice(key(1))), "what is leaving");
}

/// As first shipped elsewhere: 100 rows, row 90 removed during the first refill of 24; 65 of 99 were lost.
#[test]
fn a_full_batch_with_a_far_removal_proves_nothing_beyond_its_last_row() {
    let mut left: Vec<u64> = (1..=100).collect();
    let (mut inbox, ticket) = reading();
    inbox.removed(key(90));
    left.retain(|seq| *seq != 90);
    assert!(inbox.finish(&ticket, rows(1..=24, true)));
    assert_eq!(inbox.edge(), Edge::At(key(25)));
    assert_eq!(drained(inbox, &left), left);
}

#[test]
fn a_full_batch_with_a_near_removal_and_a_far_add_proves_nothing_beyond_its_last_row() {
    let mut left: Vec<u64> = (1..=100).collect();
    let (mut inbox, ticket) = reading();
    inbox.removed(key(5));
    inbox.added(item(200)).expect("new");
    left.retain(|seq| *seq != 5);
    left.push(200);
    assert!(inbox.finish(&ticket, rows(1..=24, true)));
    assert_eq!(inbox.edge(), Edge::At(key(25)));
    assert_eq!(drained(inbox, &left), left);
}

/// A confirmation is a removal like any other: without a tombstone the reader would bring the entry back as head.
#[test]
fn a_confirmation_while_a_refill_is_under_way_leaves_no_ghost() {
    let mut inbox = known(1..=24, true);
    let taken = inbox.take(0).expect("one").key;
    // Memory is short: what can be read again is forgotten, while the start is on its way to the log.
    inbox.forget();
    assert_eq!(inbox.edge(), Edge::At(key(2)));
    let mut inbox = with_edge_below(inbox, taken);
    let ticket = inbox.begin().expect("hungry");
    assert_eq!(inbox.removed(taken), Left::Leaving);
    assert!(inbox.finish(&ticket, rows(1..=24, true)));
    assert_eq!(shown(&inbox), (2..=24).collect::<Vec<_>>());
}

/// Moves the edge down to a key, as an entry does that comes in front of a full lane.
fn with_edge_below(mut inbox: Inbox, key: Key) -> Inbox {
    inbox.shrink(key);
    inbox
}

#[test]
fn confirmed_and_yielded_during_a_refill_is_there_once() {
    let mut inbox = known(1..=3, true);
    let taken = inbox.take(0).expect("one");
    let mut inbox = with_edge_below(inbox_without_items(inbox), taken.key);
    let ticket = inbox.begin().expect("hungry");
    inbox.removed(taken.key);
    inbox.added(worth(1, 5)).expect("it had left");
    assert!(inbox.finish(&ticket, rows([1, 2, 3], false)));
    assert_eq!(shown(&inbox), [1, 2, 3]);
    assert_eq!(inbox.items()[0].cost.tokens, 5);
}

fn inbox_without_items(mut inbox: Inbox) -> Inbox {
    inbox.forget();
    inbox
}

#[test]
fn an_unconfirmed_start_is_not_read_back_and_returns_when_it_is_undone() {
    let mut inbox = known([1, 2], true);
    let taken = inbox.take(0).expect("one");
    let mut inbox = with_edge_below(inbox_without_items(inbox), taken.key);
    let ticket = inbox.begin().expect("hungry");
    assert!(inbox.finish(&ticket, rows([1, 2], false)));
    assert_eq!(shown(&inbox), [2], "it is leaving");
    inbox.put_back(taken);
    assert_eq!(shown(&inbox), [1, 2]);
}

#[test]
fn a_reader_that_would_block_in_the_middle_of_a_batch_proves_what_it_read() {
    let (mut inbox, ticket) = reading();
    assert!(inbox.finish(&ticket, rows([1, 2, 3], true)));
    assert_eq!((shown(&inbox), inbox.edge()), (vec![1, 2, 3], Edge::At(key(4))));
    let (mut inbox, ticket) = reading();
    inbox.added(item(7)).expect("new");
    assert!(inbox.finish(&ticket, rows([], true)));
    assert_eq!(
        (shown(&inbox), inbox.edge()),
        (vec![], Edge::At(Key::MIN)),
        "it read nothing and proves nothing"
    );
}

#[test]
fn an_entry_that_comes_at_exact_capacity_finds_its_place() {
    let full = || known((1..=24).map(|seq| seq * 10), false);
    let check = |new: u64, want: Vec<u64>, edge: u64| {
        let mut inbox = full();
        inbox.added(item(new)).expect("new");
        assert_eq!((shown(&inbox), inbox.edge()), (want, Edge::At(key(edge))), "{new}");
    };
    let all: Vec<u64> = (1..=24).map(|seq| seq * 10).collect();
    let with = |new: u64| {
        let mut all = all.clone();
        all.push(new);
        all.sort_unstable();
        all.truncate(24);
        all
    };
    check(5, with(5), 240);
    check(125, with(125), 240);
    check(239, with(239), 240);
    check(241, all.clone(), 241);
    let mut inbox = full();
    assert_eq!(inbox.added(item(120)), Err(Twice(key(120))));
}

#[test]
fn an_edge_that_moves_under_a_refill_cancels_it() {
    let mut inbox = known((1..=4).map(|seq| seq * 100), true);
    let ticket = inbox.begin().expect("low");
    for seq in 0..CAPACITY as u64 {
        inbox.added(item(seq + 110)).expect("new");
    }
    assert!(ticket.is_cancelled(), "what it brings would leave a hole");
    assert!(!inbox.finish(&ticket, rows(401..=424, true)));
    assert_eq!(shown(&inbox).len(), CAPACITY);
    assert!(inbox.edge() < Edge::At(key(401)));
}

#[test]
fn a_refill_that_failed_keeps_the_edge_and_may_begin_again() {
    let (mut inbox, ticket) = reading();
    inbox.added(item(3)).expect("new");
    assert!(inbox.fail(&ticket));
    assert!(!inbox.fail(&ticket), "once");
    let again = inbox.begin().expect("hungry");
    assert_eq!(again.from, ticket.from);
    assert!(!inbox.finish(&ticket, rows([1], false)), "an old answer is not taken for the new one");
    assert!(inbox.finish(&again, rows([3], false)));
    assert_eq!(shown(&inbox), [3]);
}

#[test]
fn nobody_is_overtaken_unnoticed_even_if_it_was_crowded_out() {
    let mut inbox = known((1..=24).map(|seq| seq * 10), false);
    for _ in 0..3 {
        let taken = inbox.take(1).expect("one").key;
        inbox.removed(taken);
    }
    assert_eq!(inbox.items()[0].overtaken, 3);
    for seq in 100..100 + CAPACITY as u64 {
        inbox.added(Item { key: Key { at: Millis(0), seq: Seq(seq) }, ..item(seq) }).expect("new");
    }
    for _ in 0..20 {
        let taken = inbox.take(0).expect("one").key;
        inbox.removed(taken);
    }
    let ticket = inbox.begin().expect("low");
    let all = [10].into_iter().chain((5..=24).map(|seq| seq * 10));
    let items = all.filter(|seq| Edge::At(key(*seq)) >= Edge::At(ticket.from)).map(item).collect();
    assert!(inbox.finish(&ticket, Found { items, full: false }));
    let first = inbox.items().iter().find(|item| item.key == key(10)).expect("read again");
    assert_eq!(first.overtaken, 3);
}

/// Empties a lane whose log holds these, reading as often as it wants.
fn drained(mut inbox: Inbox, log: &[u64]) -> Vec<u64> {
    let mut left: Vec<u64> = log.to_vec();
    let mut order = Vec::new();
    while !inbox.is_bare() || inbox.edge() != Edge::End {
        if let Some(item) = inbox.take(0) {
            left.retain(|seq| *seq != item.key.seq.0);
            inbox.removed(item.key);
            order.push(item.key.seq.0);
        } else {
            let ticket = inbox.begin().expect("hungry");
            let mut rows = left.iter().copied().filter(|seq| key(*seq) >= ticket.from);
            let items: Vec<Item> = rows.by_ref().take(CAPACITY).map(item).collect();
            let full = rows.next().is_some();
            inbox.finish(&ticket, Found { items, full });
        }
    }
    order
}
