//! Images: pulled, loaded, imported, named, listed and removed.
//!
//! Joins the stores below it: layers by diff ID, blobs by digest, records of images and names.
//! Knows nothing of containers (the caller says which images they use), of Docker's wire
//! formats, and never prints.
//!
//! * [`ImageStore`]: everything starts here. Queries read a snapshot and never wait for an
//!   operation; commands write records last, so that a kill leaves at most layers and blobs
//!   that no image needs, which [`ImageStore::sweep`] removes.
//! * [`Image`]: an image as it was when it was asked for.
//! * [`changes`]: the instructions of `import --change` and `commit --change`.
//! * [`HeldLayer`]: a layer of no image yet, such as a step of a build; [`NewLayer`]: one in the
//!   making.
//! * [`RemoteArtifact`]: what a registry has that is no image, such as a cache of builds.
//! * [`Progress`]: what an operation tells while it runs.
//! * [`Space`]: what everything takes, and what keeps it; [`Policy`] and [`Collection`]: what the
//!   collector may remove, and what it did.
//! * [`ImageTree`], [`ImageDiff`], [`Proof`]: what images are made of, read from the layers' tars.
//!
//! On disk:
//!
//! ```text
//! <root>/images/records/<image id>.json         configuration, layers, manifest
//! <root>/images/names/<hash of repository>.json tags and digests of one repository
//! <root>/images/use/last.json                   when each image was last used, about
//! <root>/content                                manifests and compressed layers: a cache
//! ```

mod artifact;
pub mod changes;
mod collect;
mod commit;
mod contents;
mod diff;
mod error;
mod fetch;
mod image;
mod import;
mod last_use;
mod layer_push;
mod load;
mod names;
mod progress;
mod pull;
mod push;
mod remote;
mod remove;
mod save;
mod space;
mod store;
mod sweep;
mod take;
mod tree;
mod unpack;
mod verify;

pub use artifact::{
    Artifact, ArtifactDocument, MAX_DOCUMENT, PackedLayer, Packing, RemoteArtifact,
};
pub use collect::{Budget, Collection, Item, Kept, Mark, Policy, Subject, Why};
pub use commit::Commit;
pub use diff::{Change, Changed, ImageDiff};
pub use error::{Error, ErrorKind};
pub use image::{HistoryEntry, Image, LayerRecord};
pub use import::ImportOptions;
pub use last_use::Hold;
pub use load::Loaded;
pub use progress::{LayerStatus, Progress, ProgressSink};
pub use pull::{PullOptions, Pulled};
pub use push::PushOptions;
pub use remote::{RemoteImage, UrlHead, UrlReader};
pub use remove::{ContainerUse, RemoveOptions, Removed};
pub use sampan_registry_client::{Credentials, Found, Proxies, settings};
pub use save::Saved;
pub use space::{BlobSpace, ImageSpace, Keeper, LayerSpace, Space};
pub use store::{Freed, ImageStore, Limits, NewImage, Options};
pub use sweep::Swept;
pub use take::{HeldLayer, NewLayer};
pub use tree::{ImageTree, LayerFile, LayerTree};
pub use verify::{Damage, Proof};

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
