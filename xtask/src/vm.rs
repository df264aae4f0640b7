//! `cargo xtask test --vm`: what depends on the kernel, on an older one.
//!
//! A small Debian of its own kernel (6.1) is booted by emulation: control groups are the v2 tree
//! alone, EROFS cannot be mounted from files, overlayfs does not stack detached mounts and takes
//! no layers one by one. The test programs are static, so that they run there as they are.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sampan_testing::{Fixture, fixture};

use crate::packages;
use crate::run::{cargo, command, run, workspace};

/// Test programs, by package, and which of their tests; all where none is named.
const TESTED: &[(&str, &[&str])] = &[
    ("sampan-kernel", &[]),
    ("sampan-cgroups", &[]),
    ("sampan-runtime", &[]),
    ("sampan-layers", &[]),
    ("sampan-shim", &[]),
    ("sampan-engine", &[]),
    (
        "sampan-oci-runtime",
        &["lifecycle::", "specification::what"],
    ),
    (
        "sampan",
        // Of `flags` those that need no compiler.
        &[
            "layers::",
            "limits::",
            "inside::",
            "flags::n",
            "flags::process",
            "health::",
            "restarts::",
        ],
    ),
];

/// What the machine has besides a minimal Debian.
const INCLUDED: &str = "linux-image-cloud-amd64,busybox-static,nftables,iproute2,procps,attr,\
                        libcap2-bin,skopeo,docker-registry,ca-certificates,runc,crun";

/// The images that the end-to-end tests load.
const IMAGES: [Fixture; 2] = [Fixture::Busybox, Fixture::Whiteouts];

/// Runs in the machine as process 1.
const INIT: &str = "#!/bin/sh\nmount -t ext4 /dev/vdb /mnt && exec /mnt/run\n";

/// The timer is not checked: an emulated one is late on a busy host.
const KERNEL_ARGUMENTS: &str = "root=/dev/vda rw console=ttyS0 quiet panic=-1 no_timer_check \
                                init=/sampan-init cgroup_no_v1=all";

/// What the machine says last, with the number of programs that failed.
const VERDICT: &str = "xtask-vm: failed programs: ";

/// Builds, boots, tests. `filters` are handed to every test program.
pub(crate) fn test(filters: &[&str]) -> Result<()> {
    packages::install_machine()?;
    let directory = workspace().join("target/vm");
    fs::create_dir_all(&directory)?;
    let base = Base::make(&directory)?;
    let disk = pack_tests(&directory, filters)?;
    boot(&base, &disk)
}

/// The machine's system, made once.
struct Base {
    disk: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Base {
    fn make(directory: &Path) -> Result<Self> {
        let base = Self {
            disk: directory.join("base.img"),
            kernel: directory.join("vmlinuz"),
            initrd: directory.join("initrd.img"),
        };
        if base.disk.exists() {
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
        make_disk(&tree, &base.disk, "3G")?;
        remove(&tree)?;
        Ok(base)
    }
}

/// Puts the built programs, the images and a script on a disk, at the paths that they have here.
fn pack_tests(directory: &Path, filters: &[&str]) -> Result<PathBuf> {
    run(cargo(&["build", "--workspace", "--bins"]))?;
    let tree = directory.join("tests");
    remove(&tree)?;
    let inside = tree.join("workspace");
    let mut script = format!(
        "#!/bin/sh\n\
         mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm\n\
         mount -t tmpfs tmpfs /run; mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         modprobe -a overlay erofs nf_tables nft_chain_nat br_netfilter veth bridge fuse\n\
         ip link set lo up; ulimit -n 65536\n\
         export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/mnt/bin RUST_BACKTRACE=1\n\
         mkdir -p {0}; rmdir {0}; ln -s /mnt/workspace {0}\n\
         failed=0\n",
        workspace().display()
    );
    for program in test_programs()? {
        let relative = program.path.strip_prefix(workspace())?;
        copy(&program.path, &inside.join(relative))?;
        let folder = program.folder.strip_prefix(workspace())?;
        fs::create_dir_all(inside.join(folder))?;
        let words: Vec<String> = program
            .tests
            .iter()
            .filter(|_| filters.is_empty())
            .chain(filters)
            .map(|word| format!("'{word}'"))
            .collect();
        script.push_str(&format!(
            "cd '{}'; echo '== {} {}'; '{}' --test-threads=2 --show-output {} || failed=$((failed + 1))\n",
            program.folder.display(),
            program.package,
            program.name,
            program.path.display(),
            words.join(" ")
        ));
    }
    script.push_str(&format!(
        "echo '{VERDICT}'$failed\nsync\necho o > /proc/sysrq-trigger\nsleep 60\n"
    ));
    write_program(&tree.join("run"), &script)?;
    let programs = [
        "sampan",
        "sampan-shim",
        "sampan-runtime",
        "examples/layer_worker",
    ];
    for program in built(&programs)? {
        copy(&program, &inside.join(program.strip_prefix(workspace())?))?;
    }
    let docker = on_path("docker").context("docker's client is not on the PATH")?;
    copy(&docker, &tree.join("bin/docker"))?;
    // From where the tests find the workspace.
    fs::create_dir_all(inside.join("crates/testing"))?;
    let fixtures = inside.join("target/fixtures");
    fs::create_dir_all(&fixtures)?;
    for image in IMAGES {
        let image = fixture(image);
        let archive = image.archive();
        copy(
            &archive,
            &fixtures.join(archive.file_name().unwrap_or_default()),
        )?;
        fs::write(fixtures.join(format!("{}.done", image.name())), "")?;
        let target = format!("oci:{}/images:{}", fixtures.display(), image.name());
        run(command(
            "skopeo",
            &["copy", "--quiet", &image.layout(), &target],
        ))?;
    }
    let disk = directory.join("tests.img");
    make_disk(&tree, &disk, "4G")?;
    remove(&tree)?;
    Ok(disk)
}

struct TestProgram {
    package: String,
    name: String,
    folder: PathBuf,
    path: PathBuf,
    tests: &'static [&'static str],
}

/// Builds the test programs and says where they are.
fn test_programs() -> Result<Vec<TestProgram>> {
    let mut build = cargo(&[
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    for (package, _) in TESTED {
        build.args(["-p", package]);
    }
    let output = build.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "cannot build the tests");
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let text = |pointer: &str| message.pointer(pointer).and_then(|value| value.as_str());
        let is_test = message.pointer("/profile/test") == Some(&serde_json::Value::Bool(true));
        let (Some(path), Some(name), Some(manifest), true) = (
            text("/executable"),
            text("/target/name"),
            text("/manifest_path"),
            is_test,
        ) else {
            continue;
        };
        let folder = Path::new(manifest).parent().unwrap_or(Path::new("/"));
        let short = folder.file_name().unwrap_or_default().to_string_lossy();
        let package = match &*short {
            "sampan" => "sampan".to_owned(),
            short => format!("sampan-{short}"),
        };
        let Some((_, tests)) = TESTED.iter().find(|(tested, _)| *tested == package) else {
            continue;
        };
        // Of the executable's own package only the end-to-end tests are named.
        if package == "sampan" && name != "e2e" {
            continue;
        }
        found.push(TestProgram {
            package,
            name: name.to_owned(),
            folder: folder.to_owned(),
            path: path.into(),
            tests,
        });
    }
    Ok(found)
}

/// Where cargo has put what it has built.
fn built(names: &[&str]) -> Result<Vec<PathBuf>> {
    let target = workspace().join("target");
    let mut folders = vec![target.join("debug")];
    for entry in fs::read_dir(&target)?.flatten() {
        folders.push(entry.path().join("debug"));
    }
    names
        .iter()
        .map(|name| {
            let paths = folders.iter().map(|folder| folder.join(name));
            let mut there = paths.filter(|path| path.is_file());
            there.next().with_context(|| format!("{name} is not built"))
        })
        .collect()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Boots the machine, shows what it says, and fails if a test did.
fn boot(base: &Base, disk: &Path) -> Result<()> {
    let drive = |path: &Path| format!("file={},format=raw,if=virtio,snapshot=on", path.display());
    let mut machine = Command::new("qemu-system-x86_64");
    machine
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
        .args(["-m", "3072", "-nographic", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(&base.kernel)
        .arg("-initrd")
        .arg(&base.initrd)
        .args(["-append", KERNEL_ARGUMENTS])
        .args(["-drive", &drive(&base.disk), "-drive", &drive(disk)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = machine.spawn().context("cannot start qemu")?;
    let console = machine.stdout.take().context("qemu has no console")?;
    let mut verdict = None;
    for line in BufReader::new(console).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        println!("{line}");
        if let Some(failed) = line.strip_prefix(VERDICT) {
            verdict = failed.parse::<u32>().ok();
        }
    }
    let _ = machine.wait()?;
    match verdict {
        Some(0) => Ok(()),
        Some(failed) => bail!("{failed} test programs failed in the machine"),
        None => bail!("the machine ended before its tests did"),
    }
}

fn make_disk(tree: &Path, disk: &Path, size: &str) -> Result<()> {
    let half = disk.with_extension("half");
    if half.exists() {
        fs::remove_file(&half)?;
    }
    let mut make = command("mkfs.ext4", &["-q", "-F", "-E", "root_owner=0:0", "-d"]);
    make.arg(tree).arg(&half).arg(size);
    run(make)?;
    fs::rename(half, disk)?;
    Ok(())
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let copied = fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop));
    copied.with_context(|| format!("cannot copy {}", from.display()))
}

fn remove(tree: &Path) -> Result<()> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
