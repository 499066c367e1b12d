//! A backend on a bad network: by chance, requests are lost on their way there, and replies on their way back.

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::{Duration, sleep};

use crate::backend::{Answer, Backend, Call, Heard};
use crate::coord::Chance;
use crate::error::Error;
use crate::op::Op;

/// How often what goes wrong, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    /// The request never arrives: nothing is done, and that is known.
    pub refused: u64,
    /// The request never arrives, and nobody knows.
    pub cut_request: u64,
    /// It is done, and the reply never arrives.
    pub cut_reply: u64,
    /// It takes up to a second, before it is done or after it.
    pub slow: u64,
    /// A notice is not heard.
    pub deaf: u64,
}

/// Sees what is really done, in the order in which it is done.
pub type Witness = Arc<dyn Fn(&Op, &Answer) + Send + Sync>;

/// A backend behind such a network.
pub struct Faulty {
    inner: Arc<dyn Backend>,
    chance: Arc<Chance>,
    odds: Arc<Mutex<Odds>>,
    witness: Witness,
}

impl Faulty {
    /// As bad as the odds, by the chance of this seed.
    pub fn new(inner: Arc<dyn Backend>, seed: u64, odds: Odds, witness: Witness) -> Self {
        Self { inner, chance: Arc::new(Chance::new(seed)), odds: Arc::new(Mutex::new(odds)), witness }
    }

    /// Makes the network better or worse.
    pub fn set(&self, odds: Odds) {
        *self.odds.lock() = odds;
    }

    fn hits(&self, odds: u64) -> bool {
        self.chance.next() % 1_000 < odds
    }

    async fn dawdle(&self) {
        sleep(Duration::from_millis(self.chance.next() % 1_000)).await;
    }
}

impl Backend for Faulty {
    fn call<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Answer, Error>> {
        Box::pin(async move {
            let odds = *self.odds.lock();
            let lost = Error::OutcomeUnknown { op: call.op.name() };
            if self.hits(odds.refused) {
                return Err(Error::Unavailable("refused on purpose".to_owned()));
            }
            if self.hits(odds.cut_request) {
                return Err(lost);
            }
            if self.hits(odds.slow) {
                self.dawdle().await;
            }
            let answer = self.inner.call(call).await?;
            (self.witness)(call.op, &answer);
            if self.hits(odds.slow) {
                self.dawdle().await;
            }
            if self.hits(odds.cut_reply) { Err(lost) } else { Ok(answer) }
        })
    }

    fn hear(&self) -> broadcast::Receiver<Heard> {
        let (sender, receiver) = broadcast::channel(crate::backend::MAX_UNHEARD);
        let mut inner = self.inner.hear();
        let (chance, odds) = (self.chance.clone(), self.odds.clone());
        tokio::spawn(async move {
            while let Ok(heard) = inner.recv().await {
                let deaf = odds.lock().deaf;
                if chance.next() % 1_000 >= deaf && sender.send(heard).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    fn describe(&self) -> String {
        format!("{} on a bad network", self.inner.describe())
    }
}
