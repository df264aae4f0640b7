//! Containers on this kernel: what their processes find and what is left.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)] // each file uses a part
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use rustix::process::Signal;
use rustix::termios::{Winsize, tcsetwinsize};
use sampan_kernel::requires;
use sampan_kernel::seccomp::{SeccompProgram, SockFilter};
use sampan_oci::runtime::{
    Device, DeviceRule, LinuxResources, MemoryResources, NamespaceKind, PidsResources, Rlimit,
    TimeOffset,
};
use sampan_oci::seccomp::{Circumstances, Profile};
use sampan_runtime::{Bundle, Ending, Error, ErrorKind, ExecRequest, Root, Stdio, create, seccomp};
use support::{
    Image, bind, exec, exec_process, hierarchies, mount, pipes, read_all, read_terminal, readable,
    run, run_readable, script, sleeping, spec, start, try_create,
};

const SHELL: [&str; 2] = ["/bin/sh", "-c"];

fn shell(text: &str) -> sampan_oci::runtime::Spec {
    spec(&[SHELL[0], SHELL[1], text])
}

#[test]
fn exit_codes_and_signals_come_back() {
    requires!(root, cgroups);
    let image = Image::new();
    assert_eq!(script(&image, "exit 42").ending, Ending::Exited(42));
    assert_eq!(script(&image, "echo hi").text, "hi\n");
    let running = sleeping(&image);
    assert_eq!(running.try_wait().unwrap(), None);
    // A first process only dies of a signal that it could not have ignored.
    running.kill(Signal::KILL).unwrap();
    assert_eq!(running.wait().unwrap().code(), 137);
    running.delete().unwrap();
    running.delete().unwrap();
}

#[test]
fn want_of_memory_at_the_start_is_told() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut spec = shell("true");
    spec.linux.as_mut().unwrap().resources = Some(LinuxResources {
        memory: Some(MemoryResources {
            limit: Some(64 << 10),
            ..MemoryResources::default()
        }),
        ..LinuxResources::default()
    });
    let error = run(spec, image.root()).unwrap_err();
    assert!(error.to_string().contains("OOM-killed"), "{error}");
    assert_eq!(error.kind(), ErrorKind::OutOfResources);
}

#[test]
fn every_namespace_is_the_container_s_own() {
    requires!(root, cgroups);
    let image = Image::new();
    let text = script(&image, "cd /proc/self/ns; for n in *; do readlink $n; done").text;
    let inside: Vec<&str> = text.lines().collect();
    for name in ["mnt", "net", "uts", "pid", "ipc", "cgroup", "time"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let host = host.to_string_lossy();
        assert!(!inside.contains(&host.as_ref()), "{name} is the host's");
        assert!(
            inside.iter().any(|link| link.starts_with(name)),
            "{name} is missing"
        );
    }
    assert_eq!(script(&image, "echo $$; hostname").text, "1\nboat\n");
    // The view of the cgroup tree starts at the container.
    let view = script(&image, "cat /proc/self/cgroup").text;
    let outside = view
        .lines()
        .find(|l| l.contains(":memory:"))
        .unwrap_or("0::/");
    assert!(outside.ends_with(":/"), "{view}");
}

#[test]
fn dev_has_what_programs_expect() {
    requires!(root, cgroups);
    let image = Image::new();
    let text = script(
        &image,
        "cd /dev; stat -c '%n %F %t:%T %a' null zero full random urandom tty; \
         stat -c '%n %N' fd stdin stdout stderr core ptmx; stat -c '%n %a' . shm mqueue pts; \
         echo x > null; head -c 4 zero | wc -c",
    )
    .text;
    assert_eq!(
        text,
        "null character special file 1:3 666\n\
         zero character special file 1:5 666\n\
         full character special file 1:7 666\n\
         random character special file 1:8 666\n\
         urandom character special file 1:9 666\n\
         tty character special file 5:0 666\n\
         fd 'fd' -> '/proc/self/fd'\n\
         stdin 'stdin' -> '/proc/self/fd/0'\n\
         stdout 'stdout' -> '/proc/self/fd/1'\n\
         stderr 'stderr' -> '/proc/self/fd/2'\n\
         core 'core' -> '/proc/kcore'\n\
         ptmx 'ptmx' -> 'pts/ptmx'\n\
         . 755\nshm 1777\nmqueue 1777\npts 755\n4\n"
    );
}

#[test]
fn further_devices_are_made_where_and_as_asked() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut spec = shell("stat -c '%n %F %t:%T %a %u:%g' /dev/net/tun /dev/fifo");
    let device = |path: &str, kind: &str| Device {
        path: path.to_owned(),
        kind: kind.to_owned(),
        major: 10,
        minor: 200,
        file_mode: Some(0o640),
        uid: Some(3),
        gid: Some(4),
    };
    spec.linux.as_mut().unwrap().devices =
        vec![device("/dev/net/tun", "c"), device("/dev/fifo", "p")];
    let text = run(spec, image.root()).unwrap().text;
    assert_eq!(
        text,
        "/dev/net/tun character special file a:c8 640 3:4\n/dev/fifo fifo 0:0 640 3:4\n"
    );
}

#[test]
fn masked_and_read_only_paths_hold() {
    requires!(root, cgroups);
    let image = Image::new();
    let text = script(
        &image,
        "wc -c < /proc/interrupts; ls /proc/acpi /sys/firmware | wc -l; \
         touch /sys/firmware/x 2>/dev/null || echo mask-ro; \
         (echo b > /proc/sysrq-trigger) 2>/dev/null || echo sysrq-ro; \
         (echo x > /proc/sys/kernel/domainname) 2>/dev/null || echo sys-ro; \
         (touch /sys/x) 2>/dev/null || echo sysfs-ro",
    )
    .text;
    let text = text.replace("/proc/acpi:\n", "");
    assert!(text.starts_with("0\n"), "{text}");
    assert!(
        text.ends_with("mask-ro\nsysrq-ro\nsys-ro\nsysfs-ro\n"),
        "{text}"
    );
}

#[test]
fn privileges_are_those_of_the_specification() {
    requires!(root, cgroups);
    let image = Image::new();
    let status = "cat /proc/self/status | while read k v; do case $k in \
        Uid:|Gid:|Groups:|Cap*|NoNewPrivs:|Seccomp:) echo $k $v;; esac; done";
    // CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID
    let caps = "00000000000000e3";
    let none = "0000000000000000";
    let text = script(&image, status).text;
    for line in [
        format!("CapInh: {none}"),
        format!("CapPrm: {caps}"),
        format!("CapEff: {caps}"),
        format!("CapBnd: {caps}"),
        format!("CapAmb: {none}"),
        "NoNewPrivs: 0".to_owned(),
        "Seccomp: 0".to_owned(),
        "Groups:".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }

    let mut spec = shell(status);
    let process = spec.process.as_mut().unwrap();
    process.user.uid = 1000;
    process.user.gid = 1001;
    process.user.additional_gids = vec![7, 8];
    process.no_new_privileges = true;
    let mut readable = readable(spec, image.root());
    // Everything is allowed.
    let allow = vec![SockFilter {
        code: 6,
        jt: 0,
        jf: 0,
        k: 0x7fff_0000,
    }];
    readable.bundle.seccomp = Some(SeccompProgram::new(allow.clone(), 0));
    let text = run_readable(readable).unwrap().text;
    for line in [
        "Uid: 1000 1000 1000 1000".to_owned(),
        "Gid: 1001 1001 1001 1001".to_owned(),
        "Groups: 7 8".to_owned(),
        // As the kernel has it for any user but root.
        format!("CapPrm: {none}"),
        format!("CapEff: {none}"),
        format!("CapBnd: {caps}"),
        "NoNewPrivs: 1".to_owned(),
        "Seccomp: 2".to_owned(),
    ] {
        let text = text.replace('\t', " ");
        assert!(text.lines().any(|l| l.trim() == line), "{line} in {text}");
    }

    // Without no_new_privs the privilege for the filter is given up again.
    let mut with_filter = support::readable(shell(status), image.root());
    with_filter.bundle.seccomp = Some(SeccompProgram::new(allow, 0));
    let text = run_readable(with_filter).unwrap().text;
    assert!(text.contains(&format!("CapEff: {caps}")), "{text}");
    assert!(text.contains("Seccomp: 2"), "{text}");
}

#[test]
fn ambient_capabilities_reach_a_user_s_program() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut spec =
        shell("while read k v; do [ $k = CapEff: ] && echo $v; done < /proc/self/status");
    let process = spec.process.as_mut().unwrap();
    process.user.uid = 5;
    let caps = process.capabilities.as_mut().unwrap();
    caps.inheritable = vec!["CAP_KILL".to_owned()];
    caps.ambient = vec!["CAP_KILL".to_owned()];
    assert_eq!(run(spec, image.root()).unwrap().text, "0000000000000020\n");
}

#[test]
fn docker_s_filter_holds_in_every_process_and_hinders_no_start() {
    requires!(root, cgroups);
    let image = Image::new();
    let profile = Profile::docker_default().resolve(&Circumstances {
        capabilities: &[],
        architecture: if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        },
        kernel: (6, 18),
    });
    let filter = seccomp::compile(&profile).unwrap();
    // The privilege to mount is there, so that it is the filter that says no.
    let script = "mount -t tmpfs x /tmp 2>&1; cat /proc/self/status | while read k v; do \
        [ $k = Seccomp: ] && echo $v; done; sleep 0 && echo forked; tty";
    for no_new_privileges in [false, true] {
        let mut spec = shell("sleep 1000");
        let process = spec.process.as_mut().unwrap();
        process.no_new_privileges = no_new_privileges;
        let caps = process.capabilities.as_mut().unwrap();
        for set in [&mut caps.bounding, &mut caps.effective, &mut caps.permitted] {
            set.push("CAP_SYS_ADMIN".to_owned());
        }
        let mut process = process.clone();
        let mut readable = readable(spec, image.root());
        readable.bundle.seccomp = Some(filter.clone());
        let running = start(readable.bundle);
        process.args = [SHELL[0], SHELL[1], script].map(str::to_owned).to_vec();
        let mut request = ExecRequest::new(process);
        request.stdio = Stdio::Terminal { size: None };
        request.seccomp = Some(filter.clone());
        let mut process = running.exec(request).unwrap();
        let text = read_terminal(process.take_terminal().unwrap());
        process.wait().unwrap();
        assert_eq!(
            text,
            "mount: permission denied (are you root?)\n2\nforked\n/dev/pts/0\n"
        );
        let status = format!("/proc/{}/status", running.pid().as_raw_nonzero());
        assert!(fs::read_to_string(status).unwrap().contains("Seccomp:\t2"));
    }
}

#[test]
fn only_the_standard_streams_survive() {
    requires!(root, cgroups);
    let image = Image::new();
    // Without close-on-exec, as a careless caller might hold it.
    let stray = File::open("/").unwrap();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    let text = script(&image, "for f in /proc/$$/fd/*; do echo ${f##*/}; done").text;
    // The shell itself holds the directory open while it lists it.
    let numbers: Vec<&str> = text.lines().filter(|n| *n != "3").collect();
    assert_eq!(numbers, ["0", "1", "2"]);
}

#[test]
fn given_descriptors_are_open_from_three_on() {
    requires!(root, cgroups);
    let image = Image::new();
    image.write("one", "first");
    image.write("two", "second");
    let mut readable = readable(shell("cat <&3; cat <&4"), image.root());
    for name in ["one", "two"] {
        let file = File::open(image.path().join(name)).unwrap();
        readable.bundle.descriptors.push(file.into());
    }
    assert_eq!(run_readable(readable).unwrap().text, "firstsecond");
}

#[test]
fn limits_mask_environment_and_directory_arrive() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut spec = shell(
        "ulimit -n; umask; cat /proc/self/oom_score_adj; echo $FOO $HOME; readlink /proc/self/cwd",
    );
    let process = spec.process.as_mut().unwrap();
    process.rlimits = vec![Rlimit {
        kind: "RLIMIT_NOFILE".to_owned(),
        soft: 123,
        hard: 456,
    }];
    process.user.umask = Some(0o27);
    process.oom_score_adj = Some(321);
    process.env.push("FOO=bar".to_owned());
    process.cwd = "/new/work/directory".to_owned();
    assert_eq!(
        run(spec, image.root()).unwrap().text,
        "123\n0027\n321\nbar /\n/new/work/directory\n"
    );
}

#[test]
fn users_are_looked_up_in_the_container() {
    requires!(root, cgroups);
    let image = Image::new();
    image.write(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/srv/web:/bin/sh\n",
    );
    image.write("etc/group", "web:x:34:\nextra:x:50:web\n");
    let with_user = |name: &str| {
        let mut spec = shell("id -u; id -g; id -G; echo $HOME; (echo ok > /dev/stderr) 2>&1");
        spec.process.as_mut().unwrap().user.username = Some(name.to_owned());
        run(spec, image.root())
    };
    assert_eq!(
        with_user("web").unwrap().text,
        "33\n34\n34 50\n/srv/web\nok\n"
    );
    assert_eq!(with_user("7:8").unwrap().text, "7\n8\n8\n/\nok\n");
    let error = with_user("nobody").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadUser);
    assert_eq!(
        error.to_string(),
        "unable to find user nobody: no matching entries in passwd file"
    );
}

#[test]
fn a_terminal_is_the_container_s_own() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut bundle = Bundle::new(
        shell("tty; stty size; stat -c %F /dev/console; echo c > /dev/console; exit 3"),
        image.root(),
    );
    bundle.stdio = Stdio::Terminal {
        size: Some((40, 120)),
    };
    bundle.cgroup = Some(support::cgroup());
    let mut created = create(&hierarchies(), bundle).unwrap();
    let master = created.take_terminal().unwrap();
    let running = created.start().unwrap();
    let text = read_terminal(master);
    assert_eq!(running.wait().unwrap(), Ending::Exited(3));
    running.delete().unwrap();
    assert_eq!(text, "/dev/pts/0\n40 120\ncharacter special file\nc\n");
}

#[test]
fn further_processes_share_the_container() {
    requires!(root, cgroups);
    let image = Image::new();
    let running = sleeping(&image);
    let outcome = exec(
        &running,
        &[
            "sh",
            "-c",
            "hostname; cat /proc/1/comm; for n in pid net mnt time cgroup ipc uts; do \
          [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done; exit 9",
        ],
    );
    let outcome = outcome.unwrap();
    assert_eq!(outcome.text, "boat\nsleep\n");
    assert_eq!(outcome.ending, Ending::Exited(9));

    let cgroups = |pid: rustix::process::Pid| {
        fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap()
    };
    let (_output, stdio) = pipes();
    let mut request = ExecRequest::new(spec(&["/bin/sleep", "1000"]).process.unwrap());
    request.stdio = stdio;
    let process = running.exec(request).unwrap();
    assert_eq!(cgroups(process.pid()), cgroups(running.pid()));
    // The end of the first process is the end of all.
    running.kill(Signal::KILL).unwrap();
    assert_eq!(process.wait().unwrap(), Ending::Killed(9));
    running.wait().unwrap();
    let error = exec(&running, &["true"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotRunning, "{error}");
    running.delete().unwrap();
}

#[test]
fn further_processes_get_their_own_privileges_and_terminal() {
    requires!(root, cgroups);
    let image = Image::new();
    image.write("etc/passwd", "web:x:33:34:w:/srv:/bin/sh\n");
    let running = sleeping(&image);
    let mut process = shell(
        "id -u; id -g; echo $HOME; for f in /proc/$$/fd/*; do echo ${f##*/}; done; \
        while read k v; do case $k in Cap*) echo $v;; esac; done < /proc/self/status",
    )
    .process
    .unwrap();
    process.user.username = Some("web".to_owned());
    let text = exec_process(&running, process).unwrap().text;
    // The shell itself holds the directory open while it lists it.
    let lines: Vec<&str> = text.lines().filter(|line| *line != "3").collect();
    let none = "0000000000000000";
    let expected = ["33", "34", "/srv", "0", "1", "2", none, none, none];
    assert_eq!(lines[..9], expected);
    assert_eq!(lines[9..], ["00000000000000e3", none]);

    let mut request =
        ExecRequest::new(shell("tty; stty size; sleep 1; stty size").process.unwrap());
    request.stdio = Stdio::Terminal {
        size: Some((10, 20)),
    };
    let mut process = running.exec(request).unwrap();
    let master = process.take_terminal().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let size = Winsize {
        ws_row: 33,
        ws_col: 44,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    assert_eq!(read_terminal(master), "/dev/pts/0\n10 20\n33 44\n");
    process.wait().unwrap();

    let error = exec(&running, &["nope"]).unwrap_err();
    assert_eq!(error.exit_code(), 127);
    assert_eq!(
        error.to_string(),
        "exec: \"nope\": executable file not found in $PATH"
    );
    let mut process = shell("true").process.unwrap();
    process.cwd = "/missing".to_owned();
    let error = exec_process(&running, process).unwrap_err();
    assert_eq!(
        error.to_string(),
        "chdir to cwd (\"/missing\") set in config.json failed: no such file or directory"
    );
    drop(running);
}

#[test]
fn what_cannot_run_is_told_as_docker_does() {
    requires!(root, cgroups);
    let image = Image::new();
    image.write("data", "no program\n");
    image.write("script", "no program\n");
    fs::set_permissions(
        image.path().join("script"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let told = |name: &str| {
        let error = run(spec(&[name]), image.root()).unwrap_err();
        (error.to_string(), error.exit_code())
    };
    let text = |t: &str| t.to_owned();
    assert_eq!(
        told("nope"),
        (
            text("exec: \"nope\": executable file not found in $PATH"),
            127
        )
    );
    assert_eq!(
        told("/nope"),
        (
            text("exec: \"/nope\": stat /nope: no such file or directory"),
            127
        )
    );
    assert_eq!(
        told("/data"),
        (text("exec: \"/data\": permission denied"), 126)
    );
    assert_eq!(told("/etc"), (text("exec: \"/etc\": is a directory"), 126));
    assert_eq!(
        told("/script"),
        (text("exec /script: exec format error"), 128)
    );
}

#[test]
fn pause_stops_and_limits_limit() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut spec = shell("while :; do :; done");
    spec.linux.as_mut().unwrap().resources = Some(LinuxResources {
        pids: Some(PidsResources { limit: Some(5) }),
        devices: vec![DeviceRule {
            allow: false,
            access: Some("rwm".to_owned()),
            ..DeviceRule::default()
        }],
        ..LinuxResources::default()
    });
    let running = start(readable(spec, image.root()).bundle);
    let busy = || {
        let stat = format!("/proc/{}/stat", running.pid().as_raw_nonzero());
        let text = fs::read_to_string(stat).unwrap();
        let fields: Vec<_> = text.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap()
    };
    running.pause().unwrap();
    let before = busy();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(busy(), before);
    running.resume().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(busy() > before);

    // The standard devices may be used whatever the rules say.
    let text = exec(
        &running,
        &[
            "sh",
            "-c",
            "head -c 2 /dev/urandom | wc -c; echo > /dev/null && echo ok",
        ],
    );
    assert_eq!(text.unwrap().text, "2\nok\n");
    // The first process and this shell leave room for three more.
    let text = exec(
        &running,
        &[
            "sh",
            "-c",
            "sleep 0 && (sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait) 2>&1",
        ],
    );
    assert!(text.unwrap().text.contains("fork"));
    drop(running);
}

#[test]
fn binds_show_the_host_s_files_as_asked() {
    requires!(root, cgroups);
    let image = Image::new();
    image.link("var", "/run/absolute");
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "content\n").unwrap();
    fs::create_dir(host.path().join("below")).unwrap();
    let below = host.path().join("below");
    let system = rustix::mount::mount(
        "tmpfs",
        &below,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    );
    system.unwrap();
    fs::write(below.join("deep"), "deep\n").unwrap();
    let mut spec = shell(
        "cat /file /volume/file /volume/below/deep /var/lock/file; \
         for f in /volume/x /volume/below/x /loose/x /loose/below/x; do \
         (echo w > $f) 2>/dev/null && echo wrote $f; done; ls /lone/below",
    );
    spec.mounts.extend([
        bind(&host.path().join("file"), "/file", &["bind", "ro"]),
        bind(host.path(), "/volume", &["rbind", "ro"]),
        bind(host.path(), "/loose", &["rbind", "rprivate"]),
        bind(host.path(), "/lone", &["bind"]),
        bind(&host.path().join("file"), "/var/lock/file", &["bind"]),
    ]);
    let outcome = run(spec, image.root());
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(
        outcome.unwrap().text,
        "content\ncontent\ndeep\ncontent\nwrote /loose/x\nwrote /loose/below/x\n"
    );
    assert!(host.path().join("x").exists());
    assert!(image.path().join("run/absolute/lock/file").exists());
}

#[test]
fn later_mounts_of_the_host_reach_slaves_only() {
    requires!(root, cgroups);
    use rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount,
    };
    let image = Image::new();
    let host = tempfile::tempdir().unwrap();
    mount_bind(host.path(), host.path()).unwrap();
    mount_change(host.path(), MountPropagationFlags::SHARED).unwrap();
    for name in ["later", "inside"] {
        fs::create_dir(host.path().join(name)).unwrap();
    }
    let mut spec = spec(&["/bin/sleep", "1000"]);
    spec.mounts.extend([
        bind(host.path(), "/slave", &["rbind", "rslave"]),
        bind(host.path(), "/private", &["rbind"]),
    ]);
    let running = start(readable(spec, image.root()).bundle);
    let later = host.path().join("later");
    rustix::mount::mount("tmpfs", &later, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(later.join("file"), "x").unwrap();
    let seen = exec(
        &running,
        &["sh", "-c", "ls /slave/later; ls /private/later"],
    );
    drop(running);
    unmount(&later, UnmountFlags::DETACH).unwrap();
    unmount(host.path(), UnmountFlags::DETACH).unwrap();
    assert_eq!(seen.unwrap().text, "file\n");
}

#[test]
fn a_mount_that_cannot_be_is_one_clear_sentence() {
    requires!(root, cgroups);
    let image = Image::new();
    image.write("plain", "x");
    let with = |mount| {
        let mut spec = spec(&["true"]);
        spec.mounts.push(mount);
        run(spec, image.root()).unwrap_err()
    };
    let missing = with(bind(Path::new("/does/not/exist"), "/x", &["rbind"]));
    assert_eq!(
        missing.to_string(),
        "cannot mount /does/not/exist at /x: no such file or directory"
    );
    let mismatch = with(bind(Path::new("/etc"), "/plain", &["rbind"]));
    assert_eq!(
        mismatch.to_string(),
        "cannot mount /etc at /plain: not a directory"
    );
    assert_eq!(
        (mismatch.kind(), mismatch.exit_code()),
        (ErrorKind::BadMount, 127)
    );
    assert!(mismatch.hint().is_some());
    let unknown = with(mount("/x", "tmpfs", &["size=nonsense"]));
    assert_eq!(unknown.kind(), ErrorKind::BadMount);
    for destination in ["/proc", "/proc/self", "/proc/sys/kernel", "/../proc/./"] {
        let over = with(bind(image.path(), destination, &["rbind"]));
        assert_eq!(over.kind(), ErrorKind::BadMount, "{over}");
    }
    assert!(
        with(bind(image.path(), "/", &["rbind"]))
            .to_string()
            .contains("root file system")
    );
    // What lxcfs does is allowed.
    let mut spec = shell("cat /proc/uptime");
    spec.mounts
        .push(bind(&image.path().join("plain"), "/proc/uptime", &["bind"]));
    assert_eq!(run(spec, image.root()).unwrap().text, "x");
}

#[test]
fn the_root_can_be_read_only() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut spec = shell("touch /x 2>/dev/null || echo ro; touch /dev/shm/x && echo rw");
    spec.root.as_mut().unwrap().readonly = true;
    spec.process.as_mut().unwrap().cwd = "/made/before".to_owned();
    assert_eq!(run(spec, image.root()).unwrap().text, "ro\nrw\n");
}

#[test]
fn kernel_parameters_of_own_namespaces_are_set() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut spec =
        shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni");
    let sysctl = &mut spec.linux.as_mut().unwrap().sysctl;
    sysctl.insert(
        "net.ipv4.ip_unprivileged_port_start".to_owned(),
        "0".to_owned(),
    );
    sysctl.insert("kernel.shmmni".to_owned(), "77".to_owned());
    assert_eq!(run(spec.clone(), image.root()).unwrap().text, "0\n77\n");
    let sysctl = &mut spec.linux.as_mut().unwrap().sysctl;
    sysctl.insert("kernel.core_pattern".to_owned(), "|/evil".to_owned());
    let error = run(spec, image.root()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("not in a separate kernel namespace"),
        "{error}"
    );
}

#[test]
fn clocks_can_be_set_back_and_forth() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut spec = shell("cat /proc/uptime");
    let offset = TimeOffset {
        secs: 1_000_000,
        nanosecs: 0,
    };
    spec.linux
        .as_mut()
        .unwrap()
        .time_offsets
        .insert("boottime".to_owned(), offset);
    let text = run(spec, image.root()).unwrap().text;
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    assert!(seconds > 1_000_000.0, "{text}");
}

#[test]
fn containers_can_share_namespaces() {
    requires!(root, cgroups);
    let image = Image::new();
    let first = sleeping(&image);
    let namespace = |name: &str| {
        let path = format!("/proc/{}/ns/{name}", first.pid().as_raw_nonzero());
        File::open(path).unwrap().into()
    };
    let mut readable = readable(
        shell("cat /proc/1/comm; readlink /proc/self/ns/net; readlink /proc/1/ns/net"),
        image.root(),
    );
    readable.bundle.namespaces = vec![
        (NamespaceKind::Pid, namespace("pid")),
        (NamespaceKind::Network, namespace("net")),
    ];
    let text = run_readable(readable).unwrap().text;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "sleep");
    assert_eq!(lines[1], lines[2]);
    // Failures are told from there as well, and exit codes come from there.
    let second = |command: &[&str]| {
        let mut readable = support::readable(spec(command), image.root());
        readable.bundle.namespaces = vec![(NamespaceKind::Pid, namespace("pid"))];
        run_readable(readable)
    };
    assert_eq!(second(&["nope"]).unwrap_err().exit_code(), 127);
    let ending = second(&["sh", "-c", "exit 6"]).unwrap().ending;
    assert_eq!(ending, Ending::Exited(6));
    drop(first);
}

#[test]
fn a_detached_mount_serves_several_starts() {
    requires!(root, cgroups, overlay);
    if !requires::kernel_at_least(6, 15) {
        eprintln!("SKIP: a detached mount cannot be cloned before Linux 6.15");
        return;
    }
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    };
    let image = Image::new();
    let upper = tempfile::tempdir().unwrap();
    fs::create_dir(upper.path().join("upper")).unwrap();
    fs::create_dir(upper.path().join("work")).unwrap();
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "lowerdir+", image.path()).unwrap();
    fsconfig_set_string(&context, "upperdir", upper.path().join("upper")).unwrap();
    fsconfig_set_string(&context, "workdir", upper.path().join("work")).unwrap();
    fsconfig_create(&context).unwrap();
    let overlay = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap();
    for round in 0..3 {
        let root = Root::Mount(overlay.try_clone().unwrap());
        let script = format!("cat /round* 2>/dev/null; echo {round} > /round{round}");
        let text = run(shell(&script), root).unwrap().text;
        assert_eq!(
            text,
            (0..round).map(|r| format!("{r}\n")).collect::<String>()
        );
    }
    assert!(!image.path().join("round0").exists());
}

#[test]
fn standard_input_reaches_the_program() {
    requires!(root, cgroups);
    let image = Image::new();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut readable = readable(spec(&["cat"]), image.root());
    if let Stdio::Pipes { stdin, .. } = &mut readable.bundle.stdio {
        *stdin = read;
    }
    let running = create(&hierarchies(), readable.bundle)
        .unwrap()
        .start()
        .unwrap();
    let mut write = File::from(write);
    write.write_all(b"through\n").unwrap();
    drop(write);
    assert_eq!(read_all(readable.output), "through\n");
    running.wait().unwrap();
    running.delete().unwrap();
}

#[test]
fn working_directories_do_not_lead_out() {
    requires!(root, cgroups);
    let image = Image::new();
    for number in 0..32 {
        for path in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/1/fd/{number}/.."),
        ] {
            let mut spec = shell(concat!(
                "readlink /proc/self/cwd; ls ",
                env!("CARGO_MANIFEST_DIR"),
                " 2>&1"
            ));
            spec.process.as_mut().unwrap().cwd = path.clone();
            match run(spec, image.root()) {
                Err(_) => {}
                Ok(outcome) => {
                    assert!(!outcome.text.contains("Cargo"), "{path}: {}", outcome.text);
                    assert!(
                        outcome.text.starts_with("/proc"),
                        "{path}: {}",
                        outcome.text
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    requires!(root, cgroups);
    let image = Image::new();
    let mut user = spec(&["true"]);
    user.linux
        .as_mut()
        .unwrap()
        .namespaces
        .push(sampan_oci::runtime::Namespace::new(NamespaceKind::User));
    let error = try_create(user, &image).unwrap_err();
    assert_eq!(
        error.to_string(),
        "user namespaces enabled, but no uid or gid mappings found"
    );
    let mut host = spec(&["true"]);
    host.linux
        .as_mut()
        .unwrap()
        .namespaces
        .retain(|n| n.kind != NamespaceKind::Mount);
    let error = try_create(host, &image).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a container without a mount namespace of its own is not supported"
    );
    let mut name = spec(&["true"]);
    name.linux
        .as_mut()
        .unwrap()
        .namespaces
        .retain(|n| n.kind != NamespaceKind::Uts);
    let error = try_create(name, &image).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}
