//! Users of their own: which ids of the host stand for a container's.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_archive::{OwnerMap, OwnerRange};
use sampan_kernel::acting::ActingAs;
use sampan_layers::Owners;
use sampan_oci::runtime::IdMapping;
use serde::{Deserialize, Serialize};

use crate::container::config::{HostConfig, IpcMode, NetworkMode, PidMode};
use crate::shim::Executable;
use crate::{Error, Result};

/// What the kernel takes of ranges (user_namespaces(7)).
const RANGES_MAX: usize = 340;
/// So many namespaces that nobody uses at the moment are kept for mounts to come.
const MOUNT_USERS_KEPT: usize = 16;

/// Ids of a container, and the host's in their place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMaps {
    /// Of users.
    pub users: Vec<IdRange>,
    /// Of groups.
    pub groups: Vec<IdRange>,
}

/// Ids that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    /// The first in the container.
    pub inside: u32,
    /// The first on the host.
    pub host: u32,
    /// How many there are.
    pub count: u32,
}

impl IdMaps {
    /// Which ids of the host stand for user and group 0.
    pub(crate) fn root(&self) -> (u32, u32) {
        self.owners_on_host().map((0, 0))
    }

    /// Makes the calling thread the container's root for a while: nobody else can make files there.
    pub(crate) fn act_as_root(&self) -> std::io::Result<ActingAs> {
        let (user, group) = self.root();
        ActingAs::new(user, group)
    }

    /// Which owners inside those of the host are.
    pub(crate) fn owners_inside(&self) -> OwnerMap {
        self.owners(|range| (range.host, range.inside))
    }

    /// Which owners on the host those inside are.
    pub(crate) fn owners_on_host(&self) -> OwnerMap {
        self.owners(|range| (range.inside, range.host))
    }

    /// Owners in the place of others: each range says first whose place, then who.
    fn owners(&self, turn: fn(&IdRange) -> (u32, u32)) -> OwnerMap {
        let range = |range: &IdRange| {
            let (from, to) = turn(range);
            OwnerRange {
                from,
                to,
                count: range.count,
            }
        };
        OwnerMap {
            users: self.users.iter().map(range).collect(),
            groups: self.groups.iter().map(range).collect(),
        }
    }

    /// In the runtime's form.
    pub(crate) fn mappings(ranges: &[IdRange]) -> Vec<IdMapping> {
        let mapping = |range: &IdRange| IdMapping {
            container_id: range.inside,
            host_id: range.host,
            size: range.count,
        };
        ranges.iter().map(mapping).collect()
    }
}

/// `0:100000:65536`, several with commas between: the same for users and groups.
impl FromStr for IdMaps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ranges: Option<Vec<IdRange>> = text.split(',').map(range).collect();
        let ranges =
            ranges.ok_or("write CONTAINER-ID:HOST-ID:COUNT, several with commas between")?;
        if ranges.len() > RANGES_MAX {
            return Err(format!("the kernel takes at most {RANGES_MAX} ranges"));
        }
        let overlaps = |first: fn(&IdRange) -> u32| {
            let mut sorted: Vec<_> = ranges.iter().map(|r| (first(r), r.count)).collect();
            sorted.sort_unstable();
            sorted.windows(2).any(|two| two[0].0 + two[0].1 > two[1].0)
        };
        if overlaps(|range| range.inside) || overlaps(|range| range.host) {
            return Err("ranges overlap".to_owned());
        }
        if ranges.iter().all(|range| range.inside != 0) {
            return Err("id 0 has nothing to stand for it".to_owned());
        }
        Ok(Self {
            users: ranges.clone(),
            groups: ranges,
        })
    }
}

fn range(text: &str) -> Option<IdRange> {
    let mut numbers = text.split(':').map(|number| number.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    let range = IdRange {
        inside: next()?,
        host: next()?,
        count: next()?,
    };
    let fits = |first: u32| first.checked_add(range.count).is_some();
    (numbers.next().is_none() && range.count > 0 && fits(range.inside) && fits(range.host))
        .then_some(range)
}

impl fmt::Display for IdMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.users.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}:{}", range.inside, range.host, range.count)?;
        }
        Ok(())
    }
}

/// Settles the users of a new container: those of its own wish, or else those that the engine gives
/// to all.
pub(crate) fn settle(host: &HostConfig, all: Option<&IdMaps>) -> Result<Option<IdMaps>> {
    let maps = match host.userns_mode.as_str() {
        "host" => return Ok(None),
        "" => match all {
            Some(maps) => maps.clone(),
            None => return Ok(None),
        },
        mode if mode.starts_with(|c: char| c.is_ascii_digit()) => mode
            .parse()
            .map_err(|why| Error::invalid(format!("invalid user namespace mode: {mode}: {why}")))?,
        mode => {
            return Err(Error::invalid(format!("invalid user namespace mode: {mode}")).with_hint(
                "use host, or ranges of ids such as 0:100000:65536 (in the container, on the host, how many)",
            ));
        }
    };
    if host.privileged {
        return Err(Error::invalid(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host \
             namespace when running privileged mode",
        ));
    }
    if host.network_mode == NetworkMode::Host {
        return Err(Error::invalid(
            "cannot share the host's network namespace when user namespaces are enabled",
        ));
    }
    if host.pid_mode == PidMode::Host {
        return Err(Error::invalid(
            "cannot share the host PID namespace when user namespaces are enabled",
        ));
    }
    if host.ipc_mode == IpcMode::Host {
        return Err(Error::invalid(
            "cannot share the host IPC namespace when user namespaces are enabled",
        ));
    }
    Ok(Some(maps))
}

/// How mounts show files as those of a container's users.
#[derive(Debug)]
pub(crate) struct MountUser {
    namespace: OwnedFd,
    root: (u32, u32),
}

impl MountUser {
    pub(crate) fn owners(&self) -> Owners<'_> {
        Owners {
            users: self.namespace.as_fd(),
            root: self.root,
        }
    }
}

/// Namespaces of users that only mounts refer to, made once for all that have the same ids.
#[derive(Debug, Default)]
pub(crate) struct MountUsers {
    known: Mutex<HashMap<IdMaps, Arc<MountUser>>>,
}

impl MountUsers {
    /// The namespace for these ids. Blocks.
    pub(crate) fn of(&self, maps: &IdMaps, shim: &Executable) -> Result<Arc<MountUser>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(namespace) = known.get(maps) {
            return Ok(namespace.clone());
        }
        let made = Arc::new(MountUser {
            namespace: shim.user_namespaces(maps)?.user,
            root: maps.root(),
        });
        if known.len() >= MOUNT_USERS_KEPT {
            known.retain(|_, user| Arc::strong_count(user) > 1);
        }
        known.insert(maps.clone(), made.clone());
        Ok(made)
    }
}

/// A namespace of users and one of its networks, which nobody is in yet.
#[derive(Debug)]
pub(crate) struct UserNamespaces {
    pub(crate) user: OwnedFd,
    pub(crate) network: OwnedFd,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_lead_both_ways() {
        let maps: IdMaps = "0:100000:1000,1000:5000:1".parse().unwrap();
        assert_eq!(maps.to_string(), "0:100000:1000,1000:5000:1");
        assert_eq!(maps.root(), (100_000, 100_000));
        assert_eq!(maps.owners_on_host().map((1000, 1001)), (5000, 65_534));
        assert_eq!(maps.owners_inside().map((5000, 100_001)), (1000, 1));
        for bad in [
            "",
            "0",
            "0:1",
            "0:1:0",
            "0:1:2:3",
            "1:0:5",
            "0:1:4294967295",
            "0:10:5,3:100:5",
            "0:10:5,5:12:5",
            "auto",
        ] {
            assert!(bad.parse::<IdMaps>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_go_together_is_refused_in_dockers_words() {
        let all: IdMaps = "0:100000:65536".parse().unwrap();
        let settled = |change: fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            settle(&host, Some(&all))
        };
        assert_eq!(settled(|_| ()).unwrap(), Some(all.clone()));
        assert_eq!(
            settled(|host| host.userns_mode = "host".into()).unwrap(),
            None
        );
        let own = settled(|host| host.userns_mode = "0:5:5".into())
            .unwrap()
            .unwrap();
        assert_eq!(own.root(), (5, 5));
        type Change = fn(&mut HostConfig);
        let refused: [(Change, &str); 4] = [
            (
                |host| host.privileged = true,
                "privileged mode is incompatible",
            ),
            (
                |host| host.network_mode = NetworkMode::Host,
                "cannot share the host's network namespace",
            ),
            (
                |host| host.pid_mode = PidMode::Host,
                "cannot share the host PID",
            ),
            (
                |host| host.userns_mode = "auto".into(),
                "invalid user namespace mode: auto",
            ),
        ];
        for (change, words) in refused {
            let error = settled(change).unwrap_err();
            assert!(error.message().contains(words), "{}", error.message());
        }
        assert_eq!(settle(&HostConfig::default(), None).unwrap(), None);
    }
}
