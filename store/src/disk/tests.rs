//! The disk without its threads, against a ledger that is kept outside of it.

mod damage;
mod histories;
mod kit;
mod promises;
