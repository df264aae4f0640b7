//! The container service: everything that can be done to containers.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sampan_images::Image;
use sampan_logs::Format;
use sampan_shim_protocol::Request;
use sampan_state::Sync;
use tokio_util::task::TaskTracker;

use super::archive::{ExtractOptions, FileArchive, PathStat};
use super::attach::Attachment;
use super::changes::ChangedPath;
use super::commit::CommitOptions;
use super::exec::ExecStarter;
use super::files::Export;
use super::filter::Surroundings;
use super::id::{ContainerName, ExecId};
use super::lifecycle::Lifecycle;
use super::mount::MountPoint;
use super::record::{Paths, Record};
use super::registry::{Container, Registry};
use super::request::{
    AttachOptions, CreateContainer, Created, ExecConfig, ExecStartOptions, ListOptions, LogOptions,
    Logs, RemoveOptions, StopOptions, TerminalSize, Wait, WaitCondition,
};
use super::security::SecurityOptions;
use super::slots::Slots;
use super::top::Processes;
use super::update::{ResourceChanges, Updated};
use super::usage::Usage;
use super::view::{ContainerSizes, ContainerView, ExecState, ExecView};
use crate::fail_point::FailPoints;
use crate::filter::Filters;
use crate::host::Host;
use crate::rest::Rest;
use crate::shim::Executable;
use crate::users::{IdMaps, MountUsers};
use crate::{
    Action, Cdi, CgroupDriver, Error, EventBus, ImageService, NetworkService, Result, Runtimes,
    VolumeService, blocking,
};

/// Everything that can be done to containers. A cheap clone.
///
/// A `container` argument is a full identity, a name (with or without a leading slash) or a
/// prefix of an identity that only one container has. Queries never wait for operations;
/// operations on one container wait for each other, with a deadline. An operation that has begun
/// is finished even when its future is dropped.
#[derive(Debug, Clone)]
pub struct ContainerService {
    inner: Arc<Inner>,
}

/// The collaborators of the service.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) paths: Paths,
    pub(crate) registry: Registry,
    pub(crate) images: ImageService,
    pub(crate) volumes: VolumeService,
    pub(crate) networks: NetworkService,
    pub(crate) events: EventBus,
    pub(crate) executable: Executable,
    pub(crate) host: Host,
    pub(crate) tasks: TaskTracker,
    pub(crate) fail_points: FailPoints,
    pub(crate) stop_timeout: Duration,
    pub(crate) rest: Rest,
    pub(crate) filters: Filters,
    pub(crate) slots: Slots,
    pub(crate) steps: sampan_build::Cache,
    pub(crate) builds: sampan_build::History,
    pub(crate) runtimes: Runtimes,
    /// Users of containers that ask for none.
    pub(crate) users: Option<IdMaps>,
    pub(crate) mount_users: MountUsers,
    pub(crate) cdi: Cdi,
    pub(crate) cgroup_driver: CgroupDriver,
    /// Of containers that name none; empty for the engine's own.
    pub(crate) cgroup_parent: String,
}

impl ContainerService {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Carries an operation out under the container's lock, to its end.
    async fn operate<T, F>(
        &self,
        container: &str,
        operation: impl FnOnce(Arc<Inner>, Arc<Container>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let found = self.inner.registry.find(container)?;
        let guard = found.operate().await?;
        let work = operation(self.inner.clone(), found);
        let task = self.inner.tasks.spawn(async move {
            let done = work.await;
            drop(guard);
            done
        });
        task.await
            .map_err(|error| Error::because("an operation broke off", &error))?
    }

    /// Makes a container. Its record is on disk when this returns.
    pub async fn create(&self, request: CreateContainer) -> Result<Created> {
        let inner = self.inner.clone();
        let _busy = inner.slots.busy();
        let creating = inner.clone();
        blocking(move || creating.create(request)).await
    }

    /// Returns how many starts are prepared at this moment.
    pub fn prepared_starts(&self) -> usize {
        self.inner.slots.ready()
    }

    /// Starts a container. Not modified when it runs.
    pub async fn start(&self, container: &str) -> Result<()> {
        self.operate(container, |inner, container| async move {
            inner.start(&container).await
        })
        .await
    }

    /// Asks a container to end and kills it when it does not. Not modified when it does not run.
    pub async fn stop(&self, container: &str, options: StopOptions) -> Result<()> {
        self.operate(container, |inner, container| async move {
            inner.stop(&container, &options).await
        })
        .await
    }

    /// Stops a container if it runs, and starts it.
    pub async fn restart(&self, container: &str, options: StopOptions) -> Result<()> {
        self.operate(container, |inner, container| async move {
            inner.restart(&container, &options).await
        })
        .await
    }

    /// Sends a signal, by name (with or without `SIG`) or number; absent is SIGKILL. Does not wait
    /// for operations: it may be what ends one.
    pub async fn kill(&self, container: &str, signal: Option<&str>) -> Result<()> {
        let found = self.inner.registry.find(container)?;
        self.inner.kill(&found, signal).await
    }

    /// Freezes a container's processes.
    pub async fn pause(&self, container: &str) -> Result<()> {
        self.operate(container, |inner, container| async move {
            inner.pause(&container).await
        })
        .await
    }

    /// Thaws a container's processes.
    pub async fn unpause(&self, container: &str) -> Result<()> {
        self.operate(container, |inner, container| async move {
            inner.unpause(&container).await
        })
        .await
    }

    /// Registers a wait.
    pub async fn wait(&self, container: &str, condition: WaitCondition) -> Result<Wait> {
        Ok(self.inner.registry.find(container)?.wait(condition))
    }

    /// Gives a container another name.
    pub async fn rename(&self, container: &str, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let new: ContainerName = name.parse()?;
        self.operate(container, |inner, container| async move {
            let old = container.record().name.clone();
            if old == new {
                return Err(Error::invalid(
                    "Renaming a container with the same name as its current name",
                ));
            }
            inner.registry.reserve(&new, &container.id)?;
            let chosen = new.clone();
            let renamed = inner
                .registry
                .update_async(&container, Sync::Durable, move |record| {
                    Some(Record {
                        name: chosen,
                        ..record.clone()
                    })
                })
                .await;
            match renamed {
                Ok(record) => {
                    inner.registry.release(&old, &container.id);
                    inner.tell(&record, Action::Rename, [("oldName", format!("/{old}"))]);
                    Ok(())
                }
                Err(error) => {
                    inner.registry.release(&new, &container.id);
                    Err(error)
                }
            }
        })
        .await
    }

    /// Removes a container.
    pub async fn remove(&self, container: &str, options: RemoveOptions) -> Result<()> {
        self.operate(container, |inner, container| async move {
            inner.remove(&container, options).await
        })
        .await
    }

    /// Makes an image of a container's changes.
    pub async fn commit(&self, container: &str, options: CommitOptions) -> Result<Arc<Image>> {
        self.operate(container, |inner, container| async move {
            inner.commit(&container, options).await
        })
        .await
    }

    /// Opens a container's files, whether it runs or not, to be written out as a tar.
    pub async fn export(&self, container: &str) -> Result<Export> {
        let (inner, found) = (self.inner.clone(), self.inner.registry.find(container)?);
        blocking(move || inner.export(&found)).await
    }

    /// Looks at a path in a container, whether it runs or not. A link as last part is not
    /// followed, unless a slash follows it.
    pub async fn stat_path(&self, container: &str, path: &str) -> Result<PathStat> {
        let found = self.inner.registry.find(container)?;
        self.inner.stat_path(&found, container, path).await
    }

    /// Opens a path in a container to be written out as a tar. A container that does not run
    /// cannot be started until that is done.
    pub async fn archive_path(&self, container: &str, path: &str) -> Result<FileArchive> {
        let found = self.inner.registry.find(container)?;
        self.inner.archive_path(&found, container, path).await
    }

    /// Extracts a tar, packed or not, into a directory of a container. What was extracted before
    /// a failure stays.
    pub async fn extract(
        &self,
        container: &str,
        path: &str,
        options: ExtractOptions,
        tar: impl std::io::Read + Send + 'static,
    ) -> Result<()> {
        let found = self.inner.registry.find(container)?;
        self.inner
            .extract(&found, container, path, options, tar)
            .await
    }

    /// Lists the processes of a running container in the columns that `ps` has with these
    /// arguments; none are `-ef`.
    pub async fn top(&self, container: &str, arguments: &str) -> Result<Processes> {
        let (inner, found) = (self.inner.clone(), self.inner.registry.find(container)?);
        let arguments = arguments.to_owned();
        blocking(move || inner.top(&found, &arguments)).await
    }

    /// Reads what a container uses at this moment.
    pub async fn usage(&self, container: &str) -> Result<Usage> {
        let (inner, found) = (self.inner.clone(), self.inner.registry.find(container)?);
        blocking(move || Ok(inner.usage(&found))).await
    }

    /// Compares a container's files with its image's, in the order of their paths.
    pub async fn changes(&self, container: &str) -> Result<Vec<ChangedPath>> {
        let (inner, found) = (self.inner.clone(), self.inner.registry.find(container)?);
        blocking(move || inner.changes(&found)).await
    }

    /// Changes the limits of a container.
    pub async fn update(&self, container: &str, changes: ResourceChanges) -> Result<Updated> {
        self.operate(container, |inner, container| async move {
            inner.update(&container, changes).await
        })
        .await
    }

    /// Checks an attach.
    pub async fn attach(&self, container: &str, options: AttachOptions) -> Result<Attachment> {
        let found = self.inner.registry.find(container)?;
        self.inner.check_attach(found, &options)
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, container: &str, size: TerminalSize) -> Result<()> {
        let found = self.inner.registry.find(container)?;
        let request = Request::Resize {
            height: size.height,
            width: size.width,
            exec: None,
        };
        self.inner
            .shim_of(&found)?
            .tell(request, Vec::new())
            .await?;
        let more = [
            ("height", size.height.to_string()),
            ("width", size.width.to_string()),
        ];
        self.inner.tell(&found.record(), Action::Resize, more);
        Ok(())
    }

    /// Opens a container's log.
    pub async fn logs(&self, container: &str, options: LogOptions) -> Result<Logs> {
        let found = self.inner.registry.find(container)?;
        self.inner.logs(found, options).await
    }

    /// Makes an exec.
    pub async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<ExecId> {
        let found = self.inner.registry.find(container)?;
        self.inner.exec_create(&found, config)
    }

    /// Checks the start of an exec (an identity or a prefix of one).
    pub async fn exec_start(&self, exec: &str, options: ExecStartOptions) -> Result<ExecStarter> {
        let found = self.inner.find_exec(exec)?;
        self.inner.exec_prepare(found, options)
    }

    /// Sets the size of an exec's terminal; waits for the exec to start, up to 10 s.
    pub async fn exec_resize(&self, exec: &str, size: TerminalSize) -> Result<()> {
        self.inner.exec_resize(exec, size).await
    }

    /// Returns an exec.
    pub async fn exec_inspect(&self, exec: &str) -> Result<ExecView> {
        self.inner.exec_inspect(exec).await
    }

    /// Returns a container.
    pub async fn inspect(&self, container: &str) -> Result<ContainerView> {
        Ok(self.inner.view(&*self.inner.registry.find(container)?))
    }

    /// Returns a container with its sizes, which takes long.
    pub async fn inspect_with_sizes(&self, container: &str) -> Result<ContainerView> {
        let view = self.inspect(container).await?;
        self.inner.measure(vec![view]).await?.pop().ok_or_else(|| {
            // One goes in, one comes out.
            Error::internal("the container was lost while it was measured")
        })
    }

    /// Returns containers, newest first.
    pub async fn list(&self, options: ListOptions) -> Result<Vec<ContainerView>> {
        let views = self.inner.matching(&options)?;
        if options.sizes {
            return self.inner.measure(views).await;
        }
        Ok(views)
    }
}

impl Inner {
    fn matching(&self, options: &ListOptions) -> Result<Vec<ContainerView>> {
        let created_of = |name: &Option<String>| -> Result<Option<jiff::Timestamp>> {
            let Some(name) = name else { return Ok(None) };
            Ok(Some(self.registry.find(name)?.record().created))
        };
        let descends = |view: &ContainerView, image: &str| self.descends(view, image);
        let around = Surroundings {
            before: created_of(&options.filter.before)?,
            since: created_of(&options.filter.since)?,
            descends: &descends,
        };
        let all = options.all || options.limit > 0 || options.filter.includes_ended();
        let mut views: Vec<ContainerView> = self
            .registry
            .all()
            .iter()
            .map(|container| self.view(container))
            .filter(|view| all || view.lifecycle.is_running())
            .filter(|view| options.filter.matches(view, &around))
            .collect();
        views.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        if options.limit > 0 {
            views.truncate(options.limit);
        }
        Ok(views)
    }

    fn view(&self, container: &Container) -> ContainerView {
        let record = container.record();
        let directory = self.paths.container(&record.id);
        let ran = !matches!(record.lifecycle, Lifecycle::Created { failure: None });
        let file = |name: &str| {
            if ran {
                directory.join(name)
            } else {
                PathBuf::new()
            }
        };
        // As with Docker, the path of another driver's files is nobody's concern.
        let log = self.log_of(&record).ok().flatten();
        let log = log.filter(|log| log.format == Format::JsonFile);
        let execs = container.live();
        let running =
            |state: ExecState| matches!(state, ExecState::Running { .. } | ExecState::Starting);
        let execs = execs
            .execs
            .iter()
            .filter(|(_, exec)| running(exec.state()))
            .map(|(id, _)| id.clone())
            .collect();
        let mounts: Vec<MountPoint> = record
            .mounts
            .iter()
            .filter(|mount| !mount.carry_out.hidden)
            .cloned()
            .collect();
        ContainerView {
            id: record.id.clone(),
            name: record.name.clone(),
            created: record.created,
            image: record.image.clone(),
            image_name_is_current: self.images.leads_to(&record.image, &record.image_id),
            image_id: record.image_id,
            path: record.path.clone(),
            args: record.args.clone(),
            config: record.config.clone(),
            host: record.host.clone(),
            lifecycle: record.lifecycle.clone(),
            mounts,
            network: record.network.clone(),
            restart_count: record.restart_count,
            health: record.health.clone(),
            execs,
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: log.map_or_else(PathBuf::new, |log| log.directory.join(log.name)),
            apparmor_profile: self.apparmor_profile(&record),
            driver: "overlayfs".to_owned(),
            sizes: None,
        }
    }

    fn apparmor_profile(&self, record: &Record) -> String {
        if !self.host.apparmor.is_there() {
            return String::new();
        }
        // The others may be long: filters.
        let options = record.host.security_opt.iter();
        let options: Vec<_> = options
            .filter(|o| o.starts_with("apparmor"))
            .cloned()
            .collect();
        let options = SecurityOptions::parse(&options).unwrap_or_default();
        let profile = options.apparmor_profile(record.host.privileged, self.host.apparmor);
        profile.unwrap_or_default().to_owned()
    }

    fn descends(&self, view: &ContainerView, image: &str) -> bool {
        let Ok(ancestor) = self.images.store().find(image) else {
            return false;
        };
        if ancestor.id == view.image_id {
            return true;
        }
        let Some(own) = self.images.store().get(&view.image_id) else {
            return false;
        };
        // An image whose layers begin with another's was built on it.
        let (own, base) = (own.diff_ids(), ancestor.diff_ids());
        !base.is_empty() && own.len() > base.len() && own.starts_with(&base)
    }

    async fn measure(self: &Arc<Self>, views: Vec<ContainerView>) -> Result<Vec<ContainerView>> {
        let inner = self.clone();
        blocking(move || {
            Ok(views
                .into_iter()
                .map(|mut view| {
                    let writable = disk_use(&inner.paths.container(&view.id).join("upper"));
                    let image = inner
                        .images
                        .store()
                        .get(&view.image_id)
                        .map_or(0, |image| image.size);
                    view.sizes = Some(ContainerSizes {
                        writable,
                        root: writable + image,
                    });
                    view
                })
                .collect())
        })
        .await
    }
}

/// Adds up the lengths of the regular files below a directory; what cannot be looked at is nothing.
pub(crate) fn disk_use(directory: &std::path::Path) -> u64 {
    sampan_fs::usage(directory).unwrap_or_default().length
}
