//! What an operation tells while it runs.

use sampan_oci::Descriptor;
use sampan_oci::digest::{Digest, ImageId};
use tokio::sync::mpsc;

/// One piece of news. The server renders it as Docker's JSON messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// `Pulling from <repository>`, with the tag or digest as the message's ID.
    PullingFrom {
        /// The repository without the default registry, as in `library/busybox`.
        repository: String,
        /// The tag or the digest.
        reference: String,
    },
    /// `The push refers to repository [<repository>]`.
    PushRefersTo {
        /// The repository with its registry, as in `docker.io/library/busybox`.
        repository: String,
    },
    /// `<tag>: digest: <digest> size: <size>`: a tag was pushed.
    Pushed {
        /// The tag.
        tag: String,
        /// The digest of the manifest or index.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// The name stands for several machines' images, and only this one's was pushed.
    OnlyManifest {
        /// The index that the name stood for.
        index: Box<Descriptor>,
        /// What was pushed in its place.
        manifest: Box<Descriptor>,
    },
    /// News of one layer.
    Layer {
        /// The first 12 hex digits of the blob's digest (pull) or of the diff ID (load, push).
        id: String,
        /// What happens to it.
        status: LayerStatus,
    },
    /// `Digest: <digest>`.
    Digest(Digest),
    /// `Status: Downloaded newer image for <image>`.
    Downloaded {
        /// The name as people write it.
        image: String,
    },
    /// `Status: Image is up to date for <image>`.
    UpToDate {
        /// The name as people write it.
        image: String,
    },
    /// `The image <name> already exists, renaming the old one with ID <id> to empty string`.
    Renamed {
        /// The name as people write it.
        name: String,
        /// The image that lost it.
        old: ImageId,
    },
    /// `Loaded image: <name>`.
    LoadedImage {
        /// The name as people write it.
        name: String,
    },
    /// `Loaded image ID: <id>`.
    LoadedImageId(ImageId),
    /// `Downloading from <url>`: an import begins.
    DownloadingFrom {
        /// Where from.
        url: String,
    },
    /// Bytes of an import that were taken so far.
    Importing {
        /// Bytes of the input.
        current: u64,
    },
}

/// What happens to a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerStatus {
    /// It is known that the layer is needed.
    PullingFsLayer,
    /// Its turn has not come.
    Waiting,
    /// It is on its way.
    Downloading {
        /// Bytes that came.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The connection broke; it is tried again after these seconds.
    Retrying {
        /// Seconds to wait.
        seconds: u64,
    },
    /// All bytes came.
    DownloadComplete,
    /// It is being unpacked.
    Extracting {
        /// Compressed bytes that were unpacked.
        current: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// It is stored.
    PullComplete,
    /// It was here before.
    AlreadyExists,
    /// It is known that the registry should have the layer.
    Preparing,
    /// It is being packed.
    Packing {
        /// Bytes that were packed.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It is on its way to the registry.
    Pushing {
        /// Bytes that were sent.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The registry has it now.
    Pushed,
    /// The registry had it before.
    LayerExists,
    /// The registry took it from another of its repositories.
    MountedFrom(String),
    /// It is being read from an archive.
    Loading {
        /// Bytes that were read.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
}

impl LayerStatus {
    /// Returns Docker's word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::PullingFsLayer => "Pulling fs layer",
            Self::Waiting => "Waiting",
            Self::Downloading { .. } => "Downloading",
            Self::Retrying { .. } => "Retrying",
            Self::DownloadComplete => "Download complete",
            Self::Extracting { .. } => "Extracting",
            Self::PullComplete => "Pull complete",
            Self::AlreadyExists => "Already exists",
            Self::Preparing | Self::Packing { .. } => "Preparing",
            Self::Pushing { .. } => "Pushing",
            Self::Pushed => "Pushed",
            Self::LayerExists => "Layer already exists",
            Self::MountedFrom(_) => "Mounted from",
            Self::Loading { .. } => "Loading layer",
        }
    }

    /// Returns bytes done and bytes in all, for a bar.
    pub fn amount(&self) -> Option<(u64, u64)> {
        match *self {
            Self::Downloading { current, total }
            | Self::Extracting { current, total }
            | Self::Packing { current, total }
            | Self::Pushing { current, total }
            | Self::Loading { current, total } => Some((current, total)),
            _ => None,
        }
    }
}

/// Where news goes. It is never waited for: who reports figures does so some times a second,
/// so that a listener that does not read costs little.
#[derive(Clone, Debug, Default)]
pub struct ProgressSink(Option<mpsc::UnboundedSender<Progress>>);

impl ProgressSink {
    /// Returns one that nobody listens to.
    pub fn none() -> Self {
        Self(None)
    }

    /// Returns one and its listener.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Progress>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// Tells a piece of news. Nobody need listen.
    pub fn send(&self, progress: Progress) {
        if let Some(sender) = &self.0 {
            // A listener that went away wants no news; the operation goes on or is dropped.
            let _ = sender.send(progress);
        }
    }

    pub(crate) fn layer(&self, id: &str, status: LayerStatus) {
        self.send(Progress::Layer {
            id: id.to_owned(),
            status,
        });
    }
}

impl From<mpsc::UnboundedSender<Progress>> for ProgressSink {
    fn from(sender: mpsc::UnboundedSender<Progress>) -> Self {
        Self(Some(sender))
    }
}
