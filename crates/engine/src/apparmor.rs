//! The profile of AppArmor that containers have unless they name another.
//!
//! It repeats what capabilities, masks and the filter of system calls refuse, and closes what they
//! cannot: sockets that a 32-bit program asks for by `socketcall`, whose arguments no filter sees.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use sampan_fs::Sync;

use crate::{Error, Result};

/// Its name.
pub(crate) const DEFAULT_PROFILE: &str = "sampan-default";

/// The profiles that are loaded, a line each: `NAME (MODE)`.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// What a host has of AppArmor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppArmor {
    /// Nothing, or its profiles cannot be seen.
    Absent,
    /// Containers may name a profile; they have none by default, since it could not be loaded.
    NamedProfiles,
    /// Containers have [`DEFAULT_PROFILE`] unless they name another.
    DefaultProfile,
}

impl AppArmor {
    /// Looks for it, and loads the default profile. Blocks: up to a second where an engine is the
    /// first since the host has started.
    pub(crate) fn open(run: &Path) -> Self {
        let is_enabled = fs::read(ENABLED).is_ok_and(|enabled| enabled.starts_with(b"Y"));
        if !is_enabled || !Path::new(LOADED).exists() {
            return Self::Absent;
        }
        match load_own(run) {
            Ok(()) => Self::DefaultProfile,
            Err(error) => {
                tracing::warn!(
                    error = error.message(),
                    "containers have no profile of AppArmor"
                );
                Self::NamedProfiles
            }
        }
    }

    pub(crate) fn is_there(self) -> bool {
        self != Self::Absent
    }

    /// Sees to it that the kernel has the default profile, where containers have one: others may
    /// take it away (`aa-remove-unknown`). Blocks.
    pub(crate) fn ensure(self, run: &Path) -> Result<()> {
        static LOADING: Mutex<()> = Mutex::new(());
        if self != Self::DefaultProfile || is_loaded()? {
            return Ok(());
        }
        let _one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        load_own(run)
    }
}

/// Loads the default profile unless it is, with the text of this engine: the directory `run` knows.
fn load_own(run: &Path) -> Result<()> {
    let text = profile(Path::new("/etc/apparmor.d"), &own_profile());
    let note = run.join("apparmor-profile");
    if is_loaded()? && fs::read(&note).is_ok_and(|noted| noted == text.as_bytes()) {
        return Ok(());
    }
    load(&text)?;
    sampan_fs::write_file(&note, text.as_bytes(), Sync::Volatile)?;
    Ok(())
}

fn is_loaded() -> Result<bool> {
    let loaded = fs::read_to_string(LOADED)
        .map_err(|error| Error::because("look for profiles of AppArmor", &error))?;
    Ok(is_among(&loaded, DEFAULT_PROFILE))
}

/// Hands the profile to AppArmor's own compiler, which gives it to the kernel.
fn load(text: &str) -> Result<()> {
    let parser = parser().ok_or_else(|| {
        Error::internal(
            "the AppArmor profile of containers cannot be loaded: apparmor_parser is not there (Debian's package \
             apparmor)",
        )
    })?;
    let failed = |error: std::io::Error| Error::because("run apparmor_parser", &error);
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read has an error of its own.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::internal(format!(
        "the AppArmor profile of containers cannot be loaded: apparmor_parser: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

fn parser() -> Option<PathBuf> {
    let places = ["/sbin", "/usr/sbin"].map(|place| Path::new(place).join("apparmor_parser"));
    places.into_iter().find(|parser| parser.exists())
}

fn is_among(loaded: &str, profile: &str) -> bool {
    loaded.lines().any(|label| profile_of(label) == profile)
}

/// The profile of a label, which may have a mode: `NAME (MODE)`.
fn profile_of(label: &str) -> &str {
    label.rsplit_once(" (").map_or(label, |(name, _mode)| name)
}

/// The profile under which this engine runs, and so its shims.
fn own_profile() -> String {
    // Before Linux 5.8 there is one file for whatever gives labels.
    let label = fs::read_to_string("/proc/self/attr/apparmor/current")
        .or_else(|_| fs::read_to_string("/proc/self/attr/current"));
    match label.as_deref().map(|label| profile_of(label.trim())) {
        Ok("") | Err(_) => "unconfined".to_owned(),
        Ok(name) => name.to_owned(),
    }
}

/// What the profile says, by apparmor.d(5): the rules of Docker's `docker-default`. What the host's
/// own files say of all programs (`abstractions/base`) is part of it.
fn profile(host: &Path, engine: &str) -> String {
    let included = |file: &str, otherwise: &str| match host.join(file).exists() {
        true => format!("#include <{file}>"),
        false => otherwise.to_owned(),
    };
    let variables = included("tunables/global", "@{PROC}=/proc/");
    let base = included("abstractions/base", "");
    format!(
        "{variables}

profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{
  {base}
  capability,
  file,
  umount,
  deny mount,

  network,
  # By socketcall(2), too: CVE-2026-31431.
  deny network alg,
  deny network vsock,

  # Who stops containers; other runtimes may have profiles of their own.
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (receive) peer=\"{engine}\",
  signal (send, receive) peer={DEFAULT_PROFILE},
  ptrace (trace, read, tracedby, readby) peer={DEFAULT_PROFILE},

  # In /proc only processes, and of the kernel's variables those of shared memory.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,

  # In /sys only control groups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let loaded = "/usr/bin/man (enforce)\nsampan-default (enforce)\na b (complain)\n";
        assert!(is_among(loaded, "sampan-default"));
        assert!(is_among(loaded, "a b"));
        assert!(!is_among(loaded, "sampan"));
        assert!(!is_among("", "sampan-default"));
        assert_eq!(profile_of("unconfined"), "unconfined");
    }

    #[test]
    fn what_the_host_says_of_all_programs_is_part_of_it_where_it_is_there() {
        let host = tempfile::tempdir().unwrap();
        let bare = profile(host.path(), "unconfined");
        assert!(bare.starts_with("@{PROC}=/proc/\n"), "{bare}");
        assert!(!bare.contains("#include"), "{bare}");
        for file in ["tunables/global", "abstractions/base"] {
            let file = host.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let full = profile(host.path(), "/usr/bin/sampan");
        assert!(full.starts_with("#include <tunables/global>\n"), "{full}");
        assert!(full.contains("  #include <abstractions/base>\n"), "{full}");
        assert!(full.contains("peer=\"/usr/bin/sampan\","), "{full}");
    }
}
