//! The C library's allocator.

/// Bounds the number of arenas of glibc's allocator, so that many threads do
/// not each keep memory of their own (mallopt(3)). Best called first in `main`.
pub fn limit_arenas(count: i32) {
    // SAFETY: sets a number of the allocator; no memory of ours is involved.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
}
