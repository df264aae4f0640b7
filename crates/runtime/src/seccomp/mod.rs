//! Compiles the seccomp section of a runtime configuration to a BPF program.
//! Pure: installing it is the kernel crate's.

mod compile;
mod table;
#[cfg(test)]
mod tests;

pub use compile::compile;

/// A seccomp section that cannot be compiled.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// An architecture that this machine cannot run or that we have no call
    /// numbers for.
    #[error("unknown seccomp architecture {0:?}")]
    UnknownArchitecture(String),
    /// A flag that seccomp(2) does not have.
    #[error("unknown seccomp flag {0:?}")]
    UnknownFlag(String),
    /// An argument beyond the sixth.
    #[error("a system call has no argument {0}: they are counted from 0 to 5")]
    BadArgument(u32),
    /// An error number that does not fit.
    #[error("error number {0} of a seccomp rule is out of range")]
    BadErrno(u32),
    /// An agent that is asked about everything would be asked about its own coming to be.
    #[error("SCMP_ACT_NOTIFY cannot be used as default action")]
    NotifyAll,
    /// By this call the process tells of the agent's descriptor.
    #[error("SCMP_ACT_NOTIFY cannot be used for the {0} syscall")]
    NotifyCall(String),
    /// More instructions than the kernel takes.
    #[error("the seccomp profile compiles to {0} instructions, the kernel takes 4096")]
    TooLong(usize),
}
