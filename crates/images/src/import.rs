//! `docker import`: a root file system becomes an image of one layer.

use std::io::{BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sampan_layers::Ingest;
use sampan_oci::config::{History, ImageConfig, RootFs};
use sampan_oci::digest::Digest;
use sampan_oci::{Platform, Reference};

use crate::image::Image;
use crate::progress::{Progress, ProgressSink};
use crate::store::{Buffers, ImageStore, NewImage};
use crate::unpack::Unpack;
use crate::{Error, Result, changes};

/// Figures are told each time this much was read.
const REPORT: u64 = 4 << 20;

/// What an import makes of the bytes.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The name of the image, none for a nameless one.
    pub name: Option<Reference>,
    /// The message of the image; if empty, where it came from.
    pub message: String,
    /// Where the bytes come from, as in `-` or a URL.
    pub source: String,
    /// Instructions on the configuration, as in `CMD ["sh"]`.
    pub changes: Vec<String>,
    /// The machine that the image is for, if not this one.
    pub platform: Option<Platform>,
}

impl ImageStore {
    /// Makes an image of the tar of a root file system, plain or packed. Blocks.
    pub fn import(
        &self,
        reader: impl Read,
        options: &ImportOptions,
        progress: &ProgressSink,
    ) -> Result<Arc<Image>> {
        let _buffers = Buffers;
        if let Some(name) = &options.name
            && name.digest().is_some()
        {
            return Err(Error::Invalid("cannot import digest reference".into()));
        }
        // Before the bytes are read, which may take long.
        let config = changes::apply(&sampan_oci::config::RunConfig::default(), &options.changes)?;
        let read = AtomicU64::new(0);
        let counted = Counted {
            inner: reader,
            read: &read,
            reported: 0,
            progress,
        };
        let unpack = Unpack {
            layers: &self.0.layers,
            root: &self.0.root,
            limits: &self.0.options.limits,
            layer: Digest::of(options.source.as_bytes()),
            commit: Ingest::commit,
        };
        let layer = unpack.run(
            BufReader::with_capacity(256 << 10, counted),
            &|| read.load(Ordering::Relaxed),
            None,
            || Ok(()),
        )?;
        let _pin = self.0.pin(layer.diff_id);
        let platform = options
            .platform
            .as_ref()
            .unwrap_or(&self.0.options.platform);
        let now = jiff::Timestamp::now().to_string();
        let message = if options.message.is_empty() {
            format!("Imported from {}", options.source)
        } else {
            options.message.clone()
        };
        let image = ImageConfig {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            created: Some(now.clone()),
            comment: message.clone(),
            config,
            rootfs: RootFs {
                diff_ids: vec![layer.diff_id],
                ..RootFs::default()
            },
            history: vec![History {
                created: Some(now),
                comment: message,
                ..History::default()
            }],
            ..ImageConfig::default()
        };
        let config = serde_json::to_vec(&image)
            .map_err(|e| Error::Config(sampan_oci::config::ConfigError::Json(e)))?;
        self.add(&NewImage {
            config,
            blobs: Vec::new(),
            manifest: None,
            parent: None,
            names: options
                .name
                .clone()
                .map(Reference::or_latest)
                .into_iter()
                .collect(),
        })
    }
}

struct Counted<'a, R> {
    inner: R,
    read: &'a AtomicU64,
    reported: u64,
    progress: &'a ProgressSink,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let read = self.read.fetch_add(n as u64, Ordering::Relaxed) + n as u64;
        if read - self.reported >= REPORT {
            self.reported = read;
            self.progress.send(Progress::Importing { current: read });
        }
        Ok(n)
    }
}
