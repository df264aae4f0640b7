//! From the packed bytes of a layer to a layer of the store, within bounds.

use std::io::{self, BufRead, Read};
use std::path::Path;

use sampan_archive::Decoder;
use sampan_layers::{Ingest, Layer, LayerStore};
use sampan_oci::digest::{DiffId, Digest};

use crate::store::Limits;
use crate::{Error, Result};

/// Bytes unpacked at once.
const PIECE: usize = 512 << 10;
/// The file system is asked for its free space each time this much was written.
const SPACE_CHECK: u64 = 64 << 20;

/// Unpacks a stream into the layer store.
///
/// `packed` counts the bytes taken from the stream so far, for the bound on the ratio.
pub(crate) struct Unpack<'a> {
    pub(crate) layers: &'a LayerStore,
    /// Any directory on the file system of the layers.
    pub(crate) root: &'a Path,
    pub(crate) limits: &'a Limits,
    /// What errors name.
    pub(crate) layer: Digest,
    /// Makes what was read a layer: [`Ingest::commit`] or its like.
    pub(crate) commit: fn(Ingest, Option<&DiffId>) -> sampan_layers::Result<Layer>,
}

impl Unpack<'_> {
    /// Reads everything, and makes it a layer when it is `expected`. `before_commit` runs when
    /// all bytes were read and may still refuse.
    pub(crate) fn run(
        &self,
        reader: impl BufRead,
        packed: &dyn Fn() -> u64,
        expected: Option<&DiffId>,
        before_commit: impl FnOnce() -> Result<()>,
    ) -> Result<Layer> {
        let mut decoder = Decoder::new(reader)?;
        let mut ingest = self
            .layers
            .ingest()
            .map_err(|source| self.layer_error(source))?;
        let mut buffer = vec![0; PIECE];
        let (mut written, mut next_check) = (0u64, 0);
        loop {
            let n = match decoder.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(unwrap_io("unpack layer", e)),
            };
            written += n as u64;
            self.check(written, packed())?;
            if written >= next_check {
                check_space(self.root, self.limits)?;
                next_check = written + SPACE_CHECK;
            }
            ingest
                .push(&buffer[..n])
                .map_err(|source| self.layer_error(source))?;
        }
        before_commit()?;
        (self.commit)(ingest, expected).map_err(|source| self.layer_error(source))
    }

    fn check(&self, written: u64, packed: u64) -> Result<()> {
        let by_ratio = packed
            .saturating_mul(self.limits.ratio)
            .max(self.limits.free_ratio);
        let limit = self.limits.layer.min(by_ratio);
        if written > limit {
            return Err(Error::TooLarge {
                layer: self.layer,
                limit,
            });
        }
        Ok(())
    }

    fn layer_error(&self, source: sampan_layers::Error) -> Error {
        match source {
            sampan_layers::Error::DigestMismatch { expected, actual } => {
                Error::DiffId { expected, actual }
            }
            source => Error::Layer {
                layer: self.layer,
                source,
            },
        }
    }
}

/// Refuses to fill the file system of a path to the brim.
pub(crate) fn check_space(root: &Path, limits: &Limits) -> Result<()> {
    let Ok(stat) = rustix::fs::statvfs(root) else {
        return Ok(());
    };
    if stat.f_bavail.saturating_mul(stat.f_frsize) < limits.reserve {
        return Err(Error::Io {
            action: "unpack layer",
            source: io::ErrorKind::StorageFull.into(),
        });
    }
    Ok(())
}

/// Brings back an error of this crate that travelled through a reader.
pub(crate) fn unwrap_io(action: &'static str, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(inner) => inner,
        Err(source) => Error::Io { action, source },
    }
}
