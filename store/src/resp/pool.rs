//! Buffers that connections read into: lent while bytes arrive, given back while a connection waits.

use std::cell::RefCell;

/// One read takes up to so much: some sixteen commands of 4 KiB.
pub(super) const BUFFER: usize = 64 << 10;
/// Buffers that one thread keeps: 4 MiB. More are only needed where as many commands are half there.
const KEPT: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

thread_local! {
    static TEXTS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Room for answers; empty.
pub(super) fn take_text() -> Vec<u8> {
    TEXTS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER))
}

/// Gives room for answers back, unless it has grown.
pub(super) fn give_text(mut text: Vec<u8>) {
    if (BUFFER..=2 * BUFFER).contains(&text.capacity()) {
        text.clear();
        TEXTS.with_borrow_mut(|pool| {
            if pool.len() < KEPT {
                pool.push(text);
            }
        });
    }
}

/// A buffer of [`BUFFER`] bytes. What it holds is left over from others of this process, and is never told to anybody.
pub(super) fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER])
}

/// Gives a buffer back, if it is one that [`take`] lent.
pub(super) fn give(buffer: Vec<u8>) {
    if buffer.len() == BUFFER {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < KEPT {
                pool.push(buffer);
            }
        });
    }
}
