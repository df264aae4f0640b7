//! From a bundle on disk to what the runtime takes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use sampan_cgroups::{CgroupPath, CgroupReach};
use sampan_oci::runtime::{Hooks, Process, Spec};
use sampan_runtime::{Bundle, Gate, Root, RootEntry, SeccompProgram, Stdio};
use sampan_systemd::{Scope, Slice};

use crate::arguments::Create;
use crate::record::Record;

/// The version of the runtime specification that is followed.
pub(crate) const SPECIFICATION: &str = "1.2.1";

/// Where containers' cgroups are made that name none.
const DEFAULT_PARENT: &str = "sampan-runtime";

/// Largest configuration that is read.
const MAX_CONFIG: u64 = 64 << 20;

/// A bundle as it lies on disk.
#[derive(Debug)]
pub(crate) struct OnDisk {
    pub(crate) directory: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) spec: Spec,
}

/// Reads a bundle's configuration.
pub(crate) fn read(directory: Option<&Path>) -> Result<OnDisk> {
    let directory = directory.unwrap_or_else(|| Path::new("."));
    let directory = fs::canonicalize(directory)
        .with_context(|| format!("cannot open the bundle {}", directory.display()))?;
    let path = directory.join("config.json");
    let status = match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("JSON specification file {} not found", path.display())
        }
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    ensure!(
        status.is_file() && status.len() <= MAX_CONFIG,
        "{} is not a configuration: it is no file, or larger than 64 MiB",
        path.display()
    );
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut spec: Spec = serde_json::from_slice(&bytes)
        .with_context(|| format!("cannot parse {}", path.display()))?;
    check_version(&spec.oci_version)?;
    check_hooks(spec.hooks.as_ref())?;
    let root = spec.root.clone().context("root must be specified")?;
    ensure!(
        !root.path.as_os_str().is_empty(),
        "rootfs is empty: root.path must name a directory"
    );
    if let Some(process) = &mut spec.process {
        for_linux(process);
    }
    let rootfs = directory.join(&root.path);
    let rootfs = fs::canonicalize(&rootfs)
        .with_context(|| format!("invalid rootfs: cannot open {}", rootfs.display()))?;
    Ok(OnDisk {
        directory,
        rootfs,
        spec,
    })
}

/// The specification has `username` for Windows only; where it is set the runtime's library
/// looks it up in the container.
pub(crate) fn for_linux(process: &mut Process) {
    process.user.username = None;
}

fn check_hooks(hooks: Option<&Hooks>) -> Result<()> {
    let Some(hooks) = hooks else {
        return Ok(());
    };
    let points = [
        &hooks.prestart,
        &hooks.create_runtime,
        &hooks.create_container,
        &hooks.start_container,
        &hooks.poststart,
        &hooks.poststop,
    ];
    let mut hooks = points.into_iter().flatten();
    match hooks.find(|hook| hook.timeout.is_some_and(|timeout| timeout <= 0)) {
        Some(hook) => bail!(
            "the timeout of the hook {} must be greater than zero",
            hook.path.display()
        ),
        None => Ok(()),
    }
}

fn check_version(version: &str) -> Result<()> {
    let numbers: Vec<&str> = version.split('.').collect();
    ensure!(
        numbers.len() >= 3 && numbers[0].bytes().all(|byte| byte.is_ascii_digit()),
        "parsing spec version failed: {version:?}"
    );
    ensure!(
        numbers[0] == "1",
        "unsupported spec version {version:?}: this runtime follows {SPECIFICATION}"
    );
    Ok(())
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Manager {
    Cgroupfs,
    Systemd,
}

/// Where a container's cgroup is.
#[derive(Debug)]
pub(crate) enum Place {
    /// In a cgroup that nobody has named and that nothing else lies in.
    Default(CgroupPath),
    Named(CgroupPath),
    /// Below a scope of systemd's.
    Scope(Scope, CgroupPath),
}

impl Place {
    pub(crate) fn cgroup(&self) -> &CgroupPath {
        match self {
            Self::Default(path) | Self::Named(path) | Self::Scope(_, path) => path,
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        matches!(self, Self::Default(_))
    }

    pub(crate) fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Default(_) | Self::Named(_) => None,
            Self::Scope(scope, _) => Some(scope),
        }
    }
}

/// Where the cgroup of a container is made.
pub(crate) fn place(spec: &Spec, id: &str, manager: Manager) -> Result<Place> {
    let named = spec
        .linux
        .as_ref()
        .and_then(|linux| linux.cgroups_path.as_deref())
        .filter(|path| !path.is_empty());
    if manager == Manager::Systemd {
        let scope = scope(named, id)?;
        let cgroup = scope.container().parse()?;
        return Ok(Place::Scope(scope, cgroup));
    }
    let Some(named) = named else {
        return Ok(Place::Default(default_cgroup(id)?));
    };
    let parts: Vec<&str> = named
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    ensure!(
        !parts.is_empty(),
        "linux.cgroupsPath {named:?} is the root of all cgroups: name one below it"
    );
    let path = parts.join("/").parse();
    let path = path.with_context(|| format!("linux.cgroupsPath {named:?}"))?;
    Ok(Place::Named(path))
}

/// The scope that `slice:prefix:name` stands for, as runc has it.
fn scope(named: Option<&str>, id: &str) -> Result<Scope> {
    let Some(named) = named else {
        let name = format!("{DEFAULT_PARENT}-{id}");
        return Ok(Scope::new(&name, Slice::system())?);
    };
    let parts: Vec<&str> = named.split(':').collect();
    let &[slice, prefix, name] = &parts[..] else {
        bail!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {named:?} instead"
        );
    };
    ensure!(
        !name.ends_with(".slice"),
        "linux.cgroupsPath {named:?} asks for a slice in a scope's place, which is not supported"
    );
    let slice = match slice {
        "" => Slice::system(),
        "-" => "-.slice".parse()?,
        slice => slice
            .parse()
            .with_context(|| format!("linux.cgroupsPath {named:?}"))?,
    };
    let name = match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}-{name}"),
    };
    Scope::new(&name, slice).with_context(|| format!("linux.cgroupsPath {named:?}"))
}

/// The cgroup that a container would have that has left no record.
pub(crate) fn default_cgroup(id: &str) -> Result<CgroupPath> {
    Ok(format!("{DEFAULT_PARENT}/{id}").parse()?)
}

/// The filter of a container.
pub(crate) fn filter(spec: &Spec) -> Result<Option<SeccompProgram>> {
    let seccomp = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
    Ok(seccomp.map(sampan_runtime::seccomp::compile).transpose()?)
}

/// What the library makes the container of.
pub(crate) fn plan(record: &Record, gate: Gate, create: &Create) -> Result<Bundle> {
    let mut spec = record.spec.clone();
    let mut descriptors = Vec::new();
    let process = spec
        .process
        .as_mut()
        .context("process property must not be empty")?;
    let handed_on = listening(process)?;
    for number in 0..(handed_on + create.preserve_fds) {
        let number = 3 + i32::try_from(number).context("too many descriptors to preserve")?;
        let taken = sampan_kernel::inherited::take(number);
        descriptors.push(
            taken.with_context(|| format!("please check that preserved-fd {number} is present"))?,
        );
    }
    let stdio = stdio(process);
    Ok(Bundle {
        cgroup: Some(record.cgroup.parse()?),
        cgroup_reach: CgroupReach::All,
        stdio,
        seccomp: filter(&spec)?,
        descriptors,
        directory: record.bundle.clone(),
        id: record.id.clone(),
        gate,
        entry: if create.no_pivot {
            RootEntry::Chroot
        } else {
            RootEntry::Pivot
        },
        keyring: record.keyring.clone(),
        ..Bundle::new(spec, Root::Directory(record.rootfs.clone()))
    })
}

/// The process' streams: a terminal, or the caller's own.
pub(crate) fn stdio(process: &Process) -> Stdio {
    if !process.terminal {
        return Stdio::Inherit;
    }
    let cells = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    let size = process
        .console_size
        .filter(|size| size.height > 0 && size.width > 0);
    Stdio::Terminal {
        size: size.map(|size| (cells(size.height), cells(size.width))),
    }
}

/// Descriptors of socket activation (`sd_listen_fds(3)`) go on to the container.
fn listening(process: &mut Process) -> Result<u32> {
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    let is_ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == own);
    let count = std::env::var("LISTEN_FDS").ok().filter(|_| is_ours);
    let Some(count) = count else {
        return Ok(0);
    };
    let count: u32 = count.parse().context("LISTEN_FDS is no number")?;
    process.env.push(format!("LISTEN_FDS={count}"));
    process.env.push("LISTEN_PID=1".to_owned());
    Ok(count)
}

/// Writes a pid file, whole or not at all.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().context("the pid file has no name")?;
    let temporary = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    fs::write(&temporary, pid.to_string())
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write the pid file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_oci::runtime::Linux;

    #[test]
    fn cgroups_are_named_from_the_top() {
        let spec = |path: &str| Spec {
            linux: Some(Linux {
                cgroups_path: Some(path.to_owned()),
                ..Linux::default()
            }),
            ..Spec::default()
        };
        let by = |manager, path: &str| {
            place(&spec(path), "id", manager).map(|place| place.cgroup().to_string())
        };
        let named = |path: &str| by(Manager::Cgroupfs, path);
        assert_eq!(named("/a/b").unwrap(), "a/b");
        assert_eq!(named("a//b/").unwrap(), "a/b");
        assert_eq!(named("").unwrap(), "sampan-runtime/id");
        assert_eq!(named("a.slice:x:y").unwrap(), "a.slice:x:y");
        assert!(named("/").is_err());
        assert!(named("/a/../b").is_err());
        let scope = |path: &str| by(Manager::Systemd, path);
        for (path, cgroup) in [
            ("a-b.slice:x:y", "a.slice/a-b.slice/x-y.scope/container"),
            (":x:y", "system.slice/x-y.scope/container"),
            ("-::y", "y.scope/container"),
            ("", "system.slice/sampan-runtime-id.scope/container"),
        ] {
            assert_eq!(scope(path).unwrap(), cgroup, "{path:?}");
        }
        for bad in [
            "/a/b",
            "a:b",
            "a:b:c",
            "a.slice:b:c:d",
            "::a.slice",
            "a.slice:b/c:d",
        ] {
            assert!(scope(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn versions_of_the_specification() {
        for good in ["1.0.0", "1.0.2-dev", "1.2.0", "1.3.0"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["", "2.0.0", "0.1.0", "x.1.1", "1.0"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }
}
