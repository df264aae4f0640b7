//! The machine's system.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xtask::run::{command, run};

use super::INCLUDED;
use super::disk::{make_disk, remove, write_program};

/// Runs in the machine as process 1.
const INIT: &str = "#!/bin/sh\nmount -t ext4 /dev/vdb /mnt && exec /mnt/run\n";

/// Files of the system.
pub(super) struct Base {
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

/// Makes the system in `directory` if it was not made before, with these packages.
pub(super) fn make(directory: &Path) -> Result<Base> {
    let base = Base {
        disk: directory.join("base.img"),
        kernel: directory.join("vmlinuz"),
        initrd: directory.join("initrd.img"),
    };
    let made_of = directory.join("base.packages");
    if base.disk.exists() && fs::read_to_string(&made_of).is_ok_and(|of| of == INCLUDED) {
        return Ok(base);
    }
    // As a tar first: what an interrupted mmdebstrap leaves mounted must not lie in a tree that
    // is removed.
    let tar = directory.join("base.tar");
    let mut bootstrap = command("mmdebstrap", &["--quiet", "--variant=minbase"]);
    bootstrap
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/man/*"])
        .args([&format!("--include={INCLUDED}"), "bookworm"])
        .arg(&tar);
    run(bootstrap)?;
    let tree = directory.join("base");
    remove(&tree)?;
    fs::create_dir_all(&tree)?;
    let mut unpack = command("tar", &["--numeric-owner", "--exclude=./dev/*", "-xpf"]);
    unpack.arg(&tar).arg("-C").arg(&tree);
    run(unpack)?;
    fs::remove_file(&tar)?;
    write_program(&tree.join("sampan-init"), INIT)?;
    for (kind, target) in [("vmlinuz-", &base.kernel), ("initrd.img-", &base.initrd)] {
        let mut found = fs::read_dir(tree.join("boot"))?.flatten();
        let found = found.find(|f| f.file_name().to_string_lossy().starts_with(kind));
        let found = found.with_context(|| format!("no {kind}* in the machine's /boot"))?;
        fs::copy(found.path(), target)?;
    }
    make_disk(&tree, &base.disk, "10G")?;
    remove(&tree)?;
    fs::write(made_of, INCLUDED)?;
    Ok(base)
}
