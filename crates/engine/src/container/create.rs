//! Making a container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use sampan_images::Image;
use sampan_layers::Durability;
use sampan_oci::Platform;
use sampan_oci::config::RunConfig;
use sampan_state::Sync;
use sampan_text::path::absolute;

use super::config::{ContainerConfig, IpcMode, NetworkMode, PidMode};
use super::id::{ContainerId, ContainerName};
use super::inner_mount;
use super::lifecycle::Lifecycle;
use super::mount::{
    BindSource, MountDetail, MountKind, MountPoint, MountRequest, MountRequestKind, MountedImage,
    Propagation, clean_destination,
};
use super::record::Record;
use super::request::{CreateContainer, Created};
use super::security::SecurityOptions;
use super::service::Inner;
use super::view::{Endpoint, NetworkState};
use super::{cgroup_parent, names, spec, validate};
use crate::network::{BRIDGE, network_of};
use crate::users::{self, IdMaps};
use crate::volume::{CreateVolume, LOCAL, Pin};
use crate::{Action, Error, ErrorKind, Result};

impl Inner {
    /// Makes a container. Blocks.
    pub(crate) fn create(self: &Arc<Self>, request: CreateContainer) -> Result<Created> {
        let image = self.image_of(&request.config, request.platform.as_deref())?;
        // The collector leaves it alone until the container's record tells of it.
        let _held = self.images.store().hold(&image.id)?;
        self.create_from(&image, request, false)
            .map_err(|error| match error.kind() {
                // Clients that hear of something not found pull the image.
                ErrorKind::NotFound => error.of_kind(ErrorKind::Invalid),
                _ => error,
            })
    }

    /// Makes a container of what may be no image yet, for a step of a build that holds its layers.
    /// Blocks.
    pub(crate) fn create_for_build(
        self: &Arc<Self>,
        state: &Image,
        request: CreateContainer,
    ) -> Result<Created> {
        self.create_from(state, request, true)
    }

    fn create_from(
        self: &Arc<Self>,
        image: &Image,
        request: CreateContainer,
        of_build: bool,
    ) -> Result<Created> {
        let CreateContainer {
            name,
            mut config,
            mut host,
            endpoints,
            platform: _,
        } = request;
        merge(&mut config, &image.config.config);
        let (path, args) = command(&config)?;
        let mut warnings = match self.host.unified {
            true => validate::discard_old(&mut host.resources),
            false => Vec::new(),
        };
        warnings.extend(validate::check(&config, &host, self.cpus())?);
        warnings.extend(SecurityOptions::parse(&host.security_opt)?.warnings(&self.host));
        if host.cgroupns_mode.is_empty() {
            host.cgroupns_mode = spec::default_cgroup_namespace(&self.host, &host).to_owned();
        }
        self.runtimes.settle(&mut host, of_build)?;
        if host.resources.cgroup_parent.is_empty() {
            host.resources.cgroup_parent.clone_from(&self.cgroup_parent);
        }
        let slice = cgroup_parent::slice(self.cgroup_driver, &host.resources.cgroup_parent)?;
        self.cdi.check(&host.resources.device_requests)?;
        if of_build && (host.privileged || host.network_mode == NetworkMode::Host) {
            // It was allowed what takes the host's users.
            "host".clone_into(&mut host.userns_mode);
        }
        let users = users::settle(&host, self.users.as_ref())?;
        if users.is_some() && !self.runtimes.is_linked(&host.runtime) {
            return Err(Error::invalid(format!(
                "user namespaces are not supported with the runtime {}: use --runtime sampan or --userns host",
                host.runtime
            )));
        }
        if host.network_mode == NetworkMode::Host {
            host.publish_all_ports = false;
        }
        if config.network_disabled {
            host.network_mode = NetworkMode::None;
        }
        if let NetworkMode::Container(other) = &host.network_mode {
            self.registry.find(other)?;
        }
        if let PidMode::Container(other) = &host.pid_mode {
            self.registry.find(other)?;
        }
        if let IpcMode::Container(other) = &host.ipc_mode {
            self.registry.find(other)?;
        }
        for link in &host.links {
            self.registry.find(super::link::parse(link)?.0)?;
        }
        if let Some(network) = network_of(&host.network_mode) {
            self.networks.check(network)?;
        }
        crate::network::port_requests(&host, &config.exposed_ports)?;
        let is_usual = self.runtimes.is_linked(&host.runtime)
            && host.resources.cgroup_parent.is_empty()
            && users.is_none()
            && matches!(
                host.network_mode,
                NetworkMode::Default | NetworkMode::Bridge
            )
            && endpoints.values().all(|wish| wish.wanted_mac.is_empty());
        let slot = if is_usual { self.slots.take() } else { None };
        let id = match &slot {
            Some(slot) => slot.id().clone(),
            None => ContainerId::random(),
        };
        let name = self.reserve_name(name.as_deref(), &id)?;
        let mut undo = UndoCreate {
            inner: self,
            id: &id,
            name: &name,
            volumes: Vec::new(),
            armed: true,
        };
        let sync = if host.auto_remove || of_build {
            Sync::Volatile
        } else {
            Sync::Durable
        };
        let mut pins = Vec::new();
        let mounts = self.plan_mounts(&config, &host, sync, &mut pins)?;
        if let Some(users) = &users {
            for pin in pins.iter().filter(|pin| pin.is_new) {
                self.volumes.give(pin.name(), users.root())?;
            }
        }
        undo.volumes = pins
            .iter()
            .filter(|pin| pin.is_new && pin.anonymous)
            .map(|pin| pin.name().to_owned())
            .collect();
        self.prepare_directory(&id)?;
        self.fill_volumes(&mounts, image, users.as_ref())?;
        if host.network_mode == NetworkMode::Host && host.publish_all_ports {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
        let record = Record {
            id: id.clone(),
            name: name.clone(),
            created: Timestamp::now(),
            image: config.image.clone(),
            image_id: image.id,
            layers: image.diff_ids(),
            path,
            args,
            network: self.first_network(&host.network_mode, endpoints)?,
            config: Arc::new(config),
            host: Arc::new(host),
            lifecycle: Lifecycle::Created { failure: None },
            mounts,
            users,
            slice,
            restart_count: 0,
            health: None,
            stopped_by_hand: false,
            launching: false,
            of_build,
        };
        let container = self.registry.insert(record, sync)?;
        undo.armed = false;
        drop(undo);
        if let Some(slot) = slot {
            self.slots.give(slot, &container);
        }
        for pin in &pins {
            if let Err(error) = pin.confirm(sync) {
                // It is known to be in use, and the next start of the engine tries again.
                tracing::warn!(
                    volume = pin.name(),
                    error = error.message(),
                    "could not store a volume"
                );
            }
        }
        // An image that was removed meanwhile did not know of this container.
        if !of_build && self.images.store().get(&image.id).is_none() {
            let missing = Error::not_found(format!("No such image: {}", container.record().image));
            self.discard(&container, super::request::RemoveVolumes::Anonymous)?;
            return Err(missing);
        }
        self.tell(&container.record(), Action::Create, []);
        Ok(Created { id, warnings })
    }

    fn image_of(&self, config: &ContainerConfig, platform: Option<&str>) -> Result<Arc<Image>> {
        if config.image.is_empty() {
            return Err(Error::invalid("config.Image cannot be empty"));
        }
        let image = self.images.store().find(&config.image)?;
        if let Some(wanted) = platform.filter(|wanted| !wanted.is_empty()) {
            let platform = image.config.platform();
            let asked: Platform = wanted
                .parse()
                .map_err(|error| Error::because("invalid platform", &error).into_invalid())?;
            if (&asked.os, &asked.architecture) != (&platform.os, &platform.architecture) {
                return Err(Error::not_found(format!(
                    "image with reference {} was found but its platform ({}/{}) does not match the specified \
                     platform ({wanted})",
                    config.image, platform.os, platform.architecture
                )));
            }
        }
        Ok(image)
    }

    fn reserve_name(&self, wanted: Option<&str>, id: &ContainerId) -> Result<ContainerName> {
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            let name: ContainerName = wanted.parse()?;
            self.registry.reserve(&name, id)?;
            return Ok(name);
        }
        loop {
            let drawn = names::draw(id.short(), names::random, |name| {
                self.registry.is_reserved(name)
            });
            let name: ContainerName = drawn.parse()?;
            // Somebody may have taken it between the two.
            if self.registry.reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
    }

    fn prepare_directory(&self, id: &ContainerId) -> Result<()> {
        use rustix::fs::{CWD, Mode, mkdirat};
        let directory = self.paths.container(id);
        let private = Mode::RWXU;
        // The root of the container's file system: everybody may enter it there.
        let open = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
        for (path, mode) in [
            (directory.clone(), private),
            (directory.join("upper"), open),
            (directory.join("work"), private),
        ] {
            mkdirat(CWD, &path, mode)
                .map_err(|errno| Error::internal(format!("create {}: {errno}", path.display())))?;
        }
        Ok(())
    }

    fn first_network(
        &self,
        mode: &NetworkMode,
        mut wishes: BTreeMap<String, Endpoint>,
    ) -> Result<NetworkState> {
        let mut state = NetworkState::default();
        let Some(network) = network_of(mode) else {
            return Ok(state);
        };
        let own = wishes.remove(network).or_else(|| wishes.remove("default"));
        for name in wishes.keys().filter(|name| *name != "default") {
            self.networks.check(name)?;
            if name != network {
                return Err(Error::not_implemented(format!(
                    "a container in more than one network is not supported: {network} and {name}"
                )));
            }
        }
        let wish = own.unwrap_or_default();
        if !wish.aliases.is_empty() && network == BRIDGE {
            return Err(Error::invalid(
                "invalid config for network bridge: invalid endpoint settings:\nnetwork-scoped aliases are only \
                 supported for user-defined networks",
            ));
        }
        if wish.wanted_address.is_some() && network == BRIDGE {
            return Err(Error::invalid(
                "invalid config for network bridge: invalid endpoint settings:\nuser specified IP address is \
                 supported on user defined networks only",
            ));
        }
        let endpoint = Endpoint {
            network_id: self.networks.id_of(network).to_string(),
            ..wish
        };
        state.endpoints.insert(network.to_owned(), endpoint);
        Ok(state)
    }

    /// Decides on the mounts and makes the volumes that they need.
    fn plan_mounts(
        &self,
        config: &ContainerConfig,
        host: &super::config::HostConfig,
        sync: Sync,
        pins: &mut Vec<Pin>,
    ) -> Result<Vec<MountPoint>> {
        let mut plan = MountPlan::default();
        for from in &host.volumes_from {
            self.inherit_volumes(from, pins, &mut plan)?;
        }
        for bind in &host.binds {
            let point = match &bind.source {
                BindSource::Path(path) => MountPoint {
                    writable: !bind.read_only,
                    mode: bind.mode.clone(),
                    propagation: Some(bind.propagation.unwrap_or_default()),
                    carry_out: MountDetail {
                        create_source: true,
                        ..MountDetail::default()
                    },
                    ..point(MountKind::Bind, path, &bind.destination)
                },
                BindSource::Volume(_) | BindSource::Anonymous => {
                    let name = match &bind.source {
                        BindSource::Volume(name) => name.clone(),
                        BindSource::Path(_) | BindSource::Anonymous => String::new(),
                    };
                    let request = CreateVolume {
                        name,
                        driver: host.volume_driver.clone(),
                        ..CreateVolume::default()
                    };
                    let mut point = self.volume_point(&request, &bind.destination, sync, pins)?;
                    point.writable = !bind.read_only;
                    point.mode = if bind.mode.is_empty() {
                        "z".to_owned()
                    } else {
                        bind.mode.clone()
                    };
                    point.carry_out.no_copy = bind.no_copy;
                    point
                }
            };
            plan.add_asked(point)?;
        }
        for request in &host.mounts {
            let point = self.requested(request, sync, pins)?;
            plan.add_asked(point)?;
        }
        for (destination, options) in &host.tmpfs {
            let destination = clean_destination(destination)?;
            let mut point = point(MountKind::Tmpfs, Path::new(""), &destination);
            point.carry_out.tmpfs_options = tmpfs_options(options)?;
            point.carry_out.hidden = true;
            plan.add_asked(point)?;
        }
        for destination in &config.volumes {
            // Of an image, or of a `-v` without a source.
            let destination = clean_destination(destination)?;
            if plan.has(&destination) {
                continue;
            }
            let mut point =
                self.volume_point(&CreateVolume::default(), &destination, sync, pins)?;
            point.carry_out.anonymous = true;
            plan.points.push(point);
        }
        Ok(plan.points)
    }

    fn inherit_volumes(&self, from: &str, pins: &mut Vec<Pin>, plan: &mut MountPlan) -> Result<()> {
        let (name, mode) = from.split_once(':').unwrap_or((from, ""));
        let read_only = match mode {
            "" | "rw" | "z" | "Z" => false,
            "ro" => true,
            _ => {
                return Err(Error::invalid(format!(
                    "invalid mode for volumes-from: {mode}"
                )));
            }
        };
        let other = self.registry.find(name)?.record();
        for point in &other.mounts {
            if point.carry_out.hidden {
                continue;
            }
            let mut point = point.clone();
            if point.kind == MountKind::Volume {
                let request = CreateVolume {
                    name: point.name.clone(),
                    ..CreateVolume::default()
                };
                pins.push(self.volumes.ensure(&request, Sync::Durable)?);
            }
            point.writable &= !read_only;
            plan.points
                .retain(|earlier| earlier.destination != point.destination);
            plan.points.push(point);
        }
        Ok(())
    }

    fn volume_point(
        &self,
        request: &CreateVolume,
        destination: &str,
        sync: Sync,
        pins: &mut Vec<Pin>,
    ) -> Result<MountPoint> {
        let sync = if request.name.is_empty() {
            sync
        } else {
            Sync::Durable
        };
        let pin = self.volumes.ensure(request, sync)?;
        let mut point = point(
            MountKind::Volume,
            &self.volumes.data(pin.name()),
            destination,
        );
        pin.name().clone_into(&mut point.name);
        LOCAL.clone_into(&mut point.driver);
        point.carry_out.anonymous = request.name.is_empty();
        pins.push(pin);
        Ok(point)
    }

    fn requested(
        &self,
        request: &MountRequest,
        sync: Sync,
        pins: &mut Vec<Pin>,
    ) -> Result<MountPoint> {
        let destination =
            clean_destination(&request.target).map_err(|e| e.context("invalid mount config"))?;
        let mut point = match &request.kind {
            MountRequestKind::Bind {
                source,
                propagation,
                non_recursive,
                create,
            } => {
                if !source.starts_with('/') {
                    return Err(Error::invalid(format!(
                        "invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be \
                         absolute"
                    )));
                }
                let source = absolute(source);
                if !create && std::fs::symlink_metadata(&source).is_err() {
                    return Err(Error::invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {source}"
                    )));
                }
                let mut point = point(MountKind::Bind, Path::new(&source), &destination);
                point.propagation = Some(propagation.unwrap_or(Propagation::RPrivate));
                point.carry_out.create_source = *create;
                point.carry_out.non_recursive = *non_recursive;
                point
            }
            MountRequestKind::Volume {
                source,
                no_copy,
                subpath,
                labels,
                driver,
                driver_options,
            } => {
                inner_mount::check(subpath, "volume")?;
                let request = CreateVolume {
                    name: source.clone(),
                    driver: driver.clone(),
                    options: driver_options.clone(),
                    labels: labels.clone(),
                };
                let mut point = self.volume_point(&request, &destination, sync, pins)?;
                // As with Docker, a part of a volume is never filled.
                point.carry_out.no_copy = *no_copy || !subpath.is_empty();
                point.carry_out.subpath.clone_from(subpath);
                "z".clone_into(&mut point.mode);
                point
            }
            MountRequestKind::Tmpfs {
                size,
                mode,
                options,
            } => {
                let mut point = point(MountKind::Tmpfs, Path::new(""), &destination);
                point.carry_out.tmpfs_options =
                    vec!["nosuid".into(), "nodev".into(), "noexec".into()];
                if *size > 0 {
                    point.carry_out.tmpfs_options.push(format!("size={size}"));
                }
                let mode = if *mode == 0 { 0o1777 } else { *mode };
                point.carry_out.tmpfs_options.push(format!("mode={mode:o}"));
                for words in options {
                    let option = words.join("=");
                    point
                        .carry_out
                        .tmpfs_options
                        .extend(tmpfs_options(&option)?);
                }
                point
            }
            MountRequestKind::Image { source, subpath } => {
                inner_mount::check(subpath, "image")?;
                let image = self.images.store().find(source)?;
                let mut point = point(MountKind::Image, Path::new(source), &destination);
                point.carry_out.subpath.clone_from(subpath);
                point.carry_out.image = Some(MountedImage {
                    id: image.id,
                    layers: image.diff_ids(),
                });
                point
            }
        };
        // Nobody writes into an image.
        point.writable = !request.read_only && point.kind != MountKind::Image;
        Ok(point)
    }

    /// Fills empty volumes with what the image has in their places.
    fn fill_volumes(
        &self,
        mounts: &[MountPoint],
        image: &Image,
        users: Option<&IdMaps>,
    ) -> Result<()> {
        let mut root = None;
        for point in mounts {
            if point.kind != MountKind::Volume || point.carry_out.no_copy {
                continue;
            }
            if root.is_none() {
                let layers = self.mount_layers(&image.diff_ids())?;
                let store = self.images.store().layers();
                let owners = self.mount_users(users)?;
                let mount = store.overlay_owned(
                    &layers,
                    None,
                    None,
                    Durability::Volatile,
                    owners.as_ref().map(|users| users.owners()),
                )?;
                root = Some(sampan_fs::Root::from_fd(mount));
            }
            if let Some(root) = &root {
                self.volumes.fill(&point.name, root, &point.destination)?;
            }
        }
        Ok(())
    }

    fn cpus(&self) -> usize {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }
}

#[derive(Default)]
struct MountPlan {
    points: Vec<MountPoint>,
    asked: BTreeSet<String>,
}

impl MountPlan {
    /// Adds a mount that was asked for: it goes before inherited ones, but not twice.
    fn add_asked(&mut self, point: MountPoint) -> Result<()> {
        if !self.asked.insert(point.destination.clone()) {
            return Err(Error::invalid(format!(
                "Duplicate mount point: {}",
                point.destination
            )));
        }
        self.points
            .retain(|earlier| earlier.destination != point.destination);
        self.points.push(point);
        Ok(())
    }

    fn has(&self, destination: &str) -> bool {
        self.points
            .iter()
            .any(|point| point.destination == destination)
    }
}

fn point(kind: MountKind, source: &Path, destination: &str) -> MountPoint {
    MountPoint {
        kind,
        name: String::new(),
        source: source.to_path_buf(),
        destination: destination.to_owned(),
        driver: String::new(),
        mode: String::new(),
        writable: true,
        propagation: None,
        carry_out: MountDetail::default(),
    }
}

/// Reads `size=64m,mode=1770`; without a word about it, Docker's protective options hold.
fn tmpfs_options(text: &str) -> Result<Vec<String>> {
    const FLAGS: [&str; 14] = [
        "rw",
        "ro",
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "sync",
        "async",
        "noatime",
        "strictatime",
        "relatime",
        "nodiratime",
    ];
    const VALUES: [&str; 7] = [
        "mode",
        "uid",
        "gid",
        "nr_inodes",
        "nr_blocks",
        "size",
        "mpol",
    ];
    let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let known = match option.split_once('=') {
            Some((name, value)) => VALUES.contains(&name) && !value.is_empty(),
            None => FLAGS.contains(&option),
        };
        if !known || option.contains('\0') {
            return Err(Error::invalid(format!("invalid tmpfs option {option:?}")));
        }
        options.push(option.to_owned());
    }
    Ok(options)
}

/// Completes a configuration from its image's, as Docker does.
pub(crate) fn merge(config: &mut ContainerConfig, image: &RunConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    for port in &image.exposed_ports {
        // Names of strangers: what is no port exposes nothing.
        if let Ok(port) = port.parse() {
            config.exposed_ports.insert(port);
        }
    }
    let own: Vec<String> = std::mem::take(&mut config.env);
    config.env = image
        .env
        .iter()
        .filter(|variable| {
            variable
                .split_once('=')
                .is_some_and(|(name, _)| !name.is_empty())
        })
        .cloned()
        .collect();
    for variable in own {
        if variable.contains('=') {
            spec::set(&mut config.env, &variable);
        } else {
            // Kept as it is, so that it is shown; at the start it takes the variable away.
            let named = format!("{variable}=");
            config.env.retain(|other| !other.starts_with(&named));
            config.env.push(variable);
        }
    }
    if config.entrypoint.is_none() {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        config.entrypoint.clone_from(&image.entrypoint);
    } else if config
        .entrypoint
        .as_ref()
        .is_some_and(|words| words.first().is_some_and(String::is_empty))
    {
        // `--entrypoint ""` takes the image's away.
        config.entrypoint = None;
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    for volume in &image.volumes {
        config.volumes.insert(volume.clone());
    }
    for (name, value) in &image.labels {
        config
            .labels
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.shell.is_none() && !image.shell.is_empty() {
        config.shell = Some(image.shell.clone());
    }
    if let Some(check) = &image.healthcheck {
        let own = config.healthcheck.get_or_insert_default();
        if own.test.is_empty() {
            own.test.clone_from(&check.test);
        }
        for (own, image) in [
            (&mut own.interval, check.interval),
            (&mut own.timeout, check.timeout),
            (&mut own.start_period, check.start_period),
            (&mut own.start_interval, check.start_interval),
            (&mut own.retries, check.retries),
        ] {
            if *own == 0 {
                *own = image;
            }
        }
    }
}

/// Splits the command into program and arguments.
fn command(config: &ContainerConfig) -> Result<(String, Vec<String>)> {
    let entrypoint = config.entrypoint.iter().flatten();
    let mut words = entrypoint.chain(config.cmd.iter().flatten()).cloned();
    match words.next() {
        Some(program) => Ok((program, words.collect())),
        None => Err(Error::invalid("no command specified")),
    }
}

/// What is taken back when a creation fails.
struct UndoCreate<'a> {
    inner: &'a Inner,
    id: &'a ContainerId,
    name: &'a ContainerName,
    volumes: Vec<String>,
    armed: bool,
}

impl Drop for UndoCreate<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        self.inner.registry.release(self.name, self.id);
        let directory = self.inner.paths.container(self.id);
        if directory.exists()
            && let Err(error) = sampan_fs::remove_dir_all(&directory)
        {
            tracing::warn!(container = %self.id, %error, "could not remove what a failed creation left");
        }
        // Volumes that were asked for by name stay, as in Docker.
        self.inner.volumes.remove_unused(&self.volumes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_and_container_are_merged_as_docker_does() {
        let image = RunConfig {
            user: "www".into(),
            env: vec!["A=1".into(), "B=2".into(), "AWS_SECRET".into(), "*".into()],
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["serve".into()]),
            exposed_ports: BTreeSet::from(["80/tcp".into(), "nonsense".into()]),
            ..RunConfig::default()
        };
        let mut config = ContainerConfig {
            env: vec!["B=3".into(), "A".into()],
            ..ContainerConfig::default()
        };
        merge(&mut config, &image);
        assert_eq!(config.env, ["B=3", "A"]);
        assert_eq!(
            command(&config).unwrap(),
            ("/entry".into(), vec!["serve".into()])
        );
        assert_eq!(
            (config.user.as_str(), config.exposed_ports.len()),
            ("www", 1)
        );
        let mut config = ContainerConfig {
            entrypoint: Some(vec!["sh".into()]),
            ..ContainerConfig::default()
        };
        merge(&mut config, &image);
        assert_eq!(command(&config).unwrap(), ("sh".into(), vec![]));
        let mut config = ContainerConfig {
            entrypoint: Some(vec![String::new()]),
            cmd: Some(vec!["ls".into()]),
            ..ContainerConfig::default()
        };
        merge(&mut config, &image);
        assert_eq!(command(&config).unwrap(), ("ls".into(), vec![]));
        assert_eq!(
            command(&ContainerConfig::default()).unwrap_err().message(),
            "no command specified"
        );
    }

    #[test]
    fn tmpfs_options_are_known_ones() {
        assert!(tmpfs_options("size=64m,mode=1770,exec").is_ok());
        for text in ["colour=red", "size=", "bind", "x"] {
            assert!(tmpfs_options(text).is_err(), "{text}");
        }
    }
}
