//! Making an image of a container.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use sampan_archive::{Tree, write_tree};
use sampan_images::{Commit, Image, changes};
use sampan_oci::Reference;
use sampan_oci::config::{Healthcheck, RunConfig};

use super::config::ContainerConfig;
use super::create::merge;
use super::lifecycle::Lifecycle;
use super::record::Record;
use super::registry::Container;
use super::service::Inner;
use crate::{Action, Error, EventKind, Result, blocking};

/// In a container's directory while it is frozen for a commit, so that an engine that finds it
/// thaws the container.
const FROZEN: &str = "frozen-for-commit";

/// How an image is made of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The image's name.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// Anything else.
    pub comment: String,
    /// Instructions on the configuration, as in `CMD ["sh"]`.
    pub changes: Vec<String>,
    /// A configuration that goes before the container's.
    pub config: Option<ContainerConfig>,
    /// Lets the container go on meanwhile.
    pub no_pause: bool,
}

impl Inner {
    /// Makes an image of a container. The operation lock is held.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: CommitOptions,
    ) -> Result<Arc<Image>> {
        let record = container.record();
        match record.lifecycle {
            Lifecycle::Removing { .. } | Lifecycle::Dead { .. } => {
                return Err(Error::conflict(format!(
                    "You cannot commit container {} which is being removed",
                    container.id
                )));
            }
            Lifecycle::Created { .. }
            | Lifecycle::Running(_)
            | Lifecycle::Paused(_)
            | Lifecycle::Restarting(_)
            | Lifecycle::Exited(_) => {}
        }
        // Before anything stands still.
        let config = image_config(&record, &options)?;
        let freezes = matches!(record.lifecycle, Lifecycle::Running(_)) && !options.no_pause;
        if freezes {
            self.freeze_for_commit(container).await?;
        }
        let (inner, source, name) = (self.clone(), record.clone(), options.name.clone());
        let comment = options.comment.clone();
        let made = blocking(move || inner.take_changes(&source, &options, config)).await;
        if freezes {
            self.thaw_after_commit(container).await;
        }
        let image = made?;
        let named = name.map(|name| name.or_latest().familiar());
        let more = [
            ("comment", comment),
            ("imageID", image.id.to_string()),
            ("imageRef", named.clone().unwrap_or_default()),
        ];
        self.tell(&record, Action::Commit, more);
        if let Some(name) = named {
            let mut attributes = image.config.config.labels.clone();
            attributes.insert("name".to_owned(), name);
            let id = image.id.to_string();
            self.events
                .publish(EventKind::Image, Action::Tag, id, attributes);
        }
        Ok(image)
    }

    fn take_changes(
        &self,
        record: &Record,
        options: &CommitOptions,
        config: RunConfig,
    ) -> Result<Arc<Image>> {
        let commit = Commit {
            container: record.id.to_string(),
            parent: record.image_id,
            layers: record.layers.clone(),
            config,
            created_by: record.config.cmd.as_deref().unwrap_or_default().join(" "),
            author: options.author.clone(),
            comment: options.comment.clone(),
            name: options.name.clone(),
        };
        let store = self.images.store();
        Ok(store.commit(&commit, |out| self.write_changes(record, None, out))?)
    }

    /// Writes what a container has changed as a layer; later times than `latest`, in seconds since
    /// 1970, become that one. Blocks.
    pub(crate) fn write_changes(
        &self,
        record: &Record,
        latest: Option<i64>,
        mut out: &mut dyn Write,
    ) -> io::Result<()> {
        // Places where something was mounted are no change of the container's.
        let without: Vec<Vec<u8>> = record
            .mounts
            .iter()
            .map(|mount| mount.destination.trim_matches('/').as_bytes().to_vec())
            .collect();
        let upper = self.paths.container(&record.id).join("upper");
        let upper = sampan_fs::open_dir(&upper).map_err(io::Error::other)?;
        let mut merged = None;
        let mut open_merged = |path: &[u8]| {
            if merged.is_none() {
                let opened = self.merged(record);
                merged = Some(opened.map_err(|e| io::Error::other(e.message().to_owned()))?);
            }
            match &merged {
                Some(merged) => merged.directory(path),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        };
        let tree = Tree::Upper {
            without: &without,
            latest,
            merged: &mut open_merged,
        };
        write_tree(upper.as_fd(), tree, &mut out)
    }

    fn frozen(&self, container: &Container) -> PathBuf {
        self.paths.container(&container.id).join(FROZEN)
    }

    async fn freeze_for_commit(&self, container: &Arc<Container>) -> Result<()> {
        let mark = self.frozen(container);
        blocking(move || {
            sampan_fs::write_file(&mark, b"", sampan_state::Sync::Volatile)
                .map_err(|error| Error::because("note that the container is frozen", &error))
        })
        .await?;
        let paused = self.pause(container).await;
        if paused.is_err() {
            let _ = std::fs::remove_file(self.frozen(container));
        }
        paused
    }

    async fn thaw_after_commit(&self, container: &Arc<Container>) {
        let mark = self.frozen(container);
        // It may have been killed meanwhile.
        let frozen = matches!(container.record().lifecycle, Lifecycle::Paused(_));
        if frozen && let Err(error) = self.unpause(container).await {
            tracing::error!(container = %container.id, error = error.message(), "cannot thaw a container after a commit");
            return;
        }
        let _ = std::fs::remove_file(mark);
    }

    /// Thaws a container that an engine froze for a commit which it did not live to end.
    pub(crate) async fn thaw_left(&self, container: &Arc<Container>) {
        if self.frozen(container).exists() {
            self.thaw_after_commit(container).await;
        }
    }
}

/// Decides how the image is run.
fn image_config(record: &Record, options: &CommitOptions) -> Result<RunConfig> {
    let own = run_config(&record.config);
    let Some(wanted) = &options.config else {
        return Ok(changes::apply(&own, &options.changes)?);
    };
    let changed = changes::apply(&run_config(wanted), &options.changes)?;
    let mut merged = container_config(&changed);
    merge(&mut merged, &own);
    let mut merged = run_config(&merged);
    merged.on_build = changed.on_build;
    Ok(merged)
}

fn run_config(config: &ContainerConfig) -> RunConfig {
    RunConfig {
        user: config.user.clone(),
        exposed_ports: config
            .exposed_ports
            .iter()
            .map(ToString::to_string)
            .collect(),
        // What only takes a variable of the image's away is no variable.
        env: config
            .env
            .iter()
            .filter(|variable| variable.contains('='))
            .cloned()
            .collect(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: config.volumes.clone(),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout,
        healthcheck: config.healthcheck.as_ref().map(|check| Healthcheck {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }),
        shell: config.shell.clone().unwrap_or_default(),
        on_build: config.on_build.clone(),
        image: config.image.clone(),
        ..RunConfig::default()
    }
}

/// The way back, for what a configuration and an image's have in common.
fn container_config(config: &RunConfig) -> ContainerConfig {
    let mut whole = ContainerConfig {
        image: config.image.clone(),
        ..ContainerConfig::default()
    };
    merge(&mut whole, config);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::test_record::record;

    fn made(config: Option<ContainerConfig>, changes: &[&str]) -> RunConfig {
        let mut record = record(Lifecycle::Created { failure: None });
        record.config = Arc::new(ContainerConfig {
            env: vec!["A=1".into(), "GONE".into()],
            cmd: Some(vec!["sleep".into(), "9".into()]),
            entrypoint: Some(vec!["/entry".into()]),
            working_dir: "/w".into(),
            ..ContainerConfig::default()
        });
        let options = CommitOptions {
            config,
            changes: changes.iter().map(|c| (*c).to_owned()).collect(),
            ..CommitOptions::default()
        };
        image_config(&record, &options).unwrap()
    }

    #[test]
    fn an_image_is_run_as_its_container_was() {
        let config = made(None, &[]);
        assert_eq!(config.env, ["A=1"]);
        assert_eq!(config.cmd.unwrap(), ["sleep", "9"]);
        assert_eq!(config.entrypoint.unwrap(), ["/entry"]);
        assert_eq!(config.working_dir, "/w");
    }

    #[test]
    fn changes_go_before_the_containers_configuration() {
        let config = made(None, &["ENV B=$A", "CMD [\"x\"]", "LABEL l=1"]);
        assert_eq!(config.env, ["A=1", "B=1"]);
        assert_eq!(config.cmd.unwrap(), ["x"]);
        assert_eq!(config.labels["l"], "1");
        // A new entry point has nothing to do with the old one's arguments.
        let config = made(None, &["ENTRYPOINT [\"/other\"]"]);
        assert_eq!(config.cmd, None);
    }

    #[test]
    fn a_request_may_bring_a_configuration_of_its_own() {
        let own = ContainerConfig {
            cmd: Some(vec!["mine".into()]),
            env: vec!["A=2".into()],
            ..ContainerConfig::default()
        };
        let config = made(Some(own), &["WORKDIR /x"]);
        assert_eq!(config.cmd.unwrap(), ["mine"]);
        assert_eq!(config.env, ["A=2"]);
        assert_eq!(config.working_dir, "/x");
        assert_eq!(config.entrypoint.unwrap(), ["/entry"]);
    }
}
