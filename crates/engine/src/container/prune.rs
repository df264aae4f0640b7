//! Removing the containers that do not run.

use super::id::ContainerId;
use super::request::{RemoveOptions, RemoveRunning, RemoveVolumes};
use super::service::{ContainerService, disk_use};
use crate::prune::{self, PruneFilter, Pruned};
use crate::{ErrorKind, EventKind, Result, blocking};

impl ContainerService {
    /// Removes every container that has no process and that the filter fits. Volumes stay. One
    /// that cannot be removed just now is left.
    pub async fn prune(&self, filter: PruneFilter) -> Result<Pruned<ContainerId>> {
        let inner = self.inner();
        let mut pruned = Pruned {
            removed: Vec::new(),
            reclaimed: 0,
        };
        let mut records = inner.registry.records();
        records.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        for record in records {
            if record.lifecycle.is_running() || !filter.fits(record.created, &record.config.labels)
            {
                continue;
            }
            let upper = inner.paths.container(&record.id).join("upper");
            let taken = blocking(move || Ok(disk_use(&upper))).await?;
            let options = RemoveOptions {
                // It may have been started since.
                running: RemoveRunning::Refuse,
                volumes: RemoveVolumes::Keep,
            };
            match self.remove(record.id.as_str(), options).await {
                Ok(()) => {
                    pruned.removed.push(record.id.clone());
                    pruned.reclaimed += taken;
                }
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                }
                Err(error) => {
                    tracing::warn!(container = %record.id, error = error.message(), "could not prune a container");
                }
            }
        }
        prune::tell(&inner.events, EventKind::Container, pruned.reclaimed);
        Ok(pruned)
    }
}
