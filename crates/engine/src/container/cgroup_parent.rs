//! `--cgroup-parent`: the control group in which a container's own one lies.

use sampan_cgroups::CgroupPath;

use super::id::ContainerId;
use crate::{Error, Result};

/// Looks at what was asked for. A path counts from the top of each hierarchy, with or without a
/// leading slash.
pub(crate) fn check(parent: &str) -> Result<()> {
    if parent.is_empty() {
        return Ok(());
    }
    if parent.ends_with(".slice") && !parent.contains('/') {
        return Err(Error::invalid(format!(
            "cgroup parent {parent} is a slice of systemd, and the engine makes control groups without systemd"
        ))
        .with_hint("name a path such as /mygroup"));
    }
    let path = parent.trim_matches('/').parse::<CgroupPath>();
    path.map(drop)
        .map_err(|_| Error::invalid(format!("invalid cgroup parent: {parent}")))
}

/// The path of a container's control group; `own` is the engine's parent of all others.
pub(crate) fn path(own: &str, parent: &str, id: &ContainerId) -> String {
    match parent.trim_matches('/') {
        "" => format!("{own}/{id}"),
        parent => format!("{parent}/{id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_paths_from_the_top() {
        let id = ContainerId::random();
        for parent in ["/a/b", "a/b/"] {
            check(parent).unwrap();
            assert_eq!(path("own", parent, &id), format!("a/b/{id}"));
        }
        assert_eq!(path("own", "", &id), format!("own/{id}"));
        for bad in ["system.slice", "../x", "/a//b", "a/./b", "/"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
