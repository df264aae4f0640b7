//! What this engine answers beyond Docker's API: below `/sampan`, and in the field `Sampan` of
//! `GET /system/df` when `sampan=1` asks for it.

use crate::wire;

wire! {
    /// What is on disk, and why.
    pub struct DiskReport {
        /// Bytes on disk, by what they are for. They add up to what `du` says of the root directory.
        "Disk" disk: DiskParts,
        /// Sum of the files in layers that only unused images have.
        "LayersReclaimable" layers_reclaimable: i64,
        /// Bytes of packed layers that a registry is known to have.
        "BlobsReclaimable" blobs_reclaimable: i64,
        /// Packed layers and manifests.
        "Blobs" blobs: Vec<Blob>,
        /// What keeps each image, container, volume, and each layer that no image has.
        "Kept" kept: Vec<KeptBy>,
    }

    /// Bytes on disk.
    pub struct DiskParts {
        /// Layers with their indexes.
        "Layers" layers: u64,
        /// Packed layers and manifests.
        "Blobs" blobs: u64,
        /// Containers.
        "Containers" containers: u64,
        /// Volumes.
        "Volumes" volumes: u64,
        /// Everything else.
        "Other" other: u64,
        /// All of it.
        "Total" total: u64,
    }

    /// A directory that commands of builds keep.
    pub struct CacheMount {
        /// Names it.
        "Key" key: String,
        /// As a Dockerfile names it.
        "Id" id: String,
        /// RFC 3339.
        "Created" created: String,
        /// RFC 3339.
        "LastUsed" last_used: String,
        /// Steps that used it.
        "Uses" uses: u64,
        /// Bytes on disk.
        "Size" size: u64,
        /// A step uses it this moment.
        "InUse" in_use: bool,
    }

    /// A blob of the cache.
    pub struct Blob {
        /// Digest.
        "Digest" digest: String,
        /// `layer` or `manifest`.
        "Kind" kind: String,
        /// Bytes on disk.
        "Size" size: i64,
        /// Names or identities of the images that came by it.
        "Images" images: Vec<String>,
        /// It can be fetched again.
        "Reclaimable" reclaimable: bool,
    }

    /// What keeps something.
    pub struct KeptBy {
        /// `image`, `container`, `volume` or `layer`.
        "Type" kind: String,
        /// Identity, name or digest.
        "Id" id: String,
        /// What keeps it, for a person; nothing keeps what a prune removes.
        "By" by: Vec<String>,
    }

    /// Answer of `POST /sampan/images/gc`.
    pub struct Collection {
        /// Only said, not done.
        "DryRun" dry_run: bool,
        /// The level above which the collector begins by itself; absent when it does not.
        omitempty "High" high: String,
        /// The level down to which it goes.
        omitempty "Low" low: String,
        /// Bytes that are too many.
        "Wanted" wanted: u64,
        /// Bytes on disk that come back.
        "Freed" freed: u64,
        /// What goes, in this order.
        "Removed" removed: Vec<Collected>,
        /// What stays.
        "Kept" kept: Vec<Collected>,
    }

    /// Something that the collector looked at.
    pub struct Collected {
        /// `blob` or `image`.
        "Type" kind: String,
        /// Digest or identity.
        "Id" id: String,
        /// Names of the image, or of the images that came by the blob.
        "Names" names: Vec<String>,
        /// Bytes on disk that go with it.
        "Size" size: i64,
        /// RFC 3339.
        "LastUsed" last_used: String,
        /// Why it stays.
        omitempty "Why" why: String,
    }

    /// Answer of `GET /sampan/images/tree`.
    pub struct ImageTree {
        /// Identity.
        "Id" id: String,
        /// Names.
        "RepoTags" repo_tags: Vec<String>,
        /// Sum of the layers' sizes.
        "Size" size: i64,
        /// Bottom first.
        "Layers" layers: Vec<LayerTree>,
    }

    /// A layer of an image.
    pub struct LayerTree {
        /// Digest of the uncompressed tar.
        "DiffId" diff_id: String,
        /// Instruction.
        "CreatedBy" created_by: String,
        /// Sum of the lengths of its files.
        "Size" size: i64,
        /// Bytes on disk.
        "DiskSize" disk_size: i64,
        /// Names or identities of other images that have it.
        "SharedWith" shared_with: Vec<String>,
        /// What it does to the layers below.
        "Files" files: Vec<LayerFile>,
    }

    /// A path in a layer.
    pub struct LayerFile {
        /// From the root.
        "Path" path: String,
        /// As `ls -l` writes it; empty for what is removed.
        "Kind" kind: String,
        /// Length of a regular file.
        "Size" size: i64,
        /// `A`, `C` or `D`.
        "Change" change: String,
    }

    /// Answer of `GET /sampan/images/diff`.
    pub struct ImageDiff {
        /// Identity of the first image.
        "Old" old: String,
        /// Identity of the second image.
        "New" new: String,
        /// What differs, by path.
        "Changes" changes: Vec<Changed>,
    }

    /// A path that differs.
    pub struct Changed {
        /// From the root.
        "Path" path: String,
        /// `added`, `deleted`, `content` or `metadata`.
        "Change" change: String,
        /// As `ls -l` writes it.
        "Kind" kind: String,
        /// Length in the first image.
        "OldSize" old_size: i64,
        /// Length in the second image.
        "NewSize" new_size: i64,
    }

    /// Answer of `GET /sampan/images/verify`.
    pub struct Verification {
        /// Each image.
        "Images" images: Vec<ImageProof>,
        /// What was set aside as damaged before, where all images were asked for.
        "SetAside" set_aside: Vec<Damage>,
    }

    /// What was looked at for an image.
    pub struct ImageProof {
        /// Identity.
        "Id" id: String,
        /// Names.
        "RepoTags" repo_tags: Vec<String>,
        /// Layers that were read.
        "Layers" layers: i64,
        /// Blobs that were read.
        "Blobs" blobs: i64,
        /// What does not fit.
        "Damages" damages: Vec<Damage>,
    }

    /// Something that is not what it should be.
    pub struct Damage {
        /// Such as `layer sha256:...`.
        "What" what: String,
        /// What is wrong with it.
        "Why" why: String,
    }
}
