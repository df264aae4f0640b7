//! `RUN --mount`: from flags to what is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use sampan_archive::{Attributes, LayerWriter};
use sampan_dockerfile::{Mount, MountKind, Sharing, Variables};
use sampan_images::HeldLayer;
use sampan_oci::DiffId;
use sampan_text::path::{absolute, below_root};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Key};
use crate::cache_mount::{InUse, Wish};
use crate::copy::{contents, in_directory};
use crate::files::{Files, Found, Kind, join, shown};
use crate::sandbox::{Access, MountSource, RunStep, SecretVariable, StepMount, Stub};
use crate::solve::Solver;
use crate::stage::State;
use crate::{Error, Result};

/// Where a heredoc with an interpreter of its own lies.
pub(crate) const PIPES: &str = "/dev/pipes";
/// The build argument that keeps the cache mounts of builds apart.
const NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// The mounts of one command.
#[derive(Default)]
pub(crate) struct Mounts {
    pub(crate) mounts: Vec<StepMount>,
    pub(crate) secret_environment: Vec<SecretVariable>,
    /// `NAME=value`.
    pub(crate) environment: Vec<String>,
    /// By the number of the mount.
    caches: BTreeMap<usize, CacheWish>,
    /// The layers that are mounted stay as long as this.
    held: Vec<HeldLayer>,
}

struct CacheWish {
    id: String,
    sharing: Sharing,
    access: Access,
    seed: Option<Seed>,
}

/// What a new cache mount is filled with.
struct Seed {
    layers: Vec<HeldLayer>,
    path: Vec<u8>,
    content: Key,
}

/// A part of a context, a stage or an image.
struct Part {
    layers: Vec<HeldLayer>,
    path: Vec<u8>,
    content: Key,
}

impl Solver<'_> {
    /// Reads the mounts of a command. Looks only at what its key depends on.
    pub(crate) fn mounts(&self, stage: usize, flags: Vec<Mount>, state: &State) -> Result<Mounts> {
        let mut found = Mounts::default();
        let mut agents = 0;
        for mount in flags {
            let place = mount
                .target
                .as_ref()
                .map(|target| in_directory(state.directory(), target));
            if place.as_deref() == Some("/") {
                return Err(Error::Step("invalid mount target \"/\"".to_owned()));
            }
            let read_only = mount.read_only;
            let mut add = |target: String, source: MountSource| {
                found.mounts.push(StepMount {
                    target,
                    read_only,
                    source,
                });
            };
            match mount.kind {
                MountKind::Tmpfs { size } => {
                    add(place.unwrap_or_default(), MountSource::Memory { size });
                }
                MountKind::Bind { from, source } => {
                    let part = self.part(stage, from.as_deref(), &source)?;
                    add(
                        place.unwrap_or_default(),
                        MountSource::Layers {
                            layers: part.layers.iter().map(HeldLayer::diff_id).collect(),
                            path: part.path,
                            content: part.content.0,
                        },
                    );
                    found.held.extend(part.layers);
                }
                MountKind::Cache {
                    id,
                    sharing,
                    from,
                    source,
                    mode,
                    uid,
                    gid,
                } => {
                    let target = place.unwrap_or_default();
                    let seed = match &from {
                        Some(from) => {
                            let part = self.part(stage, Some(from), &source)?;
                            Some(Seed {
                                layers: part.layers,
                                path: part.path,
                                content: part.content,
                            })
                        }
                        None if below_root(&source).is_empty() => None,
                        None => {
                            return Err(Error::Step(format!(
                                "the cache mount at {target} has source={source} and no from=: say which stage, image or context it is filled from"
                            )));
                        }
                    };
                    let wish = CacheWish {
                        id: id.unwrap_or_else(|| target.clone()),
                        sharing,
                        access: Access {
                            mode: mode.unwrap_or(0o755),
                            uid: uid.unwrap_or_default(),
                            gid: gid.unwrap_or_default(),
                        },
                        seed,
                    };
                    let seed = wish.seed.as_ref().map(|seed| seed.content.0);
                    let source = MountSource::Cache {
                        seed,
                        directory: std::path::PathBuf::new(),
                    };
                    add(target, source);
                    found.caches.insert(found.mounts.len() - 1, wish);
                }
                MountKind::Secret {
                    id,
                    env,
                    required,
                    mode,
                    uid,
                    gid,
                } => {
                    let file = match (place, &env) {
                        (Some(place), _) => Some(place),
                        (None, Some(_)) => None,
                        (None, None) => Some(absolute(&format!("/run/secrets/{id}"))),
                    };
                    if let Some(target) = file {
                        let source = MountSource::Secret {
                            id: id.clone(),
                            required,
                            access: access(mode.unwrap_or(0o400), uid, gid),
                        };
                        add(target, source);
                    }
                    found
                        .secret_environment
                        .extend(env.map(|name| SecretVariable { name, id, required }));
                }
                MountKind::Ssh {
                    id,
                    required,
                    mode,
                    uid,
                    gid,
                } => {
                    let target =
                        place.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{agents}"));
                    let source = MountSource::Agent {
                        id: id.unwrap_or_else(|| "default".to_owned()),
                        required,
                        access: access(mode.unwrap_or(0o600), uid, gid),
                    };
                    add(target.clone(), source);
                    if agents == 0 {
                        found.environment.push(format!("SSH_AUTH_SOCK={target}"));
                    }
                    agents += 1;
                }
            }
        }
        Ok(found)
    }

    fn part(&self, stage: usize, from: Option<&str>, source: &str) -> Result<Part> {
        let files = match from {
            None => self.context(),
            Some(name) => self.files_of(&self.plan.mount_source(stage, name))?,
        };
        let resolved = files.resolve(below_root(source).as_bytes())?;
        if !resolved.exists || files.is_hidden(&resolved.path) && !resolved.path.is_empty() {
            return Err(Error::Step(format!(
                "failed to calculate checksum of {}: not found",
                shown(&resolved.path)
            )));
        }
        let layers = files.layers()?;
        let content = match files.name {
            // All of a stage or an image.
            Some(name) if resolved.path.is_empty() && from.is_some() && files.hidden.is_none() => {
                name
            }
            _ => contents(&files, &resolved.path, &self.cancel)?,
        };
        let hiding = self.hide(&files)?;
        Ok(Part {
            layers: layers.into_iter().chain(hiding).collect(),
            path: resolved.path,
            content,
        })
    }

    /// A layer that hides what is there but not for the build.
    fn hide(&self, files: &Files) -> Result<Option<HeldLayer>> {
        if files.hidden.is_none() {
            return Ok(None);
        }
        let all = files.walk(b"")?;
        let (hiding, above) = hidden(&all, |path| files.is_hidden(path));
        if hiding.is_empty() {
            return Ok(None);
        }
        let layer = self.build.images.write_layer(|out| {
            let mut layer = LayerWriter::new(out);
            let entries: BTreeMap<_, _> = hiding
                .iter()
                .map(|path| (whiteout(path), None))
                .chain(above.iter().map(|path| (path.clone(), all.get(path))))
                .collect();
            for (path, directory) in entries {
                match directory {
                    Some(found) => {
                        let found = files.complete(&path, found.clone());
                        let found = found.map_err(std::io::Error::other)?;
                        layer.directory(&path, &found.attributes)?;
                    }
                    None => layer.file(&path, &Attributes::default(), 0, std::io::empty())?,
                }
            }
            layer.finish()
        })?;
        self.keep_until_the_end(layer.iter().cloned().collect());
        Ok(layer)
    }

    /// Makes ready what a command that is about to run has mounted: finds the places, and takes the
    /// cache mounts, which are given back with the answer.
    pub(crate) fn prepare(
        &self,
        mounts: &Mounts,
        state: &State,
        step: &mut RunStep,
        cancel: &CancellationToken,
    ) -> Result<Vec<InUse>> {
        let mut taken = Vec::new();
        let below = Files::of(self.build.images, &state.layers, None);
        let mut stubs = BTreeMap::new();
        let options = &self.build.settings.options;
        let namespace = options.build_args.get(NAMESPACE);
        for (number, mount) in step.mounts.iter_mut().enumerate() {
            let resolved = below.resolve(mount.target.as_bytes())?;
            mount.target = shown(&resolved.path);
            note_stubs(&below, &resolved.path, &mut stubs)?;
            let MountSource::Cache { directory, .. } = &mut mount.source else {
                continue;
            };
            let Some(wish) = mounts.caches.get(&number) else {
                continue;
            };
            let wanted = Wish {
                namespace: namespace.map_or("", String::as_str),
                id: &wish.id,
                sharing: wish.sharing,
                access: wish.access,
                seed: wish.seed.as_ref().map(|seed| seed.content),
            };
            let fill = |directory: &OwnedFd| match &wish.seed {
                Some(seed) => {
                    let files = Files::of(self.build.images, &seed.layers, None);
                    fill(&files, &seed.path, directory)
                }
                None => Ok(()),
            };
            let in_use = self.build.cache.mounts().take(&wanted, fill, cancel)?;
            in_use.directory.clone_into(directory);
            taken.push(in_use);
        }
        step.stubs = stubs
            .into_iter()
            .rev()
            .map(|(path, was)| Stub { path, was })
            .collect();
        Ok(taken)
    }
}

fn access(mode: u32, uid: Option<u32>, gid: Option<u32>) -> Access {
    Access {
        mode,
        uid: uid.unwrap_or_default(),
        gid: gid.unwrap_or_default(),
    }
}

/// What a mount at `path` makes, and which directories it makes that in.
fn note_stubs(
    below: &Files,
    path: &[u8],
    stubs: &mut BTreeMap<Vec<u8>, Option<Access>>,
) -> Result<()> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let mut ends: Vec<usize> = ends.map(|(at, _)| at).collect();
    let is_there = below.look(path)?.is_some();
    if is_there {
        // Nothing is made for it.
        return Ok(());
    }
    ends.push(path.len());
    for end in ends {
        let part = &path[..end];
        let was = below.look(part)?.map(|found| Access {
            mode: found.attributes.mode,
            uid: found.attributes.uid,
            gid: found.attributes.gid,
        });
        stubs.insert(part.to_vec(), was);
    }
    Ok(())
}

/// The topmost paths to hide, and the directories above them.
fn hidden(
    all: &BTreeMap<Vec<u8>, Found>,
    is_hidden: impl Fn(&[u8]) -> bool,
) -> (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>) {
    let ancestors = |path: &[u8]| -> Vec<Vec<u8>> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        ends.map(|(at, _)| path[..at].to_vec()).collect()
    };
    let shown: Vec<&Vec<u8>> = all.keys().filter(|path| !is_hidden(path)).collect();
    let needed: BTreeSet<Vec<u8>> = shown
        .iter()
        .flat_map(|path| ancestors(path))
        .chain(shown.iter().map(|path| (*path).clone()))
        .collect();
    let mut hiding = BTreeSet::new();
    let mut above = BTreeSet::new();
    for path in all.keys().filter(|path| !path.is_empty()) {
        let over = ancestors(path);
        if needed.contains(path) || over.iter().any(|above| hiding.contains(above)) {
            continue;
        }
        hiding.insert(path.clone());
        above.extend(over);
    }
    (hiding, above)
}

fn whiteout(path: &[u8]) -> Vec<u8> {
    let at = path.iter().rposition(|byte| *byte == b'/');
    let (directory, name) = match at {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    join(directory, &[b".wh.", name].concat())
}

impl Cache {
    /// Makes a cache mount of the files of a tar, plain or packed, in the place of the one that has
    /// its name. Answers the layer that held them meanwhile. Blocks.
    pub fn import_mount(&self, id: &str, tar: impl Read) -> Result<DiffId> {
        let layer = self.images.take_archive(tar, "cache mount")?;
        let diff_id = layer.diff_id();
        let files = Files::of(&self.images, &[layer], None);
        self.mounts.replace(id, |to| fill(&files, b"", to))?;
        Ok(diff_id)
    }
}

/// Copies what is in a directory of `files` into one of the host that nobody else knows yet.
fn fill(files: &Files, path: &[u8], to: &OwnedFd) -> Result<()> {
    let mut directories = Vec::new();
    for (source, found) in files.walk(path)? {
        let relative = match path.is_empty() {
            true => &source[..],
            false => source[path.len()..].strip_prefix(b"/").unwrap_or_default(),
        };
        if relative.is_empty() {
            if found.kind != Kind::Directory {
                return Err(Error::Step(format!(
                    "a cache mount is filled from a directory, and {} is none",
                    shown(path)
                )));
            }
            continue;
        }
        let found = files.complete(&source, found)?;
        make(files, &source, &found, to, relative)
            .map_err(|errno| Error::io(format!("copy {}", shown(&source)))(errno.into()))?;
        if found.kind == Kind::Directory {
            directories.push((relative.to_vec(), found.attributes));
        }
    }
    // What was made in them has changed their times.
    for (relative, attributes) in directories.iter().rev() {
        set_time(to, relative, attributes)
            .map_err(|errno| Error::io(format!("copy {}", shown(relative)))(errno.into()))?;
    }
    Ok(())
}

fn make(
    files: &Files,
    source: &[u8],
    found: &Found,
    to: &OwnedFd,
    relative: &[u8],
) -> rustix::io::Result<()> {
    use rustix::fs::{AtFlags, chmodat, chownat, mkdirat, mknodat, openat, symlinkat};
    let attributes = &found.attributes;
    let mode = Mode::from_raw_mode(attributes.mode);
    match &found.kind {
        Kind::Directory => mkdirat(to, relative, Mode::RWXU)?,
        Kind::Symlink(target) => symlinkat(&target[..], to, relative)?,
        Kind::Fifo => mknodat(to, relative, rustix::fs::FileType::Fifo, Mode::RUSR, 0)?,
        // Nothing that a build may bring to the host.
        Kind::Device => return Err(Errno::PERM),
        Kind::File(_) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let made = openat(to, relative, flags, Mode::RUSR | Mode::WUSR)?;
            let mut from = files.open(source).map_err(|_| Errno::IO)?;
            let mut made = std::fs::File::from(made);
            std::io::copy(&mut from, &mut made)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
    }
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    chownat(
        to,
        relative,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if !matches!(found.kind, Kind::Symlink(_)) {
        chmodat(to, relative, mode, AtFlags::empty())?;
    }
    if matches!(found.kind, Kind::File(_) | Kind::Directory) && !attributes.extended.is_empty() {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(to, relative, flags, Mode::empty())?;
        for (key, value) in &attributes.extended {
            let name = key.strip_prefix(b"SCHILY.xattr.").unwrap_or(key);
            match rustix::fs::fsetxattr(made.as_fd(), name, value, XattrFlags::empty()) {
                // Not every file system has them.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    match found.kind {
        Kind::Directory => Ok(()),
        _ => set_time(to, relative, attributes),
    }
}

fn set_time(to: &OwnedFd, relative: &[u8], attributes: &Attributes) -> rustix::io::Result<()> {
    let (tv_sec, nanoseconds) = attributes.mtime;
    let time = Timespec {
        tv_sec,
        tv_nsec: nanoseconds.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(to, relative, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
}

/// The variables that a mount's values may have in them.
pub(crate) fn resolve(
    run: &sampan_dockerfile::Run,
    shell: &sampan_dockerfile::Shell,
    variables: &Variables,
) -> Result<Vec<Mount>> {
    run.mounts
        .iter()
        .map(|flag| {
            flag.resolve(shell, variables)
                .map_err(|error| Error::Dockerfile(error.to_string()))
        })
        .collect()
}

/// A document that names its own interpreter, as a file.
pub(crate) fn script(name: &str, content: &str) -> Result<StepMount> {
    if name.is_empty() || name.contains(['/', '\0']) || matches!(name, "." | "..") {
        return Err(Error::Step(format!(
            "{name:?} cannot be the name of a file: call the document differently"
        )));
    }
    Ok(StepMount {
        target: PIPES.to_owned(),
        read_only: true,
        source: MountSource::Script {
            name: name.to_owned(),
            content: content.to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> BTreeMap<Vec<u8>, Found> {
        let found = |path: &str| Found {
            kind: match path.ends_with('/') || path.is_empty() {
                true => Kind::Directory,
                false => Kind::File(0),
            },
            attributes: Attributes::default(),
        };
        let key = |path: &str| path.trim_end_matches('/').as_bytes().to_vec();
        paths.iter().map(|path| (key(path), found(path))).collect()
    }

    #[test]
    fn only_the_topmost_of_what_is_hidden_is_named() {
        let all = tree(&["", "a/", "a/b/", "a/b/c", "a/d", "e/", "e/f", "g"]);
        let is_hidden =
            |path: &[u8]| path.starts_with(b"a/b") || path.starts_with(b"e") && path != b"e/f";
        let (hiding, above) = hidden(&all, is_hidden);
        assert_eq!(hiding, BTreeSet::from([b"a/b".to_vec()]));
        assert_eq!(above, BTreeSet::from([b"a".to_vec()]));
        assert_eq!(whiteout(b"a/b"), b"a/.wh.b");
        assert_eq!(whiteout(b"g"), b".wh.g");
    }

    #[test]
    fn a_document_cannot_be_placed_elsewhere() {
        for name in ["", ".", "..", "../x", "a/b", "a\0b"] {
            assert!(script(name, "#!/bin/sh\n").is_err(), "{name}");
        }
        assert_eq!(script("EOF", "#!x").unwrap().target, PIPES);
    }
}
