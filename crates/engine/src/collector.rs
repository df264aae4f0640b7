//! Keeps images within their budget of disk space, in the background.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sampan_images::{Budget, Collection, Mark, Policy};
use tokio::sync::Notify;

use crate::container::service::Inner;
use crate::{BuildService, ImageService, Result, blocking};

/// How often the budget is looked at when nothing happens.
const PERIOD: Duration = Duration::from_secs(600);
/// How long after an image came: several often come together.
const SOON: Duration = Duration::from_secs(2);

/// When images are removed by themselves, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectorConfig {
    /// Never, where there is none.
    pub budget: Option<Budget>,
    /// What may go.
    pub policy: Policy,
    /// What is kept for builds may take so much, or so much of its file system; no limit where
    /// there is none.
    pub cache: Option<Mark>,
}

impl Default for CollectorConfig {
    /// A file system that is nearly full loses packed layers that a registry has, and nameless
    /// images that nobody has used for a day.
    fn default() -> Self {
        Self {
            budget: Some(Budget {
                high: Mark::Percent(90),
                low: Mark::Percent(80),
            }),
            policy: Policy::default(),
            cache: Some(Mark::Percent(75)),
        }
    }
}

/// A collection that somebody asks for. What is absent is as configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollectRequest {
    /// Only say what would go.
    pub dry_run: bool,
    /// How far, whatever the budget says.
    pub to: Option<Mark>,
    /// Whether named images may go.
    pub tagged: Option<bool>,
    /// How long images stay after their last use.
    pub min_age: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Collector {
    config: CollectorConfig,
    wanted: Notify,
}

impl Collector {
    pub(crate) fn new(config: CollectorConfig) -> Self {
        Self {
            config,
            wanted: Notify::new(),
        }
    }

    /// Says that there may be more now than there was. Never waits.
    pub(crate) fn nudge(&self) {
        self.wanted.notify_one();
    }
}

impl ImageService {
    /// Returns when images are removed by themselves.
    pub fn collector_config(&self) -> CollectorConfig {
        self.collector.config
    }

    /// Removes what is too much, or says what would go.
    pub async fn collect(&self, request: CollectRequest) -> Result<Collection> {
        let service = self.clone();
        let collection = blocking(move || service.collect_now(request)).await?;
        if !collection.removed.is_empty() && !request.dry_run {
            self.tell_removed(&collection.steps);
            self.tell_pruned(collection.freed);
        }
        Ok(collection)
    }

    fn collect_now(&self, request: CollectRequest) -> Result<Collection> {
        let (store, config) = (self.store(), self.collector.config);
        let wanted = match (request.to, config.budget) {
            (Some(mark), _) => store.over(mark)?,
            (None, Some(budget)) => store.over_budget(&budget)?,
            (None, None) => 0,
        };
        let policy = Policy {
            tagged: request.tagged.unwrap_or(config.policy.tagged),
            min_age: request.min_age.unwrap_or(config.policy.min_age),
        };
        let uses = || self.uses();
        Ok(if request.dry_run {
            store.plan_collection(wanted, &policy, uses)?
        } else {
            store.collect(wanted, &policy, uses)?
        })
    }

    /// Removes what is too much for the budget, if there is one, and notes when images were used.
    async fn keep_budget_once(&self) {
        let store = self.store().clone();
        let saved = blocking(move || Ok(store.save_last_use()?)).await;
        if let Err(error) = saved {
            tracing::warn!(
                error = error.message(),
                "could not note when images were last used"
            );
        }
        if self.collector.config.budget.is_none() {
            return;
        }
        match self.collect(CollectRequest::default()).await {
            Ok(done) if done.wanted == 0 => {}
            Ok(done) => tracing::info!(
                wanted = done.wanted,
                freed = done.freed,
                removed = done.removed.len(),
                "images took more than their budget"
            ),
            Err(error) => {
                tracing::warn!(error = error.message(), "could not collect images");
            }
        }
    }
}

/// Looks at the budget now and then, and soon after images came, as long as the engine is there.
/// Between two looks it holds nothing of the engine, whose store another may open then.
pub(crate) async fn keep_budget(collector: Arc<Collector>, engine: Weak<Inner>) {
    loop {
        tokio::select! {
            () = collector.wanted.notified() => tokio::time::sleep(SOON).await,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let Some(inner) = engine.upgrade() else {
            return;
        };
        // What can be made again goes before images.
        if let Err(error) = BuildService::new(inner.clone()).keep_budget_once().await {
            tracing::warn!(
                error = error.message(),
                "could not keep the cache of builds within its budget"
            );
        }
        let images = inner.images.clone();
        drop(inner);
        images.keep_budget_once().await;
    }
}
