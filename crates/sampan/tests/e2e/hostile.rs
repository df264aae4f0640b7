//! Images made to break out: each is refused or harmless, and the host is
//! untouched.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use sampan_oci::Digest;
use sampan_testing::{TestEngine, run};
use serde_json::{Value, json};

use crate::engine;

/// Makes a tar of busybox and of what `make` adds.
fn tree(engine: &TestEngine, make: impl Fn(&Path)) -> String {
    let tree = engine.scratch().join("hostile");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    make(&tree);
    let tar = engine.scratch().join("hostile.tar").display().to_string();
    let _ = run("tar", &["-C", tree.to_str().unwrap(), "-cf", &tar, "."]).ok();
    tar
}

/// Imports a tree whose special entries `make` adds, as image `hostile`.
pub(crate) fn import(engine: &TestEngine, make: impl Fn(&Path)) {
    let tar = tree(engine, make);
    let _ = engine.sampan(&["import", &tar, "hostile"]).ok();
}

/// Loads an image `hostile` whose configuration says what no tool would write.
pub(crate) fn load(engine: &TestEngine, config: &Value, make: impl Fn(&Path)) {
    let layer = fs::read(tree(engine, make)).unwrap();
    let whole = json!({
        "architecture": sampan_oci::Platform::host().architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
    });
    let manifest = json!([
        {"Config": "config.json", "RepoTags": ["hostile:latest"], "Layers": ["layer.tar"]}
    ]);
    let mut archive = tar::Builder::new(Vec::new());
    for (path, data) in [
        ("config.json", whole.to_string().into_bytes()),
        ("layer.tar", layer),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, &data[..]).unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let _ = engine.sampan_with_input(&["load"], &archive).ok();
}

/// A directory of the host in which nothing may change.
struct Canary(PathBuf);

impl Canary {
    fn new(engine: &TestEngine) -> Self {
        let directory = engine.scratch().join("canary");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "untouched").unwrap();
        Self(directory)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        let names = fs::read_dir(&self.0).unwrap().flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["file"], "{what}");
        let content = fs::read_to_string(self.0.join("file")).unwrap();
        assert_eq!(content, "untouched", "{what}");
    }
}

#[test]
fn symlinks_where_the_runtime_mounts_stay_inside() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let canary = Canary::new(&engine);
    let outside = canary.path();
    let relative = format!("../../../../../..{outside}");
    for name in [
        "dev",
        "proc",
        "sys",
        "etc",
        "run",
        "dev/null",
        "dev/pts",
        "dev/console",
        "proc/sys",
        "etc/hosts",
    ] {
        for target in [
            outside.as_str(),
            relative.as_str(),
            "/proc/self/root",
            "/proc/1/root",
            ".",
            "loop",
        ] {
            import(&engine, |tree| {
                let link = tree.join(name);
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                symlink(target, link).unwrap();
            });
            let arguments = [
                "run",
                "--rm",
                "-v",
                "/vol",
                "hostile",
                "/bin/busybox",
                "sh",
                "-c",
                "echo x > /dev/x; echo ran",
            ];
            let ran = engine.sampan(&arguments);
            assert!(
                ran.stdout == "ran\n" || !ran.stderr.is_empty(),
                "{name} -> {target}: {ran:?}"
            );
            canary.assert_untouched(&format!("{name} -> {target}: {ran:?}"));
        }
    }
    engine.ledger().assert_no_container();
}

#[test]
fn working_directories_do_not_lead_out() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let canary = Canary::new(&engine);
    let outside = canary.path();
    let links = |tree: &Path| {
        symlink(&outside, tree.join("absolute")).unwrap();
        symlink(format!("../../../../..{outside}"), tree.join("relative")).unwrap();
    };
    import(&engine, links);
    let _ = engine
        .sampan(&[
            "run",
            "-d",
            "--name",
            "box",
            "hostile",
            "/bin/busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let mut directories: Vec<String> = (0..24).map(|n| format!("/proc/self/fd/{n}")).collect();
    directories.extend(
        [
            "/absolute",
            "/relative/new/one",
            "/proc/1/root",
            "/proc/self/cwd/../..",
            "/../..",
        ]
        .map(str::to_owned),
    );
    let look = [
        "/bin/busybox",
        "sh",
        "-c",
        "ls -a .; pwd -P; echo x > here 2>/dev/null",
    ];
    let check = |how: &str, directory: &str, ran: &sampan_testing::Ran| {
        let what = format!("{how} {directory}: {ran:?}");
        // What only the host's top and the canary have.
        for name in ["vmlinuz", "lost+found", "untouched", "file\n"] {
            assert!(!ran.stdout.contains(name), "{what}");
        }
        canary.assert_untouched(&what);
    };
    for directory in &directories {
        let flags = ["-w", directory.as_str()];
        let ran = engine.sampan(&[&["run", "--rm"], &flags[..], &["hostile"], &look].concat());
        check("run -w", directory, &ran);
        let ran = engine.sampan(&[&["exec"], &flags[..], &["box"], &look].concat());
        check("exec -w", directory, &ran);
    }
    for directory in &directories {
        load(&engine, &json!({"WorkingDir": directory}), links);
        let ran = engine.sampan(&[&["run", "--rm", "hostile"], &look[..]].concat());
        check("the image's", directory, &ran);
    }
}

#[test]
fn the_environment_of_the_host_does_not_leak() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    // Names without a value: some engines take the host's.
    let names = [
        "HOME",
        "USER",
        "PWD",
        "SAMPAN_RUN",
        "CARGO",
        "*",
        "CARGO*",
        "=x",
        "",
    ];
    load(&engine, &json!({"Env": names}), |_| {});
    let run = [
        "run",
        "--rm",
        "--name",
        "box",
        "hostile",
        "/bin/busybox",
        "env",
    ];
    let said = engine.sampan(&run).ok();
    for line in said.lines() {
        let (name, value) = line.split_once('=').unwrap();
        match name {
            "PATH" => assert_eq!(
                value,
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            ),
            "HOME" => assert_eq!(value, "/"),
            "HOSTNAME" => assert_eq!(value.len(), 12),
            _ => panic!("{said}"),
        }
    }
}

#[test]
fn users_are_what_numbers_and_files_say_or_refused() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let trap = "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:\n\
                web:x:33:33::/:\nwrap:x:4294967296:0::/:\n";
    import(&engine, |tree| {
        fs::create_dir(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/passwd"), trap).unwrap();
        fs::write(tree.join("etc/group"), "web:x:33:\n77:x:0:web\n").unwrap();
    });
    let id = |flags: &[&str]| {
        let command = ["hostile", "/bin/busybox", "sh", "-c", "id -u; id -g; id -G"];
        let ran = engine.sampan(&[&["run", "--rm"], flags, &command].concat());
        let said = ran.stdout.replace('\n', " ");
        (ran.code, said.trim().to_owned(), ran.stderr)
    };
    for (user, expected) in [
        ("1000", "1000 0 0"),
        ("1000:77", "1000 77 77"),
        ("web", "33 33 33 0"),
        ("2147483647", "2147483647 0 0"),
    ] {
        let (code, said, error) = id(&["-u", user]);
        assert_eq!((code, said.as_str()), (0, expected), "{user}: {error}");
    }
    for user in [
        "4294967296",
        "4294967295",
        "2147483648",
        "-1",
        "0x0",
        " 1",
        "1:1:1",
        "wrap",
        "web:-1",
        "web:nogroup",
    ] {
        let (code, said, error) = id(&["-u", user]);
        assert!((125..=126).contains(&code), "{user}: {code} {said} {error}");
        assert_eq!(said, "", "{user}");
        assert!(error.lines().count() <= 4, "{user}: {error}");
    }
    // The same words in an image.
    for user in ["4294967296", "-1", "wrap"] {
        load(&engine, &json!({"User": user}), |_| {});
        let (code, said, error) = id(&[]);
        assert!((125..=126).contains(&code), "{user}: {code} {said} {error}");
    }
}

#[test]
fn user_files_that_are_no_files_are_refused_at_once() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let canary = Canary::new(&engine);
    let secret = format!("{}/file", canary.path());
    type Make<'a> = &'a dyn Fn(&Path);
    let make_fifo: Make<'_> = &|path| drop(run("mkfifo", &[path.to_str().unwrap()]).ok());
    let make_zero: Make<'_> =
        &|path| drop(run("mknod", &[path.to_str().unwrap(), "c", "1", "5"]).ok());
    let make_huge: Make<'_> = &|path| fs::File::create(path).unwrap().set_len(1 << 30).unwrap();
    let make_link: Make<'_> = &|path| symlink("/dev/zero", path).unwrap();
    let make_out: Make<'_> = &|path| symlink(&secret, path).unwrap();
    let make_loop: Make<'_> = &|path| symlink("passwd", path).unwrap();
    let make_magic: Make<'_> = &|path| symlink("/proc/self/fd/0", path).unwrap();
    let make_directory: Make<'_> = &|path| fs::create_dir(path).unwrap();
    for (what, make) in [
        ("a fifo", make_fifo),
        ("a device", make_zero),
        ("a gigabyte", make_huge),
        ("a link to a device", make_link),
        ("a link out", make_out),
        ("a loop", make_loop),
        ("a magic link", make_magic),
        ("a directory", make_directory),
    ] {
        for name in ["passwd", "group"] {
            import(&engine, |tree| {
                fs::create_dir(tree.join("etc")).unwrap();
                fs::write(tree.join("etc/passwd"), "web:x:33:33::/:\n").unwrap();
                let path = tree.join("etc").join(name);
                let _ = fs::remove_file(&path);
                make(&path);
            });
            let started = std::time::Instant::now();
            let arguments = [
                "run",
                "--rm",
                "-u",
                "web:extra",
                "hostile",
                "/bin/busybox",
                "true",
            ];
            let ran = engine.sampan(&arguments);
            assert!((125..=126).contains(&ran.code), "{what} as {name}: {ran:?}");
            assert!(started.elapsed().as_secs() < 60, "{what} as {name}");
        }
    }
    canary.assert_untouched("user files");
    engine.ledger().assert_no_container();
}

#[test]
fn volumes_of_an_image_stay_inside() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let canary = Canary::new(&engine);
    let outside = canary.path();
    for volume in [
        "/../../../../../etc".to_owned(),
        format!("/../../..{outside}"),
        "/link".to_owned(),
        "/link/deeper".to_owned(),
        "/proc".to_owned(),
        "/proc/sys".to_owned(),
        "/proc/self/attr".to_owned(),
        "/sys".to_owned(),
        "/dev".to_owned(),
        "/dev/null".to_owned(),
        "/".to_owned(),
        "..".to_owned(),
        "relative".to_owned(),
        String::new(),
        "/a\nb".to_owned(),
        "n".repeat(5000),
    ] {
        load(&engine, &json!({"Volumes": {&volume: {}}}), |tree| {
            fs::create_dir(tree.join("etc")).unwrap();
            fs::write(tree.join("etc/passwd"), "of the image\n").unwrap();
            symlink(&outside, tree.join("link")).unwrap();
        });
        let script = "cat /etc/passwd; cat /link/file /link/deeper/file; echo x > /link/new; \
                      grep -c . /proc/self/attr/current /proc/interrupts; echo ran";
        let run = ["run", "--rm", "hostile", "/bin/busybox", "sh", "-c", script];
        let ran = engine.sampan(&run);
        let what = format!("{volume:.60}: {ran:?}");
        if ran.code == 0 {
            assert!(ran.stdout.ends_with("ran\n"), "{what}");
        } else {
            assert!((125..=127).contains(&ran.code), "{what}");
            assert!(!ran.stderr.is_empty(), "{what}");
        }
        assert!(!ran.stdout.contains("root:"), "{what}");
        assert!(!ran.stdout.contains("untouched"), "{what}");
        canary.assert_untouched(&what);
    }
    engine.ledger().assert_no_container();
}

#[test]
fn labels_of_an_image_do_nothing() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let canary = Canary::new(&engine);
    let touch = format!("binary:///bin/touch?{}/new", canary.path());
    let command = format!("touch {}/new", canary.path());
    let labels = json!({
        "containerd.io/restart.loguri": touch,
        "containerd.io/restart.status": "running",
        "io.containerd.runc.v2": command,
        "com.docker.compose.project": "../../x",
        "com.docker.volume.anonymous": "",
        "io.kubernetes.cri.sandbox-id": "x",
        "sampan.shim": command,
        "run.oci.hooks.stderr": command,
        "": "empty",
        "a\nb": "c\u{0}d",
    });
    load(&engine, &json!({"Labels": labels}), |_| {});
    let run = ["run", "--rm", "hostile", "/bin/busybox", "echo", "ran"];
    let ran = engine.sampan(&run);
    assert!(ran.stdout == "ran\n" || ran.code == 125, "{ran:?}");
    canary.assert_untouched("labels");
}

#[test]
fn the_supervisor_cannot_be_overwritten_from_inside() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let beside = Path::new(crate::SAMPAN).parent().unwrap();
    let digests =
        || ["sampan", "sampan-shim"].map(|name| Digest::of(&fs::read(beside.join(name)).unwrap()));
    let before = digests();
    import(&engine, |tree| {
        symlink("/proc/self/exe", tree.join("entry")).unwrap();
        fs::write(tree.join("script"), "#!/proc/self/exe\n").unwrap();
        let _ = run("chmod", &["755", tree.join("script").to_str().unwrap()]).ok();
    });
    for entry in ["/entry", "/script", "/proc/self/exe"] {
        let ran = engine.sampan(&["run", "--rm", "hostile", entry]);
        assert_ne!(ran.code, 0, "{entry}: {ran:?}");
    }
    // Someone waits inside for processes that join, and writes to what they are.
    let watch = "while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] || echo evil > $p/exe; \
                 done; done 2>/dev/null";
    let _ = engine
        .sampan(&[
            "run",
            "-d",
            "--name",
            "box",
            "hostile",
            "/bin/busybox",
            "sh",
            "-c",
            watch,
        ])
        .ok();
    for _ in 0..50 {
        for command in [
            &["/proc/self/exe"][..],
            &["/entry"],
            &["/bin/busybox", "true"],
        ] {
            let _ = engine.sampan(&[&["exec", "box"], command].concat());
        }
    }
    assert!(digests() == before, "an executable of the host was changed");
}

#[test]
fn a_default_container_cannot_break_out() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let probe = engine.scratch().join("probe");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/breakout.c");
    let probe_path = probe.to_str().unwrap();
    let _ = run("cc", &["-static", "-O1", "-o", probe_path, source]).ok();
    import(&engine, |tree| {
        let _ = fs::copy(&probe, tree.join("probe")).unwrap();
    });
    let sleep = [
        "run",
        "-d",
        "--name",
        "box",
        "hostile",
        "/bin/busybox",
        "sleep",
        "1000",
    ];
    let _ = engine.sampan(&sleep).ok();
    let shown = ["inspect", "-f", "{{.AppArmorProfile}}", "box"];
    let has_profile = engine.sampan(&shown).ok().trim() == "sampan-default";
    for (how, command) in [
        ("run", &["run", "--rm", "hostile", "/probe"][..]),
        ("exec", &["exec", "box", "/probe"]),
    ] {
        let said = engine.sampan(command).ok();
        assert!(said.lines().count() > 100, "{said}");
        let mut open: Vec<&str> = said
            .lines()
            .filter(|line| !line.ends_with(": refused") && !line.ends_with(": as expected"))
            .collect();
        if !has_profile && open == ["i386 socketcall(AF_ALG): done"] {
            let known = open.remove(0);
            sampan_kernel::requires::skip(&format!(
                "this kernel has AF_ALG and no AppArmor, without which {known}: see docs/containers.md"
            ));
        }
        assert_eq!(open, [""; 0], "{how}");
    }
}

#[test]
fn a_default_container_has_the_default_privileges() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    import(&engine, |_| {});
    let sleep = [
        "run",
        "-d",
        "--name",
        "box",
        "hostile",
        "/bin/busybox",
        "sleep",
        "1000",
    ];
    let _ = engine.sampan(&sleep).ok();
    let ours: BTreeSet<String> = namespaces(Path::new("/proc/self/ns"));
    for start in [&["run", "--rm", "hostile"][..], &["exec", "box"]] {
        let inside = |script: &str| {
            let command = ["/bin/busybox", "sh", "-c", script];
            engine.sampan(&[start, &command].concat()).ok()
        };
        let status = inside("cat /proc/self/status");
        for line in [
            "CapInh:\t0000000000000000",
            "CapPrm:\t00000000a80425fb",
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "CapAmb:\t0000000000000000",
            "Seccomp:\t2",
            "Seccomp_filters:\t1",
        ] {
            assert!(
                status.contains(line),
                "{start:?}: {line:?} is not in {status}"
            );
        }
        let devices = inside("ls /dev");
        let expected = "console core fd full mqueue null ptmx pts random shm stderr stdin stdout \
                        tty urandom zero";
        let devices: Vec<&str> = devices.lines().filter(|name| *name != "console").collect();
        let expected: Vec<&str> = expected
            .split_whitespace()
            .filter(|n| *n != "console")
            .collect();
        assert_eq!(devices, expected);
        // The shell's own, and that of the list.
        assert_eq!(inside("ls /proc/self/fd"), "0\n1\n2\n3");
        for number in 3..40 {
            assert_eq!(inside_link(&inside, number), "", "{start:?}");
        }
        let theirs = inside("for n in /proc/self/ns/*; do readlink $n; done");
        let shared: Vec<&str> = theirs
            .lines()
            .filter(|name| {
                ours.contains(*name) && !name.starts_with("user:") && !name.starts_with("cgroup:")
            })
            .collect();
        assert_eq!(shared, [""; 0], "{start:?}");
        let sockets = inside("cat /proc/net/unix; ls /run /var/run 2>/dev/null; true");
        assert!(
            !sockets.contains('@') && !sockets.contains(".sock"),
            "{sockets}"
        );
    }
}

/// Where a descriptor of a new process inside leads.
fn inside_link(inside: &dyn Fn(&str) -> String, number: u32) -> String {
    inside(&format!(
        "[ ! -e /proc/$$/fd/{number} ] || readlink /proc/$$/fd/{number}"
    ))
}

fn namespaces(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let links = entries.map(|entry| fs::read_link(entry.path()).unwrap());
    links.map(|link| link.display().to_string()).collect()
}

#[test]
fn sockets_of_the_engine_are_files() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    import(&engine, |_| {});
    let sleep = ["run", "-d", "hostile", "/bin/busybox", "sleep", "1000"];
    let _ = engine.sampan(&sleep).ok();
    let pid = engine.pid().as_raw_nonzero();
    let sockets = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
    let abstracts: Vec<&str> = sockets
        .lines()
        .filter(|line| line.contains('@') && line.contains("sampan"))
        .collect();
    assert_eq!(abstracts, [""; 0]);
}

#[test]
fn state_is_closed_to_other_users() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    use std::os::unix::fs::PermissionsExt;
    let engine = engine();
    import(&engine, |_| {});
    let _ = engine
        .sampan(&["create", "--name", "box", "hostile", "/bin/busybox"])
        .ok();
    let mode = fs::metadata(engine.root()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let mode =
        fs::metadata(engine.run_directory().join("shims")).map_or(0, |m| m.permissions().mode());
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    // The directory that the test itself made would keep everybody out.
    fs::set_permissions(engine.scratch(), fs::Permissions::from_mode(0o755)).unwrap();
    let can = |arguments: &[&str]| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "find"];
        run("setpriv", &[&nobody, arguments].concat()).stdout
    };
    assert_ne!(
        can(&[engine.scratch().to_str().unwrap(), "-maxdepth", "1"]),
        ""
    );
    let (root, run) = (engine.root(), engine.run_directory());
    let (root, run) = (root.to_str().unwrap(), run.to_str().unwrap());
    assert_eq!(can(&[root, "-mindepth", "1"]), "");
    assert_eq!(can(&[run, "-mindepth", "2"]), "");
    // Whose number anybody can see.
    let pid = format!("{run}/engine.pid\n");
    assert_eq!(can(&[run, "-mindepth", "1", "-readable"]), pid);
    assert_eq!(can(&[run, "-mindepth", "1", "-writable"]), "");
}
