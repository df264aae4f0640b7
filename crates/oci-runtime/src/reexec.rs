//! Runs this program again from a mount of its own that nobody can write through.
//!
//! A container that runs `/proc/self/exe` as its program, or finds it as the interpreter of a
//! script, holds this executable's file open and could write to it once it runs no more
//! (CVE-2019-5736). By way of a read-only mount that is in nobody's mount table it gets nowhere:
//! the kernel refuses to open the file for writing, whatever the container's privileges.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, StatVfsMountFlags, statvfs};
use rustix::mount::{OpenTreeFlags, open_tree};
use sampan_kernel::exec::{ArgumentList, execve_file};
use sampan_kernel::mount::{MountAttributes, MountChange, Propagation, Reach, change_mount};

const OWN: &str = "/proc/self/exe";

/// Returns when this process runs from such a mount already; else it becomes one that does.
pub(crate) fn from_read_only() -> Result<()> {
    let status = statvfs(OWN).context("cannot look at the own executable")?;
    if status.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let program = read_only().context("cannot protect the own executable")?;
    let strings = |list: Vec<std::ffi::OsString>| -> Result<ArgumentList> {
        let strings: Result<Vec<_>, _> = list
            .into_iter()
            .map(|text| CString::new(text.into_vec()))
            .collect();
        Ok(ArgumentList::new(strings?))
    };
    let environment = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let arguments = strings(std::env::args_os().collect())?;
    let environment = strings(environment.collect())?;
    Err(execve_file(program.as_fd(), &arguments, &environment))
        .context("cannot run the own executable again")
}

fn read_only() -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, OWN, flags)?;
    let change = MountChange {
        set: MountAttributes::READ_ONLY,
        clear: MountAttributes::empty(),
        propagation: Some(Propagation::Private),
    };
    change_mount(tree.as_fd(), &change, Reach::Mount)?;
    Ok(tree)
}
