//! Where the control groups of a container are: its own and its shim's.

use std::time::{Duration, Instant};

use sampan_cgroups::{Cgroup, CgroupPath};
use sampan_systemd::{Scope, Slice};

use super::cgroup_parent;
use super::id::ContainerId;
use super::record::Record;
use super::service::Inner;
use crate::{CgroupDriver, Error, Result};

/// How long a shim may take to end before systemd ends it.
const LEAVING: Duration = Duration::from_secs(10);

/// Where the control groups of a container are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ControlGroups {
    /// Directories that the shim makes, from the top of each hierarchy.
    Own { container: String, shim: String },
    /// Below a scope of systemd's, which is made over the shim and holds nothing else.
    Scope(Scope),
}

impl ControlGroups {
    /// The container's.
    pub(crate) fn container(&self) -> String {
        match self {
            Self::Own { container, .. } => container.clone(),
            Self::Scope(scope) => scope.container(),
        }
    }

    /// The shim's.
    pub(crate) fn shim(&self) -> String {
        match self {
            Self::Own { shim, .. } => shim.clone(),
            Self::Scope(scope) => scope.supervisor(),
        }
    }

    /// The slice, where systemd makes them.
    pub(crate) fn slice(&self) -> Option<&Slice> {
        match self {
            Self::Own { .. } => None,
            Self::Scope(scope) => Some(scope.slice()),
        }
    }
}

impl Inner {
    /// Those of the run that a record tells of.
    pub(crate) fn control_groups(&self, record: &Record) -> ControlGroups {
        match &record.slice {
            Some(slice) => scope_in(slice.clone(), &record.id),
            None => self.own_groups(&record.host.resources.cgroup_parent, &record.id),
        }
    }

    /// Those of the next run of a container with this parent.
    pub(crate) fn next_control_groups(
        &self,
        parent: &str,
        id: &ContainerId,
    ) -> Result<ControlGroups> {
        let slice = cgroup_parent::slice(self.cgroup_driver, parent)?;
        Ok(match slice {
            None => self.own_groups(parent, id),
            Some(slice) => scope_in(slice, id),
        })
    }

    fn own_groups(&self, parent: &str, id: &ContainerId) -> ControlGroups {
        let instance = self.networks.names().instance();
        ControlGroups::Own {
            container: cgroup_parent::path(instance, parent, id),
            shim: format!("{instance}/shims"),
        }
    }

    /// Kills whatever is left in a container's control groups and takes them away. Idempotent. Goes
    /// on after a failure; returns the first. Blocks.
    pub(crate) fn remove_control_groups(&self, groups: &ControlGroups) -> Result<()> {
        let container = self.remove_cgroup_at(&groups.container());
        let ControlGroups::Scope(scope) = groups else {
            return container;
        };
        container.and(self.end_scope(scope))
    }

    fn end_scope(&self, scope: &Scope) -> Result<()> {
        // The shim ends by itself once it was let go, which systemd does not see everywhere (cgroup
        // v1 in a container): it would wait for that until it kills.
        let deadline = Instant::now() + LEAVING;
        while self.is_held(scope) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        sampan_systemd::stop(scope.name())
            .map_err(|error| Error::because("remove the scope of a container", &error))?;
        // In hierarchies of which systemd knows nothing the shim has made it.
        let failed = |error| Error::because("remove the control group of a scope", &error);
        let path: CgroupPath = scope.control_group().parse().map_err(failed)?;
        match Cgroup::open(&self.host.hierarchies, &path) {
            Ok(left) => left.delete().map_err(failed),
            Err(_) => Ok(()),
        }
    }

    fn is_held(&self, scope: &Scope) -> bool {
        let path = scope.supervisor().parse().ok();
        let supervisor = path.and_then(|path| Cgroup::open(&self.host.hierarchies, &path).ok());
        let processes = supervisor.and_then(|group| group.procs().ok());
        processes.is_some_and(|processes| !processes.is_empty())
    }

    /// Finds the scope of a container that nobody knows any more. Blocks.
    pub(crate) fn find_scope(&self, id: &str) -> Result<Option<ControlGroups>> {
        if self.cgroup_driver != CgroupDriver::Systemd {
            return Ok(None);
        }
        let found = sampan_systemd::find(&format!("{}.scope", scope_name(id)))
            .map_err(|error| Error::because("look for the scope of a container", &error))?;
        Ok(found.map(ControlGroups::Scope))
    }
}

fn scope_name(id: &str) -> String {
    format!("sampan-{id}")
}

fn scope_in(slice: Slice, id: &ContainerId) -> ControlGroups {
    let scope = Scope::new(&scope_name(id.as_str()), slice);
    ControlGroups::Scope(scope.expect("an identity is hexadecimal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_a_place_for_the_container_and_one_for_its_shim() {
        let id = ContainerId::random();
        let groups = scope_in("my-own.slice".parse().unwrap(), &id);
        let scope = format!("my.slice/my-own.slice/sampan-{id}.scope");
        assert_eq!(groups.container(), format!("{scope}/container"));
        assert_eq!(groups.shim(), format!("{scope}/supervisor"));
        assert_eq!(groups.slice().unwrap().as_str(), "my-own.slice");
    }
}
