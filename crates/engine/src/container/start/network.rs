//! The network of a container that is being started, and the files that tell of it.

use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::io::Errno;
use sampan_network::{DnsOptions, Hosts, NetworkNamespace};
use sampan_oci::runtime::Mount;
use sampan_state::Sync;

use super::restarting;
use crate::container::config::NetworkMode;
use crate::container::id::ContainerId;
use crate::container::lifecycle::Lifecycle;
use crate::container::record::Record;
use crate::container::registry::Container;
use crate::container::service::Inner;
use crate::container::spec::{self, bind};
use crate::container::view::{Endpoint, NetworkState};
use crate::container::{resolver_file, validate};
use crate::network::{BRIDGE, Connected, Place};
use crate::{Error, Result};

pub(super) struct Network {
    pub(super) namespace: Option<NetworkNamespace>,
    pub(super) state: NetworkState,
    pub(super) held: Vec<OwnedFd>,
    pub(super) mounts: Vec<Mount>,
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

impl Inner {
    /// Notes what a start has made of the network: for the caller, who takes it back should the
    /// start fail, and for the next engine, should this one die from here on. Blocks.
    pub(super) fn note_network(&self, container: &Container, state: &NetworkState) -> Result<()> {
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

    /// Gives the container its network and writes the files that tell of it.
    pub(super) fn prepare_network(
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
}

impl NetworkState {
    /// Returns the state without what only exists while the container runs.
    pub(crate) fn disconnected(&self) -> Self {
        Self {
            endpoints: self
                .endpoints
                .iter()
                .map(|(name, endpoint)| {
                    let rest = Endpoint {
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
