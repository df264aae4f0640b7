//! Starting a container.

use std::sync::Arc;
use std::time::Duration;

use sampan_oci::runtime::NamespaceKind;
use sampan_shim_protocol::{
    Launch, LaunchDescriptors, Request, RootSource, StartFailure, StartFailureKind,
};
use sampan_state::Sync;

use super::control_groups::ControlGroups;
use super::id::ContainerId;
use super::lifecycle::{Change, Lifecycle, Run};
use super::log_config;
use super::record::Record;
use super::registry::Container;
use super::security::SecurityOptions;
use super::service::Inner;
use super::slots::Slot;
use super::spec::{self, SpecInput};
use crate::fail_point::STEP;
use crate::shim::{Connection, LaunchError, LifeLock, Shim, Spawned};
use crate::{Error, ErrorKind, Result, blocking};

mod network;
mod root;
mod supervisor;

use network::Network;
use root::Root;

pub(crate) use root::INIT_LAYER;

/// How long the supervisor of the run before may take to end.
const PREDECESSOR: Duration = Duration::from_secs(15);

/// What a start has made so far.
struct Prepared {
    spawned: Spawned,
    lock: LifeLock,
    root: Root,
    network: Network,
}

impl Inner {
    /// Starts a container. The operation lock is held.
    pub(crate) async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if let Some(ended) = container.watch_end()
            && !container.record().lifecycle.is_running()
        {
            // The run before is still being cleaned up.
            let _ = tokio::time::timeout(PREDECESSOR, ended).await;
        }
        let record = container.record();
        match &record.lifecycle {
            Lifecycle::Running(_) | Lifecycle::Restarting(_) => return Err(Error::not_modified()),
            Lifecycle::Paused(_) => {
                return Err(Error::conflict(
                    "cannot start a paused container, try unpause instead",
                ));
            }
            Lifecycle::Removing { .. } | Lifecycle::Dead { .. } => {
                return Err(Error::conflict(
                    "container is marked for removal and cannot be started",
                ));
            }
            Lifecycle::Created { .. } | Lifecycle::Exited(_) => {}
        }
        match self.try_start(container, &record).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.start_failed(container, failure).await),
        }
    }

    async fn try_start(
        self: &Arc<Self>,
        container: &Arc<Container>,
        record: &Arc<Record>,
    ) -> Result<(), StartError> {
        let _busy = self.slots.busy();
        let steps = &self.fail_points;
        steps.pass("start:begin").await?;
        let parent = &record.host.resources.cgroup_parent;
        let groups = self.next_control_groups(parent, &container.id)?;
        self.note_slice(container, record, &groups).await?;
        let prepared = self.prepare(container, record, &groups).await?;
        let Prepared {
            spawned,
            lock,
            root,
            network,
        } = prepared;
        steps.pass("start:prepared").await?;
        let record = container.record();
        steps.pass("start:recorded").await?;
        let mut mounts = network.mounts;
        mounts.extend(root.mounts);
        let private = std::mem::take(&mut container.live().private);
        let mut sources = Vec::new();
        for (mount, source) in private.mounts {
            sources.extend(source.map(|source| (mount.destination.clone(), source)));
            mounts.push(mount);
        }
        let injection = root.injection;
        let security = SecurityOptions::parse(&record.host.security_opt)?;
        let mut spec = spec::build(SpecInput {
            record: &record,
            host: &self.host,
            security: &security,
            mounts,
            devices: root.devices,
            block_io: root.block_io,
            cgroup: groups.container(),
            hostname: spec::hostname(&record, &self.host),
        })?;
        injection.apply(&mut spec);
        if let Some(process) = &mut spec.process {
            process.env.extend(private.environment);
            process.env.extend(self.link_variables(&record)?);
        }
        let runtime = self.runtimes.for_shim(
            &record.host.runtime,
            self.paths.run(),
            &self.host.hierarchies,
        )?;
        let image_id = record.image_id.to_string();
        let origin = log_config::Origin {
            id: record.id.as_str(),
            name: record.name.as_str(),
            image_id: &image_id,
            image: &record.image,
        };
        let clients = std::mem::take(&mut container.live().waiting_clients);
        let (attach, sockets) = clients.into_iter().unzip();
        let launch = Launch {
            id: container.id.to_string(),
            root: RootSource::Descriptor,
            cgroup: groups.container(),
            // Who may make groups below its own needs one that is not the supervisors'.
            cgroup_everywhere: security.writable_cgroups || record.host.privileged,
            shim_cgroup: Some(groups.shim()),
            terminal_size: terminal_size(record.host.console_size),
            open_stdin: record.config.open_stdin,
            stdin_once: record.config.stdin_once,
            init: record.host.init == Some(true),
            log: log_config::read(&record.host.log, &record.config, &origin)?,
            auto_remove: record.host.auto_remove,
            // Another program compiles it itself.
            filter: match &runtime {
                None => self.filters.take(&mut spec),
                Some(_) => None,
            },
            runtime,
            restart: record.host.restart_policy.of_shim(),
            health: super::health::plan(&record, &self.host)?,
            note_steps: tracing::enabled!(target: STEP, tracing::Level::TRACE),
            directory: self.paths.container(&container.id),
            socket_directory: self.paths.shim(&container.id),
            namespaces: Vec::new(),
            has_init_descriptor: false,
            sources: Vec::new(),
            held: 0,
            attach,
            spec,
        };
        let mut held = network.held;
        held.push(lock.file);
        let descriptors = LaunchDescriptors {
            root: Some(root.mount),
            namespaces: network
                .namespace
                .map(|namespace| (NamespaceKind::Network, namespace.into_fd()))
                .into_iter()
                .chain(root.namespaces)
                .collect(),
            init: root.init,
            sources,
            held,
            attach: sockets,
        };
        steps.pass("start:launch").await?;
        // The one write that must reach the disk goes on beside the launch.
        let durable = async {
            if record.is_fleeting() {
                return Ok(());
            }
            let stored = self
                .registry
                .update_async(container, Sync::Durable, |record| Some(record.clone()));
            stored.await.map(|_| ())
        };
        let (launched, stored) = tokio::join!(spawned.launch(launch, descriptors), durable);
        let (started, connection) = launched?;
        // From here on the shim runs the container, whatever becomes of this engine.
        self.serve(container, connection);
        container.live().connected = None;
        stored?;
        steps.pass("start:launched").await?;
        let started_at = started
            .started_at
            .parse()
            .unwrap_or_else(|_| jiff::Timestamp::now());
        let run = Run {
            pid: started.pid,
            started_at,
        };
        // Not stored: the record says that a launch was under way, and the shim knows the rest.
        self.registry.show(container, move |record| {
            let lifecycle = record.lifecycle.after(Change::Started(run))?;
            Some(Record {
                health: record.health_at_start(),
                ..record.with(lifecycle)
            })
        });
        self.attach_waiting(container).await;
        self.tell_started(&container.record(), started_at);
        container.go();
        steps.pass("start:end").await?;
        Ok(())
    }

    /// Does at once what does not depend on each other.
    async fn prepare(
        self: &Arc<Self>,
        container: &Arc<Container>,
        record: &Arc<Record>,
        groups: &ControlGroups,
    ) -> Result<Prepared, StartError> {
        let own = if record.users.is_some() {
            let (inner, record) = (self.clone(), record.clone());
            blocking(move || inner.own_users(&record)).await?
        } else {
            // Nothing has to be made.
            self.own_users(record)?
        };
        let slot = container.live().slot.take();
        let (waiting, place) = match slot.and_then(Slot::into_parts) {
            Some(parts) => (Some((parts.spawned, parts.lock)), Some(parts.place)),
            None => (None, None),
        };
        let spawn = {
            let (inner, container) = (self.clone(), container.clone());
            let groups = groups.clone();
            async move {
                inner.fail_points.pass("start:shim").await?;
                let was_waiting = waiting.is_some();
                let waiting = waiting.filter(|(spawned, _)| spawned.lives());
                let spawned = match waiting {
                    Some(waiting) => Ok(waiting),
                    None => {
                        let spawn = move || {
                            if was_waiting {
                                // Its supervisor was killed: the next one needs a scope of its own.
                                inner.remove_control_groups(&groups)?;
                            }
                            inner.spawn_shim(&container.id, &groups)
                        };
                        blocking(spawn).await
                    }
                };
                told("shim spawned", spawned)
            }
        };
        let root = {
            let (inner, record) = (self.clone(), record.clone());
            async move {
                inner.fail_points.pass("start:root").await?;
                told(
                    "root mounted",
                    blocking(move || {
                        inner.host.apparmor.ensure(inner.paths.run())?;
                        inner.prepare_root(&record, own.user)
                    })
                    .await,
                )
            }
        };
        let network = {
            let (inner, container) = (self.clone(), container.clone());
            let record = record.clone();
            async move {
                inner.fail_points.pass("start:network").await?;
                let connected = blocking(move || {
                    let network = inner.prepare_network(&record, own.network, place)?;
                    inner.note_network(&container, &network.state)?;
                    Ok(network)
                });
                told("network connected", connected.await)
            }
        };
        let (spawned, root, network) = tokio::join!(spawn, root, network);
        let network = network?;
        let (spawned, lock) = spawned?;
        Ok(Prepared {
            spawned,
            lock,
            root: root?,
            network,
        })
    }

    /// Serves a shim's connection from here on.
    pub(crate) fn serve(self: &Arc<Self>, container: &Arc<Container>, connection: Connection) {
        let (shim, requests) = Shim::new();
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        container.live().shim = Some(shim);
        container.hold();
        self.tasks.spawn(connection.serve(requests, sender));
        self.tasks
            .spawn(self.clone().watch(container.clone(), events));
    }

    /// Hands over clients that came while the container was being started.
    async fn attach_waiting(&self, container: &Container) {
        let clients = std::mem::take(&mut container.live().waiting_clients);
        for (spec, socket) in clients {
            let Some(shim) = container.shim() else { return };
            if let Err(error) = shim.tell(Request::Attach(spec), vec![socket]).await {
                tracing::debug!(container = %container.id, error = error.message(), "a client came too late");
            }
        }
    }

    /// Takes everything back after a failed start and tells what the caller sees.
    async fn start_failed(
        self: &Arc<Self>,
        container: &Arc<Container>,
        failure: StartError,
    ) -> Error {
        let (code, error) = failure.into_parts();
        if container.shim().is_some() {
            // It runs although a later step failed: its end is dealt with like any other.
            container.go();
            self.kill_now(container).await;
            return error;
        }
        // Stored first: a launch that is noted and of which nothing is left is taken for a lost run.
        let message = error.message().to_owned();
        let stored = self
            .registry
            .update_async(container, Sync::Volatile, move |record| {
                let lifecycle = record.lifecycle.after(Change::StartFailed {
                    code,
                    error: message,
                })?;
                Some(Record {
                    launching: false,
                    network: record.network.disconnected(),
                    ..record.with(lifecycle)
                })
            })
            .await;
        if let Err(second) = stored {
            tracing::warn!(container = %container.id, error = second.message(), "could not store a failed start");
        }
        let (inner, torn) = (self.clone(), container.clone());
        let taken_back = blocking(move || inner.tear_down(&torn)).await;
        if let Err(second) = taken_back {
            tracing::warn!(container = %container.id, error = second.message(), "could not take a failed start back");
        }
        container.live().waiting_clients.clear();
        container.tell_end();
        if container.record().host.auto_remove {
            self.auto_remove(container).await;
        }
        error
    }
}

/// Why a start failed.
enum StartError {
    /// The container's own process.
    Process(StartFailure),
    /// Anything else.
    Other(Error),
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<LaunchError> for StartError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Failed(failure) => Self::Process(failure),
            LaunchError::Lost(error) => Self::Other(error),
        }
    }
}

impl StartError {
    /// The exit code that the container takes, and the error.
    fn into_parts(self) -> (i32, Error) {
        match self {
            Self::Other(error) => (128, error),
            Self::Process(failure) => {
                let kind = match failure.kind {
                    StartFailureKind::CommandNotFound
                    | StartFailureKind::NotExecutable
                    | StartFailureKind::BadUser
                    | StartFailureKind::Invalid => ErrorKind::Invalid,
                    StartFailureKind::Unsupported
                    | StartFailureKind::OutOfMemory
                    | StartFailureKind::System
                    | StartFailureKind::Other => ErrorKind::Internal,
                };
                let message = format!("failed to create task for container: {}", failure.message);
                (failure.exit_code, Error::new(kind, message))
            }
        }
    }
}

/// Something that takes a process was asked of a container that has none for the moment.
pub(crate) fn restarting(id: &ContainerId) -> Error {
    Error::conflict(format!(
        "Container {id} is restarting, wait until the container is running"
    ))
}

/// Tells when a step was done that goes on beside others.
fn told<T>(step: &'static str, done: T) -> T {
    tracing::trace!(target: STEP, "{step}");
    done
}

pub(crate) fn terminal_size([height, width]: [u16; 2]) -> Option<(u16, u16)> {
    (height > 0 && width > 0).then_some((height, width))
}
