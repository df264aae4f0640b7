//! Network namespaces of containers.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::{io, mem};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use sampan_kernel::clone::{Namespaces, setns, unshare};

use crate::error::{Error, Result};
use crate::netlink::{NetlinkSocket, Request, Subsystem};

/// Settings of a new namespace: unprivileged programs may bind any port and
/// send pings, interfaces announce their address when they come up (a restarted
/// container has its old address and a new MAC), and have no IPv6 until a
/// network has it. The loopback interface is older than these defaults and
/// keeps `::1`.
const SETTINGS: [(&str, &str, Need); 4] = [
    (
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        "0",
        Need::Must,
    ),
    (
        "/proc/sys/net/ipv4/ping_group_range",
        "0 2147483647",
        Need::Must,
    ),
    (
        "/proc/sys/net/ipv4/conf/default/arp_notify",
        "1",
        Need::Must,
    ),
    (
        "/proc/sys/net/ipv6/conf/default/disable_ipv6",
        "1",
        Need::WhereThere,
    ),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    /// A kernel without IPv6 has no such setting.
    WhereThere,
}

/// A network namespace, held by a descriptor and nothing else: it ends when
/// the last descriptor, socket and process in it are gone.
#[derive(Debug)]
pub struct NetworkNamespace {
    descriptor: OwnedFd,
    /// A route socket inside, opened while a thread of ours was there anyway.
    route: Mutex<Option<NetlinkSocket>>,
}

impl NetworkNamespace {
    /// Makes a namespace with the loopback interface up and the settings of a
    /// container. Blocks for about a millisecond; [`Pool`](crate::Pool) keeps ready ones.
    ///
    /// # Errors
    /// When the kernel refuses, or the caller lacks `CAP_SYS_ADMIN`.
    pub fn new() -> Result<Self> {
        in_thread(|| {
            unshare(Namespaces::NETWORK).map_err(|source| Error::Namespace {
                step: "make a",
                source,
            })?;
            prepare_here()
        })
    }

    /// Takes a namespace that was just made, and gives it what [`NetworkNamespace::new`] gives.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn adopt(namespace: OwnedFd) -> Result<Self> {
        in_thread(move || {
            setns(namespace.as_fd(), Namespaces::NETWORK).map_err(|source| Error::Namespace {
                step: "enter a",
                source,
            })?;
            prepare_here()
        })
    }

    /// Returns the namespace the calling thread is in (`--network host`).
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn host() -> Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Returns the namespace of a running process (`--network container:ID`).
    ///
    /// The caller makes sure that `pid` is still the process it means, for
    /// example by holding its pidfd and looking at it afterwards.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of_pid(pid: u32) -> Result<Self> {
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    fn open(path: &str) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::Namespace {
            step: "open the",
            source,
        })?;
        Ok(Self::from(OwnedFd::from(file)))
    }

    /// Makes a second handle of the same namespace.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        let copy = self.descriptor.try_clone();
        copy.map(Self::from).map_err(|source| Error::Namespace {
            step: "copy the descriptor of a",
            source,
        })
    }

    /// Returns the bare descriptor, for the shim.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.descriptor
    }

    /// Runs `work` on a short-lived thread inside this namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let descriptor = self.as_fd();
        in_thread(move || {
            setns(descriptor, Namespaces::NETWORK).map_err(|source| Error::Namespace {
                step: "enter the",
                source,
            })?;
            work()
        })
    }

    /// Gives the route socket inside this namespace to `work`.
    pub(crate) fn with_route<T>(
        &self,
        work: impl FnOnce(&mut NetlinkSocket) -> Result<T>,
    ) -> Result<T> {
        let mut route = self.route.lock().unwrap_or_else(PoisonError::into_inner);
        if route.is_none() {
            *route = Some(self.run(open_route)?);
        }
        let socket = route.as_mut().expect("opened above");
        work(socket)
    }

    /// Closes the route socket, which keeps the namespace alive like any other.
    pub(crate) fn close_route(&self) {
        drop(mem::take(
            &mut *self.route.lock().unwrap_or_else(PoisonError::into_inner),
        ));
    }
}

impl From<OwnedFd> for NetworkNamespace {
    fn from(descriptor: OwnedFd) -> Self {
        Self {
            descriptor,
            route: Mutex::new(None),
        }
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Sets up the namespace that the calling thread has just made.
fn prepare_here() -> Result<NetworkNamespace> {
    let mut route = open_route()?;
    loopback_up(&mut route)?;
    for (path, value, need) in SETTINGS {
        match write_sysctl(path, value) {
            Err(Error::Sysctl { source, .. })
                if need == Need::WhereThere && source.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    let namespace = NetworkNamespace::host()?;
    Ok(NetworkNamespace {
        route: Mutex::new(Some(route)),
        ..namespace
    })
}

fn open_route() -> Result<NetlinkSocket> {
    NetlinkSocket::open(Subsystem::Route).map_err(Error::OpenNetlink)
}

fn loopback_up(route: &mut NetlinkSocket) -> Result<()> {
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes.push(LinkAttribute::IfName("lo".to_owned()));
    let requests: Vec<Request<_>> = vec![(RouteNetlinkMessage::SetLink(link), 0)];
    route.execute(requests).map_err(|refusal| Error::Namespace {
        step: "bring up the loopback interface of a",
        source: io::Error::other(refusal.fault),
    })
}

pub(crate) fn write_sysctl(path: &str, value: &str) -> Result<()> {
    fs::write(path, value).map_err(|source| Error::Sysctl {
        name: path.to_owned(),
        source,
    })
}

/// Runs `work` on a thread of its own, which may change its namespaces
/// without the process noticing.
fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, work)
            .map_err(|source| Error::Namespace {
                step: "start a thread for a",
                source,
            })?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
