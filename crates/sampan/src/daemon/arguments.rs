//! The arguments of `sampan daemon`.

use std::os::fd::RawFd;
use std::time::Duration;

use sampan_engine::images::{Budget, Mark};
use sampan_engine::{CollectorConfig, WARM_SLOTS};
use sampan_layers::{Driver, Mounts};
use sampan_server::TlsFiles;

use super::Paths;
use super::containers::ContainerSettings;
use super::host::{Host, TlsArguments};
use super::registries::Places;

pub(super) const HELP: &str = "\
Usage:  sampan daemon [OPTIONS]

Run the engine. Containers run on when it ends or is killed.

Options:
      --add-runtime NAME=PATH
                           Another program that containers can be made by, with
                           runc's command line; runc and crun are found by name
      --cdi-spec-dir list  Where vendors describe devices, a later one going
                           before an earlier one (default /etc/cdi and
                           /var/run/cdi)
      --certs-dir string   Certificates of registries, as HOST:PORT/*.crt and
                           *.cert with *.key (default \"/etc/docker/certs.d\")
      --cgroup-parent string
                           Control group in which containers have theirs, from
                           the top (default: one of the engine's own); with
                           systemd a slice (default \"system.slice\")
      --config-file string Docker's configuration file, of which registry-mirrors
                           and insecure-registries are used (default
                           \"/etc/docker/daemon.json\")
      --default-runtime string
                           Runtime of containers that name none (default
                           \"sampan\", which is linked in)
      --docker-socket      Also listen on /run/docker.sock
      --exec-opt list      native.cgroupdriver=cgroupfs, which is the default, or
                           native.cgroupdriver=systemd: systemd makes a scope
                           for each container
  -G, --group string       Group that may use the socket (default \"sampan\" or \"docker\")
      --help               Print usage
  -H, --host list          Socket to listen on: unix://PATH, tcp://ADDRESS:PORT,
                           or fd:// for a socket of systemd (default
                           unix://RUN/sampan.sock)
      --insecure-registry list
                           Registry or network of registries that may be insecure
      --insecure-tcp       Listen on tcp:// without TLS, for programs of this
                           machine only: whoever connects has all powers over it
      --layer-driver string
                           How layers are kept: erofs (not unpacked), directory,
                           or auto, by what the kernel can (default \"auto\")
      --layer-mounts string
                           Where layers are mounted: detached, attached (below
                           the root directory), or auto, by what the kernel can
                           (default \"auto\")
      --build-cache SIZE   What is kept for builds may take so much: a size, a
                           percentage of the file system, or \"off\" for no
                           limit (default \"75%\")
      --image-gc-high MARK Begin to remove unused images above this: a size of
                           all images (\"50g\"), or how full the file system is
                           (default \"90%\"; \"off\" never begins)
      --image-gc-low MARK  Remove unused images down to this (default \"80%\")
      --image-gc-min-age duration
                           Keep images used so lately (default 24h)
      --image-gc-tagged    Remove tagged images, too, that no container uses
  -l, --log-level string   error, warn, info, debug or trace (default \"info\")
      --registries string  Configuration of registries (default
                           \"/etc/sampan/registries.toml\" or $SAMPAN_REGISTRIES)
      --registry-mirror list
                           Mirror of Docker Hub
      --root string        Directory of the persistent state (default
                           \"/var/lib/sampan\" or $SAMPAN_ROOT)
      --run string         Directory of the volatile state (default
                           \"/run/sampan\" or $SAMPAN_RUN)
      --userns-remap string
                           Users of containers: \"default\", USER[:GROUP] or
                           UID:GID, whose subordinate ids stand for theirs
      --warm-slots int     How many starts are prepared ahead at most, while
                           containers are being started (default 20; 0 none)
";

/// What `sampan daemon` was asked to do.
#[derive(Debug)]
pub(super) enum Parsed {
    Help,
    Run(Box<Settings>),
}

/// How to run.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) mode: Mode,
    pub(super) paths: Paths,
    pub(super) hosts: Vec<Host>,
    /// How what comes by TCP is encrypted.
    pub(super) tls: Option<TlsFiles>,
    pub(super) group: Option<String>,
    pub(super) log_level: String,
    pub(super) layers: Layers,
    /// When images are removed by themselves.
    pub(super) collector: CollectorConfig,
    /// The arguments that said so, for the other of the two processes.
    pub(super) collector_arguments: Vec<String>,
    pub(super) containers: ContainerSettings,
    pub(super) registries: Places,
    /// How many starts are prepared ahead at most.
    pub(super) warm_slots: usize,
    /// Whether it takes the place of one that was killed: then nobody is there to be told of a
    /// mistake in a file, and what can run runs.
    pub(super) comes_back: bool,
}

/// How layers are kept and mounted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layers {
    pub(super) driver: Driver,
    pub(super) mounts: Mounts,
}

impl Layers {
    fn set_driver(&mut self, name: &str) -> Result<(), String> {
        self.driver = match name {
            "auto" => Driver::Auto,
            "erofs" => Driver::TarIndex,
            "directory" => Driver::Directory,
            other => {
                return Err(format!(
                    "invalid layer driver {other:?}: use erofs, directory or auto"
                ));
            }
        };
        Ok(())
    }

    fn set_mounts(&mut self, name: &str) -> Result<(), String> {
        self.mounts = match name {
            "auto" => Mounts::Auto,
            "detached" => Mounts::Detached,
            "attached" => Mounts::Attached,
            other => {
                return Err(format!(
                    "invalid place for layer mounts {other:?}: use detached, attached or auto"
                ));
            }
        };
        Ok(())
    }

    /// What hands these on.
    pub(super) fn arguments(self) -> [&'static str; 4] {
        let driver = match self.driver {
            Driver::Auto => "auto",
            Driver::TarIndex => "erofs",
            Driver::Directory => "directory",
        };
        let mounts = match self.mounts {
            Mounts::Auto => "auto",
            Mounts::Detached => "detached",
            Mounts::Attached => "attached",
        };
        ["--layer-driver", driver, "--layer-mounts", mounts]
    }
}

/// Which of the two processes this is.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    /// Holds the sockets and keeps an engine running behind them.
    Keeper,
    /// The engine, given the sockets as open descriptors.
    Engine {
        listeners: Vec<RawFd>,
        /// A socket whose other end the keeper holds.
        keeper: Option<RawFd>,
    },
}

/// More than a machine starts at once.
const MOST_WARM_SLOTS: usize = 200;

/// Where systemd's descriptors begin (sd_listen_fds(3)).
const FIRST_SYSTEMD_DESCRIPTOR: RawFd = 3;

pub(super) fn parse(arguments: &[String]) -> Result<Parsed, String> {
    let mut paths = Paths::from_environment();
    let mut hosts = Vec::new();
    let mut group = None;
    let mut docker_socket = false;
    let mut log_level = "info".to_owned();
    let mut layers = Layers::default();
    let mut listeners = None;
    let mut keeper = None;
    let mut collector = CollectorArguments::default();
    let mut containers = ContainerSettings::from_environment();
    let mut registries = Places::from_environment();
    let mut comes_back = false;
    let mut warm_slots = WARM_SLOTS;
    let mut tls = TlsArguments::from_environment();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with('-') => (name, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = || {
            inline
                .clone()
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| format!("flag needs an argument: {name}"))
        };
        match name {
            "--help" | "-h" => return Ok(Parsed::Help),
            "--root" => paths.root = value()?.into(),
            "--run" => paths.run = value()?.into(),
            "--host" | "-H" => hosts.push(value()?),
            "--group" | "-G" => group = Some(value()?),
            "--docker-socket" => docker_socket = true,
            "--log-level" | "-l" => log_level = value()?,
            "--layer-driver" => layers.set_driver(&value()?)?,
            "--layer-mounts" => layers.set_mounts(&value()?)?,
            "--build-cache" => collector.cache = Some(value()?),
            "--image-gc-high" => collector.high = Some(value()?),
            "--image-gc-low" => collector.low = Some(value()?),
            "--image-gc-min-age" => collector.min_age = Some(value()?),
            "--image-gc-tagged" => collector.tagged = inline.as_deref() != Some("false"),
            name if ContainerSettings::has(name) => containers.set(name, &value()?)?,
            "--registries" => registries.registries = value()?.into(),
            "--certs-dir" => registries.certificates = value()?.into(),
            "--config-file" => {
                registries.docker = value()?.into();
                registries.docker_is_named = true;
            }
            "--registry-mirror" => registries.mirrors.push(value()?),
            "--insecure-registry" => registries.insecure.push(value()?),
            "--warm-slots" => {
                let text = value()?;
                warm_slots = text
                    .parse()
                    .ok()
                    .filter(|number| *number <= MOST_WARM_SLOTS)
                    .ok_or_else(|| {
                        format!(
                            "invalid --warm-slots {text:?}: write a number up to {MOST_WARM_SLOTS}"
                        )
                    })?;
            }
            "--comes-back" => comes_back = true,
            "--tls" => tls.on = inline.as_deref() != Some("false"),
            "--tlsverify" => tls.verify = inline.as_deref() != Some("false"),
            "--tlscacert" => tls.authority = value()?.into(),
            "--tlscert" => tls.certificate = value()?.into(),
            "--tlskey" => tls.key = value()?.into(),
            "--insecure-tcp" => tls.insecure = inline.as_deref() != Some("false"),
            // Between the keeper and the engine only.
            "--listener-descriptors" => listeners = Some(descriptors(&value()?)?),
            "--keeper-descriptor" => keeper = descriptors(&value()?)?.first().copied(),
            other => return Err(format!("unknown argument: {other}")),
        }
    }
    if !["error", "warn", "info", "debug", "trace"].contains(&log_level.as_str()) {
        return Err(format!(
            "invalid log level {log_level:?}: use error, warn, info, debug or trace"
        ));
    }
    if hosts.is_empty()
        && let Ok(host) = std::env::var("SAMPAN_HOST")
        && !host.is_empty()
    {
        hosts.push(host);
    }
    for path in [
        &mut paths.root,
        &mut paths.run,
        &mut registries.registries,
        &mut registries.certificates,
        &mut registries.docker,
    ] {
        *path = std::path::absolute(&*path).map_err(|error| error.to_string())?;
    }
    let mut places = Vec::new();
    for host in &hosts {
        if host == "fd://" {
            listeners = Some(systemd_descriptors()?);
        } else {
            places.push(Host::parse(host, tls.is_on())?);
        }
    }
    // Without a socket no command of this machine would find the engine.
    if !places.iter().any(|host| matches!(host, Host::Unix(_))) {
        places.insert(0, Host::Unix(paths.socket()));
    }
    if docker_socket {
        places.push(Host::Unix("/run/docker.sock".into()));
    }
    containers.check()?;
    tls.check(&places)?;
    let mode = match listeners {
        Some(listeners) => Mode::Engine { listeners, keeper },
        None => Mode::Keeper,
    };
    Ok(Parsed::Run(Box::new(Settings {
        mode,
        paths,
        hosts: places,
        tls: tls.files(),
        group,
        log_level,
        layers,
        collector: collector.config()?,
        collector_arguments: collector.passed_on(),
        containers,
        registries,
        warm_slots,
        comes_back,
    })))
}

/// How `--image-gc-*` were given.
#[derive(Default)]
struct CollectorArguments {
    cache: Option<String>,
    high: Option<String>,
    low: Option<String>,
    min_age: Option<String>,
    tagged: bool,
}

impl CollectorArguments {
    fn config(&self) -> Result<CollectorConfig, String> {
        let mut config = CollectorConfig::default();
        let mark = |text: &String| {
            text.parse::<Mark>()
                .map_err(|error| format!("--image-gc: {error}"))
        };
        let high = self.high.as_ref().filter(|text| *text != "off");
        config.budget = match (high, &self.low, config.budget) {
            (None, _, _) if self.high.is_some() => None,
            (None, None, default) => default,
            (Some(high), Some(low), _) => Some(Budget {
                high: mark(high)?,
                low: mark(low)?,
            }),
            _ => {
                return Err("--image-gc-high and --image-gc-low are given together".to_owned());
            }
        };
        let wrong_way = match config.budget.map(|budget| (budget.high, budget.low)) {
            Some((Mark::Bytes(high), Mark::Bytes(low))) => low > high,
            Some((Mark::Percent(high), Mark::Percent(low))) => low > high,
            _ => false,
        };
        if wrong_way {
            return Err("--image-gc-low is above --image-gc-high".to_owned());
        }
        if let Some(text) = &self.min_age {
            let age = crate::cli::go_duration(text)
                .and_then(|age| Duration::try_from(age).ok())
                .ok_or_else(|| format!("invalid --image-gc-min-age {text:?}: write 24h or 30m"))?;
            config.policy.min_age = age;
        }
        config.policy.tagged = self.tagged;
        if let Some(text) = &self.cache {
            let limit = text
                .parse()
                .map_err(|error| format!("--build-cache: {error}"));
            config.cache = match text.as_str() {
                "off" => None,
                _ => Some(limit?),
            };
        }
        Ok(config)
    }

    fn passed_on(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let values = [
            ("--build-cache", &self.cache),
            ("--image-gc-high", &self.high),
            ("--image-gc-low", &self.low),
            ("--image-gc-min-age", &self.min_age),
        ];
        for (name, value) in values {
            if let Some(value) = value {
                arguments.extend([name.to_owned(), value.clone()]);
            }
        }
        if self.tagged {
            arguments.push("--image-gc-tagged".to_owned());
        }
        arguments
    }
}

fn descriptors(list: &str) -> Result<Vec<RawFd>, String> {
    list.split(',')
        .map(|number| {
            let number: RawFd = number.parse().map_err(|_| number)?;
            (number > 2).then_some(number).ok_or("0 to 2")
        })
        .collect::<Result<_, _>>()
        .map_err(|bad| format!("not the number of a passed descriptor: {bad}"))
}

/// The descriptors that systemd passed to this very process.
fn systemd_descriptors() -> Result<Vec<RawFd>, String> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let count = number("LISTEN_FDS").filter(|count| *count > 0);
    match (number("LISTEN_PID"), count) {
        (Some(pid), Some(count)) if pid == std::process::id() => {
            let count = RawFd::try_from(count).map_err(|error| error.to_string())?;
            Ok((FIRST_SYSTEMD_DESCRIPTOR..FIRST_SYSTEMD_DESCRIPTOR + count).collect())
        }
        _ => Err("--host fd:// needs a socket passed by systemd, and there is none".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        match parse(&arguments)? {
            Parsed::Run(settings) => Ok(*settings),
            Parsed::Help => Err("help".into()),
        }
    }

    #[test]
    fn sockets_follow_the_run_directory() {
        let settings = settings(&["--run=/r", "--root", "/s"]).unwrap();
        assert_eq!(settings.hosts, [Host::Unix("/r/sampan.sock".into())]);
        assert!(matches!(settings.mode, Mode::Keeper));
    }

    #[test]
    fn hosts_that_cannot_be_served_are_refused() {
        for bad in ["tcp://0.0.0.0:1", "unix://a", "/a", "http://x", "fd://"] {
            assert!(settings(&["-H", bad]).is_err(), "{bad} was taken");
        }
        assert!(settings(&["--bogus"]).is_err());
        assert!(settings(&["--log-level", "loud"]).is_err());
        assert!(settings(&["--root"]).is_err());
        assert!(settings(&["--warm-slots", "many"]).is_err());
        assert!(settings(&["--warm-slots", "1000000"]).is_err());
        assert!(settings(&["--layer-driver", "overlay2"]).is_err());
        assert!(settings(&["--layer-mounts", "/mnt"]).is_err());
        for runtime in ["x", "=/x", "x=y", "sampan=/x", "a/b=/x", "x="] {
            assert!(settings(&["--add-runtime", runtime]).is_err(), "{runtime}");
        }
        assert!(settings(&["--default-runtime", "x"]).is_err());
        let added = settings(&["--default-runtime=x", "--add-runtime=x=/x --debug"]).unwrap();
        let x = &added.containers.runtimes.added["x"];
        assert_eq!(
            (&*x.path, &*x.arguments),
            ("/x".as_ref(), &["--debug".to_owned()][..])
        );
        let passed: Vec<&str> = added
            .containers
            .arguments
            .iter()
            .map(String::as_str)
            .collect();
        assert_eq!(
            settings(&passed).unwrap().containers.runtimes,
            added.containers.runtimes
        );
    }

    #[test]
    fn the_budget_of_images_is_read_and_passed_on() {
        let plain = settings(&[]).unwrap();
        assert_eq!(plain.collector, CollectorConfig::default());
        assert!(plain.collector_arguments.is_empty());
        let off = settings(&["--image-gc-high", "off"]).unwrap();
        assert_eq!(off.collector.budget, None);
        let given = [
            "--image-gc-high=50g",
            "--image-gc-low=60%",
            "--image-gc-min-age=90m",
            "--image-gc-tagged",
            "--build-cache=5g",
        ];
        let given = settings(&given).unwrap();
        assert_eq!(given.collector.cache, Some(Mark::Bytes(5 << 30)));
        let budget = given.collector.budget.unwrap();
        assert_eq!(budget.high, Mark::Bytes(50 << 30));
        assert_eq!(budget.low, Mark::Percent(60));
        assert_eq!(given.collector.policy.min_age, Duration::from_secs(5400));
        assert!(given.collector.policy.tagged);
        let passed: Vec<&str> = given
            .collector_arguments
            .iter()
            .map(String::as_str)
            .collect();
        assert_eq!(settings(&passed).unwrap().collector, given.collector);
        for bad in [
            &["--image-gc-high", "9x", "--image-gc-low", "1"][..],
            &["--image-gc-high", "50%"],
            &["--image-gc-low", "50%"],
            &["--image-gc-high", "50%", "--image-gc-low", "60%"],
            &["--image-gc-min-age", "soon"],
            &["--build-cache", "much"],
        ] {
            assert!(settings(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tcp_is_encrypted_and_clients_are_known() {
        let tcp = ["-H", "tcp://0.0.0.0"];
        let with = |more: &[&str]| settings(&[&tcp[..], more].concat());
        let known = with(&[
            "--tlsverify",
            "--tlscacert=/c/ca",
            "--tlscert=/c/c",
            "--tlskey=/c/k",
        ]);
        let known = known.unwrap();
        assert_eq!(known.hosts[1].to_string(), "tcp://0.0.0.0:2376");
        assert_eq!(known.tls.unwrap().client_authority, Some("/c/ca".into()));
        for refused in [&[][..], &["--tls"], &["--insecure-tcp"]] {
            assert!(with(refused).is_err(), "{refused:?}");
        }
        let local = settings(&["-H", "tcp://127.0.0.1:99", "--insecure-tcp"]).unwrap();
        assert_eq!((local.hosts.len(), local.tls), (2, None));
        assert!(settings(&["-H", "tcp://127.0.0.1"]).is_err());
    }

    #[test]
    fn descriptors_make_it_the_engine() {
        let settings = settings(&["--listener-descriptors", "3,4"]).unwrap();
        assert!(matches!(settings.mode, Mode::Engine { listeners, .. } if listeners == [3, 4]));
    }

    #[test]
    fn the_engine_behind_a_keeper_has_the_keepers_layers() {
        let asked = ["--layer-driver", "directory", "--layer-mounts", "attached"];
        let first = settings(&asked).unwrap();
        assert_eq!(first.layers.arguments(), asked);
    }
}
