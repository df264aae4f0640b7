//! `--cgroup-parent`: the control group in which a container's own one lies.

use sampan_cgroups::CgroupPath;
use sampan_systemd::Slice;

use super::id::ContainerId;
use crate::{CgroupDriver, Error, Result};

/// Looks at what was asked for: a slice where systemd makes the control groups, which is returned,
/// elsewhere a path, which counts from the top of each hierarchy, with or without a leading slash.
pub(crate) fn slice(driver: CgroupDriver, parent: &str) -> Result<Option<Slice>> {
    match driver {
        CgroupDriver::Cgroupfs => check_path(parent).map(|()| None),
        CgroupDriver::Systemd => parse_slice(parent).map(Some),
    }
}

fn check_path(parent: &str) -> Result<()> {
    if parent.is_empty() {
        return Ok(());
    }
    if parent.ends_with(".slice") && !parent.contains('/') {
        return Err(Error::invalid(format!(
            "cgroup parent {parent} is a slice of systemd, and the engine makes control groups without systemd"
        ))
        .with_hint(
            "start the engine with --exec-opt native.cgroupdriver=systemd, or name a path such as /mygroup",
        ));
    }
    let path = parent.trim_matches('/').parse::<CgroupPath>();
    path.map(drop)
        .map_err(|_| Error::invalid(format!("invalid cgroup parent: {parent}")))
}

/// The slice that was asked for, or the usual one; refused in Docker's words.
fn parse_slice(parent: &str) -> Result<Slice> {
    if parent.is_empty() {
        return Ok(Slice::system());
    }
    parent.parse().map_err(|_| {
        Error::invalid(
            "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"",
        )
    })
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
        let check = |parent| slice(CgroupDriver::Cgroupfs, parent);
        let id = ContainerId::random();
        for parent in ["/a/b", "a/b/"] {
            assert_eq!(check(parent).unwrap(), None);
            assert_eq!(path("own", parent, &id), format!("a/b/{id}"));
        }
        assert_eq!(path("own", "", &id), format!("own/{id}"));
        for bad in ["system.slice", "../x", "/a//b", "a/./b", "/"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parents_are_slices_where_systemd_makes_them() {
        let check = |parent| slice(CgroupDriver::Systemd, parent);
        for (parent, expected) in [
            ("", "system.slice"),
            ("my-own.slice", "my-own.slice"),
            ("-.slice", "-.slice"),
        ] {
            assert_eq!(check(parent).unwrap().unwrap().as_str(), expected);
        }
        for bad in ["/a/b", "a", "a/b.slice", "a--b.slice", "/system.slice"] {
            let error = check(bad).unwrap_err();
            assert!(error.message().contains("named as \"xxx.slice\""), "{bad}");
        }
    }
}
