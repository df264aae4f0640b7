//! Replaces the calling process by another program (execve(2)).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// A list of strings in the form that execve takes, made ahead of time so that
/// a child need not allocate.
#[derive(Debug)]
pub struct ArgumentList {
    // The pointers lead into the strings' heap memory, which does not move
    // when this value does.
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

// SAFETY: the pointers lead only into memory that `strings` owns and that is
// never written, so that another thread may hold and read them.
unsafe impl Send for ArgumentList {}
// SAFETY: as above; nothing is written through a shared reference.
unsafe impl Sync for ArgumentList {}

impl ArgumentList {
    /// Takes the strings in order.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self { strings, pointers }
    }

    /// The strings.
    #[must_use]
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// Runs `program` in place of the calling one; returns only on failure. Does
/// not allocate.
#[must_use]
pub fn execve(program: &CStr, arguments: &ArgumentList, environment: &ArgumentList) -> io::Error {
    // SAFETY: both lists end with a null pointer and own what they point to.
    unsafe {
        libc::execve(
            program.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        );
    }
    io::Error::last_os_error()
}

/// Runs the program that `file` is open on in place of the calling one;
/// returns only on failure. Does not allocate.
#[must_use]
pub fn execve_file(
    file: BorrowedFd<'_>,
    arguments: &ArgumentList,
    environment: &ArgumentList,
) -> io::Error {
    // SAFETY: both lists end with a null pointer and own what they point to;
    // the path is a static empty string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Sets the execution domain of the calling process (personality(2)).
///
/// # Errors
/// `EINVAL` where the kernel knows no such domain.
pub fn set_personality(domain: u64) -> io::Result<()> {
    // SAFETY: takes and returns plain numbers.
    let done = unsafe { libc::personality(domain) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
