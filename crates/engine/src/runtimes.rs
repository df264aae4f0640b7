//! The runtimes that containers can be made by: the one that is linked into the shim, and programs.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sampan_cgroups::{Hierarchies, Layout};
use sampan_shim_protocol::ForeignRuntime;

use crate::container::config::HostConfig;
use crate::{Error, Result};

/// The name of the runtime that is linked in.
pub(crate) const LINKED: &str = "sampan";
/// Programs that are looked for by their names.
const KNOWN: [&str; 2] = ["runc", "crun"];

/// A program that takes runc's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeProgram {
    /// The executable.
    pub path: PathBuf,
    /// Arguments in front of all others.
    pub arguments: Vec<String>,
}

/// The runtimes of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes {
    /// Where a container names none.
    pub default: String,
    /// Programs that were added, by name.
    pub added: BTreeMap<String, RuntimeProgram>,
    /// Where programs are looked for that are known by their names.
    pub search: Vec<PathBuf>,
}

impl Default for Runtimes {
    fn default() -> Self {
        Self {
            default: LINKED.to_owned(),
            added: BTreeMap::new(),
            search: Vec::new(),
        }
    }
}

impl Runtimes {
    /// Lists the programs that can be asked for.
    pub fn programs(&self) -> BTreeMap<String, RuntimeProgram> {
        let known = KNOWN.into_iter().filter_map(|name| {
            let path = self.look_for(name)?;
            let program = RuntimeProgram {
                path,
                arguments: Vec::new(),
            };
            Some((name.to_owned(), program))
        });
        let mut programs: BTreeMap<_, _> = known.collect();
        programs.extend(self.added.clone());
        programs
    }

    /// Whether containers can be made by the runtime of this name.
    pub fn is_known(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Whether this is the name of the runtime that is linked in.
    pub(crate) fn is_linked(&self, name: &str) -> bool {
        matches!(self.find(name), Ok(None))
    }

    /// Finds the program of a name; `None` is the runtime that is linked in.
    pub(crate) fn find(&self, name: &str) -> Result<Option<RuntimeProgram>> {
        let name = if name.is_empty() { &self.default } else { name };
        if let Some(program) = self.added.get(name) {
            return Ok(Some(program.clone()));
        }
        // What Docker's clients call the default is ours.
        if matches!(name, LINKED | "io.containerd.runc.v2") {
            return Ok(None);
        }
        let unknown = || Error::invalid(format!("unknown or invalid runtime name: {name}"));
        if !KNOWN.contains(&name) {
            return Err(unknown().with_hint(
                "add it to the engine: sampan daemon --add-runtime NAME=PATH; without --runtime, the one that \
                 is linked in is used",
            ));
        }
        match self.look_for(name) {
            Some(path) => Ok(Some(RuntimeProgram {
                path,
                arguments: Vec::new(),
            })),
            None => Err(unknown().with_hint(
                "the engine's PATH has no program of this name: install it, or leave --runtime away for the one \
                 that is linked in",
            )),
        }
    }

    /// Settles which runtime a new container has. A step of a build has the one that is linked in:
    /// its mounts have no paths.
    pub(crate) fn settle(&self, host: &mut HostConfig, of_build: bool) -> Result<()> {
        if of_build {
            LINKED.clone_into(&mut host.runtime);
        } else if host.runtime.is_empty() && self.default != LINKED {
            host.runtime.clone_from(&self.default);
        }
        self.find(&host.runtime).map(drop)
    }

    fn look_for(&self, name: &str) -> Option<PathBuf> {
        let candidates = self.search.iter().map(|directory| directory.join(name));
        let is_program = |path: &PathBuf| {
            let metadata = std::fs::metadata(path);
            metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        candidates.into_iter().find(is_program)
    }

    /// What the shim is told of the program; `run` is the directory of the engine's volatile state.
    pub(crate) fn for_shim(
        &self,
        name: &str,
        run: &Path,
        hierarchies: &Hierarchies,
    ) -> Result<Option<ForeignRuntime>> {
        let Some(program) = self.find(name)? else {
            return Ok(None);
        };
        let name = if name.is_empty() { &self.default } else { name };
        // crun refuses hosts with control groups of both versions; of version 1 alone it takes all
        // that it needs.
        let refuses_both = program.path.file_name().is_some_and(|name| name == "crun");
        let hidden = match hierarchies.layout() {
            Layout::Hybrid if refuses_both => hierarchies
                .unified()
                .map(|unified| unified.mount_point.clone()),
            Layout::Hybrid | Layout::V1 | Layout::V2 => None,
        };
        Ok(Some(ForeignRuntime {
            name: name.to_owned(),
            program: program.path,
            arguments: program.arguments,
            state: state(run, name),
            hidden,
        }))
    }

    /// Has a program forget a container that was left by a shim that was killed. Blocks.
    pub(crate) fn forget(&self, name: &str, run: &Path, id: &str) -> Result<()> {
        // One that is not there any more has nothing to be told.
        let Ok(Some(program)) = self.find(name) else {
            return Ok(());
        };
        let name = if name.is_empty() { &self.default } else { name };
        let state = state(run, name);
        if !state.join(id).exists() {
            return Ok(());
        }
        let failed = |error: &dyn std::fmt::Display| {
            Error::internal(format!(
                "have the runtime {name} forget a container: {error}"
            ))
        };
        let status = Command::new(&program.path)
            .args(&program.arguments)
            .arg("--root")
            .arg(&state)
            .args(["delete", "--force", id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|error| failed(&error))?;
        if status.success() {
            return Ok(());
        }
        // Its processes are dead and its control group is gone: what it has noted of it is all.
        sampan_fs::remove_dir_all(state.join(id)).map_err(|_| failed(&status))
    }
}

/// Where a program keeps its state.
fn state(run: &Path, name: &str) -> PathBuf {
    run.join("runtimes").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_programs() {
        let directory = tempfile::tempdir().unwrap();
        let runc = directory.path().join("runc");
        std::fs::write(&runc, "").unwrap();
        std::fs::set_permissions(&runc, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(directory.path().join("crun"), "").unwrap();
        let mine = RuntimeProgram {
            path: "/opt/mine".into(),
            arguments: vec!["--debug".into()],
        };
        let mut runtimes = Runtimes {
            added: BTreeMap::from([("mine".to_owned(), mine.clone())]),
            search: vec![directory.path().to_owned()],
            ..Runtimes::default()
        };
        for linked in ["", "sampan", "io.containerd.runc.v2"] {
            assert_eq!(runtimes.find(linked).unwrap(), None, "{linked}");
        }
        assert_eq!(runtimes.find("mine").unwrap(), Some(mine));
        assert_eq!(runtimes.find("runc").unwrap().unwrap().path, runc);
        for unknown in ["crun", "other", "../runc"] {
            let error = runtimes.find(unknown).unwrap_err();
            let words = format!("unknown or invalid runtime name: {unknown}");
            assert_eq!(error.message(), words);
        }
        "runc".clone_into(&mut runtimes.default);
        let hierarchies = Hierarchies::detect().unwrap();
        let shim = runtimes.for_shim("", Path::new("/run/x"), &hierarchies);
        let shim = shim.unwrap().unwrap();
        assert_eq!(shim.hidden, None);
        assert_eq!(shim.state, Path::new("/run/x/runtimes/runc"));
        assert_eq!(runtimes.find("sampan").unwrap(), None);
    }
}
