//! Groups: objects that are of use only together, and leave memory together.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::name::{Group, Tenant, Version};
use super::object::Object;
use super::order::Place;

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<HashMap<(Tenant, Group), Members>>);

#[derive(Debug, Default)]
struct Members {
    members: Vec<(Place, Version)>,
    /// Being dropped from memory: nobody is told of copies there.
    leaving: bool,
}

impl Groups {
    pub(super) fn join(&self, object: &Object, at: Place) {
        if object.group != Group::NONE {
            let mut groups = self.0.lock();
            groups.entry((object.tenant, object.group)).or_default().members.push((at, object.version));
        }
    }

    pub(super) fn leave(&self, object: &Object, at: Place) {
        if object.group == Group::NONE {
            return;
        }
        let mut groups = self.0.lock();
        let key = (object.tenant, object.group);
        let Some(group) = groups.get_mut(&key) else { return };
        group.members.retain(|member| *member != (at, object.version));
        if group.members.is_empty() && !group.leaving {
            groups.remove(&key);
        }
    }

    /// The members, as they are now.
    pub(super) fn members(&self, tenant: Tenant, group: Group) -> Vec<(Place, Version)> {
        self.0.lock().get(&(tenant, group)).map(|group| group.members.clone()).unwrap_or_default()
    }

    pub(super) fn len(&self, tenant: Tenant, group: Group) -> usize {
        self.0.lock().get(&(tenant, group)).map_or(0, |group| group.members.len())
    }

    /// Whether it is being dropped from memory.
    pub(super) fn is_leaving(&self, object: &Object) -> bool {
        object.group != Group::NONE
            && self.0.lock().get(&(object.tenant, object.group)).is_some_and(|group| group.leaving)
    }

    /// Begins to drop a group; false if somebody does so already.
    pub(super) fn begin(&self, tenant: Tenant, group: Group) -> bool {
        let mut groups = self.0.lock();
        groups.get_mut(&(tenant, group)).is_some_and(|group| !std::mem::replace(&mut group.leaving, true))
    }

    /// Has dropped it, or has not.
    pub(super) fn end(&self, tenant: Tenant, group: Group) {
        let mut groups = self.0.lock();
        let Some(found) = groups.get_mut(&(tenant, group)) else { return };
        found.leaving = false;
        if found.members.is_empty() {
            groups.remove(&(tenant, group));
        }
    }

    /// Everything; for checks.
    pub(super) fn list(&self) -> Vec<(Tenant, Group, Place, Version)> {
        let groups = self.0.lock();
        let all = groups.iter().flat_map(|((tenant, group), found)| {
            found.members.iter().map(|(at, version)| (*tenant, *group, *at, *version))
        });
        all.collect()
    }
}
