//! Serves the store in memory on a free port, prints the port, and ends when its input does.
//!
//! `resp-drill [threads] [MiB]`: for clients that are programs of their own, and for profiles.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use store::resp::fake::{Fake, Pace};
use store::resp::server::{Threads, bind};
use store::resp::{Server, Settings};

fn main() -> std::io::Result<()> {
    let number = |at: usize, usual: usize| {
        std::env::args().nth(at).and_then(|word| word.parse().ok()).unwrap_or(usual)
    };
    let threads = Threads::start(number(1, 1))?;
    let store = Arc::new(Fake::new(number(2, 1024) << 20, Pace::Now));
    let server = Server::new(store, Settings { flush: true, ..Settings::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        let input_ends = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let stop = async { drop(input_ends.await) };
        server.serve(listener, threads.hands(), stop, Duration::from_secs(1)).await;
        Ok(())
    })
}
