//! Rotated files that are packed: `<name>.<number>.gz`, as Docker has them.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};

use flate2::read::{GzDecoder, MultiGzDecoder};
use flate2::{Compression, GzBuilder};
use jiff::Timestamp;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What a packed file says of itself in its head. Docker looks at the time alone.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    #[serde(rename = "lastTime")]
    last_time: String,
    /// The file's identity before it was packed: whoever was reading it knows it by that.
    #[serde(default)]
    device: u64,
    #[serde(default)]
    inode: u64,
}

/// The name of a packed file.
pub(crate) fn packed_name(name: &str) -> String {
    format!("{name}.gz")
}

/// Packs the file `name` and removes it. After a failure it is as it was.
pub(crate) fn pack(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let from = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&from)?;
    let about = About {
        last_time: Timestamp::now().to_string(),
        device: stat.st_dev,
        inode: stat.st_ino,
    };
    let temporary = format!("{name}.tmp");
    let packed = write_packed(directory, &temporary, File::from(from), &about).and_then(|()| {
        Ok(rustix::fs::renameat(
            directory,
            &temporary,
            directory,
            packed_name(name),
        )?)
    });
    if packed.is_err() {
        // What went wrong before is what counts.
        let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
        return packed;
    }
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
}

fn write_packed(
    directory: BorrowedFd<'_>,
    name: &str,
    mut from: File,
    about: &About,
) -> io::Result<()> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let to = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o640))?;
    // The container waits for this: fast rather than small.
    let mut packer = GzBuilder::new()
        .extra(serde_json::to_vec(about)?)
        .write(File::from(to), Compression::fast());
    io::copy(&mut from, &mut packer)?;
    packer.finish()?.flush()
}

/// The identity that a packed file had before, where it tells.
pub(crate) fn identity(file: &OwnedFd) -> Option<(u64, u64)> {
    let file = File::from(file.try_clone().ok()?);
    let decoder = GzDecoder::new(BufReader::new(&file));
    let about: About = serde_json::from_slice(decoder.header()?.extra()?).ok()?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).ok()?;
    (about.inode != 0).then_some((about.device, about.inode))
}

/// Unpacks a file into one that has no name. A damaged end is left away.
pub(crate) fn unpack(directory: BorrowedFd<'_>, packed: &File) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let to = match rustix::fs::openat(directory, ".", flags, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC)?
        }
        other => other?,
    };
    let mut to = File::from(to);
    let mut decoder = MultiGzDecoder::new(BufReader::new(packed));
    let mut buffer = vec![0; 64 << 10];
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) | Err(_) => return Ok(to),
            Ok(read) => to.write_all(&buffer[..read])?,
        }
    }
}
