//! The supervisor of one container: a small process that owns what an engine may not, because the
//! engine can be gone at any moment.
//!
//! It launches the container (the OCI runtime is linked in), holds its standard streams and
//! terminal, writes its log, serves attached clients and execs, reaps, notes the exit durably and
//! tells every engine that is connected. It knows nothing of images, networks, names or records,
//! and it answers to nobody but the engine's protocol ([`sampan_shim_protocol`]).
//!
//! One thread, one epoll loop ([`supervisor`]), no async runtime:
//! * [`launch`]: from a request to a running container; [`explain`]: why a program was not run;
//! * [`streams`]: output to log and clients, input from clients; [`client`]: one of those;
//! * [`exec`]: further processes;
//! * [`task`]: a container's processes, by whichever runtime; [`foreign`]: one of another program;
//! * [`control`]: the socket and its connections;
//! * [`record`]: what is left on disk, below `<container directory>/shim/`;
//! * [`steps`]: where the time goes;
//! * [`isolate`]: away from whoever started it;
//! * [`init`]: the other face of the executable, process 1 of a container with `--init`;
//! * [`users`]: a third one, which makes namespaces of users: only a process with one thread can;
//! * [`without`]: a fourth one, which runs a program that must not see a mount.

mod client;
mod control;
mod detach;
mod exec;
mod explain;
mod foreign;
mod init;
mod isolate;
mod launch;
mod poller;
mod queue;
mod record;
mod steps;
mod streams;
mod supervisor;
mod task;
mod users;
mod without;

use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.collect();
    let called_as_init = name.as_bytes().ends_with(b"docker-init");
    match arguments.first().map(|first| first.as_bytes()) {
        Some(b"init") if !called_as_init => init::run(&arguments[1..]),
        _ if called_as_init => init::run(&arguments),
        Some(b"--control-fd") => match arguments
            .get(1)
            .and_then(|number| number.to_str()?.parse().ok())
        {
            Some(number) => supervisor::run(number),
            None => usage(),
        },
        Some(b"without") => without::run(&arguments[1..]),
        Some(b"user-namespaces") => users::run(&arguments[1..]),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: sampan-shim --control-fd NUMBER\n       sampan-shim init -- COMMAND [ARGUMENT...]\n       \
         sampan-shim user-namespaces MAPS\n       \
         sampan-shim without MOUNT PROGRAM [ARGUMENT...]"
    );
    ExitCode::from(2)
}
