//! Dockerfiles and contexts that want out. After each, a directory of the host that they aim at
//! is as before.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use sampan_testing::TestEngine;

use crate::build::{context, docker_build, sampan_build};
use crate::engine_with_busybox;

/// What has to come of a build.
enum Comes {
    /// It fails, and says this.
    Fails(&'static str),
    /// It ends well; this script then ends well in its image.
    Holds(&'static str),
}

use Comes::{Fails, Holds};

/// What it is about, the Dockerfile after `FROM busybox AS first`, what comes of it. `{canary}` is a
/// directory of the host with the file `kept`; the context has `f`, and links to it.
const TABLE: &[(&str, &str, Comes)] = &[
    (
        "COPY --from leads out of a stage by ..",
        "RUN mkdir /d && echo in > /d/kept\n\
         FROM busybox\nCOPY --from=0 ../../../../../..{canary}/kept /x\n",
        Fails("not found"),
    ),
    (
        "COPY --from leads out of a stage by links",
        "RUN ln -s {canary} /a && ln -s ../../../../../../../..{canary} /r\n\
         FROM busybox\nCOPY --from=0 /a/kept /x\n",
        Fails("not found"),
    ),
    (
        "COPY --from of a relative link",
        "RUN ln -s ../../../../../../../..{canary} /r\nFROM busybox\nCOPY --from=0 /r/kept /x\n",
        Fails("not found"),
    ),
    (
        "COPY --from of an image leads out of it",
        "COPY --from=busybox ../../../../../..{canary}/kept /x\n",
        Fails("not found"),
    ),
    (
        "COPY takes a link of the context to the host",
        "COPY absolute/kept /x\n",
        Fails("not found"),
    ),
    (
        "COPY takes a relative link of the context to the host",
        "COPY relative/kept /x\n",
        Fails("not found"),
    ),
    (
        "CVE-2024-11218: COPY and ADD write through links of the image",
        "RUN ln -s {canary} /a && ln -s ../../../../../../../..{canary} /r\n\
         COPY f /a/copied\nADD f /r/added\nCOPY --link f /a/linked\nWORKDIR /w\nCOPY f ../../../../../x\n",
        Holds("test -f /x && test \"$(cat {canary}/copied {canary}/added)\" = \"f\nf\""),
    ),
    (
        "CVE-2026-55686: WORKDIR through links makes directories of the host",
        "RUN ln -s {canary} /a && chown -h 5:5 /a\nUSER 5\nWORKDIR /a/made/here\nWORKDIR ../../../..{canary}/up\n",
        Holds("test -d {canary}/made/here"),
    ),
    (
        "CVE-2024-21626: WORKDIR in a descriptor of the builder",
        "WORKDIR /proc/self/fd/7\nRUN cat ../../../../../..{canary}/kept\n",
        Fails(""),
    ),
    (
        "CVE-2024-1753: the source of a bind mount is a link",
        "RUN ln -s / /root-link && ln -s {canary} /a\nFROM busybox\n\
         RUN --mount=type=bind,from=first,source=/a,target=/m,rw echo bad > /m/kept\n",
        Fails("not found"),
    ),
    (
        "CVE-2024-1753: the source of a bind mount is a link to /",
        "RUN ln -s / /r && ln -s ../../../.. /u\nFROM busybox\n\
         RUN --mount=type=bind,from=first,source=/r,target=/m,rw ! test -e /m{canary}\n\
         RUN --mount=type=bind,from=first,source=/u,target=/m,rw ! test -e /m{canary}\n",
        Holds("true"),
    ),
    (
        "CVE-2024-9407: a bind mount asks for propagation",
        "RUN --mount=type=bind,target=/m,bind-propagation=shared true\n",
        Fails("unexpected key 'bind-propagation'"),
    ),
    (
        "CVE-2024-9407: in another spelling",
        "RUN --mount=type=bind,target=/m,relabel=shared,rshared true\n",
        Fails("unexpected key 'relabel'"),
    ),
    (
        "CVE-2024-9675: the name of a cache leads out",
        "RUN --mount=type=cache,id=../../../../../../../../..{canary},target=/c ! test -e /c/kept && echo bad > /c/kept\n\
         RUN --mount=type=cache,id={canary},target=/c ! test -e /c/kept && echo bad > /c/kept\n",
        Holds("true"),
    ),
    (
        "CVE-2024-9675: the source in a cache leads out",
        "RUN --mount=type=cache,id=s,source=../../../../../../../..{canary},target=/c ! test -e /c/kept\n",
        Fails("no from="),
    ),
    (
        "CVE-2024-23651: the source in a cache is a link",
        "RUN --mount=type=cache,id=l,target=/c ln -sfn {canary} /c/a\n\
         RUN --mount=type=cache,id=l,source=/a,target=/m echo bad > /m/kept\n",
        Fails("no from="),
    ),
    (
        "CVE-2024-23652: what a mount was put on is removed through a link",
        "RUN --mount=type=tmpfs,target=/a/b/c rm -rf /a 2>/dev/null; mv /a /old; ln -s {canary} /a\n\
         RUN --mount=type=tmpfs,target=/kept-parent/kept mv /kept-parent /moved; ln -s {canary} /kept-parent\n",
        Holds("true"),
    ),
    (
        "CVE-2024-23653: more powers than were granted",
        "RUN --security=insecure true\n",
        Fails("security.insecure is not allowed"),
    ),
    (
        "mounts on places of the kernel",
        "RUN --mount=type=bind,target=/proc/self/exe true\n",
        Fails(""),
    ),
    (
        "a mount on a link to the host",
        "RUN ln -s {canary} /a\nRUN --mount=type=tmpfs,target=/a/t touch /a/t/x && ! test -e /a/kept\n\
         RUN --mount=type=cache,target=/a touch /a/x\n",
        Holds("! test -e {canary}/kept"),
    ),
    (
        "a secret in the place of a file of the host",
        "RUN ln -s {canary} /run2 && mkdir -p {canary}\n\
         RUN --mount=type=secret,id=none,target=/run2/kept ! test -s /run2/kept\n",
        Holds("true"),
    ),
    (
        "an owner that is read from a file that is a link",
        "RUN rm /etc/passwd && ln -s {canary}/passwd /etc/passwd\nCOPY --chown=outsider f /x\n",
        Fails("outsider"),
    ),
    (
        "CVE-2024-9676: the users are an endless file",
        "RUN rm /etc/passwd && ln -s /dev/zero /etc/passwd\nCOPY --chown=somebody f /x\n",
        Fails("somebody"),
    ),
    (
        "a command finds nothing of the builder",
        "RUN ! test -e {canary} && ! test -e /run/sampan && ! mount -t tmpfs x /mnt 2>/dev/null && \
         test \"$(grep CapInh /proc/self/status | cut -f2)\" = 0000000000000000\n",
        Holds("true"),
    ),
];

fn listing(directory: &Path) -> Vec<(PathBuf, u32, u32, i64, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap_or_default();
        found.push((path, stat.mode(), stat.uid(), stat.mtime_nsec(), text));
    }
    found.sort();
    found
}

fn canary(engine: &TestEngine) -> PathBuf {
    let canary = engine.scratch().join("canary");
    fs::create_dir_all(&canary).unwrap();
    fs::write(canary.join("kept"), "kept\n").unwrap();
    fs::write(canary.join("passwd"), "outsider:x:77:77::/:/bin/sh\n").unwrap();
    canary
}

#[test]
fn builds_that_want_out_touch_nothing_of_the_host() {
    let engine = engine_with_busybox();
    let canary = canary(&engine);
    let place = canary.to_str().unwrap();
    let before = listing(&canary);
    let directory = context(&engine, "hostile", &[("f", "f\n")]);
    symlink(&canary, directory.join("absolute")).unwrap();
    let up = format!("../../../../../../../..{place}");
    symlink(up, directory.join("relative")).unwrap();
    let mut wrong = String::new();
    for (number, (about, file, comes)) in TABLE.iter().enumerate() {
        let file = format!("FROM busybox AS first\n{}", file.replace("{canary}", place));
        fs::write(directory.join("Dockerfile"), file).unwrap();
        let build = match number % 2 {
            0 => sampan_build,
            _ => docker_build,
        };
        let ran = build(&engine, "hostile", &directory, &[]);
        assert_eq!(listing(&canary), before, "{about}");
        let mut note = |what: &str| wrong.push_str(&format!("{about}: {what}\n"));
        match comes {
            Fails(_) if ran.code == 0 => note("was built"),
            Fails(message) if !ran.stderr.contains(message) => note(&ran.stderr),
            Fails(_) => {}
            Holds(_) if ran.code != 0 => note(&format!("{}{}", ran.stdout, ran.stderr)),
            Holds(script) => {
                let script = script.replace("{canary}", place);
                let run = ["run", "--rm", "-u", "0", "hostile", "sh", "-c", &script];
                let ran = engine.sampan(&run);
                if ran.code != 0 {
                    note(&format!("{script}: {}{}", ran.stdout, ran.stderr));
                }
            }
        }
    }
    assert_eq!(wrong, "");
    engine.ledger().assert_no_container();
}

/// CVE-2024-23651, CVE-2021-30465: while the place of a mount is looked for in a shared cache,
/// another command makes a directory on the way a link to the host, and a directory again.
#[test]
fn commands_that_race_on_a_shared_cache_stay_inside() {
    let engine = engine_with_busybox();
    let canary = canary(&engine);
    let place = canary.to_str().unwrap();
    let before = listing(&canary);
    let mut file = format!(
        "FROM busybox AS swaps\nRUN --mount=type=cache,id=r,target=/c \
         mkdir -p /c/d && ln -sfn {place} /c/l; for i in $(seq 2000); do \
         mv -T /c/d /c/x; mv -T /c/l /c/d; mv -T /c/d /c/l; mv -T /c/x /c/d; done; touch /done\n"
    );
    for racer in 0..6 {
        file.push_str(&format!("FROM busybox AS r{racer}\n"));
        for _ in 0..4 {
            file.push_str(&format!(
                "RUN --mount=type=cache,id=r,target=/c --mount=type=tmpfs,target=/c/d/t{racer}/u \
                 touch /c/d/t{racer}/u/x 2>/dev/null; true\n"
            ));
        }
    }
    file.push_str("FROM busybox\nCOPY --from=swaps /done /\n");
    for racer in 0..6 {
        file.push_str(&format!("COPY --from=r{racer} /etc/passwd /p{racer}\n"));
    }
    let directory = context(&engine, "races", &[("Dockerfile", &file)]);
    // A command whose place is gone at that moment fails, and the build with it.
    for _ in 0..4 {
        let _ = sampan_build(&engine, "races", &directory, &["--no-cache"]);
        // Commands of other stages may be on their way out.
        engine.ledger().assert_no_container();
        assert_eq!(engine.sampan(&["ps", "-aq"]).ok(), "");
        assert_eq!(listing(&canary), before);
    }
}
