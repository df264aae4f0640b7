//! A root file system: layers, an init layer and a writable directory.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags, OpenTreeFlags, mount, open_tree};

use sampan_kernel::acting::ActingAs;

use crate::context::{Context, descriptor_path};
use crate::error::{Error, Result};
use crate::init::InitLayer;
use crate::mount::LayerMount;
use crate::owners::Owners;
use crate::place::{Kept, Place, Places};

/// What overlayfs stacks at most (`OVL_MAX_STACK`).
const LAYERS_MAX: usize = 500;
/// What the options of mount(2) may be long: one page.
const OPTIONS_MAX: usize = 4096;

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

/// Stacks layers; see [`LayerStore::overlay`](crate::LayerStore::overlay).
pub(crate) fn overlay(
    lowers: &[LayerMount],
    init: Option<&InitLayer>,
    changes: Option<&Path>,
    writable: Option<&Writable>,
    durability: Durability,
    places: &Places,
    owners: Option<Owners<'_>>,
) -> Result<OwnedFd> {
    // Overlayfs makes its own files as whoever mounts it, who must be somebody in the upper
    // directory.
    let acting = owners.map(|Owners { root, .. }| ActingAs::new(root.0, root.1));
    let _acting = acting
        .transpose()
        .map_err(|error| Error::io("act as the owner of", "the upper directory", error))?;
    let mut layers = Vec::new();
    // Until they are stacked.
    let mut mapped = Vec::new();
    let mut open_layer = |mount: BorrowedFd<'_>| match owners {
        None => open_directory(mount, Path::new(".")),
        Some(owners) => {
            let kept = owners.map(mount, Path::new(""), places)?;
            let layer = open_directory(kept.as_fd(), Path::new("."));
            mapped.push(kept);
            layer
        }
    };
    if let Some(path) = changes {
        layers.push(open_directory(CWD, path)?);
    }
    if let Some(init) = init {
        layers.push(open_layer(init.as_fd())?);
    }
    for lower in visible(lowers) {
        layers.push(open_layer(lower.as_fd())?);
    }
    // Overlayfs wants one lower layer, and two where nothing is writable.
    let nothing = if layers.is_empty() || (writable.is_none() && layers.len() == 1) {
        let nothing = places.keep(empty()?)?;
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
    let writable = match (writable, owners) {
        (Some(writable), Some(owners)) => {
            let (opened, kept) = Opened::owned(writable, owners, places)?;
            mapped.push(kept);
            Some(opened)
        }
        (writable, _) => writable.map(Opened::new).transpose()?,
    };
    let root = stack_somehow(&layers, writable.as_ref(), durability, places);
    // A detached mount is taken apart with the descriptor that made it, so it
    // must outlive the stacking; the overlay has a copy of its own then.
    drop((nothing, mapped));
    root
}

fn stack_somehow(
    layers: &[OwnedFd],
    writable: Option<&Opened>,
    durability: Durability,
    places: &Places,
) -> Result<OwnedFd> {
    let mut refused = None;
    let first = match places {
        Places::Below(_) => WORKED.load(Ordering::Relaxed),
        Places::Nowhere => 0,
    };
    for (number, syntax) in SYNTAXES.into_iter().enumerate().skip(first) {
        match stack(layers, writable, durability, syntax) {
            Err(Attempt::Syntax(error)) => refused = refused.or(Some(error)),
            Err(Attempt::Failed(error)) => return Err(error),
            Ok(root) => {
                WORKED.store(number, Ordering::Relaxed);
                return Ok(root);
            }
        }
    }
    match places {
        Places::Below(place) => {
            let root = stack_at(layers, writable, durability, place)?;
            WORKED.store(SYNTAXES.len(), Ordering::Relaxed);
            Ok(root)
        }
        Places::Nowhere => Err(refused.unwrap_or(Error::Aborted)),
    }
}

/// Which of [`SYNTAXES`] has worked last; past them all mount(2). One that the kernel does not
/// know is an error in its log at every try.
static WORKED: AtomicUsize = AtomicUsize::new(0);

/// Stacks by mount(2), the only way to name more than a few layers before
/// Linux 6.8.
fn stack_at(
    layers: &[OwnedFd],
    writable: Option<&Opened>,
    durability: Durability,
    place: &Arc<Place>,
) -> Result<OwnedFd> {
    let failed = |e: Errno| Error::Mount {
        what: "overlay",
        log: None,
        source: e.into(),
    };
    let lowers: Vec<_> = layers.iter().map(descriptor_path).collect();
    let mut options = format!(
        "index=off,metacopy=off,xino=auto,lowerdir={}",
        lowers.join(":")
    );
    let mut flags = MountFlags::empty();
    match writable {
        Some(Opened { upper, work }) => {
            let (upper, work) = (descriptor_path(upper), descriptor_path(work));
            options.push_str(&format!(",redirect_dir=on,upperdir={upper},workdir={work}"));
            if durability == Durability::Volatile {
                options.push_str(",volatile");
            }
        }
        None => {
            options.push_str(",redirect_dir=follow");
            flags |= MountFlags::RDONLY;
        }
    }
    if options.len() >= OPTIONS_MAX {
        return Err(Error::TooManyLayers {
            count: layers.len(),
            limit: OPTIONS_MAX / (options.len() / layers.len()),
        });
    }
    let options = CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    let room = place.room()?;
    mount("overlay", room.path(), "overlay", flags, Some(&*options)).map_err(failed)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, room.path(), clone).map_err(failed)
}

/// The layers that show anything, the top first: nothing below an opaque one,
/// and no layer twice, which overlayfs would refuse.
pub(crate) fn visible(lowers: &[LayerMount]) -> Vec<&LayerMount> {
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

const SYNTAXES: [Syntax; 3] = [Syntax::Descriptors, Syntax::Paths, Syntax::Joined];

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
            upper: open_directory(CWD, &writable.upper)?,
            work: open_directory(CWD, &writable.work)?,
        })
    }

    /// The same through one mount that shows other owners.
    fn owned(writable: &Writable, owners: Owners<'_>, places: &Places) -> Result<(Self, Kept)> {
        let parts = |path: &Path| {
            let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
            (parent, PathBuf::from(path.file_name().unwrap_or_default()))
        };
        let (parent, upper) = parts(&writable.upper);
        let (_, work) = parts(&writable.work);
        let kept = owners.map(CWD, &parent, places)?;
        let opened = Self {
            upper: open_directory(kept.as_fd(), &upper)?,
            work: open_directory(kept.as_fd(), &work)?,
        };
        Ok((opened, kept))
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
    } else {
        // One of the layers may have been written to so.
        context.string("redirect_dir", "follow")?;
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
    context.mount(attributes).map_err(|e| {
        // Before Linux 6.5 parameters are looked at only now.
        if is_unknown(&e) {
            Attempt::Syntax(e)
        } else {
            Attempt::Failed(e)
        }
    })
}

fn layer_option(
    context: &Context,
    set: rustix::io::Result<()>,
) -> std::result::Result<(), Attempt> {
    set.map_err(|errno| match errno {
        // Unknown parameter, or one that takes no descriptor; before Linux 6.5 none does.
        Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP => Attempt::Syntax(context.error(errno)),
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
pub(crate) fn can_stack_on(index: &File, tar: &File, places: &Places) -> bool {
    let probe = || -> Result<()> {
        let lower = places.keep(crate::mount::mount_index(index, tar)?)?;
        probe_over(&lower, places)
    };
    probe().is_ok()
}

/// Says whether this kernel stacks mounts that are attached nowhere (Linux 6.15).
pub(crate) fn can_stack_detached() -> bool {
    let nowhere = Places::Nowhere;
    let probe = || probe_over(&nowhere.keep(empty()?)?, &nowhere);
    probe().is_ok()
}

fn probe_over(lower: &Kept, places: &Places) -> Result<()> {
    let below = places.keep(empty()?)?;
    let layers = [
        open_directory(lower.as_fd(), Path::new("."))?,
        open_directory(below.as_fd(), Path::new("."))?,
    ];
    stack_somehow(&layers, None, Durability::Durable, places).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_newer_than_kernel(syntax: Syntax) -> bool {
        use sampan_kernel::requires::kernel_at_least;
        match syntax {
            Syntax::Descriptors => !kernel_at_least(6, 13),
            Syntax::Paths => !kernel_at_least(6, 8),
            // Of detached mounts and descriptors it takes what /proc names, if it looks there.
            Syntax::Joined => !kernel_at_least(6, 5),
        }
    }

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
                open_directory(CWD, &path).unwrap()
            })
            .into();
        for syntax in SYNTAXES {
            let writable = Opened::new(&Writable {
                upper: dir(&format!("upper-{syntax:?}")),
                work: dir(&format!("work-{syntax:?}")),
            })
            .unwrap();
            match stack(&layers, Some(&writable), Durability::Durable, syntax) {
                Ok(root) => check(&root),
                Err(Attempt::Syntax(_)) if is_newer_than_kernel(syntax) => {}
                Err(Attempt::Syntax(error) | Attempt::Failed(error)) => {
                    panic!("{syntax:?}: {error}")
                }
            }
        }
        let place = Place::open(&tmp.path().join("mounts")).unwrap();
        let writable = Opened::new(&Writable {
            upper: dir("upper"),
            work: dir("work"),
        })
        .unwrap();
        check(&stack_at(&layers, Some(&writable), Durability::Volatile, &place).unwrap());
        let root = stack_at(&layers, None, Durability::Durable, &place).unwrap();
        let path = PathBuf::from(descriptor_path(&root));
        assert!(std::fs::write(path.join("new"), "").is_err());
        // What a kernel does not know is tried once.
        let places = Places::Below(place);
        let _ = stack_somehow(&layers, None, Durability::Durable, &places).unwrap();
        let next = SYNTAXES.get(WORKED.load(Ordering::Relaxed));
        let is_known = |syntax| syntax == Syntax::Joined || !is_newer_than_kernel(syntax);
        assert!(next.is_none_or(|syntax| is_known(*syntax)), "{next:?}");
    }

    fn check(root: &OwnedFd) {
        let path = PathBuf::from(descriptor_path(root));
        let common = std::fs::read_to_string(path.join("common")).unwrap();
        assert_eq!(common, "top");
        assert!(path.join("bottom").exists());
        std::fs::write(path.join("new"), "").unwrap();
    }
}
