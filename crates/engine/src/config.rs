//! What an engine is told when it is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sampan_images::Proxies;
use sampan_images::settings::{Fixed, SettingsSource};

use crate::fail_point::FailPoints;

/// What an engine is told when it is opened.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of what lasts, such as `/var/lib/sampan`.
    pub root: PathBuf,
    /// Directory of what goes with a reboot, such as `/run/sampan`. The names of bridge, firewall
    /// table and cgroups are derived from it.
    pub run: PathBuf,
    /// The shim's executable. It is copied into sealed memory when the engine opens.
    pub shim: PathBuf,
    /// Version to show.
    pub version: String,
    /// How long a stop waits where neither request nor container say so.
    pub stop_timeout: Duration,
    /// How layers are kept and mounted.
    pub layers: sampan_layers::Options,
    /// When images are removed by themselves.
    pub collector: crate::CollectorConfig,
    /// Images that come with the engine.
    pub bundled: Vec<crate::Bundled>,
    /// What is said of registries, asked before each pull.
    pub registries: Arc<dyn SettingsSource>,
    /// Proxies on the way to registries.
    pub proxies: Proxies,
    /// By what containers are made.
    pub runtimes: crate::Runtimes,
    /// Users of all containers that do not ask for others; none are the host's.
    pub users: Option<crate::IdMaps>,
    /// Where vendors describe devices.
    pub cdi: crate::Cdi,
    /// Who makes containers' control groups.
    pub cgroup_driver: crate::CgroupDriver,
    /// Control group of containers that name none; empty for one of the engine's own, or, with
    /// systemd, its usual slice.
    pub cgroup_parent: String,
    /// How many starts are prepared ahead at most; 0 prepares none.
    pub warm_slots: usize,
    /// Steps at which to fail, in tests.
    pub fail_points: FailPoints,
}

impl Config {
    /// Makes the configuration with the defaults.
    pub fn new(
        root: impl Into<PathBuf>,
        run: impl Into<PathBuf>,
        shim: impl Into<PathBuf>,
    ) -> Self {
        Self {
            root: root.into(),
            run: run.into(),
            shim: shim.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stop_timeout: Duration::from_secs(10),
            layers: sampan_layers::Options::default(),
            collector: crate::CollectorConfig::default(),
            bundled: Vec::new(),
            registries: Arc::new(Fixed::default()),
            proxies: Proxies::default(),
            runtimes: crate::Runtimes::default(),
            users: None,
            cdi: crate::Cdi::default(),
            cgroup_driver: crate::CgroupDriver::default(),
            cgroup_parent: String::new(),
            warm_slots: crate::WARM_SLOTS,
            fail_points: FailPoints::default(),
        }
    }
}
