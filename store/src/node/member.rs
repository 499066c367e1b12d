//! Membership: the node tells a master everything that it has, then what changes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::desk::Said;
use super::meta::Meta;
use super::{Error, Inner};
use crate::master::name::{Name, Tier};
use crate::master::{self, Item, Joining, News};

/// Copies that are told at a time.
const TOGETHER: usize = 1_000;
/// News that are under way to the master at once.
const AT_ONCE: usize = 256;
/// How long it waits before it tries to join again.
const BREATH: Duration = Duration::from_millis(100);
/// The same, if another process has its id: somebody must see to that, or that process has just died.
const TAKEN: Duration = Duration::from_secs(1);

impl Inner {
    /// Joins, and tells everything that there is.
    pub(super) async fn join(&self) -> Result<(), Error> {
        let joining = Joining {
            id: &self.options.id,
            life: self.life,
            memory: self.options.memory,
            disk: self.options.on_disk(),
        };
        let joined = self.desk.join(&joining).wait().await??;
        self.number.store(joined.node.number(), Ordering::Relaxed);
        self.desk.begin_inventory(joined.node, self.life).wait().await??;
        // What was ordered before is done before it is told of; what it came to is in what is told.
        while self.working.load(Ordering::Acquire) > 0 {
            self.calm.notified().await;
        }
        self.line.clear();
        let mut items = Vec::with_capacity(TOGETHER);
        for copy in self.hold.all() {
            let item = self.item(copy.name.clone(), &copy.meta, copy.len() as u64, Tier::Memory);
            items.push(Item { doubtful: copy.is_doubtful(), ..item });
            if items.len() == TOGETHER {
                self.send(joined.node, &mut items).await?;
            }
        }
        if let Some(disk) = &self.disk {
            let mut foreign = 0_u64;
            for object in disk.inventory() {
                let tenant = std::str::from_utf8(&object.tenant).ok();
                let (Some(meta), Some(tenant)) = (Meta::read(&object.meta), tenant) else {
                    foreign += 1;
                    continue;
                };
                let name = Name { tenant: self.desk.tenant(tenant)?, key: object.key };
                items.push(self.item(name, &meta, object.len, Tier::Disk));
                if items.len() == TOGETHER {
                    self.send(joined.node, &mut items).await?;
                }
            }
            if foreign > 0 {
                tracing::error!(
                    foreign,
                    "objects on disk were written by something else; they are left alone"
                );
            }
        }
        self.send(joined.node, &mut items).await?;
        let position = *self.position.lock();
        self.desk.end_inventory(joined.node, self.life, position).wait().await??;
        Ok(())
    }

    /// Joins for the first time. The master may go while it is told, and another one come.
    pub(super) async fn join_first(&self) -> Result<(), Error> {
        loop {
            match self.join().await {
                Err(error) if error.passes() && !self.desk.is_here() => rest(&error).await,
                joined => return joined,
            }
        }
    }

    async fn send(&self, node: master::name::Node, items: &mut Vec<Item>) -> Result<(), Error> {
        let part = std::mem::replace(items, Vec::with_capacity(TOGETHER));
        self.desk.inventory(node, self.life, part).wait().await??;
        // A long inventory lets others have the thread.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn item(&self, name: Name, meta: &Meta, size: u64, tier: Tier) -> Item {
        let ends = meta.ends.map(|ends| self.desk.clock().inside(ends));
        let Meta { version, pin, group, .. } = *meta;
        let block = meta.block.as_deref().copied();
        Item { name, version, size, tier, pin, group, block, ends, doubtful: false }
    }

    /// Tells what happens, in its order, until the node ends. What the master missed it is told as a whole.
    pub(super) async fn tell(self: Arc<Self>) {
        loop {
            let Some(news) = self.line.pop() else {
                tokio::select! {
                    () = self.line.came() => {}
                    () = self.desk.parted() => self.join_again().await,
                }
                continue;
            };
            if let Err(error) = self.tell_now(news).await {
                if !matches!(error, Error::Away(_)) {
                    tracing::warn!(%error, "the master is told everything anew");
                }
                self.join_again().await;
            }
        }
    }

    /// A master in this process hears what happens as it happens: no thread is woken for it.
    pub(super) fn tell_at_once(self: &Arc<Self>) {
        let inner = Arc::downgrade(self);
        self.line.heard_by(Box::new(move |news| {
            let Some(inner) = inner.upgrade() else { return };
            let mut position = inner.position.lock();
            let told = inner.desk.tell(inner.number(), inner.life, *position + 1, &news);
            match told {
                Said::Now(Ok(()) | Err(master::Error::Stale)) => *position += 1,
                Said::Now(Err(error)) => {
                    tracing::error!(%error, ?news, "the master in this process did not hear this");
                }
                Said::Later(_) => tracing::error!("a master in this process answers later"),
            }
        }));
    }

    /// Tells what waits, as much as goes together: a master elsewhere is not waited for after each.
    async fn tell_now(&self, first: News) -> Result<(), Error> {
        let mut next = Some(first);
        let mut told = Vec::new();
        let before = *self.position.lock();
        while let Some(news) = next {
            let position = before + 1 + told.len() as u64;
            told.push(self.desk.tell(self.number(), self.life, position, &news));
            next = if told.len() < AT_ONCE { self.line.pop() } else { None };
        }
        for (at, said) in told.into_iter().enumerate() {
            match said.wait().await? {
                // What it is about is gone by now; that is harmless.
                Ok(()) | Err(master::Error::Stale) => {
                    *self.position.lock() = before + 1 + at as u64;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Tries until it has joined.
    pub(super) async fn join_again(&self) {
        while let Err(error) = self.join().await {
            rest(&error).await;
        }
    }
}

/// Waits before it is tried again.
async fn rest(error: &Error) {
    if !matches!(error, Error::Away(_)) {
        tracing::warn!(%error, "joining the master failed and is tried again");
    }
    let taken = matches!(error, Error::Refused(master::Error::Taken));
    tokio::time::sleep(if taken { TAKEN } else { BREATH }).await;
}

impl Error {
    /// Whether it may be otherwise in a moment.
    fn passes(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Refused(master::Error::Taken))
    }
}
