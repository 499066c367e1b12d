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
use store::node::desk::{Desk, Finder, Local, Nobody};

use super::residency::Residents;
use crate::settings::{Size, Tiers};

/// Makes masters.
pub(super) struct Maker {
    /// What the next one begins with.
    set: Mutex<Set>,
    residents: Option<Arc<Residents>>,
    pad: Mutex<Pad>,
}

/// What is told now.
#[derive(Default)]
struct Pad {
    /// By the last master, if it leads yet.
    sheet: Option<Arc<Sheet>>,
    /// Whether it was said that this is everything.
    exact: bool,
}

/// What is set for a master.
struct Set {
    options: Options,
    quotas: BTreeMap<String, Quota>,
}

/// What one master tells of its blocks, as long as it leads.
struct Sheet {
    /// Of which term its master is.
    term: u32,
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
        Self { set: Mutex::new(Set::of(tiers, options)), residents, pad: Mutex::default() }
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
        self.end(u32::MAX);
        let set = self.set.lock();
        let options = Options { term, ..set.options.clone() };
        let local = match &self.residents {
            None => Local::new(options, Arc::new(Deaf), Arc::new(Nobody)),
            Some(residents) => {
                let over = RwLock::new(false);
                let sheet = Arc::new(Sheet { term, residents: residents.clone(), over });
                self.pad.lock().sheet = Some(sheet.clone());
                Local::new(options, sheet.clone(), sheet)
            }
        };
        bound(&local, &set.quotas);
        local
    }

    /// What the last master told is over, if it is of this term or an earlier one.
    fn end(&self, last: u32) {
        let mut pad = self.pad.lock();
        if let Some(sheet) = pad.sheet.take_if(|sheet| sheet.term <= last) {
            *sheet.over.write() = true;
            pad.exact = false;
            sheet.residents.state(View::Recovering);
            sheet.residents.forget();
        }
    }

    /// Has the stream say how far what is told can be relied on; never ends.
    pub(super) async fn follow(&self, masters: &Masters) {
        if self.residents.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            // Not whatever was told when nobody is seen to lead: a master is made a moment before it is.
            self.end(masters.over());
            let local = masters.now();
            let knows = local.filter(is_settled).map(|local| local.term());
            self.say(knows);
        }
    }

    /// Says whether what is told is everything: it is if it is told by the master of the term that knows.
    fn say(&self, knows: Option<u32>) {
        let mut pad = self.pad.lock();
        let Some(sheet) = pad.sheet.clone() else { return };
        let exact = knows == Some(sheet.term);
        if exact != pad.exact {
            pad.exact = exact;
            sheet.residents.state(if exact { View::Exact } else { View::Recovering });
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
        let sheet = |maker: &Maker| maker.pad.lock().sheet.clone().unwrap();
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
        maker.end(1);
        assert_eq!((told(&residents), of(&new, 3)), (7, 1), "only what is over ends");
        maker.end(2);
        assert_eq!((told(&residents), of(&new, 3)), (0, 0));
    }

    struct Never;

    impl store::link::Lead for Never {
        fn after(&self, _: u32) {}

        fn hold(&self) -> store::node::desk::Later<store::link::Held> {
            Box::pin(std::future::pending())
        }
    }

    /// It was looked who leads just when a master was made and not yet seen to lead: what it told was taken for that of the one
    /// before it, and nothing was told for as long as it led, and that was called everything.
    #[tokio::test(start_paused = true)]
    async fn what_a_master_tells_before_it_is_seen_to_lead_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let residents = residents(folder.path());
        let maker = Maker::new(&Tiers::default(), Options::default(), Some(residents.clone()));
        let make = |_| unreachable!("it never leads");
        let masters = Masters::new(store::link::Settings::default(), Arc::new(Never), make);
        let made = maker.make(1);
        let sheet = maker.pad.lock().sheet.clone().unwrap();
        assert!(tokio::time::timeout(10 * LOOK, maker.follow(&masters)).await.is_err());
        say(&made, &sheet, 3);
        assert_eq!(told(&residents), 1);
    }

    /// A master that was followed by another one at once: it is said again that everything is told.
    #[test]
    fn each_master_that_knows_everything_has_that_said() {
        let folder = tempfile::tempdir().unwrap();
        let maker = Maker::new(&Tiers::default(), Options::default(), Some(residents(folder.path())));
        for term in 1..3 {
            maker.make(term);
            assert!(!maker.pad.lock().exact);
            maker.say(Some(term - 1));
            assert!(!maker.pad.lock().exact, "another one knew");
            maker.say(Some(term));
            assert!(maker.pad.lock().exact);
        }
    }
}
