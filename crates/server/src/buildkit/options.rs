//! What a client asks of the frontend for Dockerfiles: names and values.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sampan_engine::building::{Failed, NamedContext, Network, NoCache, Settings, Ulimit};
use sampan_oci::{Digest, Platform};
use tonic::Status;

/// How the files to build from come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Context {
    /// From a directory that the client offers by this name.
    Directory(String),
    /// As a tar that the client uploads under this path.
    Upload(String),
    /// From an address.
    Remote(String),
}

/// The options, read.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) settings: Settings,
    /// Registries are asked for newer images.
    pub(super) pull: bool,
    pub(super) context: Context,
    /// The directory that the Dockerfile is in, unless it is among the files.
    pub(super) dockerfile: Option<String>,
    /// The Dockerfile's name there.
    pub(super) filename: String,
    /// Named contexts that are directories of the client.
    pub(super) directories: BTreeMap<String, String>,
    /// Named contexts that are addresses.
    pub(super) addresses: BTreeMap<String, String>,
    /// Named contexts that are images in stores of the client: the store's name and the digest.
    pub(super) layouts: BTreeMap<String, (String, Digest)>,
    /// Something else than a build is wanted.
    pub(super) request: Option<String>,
}

/// Where a client's uploads are.
const UPLOADS: &str = "http://buildkit-session/";

/// Images in stores of the client.
const LAYOUT: &str = "oci-layout://";

/// Options that say nothing about what is built.
const SILENT: &[&str] = &[
    "frontend.caps",
    "contextkey",
    "dockerfilekey",
    "cmdline",
    "source",
];
const SILENT_GROUPS: &[&str] = &["vcs:", "local-sessionid:", "sharedkey:", "input-metadata:"];

pub(super) fn refused(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not supported by this engine yet"))
}

pub(super) fn invalid(message: String) -> Status {
    Status::invalid_argument(message)
}

impl Asked {
    pub(super) fn read(options: &HashMap<String, String>) -> Result<Self, Status> {
        let text = |name: &str| {
            let value = options.get(name).map(String::as_str);
            value.filter(|value| !value.is_empty())
        };
        let context = match text("context") {
            None => Context::Directory(text("contextkey").unwrap_or("context").to_owned()),
            Some(context) => match context.strip_prefix(UPLOADS) {
                Some(path) => Context::Upload(path.to_owned()),
                None => match context.strip_prefix("local:") {
                    Some(name) => Context::Directory(name.to_owned()),
                    None => Context::Remote(context.to_owned()),
                },
            },
        };
        let dockerfile = match (&context, text("dockerfilekey")) {
            (Context::Directory(_), key) => Some(key.unwrap_or("dockerfile").to_owned()),
            (Context::Upload(_) | Context::Remote(_), key) => key.map(str::to_owned),
        };
        let filename = text("filename").unwrap_or("Dockerfile").to_owned();
        let mut asked = Self {
            settings: Settings {
                dockerfile: filename.clone(),
                ..Settings::default()
            },
            pull: false,
            context,
            dockerfile,
            filename,
            directories: BTreeMap::new(),
            addresses: BTreeMap::new(),
            layouts: BTreeMap::new(),
            request: text("requestid").map(str::to_owned),
        };
        for (name, value) in options {
            asked.take(name, value)?;
        }
        Ok(asked)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Status> {
        let settings = &mut self.settings;
        if name == "build-arg:BUILDKIT_SYNTAX" && !is_own(value) {
            return Err(refused(&format!("the frontend {value}")));
        }
        if let Some(name) = name.strip_prefix("context:") {
            return self.take_context(name, value);
        }
        if let Some(name) = name.strip_prefix("build-arg:") {
            let arguments = &mut settings.options.build_args;
            arguments.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        if let Some(name) = name.strip_prefix("label:") {
            settings.labels.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        let silent = SILENT_GROUPS.iter().any(|group| name.starts_with(group));
        if silent || SILENT.contains(&name) {
            return Ok(());
        }
        if let Some(kind) = name.strip_prefix("attest:") {
            let fields: Vec<&str> = value.split(',').collect();
            let off = fields.contains(&"disabled=true");
            // What is only written into images by themselves is nothing without any.
            if off || fields.contains(&"inline-only=true") {
                return Ok(());
            }
            return Err(refused(&format!("the attestation {kind}")));
        }
        match name {
            "context" | "filename" | "requestid" => {}
            "target" => settings.options.target = Some(value.to_owned()),
            "platform" => self.settings.options.target_platform = platform(value)?,
            "no-cache" => {
                settings.no_cache = match value {
                    "" => NoCache::Everything,
                    stages => {
                        let stages = stages.split(',').map(str::to_ascii_lowercase);
                        NoCache::Stages(stages.collect::<BTreeSet<_>>())
                    }
                };
            }
            "reproducible" => settings.reproducible = value == "true",
            "on-failure" if value == "keep" => settings.failed = Some(Failed::default()),
            "image-resolve-mode" => {
                self.pull = match value {
                    "pull" => true,
                    "" | "local" | "default" => false,
                    other => return Err(invalid(format!("invalid image-resolve-mode: {other}"))),
                };
            }
            "add-hosts" => {
                for host in value.split(',').filter(|host| !host.is_empty()) {
                    let (name, address) = host
                        .split_once('=')
                        .ok_or_else(|| invalid(format!("invalid host {host}")))?;
                    settings.extra_hosts.push(format!("{name}:{address}"));
                }
            }
            "force-network-mode" => {
                settings.network = match value {
                    "" | "default" | "sandbox" => Network::Default,
                    "none" => Network::None,
                    "host" => Network::Host,
                    other => return Err(invalid(format!("invalid network mode {other}"))),
                };
            }
            _ if value.is_empty() => {}
            "shm-size" => settings.limits.shm_size = number(name, value)?,
            "memory" => settings.limits.memory = number(name, value)?,
            "memswap" => settings.limits.memory_swap = number(name, value)?,
            "cpushares" => settings.limits.cpu_shares = number(name, value)?,
            "cpuperiod" => settings.limits.cpu_period = number(name, value)?,
            "cpuquota" => settings.limits.cpu_quota = number(name, value)?,
            "cpusetcpus" => value.clone_into(&mut settings.limits.cpuset_cpus),
            "cpusetmems" => value.clone_into(&mut settings.limits.cpuset_mems),
            "cgroup-parent" => value.clone_into(&mut settings.limits.cgroup_parent),
            "ulimit" => {
                let limits = value.split(',').map(ulimit);
                settings.limits.ulimits = limits.collect::<Result<_, _>>()?;
            }
            "multi-platform" if matches!(value, "" | "false" | "0") => {}
            // The same is in the request.
            "cache-imports" => {}
            "cache-from" if matches!(value, "" | "[]" | "null") => {}
            other => return Err(refused(&format!("the option {other} of a build"))),
        }
        Ok(())
    }
}

impl Asked {
    fn take_context(&mut self, name: &str, value: &str) -> Result<(), Status> {
        if let Some(image) = value.strip_prefix("docker-image://") {
            let image = NamedContext::Image(image.to_owned());
            self.settings.contexts.insert(name.to_owned(), image);
            return Ok(());
        }
        if let Some(layout) = value.strip_prefix(LAYOUT) {
            let read = layout.split_once('@').and_then(|(store, digest)| {
                // A tag was looked up by the client.
                Some((store.split(':').next()?, digest.parse().ok()?))
            });
            let (store, digest): (&str, Digest) =
                read.ok_or_else(|| invalid(format!("invalid build context {name}={value}")))?;
            self.layouts
                .insert(value.to_owned(), (store.to_owned(), digest));
            let image = NamedContext::Image(value.to_owned());
            self.settings.contexts.insert(name.to_owned(), image);
            return Ok(());
        }
        if let Some(directory) = value.strip_prefix("local:") {
            let directory = directory.to_owned();
            self.directories.insert(name.to_owned(), directory);
            return Ok(());
        }
        let addresses = [
            "https://",
            "http://",
            "git://",
            "git@",
            "ssh://",
            "github.com/",
        ];
        if addresses.iter().any(|start| value.starts_with(start)) {
            self.addresses.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        Err(refused(&format!("the build context {name}={value}")))
    }
}

/// Whether a frontend is the one that is built in.
fn is_own(frontend: &str) -> bool {
    let name = frontend.strip_prefix("docker.io/").unwrap_or(frontend);
    let own = [
        "",
        "dockerfile.v0",
        "docker/dockerfile",
        "docker/dockerfile-upstream",
    ];
    own.contains(&name.split([':', '@', ' ']).next().unwrap_or_default())
}

fn number(name: &str, value: &str) -> Result<i64, Status> {
    let number = value.parse();
    number.map_err(|_| invalid(format!("invalid {name} {value}")))
}

/// `NAME=SOFT[:HARD]`.
fn ulimit(text: &str) -> Result<Ulimit, Status> {
    let read = || {
        let (name, limits) = text.split_once('=')?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        Some(Ulimit {
            name: name.to_owned(),
            soft: soft.parse().ok()?,
            hard: hard.parse().ok()?,
        })
    };
    read().ok_or_else(|| invalid(format!("invalid ulimit {text}")))
}

fn platform(text: &str) -> Result<Platform, Status> {
    let platform: Platform = text
        .parse()
        .map_err(|error| invalid(format!("invalid platform {text:?}: {error}")))?;
    if platform.os != Platform::host().os {
        return Err(refused(&format!("building for {text}")));
    }
    Ok(platform)
}

pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "" | "true" | "1" | "t" | "TRUE" | "True" | "T" => Some(true),
        "false" | "0" | "f" | "FALSE" | "False" | "F" => Some(false),
        _ => None,
    }
}

/// What the result of a build is made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Exporter {
    /// An image of this engine, and of registries if it is pushed.
    Image {
        names: Vec<String>,
        push: bool,
        store: bool,
    },
    /// An archive of an image, as `docker save` makes it, for the client.
    Archive { names: Vec<String> },
    /// The files in a tar, for the client.
    Tar,
    /// The files in a directory of the client.
    Directory,
}

/// Has no file of the image younger than the time that is given for the build.
const REWRITE: &str = "rewrite-timestamp";

impl Exporter {
    /// Whether no file of the output may be younger than the build's time.
    pub(super) fn rewrites_times(attributes: &HashMap<String, String>) -> bool {
        let value = attributes.get(REWRITE);
        value.is_some_and(|value| truth(value) == Some(true))
    }

    pub(super) fn read(kind: &str, attributes: &HashMap<String, String>) -> Result<Self, Status> {
        let attributes: BTreeMap<&str, &str> = attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let refuse = |known: &[&str]| {
            let other = attributes.iter().find(|(name, value)| {
                !known.contains(name) && !matches!(**value, "" | "false" | "0")
            });
            match other {
                Some((name, value)) => Err(refused(&format!("the output's {name}={value}"))),
                None => Ok(()),
            }
        };
        let is = |name: &str, default: bool| match attributes.get(name) {
            None => Ok(default),
            Some(value) => {
                truth(value).ok_or_else(|| invalid(format!("invalid output: {name}={value}")))
            }
        };
        let names = || {
            let names = attributes.get("name").copied().unwrap_or_default();
            let names = names.split(',').map(str::trim);
            names
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        };
        Ok(match kind {
            "moby" | "image" => {
                refuse(&[
                    "name",
                    "push",
                    "load",
                    "store",
                    "unpack",
                    "prefer-image-digest",
                    REWRITE,
                ])?;
                is(REWRITE, false)?;
                Self::Image {
                    names: names(),
                    push: is("push", false)?,
                    store: is("store", true)?,
                }
            }
            "docker" | "oci" => {
                refuse(&[
                    "name",
                    "tar",
                    "prefer-image-digest",
                    "oci-mediatypes",
                    "dest",
                    REWRITE,
                ])?;
                is(REWRITE, false)?;
                if !is("tar", true)? {
                    return Err(refused("the output's tar=false"));
                }
                Self::Archive { names: names() }
            }
            "tar" => {
                refuse(&["dest"])?;
                Self::Tar
            }
            "local" => {
                refuse(&["dest", "mode"])?;
                Self::Directory
            }
            other => return Err(refused(&format!("the output {other}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn options_of_clients_are_read() {
        let asked = Asked::read(&map(&[
            ("filename", "x.Dockerfile"),
            ("target", "base"),
            ("build-arg:A", "1"),
            ("label:l", "v"),
            ("no-cache", "One,two"),
            ("image-resolve-mode", "pull"),
            ("add-hosts", "a=1.2.3.4,b=::1,"),
            ("force-network-mode", "none"),
            ("shm-size", "1048576"),
            ("vcs:revision", "abc"),
            ("attest:provenance", "mode=min,inline-only=true"),
            ("ulimit", "nofile=1024:2048,nproc=5"),
            ("memory", "67108864"),
            ("cgroup-parent", ""),
            ("context:base", "docker-image://busybox"),
            ("context:files", "local:files"),
            ("context:far", "https://example.org/x.git"),
            ("build-arg:BUILDKIT_SYNTAX", "docker/dockerfile:1"),
        ]))
        .unwrap();
        assert_eq!(asked.context, Context::Directory("context".to_owned()));
        assert_eq!(asked.dockerfile.as_deref(), Some("dockerfile"));
        let settings = asked.settings;
        assert_eq!(settings.dockerfile, "x.Dockerfile");
        assert_eq!(settings.options.build_args["A"], "1");
        assert_eq!(settings.labels["l"], "v");
        let stages = ["one".to_owned(), "two".to_owned()];
        assert_eq!(settings.no_cache, NoCache::Stages(stages.into()));
        assert_eq!(settings.extra_hosts, ["a:1.2.3.4", "b:::1"]);
        assert_eq!(settings.network, Network::None);
        assert_eq!(settings.limits.shm_size, 1 << 20);
        assert_eq!(settings.limits.memory, 64 << 20);
        let ulimits = settings.limits.ulimits.iter();
        let ulimits: Vec<_> = ulimits.map(|l| (l.name.as_str(), l.soft, l.hard)).collect();
        assert_eq!(ulimits, [("nofile", 1024, 2048), ("nproc", 5, 5)]);
        assert!(
            matches!(&settings.contexts["base"], NamedContext::Image(name) if name == "busybox")
        );
        assert_eq!(asked.directories["files"], "files");
        assert_eq!(asked.addresses["far"], "https://example.org/x.git");
        assert!(asked.pull);
        let upload = map(&[("context", "http://buildkit-session/abc"), ("no-cache", "")]);
        let upload = Asked::read(&upload).unwrap();
        assert_eq!(upload.context, Context::Upload("abc".to_owned()));
        assert_eq!(upload.dockerfile, None);
        assert_eq!(upload.settings.no_cache, NoCache::Everything);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (name, value) in [
            ("platform", "windows/amd64"),
            ("context:x", "target:y"),
            ("build-arg:BUILDKIT_SYNTAX", "example.org/frontend"),
            ("attest:sbom", "generator=x"),
            ("multi-platform", "true"),
            ("something-new", "1"),
        ] {
            let error = Asked::read(&map(&[(name, value)])).unwrap_err();
            let named = [name, value, "s390x", "sbom"];
            assert!(named.iter().any(|n| error.message().contains(n)), "{error}");
        }
    }

    #[test]
    fn outputs_are_read() {
        let image = Exporter::read("moby", &map(&[("name", "a,b:1"), ("push", "true")]));
        let names = vec!["a".to_owned(), "b:1".to_owned()];
        let expected = Exporter::Image {
            names,
            push: true,
            store: true,
        };
        assert_eq!(image.unwrap(), expected);
        assert!(Exporter::read("local", &map(&[])).is_ok());
        let rewritten = map(&[("rewrite-timestamp", "true")]);
        assert!(Exporter::rewrites_times(&rewritten));
        assert!(Exporter::read("oci", &rewritten).is_ok());
        assert!(Exporter::read("local", &rewritten).is_err());
        assert!(Exporter::read("oci", &map(&[("compression", "zstd")])).is_err());
        assert!(Exporter::read("gha", &map(&[])).is_err());
    }
}
