//! The store in memory keeps the contract, at once and later.

mod contract;

use store::resp::fake::{Fake, Pace};

#[tokio::test]
async fn the_store_in_memory_keeps_the_contract() {
    for pace in [Pace::Now, Pace::Later] {
        contract::holds(&Fake::new(16 << 20, pace)).await;
    }
}
