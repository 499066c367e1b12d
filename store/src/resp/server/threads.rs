//! Threads that each run connections of their own: no connection moves, and none wakes another thread.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// Threads with a runtime each. They end when this is dropped.
pub struct Threads {
    hands: Vec<Handle>,
    stop: watch::Sender<bool>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts so many.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(count: usize) -> io::Result<Self> {
        let stop = watch::Sender::new(false);
        let (mut hands, mut running) = (Vec::new(), Vec::new());
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            hands.push(runtime.handle().clone());
            let mut stopped = stop.subscribe();
            let run = move || runtime.block_on(async move { drop(stopped.wait_for(|stop| *stop).await) });
            running.push(std::thread::Builder::new().name(format!("resp-{number}")).spawn(run)?);
        }
        Ok(Self { hands, stop, running })
    }

    /// Where connections can be put.
    pub fn hands(&self) -> &[Handle] {
        &self.hands
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.running.drain(..) {
            // A panic was told where it happened.
            let _ = thread.join();
        }
    }
}
