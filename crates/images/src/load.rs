//! `docker load`: one pass over the archive, layers straight into the layer store.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;

use sampan_archive::{ArchivedImage, Contents, Kind, MAX_DOCUMENT, Reader};
use sampan_content::{Blob, Writer};
use sampan_fs::Sync;
use sampan_layers::Ingest;
use sampan_oci::digest::{DiffId, Digest};
use sampan_oci::media_type::Compression;
use sampan_oci::{Descriptor, ImageConfig, Platform, Reference};

use crate::image::Image;
use crate::progress::{LayerStatus, Progress, ProgressSink};
use crate::store::{Buffers, ImageStore, NewImage, Pin};
use crate::unpack::Unpack;
use crate::{Error, Result};

/// An image that an archive brought.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// The names that the archive gave it.
    pub names: Vec<Reference>,
}

/// A layer that came by while the archive was read.
struct Seen {
    diff_id: DiffId,
    packed: Compression,
    /// The packed bytes, kept so that a push sends them as they came.
    blob: Option<Blob>,
    _pin: Option<Pin>,
}

impl ImageStore {
    /// Loads the images of an archive of `docker save` or an OCI layout, plain or packed. Blocks.
    ///
    /// A member that looks like a layer goes into the layer store as it passes, before it is known
    /// which image has it, because the archive may be a pipe. Layers that turn out to be no
    /// image's are removed again.
    pub fn load(
        &self,
        reader: impl Read,
        platform: Option<&Platform>,
        progress: &ProgressSink,
    ) -> Result<Vec<Loaded>> {
        let _buffers = Buffers;
        // A layer that was here before may be a container's whose image is gone.
        let before: HashSet<DiffId> = self.0.layers.list().iter().map(|l| l.diff_id).collect();
        let mut seen = HashMap::new();
        let result = self.load_into(reader, platform, progress, &mut seen);
        let came: Vec<DiffId> = seen.values().map(|layer: &Seen| layer.diff_id).collect();
        let kept: Vec<Blob> = seen.values().filter_map(|layer| layer.blob).collect();
        // With it go the pins.
        drop(seen);
        let came = came.into_iter().filter(|d| !before.contains(d));
        if let Err(error) = self.0.remove_layers(came, &HashSet::new()) {
            tracing::warn!(%error, "left a layer of an archive to the next sweep");
        }
        self.drop_blobs(&kept);
        result
    }

    /// Removes those of the blobs that are no image's.
    fn drop_blobs(&self, blobs: &[Blob]) {
        if blobs.is_empty() {
            return;
        }
        let view = self.0.view();
        let needed: HashSet<Digest> = view.images.values().flat_map(|i| i.blobs()).collect();
        for blob in blobs.iter().filter(|blob| !needed.contains(&blob.digest)) {
            if let Err(error) = self.0.content.remove(&blob.digest) {
                tracing::warn!(%error, "left a blob of an archive to the next sweep");
            }
        }
    }

    fn load_into(
        &self,
        reader: impl Read,
        platform: Option<&Platform>,
        progress: &ProgressSink,
        seen: &mut HashMap<String, Seen>,
    ) -> Result<Vec<Loaded>> {
        let packed = Cell::new(0);
        let reader = Tally {
            inner: reader,
            read: &packed,
        };
        let mut archive = Reader::new(BufReader::with_capacity(256 << 10, reader))?;
        let mut contents = Contents::new();
        while let Some(member) = archive.next_member()? {
            match member.kind {
                Kind::Link(target) => contents.add_link(&member.path, &target),
                Kind::Other => {}
                Kind::File(size) => {
                    if is_layer(&member.path, size, &mut archive)? {
                        let layer =
                            self.take_layer(&member.path, size, &mut archive, &packed, progress)?;
                        contents.add_blob(&member.path);
                        seen.insert(member.path, layer);
                    } else {
                        let mut bytes = Vec::new();
                        archive
                            .read_to_end(&mut bytes)
                            .map_err(Error::io("read archive"))?;
                        contents.add_document(&member.path, bytes)?;
                    }
                }
            }
        }
        let machine = platform.unwrap_or(&self.0.options.platform);
        let images = contents.images(machine)?;
        let mut loaded = Vec::new();
        for image in images {
            loaded.push(self.load_image(image, &contents, seen, platform, progress)?);
        }
        Ok(loaded)
    }

    fn take_layer(
        &self,
        path: &str,
        size: u64,
        archive: &mut Reader<impl BufRead>,
        packed_bytes: &Cell<u64>,
        progress: &ProgressSink,
    ) -> Result<Seen> {
        let head = archive.fill_buf().map_err(Error::io("read archive"))?;
        let packed = sampan_archive::detect(head)?;
        // Known by its name only, which is its digest in layouts: it need not be read again.
        if packed == Compression::None
            && let Some(hex) = path.strip_prefix("blobs/sha256/")
            && let Ok(digest) = Digest::from_hex(hex)
        {
            let pin = self.0.pin(DiffId(digest));
            if self.0.layers.get(&DiffId(digest)).is_some() {
                return Ok(Seen {
                    diff_id: DiffId(digest),
                    packed,
                    blob: None,
                    _pin: Some(pin),
                });
            }
        }
        let id = layer_name(path);
        let mut counted = Counted {
            inner: archive,
            taken: 0,
            total: size,
            reported: 0,
            id: &id,
            progress,
        };
        let unpack = Unpack {
            layers: &self.0.layers,
            root: &self.0.root,
            limits: &self.0.options.limits,
            layer: Digest::of(path.as_bytes()),
            commit: Ingest::commit,
        };
        // Counted at the outside: the archive may be packed and its layers again.
        let packed_bytes = || packed_bytes.get();
        let (layer, blob) = if packed == Compression::None {
            (
                unpack.run(&mut counted, &packed_bytes, None, || Ok(()))?,
                None,
            )
        } else {
            let mut kept = Kept {
                inner: &mut counted,
                writer: self.0.content.writer()?,
            };
            let layer = unpack.run(&mut kept, &packed_bytes, None, || Ok(()))?;
            // What follows the packed stream belongs to the blob all the same.
            std::io::copy(&mut kept, &mut std::io::sink()).map_err(Error::io("read archive"))?;
            // No registry is known to have it.
            let blob = kept.writer.commit(None, None, Sync::Durable)?;
            (layer, Some(blob))
        };
        progress.layer(
            &id,
            LayerStatus::Loading {
                current: size,
                total: size,
            },
        );
        Ok(Seen {
            diff_id: layer.diff_id,
            packed,
            blob,
            _pin: Some(self.0.pin(layer.diff_id)),
        })
    }

    fn load_image(
        &self,
        archived: ArchivedImage,
        contents: &Contents,
        seen: &mut HashMap<String, Seen>,
        platform: Option<&Platform>,
        progress: &ProgressSink,
    ) -> Result<Loaded> {
        let config = ImageConfig::parse(&archived.config)?;
        let id = ImageConfig::id(&archived.config);
        let title = archived
            .names
            .first()
            .map_or_else(|| id.to_string(), Reference::familiar);
        if let Some(platform) = platform
            && platform.rank(&config.platform()).is_none()
        {
            return Err(Error::WrongPlatform {
                image: title,
                platform: platform.to_string(),
            });
        }
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != archived.layers.len() {
            return Err(Error::InvalidImage {
                image: title,
                reason: format!(
                    "its configuration names {} layers but the archive has {}",
                    diff_ids.len(),
                    archived.layers.len()
                ),
            });
        }
        for (expected, layer) in diff_ids.iter().zip(&archived.layers) {
            // A layer too plain to be told from a document, such as an empty one, was kept whole.
            if let (None, Some(bytes)) = (seen.get(&layer.path), contents.document(&layer.path)) {
                let stored = self.take_document(&layer.path, bytes)?;
                seen.insert(layer.path.clone(), stored);
            }
            let actual = seen
                .get(&layer.path)
                .ok_or_else(|| sampan_archive::Error::Missing(layer.path.clone()))?
                .diff_id;
            if actual != *expected {
                return Err(Error::DiffId {
                    expected: *expected,
                    actual,
                });
            }
        }
        let blobs: Vec<Option<Descriptor>> = archived
            .layers
            .iter()
            .map(|layer| {
                let seen = seen.get(&layer.path)?;
                let descriptor = layer.descriptor.as_ref()?;
                // A plain tar is the layer itself; of others the blob is kept.
                let kept = seen.packed == Compression::None
                    || seen
                        .blob
                        .is_some_and(|blob| blob.digest == descriptor.digest);
                kept.then(|| descriptor.clone())
            })
            .collect();
        let manifest = self.keep_manifest(&archived, &blobs)?;
        for name in &archived.names {
            if let Some(old) = self.resolve(name)
                && old.id != id
            {
                progress.send(Progress::Renamed {
                    name: name.familiar(),
                    old: old.id,
                });
            }
        }
        let image = self.add(&NewImage {
            config: archived.config,
            blobs,
            manifest,
            parent: None,
            names: archived.names.clone(),
        })?;
        if archived.names.is_empty() {
            progress.send(Progress::LoadedImageId(id));
        }
        for name in &archived.names {
            progress.send(Progress::LoadedImage {
                name: name.familiar(),
            });
        }
        Ok(Loaded {
            image,
            names: archived.names,
        })
    }

    /// Keeps the manifest of an image that came packed, so that a push keeps its digest.
    fn keep_manifest(
        &self,
        archived: &ArchivedImage,
        blobs: &[Option<Descriptor>],
    ) -> Result<Option<Descriptor>> {
        let Some((descriptor, bytes)) = &archived.manifest else {
            return Ok(None);
        };
        // Registries hold layers packed: an archive of plain ones is packed for the push.
        let packed = |blob: &Option<Descriptor>| {
            let compression = blob.as_ref()?.media_type.layer_compression()?;
            Some(compression != Compression::None)
        };
        if !blobs.iter().all(|blob| packed(blob) == Some(true)) {
            return Ok(None);
        }
        self.0.content.put(bytes, Sync::Durable)?;
        let plain = Descriptor::new(
            descriptor.media_type.clone(),
            descriptor.digest,
            descriptor.size,
        );
        Ok(Some(plain))
    }

    fn take_document(&self, path: &str, bytes: &[u8]) -> Result<Seen> {
        let unpack = Unpack {
            layers: &self.0.layers,
            root: &self.0.root,
            limits: &self.0.options.limits,
            layer: Digest::of(bytes),
            commit: Ingest::commit,
        };
        let size = bytes.len() as u64;
        let layer = unpack.run(bytes, &|| size, None, || Ok(()))?;
        tracing::debug!(path, diff_id = %layer.diff_id, "took a document as a layer");
        Ok(Seen {
            diff_id: layer.diff_id,
            packed: sampan_archive::detect(bytes)?,
            blob: None,
            _pin: Some(self.0.pin(layer.diff_id)),
        })
    }

    /// Loads the archive of an image that comes with the engine, unless `name` means an image
    /// already. Blocks.
    pub fn install_bundled(&self, name: &str, archive: &[u8]) -> Result<Arc<Image>> {
        let reference = name.parse::<Reference>()?.or_latest();
        if let Some(image) = self.resolve(&reference) {
            return Ok(image);
        }
        let loaded = self.load(archive, None, &ProgressSink::none())?;
        let [only] = loaded.as_slice() else {
            return Err(Error::InvalidImage {
                image: name.to_owned(),
                reason: format!("the bundled archive has {} images", loaded.len()),
            });
        };
        if only.names.contains(&reference) {
            return Ok(only.image.clone());
        }
        self.tag(&only.image.id.to_string(), name)
    }
}

/// Whether the current member is a layer, told by its first bytes and its path. Short ones that
/// are not obvious are kept as documents, which can still be used as layers.
fn is_layer(path: &str, size: u64, archive: &mut Reader<impl BufRead>) -> Result<bool> {
    if size > MAX_DOCUMENT || path.ends_with("/layer.tar") {
        return Ok(true);
    }
    let head = archive.fill_buf().map_err(Error::io("read archive"))?;
    let packed = sampan_archive::detect(head)? != Compression::None;
    let tar = head.get(257..262) == Some(b"ustar");
    Ok(packed || tar)
}

/// Returns what progress calls the layer of a member: the beginning of its digest or directory.
fn layer_name(path: &str) -> String {
    let name = match path.strip_suffix("/layer.tar") {
        Some(directory) => directory,
        None => path.rsplit('/').next().unwrap_or(path),
    };
    name.chars().take(12).collect()
}

/// Reports how much of a member was read.
struct Counted<'a, R> {
    inner: R,
    taken: u64,
    total: u64,
    reported: u64,
    id: &'a str,
    progress: &'a ProgressSink,
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.count(amount);
    }
}

impl<R> Counted<'_, R> {
    fn count(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        // Some forty lines for a layer of any length, as a bar needs.
        if self.taken - self.reported > (self.total / 40).max(512 << 10) {
            self.reported = self.taken;
            self.progress.layer(
                self.id,
                LayerStatus::Loading {
                    current: self.taken,
                    total: self.total,
                },
            );
        }
    }
}

/// Keeps what is read.
struct Kept<R> {
    inner: R,
    writer: Writer,
}

impl<R: BufRead> Read for Kept<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.writer.write_all(&buffer[..n])?;
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Kept<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // It is still buffered, so that nothing is read; what cannot be written shows when the
        // digest is not the right one.
        if let Ok(buffer) = self.inner.fill_buf() {
            let _ = self.writer.write_all(&buffer[..amount]);
        }
        self.inner.consume(amount);
    }
}

/// Counts the bytes read.
struct Tally<'a, R> {
    inner: R,
    read: &'a Cell<u64>,
}

impl<R: Read> Read for Tally<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.set(self.read.get() + n as u64);
        Ok(n)
    }
}
