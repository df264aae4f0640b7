//! The specification as another program gets it.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use sampan_oci::runtime::{Namespace, NamespaceKind, RootFilesystem, Spec};

/// The version of the specification that every runtime in use knows.
const VERSION: &str = "1.0.2";

/// Says in paths what the runtime that is linked in gets as descriptors, and leaves away what
/// other programs refuse.
pub(super) fn complete(spec: &mut Spec, root: &Path, joined: &[(NamespaceKind, OwnedFd)]) {
    VERSION.clone_into(&mut spec.oci_version);
    let readonly = spec.root.as_ref().is_some_and(|root| root.readonly);
    spec.root = Some(RootFilesystem {
        path: root.to_owned(),
        readonly,
    });
    let linux = spec.linux.get_or_insert_default();
    // Nothing was asked of it, and runc before 1.2 does not know it.
    linux
        .namespaces
        .retain(|namespace| namespace.kind != NamespaceKind::Time);
    for (kind, descriptor) in joined {
        let path = format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd());
        linux.namespaces.retain(|namespace| namespace.kind != *kind);
        linux.namespaces.push(Namespace {
            kind: *kind,
            path: Some(path.into()),
        });
    }
    // The field is younger than the kernel parameter, which does the same.
    if let Some(name) = spec.domainname.take() {
        linux.sysctl.insert("kernel.domainname".to_owned(), name);
    }
    if let Some(path) = &mut linux.cgroups_path {
        // A relative one would lie below the shim's own.
        *path = format!("/{}", path.trim_start_matches('/'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_oci::runtime::Linux;

    #[test]
    fn what_is_joined_is_a_path_and_what_is_unknown_is_left_away() {
        let kinds = [
            NamespaceKind::Network,
            NamespaceKind::Time,
            NamespaceKind::Pid,
        ];
        let mut spec = Spec {
            domainname: Some("example".to_owned()),
            linux: Some(Linux {
                namespaces: kinds.into_iter().map(Namespace::new).collect(),
                cgroups_path: Some("sampan/1".to_owned()),
                ..Linux::default()
            }),
            ..Spec::default()
        };
        let file = std::fs::File::open("/proc/self/ns/net").unwrap();
        let joined = [(NamespaceKind::Network, file.into())];
        complete(&mut spec, Path::new("/root"), &joined);
        let linux = spec.linux.unwrap();
        let [pid, network] = &linux.namespaces[..] else {
            panic!("{:?}", linux.namespaces)
        };
        assert_eq!((pid.kind, pid.path.is_some()), (NamespaceKind::Pid, false));
        let path = network.path.as_ref().unwrap();
        assert!(path.starts_with(format!("/proc/{}/fd", std::process::id())));
        assert_eq!(linux.cgroups_path.as_deref(), Some("/sampan/1"));
        assert_eq!(linux.sysctl["kernel.domainname"], "example");
    }
}
