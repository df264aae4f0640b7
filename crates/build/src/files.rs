//! Files of layers, as the kernel shows them: read-only, and never outside of their root.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::{Dir, FileType, OFlags, Stat};
use rustix::io::Errno;
use sampan_archive::{Attributes, extended_attributes};
use sampan_dockerfile::{Ignore, Pattern};
use sampan_fs::Root;
use sampan_images::{HeldLayer, ImageStore};
use sampan_layers::{Durability, LayerMount};
use sampan_oci::Digest;
use sampan_oci::digest::DigestWriter;

use crate::cache::Key;
use crate::exchange::{StepLayer, here};
use crate::git::Scratch;
use crate::manifest::Manifest;
use crate::{Error, Result};

/// Symbolic links followed for one path, as many as the kernel does.
const LINKS: usize = 40;
/// Bytes read at once.
const PIECE: usize = 64 << 10;
/// Directories may not lie deeper than this.
const DEPTH: usize = 1000;

/// Files of layers. They are mounted when somebody looks at them; what a manifest says is known
/// without.
#[derive(Debug)]
pub(crate) struct Files {
    images: ImageStore,
    layers: Vec<StepLayer>,
    mounted: OnceLock<Mounted>,
    manifest: Option<Arc<Manifest>>,
    /// Names the files where that can be done without a look at them.
    pub(crate) name: Option<Key>,
    /// What is there but not for the build.
    pub(crate) hidden: Option<Ignore>,
    /// Their owners are an image's own, not those of a client's machine.
    pub(crate) of_image: bool,
    /// The files are in it.
    _scratch: Option<Scratch>,
}

/// Layers, stacked and mounted.
#[derive(Debug)]
struct Mounted {
    root: Root,
    _mounts: Vec<LayerMount>,
}

/// A path without links, and how much of it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Without a slash in front; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) exists: bool,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    /// Without extended ones, unless it is [complete](Files::complete).
    pub(crate) attributes: Attributes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(u64),
    Symlink(Vec<u8>),
    Fifo,
    Device,
}

impl Files {
    /// The files of layers, bottom first.
    pub(crate) fn of<L: Clone + Into<StepLayer>>(
        images: &ImageStore,
        layers: &[L],
        name: Option<Key>,
    ) -> Self {
        Self {
            images: images.clone(),
            layers: layers.iter().cloned().map(Into::into).collect(),
            mounted: OnceLock::new(),
            // Where there are no layers, there is nothing to mount.
            manifest: layers.is_empty().then(Arc::default),
            name,
            hidden: None,
            of_image: false,
            _scratch: None,
        }
    }

    /// The files of a directory that the builder has made on the host.
    pub(crate) fn of_host(images: &ImageStore, scratch: Scratch) -> Result<Self> {
        let mounted = Mounted {
            root: Root::open(scratch.path())?,
            _mounts: Vec::new(),
        };
        Ok(Self {
            mounted: OnceLock::from(mounted),
            manifest: None,
            _scratch: Some(scratch),
            ..Self::of::<HeldLayer>(images, &[], None)
        })
    }

    /// Bottom first. Blocks.
    pub(crate) fn layers(&self) -> Result<Vec<HeldLayer>> {
        here(&self.layers)
    }

    /// Files that are known.
    pub(crate) fn known(self, manifest: Arc<Manifest>) -> Self {
        Self {
            manifest: Some(manifest),
            ..self
        }
    }

    fn root(&self) -> Result<&Root> {
        if let Some(mounted) = self.mounted.get() {
            return Ok(&mounted.root);
        }
        let store = self.images.layers();
        let mounts = self
            .layers()?
            .iter()
            .map(|layer| store.mount(&layer.diff_id()))
            .collect::<Result<Vec<_>, _>>()?;
        let root = store.overlay(&mounts, None, None, Durability::Volatile)?;
        // Of two that come here at once, one mount is kept.
        let mounted = self.mounted.get_or_init(|| Mounted {
            root: Root::from_fd(root),
            _mounts: mounts,
        });
        Ok(&mounted.root)
    }

    /// Opens the root directory.
    pub(crate) fn open_root(&self) -> Result<OwnedFd> {
        Ok(self.root()?.open_dir(".")?)
    }

    pub(crate) fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        Ok(self.root()?.read(path, limit)?)
    }

    pub(crate) fn open(&self, path: &[u8]) -> Result<File> {
        Ok(self.root()?.open_file(to_path(path))?)
    }

    /// Returns the digest of a file's bytes, which are read where it is not known. Blocks.
    pub(crate) fn content(&self, path: &[u8]) -> Result<Digest> {
        let known = self.manifest.as_ref().and_then(|m| m.get(path));
        if let Some(digest) = known.and_then(|item| item.content.get()) {
            return Ok(*digest);
        }
        let mut out = DigestWriter::new(io::sink());
        let mut file = BufReader::with_capacity(PIECE, self.open(path)?);
        io::copy(&mut file, &mut out).map_err(Error::io(format!("read {}", shown(path))))?;
        let digest = out.finish().1;
        if let Some(item) = known {
            let _ = item.content.set(digest);
        }
        Ok(digest)
    }

    pub(crate) fn is_hidden(&self, path: &[u8]) -> bool {
        let text = String::from_utf8_lossy(path);
        self.hidden
            .as_ref()
            .is_some_and(|hidden| hidden.is_ignored(&text))
    }

    /// Looks at a path without links.
    pub(crate) fn look(&self, path: &[u8]) -> Result<Option<Found>> {
        if let Some(manifest) = &self.manifest {
            return Ok(manifest.get(path).map(|item| item.found.clone()));
        }
        let fd = match self
            .root()?
            .open_with(to_path(path), OFlags::PATH | OFlags::NOFOLLOW, 0)
        {
            Ok(fd) => fd,
            Err(error) if error.kind() == sampan_fs::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let failed = |errno: Errno| Error::io(format!("look at {}", shown(path)))(errno.into());
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File(u64::try_from(stat.st_size).unwrap_or(0)),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(failed)?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::Fifo => Kind::Fifo,
            _ => Kind::Device,
        };
        Ok(Some(Found {
            kind,
            attributes: attributes(&stat),
        }))
    }

    /// Adds the extended attributes, which only files and directories have.
    pub(crate) fn complete(&self, path: &[u8], found: Found) -> Result<Found> {
        if self.manifest.is_some() {
            return Ok(found);
        }
        let failed = || Error::io(format!("read the attributes of {}", shown(path)));
        let extended = match found.kind {
            Kind::Directory => {
                let directory = self.root()?.open_dir(to_path(path))?;
                extended_attributes(directory.as_fd()).map_err(failed())?
            }
            Kind::File(_) => {
                let file = self.open(path)?;
                extended_attributes(file.as_fd()).map_err(failed())?
            }
            Kind::Symlink(_) | Kind::Fifo | Kind::Device => Vec::new(),
        };
        Ok(Found {
            attributes: Attributes {
                extended,
                ..found.attributes
            },
            ..found
        })
    }

    /// Follows all links of a path, also the last, as if this were the root of the system.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<Resolved> {
        let mut todo = parts(path);
        let mut done: Vec<Vec<u8>> = Vec::new();
        // So many parts are there, if not all of them.
        let mut missing: Option<usize> = None;
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                done.pop();
                missing = missing.filter(|there| done.len() > *there);
                continue;
            }
            done.push(part);
            if missing.is_some() {
                continue;
            }
            let here = done.join(&b'/');
            match self.look(&here)? {
                None => missing = Some(done.len() - 1),
                Some(Found {
                    kind: Kind::Symlink(target),
                    ..
                }) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Error::Step(format!(
                            "{}: too many levels of symbolic links",
                            shown(path)
                        )));
                    }
                    done.pop();
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    todo.extend(parts(&target));
                }
                Some(found) if found.kind != Kind::Directory && !todo.is_empty() => {
                    return Err(Error::Step(format!("{}: not a directory", shown(&here))));
                }
                Some(_) => {}
            }
        }
        Ok(Resolved {
            path: done.join(&b'/'),
            exists: missing.is_none(),
        })
    }

    /// The names in a directory, in order.
    pub(crate) fn list(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        if let Some(manifest) = &self.manifest {
            return Ok(manifest.list(path));
        }
        let failed = |errno: Errno| Error::io(format!("list {}", shown(path)))(errno.into());
        let directory = self.root()?.open_dir(to_path(path))?;
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The paths that a pattern matches, part by part, in order. Links are not followed.
    pub(crate) fn matching(&self, pattern: &str) -> Result<Vec<Vec<u8>>> {
        let mut found: Vec<Vec<u8>> = vec![Vec::new()];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let part = Pattern::plain(part).map_err(|error| Error::Step(error.to_string()))?;
            let mut next = Vec::new();
            for directory in found {
                if !self
                    .look(&directory)?
                    .is_some_and(|found| found.kind == Kind::Directory)
                {
                    continue;
                }
                for name in self.list(&directory)? {
                    if part.matches(&String::from_utf8_lossy(&name)) {
                        next.push(join(&directory, &name));
                    }
                }
            }
            found = next;
        }
        Ok(found)
    }

    /// The paths that a pattern with `**` matches, at any depth, in order. Links are not followed.
    pub(crate) fn matching_deep(&self, pattern: &str) -> Result<Vec<Vec<u8>>> {
        let pattern = Pattern::deep(pattern).map_err(|error| Error::Step(error.to_string()))?;
        let paths = self.walk(b"")?.into_keys();
        Ok(paths
            .filter(|path| !path.is_empty() && pattern.matches(&String::from_utf8_lossy(path)))
            .collect())
    }

    /// Everything from a path on, directories before what is in them. Links are not followed.
    pub(crate) fn walk(&self, path: &[u8]) -> Result<BTreeMap<Vec<u8>, Found>> {
        if let Some(manifest) = &self.manifest {
            return Ok(manifest.walk(path));
        }
        let mut all = BTreeMap::new();
        let mut todo = vec![(path.to_vec(), 0)];
        while let Some((path, depth)) = todo.pop() {
            if depth > DEPTH {
                return Err(Error::Step("directories are nested too deeply".to_owned()));
            }
            let Some(found) = self.look(&path)? else {
                continue;
            };
            if found.kind == Kind::Directory {
                for name in self.list(&path)? {
                    todo.push((join(&path, &name), depth + 1));
                }
            }
            all.insert(path, found);
        }
        Ok(all)
    }
}

pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match (directory.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => directory.to_vec(),
        (false, false) => [directory, b"/", name].concat(),
    }
}

pub(crate) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

fn to_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// The parts of a path, the last one first.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .rev()
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

#[allow(clippy::unnecessary_cast, trivial_numeric_casts)] // the types differ between architectures
fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (
            stat.st_mtime as i64,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        extended: Vec::new(),
    }
}
