//! The confined child that unpacks for the directory driver.
//!
//! It sees one directory as its whole file system and has no network, no
//! capabilities beyond those that creating files of any owner takes, and one
//! open file: the tar. A flaw in the parser or the walk ends there.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use sampan_kernel::clone::{Namespaces, unshare};

use crate::context::descriptor_path;
use crate::directory;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::tar::Parser;
use crate::tree::{Finished, Tree};

/// What creating files of any owner and kind takes.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// Runs as the worker: unpacks the tar on standard input below the working
/// directory. `arguments` are what the engine added after those of
/// [`Worker::Program`](crate::Worker::Program).
///
/// To be called by the program early and from its only thread; the process is
/// good for nothing else afterwards. The caller prints the error to standard
/// error and exits with 1.
pub fn run(arguments: &[OsString]) -> Result<()> {
    let limits = Limits::from_arguments(arguments)
        .ok_or_else(|| Error::Worker("bad arguments".to_owned()))?;
    let tar = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(File::from)
        .map_err(|e| Error::io("open", "standard input", e))?;
    let dir = confine().map_err(|(action, e)| Error::io(action, "unpack worker", e))?;
    let tree = parse(&tar, limits)?;
    directory::materialise(&tree, &tar, dir.as_fd())
}

/// Leaves everything behind but the working directory.
fn confine() -> std::result::Result<OwnedFd, (&'static str, io::Error)> {
    let during = |action| move |e: rustix::io::Errno| (action, io::Error::from(e));
    let namespaces = Namespaces::MOUNT | Namespaces::NETWORK | Namespaces::IPC | Namespaces::UTS;
    unshare(namespaces).map_err(|e| ("unshare the namespaces of", e))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(during("detach the mounts of"))?;
    let tree = open_tree(
        CWD,
        ".",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .map_err(during("open the directory of"))?;
    move_mount(&tree, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(during("mount the directory of"))?;
    rustix::process::fchdir(&tree).map_err(during("enter the directory of"))?;
    rustix::process::pivot_root(".", ".").map_err(during("change the root of"))?;
    unmount(".", UnmountFlags::DETACH).map_err(during("leave the old root of"))?;
    rustix::thread::set_no_new_privs(true).map_err(during("fix the privileges of"))?;
    let sets = CapabilitySets {
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).map_err(during("drop the privileges of"))?;
    rustix::fs::open(
        "/",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(during("open the root of"))
}

/// Reads headers only; the data stay where they are until they are copied.
fn parse(tar: &File, limits: Limits) -> Result<Finished> {
    let mut parser = Parser::new();
    let mut tree = Tree::new(limits);
    let mut buffer = vec![0; 64 << 10];
    loop {
        parser.skip();
        let length = match rustix::io::pread(tar, &mut buffer, parser.position()) {
            Ok(0) => break,
            Ok(length) => length,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Error::io("read", "standard input", e)),
        };
        parser.push(&buffer[..length], &mut tree)?;
    }
    parser.finish()?;
    tree.finish()
}

/// Runs a worker over `dir` and waits for it.
pub(crate) fn spawn(
    program: &Path,
    arguments: &[OsString],
    dir: &OwnedFd,
    tar: &File,
    limits: &Limits,
) -> Result<()> {
    let failed = |e| Error::io("run", program, e);
    // Opened anew: the worker must not be able to write to the layer's tar.
    let tar = File::open(descriptor_path(tar)).map_err(failed)?;
    let output = Command::new(program)
        .args(arguments)
        .args(limits.to_arguments())
        .env_clear()
        .current_dir(descriptor_path(dir))
        .stdin(Stdio::from(tar))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.lines().last().unwrap_or("").chars().take(500);
    let message: String = message.collect();
    Err(Error::Worker(if message.is_empty() {
        output.status.to_string()
    } else {
        message
    }))
}
