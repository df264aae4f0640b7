//! Root file systems that try to reach the host.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)] // each file uses a part
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sampan_kernel::requires;
use support::{Image, bind, run, spec};

/// A tree of the host that no container may change, and a record of it.
struct Canary {
    directory: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "null",
            "console",
            "fd",
            "sys/kernel/domainname",
            "self/attr/exec",
            "pts/x",
        ] {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "canary").unwrap();
        }
        let before = record(directory.path());
        Self { directory, before }
    }

    fn assert_unchanged(&self, what: &str) {
        assert_eq!(record(self.directory.path()), self.before, "{what}");
    }
}

fn record(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let status = fs::symlink_metadata(&path).unwrap();
        if status.is_dir() {
            found.extend(record(&path));
        }
        let text = if status.is_file() {
            fs::read_to_string(&path).unwrap()
        } else {
            String::new()
        };
        use std::os::unix::fs::MetadataExt;
        found.insert(path, format!("{:o} {} {text}", status.mode(), status.uid()));
    }
    found
}

#[test]
fn linked_system_directories_never_reach_the_host() {
    requires!(root, cgroups);
    let canary = Canary::new();
    let host = canary.directory.path().to_str().unwrap().to_owned();
    let host_view = || {
        (
            fs::read_to_string("/proc/self/mountinfo").unwrap(),
            fs::read_to_string("/proc/sys/kernel/domainname").unwrap(),
        )
    };
    let view_before = host_view();
    let volume = tempfile::tempdir().unwrap();
    let up = format!("{}{host}", "../".repeat(12));
    let targets = [
        host.as_str(),
        up.as_str(),
        "/nowhere/at/all",
        "self-loop",
        "/",
        ".",
        "/tmp",
        "/proc/1/root",
        "/proc/self/fd/3",
    ];
    let places = [
        "proc",
        "proc/sys",
        "dev",
        "dev/null",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "sys",
        "sys/fs",
        "etc",
        "etc/hosts",
        "run",
        "volume",
    ];
    for place in places {
        for target in targets {
            let image = Image::bare();
            let what = format!("/{place} -> {target}");
            let parent = Path::new(place).parent().unwrap().to_str().unwrap();
            fs::create_dir_all(image.path().join(parent)).unwrap();
            let target = if target == "self-loop" {
                Path::new(place).file_name().unwrap().to_str().unwrap()
            } else {
                target
            };
            image.link(place, target);
            let mut spec = spec(&[
                "/bin/sh",
                "-c",
                "echo ran; echo x > /run/x; echo y > /etc/y",
            ]);
            spec.mounts.extend([
                bind(
                    &canary.directory.path().join("null"),
                    "/etc/hosts",
                    &["bind", "ro"],
                ),
                bind(volume.path(), "/volume/deep", &["rbind"]),
                bind(volume.path(), "/run/volume", &["rbind"]),
            ]);
            let sysctl = &mut spec.linux.as_mut().unwrap().sysctl;
            sysctl.insert("kernel.domainname".to_owned(), "hostile".to_owned());
            let started = std::time::Instant::now();
            let result = run(spec, image.root());
            if let Ok(outcome) = &result {
                assert!(outcome.text.contains("ran"), "{what}: {}", outcome.text);
            }
            assert!(started.elapsed().as_secs() < 60, "{what}");
            canary.assert_unchanged(&what);
            assert_eq!(host_view(), view_before, "{what}: {result:?}");
        }
    }
}

#[test]
fn linked_proc_and_sys_are_refused() {
    requires!(root, cgroups);
    for place in ["proc", "sys"] {
        let image = Image::bare();
        image.link(place, "/tmp");
        let error = run(spec(&["true"]), image.root()).unwrap_err();
        assert!(error.to_string().contains("ordinary directory"), "{error}");
    }
}

#[test]
fn a_false_null_device_masks_nothing() {
    requires!(root, cgroups);
    // Without a /dev of our own the image's is taken, so it must be true.
    let image = Image::bare();
    image.write("dev/null", "a file");
    let mut spec = spec(&[
        "/bin/sh",
        "-c",
        "wc -c < /proc/interrupts; echo x > /dev/null; wc -c < /dev/null",
    ]);
    spec.mounts.retain(|m| !m.destination.starts_with("/dev"));
    let outcome = run(spec, image.root()).unwrap();
    assert_eq!(outcome.text, "0\n0\n");
}

#[test]
fn paths_that_are_swapped_while_containers_start_stay_inside() {
    requires!(root, cgroups);
    use std::sync::atomic::{AtomicBool, Ordering};
    let canary = Canary::new();
    let volume = tempfile::tempdir().unwrap();
    let real = volume.path().join("place");
    let link = volume.path().join("other");
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(canary.directory.path(), &link).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                let _ = rustix::fs::renameat_with(cwd, &real, cwd, &link, exchange);
            }
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for _ in 0..40 {
            let image = Image::new();
            let mut spec = spec(&["/bin/sh", "-c", "echo z > /volume/place/inside/z"]);
            spec.mounts.extend([
                bind(volume.path(), "/volume", &["rbind"]),
                bind(image.path(), "/volume/place/inside", &["rbind"]),
            ]);
            spec.process.as_mut().unwrap().cwd = "/volume/place/work".to_owned();
            // Whether it starts depends on the moment.
            drop(run(spec, image.root()));
            canary.assert_unchanged("swapped");
        }
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_tracer_inside_sees_nothing_of_the_host_while_processes_join() {
    requires!(root, cgroups);
    let image = Image::new();
    let watch = "while :; do for f in /proc/[0-9]*/fd/* /proc/[0-9]*/cwd /proc/[0-9]*/root; do \
        readlink $f; done; done > /seen 2>/dev/null";
    let mut spec = spec(&["/bin/sh", "-c", watch]);
    let process = spec.process.as_mut().unwrap();
    let caps = process.capabilities.as_mut().unwrap();
    for set in [&mut caps.bounding, &mut caps.effective, &mut caps.permitted] {
        set.push("CAP_SYS_PTRACE".to_owned());
    }
    let readable = support::readable(spec, image.root());
    let running = support::start(readable.bundle);
    for _ in 0..300 {
        let outcome = support::exec(&running, &["true"]).unwrap();
        assert_eq!(outcome.ending.code(), 0);
    }
    drop(running);
    let seen = fs::read_to_string(image.path().join("seen")).unwrap();
    let mut outside: Vec<&str> = seen
        .lines()
        .filter(|line| {
            !["/", "/seen", "/dev/null"].contains(line)
                && !["pipe:", "socket:", "/proc/"]
                    .iter()
                    .any(|start| line.starts_with(start))
        })
        .collect();
    outside.sort_unstable();
    outside.dedup();
    assert_eq!(outside, Vec::<&str>::new());
    assert!(
        seen.lines().any(|line| line.starts_with("pipe:")),
        "nothing was seen at all"
    );
}
