//! Files that Dockerfiles and requests name by a URL.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use sampan_archive::{Attributes, LayerWriter};
use sampan_images::{HeldLayer, ImageStore, UrlReader};
use sampan_oci::Digest;
use sampan_oci::digest::Hasher;
use tokio_util::sync::CancellationToken;

use crate::{Error, Result};

/// Opens what is at a URL; the second text is the value of a header that authenticates. Blocks.
pub type Web<'a> = dyn Fn(&str, Option<&str>) -> Result<UrlReader> + Sync + 'a;

/// Bytes that a file may have.
const LARGEST: u64 = 64 << 30;
/// The disk is looked at each time this much was written.
const SPACE_CHECK: u64 = 64 << 20;
/// What is left to others.
const SPACE_LEFT: u64 = 1 << 30;
const PIECE: usize = 256 << 10;

/// What is at a URL, kept without a name.
#[derive(Debug)]
pub(crate) struct Download {
    file: File,
    size: u64,
    digest: Digest,
    /// What the file is called.
    pub(crate) name: String,
    modified: (i64, u32),
}

/// Whether this is the address of a file.
pub(crate) fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Fetches a file. Blocks.
pub(crate) fn download(
    url: &str,
    authorization: Option<&str>,
    web: &Web<'_>,
    directory: &Path,
    cancel: &CancellationToken,
) -> Result<Download> {
    let mut reader = web(url, authorization)?;
    let failed = || Error::io(format!("fetch {url}"));
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| failed()(errno.into()))?;
    let mut file = File::from(file);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; PIECE];
    let (mut size, mut next_check) = (0, 0);
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed()(error)),
        };
        size += n as u64;
        if size > LARGEST {
            return Err(Error::Step(format!("{url} is larger than {LARGEST} bytes")));
        }
        if size >= next_check {
            let space = rustix::fs::fstatvfs(&file).map_err(|errno| failed()(errno.into()))?;
            if space.f_bavail.saturating_mul(space.f_frsize) < SPACE_LEFT {
                return Err(Error::Step(format!(
                    "{url} does not fit: the disk of the engine is almost full"
                )));
            }
            next_check = size + SPACE_CHECK;
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(failed())?;
    }
    let head = reader.head();
    let modified = head.last_modified.as_deref().and_then(|text| {
        let parser = jiff::fmt::rfc2822::DateTimeParser::new();
        parser.parse_timestamp(text).ok()
    });
    Ok(Download {
        file,
        size,
        digest: hasher.finish(),
        name: file_name(url),
        modified: modified.map_or((0, 0), |at| (at.as_second(), 0)),
    })
}

impl Download {
    /// Refuses anything but what was asked for.
    pub(crate) fn check(&self, expected: &str) -> Result<()> {
        let wanted: Digest = expected
            .parse()
            .map_err(|error| Error::Step(format!("invalid checksum {expected:?}: {error}")))?;
        match wanted == self.digest {
            true => Ok(()),
            false => Err(Error::Step(format!(
                "digest mismatch {}: {wanted}",
                self.digest
            ))),
        }
    }

    /// Makes a layer with the file in it, under its name.
    pub(crate) fn layer(&mut self, images: &ImageStore) -> Result<HeldLayer> {
        self.file
            .rewind()
            .map_err(Error::io("read what was fetched"))?;
        let attributes = Attributes {
            mode: 0o600,
            mtime: self.modified,
            ..Attributes::default()
        };
        let layer = images.write_layer(|out| {
            let mut layer = LayerWriter::new(out);
            layer.file(self.name.as_bytes(), &attributes, self.size, &self.file)?;
            layer.finish()
        })?;
        layer.ok_or_else(|| Error::Step("nothing was fetched".to_owned()))
    }

    /// Takes an archive's files as a layer.
    pub(crate) fn unpacked(&mut self, images: &ImageStore) -> Result<HeldLayer> {
        self.file
            .rewind()
            .map_err(Error::io("read what was fetched"))?;
        Ok(images.take_archive(&self.file, &self.name)?)
    }

    pub(crate) fn file(&mut self) -> Result<&mut File> {
        self.file
            .rewind()
            .map_err(Error::io("read what was fetched"))?;
        Ok(&mut self.file)
    }

    /// The bytes, if there are not too many.
    pub(crate) fn bytes(&mut self, most: u64) -> Result<Vec<u8>> {
        if self.size > most {
            return Err(Error::Step(format!(
                "{} is larger than {most} bytes",
                self.name
            )));
        }
        let mut bytes = Vec::new();
        self.file()?
            .read_to_end(&mut bytes)
            .map_err(Error::io("read what was fetched"))?;
        Ok(bytes)
    }
}

/// The last part of a URL's path.
fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let name = path.split_once('/').map_or("", |(_, path)| path);
    let name = name.rsplit('/').next().unwrap_or_default();
    match is_file_name(name) {
        true => name.to_owned(),
        false => "download".to_owned(),
    }
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !matches!(name, "." | "..")
        && !name.starts_with(".wh.")
        && !name.contains(['/', '\0'])
}

/// The host of a URL, for credentials.
pub(crate) fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_after_the_last_part_of_the_path() {
        assert_eq!(file_name("https://h/a/b.txt?x=/c#d"), "b.txt");
        assert_eq!(file_name("https://h/.."), "download");
        assert_eq!(file_name("https://h"), "download");
        assert_eq!(host("http://u:p@h:80/x"), "h:80");
        for name in ["", "..", "a/b", ".wh.x", "a\0"] {
            assert!(!is_file_name(name), "{name}");
        }
    }
}
