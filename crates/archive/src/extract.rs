//! An archive becomes files below a root that none of its names leaves.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use sampan_fs::Root;
use tar::{Archive, Entry, EntryType};

use crate::{Decoder, OwnerMap, Peeled, is_pseudo};

/// Mode of a directory that the archive implies and does not describe.
const IMPLIED: u32 = 0o755;
const XATTR: &str = "SCHILY.xattr.";

/// What may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// Anything by anything.
    Any,
    /// No directory by something else, and nothing else by a directory.
    SameKind,
}

/// Whom extracted files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The owner that the archive names.
    Archive,
    /// This user and group.
    These(u32, u32),
    /// Whoever extracts.
    Nobody,
}

/// How an archive is extracted.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// What may be replaced.
    pub replace: Replace,
    /// Whom the files belong to.
    pub owner: Owner,
    /// Whose the files are in place of these.
    pub owners: OwnerMap,
    /// The first part of all names, and what takes its place.
    pub rename: Option<(String, String)>,
}

/// Why an archive was not extracted, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// A name leaves the target, or stands for what may not be replaced, or the archive is malformed.
    #[error("{0}")]
    Refused(String),
    /// The stream broke or does not unpack.
    #[error("read the archive")]
    Archive(#[source] io::Error),
    /// A file could not be made.
    #[error("{path}: {}", said(.source))]
    File {
        /// The file, from the root.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl ExtractError {
    /// Whether the archive or the request is at fault, and not the machine.
    #[must_use]
    pub fn is_clients(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Archive(_) => true,
            Self::File { source, .. } => matches!(
                Errno::from_io_error(source),
                Some(Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)
            ),
        }
    }

    /// Whether nothing may be written there.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::File { source, .. }
            if Errno::from_io_error(source) == Some(Errno::ROFS))
    }
}

type Result<T, E = ExtractError> = std::result::Result<T, E>;

/// Extracts a tar, packed or not, into the directory `target` of a root. Names and links are
/// resolved inside the root, whatever happens in it meanwhile. What was extracted before a failure
/// stays. Blocks.
pub fn extract(root: &Root, target: &str, options: ExtractOptions, tar: impl Read) -> Result<()> {
    let extraction = Extraction {
        root,
        target: target.to_owned(),
        options,
        directories: Vec::new(),
    };
    extraction.run(tar)
}

/// The kernel's words as C and Go have them.
fn said(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// A path as a name of a file system.
fn as_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// One archive on its way into a directory.
struct Extraction<'r> {
    root: &'r Root,
    /// Absolute, without links.
    target: String,
    options: ExtractOptions,
    /// Directories whose times are set when all is in them.
    directories: Vec<(String, Timestamps)>,
}

/// What is said of a member, apart from what it is.
struct About {
    /// None to leave it as it is.
    owner: Option<(u32, u32)>,
    mode: Mode,
    times: Timestamps,
    attributes: Vec<(CString, Vec<u8>)>,
}

impl Extraction<'_> {
    fn run(mut self, tar: impl Read) -> Result<()> {
        let peeled = Peeled::new(BufReader::with_capacity(256 << 10, tar));
        let decoder = peeled.and_then(|peeled| Decoder::new(BufReader::new(peeled)));
        let decoder = decoder.map_err(|error| match error {
            crate::Error::Io(error) => ExtractError::Archive(error),
            other => ExtractError::Refused(other.to_string()),
        })?;
        let mut archive = Archive::new(decoder);
        for entry in archive.entries().map_err(ExtractError::Archive)? {
            let mut entry = entry.map_err(ExtractError::Archive)?;
            self.member(&mut entry)?;
        }
        // What follows the end means nothing, but a writer into a pipe wants it read.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(ExtractError::Archive)?;
        for (name, times) in self.directories.iter().rev() {
            let (parent, base) = self.parent_of(name)?;
            let set =
                rustix::fs::utimensat(&parent, as_path(&base), times, AtFlags::SYMLINK_NOFOLLOW);
            // Replaced meanwhile.
            if !matches!(set, Ok(()) | Err(Errno::NOENT)) {
                set.map_err(|errno| self.failed(name, errno))?;
            }
        }
        Ok(())
    }

    fn member(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<()> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let name = self.inside(&entry.path_bytes())?;
        let about = self.about(entry)?;
        let is_directory = kind == EntryType::Directory;
        if name.is_empty() {
            // The directory itself, which is there.
            return Ok(());
        }
        let (parent, base) = self.parent_of(&name)?;
        let base = as_path(&base);
        let found = match rustix::fs::statat(&parent, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(self.failed(&name, errno)),
        };
        if let Some(found) = &found {
            self.make_room(&parent, base, &name, found, kind)?;
        }
        let failed = |errno: Errno| self.failed(&name, errno);
        match kind {
            EntryType::Directory => {
                match rustix::fs::mkdirat(&parent, base, about.mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(failed(errno)),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made =
                    rustix::fs::openat(&parent, base, flags, Mode::empty()).map_err(failed)?;
                describe(made.as_fd(), &about).map_err(|error| self.broke(&name, error))?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let file = self.create(&parent, base).map_err(failed)?;
                let mut file = File::from(file);
                io::copy(entry, &mut file).map_err(|error| self.broke(&name, error))?;
                describe(file.as_fd(), &about).map_err(|error| self.broke(&name, error))?;
                rustix::fs::futimens(&file, &about.times).map_err(failed)?;
            }
            EntryType::Link => {
                let target = self.inside(&link_name(entry))?;
                let (from, old) = self.parent_of(&target)?;
                rustix::fs::linkat(&from, as_path(&old), &parent, base, AtFlags::empty())
                    .map_err(failed)?;
            }
            EntryType::Symlink => {
                let target = link_name(entry);
                rustix::fs::symlinkat(as_path(&target), &parent, base).map_err(failed)?;
                self.describe_name(&parent, base, &about).map_err(failed)?;
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                let header = entry.header();
                let device = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
                let number = rustix::fs::makedev(
                    device(header.device_major()),
                    device(header.device_minor()),
                );
                let (kind, number) = match kind {
                    EntryType::Char => (FileType::CharacterDevice, number),
                    EntryType::Block => (FileType::BlockDevice, number),
                    _ => (FileType::Fifo, 0),
                };
                rustix::fs::mknodat(&parent, base, kind, about.mode, number).map_err(failed)?;
                self.describe_name(&parent, base, &about).map_err(failed)?;
                // The umask has taken bits away.
                rustix::fs::chmodat(&parent, base, about.mode, AtFlags::empty()).map_err(failed)?;
            }
            other => {
                return Err(ExtractError::Refused(format!(
                    "unhandled tar header type {:?} of {name:?}",
                    char::from(other.as_byte())
                )));
            }
        }
        if is_directory {
            self.directories.push((name, about.times));
        }
        Ok(())
    }

    /// Removes what stands where a member goes, unless that may not be or two directories meet.
    fn make_room(
        &self,
        parent: &OwnedFd,
        base: &Path,
        name: &str,
        found: &Stat,
        kind: EntryType,
    ) -> Result<()> {
        let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let comes_directory = kind == EntryType::Directory;
        if self.options.replace == Replace::SameKind && is_directory != comes_directory {
            let (old, new) = match is_directory {
                true => ("directory", "non-directory"),
                false => ("non-directory", "directory"),
            };
            return Err(ExtractError::Refused(format!(
                "cannot overwrite {old} {:?} with {new} {:?}",
                self.full(name),
                self.target
            )));
        }
        if is_directory && comes_directory {
            return Ok(());
        }
        match sampan_fs::remove_all_at(parent, base) {
            Ok(()) => Ok(()),
            // Something is mounted there, such as /etc/hosts: its content is replaced.
            Err(sampan_fs::Error::Io { source, .. })
                if Errno::from_io_error(&source) == Some(Errno::BUSY)
                    && !is_directory
                    && kind.is_file() =>
            {
                Ok(())
            }
            Err(error) => Err(self.of_fs(name, error)),
        }
    }

    /// Makes a file, or empties the one that something is mounted as.
    fn create(&self, parent: &OwnedFd, base: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let new = flags | OFlags::CREATE | OFlags::EXCL;
        match rustix::fs::openat(parent, base, new, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
        let file = rustix::fs::openat(parent, base, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::EXIST);
        }
        rustix::fs::ftruncate(&file, 0)?;
        Ok(file)
    }

    fn describe_name(&self, parent: &OwnedFd, base: &Path, about: &About) -> Result<(), Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = about.owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(parent, base, Some(uid), Some(gid), flags)?;
        }
        rustix::fs::utimensat(parent, base, &about.times, flags)
    }

    fn about(&self, entry: &mut Entry<'_, impl Read>) -> Result<About> {
        let header = entry.header();
        let number = |what: &str, number: io::Result<u64>| {
            let number = number.ok().and_then(|number| u32::try_from(number).ok());
            // The last one means "leave it" to the kernel.
            let number = number.filter(|number| *number != u32::MAX);
            number.ok_or_else(|| ExtractError::Refused(format!("malformed archive: bad {what}")))
        };
        // Some writers leave fields empty, which is read as zero.
        let field = |bytes: &[u8], number: io::Result<u64>| {
            let empty = bytes.iter().all(|byte| matches!(byte, 0 | b' '));
            if empty { Ok(0) } else { number }
        };
        let fields = header.as_old();
        let mut uid = number("uid", field(&fields.uid, header.uid()))?;
        let mut gid = number("gid", field(&fields.gid, header.gid()))?;
        let mut about = About {
            owner: None,
            mode: Mode::from_raw_mode(header.mode().unwrap_or(0o644) & 0o7777),
            times: both(i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
            attributes: Vec::new(),
        };
        let records = entry.pax_extensions().map_err(ExtractError::Archive)?;
        for record in records.into_iter().flatten() {
            let record = record.map_err(ExtractError::Archive)?;
            let (Ok(key), value) = (record.key(), record.value_bytes()) else {
                continue;
            };
            let text = || std::str::from_utf8(value).unwrap_or_default();
            match key {
                "uid" => uid = number("uid", parsed(text()))?,
                "gid" => gid = number("gid", parsed(text()))?,
                "mtime" => {
                    let (seconds, nanoseconds) = time(text()).ok_or_else(|| {
                        ExtractError::Refused("malformed archive: bad mtime".to_owned())
                    })?;
                    about.times = both(seconds, nanoseconds);
                }
                _ => {
                    if let Some(name) = key.strip_prefix(XATTR)
                        && !hosts(name)
                        && let Ok(name) = CString::new(name)
                    {
                        about.attributes.push((name, value.to_vec()));
                    }
                }
            }
        }
        match self.options.owner {
            Owner::Archive => about.owner = Some(self.options.owners.map((uid, gid))),
            Owner::These(uid, gid) => about.owner = Some(self.options.owners.map((uid, gid))),
            Owner::Nobody => about.owner = None,
        }
        Ok(about)
    }

    /// The path of a member below the target, without `.` and `..`; empty for the target itself.
    fn inside(&self, bytes: &[u8]) -> Result<String> {
        let name = std::str::from_utf8(bytes).map_err(|_| {
            ExtractError::Refused(format!(
                "the name {:?} is not valid UTF-8",
                String::from_utf8_lossy(bytes)
            ))
        })?;
        let mut parts: Vec<&str> = Vec::new();
        for part in name.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| {
                        ExtractError::Refused(format!("{name:?} is outside of {:?}", self.target))
                    })?;
                }
                part => parts.push(part),
            }
        }
        let name = parts.join("/");
        Ok(match &self.options.rename {
            Some((old, new)) => renamed(&name, old, new),
            None => name,
        })
    }

    fn full(&self, name: &str) -> String {
        format!("{}/{name}", self.target.trim_end_matches('/'))
    }

    /// Opens the directory that a member lies in, making it where it is missing, and gives the
    /// name in it.
    fn parent_of(&self, name: &str) -> Result<(OwnedFd, Vec<u8>)> {
        let full = self.full(name);
        let (parent, base) = full.rsplit_once('/').unwrap_or(("", &full));
        let parent = if parent.is_empty() { "/" } else { parent };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = match self.open(parent, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = self.root.create_dir_all(parent, IMPLIED);
                made.map_err(|error| self.of_fs(name, error))?;
                self.open(parent, flags)
            }
            other => other,
        };
        let opened = opened.map_err(|error| self.broke(name, error))?;
        Ok((opened, base.as_bytes().to_vec()))
    }

    /// Opens a directory. What the kernel itself shows is no place for files.
    fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let opened = self.root.open_with(path, flags, 0);
        let opened = opened.map_err(into_io)?;
        match is_pseudo(opened.as_fd())? {
            true => Err(Errno::PERM.into()),
            false => Ok(opened),
        }
    }

    fn failed(&self, name: &str, errno: Errno) -> ExtractError {
        ExtractError::File {
            path: self.full(name),
            source: errno.into(),
        }
    }

    fn of_fs(&self, name: &str, error: sampan_fs::Error) -> ExtractError {
        self.broke(name, into_io(error))
    }

    fn broke(&self, name: &str, error: io::Error) -> ExtractError {
        match Errno::from_io_error(&error) {
            Some(errno) => self.failed(name, errno),
            None => ExtractError::Archive(error),
        }
    }
}

fn into_io(error: sampan_fs::Error) -> io::Error {
    match error {
        sampan_fs::Error::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

/// The name with another first part. `old` is `.` or empty where the archive is of what is in a
/// directory.
fn renamed(name: &str, old: &str, new: &str) -> String {
    let rest = match old {
        "" | "." | "/" => Some(name),
        old => name
            .strip_prefix(old)
            .filter(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    match rest.map(|rest| rest.trim_start_matches('/')) {
        None => name.to_owned(),
        Some("") => new.to_owned(),
        Some(rest) => format!("{new}/{rest}"),
    }
}

fn parsed(text: &str) -> io::Result<u64> {
    text.parse().map_err(io::Error::other)
}

fn link_name(entry: &Entry<'_, impl Read>) -> Vec<u8> {
    let name = entry.link_name_bytes();
    name.map(std::borrow::Cow::into_owned).unwrap_or_default()
}

/// Attributes that belong to the host and not to a container.
fn hosts(name: &str) -> bool {
    let prefixes = [
        "security.selinux",
        "security.ima",
        "security.evm",
        "trusted.",
        "user.overlay.",
    ];
    prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Gives a file its owner, then its attributes and mode, which the owner's change takes away.
fn describe(file: BorrowedFd<'_>, about: &About) -> io::Result<()> {
    if let Some((uid, gid)) = about.owner {
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    for (name, value) in &about.attributes {
        match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
            // As Docker: a file system that has none keeps none.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(rustix::fs::fchmod(file, about.mode)?)
}

#[allow(clippy::unnecessary_cast, trivial_numeric_casts)] // the types differ between architectures
fn both(seconds: i64, nanoseconds: u32) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds as _,
        tv_nsec: nanoseconds as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Seconds with a fraction, as PAX records have times.
fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => (seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds),
        _ => (seconds, nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_may_be_before_1970() {
        assert_eq!(time("5"), Some((5, 0)));
        assert_eq!(time("5.25"), Some((5, 250_000_000)));
        assert_eq!(time("-4.75"), Some((-5, 250_000_000)));
        assert_eq!(time("-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time("1.0000000019"), Some((1, 1)));
        assert_eq!(time("x"), None);
        assert_eq!(time("1.x"), None);
    }

    #[test]
    fn first_parts_are_renamed() {
        for (name, old, expected) in [
            ("a", "a", "b"),
            ("a/x", "a", "b/x"),
            ("ab/x", "a", "ab/x"),
            ("x", ".", "b/x"),
            ("", ".", "b"),
            ("x/y", "/", "b/x/y"),
        ] {
            assert_eq!(renamed(name, old, "b"), expected, "{name}");
        }
    }

    fn tar(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: EntryType, link: &str) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(if kind == EntryType::Regular { 4 } else { 0 });
        header.set_uid(0);
        header.set_gid(0);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        let data: &[u8] = if kind == EntryType::Regular {
            b"data"
        } else {
            b""
        };
        builder.append(&header, data).unwrap();
    }

    fn unpack(root: &Path, bytes: &[u8], replace: Replace) -> Result<()> {
        let options = ExtractOptions {
            replace,
            owner: Owner::Nobody,
            owners: OwnerMap::default(),
            rename: None,
        };
        extract(&Root::open(root).unwrap(), "/in", options, bytes)
    }

    #[test]
    fn nothing_lands_outside_of_the_root() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("root");
        std::fs::create_dir_all(root.join("in")).unwrap();
        let bytes = tar(|t| {
            add(t, "out", EntryType::Symlink, "../../..");
            add(t, "out/escaped", EntryType::Regular, "");
            add(t, "absolute", EntryType::Symlink, "/");
            add(t, "absolute/second", EntryType::Regular, "");
        });
        unpack(&root, &bytes, Replace::Any).unwrap();
        assert!(!tmp.path().join("escaped").exists());
        assert!(!Path::new("/second").exists());
        assert_eq!(std::fs::read(root.join("escaped")).unwrap(), b"data");
        assert_eq!(std::fs::read(root.join("second")).unwrap(), b"data");
        for name in ["../x", "a/../../x"] {
            let bytes = tar(|t| add(t, name, EntryType::Regular, ""));
            let error = unpack(&root, &bytes, Replace::Any).unwrap_err();
            assert!(error.to_string().contains("is outside of"), "{error}");
        }
        let bytes = tar(|t| add(t, "hard", EntryType::Link, "../../../etc/passwd"));
        assert!(unpack(&root, &bytes, Replace::Any).is_err());
    }

    #[test]
    fn directories_and_files_do_not_take_each_others_place() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        std::fs::create_dir_all(root.join("in/dir/kept")).unwrap();
        std::fs::write(root.join("in/file"), "old").unwrap();
        let file_over = tar(|t| add(t, "dir", EntryType::Regular, ""));
        let dir_over = tar(|t| add(t, "file", EntryType::Directory, ""));
        let error = unpack(root, &file_over, Replace::SameKind).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot overwrite directory \"/in/dir\" with non-directory \"/in\""
        );
        assert!(unpack(root, &dir_over, Replace::SameKind).is_err());
        assert!(root.join("in/dir/kept").is_dir());
        unpack(root, &file_over, Replace::Any).unwrap();
        unpack(root, &dir_over, Replace::Any).unwrap();
        assert!(root.join("in/dir").is_file() && root.join("in/file").is_dir());
        assert!(unpack(root, &file_over[..600], Replace::Any).is_err());
    }
}
