//! The disk with the test programs, the images and the script that runs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use sampan_testing::fixture;
use xtask::run::{cargo, command, run, workspace};

use super::report::{BEGINS, ENDS, KILLED, VERDICT};
use super::{Group, IMAGES, TESTED};

/// Tests wait for each other's processors, and for much else.
const THREADS: u32 = 2;
/// How long a program may take, in minutes, of which somebody has named the tests.
const NAMED: u32 = 60;

/// The first lines of what runs in the machine as process 1.
const PREPARE: &str = "#!/bin/sh
mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run; mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
modprobe -a overlay erofs nf_tables nft_chain_nat br_netfilter veth bridge fuse loop
ip link set lo up; ulimit -n 65536
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/mnt/bin RUST_BACKTRACE=1
export SAMPAN_SWAP_ROUNDS=20 SAMPAN_SLOW_MACHINE=6 SAMPAN_MACHINE_IS_OURS=1
";

/// Puts the built programs, their sources, the images and a script on a disk, at the paths that
/// they have here.
pub(super) fn pack(directory: &Path, filters: &[&str]) -> Result<PathBuf> {
    let programs = test_programs()?;
    let tree = directory.join("tests");
    remove(&tree)?;
    let inside = tree.join("workspace");
    // Some tests read them; all tests run in their package's folder.
    copy_tree(&workspace().join("crates"), &inside.join("crates"))?;
    for program in &programs {
        let relative = program.path.strip_prefix(workspace())?;
        copy(&program.path, &inside.join(relative))?;
    }
    write_program(&tree.join("run"), &script(&programs, filters))?;
    let executables = [
        "sampan",
        "sampan-shim",
        "sampan-runtime",
        "examples/layer_worker",
    ];
    for program in built(&executables)? {
        copy(&program, &inside.join(program.strip_prefix(workspace())?))?;
    }
    let docker = on_path("docker").context("docker's client is not on the PATH")?;
    copy(&docker, &tree.join("bin/docker"))?;
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

/// Runs every group's programs one after the other and turns the machine off.
fn script(programs: &[TestProgram], filters: &[&str]) -> String {
    let workspace = workspace();
    let workspace = workspace.display();
    // Whatever a program has started ends with it: all but process 1, which is the script.
    let mut script = format!(
        "{PREPARE}mkdir -p {workspace}; rmdir {workspace}; ln -s /mnt/workspace {workspace}
failed=0
try() {{
    name=$1 minutes=$2; shift 2
    echo \"{BEGINS}$name\"
    timeout -k 10 ${{minutes}}m \"$@\" < /dev/null
    code=$?
    if [ $code = 124 ] || [ $code = 137 ]; then
        echo \"{KILLED}$name: not done after $minutes minutes\"
        kill -9 -1
    fi
    [ $code = 0 ] || failed=$((failed + 1))
    echo \"{ENDS}$name: $code\"
}}
"
    );
    let mut tried = BTreeSet::new();
    for group in TESTED {
        for program in programs.iter().filter(|program| program.is_of(group)) {
            // With words of one's own a program's groups are one.
            if !filters.is_empty() && !tried.insert(&program.path) {
                continue;
            }
            let (words, left_out, minutes) = match filters {
                [] => (group.tests, group.left_out, group.minutes),
                filters => (filters, &[][..], NAMED),
            };
            let words = words.iter().map(|word| format!(" '{word}'"));
            let skips = left_out.iter().map(|word| format!(" --skip '{word}'"));
            let words: String = words.chain(skips).collect();
            let shown = match filters {
                [] => words.replace('\'', ""),
                _ => String::new(),
            };
            script.push_str(&format!(
                "cd '{}'; try '{} {}{shown}' {} '{}' --test-threads={THREADS} --color=never --show-output{words}\n",
                program.folder.display(),
                group.package,
                program.name,
                minutes,
                program.path.display(),
            ));
        }
    }
    script.push_str(&format!(
        "echo \"{VERDICT}$failed\"\nsync\necho o > /proc/sysrq-trigger\nsleep 60\n"
    ));
    script
}

struct TestProgram {
    package: String,
    name: String,
    folder: PathBuf,
    path: PathBuf,
}

impl TestProgram {
    fn is_of(&self, group: &Group) -> bool {
        self.package == group.package && (group.program.is_empty() || self.name == group.program)
    }
}

/// Builds the test programs, with the executables, and says where they are. All of them: they are
/// those of `cargo xtask test`.
fn test_programs() -> Result<Vec<TestProgram>> {
    let mut build = cargo(&[
        "test",
        "--workspace",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
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
        let program = TestProgram {
            package,
            name: name.to_owned(),
            folder: folder.to_owned(),
            path: path.into(),
        };
        if TESTED.iter().any(|group| program.is_of(group)) {
            found.push(program);
        }
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

/// Makes a disk with the files of a tree.
pub(super) fn make_disk(tree: &Path, disk: &Path, size: &str) -> Result<()> {
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

pub(super) fn write_program(path: &Path, text: &str) -> Result<()> {
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

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_tree(&entry.path(), &target)?,
            false => copy(&entry.path(), &target)?,
        }
    }
    Ok(())
}

/// Removes a tree that may be there.
pub(super) fn remove(tree: &Path) -> Result<()> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
