//! The engine as a whole: opening, closing, and the services.

use std::sync::Arc;
use std::time::Duration;

use sampan_fs::DirLock;
use sampan_images::ImageStore;
use sampan_layers::LayerStore;
use sampan_network::NetworkNames;
use sampan_state::{Layout, Store};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::collector::keep_budget;
use crate::config::Config;
use crate::container::record::Paths;
use crate::container::registry::Registry;
use crate::container::service::Inner;
use crate::container::slots::{Slots, take_back};
use crate::filter::Filters;
use crate::host::Host;
use crate::rest::Rest;
use crate::shim::Executable;
use crate::system::About;
use crate::users::MountUsers;
use crate::{
    BuildService, ContainerService, Error, EventBus, ImageService, NetworkService, Result,
    SystemService, VolumeService, blocking,
};

/// How long the engine before this one may take to let go of the root.
const PREDECESSOR: Duration = Duration::from_secs(10);
/// How long [`Engine::close`] waits for what is under way.
const CLOSING: Duration = Duration::from_secs(5);

/// An open engine. Only one at a time can have a root directory open.
#[derive(Debug)]
pub struct Engine {
    containers: ContainerService,
    images: ImageService,
    volumes: VolumeService,
    networks: NetworkService,
    system: SystemService,
    events: EventBus,
    tasks: TaskTracker,
    collector: AbortHandle,
    inner: Arc<Inner>,
    /// Repairs the firewall.
    warden: tokio::task::JoinHandle<()>,
    _lock: DirLock,
}

impl Engine {
    /// Opens the engine: reads the records, finds the shims, takes away what the last engine left
    /// half done. Needs a tokio runtime. A damaged record does not stop it.
    pub async fn open(config: Config) -> Result<Self> {
        let (inner, system, lock) = blocking(move || prepare(config)).await?;
        let lost = inner.recover().await?;
        inner.remove_left_steps().await;
        let in_use = inner
            .images
            .uses()
            .into_iter()
            .flat_map(|user| user.layers)
            .collect();
        let store = inner.images.store().clone();
        let swept = blocking(move || Ok(store.sweep(&in_use)?)).await;
        if let Err(error) = swept {
            tracing::warn!(
                error = error.message(),
                "could not remove layers that nothing needs"
            );
        }
        inner.start_by_policies(lost);
        let keeper = Inner::keep_slots(Arc::downgrade(&inner));
        inner.tasks.spawn(keeper);
        let networks = inner.networks.clone();
        let warden = tokio::spawn(async move { networks.keep_firewall().await });
        let collector = inner.tasks.spawn(keep_budget(
            inner.images.collector.clone(),
            Arc::downgrade(&inner),
        ));
        Ok(Self {
            collector: collector.abort_handle(),
            containers: ContainerService::new(inner.clone()),
            images: inner.images.clone(),
            volumes: inner.volumes.clone(),
            networks: inner.networks.clone(),
            system,
            events: inner.events.clone(),
            tasks: inner.tasks.clone(),
            inner,
            warden,
            _lock: lock,
        })
    }

    /// Builds.
    pub fn builds(&self) -> BuildService {
        BuildService::new(self.inner.clone())
    }

    /// Containers.
    pub fn containers(&self) -> &ContainerService {
        &self.containers
    }

    /// Images.
    pub fn images(&self) -> &ImageService {
        &self.images
    }

    /// Volumes.
    pub fn volumes(&self) -> &VolumeService {
        &self.volumes
    }

    /// Networks.
    pub fn networks(&self) -> &NetworkService {
        &self.networks
    }

    /// The engine and its host.
    pub fn system(&self) -> &SystemService {
        &self.system
    }

    /// News.
    pub fn events(&self) -> &EventBus {
        &self.events
    }

    /// Waits for what is under way, for moments only. Containers go on, and so do the tasks that
    /// listen to them, until the process ends. When none runs, nothing of the engine stays on the
    /// host but its files.
    pub async fn close(&self) {
        // Before the table goes, which it would make anew.
        self.warden.abort();
        // What it does at this moment is done to its end, or swept up at the next start.
        self.collector.abort();
        self.inner.rest.end();
        take_back(self.inner.slots.end()).await;
        self.tasks.close();
        // Listeners of running containers never end by themselves.
        let _ =
            tokio::time::timeout(CLOSING.min(Duration::from_millis(200)), self.tasks.wait()).await;
        let inner = self.inner.clone();
        let left = blocking(move || {
            inner.images.store().layers().let_go();
            if let Err(error) = inner.images.store().save_last_use() {
                tracing::warn!(%error, "could not note when images were last used");
            }
            inner.end_session();
            inner.leave_host()
        })
        .await;
        if let Err(error) = left {
            tracing::warn!(
                error = error.message(),
                "could not remove the default network"
            );
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.warden.abort();
        self.collector.abort();
    }
}

impl Inner {
    /// Takes away what containers share, unless there is one that runs. Blocks.
    fn leave_host(&self) -> Result<()> {
        let records = self.registry.records();
        if records.iter().any(|record| record.lifecycle.is_running()) {
            return Ok(());
        }
        let instance = self.networks.names().instance();
        // A shim lives on for a moment after its container was removed.
        let deadline = std::time::Instant::now() + LEAVING;
        for path in [format!("{instance}/shims"), instance.to_string()] {
            let path = path.parse().map_err(|error: sampan_cgroups::Error| {
                Error::because("remove the control groups", &error)
            })?;
            while !sampan_cgroups::remove_parent(&self.host.hierarchies, &path) {
                if std::time::Instant::now() > deadline {
                    tracing::warn!(%path, "the control group is still in use and stays");
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.networks.remove()
    }
}

/// How long an engine that is closed waits for the last shims to end. The kernel writes a root's
/// changes to the disk before a shim is gone, which a busy disk makes long.
const LEAVING: Duration = Duration::from_secs(10);

/// Opens everything that a thread may wait for.
fn prepare(config: Config) -> Result<(Arc<Inner>, SystemService, DirLock)> {
    let Config {
        root,
        run,
        shim,
        version,
        stop_timeout,
        layers,
        collector,
        bundled,
        registries,
        proxies,
        runtimes,
        users,
        cdi,
        cgroup_driver,
        cgroup_parent,
        fail_points,
        warm_slots,
    } = config;
    cgroup_driver.check()?;
    crate::container::cgroup_parent::slice(cgroup_driver, &cgroup_parent)?;
    let paths = Paths::new(&root, &run);
    sampan_fs::create_dir_all(&root, 0o711)?;
    sampan_fs::create_dir_all(&run, 0o711)?;
    for directory in [paths.containers(), paths.trash(), paths.shims()] {
        sampan_fs::create_dir_all(&directory, 0o700)?;
    }
    let lock = lock(&root)?;
    let executable = Executable::load(&shim)?;
    let host = Host::look(&run)?;
    let layers = LayerStore::open(&root, layers)?;
    let mut options = sampan_images::Options::default();
    options.registry.settings = registries;
    options.registry.proxies = proxies;
    let images = ImageStore::open(&root, layers, options)?;
    let steps = sampan_build::Cache::open(&root, images.clone())
        .map_err(|error| Error::because("open the cache of builds", &error))?;
    let builds = sampan_build::History::open(&root)
        .map_err(|error| Error::because("open the history of builds", &error))?;
    let records = Store::open_as(paths.containers(), Layout::Directories)?;
    let events = EventBus::open(&paths.events())?;
    let registry = Registry::new(records);
    let volumes = VolumeService::open(&paths.volumes(), registry.clone(), events.clone())?;
    let names = NetworkNames::for_run_root(&run);
    let networks = NetworkService::open(names, run.clone(), registry.clone())?;
    let images = ImageService::new(images, bundled, collector, registry.clone(), events.clone());
    let system = SystemService::new(
        About {
            root,
            version,
            runtimes: runtimes.clone(),
            own_users: users.is_some(),
            cdi: cdi.clone(),
            cgroup_driver,
        },
        host.clone(),
        registry.clone(),
        images.clone(),
        events.clone(),
    )?;
    let inner = Arc::new(Inner {
        paths,
        registry,
        images,
        volumes,
        networks,
        events,
        executable,
        host,
        tasks: TaskTracker::new(),
        fail_points,
        stop_timeout,
        rest: Rest::default(),
        filters: Filters::default(),
        slots: Slots::new(warm_slots),
        steps,
        builds,
        runtimes,
        users,
        mount_users: MountUsers::default(),
        cdi,
        cgroup_driver,
        cgroup_parent,
    });
    Ok((inner, system, lock))
}

/// Takes the root for this engine; one that is just ending is waited for.
fn lock(root: &std::path::Path) -> Result<DirLock> {
    let deadline = std::time::Instant::now() + PREDECESSOR;
    loop {
        match DirLock::try_acquire(root, "engine.lock") {
            Err(sampan_fs::Error::Locked { path }) if std::time::Instant::now() >= deadline => {
                return Err(Error::conflict(format!(
                    "{} is locked by another engine",
                    path.display()
                ))
                .with_hint(
                    "engines that run at the same time need a root and a run directory each",
                ));
            }
            Err(sampan_fs::Error::Locked { .. }) => std::thread::sleep(Duration::from_millis(5)),
            other => return Ok(other?),
        }
    }
}
