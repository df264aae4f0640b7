//! Safe system calls: the only crate of the workspace with unsafe code.
//!
//! Most of what the workspace asks of the kernel it asks through `rustix`.
//! This crate has the calls that `rustix` lacks and the few pieces around
//! process creation that cannot be written safely elsewhere. It knows nothing
//! of containers.
//!
//! * [`clone`]: a copy of the caller in new namespaces, and the rule that code
//!   in such a child keeps to;
//! * [`spawn`]: another program, without copying the caller's memory;
//! * [`signals`], [`exec`], [`descriptors`], [`seccomp`], [`mount`], [`scheduling`]: what a
//!   child does on its way to the program;
//! * [`pidfd`], [`ancillary`], [`memfd`], [`bpf`]: descriptors of processes,
//!   over sockets, of sealed memory, of device programs;
//! * [`inherited`]: what a supervisor takes over from who started it;
//! * [`keyring`]: secrets that the kernel keeps;
//! * [`signalfd`]: signals as descriptors, and an init's child;
//! * [`requires!`]: what a test needs of the machine.
#![allow(unsafe_code)]

#[macro_use]
mod macros;

pub mod acting;
pub mod ancillary;
pub mod bpf;
pub mod clone;
pub mod descriptors;
pub mod exec;
pub mod inherited;
pub mod keyring;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod pidfd;
pub mod requires;
pub mod scheduling;
pub mod seccomp;
pub mod signalfd;
pub mod signals;
pub mod spawn;

/// Turns the -1 of a system call into its error.
fn check(result: i64) -> std::io::Result<i64> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(result)
}
