//! What commands of a build can see and take: mounts, documents, networks, limits.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use sampan_testing::{Ran, TestEngine};

use crate::build::{context, docker_build, sampan_build};
use crate::engine_with_busybox;

/// Writes a Dockerfile into a new directory.
fn dockerfile(engine: &TestEngine, name: &str, text: &str) -> PathBuf {
    context(engine, name, &[("Dockerfile", text), ("a.txt", "a\n")])
}

fn sh(engine: &TestEngine, image: &str, script: &str) -> String {
    engine
        .sampan(&["run", "--rm", image, "sh", "-c", script])
        .ok()
}

fn data(engine: &TestEngine) -> Vec<PathBuf> {
    let entries = fs::read_dir(engine.root().join("build/mounts/data")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn bind_mounts_show_contexts_stages_and_images_and_leave_nothing() {
    let engine = engine_with_busybox();
    let file = "FROM busybox AS one\n\
        RUN mkdir -p /d/deep && echo stage > /d/f && ln -s /d/f /link\n\
        FROM busybox\n\
        RUN mkdir /there && touch -d @1000000000 /there\n\
        RUN --mount=target=/ctx cat /ctx/a.txt > /out && ! touch /ctx/new 2>/dev/null\n\
        RUN --mount=type=bind,from=one,source=/d,target=/made/up/here,rw \
            echo more >> /made/up/here/f && cat /made/up/here/f >> /out\n\
        RUN --mount=type=bind,from=one,source=/link,target=/there/f cat /there/f >> /out\n\
        RUN --mount=type=bind,from=busybox,source=bin/busybox,target=/busybox /busybox echo image >> /out\n\
        RUN --mount=type=bind,from=one,source=/d,target=/kept,rw touch /made && ls /kept >> /out\n";
    let directory = dockerfile(&engine, "bind", file);
    let _ = sampan_build(&engine, "bind", &directory, &[]).ok();
    let seen = sh(
        &engine,
        "bind",
        "cat /out; ls -d /ctx /made/up /busybox /kept /there/* 2>/dev/null; true",
    );
    assert_eq!(seen, "a\nstage\nmore\nstage\nimage\ndeep\nf");
    assert_eq!(sh(&engine, "bind", "stat -c %Y /there"), "1000000000");
    // Only what is seen counts.
    let again = sampan_build(&engine, "again", &directory, &[]).ok();
    assert_eq!(again.matches("CACHED").count(), 7, "{again}");
    fs::write(directory.join("a.txt"), "b\n").unwrap();
    let changed = sampan_build(&engine, "changed", &directory, &[]).ok();
    assert!(
        sh(&engine, "changed", "cat /out").starts_with("b\n"),
        "{changed}"
    );
    engine.ledger().assert_no_container();
}

#[test]
fn what_is_ignored_is_not_in_a_bind_mount() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nRUN --mount=target=/c cd /c && find . | sort > /list\n";
    let files = [
        ("Dockerfile", file),
        (
            ".dockerignore",
            "secret\n**/*.log\n!d/kept.log\nDockerfile\n",
        ),
        ("secret/key", "k"),
        ("d/a.log", "l"),
        ("d/kept.log", "l"),
        ("d/b", "b"),
    ];
    let directory = context(&engine, "ignored", &files);
    // A client of its own that sends everything.
    let tar = engine.scratch().join("all.tar");
    let (tar, from) = (tar.to_str().unwrap(), directory.to_str().unwrap());
    let _ = sampan_testing::run("tar", &["-cf", tar, "-C", from, "."]).ok();
    let _ = engine
        .sampan_with_input(&["build", "-t", "ignored", "-"], &fs::read(tar).unwrap())
        .ok();
    let list = sh(&engine, "ignored", "cat /list");
    assert_eq!(list, ".\n./.dockerignore\n./d\n./d/b\n./d/kept.log");
}

#[test]
fn cache_mounts_outlive_builds_and_engines_and_never_leave_their_place() {
    let engine = engine_with_busybox();
    let file = "FROM busybox AS seed\n\
        RUN mkdir -p /s/d && echo seeded > /s/d/f && chown 7:8 /s/d/f && ln -s d/f /s/l\n\
        FROM busybox\n\
        RUN --mount=type=cache,target=/c,id=../../../../../../escaped,mode=1770,uid=5,gid=6 \
            echo line >> /c/n && wc -l < /c/n && stat -c 'cache %a %u:%g' /c\n\
        RUN --mount=type=cache,target=/s,id=/etc,from=seed,source=/s \
            cat /s/l && stat -c 'seed %u:%g' /s/d/f && rm /s/l && ln -s /s/d/f /s/l\n\
        RUN ! test -e /c && ! test -e /s\n";
    let directory = dockerfile(&engine, "cache", file);
    let build = || sampan_build(&engine, "cache", &directory, &["--no-cache"]).ok();
    let first = build();
    for expected in [" 1\n", "cache 1770 5:6", "seeded", "seed 7:8"] {
        assert!(first.contains(expected), "{expected}: {first}");
    }
    engine.kill();
    let second = build();
    assert!(second.contains(" 2\n"), "{second}");
    assert_eq!(data(&engine).len(), 2);
    assert!(!Path::new("/escaped").exists());
    let pruned = engine.sampan(&["builder", "prune", "-f"]).ok();
    assert!(data(&engine).is_empty(), "{pruned}");
    let third = build();
    assert!(third.contains(" 1\n"), "{third}");
    engine.ledger().assert_no_container();
}

#[test]
fn two_commands_share_a_cache_mount_or_have_it_alone() {
    let engine = engine_with_busybox();
    let stage = |name: &str, sharing: &str, command: &str| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,id=x,target=/c{sharing} {command}\n"
        )
    };
    let end = "FROM busybox\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n\
        RUN --mount=type=cache,id=x,target=/c ls /c | wc -l > /n\n";
    let fill = |name: &str| {
        format!(
            "for i in $(seq 300); do echo $i > /c/{name}$i; rm -rf /c/d; mkdir -p /c/d; done; rm -rf /c/d"
        )
    };
    let shared = [stage("a", "", &fill("a")), stage("b", "", &fill("b"))].concat() + end;
    let directory = dockerfile(&engine, "shared", &shared);
    let _ = sampan_build(&engine, "shared", &directory, &[]).ok();
    assert_eq!(sh(&engine, "shared", "cat /n"), "600");
    let alone = "mkdir /c/alone && sleep 0.5 && rmdir /c/alone";
    let locked = ",sharing=locked";
    let locked = [stage("a", locked, alone), stage("b", locked, alone)].concat() + end;
    let directory = dockerfile(&engine, "locked", &locked);
    let _ = sampan_build(&engine, "locked", &directory, &[]).ok();
    let private = ",sharing=private";
    let private = [stage("a", private, alone), stage("b", private, alone)].concat() + end;
    let directory = dockerfile(&engine, "private", &private);
    let _ = sampan_build(&engine, "private", &directory, &[]).ok();
}

#[test]
fn links_lead_mounts_nowhere_but_into_the_container() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\n\
        RUN ln -s / /elsewhere && ln -s ../../../../etc /etc2 && ln -s /nowhere/at/all /dangling\n\
        RUN --mount=type=cache,target=/elsewhere/deep/x,id=1 touch /deep/x/f\n\
        RUN --mount=type=cache,target=/etc2/m,id=2 touch /etc/m/f\n\
        RUN --mount=type=cache,target=/dangling,id=3 touch /nowhere/at/all/f\n\
        RUN --mount=type=cache,target=/../../../up,id=4 rm -rf /up/* && ln -s /etc/passwd /up/l\n\
        RUN ! test -e /deep && ! test -e /etc/m && ! test -e /nowhere && ! test -e /up\n";
    let directory = dockerfile(&engine, "links", file);
    let _ = sampan_build(&engine, "links", &directory, &[]).ok();
    for outside in ["/deep", "/etc/m", "/nowhere", "/up"] {
        assert!(!Path::new(outside).exists(), "{outside}");
    }
    symlink("/etc/hostname", directory.join("absolute")).unwrap();
    symlink(
        "../../../../../../../etc/hostname",
        directory.join("relative"),
    )
    .unwrap();
    for source in ["absolute", "relative", "../../../../etc/hostname", "none"] {
        let file = format!("FROM busybox\nRUN --mount=source={source},target=/x cat /x\n");
        fs::write(directory.join("Dockerfile"), file).unwrap();
        let failed = sampan_build(&engine, "x", &directory, &[]).failed(1);
        assert!(failed.contains("not found"), "{source}: {failed}");
    }
    let root = "FROM busybox\nRUN --mount=type=cache,target=/a/.. true\n";
    fs::write(directory.join("Dockerfile"), root).unwrap();
    let failed = sampan_build(&engine, "x", &directory, &[]).failed(1);
    assert!(failed.contains("invalid mount target"), "{failed}");
}

#[test]
fn what_a_command_puts_in_the_place_of_a_mount_stays() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\n\
        RUN mkdir -m 700 /p && rmdir /home 2>/dev/null; mkdir -p /home\n\
        RUN --mount=type=tmpfs,target=/p/q/t touch /p/q/kept /p/q/t/gone\n\
        RUN --mount=type=tmpfs,target=/home/t chmod 711 /home\n\
        RUN --mount=type=tmpfs,target=/new/t rm -rf /p && mkdir /p\n";
    let directory = dockerfile(&engine, "stubs", file);
    let _ = sampan_build(&engine, "stubs", &directory, &[]).ok();
    let seen = sh(
        &engine,
        "stubs",
        "ls -A /p /home; stat -c %a /p /home; test -e /new || echo no",
    );
    assert_eq!(seen, "/home:\n\n/p:\n755\n711\nno");
}

#[test]
fn a_document_with_an_interpreter_is_a_file_that_runs() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nRUN <<END\n#!/bin/sh -e\necho $0 > /name\nls -l $0 > /mode\nEND\n\
        RUN <<'../up'\n#!/bin/sh\ntrue\n../up\n";
    let directory = dockerfile(&engine, "script", file);
    let failed = sampan_build(&engine, "script", &directory, &[]).failed(1);
    assert!(failed.contains("name of a file"), "{failed}");
    let file = file.split("RUN <<'").next().unwrap();
    fs::write(directory.join("Dockerfile"), file).unwrap();
    let _ = sampan_build(&engine, "script", &directory, &[]).ok();
    assert_eq!(sh(&engine, "script", "cat /name"), "/dev/pipes/END");
    assert!(sh(&engine, "script", "cat /mode").starts_with("-rwxr-xr-x"));
    assert_eq!(
        sh(&engine, "script", "ls -d /dev/pipes 2>/dev/null; true"),
        ""
    );
    // Another text is another step.
    fs::write(
        directory.join("Dockerfile"),
        file.replace("$0 > /name", "2 > /name"),
    )
    .unwrap();
    let _ = sampan_build(&engine, "script", &directory, &[]).ok();
    assert_eq!(sh(&engine, "script", "cat /name"), "2");
}

#[test]
fn a_command_has_the_powers_that_were_granted() {
    let engine = engine_with_busybox();
    let build = |file: &str, more: &[&str]| -> Ran {
        let directory = dockerfile(&engine, "powers", file);
        sampan_build(&engine, "powers", &directory, more)
    };
    let none = "FROM busybox\nRUN --network=none ls /sys/class/net > /n\n";
    let _ = build(none, &[]).ok();
    assert_eq!(sh(&engine, "powers", "cat /n"), "lo");
    let host = "FROM busybox\nRUN --network=host readlink /proc/self/ns/net > /n\n";
    let failed = build(host, &[]).failed(1);
    assert!(failed.contains("network.host is not allowed"), "{failed}");
    let _ = build(host, &["--allow", "network.host"]).ok();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(sh(&engine, "powers", "cat /n"), own.to_str().unwrap());
    let insecure = "FROM busybox\nRUN --security=insecure grep Seccomp: /proc/self/status > /n && \
        mount -t tmpfs none /mnt 2>/dev/null || mkdir -p /mnt && mount -t tmpfs none /mnt\n";
    let failed = build(insecure, &[]).failed(1);
    assert!(
        failed.contains("security.insecure is not allowed"),
        "{failed}"
    );
    let _ = build(insecure, &["--allow", "security.insecure"]).ok();
    assert_eq!(sh(&engine, "powers", "cat /n"), "Seccomp:\t0");
    let failed = build(
        "FROM busybox\nRUN --device=vendor.com/class=x,required true\n",
        &[],
    );
    let failed = failed.failed(1);
    assert!(failed.contains("vendor.com/class=x"), "{failed}");
    let failed = build(none, &["--allow", "everything"]).failed(1);
    assert!(
        failed.contains("unknown entitlement everything"),
        "{failed}"
    );
    let secret = "FROM busybox\nRUN --mount=type=secret,id=none ! test -e /run/secrets/none\n\
        RUN --mount=type=ssh test -z \"$(ls /run/buildkit 2>/dev/null)\"\n\
        RUN ! test -e /run/secrets\n";
    let _ = build(secret, &[]).ok();
    let secret = "FROM busybox\nRUN --mount=type=secret,id=none,required true\n";
    let failed = build(secret, &[]).failed(1);
    assert!(failed.contains("secret none: not found"), "{failed}");
    engine.ledger().assert_no_container();
}

#[test]
fn limits_of_a_build_hold_for_its_commands() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nRUN ulimit -n > /n && df -k /dev/shm | tail -1 | awk '{print $2}' >> /n && \
        (cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max) 2>/dev/null >> /n\n";
    let directory = dockerfile(&engine, "limits", file);
    let limits = [
        "--memory",
        "64m",
        "--ulimit",
        "nofile=123:456",
        "--shm-size",
        "8m",
    ];
    for (tag, build) in [
        ("ours", sampan_build as fn(_, _, &_, &_) -> _),
        ("theirs", docker_build),
    ] {
        let mut more = limits.to_vec();
        more.push("--no-cache");
        let ran: Ran = build(&engine, tag, &directory, &more);
        let _ = ran.ok();
        assert_eq!(sh(&engine, tag, "cat /n"), "123\n8192\n67108864", "{tag}");
    }
    let failed =
        sampan_build(&engine, "x", &directory, &["--no-cache", "--memory", "1k"]).failed(1);
    assert!(failed.contains("Minimum memory limit"), "{failed}");
}
