//! The C library's allocator.

/// Bounds the number of arenas of glibc's allocator, so that many threads do
/// not each keep memory of their own (mallopt(3)). Best called first in `main`.
pub fn limit_arenas(count: i32) {
    // SAFETY: sets a number of the allocator; no memory of ours is involved.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
}

/// Gives memory that is free but kept for later back to the system
/// (malloc_trim(3)). Takes milliseconds; for the end of large operations.
pub fn release_unused() {
    // SAFETY: looks only at memory that the allocator holds as free.
    unsafe { libc::malloc_trim(0) };
}
