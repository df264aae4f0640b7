//! Changes attributes of mounts (mount_setattr(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

bitflags_like! {
    /// Attributes of a mount (`MOUNT_ATTR_*`).
    pub struct MountAttributes: u64 {
        /// Read-only.
        READ_ONLY = 0x0000_0001;
        /// Set-user-ID bits and file capabilities are ignored.
        NO_SUID = 0x0000_0002;
        /// Device nodes cannot be opened.
        NO_DEVICES = 0x0000_0004;
        /// Programs cannot be run.
        NO_EXEC = 0x0000_0008;
        /// Access times are never updated.
        NO_ACCESS_TIME = 0x0000_0010;
        /// Access times are always updated.
        STRICT_ACCESS_TIME = 0x0000_0020;
        /// Access times of directories are never updated.
        NO_DIRECTORY_ACCESS_TIME = 0x0000_0080;
        /// Symbolic links are not followed.
        NO_SYMLINK_FOLLOW = 0x0020_0000;
    }
}

/// The field of the access-time modes, which must be cleared as a whole before
/// one is set.
const ACCESS_TIME_MODES: u64 = 0x0000_0070;

/// How mounts below a mount spread to its copies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// From the original only.
    Slave,
    /// Both ways.
    Shared,
    /// Not at all, and the mount cannot be bound elsewhere.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// One change of a mount or of a whole tree of mounts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MountChange {
    /// Attributes to set.
    pub set: MountAttributes,
    /// Attributes to clear; clearing an access-time mode is implied where
    /// another one is set.
    pub clear: MountAttributes,
    /// Propagation to set.
    pub propagation: Option<Propagation>,
}

impl MountChange {
    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.clear.is_empty() && self.propagation.is_none()
    }
}

/// Whether a change reaches the mounts below.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// The mount alone.
    Mount,
    /// The mount and all below it.
    Tree,
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Changes the mount that `mount` is the root of. Does not allocate.
///
/// # Errors
/// As mount_setattr(2): `EINVAL` when `mount` is not the root of a mount,
/// `EPERM` without the privilege or for attributes locked by an outer user
/// namespace.
pub fn change_mount(mount: BorrowedFd<'_>, change: &MountChange, reach: Reach) -> io::Result<()> {
    let times =
        change.set.bits() & ACCESS_TIME_MODES != 0 || change.clear.bits() & ACCESS_TIME_MODES != 0;
    let attributes = MountAttr {
        set: change.set.bits(),
        clear: change.clear.bits() | if times { ACCESS_TIME_MODES } else { 0 },
        propagation: change.propagation.map_or(0, Propagation::bits),
        user_namespace: 0,
    };
    set_attributes(mount, &attributes, reach)
}

/// Has a detached mount show the owners of its files as `user_namespace` maps them
/// (`MOUNT_ATTR_IDMAP`). Does not allocate.
///
/// # Errors
/// As mount_setattr(2): `EINVAL` when the file system cannot do that, or the mount is in use
/// already; `EPERM` when it is mapped already.
pub fn map_owners(
    mount: BorrowedFd<'_>,
    user_namespace: BorrowedFd<'_>,
    reach: Reach,
) -> io::Result<()> {
    const IDMAP: u64 = 0x0010_0000;
    let attributes = MountAttr {
        set: IDMAP,
        clear: 0,
        propagation: 0,
        user_namespace: u64::from(user_namespace.as_raw_fd().unsigned_abs()),
    };
    set_attributes(mount, &attributes, reach)
}

fn set_attributes(mount: BorrowedFd<'_>, attributes: &MountAttr, reach: Reach) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH
        | match reach {
            Reach::Mount => 0,
            Reach::Tree => libc::AT_RECURSIVE,
        };
    // SAFETY: the path is a static empty string, `attributes` lives through
    // the call and its size is the one given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    check(done).map(drop)
}
