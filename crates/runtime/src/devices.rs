//! Device nodes and the links of /dev.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Uid, chownat, fstat, makedev, mknodat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;
use sampan_kernel::mount::Reach;
use sampan_oci::runtime::{Device, DeviceRule};
use sampan_text::path::absolute;

use crate::Error;
use crate::command::c_string;
use crate::resolve::{Links, Missing, open, open_or_create};
use crate::trees::{attach, clone_path};

/// What every container has: path below /dev, major, minor (Docker's list).
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What a container may use whatever its rules say, after them: what is made
/// in its /dev, terminals, and making nodes (using them is another matter).
/// runc does the same.
pub(crate) fn always_allowed() -> Vec<DeviceRule> {
    let rule = |kind: &str, major, minor, access: &str| DeviceRule {
        allow: true,
        kind: Some(kind.to_owned()),
        major,
        minor,
        access: Some(access.to_owned()),
    };
    let mut rules = vec![rule("c", None, None, "m"), rule("b", None, None, "m")];
    for (_, major, minor) in DEFAULT {
        rules.push(rule("c", Some(major.into()), Some(minor.into()), "rwm"));
    }
    // /dev/ptmx and the terminals that it makes.
    rules.push(rule("c", Some(5), Some(2), "rwm"));
    rules.push(rule("c", Some(136), None, "rwm"));
    rules
}

/// Links of /dev, target first.
pub(crate) const LINKS: [(&CStr, &CStr); 6] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"/proc/kcore", c"core"),
    (c"pts/ptmx", c"ptmx"),
];

/// A node to make.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) path: String,
    /// The directory, relative to /dev where the node is below it.
    directory: Option<CString>,
    below_dev: bool,
    name: CString,
    kind: FileType,
    mode: u32,
    device: u64,
    owner: Option<(u32, u32)>,
    /// The host's node, bound instead of made: in a user namespace none can be made.
    host: Option<OwnedFd>,
}

/// Where the nodes of a container come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    /// They are made.
    Made,
    /// They are the host's, bound.
    Host,
}

/// The default nodes and those of the specification, which win.
pub(crate) fn plan(devices: &[Device], origin: Origin) -> Result<Vec<Node>, Error> {
    let mut nodes: Vec<Node> = devices.iter().map(node).collect::<Result<_, _>>()?;
    for (name, major, minor) in DEFAULT {
        let path = format!("/dev/{name}");
        if nodes.iter().any(|node| node.path == path) {
            continue;
        }
        nodes.push(Node {
            path,
            directory: None,
            below_dev: true,
            name: c_string(name)?,
            kind: FileType::CharacterDevice,
            mode: 0o666,
            device: makedev(major, minor),
            owner: None,
            host: None,
        });
    }
    if origin == Origin::Host {
        for node in nodes.iter_mut().filter(|node| node.kind != FileType::Fifo) {
            node.bind()?;
        }
    }
    Ok(nodes)
}

fn node(device: &Device) -> Result<Node, Error> {
    let path = absolute(&device.path);
    let invalid = || Error::Invalid(format!("invalid device {path}"));
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        _ => return Err(invalid()),
    };
    let number = |number: i64| u32::try_from(number).map_err(|_| invalid());
    let device_number = if kind == FileType::Fifo {
        0
    } else {
        makedev(number(device.major)?, number(device.minor)?)
    };
    let (directory, name) = path.rsplit_once('/').ok_or_else(invalid)?;
    if name.is_empty() {
        return Err(invalid());
    }
    let below_dev = directory == "/dev" || directory.starts_with("/dev/");
    let directory = directory.strip_prefix("/dev").unwrap_or(directory);
    let owner = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    Ok(Node {
        directory: (!directory.is_empty())
            .then(|| c_string(directory))
            .transpose()?,
        below_dev,
        name: c_string(name)?,
        kind,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        device: device_number,
        owner: (owner != (0, 0)).then_some(owner),
        host: None,
        path,
    })
}

impl Node {
    /// Takes the host's node of the same path.
    fn bind(&mut self) -> Result<(), Error> {
        let tree = clone_path(&PathBuf::from(&self.path), Reach::Mount)
            .map_err(Error::step(format!("bind the host's device {}", self.path)))?;
        let status = fstat(&tree).map_err(Error::step(format!("look at {}", self.path)))?;
        if FileType::from_raw_mode(status.st_mode) != self.kind || status.st_rdev != self.device {
            return Err(Error::Invalid(format!(
                "{} of the host is another device: in a user namespace a device is the host's of \
                 the same path",
                self.path
            )));
        }
        self.host = Some(tree);
        Ok(())
    }

    /// Child code: makes the node. What has its name and is something else
    /// gives way.
    pub(crate) fn make(&self, root: BorrowedFd<'_>, dev: BorrowedFd<'_>) -> Result<(), Errno> {
        let base = if self.below_dev { dev } else { root };
        let Some(directory) = &self.directory else {
            return self.make_in(base);
        };
        let directory = open_or_create(base, directory, Links::Follow, Missing::Directory)?;
        self.make_in(directory.as_fd())
    }

    fn make_in(&self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        let name = self.name.as_c_str();
        if let Some(host) = &self.host {
            match mknodat(directory, name, FileType::RegularFile, Mode::RUSR, 0) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let place = open(directory, name, Links::Refuse)?;
            return attach(host.as_fd(), place.as_fd());
        }
        let mode = Mode::from_raw_mode(self.mode);
        let make = || mknodat(directory, name, self.kind, mode, self.device);
        match make() {
            Err(Errno::EXIST) => {
                let status = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let same = FileType::from_raw_mode(status.st_mode) == self.kind
                    && (self.kind == FileType::Fifo || status.st_rdev == self.device);
                if same {
                    return Ok(());
                }
                unlinkat(directory, name, AtFlags::empty())?;
                make()?;
            }
            other => other?,
        }
        let Some((uid, gid)) = self.owner else {
            return Ok(());
        };
        chownat(
            directory,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }
}

/// Child code: makes the links of /dev; what is there stays.
pub(crate) fn make_links(dev: BorrowedFd<'_>) -> Result<(), Errno> {
    for (target, name) in LINKS {
        match symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_below_dev_stay_below_it() {
        let device = |path: &str| Device {
            path: path.to_owned(),
            kind: "c".to_owned(),
            major: 10,
            minor: 200,
            ..Device::default()
        };
        let node = node(&device("/dev/net/../net//tun")).unwrap();
        assert_eq!(node.path, "/dev/net/tun");
        assert_eq!(node.directory.as_deref(), Some(c"/net"));
        assert!(node.below_dev);
        let nodes = plan(&[device("/dev/null"), device("/devices/x")], Origin::Made).unwrap();
        assert_eq!(nodes.len(), 7);
        assert!(!nodes[1].below_dev);
        assert!(plan(&[device("/")], Origin::Made).is_err());
    }
}
