//! Starts a copy of the calling process in new namespaces (clone3(2)).
//!
//! # The rule for child code
//! The child is a copy-on-write copy of the caller with the calling thread
//! alone. Where the caller has one thread, as the shim has, the copy is
//! consistent and plain Rust works in it. Where it may have more (tests), a
//! lock that another thread held at the moment of the call stays locked for
//! ever, the memory allocator's above all. So that one rule fits both: child
//! code makes system calls on what the parent has prepared, **allocates and
//! frees nothing**, prints nothing, does not panic, and leaves by execve or by
//! its return value.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

use crate::check;

bitflags_like! {
    /// Which namespaces a child gets anew (`CLONE_NEW*`).
    pub struct Namespaces: u64 {
        /// Time (`CLONE_NEWTIME`), with offsets of zero.
        TIME = 0x0000_0080;
        /// Mount table.
        MOUNT = 0x0002_0000;
        /// View of the cgroup tree.
        CGROUP = 0x0200_0000;
        /// Host name and domain name.
        UTS = 0x0400_0000;
        /// System V and POSIX inter-process communication.
        IPC = 0x0800_0000;
        /// Users.
        USER = 0x1000_0000;
        /// Process ids.
        PID = 0x2000_0000;
        /// Network.
        NETWORK = 0x4000_0000;
    }
}

/// A child of the calling process.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's namespace.
    pub pid: Pid,
    /// Its descriptor, close-on-exec.
    pub pidfd: OwnedFd,
}

const CLONE_PIDFD: u64 = 0x0000_1000;
pub(crate) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The kernel's `struct clone_args`, as of `CLONE_ARGS_SIZE_VER2`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

impl CloneArgs {
    fn of(namespaces: Namespaces, cgroup: Option<BorrowedFd<'_>>) -> Self {
        let mut arguments = Self {
            flags: namespaces.bits(),
            exit_signal: libc::SIGCHLD as u64,
            ..Self::default()
        };
        if let Some(cgroup) = cgroup {
            arguments.flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
        }
        arguments
    }
}

/// Starts a copy of the calling process in new `namespaces`, born into the v2
/// `cgroup` where one is given, and runs `run` in it; what `run` returns is
/// the child's exit code. See the module for the rule that `run` keeps to.
///
/// # Errors
/// As clone3(2): `EPERM` without the privilege, `EINVAL` for namespaces that
/// the kernel does not have, `EAGAIN` at a limit of processes, `EBUSY` for a
/// cgroup that may hold no processes.
pub fn spawn_copy<F>(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
    run: F,
) -> io::Result<Child>
where
    F: FnOnce() -> u8,
{
    let mut pidfd: libc::c_int = -1;
    let mut arguments = CloneArgs::of(namespaces, cgroup);
    arguments.flags |= CLONE_PIDFD;
    arguments.pidfd = (&raw mut pidfd) as u64;
    // SAFETY: without CLONE_VM the child gets its own copy of this memory and
    // stack, so that returning twice is sound; `arguments` and the `pidfd` it
    // points to live until the call is over.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<CloneArgs>(),
        )
    };
    let pid = on_each_side(result, run)?;
    // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor in `pidfd`,
    // which nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Starts a copy of the calling process that is not its child but a further
/// child of its parent, and runs `run` in it; what `run` returns is its exit
/// code. Returns its id. Uses clone(2), which filters that forbid clone3 let
/// through. See the module for the rule that `run` keeps to.
///
/// # Errors
/// As clone(2).
pub fn spawn_sibling<F>(run: F) -> io::Result<Pid>
where
    F: FnOnce() -> u8,
{
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child gets its own copy of this memory and
    // stack, so that returning twice is sound; the pointers are null and unused.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    on_each_side(result, run)
}

/// As [`spawn_sibling`], in new `namespaces` and born into the v2 `cgroup` where one is given, by
/// clone3(2). The id that is returned is the one in the caller's namespace of process ids.
///
/// # Errors
/// As [`spawn_copy`].
pub fn spawn_sibling_in<F>(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
    run: F,
) -> io::Result<Pid>
where
    F: FnOnce() -> u8,
{
    let mut arguments = CloneArgs::of(namespaces, cgroup);
    arguments.flags |= u64::from(libc::CLONE_PARENT.unsigned_abs());
    // The sibling has the caller's own exit signal, and the kernel wants none said.
    arguments.exit_signal = 0;
    // SAFETY: as in `spawn_copy`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<CloneArgs>(),
        )
    };
    on_each_side(result, run)
}

/// What follows a call that returns twice: the child runs `run` and ends with it, the parent learns
/// the child's id.
fn on_each_side(result: libc::c_long, run: impl FnOnce() -> u8) -> io::Result<Pid> {
    if result == 0 {
        let _leave = LeaveAlways;
        exit_now(run());
    }
    let pid = i32::try_from(check(result)?).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Ends the child, also when its code panics: unwinding further would run the
/// rest of the parent's program a second time.
struct LeaveAlways;

impl Drop for LeaveAlways {
    fn drop(&mut self) {
        exit_now(255)
    }
}

/// Ends the process at once: no destructors, no handlers, no flushing.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

/// Moves the calling thread into new `namespaces` (unshare(2)).
///
/// A new mount namespace also gives the thread its own working directory and
/// root; a new PID or time namespace takes effect for what it starts next.
///
/// # Errors
/// As unshare(2).
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    let flags =
        i32::try_from(namespaces.bits()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the type holds CLONE_NEW* only, never CLONE_FILES, so that no
    // descriptor disappears from under another thread.
    let done = unsafe { libc::unshare(flags) };
    check(i64::from(done)).map(drop)
}

/// Moves the calling thread into `namespaces` of the process behind `pidfd`,
/// or into the one namespace that a descriptor of `/proc/PID/ns/` stands for
/// (setns(2)).
///
/// # Errors
/// As setns(2).
pub fn setns(descriptor: BorrowedFd<'_>, namespaces: Namespaces) -> io::Result<()> {
    let flags =
        i32::try_from(namespaces.bits()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: takes a borrowed, hence open, descriptor and changes the calling
    // thread's namespaces only.
    let done = unsafe { libc::setns(descriptor.as_raw_fd(), flags) };
    check(i64::from(done)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pidfd::{Ending, wait};
    use crate::requires;
    use std::os::fd::AsFd;

    #[test]
    fn the_child_is_first_in_its_own_namespaces() {
        requires!(root);
        let namespaces = Namespaces::PID | Namespaces::MOUNT | Namespaces::TIME | Namespaces::UTS;
        let child = spawn_copy(namespaces, None, || {
            u8::from(rustix::process::getpid().as_raw_nonzero().get() != 1)
        })
        .unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Ending::Exited(0));
    }

    #[test]
    fn a_child_that_panics_ends_there() {
        let child = spawn_copy(Namespaces::empty(), None, || {
            std::panic::resume_unwind(Box::new(0));
        })
        .unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Ending::Exited(255));
    }
}
