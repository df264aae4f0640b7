//! Starts another program without copying the caller's memory
//! (`CLONE_VM | CLONE_VFORK`), whose cost does not grow with the caller.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;

use crate::clone::Child;
use crate::exec::ArgumentList;
use crate::signals::{self, SignalSet};

/// A program to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The executable, open for reading or with `O_PATH`. A script does not
    /// work: its interpreter could not open the descriptor.
    pub program: BorrowedFd<'a>,
    /// Arguments, the zeroth included.
    pub arguments: &'a ArgumentList,
    /// The whole environment.
    pub environment: &'a ArgumentList,
    /// What the program finds open: source here, number there. All other
    /// descriptors are closed for it.
    pub descriptors: &'a [(BorrowedFd<'a>, RawFd)],
    /// Whether the program leads a session of its own, away from the caller's
    /// terminal and process group.
    pub new_session: bool,
    /// The v2 cgroup that the program is born into. Where the kernel or the
    /// processor's code below cannot do that (Linux before 5.7), it is born
    /// where the caller is. To move in later costs the whole machine a lock.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Where the copies of the descriptors are parked while the numbers below are
/// given out.
const PARKED_FROM: RawFd = 512;

const STACK_SIZE: usize = 64 * 1024;

/// What the child reads and writes; it shares the caller's memory.
struct Shared<'a> {
    program: RawFd,
    spawn: &'a Spawn<'a>,
    /// Parked copies, in the order of `spawn.descriptors`; room made by the
    /// caller, since the child may not allocate.
    parked: Vec<RawFd>,
    error: i32,
}

/// Starts the program. Returns when it runs (execve has succeeded) or has
/// failed to. Its signals are unblocked and their handlers the default ones,
/// `SIGPIPE` included.
///
/// # Errors
/// What clone(2), dup(2), setsid(2) or execveat(2) answered.
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<Child> {
    let mut stack = vec![0_u8; STACK_SIZE];
    let mut shared = Shared {
        program: spawn.program.as_raw_fd(),
        spawn,
        parked: vec![-1; spawn.descriptors.len()],
        error: 0,
    };
    let mask = signals::block_all()?;
    let mut pidfd: libc::c_int = -1;
    let mut cloned = Err(io::ErrorKind::Unsupported.into());
    if let Some(cgroup) = spawn.cgroup {
        cloned = into_cgroup::clone(cgroup, &mut stack, &mut shared, &mut pidfd);
    }
    if cloned.is_err() {
        cloned = clone(&mut stack, &mut shared, &mut pidfd);
    }
    // It fails for an unknown operation only.
    let _ = mask.mask();
    drop(stack);
    let pid = i32::try_from(cloned?).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor in `pidfd`.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if shared.error != 0 {
        use std::os::fd::AsFd;
        // It ends by itself; this takes the zombie away.
        let _ = crate::pidfd::wait(pidfd.as_fd());
        return Err(io::Error::from_raw_os_error(shared.error));
    }
    Ok(Child { pid, pidfd })
}

/// Starts the child by clone(2), which every kernel and every filter lets through.
fn clone(stack: &mut [u8], shared: &mut Shared<'_>, pidfd: &mut libc::c_int) -> io::Result<i64> {
    let top = stack.as_mut_ptr_range().end;
    let top = ((top as usize) & !15) as *mut c_void;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: `child` runs on its own stack in this memory while this thread
    // is suspended (CLONE_VFORK), so nothing is used at the same time except
    // by other threads, from which the child takes no lock: it makes system
    // calls only. `shared` and the stack outlive it.
    let result = unsafe {
        libc::clone(
            child,
            top,
            flags,
            ptr::from_mut(shared).cast::<c_void>(),
            ptr::from_mut(pidfd),
        )
    };
    crate::check(result.into())
}

/// Starts the child by clone3(2), for which the C library has no function: the
/// child comes back on another stack than it left on.
#[cfg(target_arch = "x86_64")]
mod into_cgroup {
    use super::*;
    use crate::clone::{CLONE_INTO_CGROUP, CloneArgs};
    use std::arch::asm;

    pub(super) fn clone(
        cgroup: BorrowedFd<'_>,
        stack: &mut [u8],
        shared: &mut Shared<'_>,
        pidfd: &mut libc::c_int,
    ) -> io::Result<i64> {
        let range = stack.as_mut_ptr_range();
        let bottom = (range.start as usize + 15) & !15;
        let top = (range.end as usize) & !15;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
        let arguments = CloneArgs {
            flags: u64::from(flags.unsigned_abs()) | CLONE_INTO_CGROUP,
            pidfd: ptr::from_mut(pidfd) as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: bottom as u64,
            stack_size: (top - bottom) as u64,
            cgroup: u64::from(cgroup.as_raw_fd().unsigned_abs()),
            ..CloneArgs::default()
        };
        let result: i64;
        // SAFETY: as for clone(2) above. The child never gets past `ud2`: it
        // starts on the empty, aligned stack that it was given, where it calls
        // a function that does not return. The caller's registers are as they
        // were but for the three that the kernel writes.
        unsafe {
            asm!(
                "syscall",
                "test rax, rax",
                "jnz 2f",
                "xor ebp, ebp",
                "mov rdi, {shared}",
                "call {child}",
                "ud2",
                "2:",
                shared = in(reg) ptr::from_mut(shared),
                child = in(reg) begin as extern "C" fn(*mut c_void) -> libc::c_int,
                inlateout("rax") libc::SYS_clone3 => result,
                in("rdi") &raw const arguments,
                in("rsi") size_of::<CloneArgs>(),
                out("rcx") _,
                out("r11") _,
            );
        }
        match i32::try_from(result) {
            Ok(error @ ..0) => Err(io::Error::from_raw_os_error(-error)),
            _ => Ok(result),
        }
    }

    extern "C" fn begin(argument: *mut c_void) -> libc::c_int {
        child(argument);
        crate::clone::exit_now(127)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod into_cgroup {
    use super::*;

    pub(super) fn clone(
        _: BorrowedFd<'_>,
        _: &mut [u8],
        _: &mut Shared<'_>,
        _: &mut libc::c_int,
    ) -> io::Result<i64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Runs in the child, in the caller's memory and on a stack of its own.
extern "C" fn child(argument: *mut c_void) -> libc::c_int {
    // SAFETY: the argument is the `Shared` of `spawn`, which waits.
    let shared = unsafe { &mut *argument.cast::<Shared<'_>>() };
    match become_program(shared) {
        Ok(()) => 0,
        Err(errno) => {
            shared.error = errno;
            crate::clone::exit_now(127)
        }
    }
}

fn become_program(shared: &mut Shared<'_>) -> Result<(), i32> {
    signals::set_default_handlers();
    let spawn = shared.spawn;
    if spawn.new_session {
        // SAFETY: setsid takes nothing.
        positive(unsafe { libc::setsid() })?;
    }
    for (parked, (source, _)) in shared.parked.iter_mut().zip(spawn.descriptors) {
        *parked = park(source.as_raw_fd())?;
    }
    let program = park(shared.program)?;
    crate::descriptors::close_from_at_exec(0).map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
    for (parked, (_, number)) in shared.parked.iter().zip(spawn.descriptors) {
        // SAFETY: the table of this process is its own (no CLONE_FILES), so
        // that closing what had the number hurts nobody.
        positive(unsafe { libc::dup2(*parked, *number) })?;
    }
    // It fails for an unknown operation only.
    let _ = SignalSet::empty().mask();
    // SAFETY: `program` was opened above and is closed by nobody.
    let program = unsafe { BorrowedFd::borrow_raw(program) };
    let error = crate::exec::execve_file(program, spawn.arguments, spawn.environment);
    Err(error.raw_os_error().unwrap_or(libc::EIO))
}

fn park(descriptor: RawFd) -> Result<RawFd, i32> {
    // SAFETY: fcntl with F_DUPFD_CLOEXEC makes a new descriptor only.
    positive(unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, PARKED_FROM) })
}

fn positive(result: libc::c_int) -> Result<libc::c_int, i32> {
    if result >= 0 {
        return Ok(result);
    }
    Err(io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pidfd::{Ending, wait};
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn list(words: &[&str]) -> ArgumentList {
        let words = words.iter().map(|w| std::ffi::CString::new(*w).unwrap());
        ArgumentList::new(words.collect())
    }

    #[test]
    fn a_program_sees_exactly_the_descriptors_it_was_given() {
        let shell = File::open("/bin/busybox").unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let null = File::open("/dev/null").unwrap();
        let child = spawn(&Spawn {
            program: shell.as_fd(),
            arguments: &list(&[
                "sh",
                "-c",
                "for f in /proc/$$/fd/*; do echo ${f##*/}; done; exit 7",
            ]),
            environment: &list(&[]),
            descriptors: &[
                (null.as_fd(), 0),
                (write.as_fd(), 1),
                (null.as_fd(), 2),
                (null.as_fd(), 5),
            ],
            new_session: true,
            cgroup: None,
        })
        .unwrap();
        drop(write);
        let mut output = String::new();
        File::from(read).read_to_string(&mut output).unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Ending::Exited(7));
        // The shell itself opens nothing but the directory listing.
        let numbers: Vec<_> = output.lines().filter(|n| *n != "3").collect();
        assert_eq!(numbers, ["0", "1", "2", "5"]);
    }

    #[test]
    fn a_program_is_born_into_its_cgroup() {
        crate::requires!(root, cgroups);
        let Some(tree) = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .find(|tree| std::path::Path::new(tree).join("cgroup.procs").exists())
        else {
            println!("SKIP: this machine has no v2 cgroups");
            return;
        };
        let name = format!("sampan-spawn-{}", std::process::id());
        let path = std::path::Path::new(tree).join(&name);
        std::fs::create_dir(&path).unwrap();
        let cgroup = File::open(&path).unwrap();
        let shell = File::open("/bin/busybox").unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let child = spawn(&Spawn {
            program: shell.as_fd(),
            arguments: &list(&["cat", "/proc/self/cgroup"]),
            environment: &list(&[]),
            descriptors: &[(write.as_fd(), 1)],
            new_session: true,
            cgroup: Some(cgroup.as_fd()),
        })
        .unwrap();
        drop(write);
        let mut output = String::new();
        File::from(read).read_to_string(&mut output).unwrap();
        assert_eq!(wait(child.pidfd.as_fd()).unwrap(), Ending::Exited(0));
        std::fs::remove_dir(&path).unwrap();
        assert!(output.contains(&format!("0::/{name}\n")), "{output}");
    }

    #[test]
    fn a_failed_exec_is_reported_and_leaves_no_zombie() {
        let text = File::open("/etc/passwd").unwrap();
        let error = spawn(&Spawn {
            program: text.as_fd(),
            arguments: &list(&["x"]),
            environment: &list(&[]),
            descriptors: &[],
            new_session: false,
            cgroup: None,
        })
        .unwrap_err();
        assert!(matches!(
            error.raw_os_error(),
            Some(libc::EACCES | libc::ENOEXEC)
        ));
    }
}
