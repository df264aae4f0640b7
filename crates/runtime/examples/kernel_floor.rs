//! Does what the kernel must do for a container and nothing else, and prints what each step costs
//! in microseconds: cgroups, an overlay, namespaces, mounts, pivot_root, exec, and the way back.
//! The network namespace is empty. Needs root and busybox.

use std::error::Error;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::pipe::{PipeFlags, pipe_with};
use sampan_cgroups::{Controller, Hierarchies};
use sampan_kernel::clone::{Namespaces, spawn_copy, unshare};
use sampan_kernel::exec::{ArgumentList, execve};
use sampan_kernel::mount::{MountChange, Propagation, Reach, change_mount};
use sampan_kernel::pidfd;

const ROUNDS: usize = 60;
const CONTROLLERS: [Controller; 4] = [
    Controller::CpuAccounting,
    Controller::Memory,
    Controller::Devices,
    Controller::Pids,
];
const STEPS: [&str; 10] = [
    "directories of the overlay made",
    "cgroups made",
    "overlay mounted",
    "process cloned into its namespaces and cgroup",
    "network namespace made",
    "other cgroups entered",
    "root changed",
    "file systems mounted, devices made",
    "program runs",
    "program ended",
];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(format!("/tmp/sampan-floor-{}", std::process::id()));
    let lower = directory.join("lower");
    for name in ["bin", "proc", "dev", "sys"] {
        fs::create_dir_all(lower.join(name))?;
    }
    fs::copy("/bin/busybox", lower.join("bin/true"))?;
    let mut rounds = Vec::new();
    for _ in 0..=ROUNDS {
        rounds.push(round(&directory)?);
    }
    fs::remove_dir_all(&directory)?;
    // The first warms the caches.
    rounds.remove(0);
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_micros()
    };
    println!("{:>8} {:>8}  step", "at", "after");
    let names = STEPS.into_iter().chain(["cgroups and files removed"]);
    for (index, name) in names.enumerate() {
        let at = median(rounds.iter().map(|times| times[index]).collect());
        let after = |times: &Vec<Duration>| match index {
            0 => times[0],
            _ => times[index] - times[index - 1],
        };
        println!(
            "{at:>8} {:>8}  {name}",
            median(rounds.iter().map(after).collect())
        );
    }
    Ok(())
}

/// Starts one container; when each step was done.
fn round(directory: &Path) -> Result<Vec<Duration>, Box<dyn Error>> {
    let start = Instant::now();
    let mut times = Vec::with_capacity(STEPS.len() + 1);
    let (upper, work) = (directory.join("upper"), directory.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    times.push(start.elapsed());
    let cgroups = Cgroups::make()?;
    times.push(start.elapsed());
    let root = overlay(&directory.join("lower"), &upper, &work)?;
    times.push(start.elapsed());
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC)?;
    let arguments = ArgumentList::new(vec![CString::new("true")?]);
    let environment = ArgumentList::new(Vec::new());
    let namespaces = Namespaces::MOUNT | Namespaces::UTS | Namespaces::IPC | Namespaces::PID;
    let unified = cgroups.unified.as_ref().map(AsFd::as_fd);
    let child = spawn_copy(namespaces, unified, || {
        let failed = |_| 1;
        match enter(&root, &cgroups.tasks, report.as_fd(), start) {
            Ok(()) => {
                drop(execve(c"/bin/true", &arguments, &environment));
                2
            }
            Err(error) => failed(error),
        }
    })?;
    drop(report);
    let mut nanoseconds = Vec::new();
    File::from(reports).read_to_end(&mut nanoseconds)?;
    let runs = start.elapsed();
    for bytes in nanoseconds.as_chunks::<8>().0 {
        times.push(Duration::from_nanos(u64::from_ne_bytes(*bytes)));
    }
    times.push(runs);
    let ending = pidfd::wait(child.pidfd.as_fd())?;
    times.push(start.elapsed());
    if ending != pidfd::Ending::Exited(0) || times.len() != STEPS.len() {
        return Err(format!(
            "the container failed after {} steps: {ending:?}",
            times.len()
        )
        .into());
    }
    drop(root);
    cgroups.remove()?;
    fs::remove_dir_all(&upper)?;
    fs::remove_dir_all(&work)?;
    times.push(start.elapsed());
    Ok(times)
}

/// Child code: from the clone to the program.
fn enter(
    root: &OwnedFd,
    tasks: &[OwnedFd],
    report: BorrowedFd<'_>,
    start: Instant,
) -> io::Result<()> {
    let done = || {
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        rustix::io::write(report, &nanoseconds.to_ne_bytes()).map(drop)
    };
    done()?;
    unshare(Namespaces::NETWORK)?;
    done()?;
    for file in tasks {
        rustix::io::write(file, b"0")?;
    }
    done()?;
    let private = MountChange {
        propagation: Some(Propagation::Private),
        ..MountChange::default()
    };
    change_mount(File::open("/")?.as_fd(), &private, Reach::Tree)?;
    let into = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, "/", into)?;
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    done()?;
    mount("proc", "/proc", &[])?;
    mount("tmpfs", "/dev", &[("mode", "755")])?;
    mount("sysfs", "/sys", &[])?;
    for (name, kind) in [
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
    ] {
        rustix::fs::mkdir(name, Mode::from_raw_mode(0o755))?;
        mount(kind, name, &[])?;
    }
    for (name, major, minor) in [
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/tty", 5, 0),
    ] {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            CWD,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )?;
    }
    done()?;
    Ok(())
}

fn mount(kind: &str, target: &str, options: &[(&str, &str)]) -> Result<(), Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(context.as_fd(), *name, *value)?;
    }
    let into = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(make(&context)?, "", CWD, target, into)
}

fn make(context: &OwnedFd) -> Result<OwnedFd, Errno> {
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(context.as_fd(), flags, MountAttrFlags::empty())
}

fn overlay(lower: &Path, upper: &Path, work: &Path) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "lowerdir", lower)?;
    fsconfig_set_string(context.as_fd(), "upperdir", upper)?;
    fsconfig_set_string(context.as_fd(), "workdir", work)?;
    fsconfig_set_flag(context.as_fd(), "volatile")?;
    make(&context)
}

/// A cgroup in each hierarchy that a container of the product is in.
struct Cgroups {
    directories: Vec<PathBuf>,
    tasks: Vec<OwnedFd>,
    unified: Option<OwnedFd>,
}

impl Cgroups {
    fn make() -> Result<Self, Box<dyn Error>> {
        let mut made = Self {
            directories: Vec::new(),
            tasks: Vec::new(),
            unified: None,
        };
        for hierarchy in Hierarchies::detect()?.all() {
            let wanted = |controller| hierarchy.controllers.contains(controller);
            if !hierarchy.unified && !CONTROLLERS.iter().any(wanted) {
                continue;
            }
            let name = format!("sampan-floor-{}", std::process::id());
            let directory = hierarchy.mount_point.join(name);
            fs::create_dir(&directory)?;
            if hierarchy.unified {
                made.unified = Some(File::open(&directory)?.into());
            } else {
                let tasks = File::options().write(true).open(directory.join("tasks"))?;
                made.tasks.push(tasks.into());
            }
            made.directories.push(directory);
        }
        Ok(made)
    }

    fn remove(self) -> io::Result<()> {
        self.directories.iter().try_for_each(fs::remove_dir)
    }
}
