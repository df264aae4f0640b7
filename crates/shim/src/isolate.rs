//! Away from whoever started the shim: session, descriptors, signals, memory killer, cgroup.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{OwnedFd, RawFd};

use sampan_cgroups::{CgroupPath, Hierarchies};
use sampan_kernel::{inherited, signals};

/// The kernel takes everything else before a shim, whose end would be that of its container's
/// bookkeeping.
const OWN_OOM_SCORE: &str = "-999";
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What the shim had from whoever started it.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The connection to the engine.
    pub(crate) control: OwnedFd,
    /// The score that the container gets where its specification names none.
    pub(crate) oom_score: i32,
}

/// Leaves the engine's session and keeps nothing of it but the control connection.
pub(crate) fn leave(control: RawFd) -> io::Result<Inherited> {
    let control = inherited::keep_only(control)?;
    signals::block_all()?;
    // Fails where the shim leads a session already, which is just as well.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let oom_score = fs::read_to_string(OOM_SCORE)?.trim().parse().unwrap_or(0);
    // Not allowed in a user namespace; then the shim takes its chance with the rest.
    let _ = fs::write(OOM_SCORE, OWN_OOM_SCORE);
    Ok(Inherited { control, oom_score })
}

/// Moves the shim into `path` of the v2 tree (of the `systemd` hierarchy where there is none), and
/// to the top of the hierarchies that have controllers of v1: their limits shall not hold it, and
/// the engine's cgroup can be emptied without it.
pub(crate) fn enter_cgroup(hierarchies: &Hierarchies, path: &CgroupPath) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for hierarchy in hierarchies.all() {
        let (target, file) = if hierarchy.unified {
            (path.as_str(), "cgroup.procs")
        } else if hierarchy.controllers.is_empty() {
            // One thread: `tasks` spares the lock that `cgroup.procs` takes.
            (path.as_str(), "tasks")
        } else {
            ("", "tasks")
        };
        let is_there = own.lines().any(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(names), Some(place)) = (fields.next(), fields.next()) else {
                return false;
            };
            let same = if hierarchy.unified {
                names.is_empty()
            } else if hierarchy.controllers.is_empty() {
                names.strip_prefix("name=") == Some(&hierarchy.name)
            } else {
                names.split(',').any(|name| {
                    hierarchy
                        .controllers
                        .iter()
                        .any(|controller| controller.to_string() == name)
                })
            };
            same && place.trim_start_matches('/') == target
        });
        if is_there {
            continue;
        }
        let directory = hierarchy.mount_point.join(target);
        // Best effort: a shim in the wrong cgroup does its work all the same.
        let _ = fs::create_dir_all(&directory);
        if let Ok(mut file) = File::options().write(true).open(directory.join(file)) {
            let _ = file.write_all(b"0");
        }
    }
}
