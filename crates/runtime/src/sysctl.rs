//! Kernel parameters that belong to a namespace of the container.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use sampan_kernel::clone::Namespaces;

use crate::Error;
use crate::command::c_string;

/// Parameters of the IPC namespace below `kernel.`.
const IPC: [&str; 9] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_next_id",
    "kernel/shm_rmid_forced",
];

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
    let refused = |why: &str| Err(Error::Invalid(format!("sysctl {name:?} {why}")));
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/@".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return refused("has an invalid name");
    }
    if value.len() > 4096 || value.contains(['\n', '\0']) {
        return refused("has an invalid value");
    }
    // Whichever separator comes first separates; the other is part of names
    // (`net.ipv4.conf.eth0/1.forwarding`).
    let path = match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => swap_separators(name),
        _ => name.to_owned(),
    };
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refused("has an invalid name");
    }
    let needs = if path.starts_with("net/") {
        Namespaces::NETWORK
    } else if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
        Namespaces::IPC
    } else if path == "kernel/domainname" {
        Namespaces::UTS
    } else {
        return refused("is not in a separate kernel namespace");
    };
    if !own.contains(needs) {
        return refused("cannot be set in the host's namespace");
    }
    Ok(Sysctl {
        name: name.to_owned(),
        path: c_string(&format!("sys/{path}"))?,
        value: value.as_bytes().to_vec(),
    })
}

fn swap_separators(name: &str) -> String {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    swapped.collect()
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
        let ok = |name: &str| plan_one(name, "1", all).is_ok();
        assert!(ok("net.ipv4.ip_unprivileged_port_start"));
        assert!(ok("net/ipv4/conf/eth0.1/forwarding"));
        assert!(ok("kernel.shmmax"));
        assert!(ok("fs.mqueue.msg_max"));
        for name in [
            "kernel.core_pattern",
            "kernel.hostname",
            "net.",
            "net.ipv4..x",
            "net/../kernel/core_pattern",
            "net./../kernel.core_pattern",
            "kernel.shmmax\n",
            "vm.overcommit_memory",
            "",
            "net.ipv4+x",
        ] {
            assert!(!ok(name), "{name:?}");
        }
        assert!(plan_one("net.x", "1", Namespaces::IPC).is_err());
        assert!(plan_one("net.x", "1\nkernel.y=2", all).is_err());
        let path = plan_one("net.ipv4.conf.eth0/1.x", "1", all).unwrap().path;
        assert_eq!(path.as_c_str(), c"sys/net/ipv4/conf/eth0.1/x");
    }
}
