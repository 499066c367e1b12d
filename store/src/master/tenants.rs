//! Tenants: what each may use, and what it uses.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Master;
use super::error::Error;
use super::name::{Tenant, Tier};
use super::options::MAX_TENANTS;

/// What a tenant may use, and its part beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes in memory, over all nodes.
    pub memory: Option<u64>,
    /// Bytes on disk, over all nodes.
    pub disk: Option<u64>,
    /// Its part beside other tenants: of memory when there is too little, and of copying.
    pub weight: u32,
}

/// A tenant's account.
#[derive(Debug)]
pub(super) struct Account {
    name: Box<str>,
    used: [AtomicU64; 2],
    /// `u64::MAX` is no bound.
    quota: [AtomicU64; 2],
    weight: AtomicU32,
}

impl Default for Quota {
    fn default() -> Self {
        Self { memory: None, disk: None, weight: 1 }
    }
}

impl Account {
    fn new(name: &str) -> Self {
        let none = || AtomicU64::new(u64::MAX);
        let nothing = || AtomicU64::new(0);
        let weight = AtomicU32::new(1);
        Self { name: name.into(), used: [nothing(), nothing()], quota: [none(), none()], weight }
    }

    /// Takes so many bytes if the quota allows it.
    pub(super) fn charge(&self, tier: Tier, bytes: u64) -> bool {
        let most = self.quota(tier);
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= most);
        self.used[tier.at()].fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Takes so many bytes whatever the quota says.
    pub(super) fn add(&self, tier: Tier, bytes: u64) {
        self.used[tier.at()].fetch_add(bytes, Ordering::AcqRel);
    }

    /// Gives them back.
    pub(super) fn give(&self, tier: Tier, bytes: u64) {
        self.used[tier.at()].fetch_sub(bytes, Ordering::AcqRel);
    }

    pub(super) fn used(&self, tier: Tier) -> u64 {
        self.used[tier.at()].load(Ordering::Acquire)
    }

    pub(super) fn quota(&self, tier: Tier) -> u64 {
        self.quota[tier.at()].load(Ordering::Acquire)
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }
}

impl Master {
    /// The tenant of that name; known from now on.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn tenant(&self, name: &str) -> Result<Tenant, Error> {
        if let Some(tenant) = self.tenant_names.read().get(name) {
            return Ok(*tenant);
        }
        let mut names = self.tenant_names.write();
        if let Some(tenant) = names.get(name) {
            return Ok(*tenant);
        }
        let number = names.len();
        let too_many = Error::TooMany { what: "tenants", most: MAX_TENANTS };
        let slot = self.tenants.get(number).ok_or(too_many)?;
        slot.get_or_init(|| Account::new(name));
        let tenant = Tenant(number as u16);
        names.insert(name.into(), tenant);
        Ok(tenant)
    }

    /// Sets what a tenant may use. What it has beyond that leaves with its next put.
    pub fn set_quota(&self, tenant: Tenant, quota: Quota) {
        let account = self.account(tenant);
        let bound = |most: Option<u64>| most.unwrap_or(u64::MAX);
        account.quota[Tier::Memory.at()].store(bound(quota.memory), Ordering::Release);
        account.quota[Tier::Disk.at()].store(bound(quota.disk), Ordering::Release);
        account.weight.store(quota.weight.max(1), Ordering::Relaxed);
    }

    /// What a tenant may use.
    pub fn quota(&self, tenant: Tenant) -> Quota {
        let account = self.account(tenant);
        let bound = |tier| Some(account.quota(tier)).filter(|most| *most < u64::MAX);
        Quota { memory: bound(Tier::Memory), disk: bound(Tier::Disk), weight: account.weight() }
    }

    /// The tenant of that name, if it was ever named.
    pub fn tenant_named(&self, name: &str) -> Option<Tenant> {
        self.tenant_names.read().get(name).copied()
    }

    /// What a tenant uses.
    pub fn used(&self, tenant: Tenant, tier: Tier) -> u64 {
        self.account(tenant).used(tier)
    }

    /// Everybody who was ever named.
    pub fn tenant_list(&self) -> Vec<(Tenant, Box<str>)> {
        let named = self.tenants.iter().map_while(std::sync::OnceLock::get).enumerate();
        named.map(|(number, account)| (Tenant(number as u16), account.name.clone())).collect()
    }

    pub(super) fn account(&self, tenant: Tenant) -> &Account {
        // Numbers of tenants are only made here, after their account.
        self.tenants[usize::from(tenant.0)].get_or_init(|| Account::new(""))
    }
}
