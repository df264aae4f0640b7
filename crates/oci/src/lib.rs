//! The formats of the Open Container Initiative, and Docker's additions to them, as plain data.

pub mod runtime;
pub mod seccomp;
