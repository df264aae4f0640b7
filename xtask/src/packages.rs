//! Debian packages that the tests use: real peers and the contents of real
//! images.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::run::{command, is_installed, run};

/// A program that must be on the `PATH` and the package that brings it.
struct Needed {
    program: &'static str,
    package: &'static str,
}

const fn needed(program: &'static str, package: &'static str) -> Needed {
    Needed { program, package }
}

const NEEDED: &[Needed] = &[
    needed("cc", "gcc"),
    needed("busybox", "busybox-static"),
    needed("mmdebstrap", "mmdebstrap"),
    needed("skopeo", "skopeo"),
    needed("umoci", "umoci"),
    needed("docker-registry", "docker-registry"),
    needed("docker", "docker.io"),
    needed("fsck.erofs", "erofs-utils"),
    needed("nft", "nftables"),
    needed("ip", "iproute2"),
    needed("getfattr", "attr"),
    needed("setcap", "libcap2-bin"),
    needed("ps", "procps"),
    needed("zstd", "zstd"),
    needed("tar", "tar"),
    needed("crun", "crun"),
    needed("htpasswd", "apache2-utils"),
    needed("python3", "python3"),
    needed("podman", "podman"),
    needed("catatonit", "catatonit"),
    needed("containerd", "containerd"),
    needed("runc", "runc"),
    needed("buildah", "buildah"),
    needed("chromium", "chromium"),
    needed("openssl", "openssl"),
    needed("systemd-creds", "systemd"),
    needed("script", "bsdutils"),
    needed("ssh-agent", "openssh-client"),
    needed("sshd", "openssh-server"),
];

/// What the benchmarks compare with.
const PEERS: &[Needed] = &[
    needed("runc", "runc"),
    needed("crun", "crun"),
    needed("podman", "podman"),
    needed("buildah", "buildah"),
    needed("dockerd", "docker.io"),
    needed("iptables", "iptables"),
];

/// What the emulated machine takes. What its tests need is installed in it.
const MACHINE: &[Needed] = &[
    needed("cc", "gcc"),
    needed("busybox", "busybox-static"),
    needed("mmdebstrap", "mmdebstrap"),
    needed("skopeo", "skopeo"),
    needed("umoci", "umoci"),
    needed("docker", "docker.io"),
    needed("qemu-system-x86_64", "qemu-system-x86"),
    needed("mkfs.ext4", "e2fsprogs"),
];

/// Installs what the tests need and is missing. On a system without apt, says
/// what is missing.
pub fn install() -> Result<()> {
    install_missing(NEEDED)
}

/// The same for the benchmarks.
pub fn install_peers() -> Result<()> {
    install_missing(PEERS)
}

/// The same for the tests in an emulated machine.
pub fn install_machine() -> Result<()> {
    install_missing(MACHINE)
}

fn install_missing(needed: &[Needed]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|needed| !is_installed(needed.program) && !in_sbin(needed.program))
        .map(|needed| needed.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        is_installed("apt-get"),
        "these Debian packages, or their like, are missing: {}",
        missing.join(" ")
    );
    run(command("apt-get", &["update", "--quiet"]))?;
    let mut install = command("apt-get", &["install", "--yes", "--quiet"]);
    install.arg("--no-install-recommends").args(&missing);
    without_services(&mut install);
    run(install)
}

/// Keeps a package's script from starting its service: the tests start what
/// they need themselves, with state and ports of their own.
fn without_services(install: &mut Command) {
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1");
}

fn in_sbin(program: &str) -> bool {
    ["/usr/sbin", "/sbin"]
        .iter()
        .any(|directory| std::path::Path::new(directory).join(program).is_file())
}
