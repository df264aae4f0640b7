//! The runtime alone: create, start, wait and delete of `/bin/true` in one
//! command, against crun and runc, with runc's default configuration.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::measure::{Contestant, in_turn, show, time};
use super::release;
use super::table::Table;

const ROUNDS: usize = 60;

pub(super) fn run(table: &mut Table) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("bundle-").tempdir()?;
    bundle(directory.path())?;
    let path = directory.path().to_str().context("the path is text")?;
    let example = release("examples/run_bundle");
    let contestants = [
        Contestant {
            name: "sampan",
            once: Box::new(|| {
                let mut command = Command::new(&example);
                command.args(["--bundle", path, "bench-sampan"]);
                time(command)
            }),
        },
        peer("crun", path),
        peer("runc", path),
    ];
    let hidden = HiddenTree::hide()?;
    let samples = in_turn(&contestants, ROUNDS)?;
    drop(hidden);
    let title = "runtime alone: create, start, wait, delete of `/bin/true`";
    show(title, &samples);
    table.times(title, &samples);
    Ok(())
}

/// crun 1.8 refuses a hybrid of cgroup v1 and v2, so that the v2 tree is hidden from all three.
struct HiddenTree;

impl HiddenTree {
    const PATH: &str = "/sys/fs/cgroup/unified";

    fn hide() -> Result<Option<Self>> {
        if !Path::new(Self::PATH).exists() {
            return Ok(None);
        }
        let status = Command::new("umount").arg(Self::PATH).status()?;
        anyhow::ensure!(status.success(), "cannot hide the v2 tree");
        Ok(Some(Self))
    }
}

impl Drop for HiddenTree {
    fn drop(&mut self) {
        let mount = ["-t", "cgroup2", "cgroup2", Self::PATH];
        let status = Command::new("mount").args(mount).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("xtask: cannot show the v2 tree again");
        }
    }
}

fn peer<'a>(program: &'a str, bundle: &'a str) -> Contestant<'a> {
    Contestant {
        name: program,
        once: Box::new(move || {
            let mut command = Command::new(program);
            command.args(["run", "--bundle", bundle, &format!("bench-{program}")]);
            time(command)
        }),
    }
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
