//! Images.

use std::collections::BTreeMap;

use super::container::{ContainerConfig, GraphDriver, HealthConfig};
use crate::wire;
use crate::wire::{Empty, Words};

wire! {
    /// One line of `GET /images/json`.
    pub struct ImageSummary {
        /// Containers that use it, -1 when not counted.
        "Containers" containers: i64,
        /// Seconds since 1970.
        "Created" created: i64,
        /// Identity.
        "Id" id: String,
        /// Labels; null when there are none.
        "Labels" labels: Option<BTreeMap<String, String>>,
        /// Image that it was built on.
        "ParentId" parent_id: String,
        /// `name@digest`; never null.
        "RepoDigests" repo_digests: Vec<String>,
        /// `name:tag`; never null.
        "RepoTags" repo_tags: Vec<String>,
        /// Bytes shared with others, -1 when not counted.
        "SharedSize" shared_size: i64,
        /// Bytes.
        "Size" size: i64,
        /// Bytes once more. Absent from 1.44.
        omitempty "VirtualSize" virtual_size: Option<i64>,
    }

    /// Answer of `GET /images/{name}/json`.
    pub struct ImageInspect {
        /// Identity.
        "Id" id: String,
        /// `name:tag`; never null.
        "RepoTags" repo_tags: Vec<String>,
        /// `name@digest`; never null.
        "RepoDigests" repo_digests: Vec<String>,
        /// Image that it was built on.
        "Parent" parent: String,
        /// Comment.
        "Comment" comment: String,
        /// RFC 3339.
        omitempty "Created" created: String,
        /// Container that it was made from. Absent from 1.45.
        omitempty "Container" container: Option<String>,
        /// Configuration of that container. Absent from 1.45.
        omitempty "ContainerConfig" container_config: Option<Box<ContainerConfig>>,
        /// What made it.
        "DockerVersion" docker_version: String,
        /// Author.
        "Author" author: String,
        /// Configuration of containers.
        "Config" config: ImageConfig,
        /// Such as `amd64`.
        "Architecture" architecture: String,
        /// Such as `v8`.
        omitempty "Variant" variant: String,
        /// `linux`.
        "Os" os: String,
        /// Windows only.
        omitempty "OsVersion" os_version: String,
        /// Bytes.
        "Size" size: i64,
        /// Bytes once more. Absent from 1.44.
        omitempty "VirtualSize" virtual_size: Option<i64>,
        /// Storage.
        "GraphDriver" graph_driver: GraphDriver,
        /// Layers.
        "RootFS" root_fs: RootFs,
        /// What only this host knows.
        "Metadata" metadata: Metadata,
    }

    /// An image's configuration. Before 1.50 it had further fields that were always empty.
    pub struct ImageConfig {
        /// In the same object.
        flatten "LegacyImageConfig" legacy: LegacyImageConfig,
        /// `user[:group]`.
        "User" user: String,
        /// Ports.
        omitempty "ExposedPorts" exposed_ports: BTreeMap<String, Empty>,
        /// `NAME=value`.
        "Env" env: Option<Vec<String>>,
        /// Command.
        "Cmd" cmd: Option<Words>,
        /// Health check.
        omitempty "Healthcheck" healthcheck: Option<HealthConfig>,
        /// Windows only.
        omitempty "ArgsEscaped" args_escaped: bool,
        /// Paths that are volumes.
        "Volumes" volumes: Option<BTreeMap<String, Empty>>,
        /// Working directory.
        "WorkingDir" working_dir: String,
        /// Entry point.
        "Entrypoint" entrypoint: Option<Words>,
        /// Triggers.
        "OnBuild" on_build: Option<Vec<String>>,
        /// Labels.
        "Labels" labels: Option<BTreeMap<String, String>>,
        /// Signal that asks it to end.
        omitempty "StopSignal" stop_signal: String,
        /// Shell for the shell form of commands.
        omitempty "Shell" shell: Option<Words>,
    }

    /// Fields of an image's configuration before 1.50: all are some or none.
    pub struct LegacyImageConfig {
        /// Empty.
        omitempty "Hostname" hostname: Option<String>,
        /// Empty.
        omitempty "Domainname" domainname: Option<String>,
        /// False.
        omitempty "AttachStdin" attach_stdin: Option<bool>,
        /// False.
        omitempty "AttachStdout" attach_stdout: Option<bool>,
        /// False.
        omitempty "AttachStderr" attach_stderr: Option<bool>,
        /// False.
        omitempty "Tty" tty: Option<bool>,
        /// False.
        omitempty "OpenStdin" open_stdin: Option<bool>,
        /// False.
        omitempty "StdinOnce" stdin_once: Option<bool>,
        /// Empty.
        omitempty "Image" image: Option<String>,
    }

    /// Layers of an image.
    pub struct RootFs {
        /// `layers`.
        "Type" kind: String,
        /// Digests of the uncompressed layers, the lowest first.
        omitempty "Layers" layers: Vec<String>,
    }

    /// What only this host knows of an image.
    pub struct Metadata {
        /// RFC 3339.
        omitempty "LastTagTime" last_tag_time: String,
    }

    /// One step of an image's history, the newest first.
    pub struct HistoryItem {
        /// Comment.
        "Comment" comment: String,
        /// Seconds since 1970.
        "Created" created: i64,
        /// Instruction.
        "CreatedBy" created_by: String,
        /// Identity or `<missing>`.
        "Id" id: String,
        /// Bytes of its layer.
        "Size" size: i64,
        /// Names of the image; null when there are none.
        "Tags" tags: Option<Vec<String>>,
    }

    /// One line of the answer of `DELETE /images/{name}`.
    pub struct DeleteItem {
        /// Name that was taken away.
        omitempty "Untagged" untagged: String,
        /// Identity that was deleted.
        omitempty "Deleted" deleted: String,
    }

    /// One line of `GET /images/search`.
    pub struct SearchResult {
        /// How many people like it.
        "star_count" star_count: i64,
        /// Whether the registry vouches for it.
        "is_official" is_official: bool,
        /// Name.
        "name" name: String,
        /// Always false.
        "is_automated" is_automated: bool,
        /// What its owner says of it.
        "description" description: String,
    }

    /// Answer of `POST /commit`.
    pub struct CommitResponse {
        /// Identity of the image.
        "Id" id: String,
    }

    /// Answer of `POST /images/prune`.
    pub struct ImagePruneResponse {
        /// What was untagged and deleted.
        "ImagesDeleted" images_deleted: Option<Vec<DeleteItem>>,
        /// Bytes.
        "SpaceReclaimed" space_reclaimed: u64,
    }
}

impl LegacyImageConfig {
    /// The fields as they were before 1.50: there, and empty.
    #[must_use]
    pub fn present() -> Self {
        Self {
            hostname: Some(String::new()),
            domainname: Some(String::new()),
            attach_stdin: Some(false),
            attach_stdout: Some(false),
            attach_stderr: Some(false),
            tty: Some(false),
            open_stdin: Some(false),
            stdin_once: Some(false),
            image: Some(String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untagged_image_has_empty_lists() {
        assert_eq!(
            serde_json::to_string(&ImageSummary::default()).unwrap(),
            concat!(
                r#"{"Containers":0,"Created":0,"Id":"","Labels":null,"ParentId":"","#,
                r#""RepoDigests":[],"RepoTags":[],"SharedSize":0,"Size":0}"#
            )
        );
    }

    #[test]
    fn image_configuration_has_the_fields_of_its_version() {
        let new = serde_json::to_string(&ImageConfig::default()).unwrap();
        assert_eq!(
            new,
            concat!(
                r#"{"User":"","Env":null,"Cmd":null,"Volumes":null,"WorkingDir":"","#,
                r#""Entrypoint":null,"OnBuild":null,"Labels":null}"#
            )
        );
        let old = ImageConfig {
            legacy: LegacyImageConfig::present(),
            ..ImageConfig::default()
        };
        assert!(
            serde_json::to_string(&old)
                .unwrap()
                .starts_with(r#"{"Hostname":"","Domainname":"","AttachStdin":false"#)
        );
    }
}
