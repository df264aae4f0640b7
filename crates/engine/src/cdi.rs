//! Devices that vendors describe in files of the host (Container Device Interface): what is to be
//! done to a container that is given one.

mod specification;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sampan_oci::runtime::{self, Hooks, Spec};

use self::specification::{Edits, Node, Specification, is_qualified};
use crate::container::config::DeviceRequest;
use crate::container::spec;
use crate::host::{DeviceNode, device_at};
use crate::{Error, Result};

/// The kind behind `--gpus`.
const GPUS: &str = "nvidia.com/gpu";
/// The driver of requests for such devices.
const DRIVER: &str = "cdi";

/// Where vendors' files are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cdi {
    /// Directories: what lies in a later one goes before the same in an earlier one.
    pub directories: Vec<PathBuf>,
}

impl Default for Cdi {
    fn default() -> Self {
        Self {
            directories: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec(),
        }
    }
}

/// All that is done to one container.
#[derive(Debug, Default)]
pub(crate) struct Injection {
    env: Vec<String>,
    /// With the rights to them.
    pub(crate) devices: Vec<(DeviceNode, String)>,
    pub(crate) mounts: Vec<runtime::Mount>,
    hooks: Hooks,
    groups: Vec<u32>,
}

/// The devices of all files.
#[derive(Debug, Default)]
struct Known {
    specifications: Vec<Specification>,
    /// The file of a qualified name, and the priority of its directory.
    devices: BTreeMap<String, (usize, usize)>,
    /// Names that several files of one directory have.
    conflicts: BTreeSet<String>,
}

impl Cdi {
    /// Lists the qualified names of all devices. Files that cannot be read have none.
    pub fn devices(&self) -> Vec<String> {
        let known = self.read();
        let names = known.devices.into_keys();
        names
            .filter(|name| !known.conflicts.contains(name))
            .collect()
    }

    fn read(&self) -> Known {
        let mut known = Known::default();
        for (priority, directory) in self.directories.iter().enumerate() {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths.iter().filter(|path| is_specification(path)) {
                match Specification::read(path) {
                    Ok(specification) => known.add(specification, priority),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), error, "a description of devices cannot be used");
                    }
                }
            }
        }
        known
    }

    /// Looks at requests when a container is made.
    pub(crate) fn check(&self, requests: &[DeviceRequest]) -> Result<()> {
        if requests.is_empty() {
            return Ok(());
        }
        self.names(requests, &self.read()).map(drop)
    }

    /// What requests come to. Blocks.
    pub(crate) fn injection(&self, requests: &[DeviceRequest]) -> Result<Injection> {
        let mut injection = Injection::default();
        if requests.is_empty() {
            return Ok(injection);
        }
        let known = self.read();
        let mut used = BTreeSet::new();
        for name in self.names(requests, &known)? {
            let Some((number, _)) = known.devices.get(&name) else {
                continue;
            };
            let specification = &known.specifications[*number];
            let bare = name.rsplit('=').next().unwrap_or_default();
            let device = specification
                .devices
                .iter()
                .find(|device| device.name == bare);
            if used.insert(*number) {
                injection.add(&specification.container_edits, &name)?;
            }
            if let Some(device) = device {
                injection.add(&device.container_edits, &name)?;
            }
        }
        Ok(injection)
    }

    /// The qualified names behind requests, all of which are known.
    fn names(&self, requests: &[DeviceRequest], known: &Known) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for request in requests {
            let asked = asked(request)?;
            let missing: Vec<&str> = asked
                .iter()
                .filter(|name| {
                    !known.devices.contains_key(*name) || known.conflicts.contains(*name)
                })
                .map(String::as_str)
                .collect();
            if missing.is_empty() {
                names.extend(asked);
                continue;
            }
            if request.driver != DRIVER {
                return Err(Error::invalid(format!(
                    "could not select device driver {:?} with capabilities: [[gpu]]",
                    request.driver
                ))
                .with_hint(self.hint(GPUS)));
            }
            let missing = missing.join(", ");
            return Err(Error::invalid(format!(
                "CDI device injection failed: unresolvable CDI devices {missing}"
            ))
            .with_hint(self.hint("them")));
        }
        Ok(names)
    }

    fn hint(&self, what: &str) -> String {
        let directories: Vec<String> = self
            .directories
            .iter()
            .map(|directory| directory.display().to_string())
            .collect();
        format!(
            "no file in {} describes {what}: the vendor's toolkit writes one (nvidia-ctk cdi generate)",
            directories.join(" or ")
        )
    }
}

fn is_specification(path: &Path) -> bool {
    let end = path.extension().and_then(|end| end.to_str());
    matches!(end, Some("json" | "yaml" | "yml")) && path.is_file()
}

/// The names that a request asks for.
fn asked(request: &DeviceRequest) -> Result<Vec<String>> {
    let refused = |what: String| Err(Error::invalid(what));
    if request.driver == DRIVER {
        if let Some(bad) = request.ids.iter().find(|id| !is_qualified(id)) {
            return refused(format!(
                "CDI device injection failed: unresolvable CDI devices {bad}"
            ));
        }
        if request.count != 0 || !request.options.is_empty() {
            return refused(
                "invalid CDI device request: devices are named, without a count or options"
                    .to_owned(),
            );
        }
        return Ok(request.ids.clone());
    }
    let gpus = request
        .capabilities
        .iter()
        .any(|all| all.iter().any(|one| one == "gpu"));
    if !matches!(request.driver.as_str(), "" | "nvidia") || !gpus {
        return refused(format!(
            "could not select device driver {:?} with capabilities: {:?}",
            request.driver, request.capabilities
        ));
    }
    if request.count != 0 && !request.ids.is_empty() {
        return refused("cannot set both Count and DeviceIDs on device request".to_owned());
    }
    Ok(match (request.count, &request.ids) {
        (0, ids) if !ids.is_empty() => ids.iter().map(|id| format!("{GPUS}={id}")).collect(),
        (..=0, _) => vec![format!("{GPUS}=all")],
        (count, _) => (0..count)
            .map(|number| format!("{GPUS}={number}"))
            .collect(),
    })
}

impl Known {
    fn add(&mut self, specification: Specification, priority: usize) {
        let number = self.specifications.len();
        for device in &specification.devices {
            let name = format!("{}={}", specification.kind, device.name);
            match self.devices.insert(name.clone(), (number, priority)) {
                Some((_, earlier)) if earlier == priority => {
                    self.conflicts.insert(name);
                }
                Some(_) => {
                    self.conflicts.remove(&name);
                }
                None => {}
            }
        }
        self.specifications.push(specification);
    }
}

impl Injection {
    fn add(&mut self, edits: &Edits, name: &str) -> Result<()> {
        let refused = |what: &str| {
            Err(Error::not_implemented(format!(
                "CDI device injection failed: {name} asks for {what}, which is not supported"
            )))
        };
        if edits.intel_rdt.is_some() {
            return refused("intelRdt");
        }
        if !edits.net_devices.is_empty() {
            return refused("netDevices");
        }
        self.env.extend(edits.env.iter().cloned());
        for node in &edits.device_nodes {
            self.devices.push(host_device(node, name)?);
        }
        let mounts = edits.mounts.iter().map(|mount| {
            let mut options = mount.options.clone();
            let is_bind = matches!(mount.kind.as_str(), "" | "bind");
            if is_bind
                && !options
                    .iter()
                    .any(|option| option == "bind" || option == "rbind")
            {
                options.push("rbind".to_owned());
            }
            runtime::Mount {
                destination: mount.container_path.clone(),
                kind: Some(if is_bind { "bind" } else { &mount.kind }.to_owned()),
                source: Some(PathBuf::from(&mount.host_path)),
                options,
                ..runtime::Mount::default()
            }
        });
        self.mounts.extend(mounts);
        for hook in &edits.hooks {
            let list = match hook.hook_name.as_str() {
                "prestart" => &mut self.hooks.prestart,
                "createRuntime" => &mut self.hooks.create_runtime,
                "createContainer" => &mut self.hooks.create_container,
                "startContainer" => &mut self.hooks.start_container,
                other => return refused(&format!("a hook at {other:?}")),
            };
            list.push(runtime::Hook {
                path: PathBuf::from(&hook.path),
                args: hook.args.clone(),
                env: hook.env.clone(),
                timeout: hook.timeout,
            });
        }
        let groups = edits.additional_gids.iter().filter(|group| **group != 0);
        self.groups.extend(groups);
        Ok(())
    }

    /// Whether programs of the host are run.
    pub(crate) fn has_hooks(&self) -> bool {
        self.hooks != Hooks::default()
    }

    /// Does to a specification what is not devices and mounts.
    pub(crate) fn apply(self, spec: &mut Spec) {
        if self.has_hooks() {
            spec.hooks = Some(self.hooks);
        }
        if let Some(process) = &mut spec.process {
            for variable in &self.env {
                spec::set(&mut process.env, variable);
            }
            for group in self.groups {
                if !process.user.additional_gids.contains(&group) {
                    process.user.additional_gids.push(group);
                }
            }
        }
    }
}

/// The node of the host behind a description, which may leave out what the host says.
fn host_device(node: &Node, name: &str) -> Result<(DeviceNode, String)> {
    let failed = |why: String| {
        Error::invalid(format!(
            "CDI device injection failed: {name}: device node {}: {why}",
            node.path
        ))
    };
    let on_host = match node.host_path.as_str() {
        "" => &node.path,
        path => path,
    };
    let found = match device_at(Path::new(on_host)) {
        Ok(Some(found)) => Some(found),
        Ok(None) => return Err(failed(format!("{on_host} is no device node"))),
        Err(error) if node.kind.is_empty() => return Err(failed(format!("{on_host}: {error}"))),
        Err(_) => None,
    };
    let kind = match node.kind.as_str() {
        "" => found.as_ref().map_or("c", |found| found.kind),
        "b" => "b",
        "c" | "u" => "c",
        other => return Err(failed(format!("its type {other:?} is not supported"))),
    };
    let given = !node.kind.is_empty() && (node.major, node.minor) != (0, 0);
    let (major, minor) = match &found {
        Some(found) if !given => (found.major, found.minor),
        _ => (node.major, node.minor),
    };
    let access = match node.permissions.as_str() {
        "" => "rwm",
        access if access.bytes().all(|letter| b"rwm".contains(&letter)) => access,
        "none" => "",
        other => return Err(failed(format!("invalid permissions {other:?}"))),
    };
    let host = |value: fn(&DeviceNode) -> u32| found.as_ref().map_or(0, value);
    Ok((
        DeviceNode {
            path: node.path.clone(),
            kind,
            major,
            minor,
            mode: node
                .file_mode
                .unwrap_or_else(|| found.as_ref().map_or(0o666, |found| found.mode))
                & 0o7777,
            uid: node.uid.unwrap_or_else(|| host(|found| found.uid)),
            gid: node.gid.unwrap_or_else(|| host(|found| found.gid)),
        },
        access.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vendor(devices: &str) -> String {
        format!(
            r#"{{"cdiVersion":"0.5.0","kind":"vendor.com/thing","devices":[{devices}],"containerEdits":{{"env":["ALL=1"]}}}}"#
        )
    }

    fn request(driver: &str, count: i64, ids: &[&str]) -> DeviceRequest {
        DeviceRequest {
            driver: driver.to_owned(),
            count,
            ids: ids.iter().map(ToString::to_string).collect(),
            capabilities: vec![vec!["gpu".to_owned()]],
            options: BTreeMap::new(),
        }
    }

    #[test]
    fn later_directories_go_before_earlier_ones() {
        let directory = tempfile::tempdir().unwrap();
        let directories = ["a", "b"].map(|name| directory.path().join(name));
        for (place, file, devices) in [
            (
                0,
                "x.json",
                r#"{"name":"1","containerEdits":{"env":["N=a"]}},{"name":"2"},{"name":"3"}"#,
            ),
            (0, "y.json", r#"{"name":"3"}"#),
            (
                1,
                "z.json",
                r#"{"name":"1","containerEdits":{"env":["N=b"],"additionalGIDs":[5,0]}}"#,
            ),
        ] {
            std::fs::create_dir_all(&directories[place]).unwrap();
            std::fs::write(directories[place].join(file), vendor(devices)).unwrap();
        }
        std::fs::write(directories[1].join("bad.yaml"), "kind: [").unwrap();
        std::fs::write(directories[1].join("other.txt"), "x").unwrap();
        let cdi = Cdi {
            directories: directories.to_vec(),
        };
        assert_eq!(cdi.devices(), ["vendor.com/thing=1", "vendor.com/thing=2"]);
        let asked = [request(
            "cdi",
            0,
            &["vendor.com/thing=1", "vendor.com/thing=2"],
        )];
        let mut spec = Spec {
            process: Some(runtime::Process::default()),
            ..Spec::default()
        };
        cdi.injection(&asked).unwrap().apply(&mut spec);
        let process = spec.process.unwrap();
        assert_eq!(process.env, ["ALL=1", "N=b"]);
        assert_eq!(process.user.additional_gids, [5]);
        for unknown in ["vendor.com/thing=3", "vendor.com/thing=9", "thing"] {
            let error = cdi.check(&[request("cdi", 0, &[unknown])]).unwrap_err();
            let words = format!("CDI device injection failed: unresolvable CDI devices {unknown}");
            assert_eq!(error.message(), words);
        }
    }

    #[test]
    fn graphics_processors_are_named_by_number_and_all() {
        let names = |count, ids: &[&str]| asked(&request("", count, ids)).unwrap();
        assert_eq!(names(-1, &[]), ["nvidia.com/gpu=all"]);
        assert_eq!(names(2, &[]), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
        assert_eq!(names(0, &["GPU-1"]), ["nvidia.com/gpu=GPU-1"]);
        assert!(asked(&request("other", -1, &[])).is_err());
        assert!(asked(&request("", 1, &["0"])).is_err());
        let none = Cdi {
            directories: Vec::new(),
        };
        let error = none.check(&[request("", -1, &[])]).unwrap_err();
        assert_eq!(
            error.message(),
            "could not select device driver \"\" with capabilities: [[gpu]]"
        );
    }
}
