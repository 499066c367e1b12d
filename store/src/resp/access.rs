//! Who may come in: keys, each of one tenant.

use std::fmt;

use super::contract::Tenant;

/// Keys and whose they are. With none, everybody is the default tenant.
#[derive(Clone, Default)]
pub struct Access(Vec<(Tenant, Box<[u8]>)>);

impl Access {
    /// One more key; a tenant may have several, so that they can be changed one after the other.
    pub fn allow(&mut self, tenant: Tenant, key: &[u8]) {
        self.0.push((tenant, key.into()));
    }

    /// Whether nobody needs a key.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whom a key belongs to. Clients that must say a name and have none say `default`.
    pub fn open(&self, name: Option<&[u8]>, key: &[u8]) -> Option<Tenant> {
        let named =
            |tenant: &Tenant| name.is_none_or(|name| name == b"default" || name == tenant.name().as_bytes());
        // All of them are compared, each to its end, so that the time taken tells nothing.
        let mut found = None;
        for (tenant, own) in &self.0 {
            if same(own, key) & named(tenant) {
                found = Some(tenant.clone());
            }
        }
        found
    }
}

fn same(one: &[u8], other: &[u8]) -> bool {
    let different = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(different) == 0 && one.len() == other.len()
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(tenant, _)| tenant)).finish()
    }
}
