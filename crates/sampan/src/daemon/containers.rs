//! The arguments of `sampan daemon` that say how containers are made.

use std::path::{Path, PathBuf};

use sampan_engine::{Cdi, CgroupDriver, IdMaps, RuntimeProgram, Runtimes};

use super::remap;

/// How containers are made.
#[derive(Clone, Debug, Default)]
pub(super) struct ContainerSettings {
    pub(super) runtimes: Runtimes,
    /// Users of containers that ask for none.
    pub(super) users: Option<IdMaps>,
    pub(super) cdi: Cdi,
    /// Who makes their control groups.
    pub(super) cgroup_driver: CgroupDriver,
    /// Control group of containers that name none.
    pub(super) cgroup_parent: String,
    /// Whether one of its directories was named.
    names_cdi: bool,
    /// The arguments that said so, for the other of the two processes.
    pub(super) arguments: Vec<String>,
}

impl ContainerSettings {
    /// Programs are looked for in the PATH of the environment.
    pub(super) fn from_environment() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let absolute = |directory: &PathBuf| directory.is_absolute();
        Self {
            runtimes: Runtimes {
                search: std::env::split_paths(&path).filter(absolute).collect(),
                ..Runtimes::default()
            },
            ..Self::default()
        }
    }

    /// Whether `name` is one of the flags that [`ContainerSettings::set`] takes, with a value each.
    pub(super) fn has(name: &str) -> bool {
        matches!(
            name,
            "--add-runtime"
                | "--cdi-spec-dir"
                | "--cgroup-parent"
                | "--default-runtime"
                | "--exec-opt"
                | "--userns-remap"
        )
    }

    /// Takes a flag.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        match name {
            "--add-runtime" => self.add_runtime(value)?,
            "--cgroup-parent" => value.clone_into(&mut self.cgroup_parent),
            "--exec-opt" => self.cgroup_driver = cgroup_driver(value)?,
            "--cdi-spec-dir" => self.add_device_directory(value)?,
            "--userns-remap" => self.users = remap::read(value)?,
            _ => value.clone_into(&mut self.runtimes.default),
        }
        Ok(())
    }

    fn add_device_directory(&mut self, path: &str) -> Result<(), String> {
        if !Path::new(path).is_absolute() {
            return Err(format!(
                "invalid --cdi-spec-dir {path:?}: write an absolute path"
            ));
        }
        // The first one takes the place of the defaults.
        if !std::mem::replace(&mut self.names_cdi, true) {
            self.cdi.directories.clear();
        }
        self.cdi.directories.push(path.into());
        Ok(())
    }

    fn add_runtime(&mut self, text: &str) -> Result<(), String> {
        let invalid = |why: &str| {
            Err(format!(
                "invalid runtime {text:?}: {why}; write NAME=PATH, with an absolute path"
            ))
        };
        let Some((name, path)) = text.split_once('=') else {
            return invalid("it has no path");
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return invalid("a name has letters, digits, \"-\", \"_\" and \".\"");
        }
        if name == "sampan" {
            return invalid("this is the name of the one that is linked in");
        }
        let mut words = path.split_whitespace().map(str::to_owned);
        let path = words.next().unwrap_or_default();
        if !Path::new(&path).is_absolute() {
            return invalid("the path is not absolute");
        }
        let program = RuntimeProgram {
            path: path.into(),
            arguments: words.collect(),
        };
        self.runtimes.added.insert(name.to_owned(), program);
        Ok(())
    }

    /// Looks at what the flags come to together.
    pub(super) fn check(&self) -> Result<(), String> {
        let driver = self.cgroup_driver.check();
        driver.map_err(|error| error.message().to_owned())?;
        let default = &self.runtimes.default;
        if self.runtimes.is_known(default) {
            return Ok(());
        }
        Err(format!(
            "--default-runtime {default}: there is no runtime of this name; add it with --add-runtime {default}=PATH"
        ))
    }
}

/// Reads `--exec-opt`, which has one option.
fn cgroup_driver(text: &str) -> Result<CgroupDriver, String> {
    match text.split_once('=') {
        Some(("native.cgroupdriver", name)) => name.parse().map_err(|_| {
            format!("invalid --exec-opt native.cgroupdriver={name}: use cgroupfs or systemd")
        }),
        _ => Err(format!(
            "invalid --exec-opt {text}: the one option is native.cgroupdriver=cgroupfs or =systemd"
        )),
    }
}
