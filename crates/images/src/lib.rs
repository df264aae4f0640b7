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
//! * [`Progress`]: what an operation tells while it runs.
//!
//! On disk:
//!
//! ```text
//! <root>/images/records/<image id>.json         configuration, layers, manifest
//! <root>/images/names/<hash of repository>.json tags and digests of one repository
//! <root>/content                                manifests and compressed layers: a cache
//! ```

pub mod changes;
mod error;
mod fetch;
mod image;
mod import;
mod load;
mod names;
mod progress;
mod pull;
mod remove;
mod store;
mod sweep;
mod unpack;

pub use error::{Error, ErrorKind};
pub use image::{HistoryEntry, Image, LayerRecord};
pub use import::ImportOptions;
pub use load::Loaded;
pub use progress::{LayerStatus, Progress, ProgressSink};
pub use pull::{PullOptions, Pulled};
pub use remove::{ContainerUse, RemoveOptions, Removed};
pub use sampan_registry_client::Credentials;
pub use store::{ImageStore, Limits, NewImage, Options};
pub use sweep::Swept;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
