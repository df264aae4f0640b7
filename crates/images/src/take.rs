//! Layers that no image has yet: changes of containers, steps of builds, and what is sent to be
//! built from.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_archive::Peeled;
use sampan_layers::{Ingest, Layer};
use sampan_oci::Descriptor;
use sampan_oci::digest::{DiffId, Digest};

use crate::store::{Freed, ImageStore, Pin};
use crate::unpack::{Unpack, check_space, unwrap_io};
use crate::{Error, Result};

/// The tar of nothing is this long; such a layer is none.
const EMPTY: u64 = 1024;
/// The file system is asked for its free space each time this much was written.
const SPACE_CHECK: u64 = 64 << 20;

/// A layer that nothing removes as long as this, or a clone of it, is there.
#[derive(Clone, Debug)]
pub struct HeldLayer(Arc<Pin>);

impl HeldLayer {
    /// Which layer it is.
    pub fn diff_id(&self) -> DiffId {
        self.0.diff_id()
    }
}

type Needed = dyn Fn() -> HashSet<DiffId> + Send + Sync;

/// Others that need layers beside images, such as the cache of builds.
#[derive(Default)]
pub(crate) struct Others(Mutex<Vec<Box<Needed>>>);

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Others")
    }
}

impl Others {
    pub(crate) fn needed(&self) -> HashSet<DiffId> {
        let others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter().flat_map(|needed| needed()).collect()
    }
}

impl ImageStore {
    /// Keeps the layers from being removed that `needed` names each time it is asked. It is asked
    /// while nothing is removed and must not call this store.
    pub fn keep_layers(&self, needed: impl Fn() -> HashSet<DiffId> + Send + Sync + 'static) {
        let others = &self.0.others.0;
        let mut others = others.lock().unwrap_or_else(PoisonError::into_inner);
        others.push(Box::new(needed));
    }

    /// Holds a layer; `None` where the store does not have it.
    pub fn hold_layer(&self, diff_id: &DiffId) -> Option<HeldLayer> {
        let held = HeldLayer(Arc::new(self.0.pin(*diff_id)));
        // Looked for after it is pinned: from here on it stays.
        self.0.layers.get(diff_id).map(|_| held)
    }

    /// Whether somebody holds a layer.
    pub fn is_held(&self, diff_id: &DiffId) -> bool {
        self.0.pins().contains_key(diff_id)
    }

    /// Takes a layer whose tar `write` gives. `None` when the tar is empty. It is durable with the
    /// first image that has it. Blocks.
    pub fn write_layer(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Option<HeldLayer>> {
        let mut layer = self.begin_layer()?;
        match write(&mut layer) {
            Ok(()) => layer.end(Ingest::commit_unsynced),
            Err(error) => Err(NewLayer::failed(error)),
        }
    }

    /// Begins a layer whose tar is written piece by piece.
    pub fn begin_layer(&self) -> Result<NewLayer> {
        let ingest = self.0.layers.ingest().map_err(layer_error)?;
        Ok(NewLayer {
            ingest,
            store: self.clone(),
            written: 0,
            next_check: 0,
        })
    }

    /// Takes a tar, plain or packed, as a layer: files that somebody sends are then looked at where
    /// the kernel shows them read-only, and none of them is ever created on the host. It is durable
    /// with the first image that has it. Blocks.
    pub fn take_archive(&self, reader: impl Read, what: &str) -> Result<HeldLayer> {
        let read = AtomicU64::new(0);
        let unpack = Unpack {
            layers: &self.0.layers,
            root: &self.0.root,
            limits: &self.0.options.limits,
            layer: Digest::of(what.as_bytes()),
            commit: Ingest::commit_unsynced,
        };
        let counted = Counted {
            inner: reader,
            read: &read,
        };
        let peeled = Peeled::new(BufReader::with_capacity(256 << 10, counted))?;
        let layer = unpack.run(
            BufReader::with_capacity(256 << 10, peeled),
            &|| read.load(Ordering::Relaxed),
            None,
            || Ok(()),
        )?;
        self.held(&layer)
    }

    fn held(&self, layer: &Layer) -> Result<HeldLayer> {
        // Somebody else may have had the same layer, and given it up before it was held here.
        self.hold_layer(&layer.diff_id).ok_or(Error::Io {
            action: "keep layer",
            source: io::ErrorKind::Interrupted.into(),
        })
    }

    /// Removes those of the layers that nobody needs: no image, nobody who holds them, none of
    /// `in_use`. Blocks.
    pub fn drop_layers(
        &self,
        layers: impl IntoIterator<Item = DiffId>,
        in_use: &HashSet<DiffId>,
    ) -> Result<Freed> {
        self.0.remove_layers(layers, in_use)
    }

    /// Finds a blob that unpacks to the layer, for an image that shall keep it for a push.
    pub fn blob_of_layer(&self, diff_id: &DiffId) -> Option<Descriptor> {
        self.blob_of(diff_id)
    }
}

/// A layer in the making: write its tar, then [`finish`](Self::finish). Takes no more than there
/// is space for; dropped without an end, it leaves nothing. Blocks.
#[derive(Debug)]
pub struct NewLayer {
    ingest: Ingest,
    store: ImageStore,
    written: u64,
    next_check: u64,
}

impl NewLayer {
    /// Makes it a layer of the store, durable when this returns. `None` when the tar is empty.
    pub fn finish(self) -> Result<Option<HeldLayer>> {
        self.end(Ingest::commit)
    }

    fn end(
        self,
        commit: fn(Ingest, Option<&DiffId>) -> sampan_layers::Result<Layer>,
    ) -> Result<Option<HeldLayer>> {
        if self.written <= EMPTY {
            return Ok(None);
        }
        let layer = commit(self.ingest, None).map_err(layer_error)?;
        self.store.held(&layer).map(Some)
    }

    /// Says why writing failed.
    pub fn failed(error: io::Error) -> Error {
        match sampan_layers::Error::from_io(error) {
            Ok(source) => layer_error(source),
            Err(source) => unwrap_io("read the layer's files", source),
        }
    }
}

fn layer_error(source: sampan_layers::Error) -> Error {
    Error::Layer {
        layer: Digest::of(b""),
        source,
    }
}

impl Write for NewLayer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written >= self.next_check {
            check_space(&self.store.0.root, &self.store.0.options.limits)
                .map_err(io::Error::other)?;
            self.next_check = self.written + SPACE_CHECK;
        }
        self.written += bytes.len() as u64;
        self.ingest.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Counted<'a, R> {
    inner: R,
    read: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
