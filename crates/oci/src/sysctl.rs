//! Parameters of the kernel that belong to a namespace (sysctl(8), namespaces(7)); all others are
//! the host's.

use std::fmt;

use crate::runtime::NamespaceKind;

/// Parameters of the IPC namespace, below `/proc/sys` (ipc_namespaces(7)).
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

/// Whose a parameter is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Where it lies, relative to `/proc/sys`: nothing in it is empty, `.` or `..`.
    pub path: String,
    /// The kind of namespace that has one of its own.
    pub namespace: NamespaceKind,
}

/// Why a container cannot have a parameter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOfANamespace {
    /// No parameter has such a name.
    Name,
    /// It is the host's.
    Host,
}

impl fmt::Display for NotOfANamespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Name => "has an invalid name",
            Self::Host => "is not in a separate kernel namespace",
        })
    }
}

impl std::error::Error for NotOfANamespace {}

impl Parameter {
    /// Reads a name. Whichever of `.` and `/` comes first separates, and the other is part of
    /// names: `net.ipv4.conf.eth0/1.forwarding` is `net/ipv4/conf/eth0.1/forwarding`.
    ///
    /// # Errors
    /// Where it is no name, or one of the host's.
    pub fn parse(name: &str) -> Result<Self, NotOfANamespace> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/@".contains(c);
        if !name.chars().all(plain) {
            return Err(NotOfANamespace::Name);
        }
        let path = match name.find(['.', '/']) {
            Some(at) if name.as_bytes()[at] == b'.' => swap_separators(name),
            _ => name.to_owned(),
        };
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(NotOfANamespace::Name);
        }
        let namespace = if path.starts_with("net/") {
            NamespaceKind::Network
        } else if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
            NamespaceKind::Ipc
        } else if path == "kernel/domainname" {
            NamespaceKind::Uts
        } else {
            return Err(NotOfANamespace::Host);
        };
        Ok(Self { path, namespace })
    }
}

fn swap_separators(name: &str) -> String {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    swapped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_belongs_to_a_namespace() {
        let parsed = |name: &str| {
            let parameter = Parameter::parse(name).unwrap();
            (parameter.path, parameter.namespace)
        };
        for (name, path, namespace) in [
            (
                "net.ipv4.ip_unprivileged_port_start",
                "net/ipv4/ip_unprivileged_port_start",
                NamespaceKind::Network,
            ),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                "net/ipv4/conf/eth0.1/forwarding",
                NamespaceKind::Network,
            ),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                "net/ipv4/conf/eth0.1/forwarding",
                NamespaceKind::Network,
            ),
            ("kernel.shmmax", "kernel/shmmax", NamespaceKind::Ipc),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max", NamespaceKind::Ipc),
            ("kernel.domainname", "kernel/domainname", NamespaceKind::Uts),
        ] {
            assert_eq!(parsed(name), (path.to_owned(), namespace), "{name}");
        }
    }

    #[test]
    fn the_hosts_parameters_and_paths_that_want_out_are_refused() {
        for name in [
            "kernel.core_pattern",
            "kernel.hostname",
            "vm.overcommit_memory",
            "kernel",
        ] {
            assert_eq!(Parameter::parse(name), Err(NotOfANamespace::Host), "{name}");
        }
        for name in [
            "",
            "net.",
            "net.ipv4..x",
            "net/../kernel/core_pattern",
            "net./../kernel.core_pattern",
            "kernel.shmmax\n",
            "net.ipv4+x",
        ] {
            assert_eq!(
                Parameter::parse(name),
                Err(NotOfANamespace::Name),
                "{name:?}"
            );
        }
    }
}
