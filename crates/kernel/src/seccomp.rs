//! Installs system call filters (seccomp(2)).

use std::io;
use std::os::fd::RawFd;

/// `SECCOMP_FILTER_FLAG_TSYNC`: it means nothing where there is one thread.
const ALL_THREADS: u32 = 1;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u32 = 1 << 3;

/// One classic BPF instruction, as the kernel's `struct sock_filter`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct SockFilter {
    /// Operation code.
    pub code: u16,
    /// Instructions to skip where a comparison holds.
    pub jt: u8,
    /// Instructions to skip where it does not.
    pub jf: u8,
    /// Immediate value.
    pub k: u32,
}

/// A whole filter, ready to install.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SeccompProgram {
    instructions: Vec<SockFilter>,
    flags: u32,
}

/// The kernel's `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const SockFilter,
}

impl SeccompProgram {
    /// Takes a filter of at most 4096 instructions (the kernel's limit, which it
    /// checks) and flags of seccomp(2) such as `SECCOMP_FILTER_FLAG_LOG`.
    #[must_use]
    pub fn new(instructions: Vec<SockFilter>, flags: u32) -> Self {
        Self {
            instructions,
            flags,
        }
    }

    /// Reads a filter that [`SeccompProgram::to_bytes`] wrote on this machine; `None` when the
    /// bytes are no whole number of instructions.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], flags: u32) -> Option<Self> {
        let (instructions, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let instructions = instructions.iter().map(|bytes| {
            let [c0, c1, jt, jf, k0, k1, k2, k3] = *bytes;
            SockFilter {
                code: u16::from_ne_bytes([c0, c1]),
                jt,
                jf,
                k: u32::from_ne_bytes([k0, k1, k2, k3]),
            }
        });
        Some(Self::new(instructions.collect(), flags))
    }

    /// The instructions as they lie in memory.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.instructions.len() * 8);
        for instruction in &self.instructions {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
        bytes
    }

    /// The instructions.
    #[must_use]
    pub fn instructions(&self) -> &[SockFilter] {
        &self.instructions
    }

    /// The flags of seccomp(2).
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Whether the filter asks an agent.
    #[must_use]
    pub fn has_listener(&self) -> bool {
        self.flags & NEW_LISTENER != 0
    }

    /// The filter with an agent to ask: [`SeccompProgram::install`] gives a descriptor to hear
    /// of the calls by.
    #[must_use]
    pub fn with_listener(self) -> Self {
        // The kernel cannot give both a descriptor and the id of a thread that could not follow.
        Self {
            flags: (self.flags | NEW_LISTENER) & !ALL_THREADS,
            ..self
        }
    }

    /// Puts the calling thread, and all that it will start, under the filter.
    /// There is no way back. Does not allocate. Gives the number of the agent's
    /// descriptor, close-on-exec, where the filter has one.
    ///
    /// # Errors
    /// `EACCES` when the thread has neither `CAP_SYS_ADMIN` nor
    /// `no_new_privs`, `EINVAL` when the kernel refuses the program.
    pub fn install(&self) -> io::Result<Option<RawFd>> {
        let program = Program {
            length: u16::try_from(self.instructions.len())
                .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
            instructions: self.instructions.as_ptr(),
        };
        let operation = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: `program` and the instructions it points to outlive the
        // call, which copies them; `length` is the number of instructions.
        let done =
            unsafe { libc::syscall(libc::SYS_seccomp, operation, self.flags, &raw const program) };
        let done = crate::check(done)?;
        Ok(self
            .has_listener()
            .then_some(done)
            .and_then(|number| RawFd::try_from(number).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_survives_being_bytes() {
        let instruction = SockFilter {
            code: 0x15,
            jt: 1,
            jf: 2,
            k: 0xc000_003e,
        };
        let program = SeccompProgram::new(vec![instruction; 3], 2);
        let bytes = program.to_bytes();
        assert_eq!(SeccompProgram::from_bytes(&bytes, 2), Some(program));
        assert_eq!(SeccompProgram::from_bytes(&bytes[1..], 2), None);
    }
}
