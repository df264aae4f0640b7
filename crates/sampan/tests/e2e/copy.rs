//! Files into and out of containers, typed with the real `docker` client and with `sampan`, and
//! containers that try to lead copies elsewhere.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use sampan_testing::{TestEngine, run};

use crate::engine_with_busybox;
use crate::table::Expect::{Has, Id, Same, Text};
use crate::table::{line, play_in, wrong};

fn files(directory: &Path) {
    fs::write(directory.join("file"), "content\n").unwrap();
    fs::create_dir_all(directory.join("dir/sub")).unwrap();
    fs::write(directory.join("dir/one"), "1\n").unwrap();
    fs::write(directory.join("dir/sub/two"), "2\n").unwrap();
    symlink("one", directory.join("dir/link")).unwrap();
    symlink("dir", directory.join("linked")).unwrap();
    fs::create_dir(directory.join("out")).unwrap();
    let archive = directory.join("in.tar").display().to_string();
    let top = directory.display().to_string();
    let _ = run("tar", &["-C", &top, "-cf", &archive, "dir"]).ok();
}

#[test]
fn files_are_copied_as_by_docker() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    // A container that runs, one that was never started, and one that has ended.
    for begin in [
        "run -d --name box busybox sleep 1000",
        "create --name box busybox sh",
        "run -d --name box busybox true",
    ] {
        let settle = if begin.ends_with("true") {
            "wait box"
        } else {
            "inspect -f x box"
        };
        play_in(
            &engine_with_busybox(),
            &files,
            &[
                line(begin, Id),
                line(settle, Same),
                line("cp {dir}/file box:/tmp/new", Text("")),
                line("cp {dir}/file box:/tmp", Text("")),
                line("cp {dir}/file box:/tmp/new", Text("")),
                line("cp {dir}/dir box:/tmp/renamed", Text("")),
                line("cp {dir}/dir box:/tmp", Text("")),
                line("cp {dir}/dir/. box:/tmp/renamed/sub", Text("")),
                line("cp {dir}/dir/link box:/tmp/link", Text("")),
                line("cp -L {dir}/dir/link box:/tmp/followed", Text("")),
                line("cp -L {dir}/linked box:/tmp/all", Text("")),
                line("cp {dir}/file box:relative", Text("")),
                line("cp box:/tmp/new {dir}/out/new", Text("")),
                line("cp box:/tmp/renamed {dir}/out", Text("")),
                line("cp box:/tmp/renamed/. {dir}/out/inner", Text("")),
                line("cp -q box:/tmp/link {dir}/out/link", Text("")),
                wrong(
                    "cp -L box:/tmp/link {dir}/out/followed",
                    1,
                    &["Could not find the file /tmp/one in container box"],
                ),
                line("cp -L box:/tmp/renamed/link {dir}/out/followed", Text("")),
                line("cp box:/relative {dir}/out/", Text("")),
                wrong(
                    "cp box:/nonesuch {dir}/out",
                    1,
                    &["Could not find the file /nonesuch in container box"],
                ),
                wrong(
                    "cp {dir}/file box:/none/such",
                    1,
                    &["Could not find the file /none in container box"],
                ),
                wrong("cp {dir}/file box:/none/", 1, &["no such directory"]),
                wrong(
                    "cp {dir}/dir box:/etc/passwd",
                    1,
                    &["cannot copy directory"],
                ),
                wrong(
                    "cp box:/tmp/renamed {dir}/file",
                    1,
                    &["cannot copy directory"],
                ),
                wrong("cp {dir}/none box:/tmp", 1, &["no such file or directory"]),
                wrong(
                    "cp box:/tmp/new {dir}/none/new",
                    1,
                    &["invalid output path"],
                ),
                wrong(
                    "cp box:/a box:/b",
                    1,
                    &["copying between containers is not supported"],
                ),
                wrong(
                    "cp {dir}/a {dir}/b",
                    1,
                    &["must specify at least one container source"],
                ),
                wrong("cp none:/a {dir}/b", 1, &["No such container: none"]),
                wrong(
                    "cp box:/proc/version {dir}/out",
                    1,
                    &["Could not find the file /proc/version"],
                ),
                line("rm -f box", Text("box")),
            ],
        );
    }
}

/// What a tree of files is, in a form that can be compared.
fn shown(top: &Path) -> Vec<String> {
    let listed = run(
        "find",
        &[top.to_str().unwrap(), "-printf", "%P %y %m %l\\n"],
    );
    let mut lines: Vec<String> = listed.ok().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_comes_back_is_what_went_in() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let local = engine.scratch().join("tree");
    fs::create_dir(&local).unwrap();
    files(&local);
    std::os::unix::fs::chown(local.join("dir/one"), Some(1234), Some(5678)).unwrap();
    fs::set_permissions(local.join("dir/one"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(local.join("dir/one"), local.join("dir/hard")).unwrap();
    let dir = local.join("dir").display().to_string();
    for container in ["running", "made"] {
        let mut words = vec!["create", "--name", container, "-v", "vol:/v", "-u", "1000"];
        words.extend(["--tmpfs", "/t", "busybox", "sleep", "1000"]);
        let _ = engine.sampan(&words).ok();
        if container == "running" {
            let _ = engine.sampan(&["start", container]).ok();
        }
        // Below a volume that is mounted, and through a link that leads into it.
        for target in [format!("/v/{container}"), "/copy".to_owned()] {
            let place = format!("{container}:{target}");
            let _ = engine.sampan(&["cp", &dir, &place]).ok();
            let back = engine.scratch().join(format!("{container}-back"));
            let _ = fs::remove_dir_all(&back);
            let _ = engine.sampan(&["cp", &place, back.to_str().unwrap()]).ok();
            assert_eq!(shown(&back), shown(&local.join("dir")), "{place}");
            let one = fs::metadata(back.join("one")).unwrap();
            assert_eq!(
                one.mtime(),
                fs::metadata(local.join("dir/one")).unwrap().mtime()
            );
            assert_eq!(one.ino(), fs::metadata(back.join("hard")).unwrap().ino());
        }
        // As the container's user, where that is asked for.
        let _ = engine
            .sampan(&["cp", "-a", &dir, &format!("{container}:/owned")])
            .ok();
        let _ = engine.sampan(&["rm", "-f", "reader"]);
        let tar = engine.sampan(&["cp", &format!("{container}:/owned"), "-"]);
        assert_eq!(tar.code, 0, "{tar:?}");
    }
    // In the volume, for all to see.
    let seen = [
        "run",
        "--rm",
        "-v",
        "vol:/v",
        "busybox",
        "cat",
        "/v/made/sub/two",
    ];
    assert_eq!(engine.sampan(&seen).ok().trim_end(), "2");
    let owner = |place: &str| {
        let words = ["exec", "running", "stat", "-c", "%u:%g:%a", place];
        engine.sampan(&words).ok()
    };
    assert_eq!(owner("/owned/one").trim_end(), "1000:1000:4750");
    assert_eq!(owner("/copy/one").trim_end(), "1234:5678:4750");
    // What lies in a tmpfs of a container that runs is there, too.
    let _ = engine
        .sampan(&["exec", "-u", "0", "running", "sh", "-c", "echo t > /t/f"])
        .ok();
    let out = engine.scratch().join("from-tmpfs");
    let _ = engine
        .sampan(&["cp", "running:/t/f", out.to_str().unwrap()])
        .ok();
    assert_eq!(fs::read_to_string(&out).unwrap(), "t\n");
    // A file that is mounted is written where it is.
    let hosts = engine.scratch().join("hosts");
    fs::write(&hosts, "127.0.0.1 mine\n").unwrap();
    let _ = engine
        .sampan(&["cp", hosts.to_str().unwrap(), "running:/etc/hosts"])
        .ok();
    let read = ["exec", "running", "cat", "/etc/hosts"];
    assert_eq!(engine.sampan(&read).ok().trim_end(), "127.0.0.1 mine");
    // Started afterwards, it has what was copied.
    let _ = engine.sampan(&["start", "made"]).ok();
    let read = ["exec", "made", "cat", "/copy/sub/two"];
    assert_eq!(engine.sampan(&read).ok().trim_end(), "2");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = engine.root().display().to_string();
    // Before Linux 6.15 layers stay attached while the engine runs.
    let layers = format!("{root}/layers/mounts");
    let left: Vec<&str> = table
        .lines()
        .filter(|line| line.contains(&root) && !line.contains(&layers))
        .collect();
    assert!(left.len() <= 1, "{left:?}");
    engine.remove_all();
}

#[test]
fn archives_go_through_pipes() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let local = engine.scratch().join("tree");
    fs::create_dir(&local).unwrap();
    files(&local);
    let _ = engine
        .sampan(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    let tar = fs::read(local.join("in.tar")).unwrap();
    type Client<'e> = &'e dyn Fn(&[&str], &[u8]) -> sampan_testing::Ran;
    let clients: [Client<'_>; 2] = [
        &|words, input| engine.sampan_with_input(words, input),
        &|words, input| engine.docker_with_input(words, input),
    ];
    for client in clients {
        let _ = client(&["exec", "box", "rm", "-rf", "/tmp/dir"], b"");
        let _ = client(&["cp", "-", "box:/tmp"], &tar).ok();
        let out = client(&["exec", "box", "cat", "/tmp/dir/sub/two"], b"").ok();
        assert_eq!(out.trim_end(), "2");
        let refused = client(&["cp", "-", "box:/etc/passwd"], &tar).failed(1);
        assert!(refused.contains("must be a directory"), "{refused}");
        let broken = client(&["cp", "-", "box:/tmp"], &tar[..700]).failed(1);
        assert!(!broken.is_empty());
        let over = client(&["cp", "box:/tmp/dir", "-"], b"");
        assert!(over.stdout.contains("dir/sub/two"), "{over:?}");
    }
    engine.remove_all();
}

#[test]
fn read_only_containers_stay_as_they_are() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let file = engine.scratch().join("file");
    fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    for start in ["run -d", "create"] {
        let mut words: Vec<&str> = start.split(' ').collect();
        words.extend([
            "--name",
            "box",
            "--read-only",
            "-v",
            "rw:/rw",
            "-v",
            "ro:/ro:ro",
        ]);
        words.extend(["busybox", "sleep", "1000"]);
        let _ = engine.sampan(&words).ok();
        for client in [TestEngine::sampan, TestEngine::docker] {
            let _ = client(&engine, &["cp", file, "box:/rw/x"]).ok();
            let refused = client(&engine, &["cp", file, "box:/tmp/x"]).failed(1);
            assert!(
                refused.contains("container rootfs is marked read-only"),
                "{refused}"
            );
            let refused = client(&engine, &["cp", file, "box:/ro/x"]).failed(1);
            assert!(
                refused.contains("mounted volume is marked read-only"),
                "{refused}"
            );
        }
        engine.remove_all();
    }
}

/// CVE-2018-15664 (docker cp followed a link that was swapped in after it had been checked),
/// CVE-2019-14271 (docker-tar loaded a library of the container), CVE-2025-62725 and
/// GHSA-rg2x-37c3-w2rh (mounts of a copy that links led elsewhere). A container swaps links while
/// files are copied into and out of it: nothing of the host is read or written.
#[test]
fn links_that_are_swapped_lead_copies_nowhere() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let canary = engine.scratch().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("secret"), "of the host").unwrap();
    let up = "../".repeat(20);
    let canary_path = canary.display().to_string();
    // Swaps a directory for a link to the host's directory, by its own path and upwards, as fast
    // as it can.
    let script = format!(
        "mkdir -p /w/real; echo inside > /w/real/secret; cd /w; cp -a real place; echo ready; \
         while :; do rm -rf place; ln -s {canary_path} place; rm -rf place; \
         ln -s {up}{canary_path} place; rm -rf place; cp -a real place; sleep 0.01; done"
    );
    let swapper = ["run", "-d", "--name", "box", "busybox", "sh", "-c", &script];
    let _ = engine.sampan(&swapper).ok();
    sampan_testing::until("it swaps", || {
        engine.sampan(&["logs", "box"]).ok().contains("ready")
    });
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["secret", "new", "deep/er/file"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(8);
        header.set_mode(0o644);
        header.set_cksum();
        archive
            .append_data(&mut header, name, &b"hostile!"[..])
            .unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let (mut read, mut written) = (0, 0);
    std::thread::scope(|scope| {
        let out = scope.spawn(|| {
            let mut read = 0;
            for _ in 0..3000 {
                let answer = crate::raw::ask(
                    &engine,
                    "GET",
                    "/containers/box/archive?path=/w/place/secret",
                    b"",
                );
                assert!(!answer.contains("of the host"));
                read += usize::from(answer.contains("inside") || answer.contains("hostile!"));
            }
            read
        });
        let inward = scope.spawn(|| {
            let mut written = 0;
            for _ in 0..2000 {
                let answer = crate::raw::ask(
                    &engine,
                    "PUT",
                    "/containers/box/archive?path=/w/place",
                    &archive,
                );
                written += usize::from(answer.starts_with("HTTP/1.1 200"));
            }
            written
        });
        read = out.join().unwrap();
        written = inward.join().unwrap();
    });
    assert_eq!(
        fs::read_to_string(canary.join("secret")).unwrap(),
        "of the host"
    );
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
    assert!(read > 0 && written > 0, "{read} {written}");
    engine.remove_all();
}

#[test]
fn deep_and_odd_trees_are_copied_whole() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "mkdir -p /odd/$(printf 'd/%.0s' $(seq 1 100)); mkfifo /odd/fifo; \
        printf x > \"/odd/a b\"; printf y > /odd/ümlaut; ln -s /nowhere /odd/dangling; \
        ln -s . /odd/self; truncate -s 3000000 /odd/sparse; sleep 1000";
    let _ = engine
        .sampan(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script])
        .ok();
    sampan_testing::until("the tree is there", || {
        engine
            .sampan(&["exec", "box", "test", "-f", "/odd/sparse"])
            .code
            == 0
    });
    let out = engine.scratch().join("odd");
    let _ = engine
        .sampan(&["cp", "box:/odd", out.to_str().unwrap()])
        .ok();
    assert_eq!(fs::read(out.join("a b")).unwrap(), b"x");
    assert_eq!(fs::read(out.join("ümlaut")).unwrap(), b"y");
    assert_eq!(fs::metadata(out.join("sparse")).unwrap().len(), 3_000_000);
    assert_eq!(
        fs::read_link(out.join("dangling")).unwrap(),
        Path::new("/nowhere")
    );
    assert!(out.join("d/".repeat(100)).is_dir());
    let _ = engine
        .sampan(&["cp", out.to_str().unwrap(), "box:/back"])
        .ok();
    let compared =
        "cd /odd; find . ! -type p | sort > /1; cd /back; find . ! -type p | sort > /2; cmp /1 /2";
    let _ = engine.sampan(&["exec", "box", "sh", "-c", compared]).ok();
    // The root itself, without what the kernel shows.
    let tar = engine.command(&["cp", "box:/", "-"]).output().unwrap();
    assert!(tar.status.success());
    let names: Vec<String> = tar::Archive::new(&tar.stdout[..])
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned())
        .collect();
    assert!(names.iter().any(|name| name == "/odd/a b"), "{names:?}");
    assert!(!names.iter().any(|name| {
        ["/proc/", "/sys/"]
            .iter()
            .any(|top| name.starts_with(top) && name.len() > top.len())
    }));
    engine.remove_all();
}

#[test]
fn changes_are_listed_as_by_docker() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let change = "rm /etc/group; echo x >> /etc/passwd; mkdir /new; touch /new/a; \
        rm -r /home; mkdir /home; touch /home/own; mv /var /moved; chmod 700 /root";
    play_in(
        &engine_with_busybox(),
        &|_| {},
        &[
            line("create --name none busybox true", Id),
            line("diff none", Text("")),
            line(&format!("run --name box busybox sh -c '{change}'"), Same),
            line(
                "diff box",
                Has(&[
                    "D /etc/group",
                    "C /etc/passwd",
                    "C /etc\n",
                    "A /new\nA /new/a",
                    "A /home/own",
                ]),
            ),
            wrong("diff nonesuch", 1, &["No such container: nonesuch"]),
            line("rm none box", Same),
        ],
    );
}
