//! A master for each time that this process leads, and what the event stream says of it.
//!
//! The stream outlives masters. What one told goes when it leads no longer, and nothing that it says later is written down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blocks::View;
use parking_lot::{Mutex, RwLock};
use store::link::Masters;
use store::master::name::Tenant;
use store::master::options::Options;
use store::master::{Change, Deaf, Quota, Residency};
use store::node::desk::{Finder, Local, Nobody};

use super::residency::Residents;
use crate::settings::{Size, Tiers};

/// Makes masters.
pub(super) struct Maker {
    /// What the next one begins with.
    set: Mutex<Set>,
    residents: Option<Arc<Residents>>,
    /// The last one's, if it leads yet.
    sheet: Mutex<Option<Arc<Sheet>>>,
}

/// What is set for a master.
struct Set {
    options: Options,
    quotas: BTreeMap<String, Quota>,
}

/// What one master tells of its blocks, as long as it leads.
struct Sheet {
    residents: Arc<Residents>,
    /// Held for reading while something is written down, so that nothing is once it has ended.
    over: RwLock<bool>,
}

/// How often it is looked whether what the master knows is everything.
const LOOK: Duration = Duration::from_millis(100);

// === impl Maker ===

impl Maker {
    /// For masters that tell these.
    pub(super) fn new(tiers: &Tiers, options: Options, residents: Option<Arc<Residents>>) -> Self {
        Self { set: Mutex::new(Set::of(tiers, options)), residents, sheet: Mutex::default() }
    }
    /// What is said about promotion and quotas counts from now on, for this master and those after it; which of both is new.
    pub(super) fn set(&self, tiers: &Tiers, options: Options, local: Option<&Local>) -> [bool; 2] {
        let mut set = self.set.lock();
        let now = Set::of(tiers, options);
        let changed = [now.options.promotion != set.options.promotion, now.quotas != set.quotas];
        if let Some(local) = local {
            if changed[0] {
                local.master().set_promotion(now.options.promotion.clone());
            }
            let gone = set.quotas.keys().filter(|name| !now.quotas.contains_key(*name));
            let free = gone.map(|name| (name.clone(), Quota::default()));
            bound(local, &free.chain(now.quotas.clone()).collect());
        }
        set.options.promotion = now.options.promotion;
        set.quotas = now.quotas;
        changed
    }

    /// A master that knows nothing, of this term.
    pub(super) fn make(&self, term: u32) -> Local {
        self.end();
        let set = self.set.lock();
        let options = Options { term, ..set.options.clone() };
        let local = match &self.residents {
            None => Local::new(options, Arc::new(Deaf), Arc::new(Nobody)),
            Some(residents) => {
                let sheet = Arc::new(Sheet { residents: residents.clone(), over: RwLock::new(false) });
                *self.sheet.lock() = Some(sheet.clone());
                Local::new(options, sheet.clone(), sheet)
            }
        };
        bound(&local, &set.quotas);
        local
    }

    /// What the last master told is over.
    fn end(&self) {
        if let Some(sheet) = self.sheet.lock().take() {
            *sheet.over.write() = true;
            sheet.residents.state(View::Recovering);
            sheet.residents.forget();
        }
    }

    /// Has the stream say how far what is told can be relied on; never ends.
    pub(super) async fn follow(&self, masters: &Masters) {
        let Some(residents) = &self.residents else { return std::future::pending().await };
        let mut exact = false;
        loop {
            tokio::time::sleep(LOOK).await;
            let local = masters.now();
            if local.is_none() {
                self.end();
            }
            let now = local.is_some_and(|local| is_settled(&local));
            if now != exact {
                exact = now;
                residents.state(if exact { View::Exact } else { View::Recovering });
            }
        }
    }
}

/// Tenants may use so much from now on.
fn bound(local: &Local, quotas: &BTreeMap<String, Quota>) {
    for (name, quota) in quotas {
        match local.master().tenant(name) {
            Ok(tenant) => local.master().set_quota(tenant, *quota),
            Err(error) => tracing::error!("tiers.quotas.{name} counts for nothing: {error}"),
        }
    }
}

/// Whether a master has heard everything from every node that it knows, and there is one.
fn is_settled(local: &Local) -> bool {
    local.master().is_sure() && !local.master().node_list().is_empty()
}

// === impl Set ===

impl Set {
    fn of(tiers: &Tiers, options: Options) -> Self {
        let bound = |size: Option<Size>| size.map(Size::get);
        let quota = |quota: &crate::settings::Quota| Quota {
            memory: bound(quota.memory),
            disk: bound(quota.disk),
            weight: quota.weight.max(1),
        };
        let quotas = tiers.quotas.iter().map(|(name, set)| (name.clone(), quota(set))).collect();
        Set { options, quotas }
    }
}

// === impl Sheet ===

impl Residency for Sheet {
    fn changed(&self, change: &Change<'_>) {
        let over = self.over.read();
        if !*over {
            self.residents.changed(change);
        }
    }
}

impl Finder for Sheet {
    fn keys(&self, prefixes: &[u64]) -> Vec<(Tenant, Box<[u8]>)> {
        let over = self.over.read();
        if *over { Vec::new() } else { self.residents.keys(prefixes) }
    }
}

#[cfg(test)]
mod tests {
    use blocks::{PrefixHash, TokensHash};
    use events::publish;
    use store::master::Joining;
    use store::master::name::{Block, Tier, Version};

    use super::*;

    fn residents(folder: &std::path::Path) -> Arc<Residents> {
        let at = |name: &str| format!("ipc://{}", folder.join(name).display());
        Residents::start(publish::Settings::of_relay(at("events"), at("replay"), 16)).unwrap()
    }

    fn came(number: u64) -> (Vec<u8>, Block) {
        let prefix = PrefixHash::after(None, TokensHash(number));
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&prefix.0.to_le_bytes());
        (number.to_le_bytes().to_vec(), Block { hash, parent: None, tokens: number })
    }

    fn say(master: &Local, sheet: &Sheet, number: u64) {
        let (key, block) = came(number);
        // Only a master gives out the words for tenants and nodes.
        let tenant = master.master().tenant("a").unwrap();
        let joining = Joining { id: "n", life: 1, memory: 1, disk: 1 };
        let node = master.master().join(&joining).unwrap().node;
        let (version, tier, here) = (Version(number), Tier::Memory, true);
        sheet.changed(&Change { tenant, key: &key, version, size: 1, block: &block, node, tier, here });
    }

    fn told(residents: &Residents) -> usize {
        while residents.counts().pending > 0 {
            std::thread::yield_now();
        }
        residents.counts().told
    }

    #[test]
    fn what_one_master_told_goes_when_another_leads_and_nothing_that_it_says_later_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let residents = residents(folder.path());
        let maker = Maker::new(&Tiers::default(), Options::default(), Some(residents.clone()));
        let sheet = |maker: &Maker| maker.sheet.lock().clone().unwrap();
        let first = maker.make(1);
        assert_eq!(first.master().options().term, 1);
        let old = sheet(&maker);
        (0..500).for_each(|number| say(&first, &old, number));
        assert_eq!(told(&residents), 500);
        maker.make(2);
        assert_eq!((told(&residents), residents.counts().objects), (0, 0));
        say(&first, &old, 1_000);
        let new = sheet(&maker);
        (0..7).for_each(|number| say(&first, &new, number));
        assert_eq!(told(&residents), 7);
        let of = |sheet: &Sheet, number: u64| {
            let prefix = PrefixHash::after(None, TokensHash(number));
            sheet.keys(&[prefix.0]).len()
        };
        assert_eq!((of(&new, 3), of(&new, 300), of(&old, 3)), (1, 0, 0));
        maker.end();
        assert_eq!((told(&residents), of(&new, 3)), (0, 0));
    }
}
