//! The descriptor table as a whole.

use std::io;

use crate::check;

const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// Marks all descriptors from `first` on as close-on-exec. Does not allocate.
///
/// # Errors
/// As close_range(2).
pub fn close_from_at_exec(first: u32) -> io::Result<()> {
    // SAFETY: only sets a flag of descriptors; none is closed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    };
    check(done).map(drop)
}
