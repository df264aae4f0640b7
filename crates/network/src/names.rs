//! Everything whose name follows from the run root, so that engines live side by side.

use std::net::Ipv4Addr;
use std::path::{Component, Path};

use crate::error::{Error, Result};
use crate::interface::InterfaceName;
use crate::subnet::Subnet;

/// The run root whose engine has the plain names.
const DEFAULT_RUN_ROOT: &str = "/run/sampan";

/// Names of one engine's network objects.
///
/// The engine of `/run/sampan` has `sampan0` and `sampan`; any other has
/// `sampan-<6 hex digits of a hash of the run root>` for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkNames {
    instance: String,
    bridge: InterfaceName,
    rotation: usize,
}

impl NetworkNames {
    /// Derives the names from an absolute run root. Symbolic links are not followed.
    #[must_use]
    pub fn for_run_root(run_root: &Path) -> Self {
        let plain: std::path::PathBuf = run_root
            .components()
            .filter(|part| !matches!(part, Component::CurDir))
            .collect();
        let (instance, bridge, rotation) = if plain == Path::new(DEFAULT_RUN_ROOT) {
            ("sampan".to_owned(), "sampan0".to_owned(), 0)
        } else {
            let hash = fnv1a(plain.as_os_str().as_encoded_bytes());
            let short = (hash ^ (hash >> 32)) & 0x00ff_ffff;
            let instance = format!("sampan-{short:06x}");
            let rotation = usize::try_from(short).expect("24 bits fit");
            (instance.clone(), instance, rotation)
        };
        let bridge = bridge.parse().expect("at most 13 plain characters");
        Self {
            instance,
            bridge,
            rotation,
        }
    }

    /// Returns the engine's own name, `sampan` or `sampan-<6 hex>`; also the
    /// name for its cgroup parent.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Returns the name of the default bridge.
    #[must_use]
    pub fn bridge(&self) -> &InterfaceName {
        &self.bridge
    }

    /// Returns the name of the nftables table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.instance
    }

    /// Returns the subnets that the default bridge may take, best first: Docker's
    /// pools, and for hosts with dozens of engines or few free routes the upper
    /// half of 10.0.0.0/8; each begun at a place of this engine's own.
    #[must_use]
    pub fn subnet_candidates(&self) -> Vec<Subnet> {
        let v4 = |a, b, c, prefix| Subnet::v4(Ipv4Addr::new(a, b, c, 0), prefix);
        let mut wide: Vec<Subnet> = (17..=31).map(|b| v4(172, b, 0, 16)).collect();
        let mut narrow: Vec<Subnet> = (0..16).map(|c| v4(192, 168, c * 16, 20)).collect();
        let mut last: Vec<Subnet> = (128..=255)
            .flat_map(|b| (0..16).map(move |c| v4(10, b, c * 16, 20)))
            .collect();
        for pool in [&mut wide, &mut narrow, &mut last] {
            let count = pool.len();
            pool.rotate_left(self.rotation % count);
        }
        [wide, narrow, last].concat()
    }

    /// Chooses the first candidate that overlaps none of `taken`.
    ///
    /// # Errors
    /// When none is left.
    pub fn choose_subnet(&self, taken: &[Subnet]) -> Result<Subnet> {
        self.subnet_candidates()
            .into_iter()
            .find(|candidate| !taken.iter().any(|other| other.overlaps(candidate)))
            .ok_or(Error::SubnetsExhausted)
    }
}

/// FNV-1a: the names must be the same for every build, which the standard
/// library's hasher does not promise.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_run_root_has_plain_names() {
        for path in ["/run/sampan", "/run/sampan/", "/run/./sampan"] {
            let names = NetworkNames::for_run_root(Path::new(path));
            assert_eq!(names.bridge().as_str(), "sampan0");
            assert_eq!(names.table(), "sampan");
            assert_eq!(names.subnet_candidates()[0].to_string(), "172.17.0.0/16");
        }
    }

    #[test]
    fn other_run_roots_differ_and_stay() {
        let a = NetworkNames::for_run_root(Path::new("/tmp/a"));
        let b = NetworkNames::for_run_root(Path::new("/tmp/b"));
        assert_ne!(a, b);
        assert_eq!(a, NetworkNames::for_run_root(Path::new("/tmp/a/")));
        assert!(a.bridge().as_str().starts_with("sampan-") && a.bridge().as_str().len() == 13);
    }

    #[test]
    fn taken_subnets_are_skipped() {
        let names = NetworkNames::for_run_root(Path::new("/run/sampan"));
        let docker: Subnet = "172.17.0.0/16".parse().unwrap();
        assert_eq!(
            names.choose_subnet(&[docker]).unwrap().to_string(),
            "172.18.0.0/16"
        );
        let private: Subnet = "172.16.0.0/12".parse().unwrap();
        assert_eq!(
            names.choose_subnet(&[private]).unwrap().to_string(),
            "192.168.0.0/20"
        );
        let home: Subnet = "192.168.0.0/16".parse().unwrap();
        assert_eq!(
            names.choose_subnet(&[private, home]).unwrap().to_string(),
            "10.128.0.0/20"
        );
        let all: Subnet = "0.0.0.0/0".parse().unwrap();
        assert!(matches!(
            names.choose_subnet(&[all]),
            Err(Error::SubnetsExhausted)
        ));
    }
}
