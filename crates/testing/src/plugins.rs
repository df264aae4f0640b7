//! The docker client's newest plug-ins for building, from Debian, kept in the target folder. They
//! are unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sampan_kernel::requires::skip;

use crate::fixtures;

/// The plug-ins, each in the package of its name.
const PLUGINS: [&str; 2] = ["docker-buildx", "docker-compose"];
/// Debian's suites that have them, the newest first.
const SUITES: [&str; 2] = ["sid", "trixie"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Returns a directory with `docker-buildx` and `docker-compose`; `None`, and a `SKIP:` line,
/// where they cannot be had.
#[must_use]
pub fn docker_plugins() -> Option<PathBuf> {
    let place = fixtures::directory().join("docker-plugins");
    let _lock = fixtures::lock();
    if place.is_dir() {
        return Some(place);
    }
    match SUITES.iter().any(|suite| fetch(suite, &place).is_some()) {
        true => Some(place),
        false => {
            skip("docker-buildx and docker-compose cannot be had from Debian");
            None
        }
    }
}

/// Fetches the plug-ins with lists of packages of its own, so that nothing changes for the
/// system's.
fn fetch(suite: &str, place: &Path) -> Option<()> {
    let work = tempfile::tempdir_in(fixtures::directory()).ok()?;
    let work = work.path();
    for directory in ["lists/partial", "cache/archives/partial", "root"] {
        fs::create_dir_all(work.join(directory)).ok()?;
    }
    let source = format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian {suite} main\n");
    fs::write(work.join("sources"), source).ok()?;
    let at = |name: &str| work.join(name).display().to_string();
    let options = [
        format!("Dir::Etc::SourceList={}", at("sources")),
        "Dir::Etc::SourceParts=-".to_owned(),
        format!("Dir::State::Lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |command: &[&str]| {
        let mut arguments = vec!["--quiet"];
        for option in &options {
            arguments.extend(["-o", option]);
        }
        arguments.extend(command);
        succeeds(Command::new("apt-get").args(arguments).current_dir(work))
    };
    apt(&["update"])?;
    apt(&[&["download"], &PLUGINS[..]].concat())?;
    for entry in fs::read_dir(work).ok()? {
        let path = entry.ok()?.path();
        if path.extension().is_some_and(|kind| kind == "deb") {
            let mut unpack = Command::new("dpkg");
            succeeds(unpack.arg("-x").arg(path).arg("root").current_dir(work))?;
        }
    }
    let unpacked = work.join("root/usr/libexec/docker/cli-plugins");
    let whole = PLUGINS.iter().all(|name| unpacked.join(name).is_file());
    whole.then(|| fs::rename(unpacked, place).ok()).flatten()
}

fn succeeds(command: &mut Command) -> Option<()> {
    let status = command.stdout(Stdio::null()).status().ok()?;
    status.success().then_some(())
}
