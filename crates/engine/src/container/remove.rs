//! Removing a container.

use std::sync::Arc;

use sampan_state::Sync;

use super::lifecycle::{Change, Lifecycle};
use super::record::Record;
use super::registry::Container;
use super::request::{RemoveOptions, RemoveRunning, RemoveVolumes};
use super::service::Inner;
use crate::{Action, Error, Result, blocking};

impl Inner {
    /// Removes a container. The operation lock is held.
    pub(crate) async fn remove(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: RemoveOptions,
    ) -> Result<()> {
        let record = container.record();
        if record.lifecycle.is_running() {
            match options.running {
                RemoveRunning::Refuse => {
                    let state = match record.lifecycle {
                        Lifecycle::Paused(_) => "container is paused and must be unpaused first",
                        Lifecycle::Restarting(_) => {
                            "container is restarting: stop the container before removing or force remove"
                        }
                        _ => {
                            "container is running: stop the container before removing or force remove"
                        }
                    };
                    return Err(Error::conflict(format!(
                        "cannot remove container {:?}: {state}",
                        record.name.as_str()
                    )));
                }
                RemoveRunning::Kill => self.kill_and_wait(container).await?,
            }
        } else if let Some(ended) = container.watch_end() {
            // Still being cleaned up.
            let _ = tokio::time::timeout(crate::OPERATION_DEADLINE, ended).await;
        }
        if container.is_gone() {
            // Its end has removed it.
            return Ok(());
        }
        let (inner, gone) = (self.clone(), container.clone());
        blocking(move || {
            let torn = inner.tear_down(&gone);
            inner.discard(&gone, options.volumes).and(torn)
        })
        .await
    }

    /// Removes the volumes and the record of a container that has ended, then its files. Blocks for
    /// the records only; the files go on a thread of their own.
    pub(crate) fn discard(
        self: &Arc<Self>,
        container: &Arc<Container>,
        volumes: RemoveVolumes,
    ) -> Result<()> {
        let begin =
            |record: &Record| Some(record.with(record.lifecycle.after(Change::RemovalBegun)?));
        let anonymous: Vec<String> = match volumes {
            RemoveVolumes::Keep => Vec::new(),
            RemoveVolumes::Anonymous => {
                let record = container.record();
                let mounts = record.mounts.iter();
                mounts
                    .filter(|mount| mount.carry_out.anonymous && !mount.name.is_empty())
                    .map(|mount| mount.name.clone())
                    .collect()
            }
        };
        // Without its volumes it can only be removed: stored, so that the next engine does so. One
        // that is removed at its end is removed then anyway.
        let record = if anonymous.is_empty() || container.record().is_fleeting() {
            self.registry.show(container, begin)
        } else {
            // On a full disk, too, it is removed: that makes room.
            let stored = self.registry.update(container, Sync::Volatile, begin);
            stored.unwrap_or_else(|_| container.record())
        };
        // As long as the record is there the next engine knows of them.
        self.volumes.remove_unused(&anonymous);
        let sync = if record.is_fleeting() {
            Sync::Volatile
        } else {
            Sync::Durable
        };
        // Without its record it is gone, whatever is left of it: the next start of the engine
        // removes directories that have none.
        let removed = self.registry.store().remove(container.id.as_str(), sync);
        if let Err(error) = removed {
            self.registry.update(container, Sync::Volatile, |record| {
                Some(record.with(record.lifecycle.after(Change::RemovalFailed)?))
            })?;
            return Err(error.into());
        }
        let directory = self.paths.container(&container.id);
        let trash = self.paths.trash().join(container.id.as_str());
        let moved = std::fs::rename(&directory, &trash);
        self.tell(&record, Action::Destroy, []);
        self.images.store().note_use(&record.image_id);
        self.registry.forget(container);
        let path = if moved.is_ok() { trash } else { directory };
        self.tasks.spawn_blocking(move || {
            if let Err(error) = sampan_fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "could not remove the files of a container");
            }
        });
        Ok(())
    }
}
