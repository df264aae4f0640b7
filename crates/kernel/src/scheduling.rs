//! How much of a processor and of the disks a process gets, and which processors
//! (sched_setattr(2), ioprio_set(2), sched_setaffinity(2)).
//!
//! Nothing here allocates.

use std::io;

use rustix::process::Pid;

use crate::check;

/// What the scheduler knows of a thread, in the kernel's `struct sched_attr`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SchedulingAttributes {
    /// `SCHED_*` of sched(7).
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value, for `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// Static priority, for `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub runtime: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Nanoseconds, for `SCHED_DEADLINE`.
    pub period: u64,
}

/// `struct sched_attr`, as of its first version.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets policy and attributes of the calling thread.
///
/// # Errors
/// As sched_setattr(2): `EPERM` without the privilege, `EINVAL` for what does not fit the policy.
pub fn set_scheduling(attributes: &SchedulingAttributes) -> io::Result<()> {
    let sized = Attributes {
        size: u32::try_from(size_of::<Attributes>()).unwrap_or_default(),
        policy: attributes.policy,
        flags: attributes.flags,
        nice: attributes.nice,
        priority: attributes.priority,
        runtime: attributes.runtime,
        deadline: attributes.deadline,
        period: attributes.period,
    };
    // SAFETY: `sized` lives through the call, and its first field is its size.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const sized, 0) };
    check(done).map(drop)
}

/// `IOPRIO_WHO_PROCESS` and `IOPRIO_CLASS_SHIFT` (linux/ioprio.h).
const WHO_PROCESS: libc::c_int = 1;
const CLASS_SHIFT: u32 = 13;

/// Sets the class (`IOPRIO_CLASS_*`) and the priority within it of the calling thread's input and
/// output.
///
/// # Errors
/// As ioprio_set(2).
pub fn set_io_priority(class: u32, priority: u32) -> io::Result<()> {
    let value = class << CLASS_SHIFT | priority;
    // SAFETY: plain numbers.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    check(done).map(drop)
}

/// Most processors that a set holds.
pub const MAX_PROCESSORS: usize = 8192;

/// A set of processors.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Processors {
    words: Box<[u64]>,
}

impl Processors {
    /// Reads a list such as `0-3,7` (cpuset(7)); `None` when it is none.
    #[must_use]
    pub fn parse(list: &str) -> Option<Self> {
        let mut words = vec![0_u64; MAX_PROCESSORS / 64].into_boxed_slice();
        for part in list
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                let number: usize = text.trim().parse().ok()?;
                (number < MAX_PROCESSORS).then_some(number)
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            for processor in first..=last {
                words[processor / 64] |= 1 << (processor % 64);
            }
        }
        words
            .iter()
            .any(|word| *word != 0)
            .then_some(Self { words })
    }

    /// Has a process, the calling one where none is given, run on these processors only.
    ///
    /// # Errors
    /// As sched_setaffinity(2): `EINVAL` when none of them may be used, `ESRCH`.
    pub fn apply(&self, process: Option<Pid>) -> io::Result<()> {
        let process = process.map_or(0, |pid| pid.as_raw_nonzero().get());
        // SAFETY: the kernel reads as many bytes as the words have.
        let done = unsafe {
            libc::syscall(
                libc::SYS_sched_setaffinity,
                process,
                size_of_val(&*self.words),
                self.words.as_ptr(),
            )
        };
        check(done).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        let set = |list: &str| Processors::parse(list).map(|set| set.words[0]);
        assert_eq!(set("0"), Some(1));
        assert_eq!(set("0-2,5"), Some(0b10_0111));
        assert_eq!(Processors::parse("64").unwrap().words[1], 1);
        for bad in ["", "a", "2-1", "1-", "99999", ","] {
            assert_eq!(set(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_the_kernel_takes() {
        // A thread of its own, which takes its settings with it.
        let thread = std::thread::spawn(|| {
            let batch = SchedulingAttributes {
                policy: 3,
                nice: 5,
                ..SchedulingAttributes::default()
            };
            set_scheduling(&batch)?;
            set_io_priority(2, 7)?;
            Processors::parse("0").unwrap().apply(None)
        });
        thread.join().unwrap().unwrap();
    }
}
