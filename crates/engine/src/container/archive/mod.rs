//! Copying files into and out of a container, whether it runs or not.
//!
//! Paths are resolved in the container's own view of its files ([`view::View`]) by the kernel,
//! which lets none of them out (`openat2`, `RESOLVE_IN_ROOT`): a process that swaps links
//! meanwhile reaches other files of its own container at most (CVE-2018-15664). No program of the
//! container runs, and nothing of it is loaded (CVE-2019-14271).

mod path;
mod view;

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{FileType, OFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;
use sampan_archive::{Owner, Replace, write_named};
use sampan_text::with_causes;

use self::path::{Absolute, follow};
use self::view::View;
use super::registry::Container;
use super::service::Inner;
use crate::{Action, Error, ErrorKind, Result, blocking};

/// A file of accounts that is longer is not read.
const ACCOUNTS: u64 = 4 << 20;

/// What is known of a path in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Its last part.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Kind and permissions, as stat(2) has them.
    pub mode: u32,
    /// When it was changed.
    pub modified: Timestamp,
    /// Where a link leads in the end, as a path of the container; empty for anything else.
    pub link_target: String,
}

/// Files of a container, ready to be written out.
#[derive(Debug)]
pub struct FileArchive {
    stat: PathStat,
    path: Absolute,
    view: View,
}

/// Whom extracted files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtractOwner {
    /// The owner that the archive names.
    Archive,
    /// The user that the container runs as; the owner in the archive where none is set.
    ContainerUser,
}

/// How an archive is extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtractOptions {
    /// What may be replaced.
    pub replace: Replace,
    /// Whom the files belong to.
    pub owner: ExtractOwner,
}

impl FileArchive {
    /// What is known of the path.
    pub fn stat(&self) -> &PathStat {
        &self.stat
    }

    /// Writes a tar: the file, or the directory with all below it. Blocks.
    pub fn write(self, out: &mut impl Write) -> io::Result<()> {
        let is_directory = FileType::from_raw_mode(self.stat.mode) == FileType::Directory;
        if is_directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let directory = self.view.open(self.path.as_path(), flags)?;
            let name = self.path.base();
            let name = if name == "/" { "" } else { name };
            let owners = self.view.owners_inside();
            return write_named(directory.as_fd(), None, name.as_bytes(), &owners, out);
        }
        let (parent, name) = self.path.split();
        let parent = self.view.open(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let file = CString::new(name.as_bytes())?;
        let owners = self.view.owners_inside();
        write_named(parent.as_fd(), Some(&file), name.as_bytes(), &owners, out)
    }
}

impl Inner {
    pub(crate) async fn stat_path(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: &str,
        path: &str,
    ) -> Result<PathStat> {
        let path = Absolute::new(path)?;
        let view = self.files_view(container).await?;
        let asked = asked.to_owned();
        blocking(move || stat(&view, &path, &asked)).await
    }

    pub(crate) async fn archive_path(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: &str,
        path: &str,
    ) -> Result<FileArchive> {
        let path = Absolute::new(path)?;
        let view = self.files_view(container).await?;
        let asked = asked.to_owned();
        let archive = blocking(move || {
            let stat = stat(&view, &path, &asked)?;
            Ok(FileArchive { stat, path, view })
        })
        .await?;
        self.tell(&container.record(), Action::ArchivePath, []);
        Ok(archive)
    }

    pub(crate) async fn extract(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: &str,
        path: &str,
        options: ExtractOptions,
        tar: impl Read + Send + 'static,
    ) -> Result<()> {
        let path = Absolute::new(path)?;
        let view = self.files_view(container).await?;
        let (found, asked) = (container.clone(), asked.to_owned());
        blocking(move || extract_to(&view, &found, &asked, &path, options, tar)).await?;
        self.tell(&container.record(), Action::ExtractToDir, []);
        Ok(())
    }
}

fn missing(path: &Absolute, container: &str) -> Error {
    Error::not_found(format!(
        "Could not find the file {} in container {container}",
        path.text()
    ))
}

/// What the system said of a path, as an answer to the client.
fn refused(path: &Absolute, container: &str, error: &io::Error) -> Error {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => missing(path, container),
        Some(errno @ (Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL)) => {
            Error::invalid(format!("{}: {}", path.text(), said(errno)))
        }
        _ => Error::internal(format!("{}: {error}", path.text())),
    }
}

/// The kernel's words as C and Go have them.
fn said(errno: Errno) -> String {
    let text = io::Error::from(errno).to_string().to_lowercase();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

fn stat(view: &View, path: &Absolute, container: &str) -> Result<PathStat> {
    let failed = |error: io::Error| refused(path, container, &error);
    let found = view
        .open(path.as_path(), OFlags::PATH | OFlags::NOFOLLOW)
        .map_err(failed)?;
    let stat = rustix::fs::fstat(&found).map_err(|errno| failed(errno.into()))?;
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let link_target = if is_link {
        follow(view.root(), path.as_path()).map_err(failed)?
    } else {
        String::new()
    };
    Ok(PathStat {
        name: path.base().to_owned(),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        modified: modified(&stat),
        link_target,
    })
}

#[allow(clippy::unnecessary_cast, trivial_numeric_casts)] // the types differ between architectures
fn modified(stat: &Stat) -> Timestamp {
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Timestamp::new(stat.st_mtime as i64, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn extract_to(
    view: &View,
    container: &Container,
    asked: &str,
    path: &Absolute,
    options: ExtractOptions,
    tar: impl Read,
) -> Result<()> {
    let failed = |error: io::Error| refused(path, asked, &error);
    // Links are followed, also a last one: the directory may be named by one.
    let found = view.open(path.as_path(), OFlags::PATH).map_err(failed)?;
    let stat = rustix::fs::fstat(&found).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Error::invalid("extraction point is not a directory"));
    }
    let resolved = follow(view.root(), path.as_path()).map_err(failed)?;
    check_writable(&found, container, &resolved)?;
    let record = container.record();
    let owner = match options.owner {
        ExtractOwner::Archive => Owner::Archive,
        ExtractOwner::ContainerUser if record.config.user.is_empty() => Owner::Archive,
        ExtractOwner::ContainerUser => {
            let read = |file: &str| view.root().read(file, ACCOUNTS).ok();
            let owner = sampan_build::find_owner(&record.config.user, &read);
            let (uid, gid) =
                owner.map_err(|error| Error::because("find the container's user", &error))?;
            Owner::These(uid, gid)
        }
    };
    let options = sampan_archive::ExtractOptions {
        replace: options.replace,
        owner,
        owners: view.owners_on_host(),
        rename: None,
    };
    let as_root = view.as_root().map_err(failed)?;
    let extracted = sampan_archive::extract(view.root(), &resolved, options, tar);
    drop(as_root);
    extracted.map_err(|error| {
        let text = with_causes(&error);
        let kind = match () {
            () if error.is_read_only() => ErrorKind::Forbidden,
            () if error.is_clients() => ErrorKind::Invalid,
            () => ErrorKind::Internal,
        };
        Error::new(kind, text)
    })
}

/// The container may not be changed where it may not change itself.
fn check_writable(directory: &OwnedFd, container: &Container, path: &str) -> Result<()> {
    let record = container.record();
    let inside = |destination: &str| {
        let rest = path.strip_prefix(destination.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mounts = record.mounts.iter();
    let mount = mounts
        .filter(|mount| inside(&mount.destination))
        .max_by_key(|mount| mount.destination.len());
    let forbidden = |text: &str| Err(Error::new(ErrorKind::Forbidden, text));
    if mount.is_some_and(|mount| !mount.writable) {
        return forbidden("mounted volume is marked read-only");
    }
    if mount.is_none() && record.host.readonly_rootfs {
        return forbidden("container rootfs is marked read-only");
    }
    let mounted = rustix::fs::fstatvfs(directory)
        .map_err(|errno| Error::internal(format!("{path}: {}", said(errno))))?;
    if mounted.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return forbidden("mounted volume is marked read-only");
    }
    Ok(())
}
