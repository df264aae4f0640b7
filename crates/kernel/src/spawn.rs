//! Starts another program without copying the caller's memory
//! (`CLONE_VM | CLONE_VFORK`), whose cost does not grow with the caller.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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
    // SAFETY: the offset is the length of the buffer, one past its end.
    let top = unsafe { stack.as_mut_ptr().add(STACK_SIZE) };
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
            (&raw mut shared).cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let failure = io::Error::last_os_error();
    // It fails for an unknown operation only.
    let _ = mask.mask();
    drop(stack);
    let Some(pid) = Pid::from_raw(result.max(0)) else {
        return Err(failure);
    };
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
    fn a_failed_exec_is_reported_and_leaves_no_zombie() {
        let text = File::open("/etc/passwd").unwrap();
        let error = spawn(&Spawn {
            program: text.as_fd(),
            arguments: &list(&["x"]),
            environment: &list(&[]),
            descriptors: &[],
            new_session: false,
        })
        .unwrap_err();
        assert!(matches!(
            error.raw_os_error(),
            Some(libc::EACCES | libc::ENOEXEC)
        ));
    }
}
