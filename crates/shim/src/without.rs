//! Runs a program that must not see a mount: in a mount namespace without it.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use sampan_kernel::clone::{Namespaces, unshare};

/// The arguments are the mount's place, the program and the program's arguments.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let Err(error) = become_program(arguments);
    // Nobody else can be told.
    let _ = write!(io::stderr(), "{error}");
    ExitCode::FAILURE
}

fn become_program(arguments: &[OsString]) -> Result<std::convert::Infallible, Box<dyn Error>> {
    let [place, program, arguments @ ..] = arguments else {
        return Err("a place and a program are wanted".into());
    };
    unshare(Namespaces::MOUNT)?;
    // What the host mounts later still comes.
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", propagation)?;
    unmount(place, UnmountFlags::DETACH)?;
    Err(Command::new(program).args(arguments).exec().into())
}
