//! Kernel parameters that belong to a namespace of the container.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use sampan_kernel::clone::Namespaces;
use sampan_oci::sysctl::Parameter;

use crate::Error;
use crate::command::c_string;
use crate::namespaces::flag_of;

/// One parameter to set.
#[derive(Debug)]
pub(crate) struct Sysctl {
    pub(crate) name: String,
    path: CString,
    value: Vec<u8>,
}

/// Checks the parameters against the namespaces that the container has to
/// itself; those of the host are never set.
pub(crate) fn plan(
    sysctls: &BTreeMap<String, String>,
    own: Namespaces,
) -> Result<Vec<Sysctl>, Error> {
    sysctls
        .iter()
        .map(|(name, value)| plan_one(name, value, own))
        .collect()
}

fn plan_one(name: &str, value: &str, own: Namespaces) -> Result<Sysctl, Error> {
    let refused = |why: &str| Error::Invalid(format!("sysctl {name:?} {why}"));
    let parameter = Parameter::parse(name).map_err(|why| refused(&why.to_string()))?;
    if value.len() > 4096 || value.contains(['\n', '\0']) {
        return Err(refused("has an invalid value"));
    }
    if !own.contains(flag_of(parameter.namespace)) {
        return Err(refused("cannot be set in the host's namespace"));
    }
    Ok(Sysctl {
        name: name.to_owned(),
        path: c_string(&format!("sys/{}", parameter.path))?,
        value: value.as_bytes().to_vec(),
    })
}

impl Sysctl {
    /// Child code: writes the value below `proc`, a mount of our own, so that
    /// it lands on a true procfs.
    pub(crate) fn apply(&self, proc: BorrowedFd<'_>) -> Result<(), Errno> {
        let file = open_beneath(proc, &self.path, OFlags::WRONLY)?;
        rustix::io::write(&file, &self.value).map(drop)
    }
}

/// Child code: opens a file of one mount, following nothing and crossing into
/// no other mount.
pub(crate) fn open_beneath(
    mount: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
) -> Result<std::os::fd::OwnedFd, Errno> {
    openat2(
        mount,
        path,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_own_namespaces_are_set() {
        let all = Namespaces::NETWORK | Namespaces::IPC | Namespaces::UTS;
        let planned = plan_one("net.ipv4.conf.eth0/1.x", "1", all).unwrap();
        assert_eq!(planned.path.as_c_str(), c"sys/net/ipv4/conf/eth0.1/x");
        assert!(plan_one("kernel.core_pattern", "1", all).is_err());
        assert!(plan_one("net.x", "1", Namespaces::IPC).is_err());
        assert!(plan_one("net.x", "1\nkernel.y=2", all).is_err());
    }
}
