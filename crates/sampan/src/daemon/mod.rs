//! `sampan daemon`: the keeper of the socket, the engine behind it, and how a
//! command finds or starts them.

mod arguments;
mod containers;
mod hello;
mod host;
mod keeper;
mod listen;
mod registries;
mod remap;
mod start;
mod unpack;
mod unserved;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) use start::ensure_running;
pub(crate) use unpack::{WORD as UNPACK, main as unpack};

use arguments::{Mode, Parsed};

/// Where an engine keeps its state.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Paths {
    /// What survives a reboot.
    pub(crate) root: PathBuf,
    /// What does not: the socket, pids, control sockets of the shims.
    pub(crate) run: PathBuf,
}

impl Paths {
    /// The places named by `SAMPAN_ROOT` and `SAMPAN_RUN`, or the usual ones.
    pub(crate) fn from_environment() -> Self {
        let place = |name, usual: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map_or_else(|| PathBuf::from(usual), PathBuf::from)
        };
        Self {
            root: place("SAMPAN_ROOT", "/var/lib/sampan"),
            run: place("SAMPAN_RUN", "/run/sampan"),
        }
    }

    /// The socket that the engine listens on unless told otherwise.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("sampan.sock")
    }

    fn pid_file(&self) -> PathBuf {
        self.run.join("engine.pid")
    }
}

/// Runs `sampan daemon` with the arguments behind that word.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let parsed = match arguments::parse(arguments) {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("sampan daemon: {message}");
            eprintln!("See 'sampan daemon --help'.");
            return ExitCode::from(125);
        }
    };
    let result = match parsed {
        Parsed::Help => {
            print!("{}", arguments::HELP);
            return ExitCode::SUCCESS;
        }
        Parsed::Run(settings) => match settings.mode {
            Mode::Keeper => keeper::run(&settings),
            Mode::Engine { .. } => wire::run(&settings),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sampan daemon: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes a directory that only its owner may look into, or takes it as it is.
fn private_directory(path: &Path) -> anyhow::Result<()> {
    sampan_fs::create_dir_all(path, 0o700)?;
    Ok(())
}
