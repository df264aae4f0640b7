//! A root file system: layers, an init layer and a writable directory.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::context::{Context, descriptor_path};
use crate::error::{Error, Result};
use crate::mount::LayerMount;

/// What overlayfs stacks at most (`OVL_MAX_STACK`).
const LAYERS_MAX: usize = 500;

/// Where changes go. Both must be on one file system, and `work` must be used
/// for nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writable {
    /// Directory that receives changed files.
    pub upper: PathBuf,
    /// Empty directory that overlayfs needs.
    pub work: PathBuf,
}

/// What a power cut may do to the writable part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `fsync` and `sync` in the container do what they say.
    Durable,
    /// They do nothing: for what is thrown away anyway. After a crash of the
    /// machine the upper directory cannot be used again.
    Volatile,
}

/// Stacks layers and returns the root as a detached mount, without a place in
/// any mount table: it lives as long as the descriptor and its clones.
///
/// `lowers` are in the order of an image's configuration, the bottom first; a
/// layer that occurs twice counts at its highest place, which shows the same
/// files. `init_layer` lies above them. Without `writable` the root is
/// read-only. Directory renames leave `trusted.overlay.redirect` in the upper.
///
/// `/proc` must be mounted on kernels before 6.13.
pub fn overlay(
    lowers: &[LayerMount],
    init_layer: Option<&Path>,
    writable: Option<&Writable>,
    durability: Durability,
) -> Result<OwnedFd> {
    let mut layers = Vec::new();
    if let Some(path) = init_layer {
        layers.push(open_directory(rustix::fs::CWD, path)?);
    }
    for lower in visible(lowers) {
        layers.push(open_directory(lower.as_fd(), Path::new("."))?);
    }
    // Overlayfs wants one lower layer, and two where nothing is writable.
    let nothing = if layers.is_empty() || (writable.is_none() && layers.len() == 1) {
        let nothing = empty()?;
        layers.push(open_directory(nothing.as_fd(), Path::new("."))?);
        Some(nothing)
    } else {
        None
    };
    if layers.len() > LAYERS_MAX {
        return Err(Error::TooManyLayers {
            count: layers.len(),
            limit: LAYERS_MAX,
        });
    }
    let writable = writable.map(Opened::new).transpose()?;
    let root = stack_somehow(&layers, writable.as_ref(), durability);
    // A detached mount is taken apart with the descriptor that made it, so it
    // must outlive the stacking; the overlay has a copy of its own then.
    drop(nothing);
    root
}

fn stack_somehow(
    layers: &[OwnedFd],
    writable: Option<&Opened>,
    durability: Durability,
) -> Result<OwnedFd> {
    let mut refused = None;
    for syntax in [Syntax::Descriptors, Syntax::Paths, Syntax::Joined] {
        match stack(layers, writable, durability, syntax) {
            Err(Attempt::Syntax(error)) => refused = refused.or(Some(error)),
            Err(Attempt::Failed(error)) => return Err(error),
            Ok(root) => return Ok(root),
        }
    }
    Err(refused.unwrap_or(Error::Aborted))
}

/// The layers that show anything, the top first: nothing below an opaque one,
/// and no layer twice, which overlayfs would refuse.
fn visible(lowers: &[LayerMount]) -> Vec<&LayerMount> {
    let mut seen = HashSet::new();
    let mut visible = Vec::new();
    for lower in lowers.iter().rev() {
        if seen.insert(lower.diff_id()) {
            visible.push(lower);
        }
        if lower.is_opaque() {
            break;
        }
    }
    visible
}

/// How layers are named to the kernel, newest way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    /// Linux 6.13.
    Descriptors,
    /// Linux 6.8.
    Paths,
    /// Any, for few layers.
    Joined,
}

enum Attempt {
    /// This kernel does not know the way.
    Syntax(Error),
    Failed(Error),
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

struct Opened {
    upper: OwnedFd,
    work: OwnedFd,
}

impl Opened {
    fn new(writable: &Writable) -> Result<Self> {
        Ok(Self {
            upper: open_directory(rustix::fs::CWD, &writable.upper)?,
            work: open_directory(rustix::fs::CWD, &writable.work)?,
        })
    }
}

fn stack(
    layers: &[OwnedFd],
    writable: Option<&Opened>,
    durability: Durability,
    syntax: Syntax,
) -> std::result::Result<OwnedFd, Attempt> {
    let context = Context::open("overlay")?;
    match syntax {
        Syntax::Descriptors => {
            for layer in layers {
                layer_option(&context, context.descriptor("lowerdir+", layer))?;
            }
        }
        Syntax::Paths => {
            for layer in layers {
                let set = context.string("lowerdir+", &descriptor_path(layer));
                set.map_err(|e| {
                    if is_unknown(&e) {
                        Attempt::Syntax(e)
                    } else {
                        e.into()
                    }
                })?;
            }
        }
        Syntax::Joined => {
            let paths: Vec<_> = layers.iter().map(descriptor_path).collect();
            let set = context.string("lowerdir", &paths.join(":"));
            set.map_err(|e| {
                if is_unknown(&e) {
                    Attempt::Syntax(e)
                } else {
                    e.into()
                }
            })?;
        }
    }
    if let Some(Opened { upper, work }) = writable {
        if syntax == Syntax::Descriptors {
            layer_option(&context, context.descriptor("upperdir", upper))?;
            layer_option(&context, context.descriptor("workdir", work))?;
        } else {
            context.string("upperdir", &descriptor_path(upper))?;
            context.string("workdir", &descriptor_path(work))?;
        }
        // Renames of directories that come from an image must work; without
        // it programs see EXDEV.
        context.string("redirect_dir", "on")?;
    }
    context.string("index", "off")?;
    context.string("metacopy", "off")?;
    context.string("xino", "auto")?;
    let mut attributes = MountAttrFlags::empty();
    match (writable, durability) {
        (Some(_), Durability::Volatile) => context.flag("volatile")?,
        (Some(_), Durability::Durable) => {}
        (None, _) => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
    }
    Ok(context.mount(attributes)?)
}

fn layer_option(
    context: &Context,
    set: rustix::io::Result<()>,
) -> std::result::Result<(), Attempt> {
    set.map_err(|errno| match errno {
        // Unknown parameter, or one that takes no descriptor.
        Errno::INVAL | Errno::BADF => Attempt::Syntax(context.error(errno)),
        errno => Attempt::Failed(context.error(errno)),
    })
}

fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::Mount { source, .. }
        if source.raw_os_error() == Some(Errno::INVAL.raw_os_error()))
}

/// Opens for reading: before Linux 6.15 the kernel takes no `O_PATH`
/// descriptor as a mount option.
fn open_directory(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(
        dir,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Error::io("open directory", path, e))
}

/// A read-only file system with nothing in it.
fn empty() -> Result<OwnedFd> {
    let context = Context::open("tmpfs")?;
    context.string("mode", "0755")?;
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// Says whether this kernel can stack overlayfs on an index of ours, with the
/// files on this very file system.
pub(crate) fn can_stack_on(index: &File, tar: &File) -> bool {
    let probe = || -> Result<()> {
        let (lower, below) = (crate::mount::mount_index(index, tar)?, empty()?);
        let layers = [
            open_directory(lower.as_fd(), Path::new("."))?,
            open_directory(below.as_fd(), Path::new("."))?,
        ];
        stack_somehow(&layers, None, Durability::Durable).map(drop)
    };
    probe().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_ways_of_naming_layers_work_too() {
        sampan_kernel::requires!(root, overlay);
        let tmp = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let path = tmp.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let layers: Vec<_> = ["top", "middle", "bottom"]
            .map(|name| {
                let path = dir(name);
                std::fs::write(path.join("common"), name).unwrap();
                std::fs::write(path.join(name), "").unwrap();
                open_directory(rustix::fs::CWD, &path).unwrap()
            })
            .into();
        for syntax in [Syntax::Descriptors, Syntax::Paths, Syntax::Joined] {
            let writable = Opened::new(&Writable {
                upper: dir(&format!("upper-{syntax:?}")),
                work: dir(&format!("work-{syntax:?}")),
            })
            .unwrap();
            let root = stack(&layers, Some(&writable), Durability::Durable, syntax);
            let root = root.unwrap_or_else(|_| panic!("{syntax:?}"));
            let path = PathBuf::from(descriptor_path(&root));
            let common = std::fs::read_to_string(path.join("common")).unwrap();
            assert_eq!(common, "top", "{syntax:?}");
            assert!(path.join("bottom").exists());
            std::fs::write(path.join("new"), "").unwrap();
        }
    }
}
