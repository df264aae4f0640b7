//! The runtime alone: create, start, wait and delete of `/bin/true` in one
//! command, against crun and runc, with runc's default configuration.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::measure::{Contestant, in_turn, show, time};
use super::release;

const ROUNDS: usize = 60;

pub(super) fn run() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("bundle-").tempdir()?;
    bundle(directory.path())?;
    let path = directory.path().to_str().context("the path is text")?;
    let example = release("examples/run_bundle");
    let contestants = [
        Contestant {
            name: "sampan",
            once: Box::new(|| {
                let example = example.to_str().context("the path is text")?;
                time(wrapped(":", &[example, "--bundle", path, "bench-sampan"]))
            }),
        },
        Contestant {
            name: "crun",
            once: Box::new(|| time(hybrid(&["crun", "run", "--bundle", path, "bench-crun"]))),
        },
        Contestant {
            name: "runc",
            once: Box::new(|| time(hybrid(&["runc", "run", "--bundle", path, "bench-runc"]))),
        },
    ];
    show(
        "runtime: create, start, wait, delete of /bin/true",
        &in_turn(&contestants, ROUNDS)?,
    );
    Ok(())
}

/// crun refuses a hybrid of cgroup v1 and v2: it gets a mount namespace in
/// which the v2 tree is hidden, by a shell whose time (some 2 ms) is part of
/// its figure. So that it is fair, the others get such a shell too.
fn hybrid(arguments: &[&str]) -> Command {
    let unified = "/sys/fs/cgroup/unified";
    let hide = if Path::new(unified).exists() {
        "umount /sys/fs/cgroup/unified"
    } else {
        ":"
    };
    wrapped(hide, arguments)
}

fn wrapped(first: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &format!("{first}; exec \"$@\""), "sh"])
        .args(arguments);
    command
}

fn bundle(directory: &Path) -> Result<()> {
    let root = directory.join("rootfs");
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::copy("/bin/busybox", root.join("bin/true"))?;
    let status = Command::new("runc")
        .arg("spec")
        .current_dir(directory)
        .status()?;
    anyhow::ensure!(status.success(), "runc spec failed");
    let path = directory.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    std::fs::write(path, config.to_string())?;
    Ok(())
}
