//! What a command of a build has mounted: made as descriptors, and handed to its container without
//! a record of it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chmodat, chownat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use sampan_build::{Access, Agent, MountSource, RunStep, SecretVariable, Secrets, StepMount, Stub};
use sampan_fs::Root;
use sampan_layers::{Bindable, Durability, LayerMount, LayerStore, Writable};
use sampan_oci::runtime::Mount;

use crate::container::registry::Private;
use crate::users::MountUser;
use crate::{Error, Result};

/// Bytes that a secret may have, as with BuildKit.
const SECRET_MAX: usize = 500 << 10;

/// The mounts of a command.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// For the container.
    pub(super) private: Private,
    /// Forwards connections.
    pub(super) agents: Vec<Agent>,
    /// Nothing can be bound once these are gone.
    _bindable: Vec<Bindable>,
    _layers: Vec<LayerMount>,
}

/// Makes what is mounted for a command. `directory` is the container's, for what is written and
/// dropped; `users` are its users where they are not the host's.
pub(super) fn make(
    layers: &LayerStore,
    step: &RunStep,
    secrets: &dyn Secrets,
    directory: &Path,
    users: Option<&MountUser>,
) -> Result<Made> {
    let mut maker = Maker {
        users,
        layers,
        secrets,
        directory,
        memory: None,
        made: Made::default(),
    };
    for (number, mount) in step.mounts.iter().enumerate() {
        maker.mount(number, mount)?;
    }
    for variable in &step.secret_environment {
        maker.variable(variable)?;
    }
    if let Some(memory) = maker.memory {
        maker.made._bindable.push(memory);
    }
    Ok(maker.made)
}

struct Maker<'a> {
    users: Option<&'a MountUser>,
    layers: &'a LayerStore,
    secrets: &'a dyn Secrets,
    directory: &'a Path,
    /// A file system that is on no disk.
    memory: Option<Bindable>,
    made: Made,
}

fn failed(errno: Errno) -> Error {
    Error::internal(format!("make a mount of a build: {errno}"))
}

impl Maker<'_> {
    fn mount(&mut self, number: usize, mount: &StepMount) -> Result<()> {
        let name = number.to_string();
        match &mount.source {
            MountSource::Memory { size } => {
                let mut options = vec!["nosuid".to_owned(), "nodev".to_owned()];
                if *size > 0 {
                    options.push(format!("size={size}"));
                }
                if mount.read_only {
                    options.push("ro".to_owned());
                }
                let mount = Mount {
                    destination: mount.target.clone(),
                    kind: Some("tmpfs".to_owned()),
                    source: Some("tmpfs".into()),
                    options,
                    ..Mount::default()
                };
                self.made.private.mounts.push((mount, None));
            }
            MountSource::Layers { layers, path, .. } => {
                let mounts = layers.iter().map(|layer| self.layers.mount(layer));
                let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
                let writable = match mount.read_only {
                    true => None,
                    false => Some(self.scratch(&name)?),
                };
                let whole = self.layers.overlay_owned(
                    &mounts,
                    None,
                    writable.as_ref(),
                    Durability::Volatile,
                    self.users.map(MountUser::owners),
                )?;
                let whole = self.layers.bindable(whole)?;
                let part = part(&whole, Path::new(std::ffi::OsStr::from_bytes(path)))?;
                self.bind(mount, part, None);
                self.made._bindable.push(whole);
                self.made._layers.extend(mounts);
            }
            MountSource::Cache { directory, .. } => {
                let directory = sampan_fs::open_dir(directory)?;
                self.bind_mapped(mount, directory);
            }
            MountSource::Secret {
                id,
                required,
                access,
            } => {
                let Some(secret) = self.secret(id, *required)? else {
                    return Ok(());
                };
                let memory = self.memory()?;
                write_file(memory, Path::new(&name), &secret, *access).map_err(failed)?;
                let part = part(memory, Path::new(&name))?;
                self.bind_mapped(mount, part);
            }
            MountSource::Agent {
                id,
                required,
                access,
            } => {
                // Whether there is one shows before the command runs, not in the middle of it.
                let found = self.secrets.agent(id);
                if found.map_err(|error| super::failure(&error))?.is_none() {
                    return match required {
                        true => Err(Error::invalid(format!(
                            "no SSH agent {id:?} was given to the build (--ssh {id})"
                        ))),
                        false => Ok(()),
                    };
                }
                let memory = self.memory()?;
                let path = format!("/proc/self/fd/{}/{name}", memory.as_fd().as_raw_fd());
                let socket = UnixListener::bind(path)
                    .map_err(|error| Error::because("make the socket of an SSH agent", &error))?;
                let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
                let mode = Mode::from_raw_mode(access.mode & 0o7777);
                chownat(memory, &*name, Some(uid), Some(gid), AtFlags::empty()).map_err(failed)?;
                chmodat(memory, &*name, mode, AtFlags::empty()).map_err(failed)?;
                let part = part(memory, Path::new(&name))?;
                self.bind_mapped(mount, part);
                self.made.agents.push(Agent::new(socket, id.clone()));
            }
            MountSource::Script {
                name: file,
                content,
            } => {
                let memory = self.memory()?;
                mkdirat(memory, &*name, Mode::from_raw_mode(0o755)).map_err(failed)?;
                let access = Access {
                    mode: 0o755,
                    ..Access::default()
                };
                let path = Path::new(&name).join(file);
                write_file(memory, &path, content.as_bytes(), access).map_err(failed)?;
                let part = part(memory, Path::new(&name))?;
                self.bind_mapped(mount, part);
            }
        }
        Ok(())
    }

    /// Has the runtime bind what is the host's root's, which the command's root shall take for its
    /// own.
    fn bind_mapped(&mut self, mount: &StepMount, source: OwnedFd) {
        self.bind(mount, source, self.users.map(|_| "idmap"));
    }

    fn bind(&mut self, mount: &StepMount, source: OwnedFd, option: Option<&str>) {
        let access = if mount.read_only { "ro" } else { "rw" };
        let options = ["bind", access, "private"].into_iter().chain(option);
        let bound = Mount {
            destination: mount.target.clone(),
            kind: Some("bind".to_owned()),
            options: options.map(str::to_owned).collect(),
            ..Mount::default()
        };
        self.made.private.mounts.push((bound, Some(source)));
    }

    fn variable(&mut self, variable: &SecretVariable) -> Result<()> {
        let SecretVariable { name, id, required } = variable;
        if let Some(secret) = self.secret(id, *required)? {
            let value = String::from_utf8(secret).map_err(|_| {
                Error::invalid(format!(
                    "the secret {id} is no text, so no variable can have it"
                ))
            })?;
            let environment = &mut self.made.private.environment;
            environment.push(format!("{name}={value}"));
        }
        Ok(())
    }

    fn secret(&self, id: &str, required: bool) -> Result<Option<Vec<u8>>> {
        let found = self.secrets.secret(id);
        match found.map_err(|error| super::failure(&error))? {
            Some(secret) if secret.len() > SECRET_MAX => Err(Error::invalid(format!(
                "the secret {id} is larger than {SECRET_MAX} bytes"
            ))),
            None if required => Err(Error::invalid(format!(
                "secret {id}: not found: give it to the build (--secret id={id},...)"
            ))),
            found => Ok(found),
        }
    }

    fn memory(&mut self) -> Result<&Bindable> {
        if self.memory.is_none() {
            let mount = memory().map_err(failed)?;
            self.memory = Some(self.layers.bindable(mount)?);
        }
        self.memory
            .as_ref()
            .ok_or_else(|| Error::internal("no file system in memory"))
    }

    /// Directories for what a command writes to a mount, which goes away with the container.
    fn scratch(&self, name: &str) -> Result<Writable> {
        let above = self.directory.join("mounts");
        let top = above.join(name);
        let writable = Writable {
            upper: top.join("upper"),
            work: top.join("work"),
        };
        for directory in [&above, &top, &writable.upper, &writable.work] {
            let mode = match directory == &writable.upper {
                true => 0o755,
                false => 0o700,
            };
            match mkdirat(CWD, directory, Mode::from_raw_mode(mode)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(writable)
    }
}

/// An empty file system in memory that is, where the kernel can do that, never swapped out.
fn memory() -> rustix::io::Result<OwnedFd> {
    let make = |options: &[&str]| {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "mode", "0755")?;
        for option in options {
            fsconfig_set_flag(context.as_fd(), *option)?;
        }
        fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    // Linux 6.4.
    make(&["noswap"]).or_else(|_| make(&[]))
}

/// What is at a path without links, for binding.
fn part(whole: &Bindable, path: &Path) -> Result<OwnedFd> {
    let root = whole.as_fd().try_clone_to_owned();
    let root = root.map_err(|error| Error::because("make a mount of a build", &error))?;
    let found = Root::from_fd(root).open_with(path, OFlags::PATH | OFlags::NOFOLLOW, 0);
    Ok(found?)
}

fn write_file(
    memory: &Bindable,
    path: &Path,
    content: &[u8],
    access: Access,
) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(memory, path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(content)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
    rustix::fs::fchown(&file, Some(uid), Some(gid))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(access.mode & 0o7777))
}

/// Removes from what a container has changed what only mounts have made there, unless something
/// was put into it. `upper` is the directory of the changes, in which nobody works any more.
pub(super) fn remove_stubs(upper: &Path, stubs: &[Stub]) -> Result<()> {
    let upper = Root::open(upper)?;
    for stub in stubs {
        remove_stub(&upper, stub).map_err(|errno| {
            let path = String::from_utf8_lossy(&stub.path).into_owned();
            Error::internal(format!("remove the place of a mount, /{path}: {errno}"))
        })?;
    }
    Ok(())
}

fn remove_stub(upper: &Root, stub: &Stub) -> rustix::io::Result<()> {
    use rustix::fs::{FileType, ResolveFlags, fstat, openat2, unlinkat};
    let path = Path::new(std::ffi::OsStr::from_bytes(&stub.path));
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let Ok(above) = upper.open_with(above, OFlags::PATH | OFlags::DIRECTORY, 0) else {
        return Ok(());
    };
    // No link of the command's leads anywhere else.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let Ok(found) = openat2(&above, name, flags, Mode::empty(), resolve) else {
        return Ok(());
    };
    let stat = fstat(&found)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_same = match stub.was {
        None => true,
        Some(was) => {
            (was.mode, was.uid, was.gid) == (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
                && !hides_what_is_below(&found)
        }
    };
    let flags = match kind {
        FileType::Directory if is_same => AtFlags::REMOVEDIR,
        FileType::RegularFile if stub.was.is_none() && stat.st_size == 0 => AtFlags::empty(),
        _ => return Ok(()),
    };
    match unlinkat(&above, name, flags) {
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Whether a directory was made anew or renamed by the command.
fn hides_what_is_below(directory: &OwnedFd) -> bool {
    ["trusted.overlay.opaque", "trusted.overlay.redirect"]
        .iter()
        .any(|name| rustix::fs::fgetxattr(directory, *name, &mut [0; 1][..]) != Err(Errno::NODATA))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    struct Lent;

    impl Secrets for Lent {
        fn secret(&self, id: &str) -> sampan_build::Result<Option<Vec<u8>>> {
            Ok((id == "there").then(|| b"hush".to_vec()))
        }

        fn agent(&self, _id: &str) -> sampan_build::Result<Option<UnixStream>> {
            Ok(None)
        }
    }

    fn secret(id: &str, required: bool) -> StepMount {
        StepMount {
            target: format!("/run/secrets/{id}"),
            read_only: true,
            source: MountSource::Secret {
                id: id.to_owned(),
                required,
                access: Access {
                    mode: 0o440,
                    uid: 3,
                    gid: 4,
                },
            },
        }
    }

    #[test]
    fn secrets_are_on_no_disk_and_in_no_message() {
        sampan_kernel::requires!(root);
        let root = tempfile::tempdir().unwrap();
        let layers = LayerStore::open(root.path(), sampan_layers::Options::default()).unwrap();
        let variable = |id: &str| SecretVariable {
            name: "TOKEN".to_owned(),
            id: id.to_owned(),
            required: false,
        };
        let step = RunStep {
            mounts: vec![secret("there", true), secret("missing", false)],
            secret_environment: vec![variable("there"), variable("missing")],
            ..RunStep::default()
        };
        let made = make(&layers, &step, &Lent, root.path(), None).unwrap();
        assert_eq!(made.private.environment, ["TOKEN=hush"]);
        let [(_, Some(source))] = &made.private.mounts[..] else {
            panic!("one secret is mounted");
        };
        let path = format!("/proc/self/fd/{}", source.as_raw_fd());
        let mut file = File::open(path).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hush");
        let stat = rustix::fs::fstat(&file).unwrap();
        assert_eq!(
            (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid),
            (0o440, 3, 4)
        );
        // tmpfs, see statfs(2).
        assert_eq!(rustix::fs::fstatfs(&file).unwrap().f_type, 0x0102_1994);
        assert!(!format!("{step:?}{made:?}").contains("hush"));
        let step = RunStep {
            mounts: vec![secret("missing", true)],
            ..RunStep::default()
        };
        let error = make(&layers, &step, &Lent, root.path(), None).unwrap_err();
        assert!(error.message().contains("secret missing: not found"));
    }
}
