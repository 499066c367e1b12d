//! Hashing blocks, beside the floor: XXH3 over the same bytes.
fn main() {}
