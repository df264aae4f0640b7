//! File system contexts of the mount API, with what the kernel says about them.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::{Error, Result};

pub(crate) struct Context {
    what: &'static str,
    fd: OwnedFd,
}

impl Context {
    pub(crate) fn open(what: &'static str) -> Result<Self> {
        match fsopen(what, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fd) => Ok(Self { what, fd }),
            Err(e) => Err(Error::Mount {
                what,
                log: None,
                source: e.into(),
            }),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<()> {
        fsconfig_set_flag(&self.fd, key).map_err(|e| self.error(e))
    }

    pub(crate) fn string(&self, key: &str, value: &str) -> Result<()> {
        fsconfig_set_string(&self.fd, key, value).map_err(|e| self.error(e))
    }

    pub(crate) fn descriptor(&self, key: &str, value: impl AsFd) -> rustix::io::Result<()> {
        fsconfig_set_fd(&self.fd, key, value)
    }

    /// Makes the file system and returns it as a detached mount.
    pub(crate) fn mount(&self, attributes: MountAttrFlags) -> Result<OwnedFd> {
        fsconfig_create(&self.fd).map_err(|e| self.error(e))?;
        fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| self.error(e))
    }

    pub(crate) fn error(&self, errno: Errno) -> Error {
        Error::Mount {
            what: self.what,
            log: self.log(),
            source: errno.into(),
        }
    }

    /// Reading the context's descriptor gives the messages, one per read.
    fn log(&self) -> Option<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut buffer) {
            lines.push(
                String::from_utf8_lossy(&buffer[..length])
                    .trim_end()
                    .to_owned(),
            );
            if lines.len() >= 8 {
                break;
            }
        }
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

/// A path by which the kernel finds an open file whatever happens to its name.
/// Values of mount options are cut at 255 bytes; this is always short.
pub(crate) fn descriptor_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
