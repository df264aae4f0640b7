//! Starting a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::io::Errno;
use sampan_cgroups::birthplace;
use sampan_layers::{Durability, InitEntry, LayerMount, Writable};
use sampan_network::{DnsOptions, Hosts, NetworkNamespace};
use sampan_oci::DiffId;
use sampan_oci::runtime::{BlockIoResources, Mount, NamespaceKind};
use sampan_shim_protocol::{
    Launch, LaunchDescriptors, Request, RootSource, StartFailure, StartFailureKind,
};
use sampan_state::Sync;

use super::config::NetworkMode;
use super::control_groups::ControlGroups;
use super::id::ContainerId;
use super::lifecycle::{Change, Lifecycle, Run};
use super::mount::{MountKind, MountPoint};
use super::record::Record;
use super::registry::Container;
use super::security::SecurityOptions;
use super::service::Inner;
use super::slots::Slot;
use super::spec::{self, SpecInput, bind};
use super::view::NetworkState;
use super::{log_config, resolver_file, validate};
use crate::cdi::Injection;
use crate::fail_point::STEP;
use crate::host::{DeviceNode, device_at, devices_below};
use crate::network::{BRIDGE, Connected, Place};
use crate::shim::{Connection, LaunchError, LifeLock, Shim, Spawned};
use crate::{Error, ErrorKind, Result, blocking};

/// How long the supervisor of the run before may take to end.
const PREDECESSOR: Duration = Duration::from_secs(15);
/// What every container has between its image and its changes, as Docker has it: what is mounted
/// over leaves no trace among the changes, and no link of an image leads a mount elsewhere.
pub(crate) const INIT_LAYER: [InitEntry; 8] = [
    InitEntry::File(".dockerenv"),
    InitEntry::Directory("dev"),
    InitEntry::Directory("proc"),
    InitEntry::Directory("sys"),
    InitEntry::File("etc/hostname"),
    InitEntry::File("etc/hosts"),
    InitEntry::File("etc/resolv.conf"),
    InitEntry::Symlink("etc/mtab", "/proc/mounts"),
];

/// What a start has made so far.
struct Prepared {
    spawned: Spawned,
    lock: LifeLock,
    root: Root,
    network: Network,
}

struct Root {
    mount: OwnedFd,
    /// Kept until the shim holds the overlay.
    _layers: Vec<LayerMount>,
    /// The init's executable, where the shim cannot make a copy of its own.
    init: Option<OwnedFd>,
    devices: Vec<(DeviceNode, String)>,
    block_io: Option<BlockIoResources>,
    mounts: Vec<Mount>,
    /// What else goes with devices.
    injection: Injection,
    /// Of other containers.
    namespaces: Vec<(NamespaceKind, OwnedFd)>,
}

struct Network {
    namespace: Option<NetworkNamespace>,
    state: NetworkState,
    held: Vec<OwnedFd>,
    mounts: Vec<Mount>,
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
            cgroup_everywhere: security.writable_cgroups,
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
                    blocking(move || inner.prepare_root(&record, own.user)).await,
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

    /// Notes where systemd is about to make the container's scope, if that is news: before there is
    /// anything to be taken back.
    async fn note_slice(
        &self,
        container: &Arc<Container>,
        record: &Record,
        groups: &ControlGroups,
    ) -> Result<()> {
        let slice = groups.slice();
        if record.slice.as_ref() == slice {
            return Ok(());
        }
        let slice = slice.cloned();
        let noted = self
            .registry
            .update_async(container, Sync::Volatile, move |record| {
                Some(Record {
                    slice,
                    ..record.clone()
                })
            });
        noted.await.map(drop)
    }

    /// Notes what a start has made of the network: for the caller, who takes it back should the
    /// start fail, and for the next engine, should this one die from here on. Blocks.
    fn note_network(&self, container: &Container, state: &NetworkState) -> Result<()> {
        container.live().connected = Some(state.clone());
        // First: a launch without it is taken for one from before the host was started anew.
        self.make_shim_directory(&container.id)?;
        self.registry
            .update(container, Sync::Volatile, |record| {
                Some(Record {
                    network: state.clone(),
                    launching: true,
                    stopped_by_hand: false,
                    restart_count: 0,
                    ..record.clone()
                })
            })
            .map(drop)
    }

    fn make_shim_directory(&self, id: &ContainerId) -> Result<PathBuf> {
        let directory = self.paths.shim(id);
        match mkdirat(CWD, &directory, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(directory),
            Err(errno) => Err(Error::internal(format!(
                "create {}: {errno}",
                directory.display()
            ))),
        }
    }

    /// Starts a shim that waits for its launch, has its scope made where systemd does that, and takes
    /// the lock that tells of it. Blocks.
    pub(crate) fn spawn_shim(
        &self,
        id: &ContainerId,
        groups: &ControlGroups,
    ) -> Result<(Spawned, LifeLock)> {
        let directory = self.make_shim_directory(id)?;
        let deadline = Instant::now() + PREDECESSOR;
        let lock = loop {
            if let Some(lock) = LifeLock::try_take(&directory)? {
                break lock;
            }
            if Instant::now() >= deadline {
                return Err(Error::conflict(format!(
                    "the supervisor of the last run of container {id} is still there"
                )));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // Of the run before; the next one is recognised by its own.
        let exit = self
            .paths
            .container(id)
            .join(sampan_shim_protocol::SHIM_DIRECTORY)
            .join(sampan_shim_protocol::EXIT_FILE);
        match std::fs::remove_file(&exit) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::internal(format!(
                    "remove {}: {error}",
                    exit.display()
                )));
            }
            _ => {}
        }
        let cgroup = match groups {
            ControlGroups::Own { shim, .. } => {
                let path = shim.parse().ok();
                path.and_then(|path| birthplace(&self.host.hierarchies, &path))
            }
            // It is made over a process that is there.
            ControlGroups::Scope(_) => None,
        };
        let spawned = self
            .executable
            .start(id.as_str(), cgroup.as_ref().map(AsFd::as_fd))?;
        if let ControlGroups::Scope(scope) = groups {
            let description = format!("Container {id} of Sampan");
            sampan_systemd::start(scope, &description, spawned.pid())
                .map_err(|error| Error::because("make the container's scope", &error))?;
        }
        Ok((spawned, lock))
    }

    pub(crate) fn mount_layers(&self, layers: &[DiffId]) -> Result<Vec<LayerMount>> {
        let store = self.images.store().layers();
        layers.iter().map(|layer| Ok(store.mount(layer)?)).collect()
    }

    fn prepare_root(&self, record: &Record, users: Option<OwnedFd>) -> Result<Root> {
        let directory = self.paths.container(&record.id);
        let layers = self.mount_layers(&record.layers)?;
        let durability = if record.is_fleeting() {
            Durability::Volatile
        } else {
            Durability::Durable
        };
        let writable = Writable {
            upper: directory.join("upper"),
            work: directory.join("work"),
        };
        let owners = self.mount_users(record.users.as_ref())?;
        let store = self.images.store().layers();
        let mount = store
            .init_layer(&layers, &INIT_LAYER)
            .and_then(|init| {
                let owners = owners.as_ref().map(|owners| owners.owners());
                store.overlay_owned(&layers, Some(&init), Some(&writable), durability, owners)
            })
            .map_err(|error| not_mounted(&directory, &error))?;
        let mut namespaces: Vec<_> = users
            .map(|users| (NamespaceKind::User, users))
            .into_iter()
            .collect();
        let shared = self.join(record, &mut namespaces)?;
        let mounts = record.mounts.iter().enumerate();
        let mounts = mounts.map(|(number, point)| self.carry_out(record, number, point));
        let mounts = mounts.chain(shared.map(Ok));
        let init = match record.host.init {
            Some(true) => store
                .attached_program(self.executable.memory())
                .map_err(|error| Error::because("mount the init", &error))?,
            Some(false) | None => None,
        };
        let mut injection = self.cdi.injection(&record.host.resources.device_requests)?;
        if record.users.is_some() && injection.has_hooks() {
            return Err(Error::not_implemented(
                "CDI device injection failed: hooks of devices are not supported in a user namespace: use --userns host",
            ));
        }
        let mut devices = devices(record)?;
        devices.append(&mut injection.devices);
        let mut mounts: Vec<Mount> = mounts.collect::<Result<_>>()?;
        mounts.append(&mut injection.mounts);
        Ok(Root {
            mount,
            _layers: layers,
            init,
            mounts,
            devices,
            injection,
            block_io: super::block::limits(&record.host.resources)?,
            namespaces,
        })
    }

    /// Turns a mount into the runtime's form, making a missing source where that is allowed.
    fn carry_out(&self, record: &Record, number: usize, point: &MountPoint) -> Result<Mount> {
        let access = if point.writable { "rw" } else { "ro" };
        match point.kind {
            MountKind::Tmpfs => {
                let mut options = point.carry_out.tmpfs_options.clone();
                options.push(access.to_owned());
                Ok(Mount {
                    destination: point.destination.clone(),
                    kind: Some("tmpfs".to_owned()),
                    source: Some("tmpfs".into()),
                    options,
                    ..Mount::default()
                })
            }
            MountKind::Bind | MountKind::Volume | MountKind::Image => {
                let source = self.source_of(record, number, point)?;
                self.check_source(point, &source)?;
                let reach = if point.carry_out.non_recursive {
                    "bind"
                } else {
                    "rbind"
                };
                let propagation = point.propagation.unwrap_or_default().as_str();
                let mut options = vec![reach, access, propagation];
                if !point.writable && !point.carry_out.non_recursive {
                    // All that is mounted below it, too.
                    options.push("rro");
                }
                Ok(bind(source, &point.destination, &options))
            }
        }
    }

    fn check_source(&self, point: &MountPoint, source: &Path) -> Result<()> {
        match std::fs::metadata(source) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::invalid(format!(
                    "error while looking at mount source path '{}': {error}",
                    source.display()
                )));
            }
        }
        if point.kind == MountKind::Volume && !self.volumes.exists(&point.name) {
            return Err(Error::not_found(format!(
                "get {}: no such volume",
                point.name
            )));
        }
        if !point.carry_out.create_source {
            return Err(Error::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                source.display()
            )));
        }
        make_source(source).map_err(|error| {
            Error::internal(format!(
                "error while creating mount source path '{}': {error}",
                source.display()
            ))
        })
    }

    /// Gives the container its network and writes the files that tell of it.
    fn prepare_network(
        &self,
        record: &Record,
        own: Option<OwnedFd>,
        place: Option<Place>,
    ) -> Result<Network> {
        let own = own.map(NetworkNamespace::adopt).transpose()?;
        let mut network = match &record.host.network_mode {
            NetworkMode::Host => Network::none(record.network.clone()),
            NetworkMode::None => Network {
                namespace: Some(match own {
                    Some(namespace) => namespace,
                    None => self.networks.isolated()?,
                }),
                ..Network::none(record.network.clone())
            },
            NetworkMode::Container(other) => return self.join_network(record, other),
            NetworkMode::Default | NetworkMode::Bridge => {
                let wish = record
                    .network
                    .endpoints
                    .get(BRIDGE)
                    .cloned()
                    .unwrap_or_default();
                let Connected {
                    namespace,
                    state,
                    held,
                } = match place.filter(|place| self.networks.is_whole(place)) {
                    Some(place) => self.networks.occupy(place, record, &wish)?,
                    None => self.networks.connect(record, &wish, own)?,
                };
                Network {
                    namespace: Some(namespace),
                    state,
                    held,
                    mounts: Vec::new(),
                }
            }
            NetworkMode::Network(name) => {
                self.networks.check(name)?;
                return Err(Error::not_found(format!("network {name} not found")));
            }
        };
        match self.write_network_files(record, &network.state) {
            Ok(()) => {
                network.mounts = self.file_mounts(record, &record.id);
                Ok(network)
            }
            Err(error) => {
                if let Err(second) = self.networks.disconnect(&network.state) {
                    tracing::warn!(
                        error = second.message(),
                        "could not take a network connection back"
                    );
                }
                Err(error)
            }
        }
    }

    fn join_network(&self, record: &Record, other: &str) -> Result<Network> {
        let other = self.registry.find(other)?.record();
        if matches!(other.lifecycle, Lifecycle::Restarting(_)) {
            return Err(restarting(&other.id));
        }
        let Some(run) = other.lifecycle.run() else {
            return Err(Error::conflict(format!(
                "cannot join network of a non running container: {}",
                other.id
            )));
        };
        let pid = u32::try_from(run.pid).map_err(|_| Error::internal("a process has no number"))?;
        let namespace = NetworkNamespace::of_pid(pid)?;
        Ok(Network {
            namespace: Some(namespace),
            mounts: self.file_mounts(record, &other.id),
            ..Network::none(NetworkState::default())
        })
    }

    fn write_network_files(&self, record: &Record, state: &NetworkState) -> Result<()> {
        let directory = sampan_fs::open_dir(self.paths.container(&record.id))?;
        let host = &record.host;
        let hostname = spec::hostname(record, &self.host);
        let is_host = host.network_mode == NetworkMode::Host;
        let mut extra = Vec::new();
        for entry in &host.extra_hosts {
            let (name, address) = validate::extra_host(entry)?;
            let address = match address {
                Some(address) => address,
                None => self.networks.gateway()?,
            };
            extra.push((name.to_owned(), address));
        }
        extra.extend(self.link_hosts(record)?);
        let own: Vec<_> = state
            .endpoints
            .values()
            .filter_map(|endpoint| endpoint.address)
            .collect();
        let hosts = if is_host {
            let mut hosts = read_host_file("/etc/hosts");
            for (name, address) in &extra {
                hosts.push_str(&format!("{address}\t{name}\n"));
            }
            hosts
        } else {
            Hosts {
                ipv6: false,
                extra: &extra,
                own: &own,
                hostname: &hostname,
                domain: &record.config.domainname,
            }
            .render()
        };
        let dns = DnsOptions {
            servers: host
                .dns
                .iter()
                .filter_map(|server| server.parse().ok())
                .collect(),
            search: host.dns_search.clone(),
            options: host.dns_options.clone(),
        };
        let mut resolver = read_host_file("/etc/resolv.conf");
        if !is_host && sampan_network::is_resolved_stub(&resolver) {
            resolver = read_host_file(sampan_network::RESOLVED_FILE);
        }
        let resolver = if is_host {
            sampan_network::host_mode_resolv_conf(&resolver, &dns)
        } else {
            sampan_network::resolv_conf(&resolver, &dns, false)
        };
        let files = [
            ("hostname", sampan_network::hostname_file(&hostname)),
            ("hosts", hosts),
        ];
        for (name, content) in files {
            write_file(&directory, name, content.as_bytes()).map_err(|errno| {
                Error::internal(format!("write the container's {name}: {errno}"))
            })?;
        }
        write_resolver(&directory, resolver.as_bytes())
            .map_err(|errno| Error::internal(format!("write the container's resolv.conf: {errno}")))
    }

    /// Mounts the files of `owner` at their places, unless something else is asked for there.
    fn file_mounts(&self, record: &Record, owner: &ContainerId) -> Vec<Mount> {
        let directory = self.paths.container(owner);
        ["hostname", "hosts", "resolv.conf"]
            .into_iter()
            .map(|name| (name, format!("/etc/{name}")))
            .filter(|(_, destination)| {
                record
                    .mounts
                    .iter()
                    .all(|point| point.destination != *destination)
            })
            .map(|(name, destination)| {
                let access = if record.host.readonly_rootfs {
                    "ro"
                } else {
                    "rw"
                };
                let mut options = vec!["rbind", access, "rprivate"];
                if record.users.is_some() {
                    // The container's root is their owner there.
                    options.push("idmap");
                }
                bind(directory.join(name), &destination, &options)
            })
            .collect()
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

impl Network {
    fn none(state: NetworkState) -> Self {
        Self {
            namespace: None,
            state,
            held: Vec::new(),
            mounts: Vec::new(),
        }
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

impl NetworkState {
    /// Returns the state without what only exists while the container runs.
    pub(crate) fn disconnected(&self) -> Self {
        Self {
            endpoints: self
                .endpoints
                .iter()
                .map(|(name, endpoint)| {
                    let rest = super::view::Endpoint {
                        endpoint_id: String::new(),
                        address: None,
                        prefix: 0,
                        gateway: None,
                        mac: String::new(),
                        host_interface: String::new(),
                        dns_names: Vec::new(),
                        ..endpoint.clone()
                    };
                    (name.clone(), rest)
                })
                .collect(),
            ..Self::default()
        }
    }
}

/// Why a root file system could not be mounted.
fn not_mounted(directory: &Path, error: &sampan_layers::Error) -> Error {
    /// `OVERLAYFS_SUPER_MAGIC` (linux/magic.h).
    const OVERLAY: u64 = 0x794c_7630;
    let failed = Error::because("mount the root file system", error);
    #[allow(clippy::cast_lossless, clippy::unnecessary_cast, trivial_numeric_casts)]
    // differs between architectures
    let on_overlay = rustix::fs::statfs(directory)
        .is_ok_and(|status| status.f_type as u64 & 0xffff_ffff == OVERLAY);
    if on_overlay {
        return failed.with_hint(
            "the engine's root directory lies in a container's own files, which cannot carry another \
             container's: put it on a volume (-v /var/lib/sampan)",
        );
    }
    failed
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

/// Writes a file that the container sees: in place of the one before, which may be mounted still.
fn write_file(directory: &OwnedFd, name: &str, content: &[u8]) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{AtFlags, OFlags};
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let file = rustix::fs::openat(directory, name, flags, mode)?;
    rustix::fs::fchmod(&file, mode)?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = &rest[written..];
    }
    Ok(file)
}

fn write_resolver(directory: &OwnedFd, content: &[u8]) -> rustix::io::Result<()> {
    const NAME: &str = "resolv.conf";
    if resolver_file::is_changed(directory, NAME)? {
        return Ok(());
    }
    let file = write_file(directory, NAME, content)?;
    resolver_file::note_written(&file, content)
}

/// A file of the host's administrator; one that is missing says nothing.
fn read_host_file(path: &str) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // What could be read is better than nothing.
        let _ = file.take(resolver_file::LENGTH_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Makes the missing source of a bind mount as a directory, as Docker does.
fn make_source(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

/// Looks at the devices that were asked for.
fn devices(record: &Record) -> Result<Vec<(DeviceNode, String)>> {
    let mut found = Vec::new();
    if record.host.privileged {
        let all = devices_below(Path::new("/dev"));
        found.extend(all.into_iter().map(|node| (node, "rwm".to_owned())));
    }
    for mapping in &record.host.resources.devices {
        let inside = match mapping.path_in_container.as_str() {
            "" => &mapping.path_on_host,
            path => path,
        };
        let access = match mapping.cgroup_permissions.as_str() {
            "" => "rwm",
            access => access,
        };
        if access.len() > 3 || !access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
            return Err(Error::invalid(format!("invalid device mode: {access}")));
        }
        let gathering = |error: &dyn std::fmt::Display| {
            Error::invalid(format!(
                "error gathering device information while adding custom device {:?}: {error}",
                mapping.path_on_host
            ))
        };
        let path = Path::new(&mapping.path_on_host);
        let nodes = match device_at(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => gathering(&"no such file or directory"),
            _ => gathering(&error),
        })? {
            Some(node) => vec![node],
            None if path.is_dir() => devices_below(path),
            None => Vec::new(),
        };
        if nodes.is_empty() {
            return Err(gathering(&"not a device node"));
        }
        for mut node in nodes {
            if let Some(rest) = node.path.strip_prefix(mapping.path_on_host.as_str()) {
                node.path = format!("{}{rest}", inside.trim_end_matches('/'));
            }
            found.push((node, access.to_owned()));
        }
    }
    Ok(found)
}
