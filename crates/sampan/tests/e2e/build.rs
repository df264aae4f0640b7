//! Building images, with `sampan build` and with the docker client's classic builder.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use sampan_testing::{Ran, TestEngine};

use crate::engine_with_busybox;

pub(crate) fn context(engine: &TestEngine, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = engine.scratch().join(name);
    for (path, text) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

/// Builds with `sampan`. What it tells goes to standard error, and is both here.
pub(crate) fn sampan_build(engine: &TestEngine, tag: &str, directory: &Path, more: &[&str]) -> Ran {
    let mut arguments = vec!["build", "-t", tag];
    arguments.extend(more);
    arguments.push(directory.to_str().unwrap());
    let mut ran = engine.sampan(&arguments);
    ran.stdout.push_str(&ran.stderr);
    ran
}

pub(crate) fn docker_build(engine: &TestEngine, tag: &str, directory: &Path, more: &[&str]) -> Ran {
    let mut command = engine.docker_command(&["build", "-t", tag]);
    command
        .env("DOCKER_BUILDKIT", "0")
        .args(more)
        .arg(directory);
    command.output().unwrap().into()
}

const FILE: &str = r#"
ARG BASE=busybox
FROM $BASE AS one
RUN echo from one > /one && mkdir /kept && chmod 700 /kept

FROM busybox AS unused
RUN exit 9

FROM $BASE
ARG WHO=world
ENV GREETING="hello $WHO" OTHER=2
LABEL made=here
WORKDIR /srv/app
COPY --chown=5:6 --chmod=640 a.txt sub/ ./
COPY --from=one /one /copied/
COPY <<NOTE /note
for $WHO
NOTE
RUN echo "$GREETING" > greeting && ln -s greeting link && rm /etc/group
USER 5
EXPOSE 80 53/udp
VOLUME /data
CMD ["cat", "/srv/app/greeting"]
"#;

#[test]
fn both_clients_build_the_same_image_and_the_second_is_cached() {
    let engine = engine_with_busybox();
    let files = [
        ("Dockerfile", FILE),
        (".dockerignore", "**/*.log\n"),
        ("a.txt", "a\n"),
        ("sub/b.txt", "b\n"),
        ("sub/c.log", "c\n"),
    ];
    let directory = context(&engine, "same", &files);
    let argument = ["--build-arg", "WHO=you"];
    let first = sampan_build(&engine, "first", &directory, &argument).ok();
    assert!(!first.contains("exit 9"), "{first}");
    assert!(!first.contains("CACHED"), "{first}");
    let second = docker_build(&engine, "second", &directory, &argument).ok();
    assert!(second.contains("Using cache"), "{second}");
    assert!(
        second.contains("Successfully tagged second:latest"),
        "{second}"
    );
    let id = |tag: &str| engine.sampan(&["inspect", "-f", "{{.Id}}", tag]).ok();
    assert_eq!(id("first"), id("second"));
    assert_eq!(engine.sampan(&["run", "--rm", "first"]).ok(), "hello you");
    let look = "stat -c '%n %a %u:%g' /srv/app/a.txt /srv/app/b.txt /copied/one /note; cat /note; \
                ls /srv/app /etc/group /etc/hosts; readlink /srv/app/link";
    let seen = engine
        .sampan(&["run", "--rm", "-u", "0", "first", "sh", "-c", look])
        .stdout;
    for expected in [
        "/srv/app/a.txt 640 5:6",
        "/srv/app/b.txt 640 5:6",
        "/copied/one 644 0:0",
        "/note 644 0:0",
        "for you",
        "greeting",
    ] {
        assert!(seen.contains(expected), "{expected}: {seen}");
    }
    assert!(!seen.contains("c.log"), "{seen}");
    assert!(!seen.contains("/etc/group"), "{seen}");
    let format = "{{.CreatedBy}}|{{.Comment}}";
    let history = engine
        .sampan(&["history", "--no-trunc", "--format", format, "first"])
        .ok();
    for expected in [
        "CMD [\"cat\" \"/srv/app/greeting\"]|buildkit.dockerfile.v0",
        "EXPOSE [53/udp 80/tcp]|",
        "VOLUME [/data]|",
        "RUN |1 WHO=you /bin/sh -c echo \"$GREETING\" > greeting && ln -s greeting link && rm /etc/group # buildkit|",
        "COPY --chown=5:6 --chmod=640 a.txt sub/ ./ # buildkit|",
        "WORKDIR /srv/app|",
        "ENV GREETING=hello you OTHER=2|",
        "ARG WHO=you|",
    ] {
        assert!(history.contains(expected), "{expected}: {history}");
    }
    fs::write(directory.join("a.txt"), "other\n").unwrap();
    let third = sampan_build(&engine, "third", &directory, &argument).ok();
    assert!(third.contains("CACHED"), "{third}");
    assert_ne!(id("first"), id("third"));
    engine.remove_all();
    engine.ledger().assert_no_container();
}

#[test]
fn a_command_that_fails_is_told_with_its_code_and_leaves_nothing() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nRUN echo before && exit 7\n";
    let directory = context(&engine, "fails", &[("Dockerfile", file)]);
    let message = "The command '/bin/sh -c echo before && exit 7' returned a non-zero code: 7";
    let ran = docker_build(&engine, "x", &directory, &[]);
    assert!(ran.stdout.contains("before"), "{}", ran.stdout);
    assert!(ran.failed(7).contains(message));
    let told = sampan_build(&engine, "x", &directory, &[]).failed(1);
    for expected in [
        " > [2/2] RUN echo before && exit 7:\nbefore\n------\n",
        "   2 | >>> RUN echo before && exit 7\n",
        "process \"/bin/sh -c echo before && exit 7\" did not complete successfully: exit code: 7",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert_eq!(engine.sampan(&["ps", "-aq"]).ok(), "");
    engine.ledger().assert_no_container();
}

#[test]
fn a_context_reaches_nothing_outside_of_itself() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nRUN ln -s / /elsewhere && ln -s ../../../../etc /etc2\n\
                COPY . /in/\nCOPY f /elsewhere/f\nCOPY f /etc2/f\nCOPY ../../../f /clamped\n";
    let directory = context(&engine, "hostile", &[("Dockerfile", file), ("f", "f\n")]);
    symlink("/etc/passwd", directory.join("absolute")).unwrap();
    symlink("../../../../etc/passwd", directory.join("up")).unwrap();
    let _ = sampan_build(&engine, "hostile", &directory, &[]).ok();
    let look = "readlink /in/absolute; cat /f /etc/f /clamped";
    let seen = engine
        .sampan(&["run", "--rm", "hostile", "sh", "-c", look])
        .ok();
    assert_eq!(seen, "/etc/passwd\nf\nf\nf");
    // A link that is copied by its name leads to what is in the context, or nowhere.
    let wrong = [
        ("COPY absolute /x", "file not found in build context"),
        ("COPY up /x", "file not found in build context"),
        ("COPY f /.wh.etc", "may not begin with .wh."),
    ];
    for (line, message) in wrong {
        fs::write(
            directory.join("Dockerfile"),
            format!("FROM busybox\n{line}\n"),
        )
        .unwrap();
        let ran = sampan_build(&engine, "x", &directory, &[]);
        assert!(ran.failed(1).contains(message), "{line}");
    }
}

/// A build that goes on while the test does something else.
struct UnderWay {
    client: Child,
    output: BufReader<ChildStdout>,
}

impl UnderWay {
    fn begin(engine: &TestEngine, tag: &str, directory: &Path) -> Self {
        let mut command = engine.docker_command(&["build", "-t", tag]);
        let mut client = command
            .env("DOCKER_BUILDKIT", "0")
            .arg(directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(client.stdout.take().unwrap());
        Self { client, output }
    }

    /// Reads until a line begins like this.
    fn wait_for(&mut self, beginning: &str) {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "{seen}");
            if line.starts_with(beginning) {
                return;
            }
            seen.push_str(&line);
        }
    }

    fn end(mut self) -> bool {
        let _ = std::io::copy(&mut self.output, &mut std::io::sink());
        self.client.wait().unwrap().success()
    }
}

/// A first step that ends, and a second one that says so and does not.
const ENDLESS: &str = "FROM busybox\nRUN echo 1 > /first\nRUN echo run$((1+1))ning; sleep 1000\n";
const ENDS: &str = "FROM busybox\nRUN echo 1 > /first\nRUN echo 2 > /second\n";

fn the_first_step_is_cached(engine: &TestEngine, directory: &Path) {
    engine.ledger().assert_no_container();
    assert_eq!(engine.sampan(&["ps", "-aq"]).ok(), "");
    let images = engine.sampan(&["images", "-aq"]).ok();
    assert_eq!(images.lines().count(), 1, "{images}");
    fs::write(directory.join("Dockerfile"), ENDS).unwrap();
    let built = docker_build(engine, "ends", directory, &[]).ok();
    assert_eq!(built.matches("Using cache").count(), 1, "{built}");
    engine.remove_all();
    engine.ledger().assert_no_container();
}

#[test]
fn a_client_that_leaves_takes_its_build_with_it() {
    let engine = engine_with_busybox();
    let directory = context(&engine, "leaves", &[("Dockerfile", ENDLESS)]);
    let mut build = UnderWay::begin(&engine, "x", &directory);
    build.wait_for("run2ning");
    build.client.kill().unwrap();
    assert!(!build.end());
    the_first_step_is_cached(&engine, &directory);
}

#[test]
fn an_engine_that_is_killed_in_the_middle_of_a_step_keeps_those_before() {
    let engine = engine_with_busybox();
    let directory = context(&engine, "killed", &[("Dockerfile", ENDLESS)]);
    let mut build = UnderWay::begin(&engine, "x", &directory);
    build.wait_for("run2ning");
    engine.kill();
    assert!(!build.end());
    the_first_step_is_cached(&engine, &directory);
}

#[test]
fn builds_at_the_same_time_share_a_step() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nRUN echo run$((1+1))ning; sleep 2; \
                cat /proc/sys/kernel/random/uuid > /id\n";
    let directory = context(&engine, "shared", &[("Dockerfile", file)]);
    let mut first = UnderWay::begin(&engine, "first", &directory);
    first.wait_for("run2ning");
    let mut second = UnderWay::begin(&engine, "second", &directory);
    second.wait_for("Step 2/2");
    assert!(first.end() && second.end());
    let id = |tag: &str| engine.sampan(&["inspect", "-f", "{{.Id}}", tag]).ok();
    assert_eq!(id("first"), id("second"));
}

#[test]
fn what_is_kept_for_builds_is_told_and_goes_when_nobody_needs_it() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nRUN head -c 3000000 /dev/urandom > /big\n";
    let directory = context(&engine, "kept", &[("Dockerfile", file)]);
    let _ = docker_build(&engine, "kept", &directory, &[]).ok();
    let format = [
        "system",
        "df",
        "--format",
        "{{.Type}} {{.TotalCount}} {{.Active}}",
    ];
    for seen in [engine.docker(&format).ok(), engine.sampan(&format).ok()] {
        assert!(seen.contains("Build Cache 1 0"), "{seen}");
    }
    let told = engine.sampan(&["builder", "du", "--verbose"]).ok();
    for expected in [
        "Reclaimable:    true",
        "Shared:         true",
        "Type:           regular",
        "Description:    RUN /bin/sh -c head -c 3000000",
        "Usage count:    1",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    // The image has it, too.
    let pruned = engine.docker(&["builder", "prune", "-f"]).ok();
    assert!(pruned.ends_with("0B"), "{pruned}");
    let again = docker_build(&engine, "kept", &directory, &[]).ok();
    assert!(again.contains("Using cache"), "{again}");
    let _ = engine.sampan(&["rmi", "kept"]).ok();
    let prune = ["builder", "prune", "-f", "--filter"];
    let with = |filter: &str| engine.sampan(&[&prune[..], &[filter]].concat()).ok();
    for none in ["until=1h", "type=source.local", "id=0000", "inuse=true"] {
        assert!(with(none).ends_with("0B"), "{none}");
    }
    let wrong = engine.sampan(&[&prune[..], &["color=red"]].concat());
    assert!(wrong.failed(1).contains("invalid filter 'color'"));
    let roomy = ["builder", "prune", "-f", "--reserved-space", "10mb"];
    assert!(engine.sampan(&roomy).ok().ends_with("0B"));
    let tight = ["builder", "prune", "-f", "--max-used-space", "1mb"];
    let pruned = engine.sampan(&tight).ok();
    assert!(pruned.contains("Deleted build cache objects:"), "{pruned}");
    assert!(pruned.contains("Total reclaimed space: 3"), "{pruned}");
    let again = docker_build(&engine, "kept", &directory, &[]).ok();
    assert!(!again.contains("Using cache"), "{again}");
    let _ = engine.docker(&["builder", "prune", "-af"]).ok();
    let again = docker_build(&engine, "kept", &directory, &[]).ok();
    assert!(!again.contains("Using cache"), "{again}");
}

#[test]
fn the_time_of_a_build_can_be_given() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nWORKDIR /made\nCOPY <<E /note\nx\nE\nRUN echo 1 > /one\n";
    let directory = context(&engine, "dated", &[("Dockerfile", file)]);
    let argument = ["--build-arg", "SOURCE_DATE_EPOCH=1000000000"];
    let _ = docker_build(&engine, "dated", &directory, &argument).ok();
    let created = engine
        .sampan(&["inspect", "-f", "{{.Created}}", "dated"])
        .ok();
    assert_eq!(created, "2001-09-09T01:46:40Z");
    let stat = ["run", "--rm", "dated", "stat", "-c", "%Y", "/made", "/note"];
    assert_eq!(engine.sampan(&stat).ok(), "1000000000\n1000000000");
    let id = |tag: &str| engine.sampan(&["inspect", "-f", "{{.Id}}", tag]).ok();
    let again = ["--reproducible", "--no-cache"];
    for tag in ["same:1", "same:2"] {
        let _ = sampan_build(&engine, tag, &directory, &again).ok();
    }
    assert_eq!(id("same:1"), id("same:2"));
}

#[test]
fn limits_of_the_classic_builder_hold_in_its_steps() {
    let engine = engine_with_busybox();
    // With control groups of version 1 and 2.
    let file = "FROM busybox\n\
        RUN cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null > /memory; \
        cat cpu/cpu.cfs_quota_us cpu.max 2>/dev/null > /cpu; ulimit -n > /files; \
        df -k /dev/shm | tail -1 | awk '{print $2}' > /shm\n";
    let directory = context(&engine, "limits", &[("Dockerfile", file)]);
    let more = [
        "--memory",
        "64m",
        "--cpu-quota",
        "30000",
        "--ulimit",
        "nofile=99:99",
        "--shm-size",
        "3m",
    ];
    let _ = docker_build(&engine, "limits", &directory, &more).ok();
    let read = [
        "run", "--rm", "limits", "cat", "/memory", "/cpu", "/files", "/shm",
    ];
    let seen = engine.sampan(&read).ok();
    let seen: Vec<&str> = seen.split_whitespace().collect();
    assert_eq!(seen[..2], ["67108864", "30000"], "{seen:?}");
    assert_eq!(seen[seen.len() - 2..], ["99", "3072"], "{seen:?}");
    // What takes more memory is killed.
    let file = "FROM busybox\nRUN tail /dev/zero\n";
    let directory = context(&engine, "greedy", &[("Dockerfile", file)]);
    let more = ["--memory", "16m", "--memory-swap", "16m"];
    let failed = docker_build(&engine, "greedy", &directory, &more).failed(137);
    assert!(failed.contains("non-zero code: 137"), "{failed}");
    engine.ledger().assert_no_container();
}

#[test]
fn images_are_built_for_other_machines() {
    let engine = engine_with_busybox();
    let file = "FROM --platform=$BUILDPLATFORM busybox AS here\nARG TARGETARCH\n\
        RUN echo $TARGETARCH > /for\nFROM scratch\nCOPY --from=here /for /\n";
    let directory = context(&engine, "foreign", &[("Dockerfile", file)]);
    let platform = ["--platform", "linux/loong64"];
    let inspect = ["inspect", "-f", "{{.Architecture}}", "foreign"];
    for build in [docker_build, sampan_build] {
        let _ = build(&engine, "foreign", &directory, &platform).ok();
        assert_eq!(engine.sampan(&inspect).ok(), "loong64");
    }
    // Nobody answers there.
    let _ = engine
        .sampan(&["tag", "foreign", "127.0.0.1:1/foreign"])
        .ok();
    let file = "FROM 127.0.0.1:1/foreign\nENV A=1\n";
    let directory = context(&engine, "on", &[("Dockerfile", file)]);
    let _ = docker_build(&engine, "on", &directory, &platform).ok();
    let ran = docker_build(&engine, "on", &directory, &[]);
    let told = "127.0.0.1:1/foreign is here for linux/loong64, not for linux/";
    assert!(ran.failed(1).contains(told));
    let file = "FROM scratch\nCOPY Dockerfile /\nRUN [\"/Dockerfile\"]\n";
    let directory = context(&engine, "emulated", &[("Dockerfile", file)]);
    let ran = docker_build(&engine, "emulated", &directory, &platform);
    assert!(ran.failed(1).contains("qemu-user-static"));
    let file = "FROM scratch\nSTOPSIGNAL SIGNONE\n";
    let directory = context(&engine, "signal", &[("Dockerfile", file)]);
    let ran = docker_build(&engine, "signal", &directory, &[]);
    assert!(
        ran.failed(1)
            .contains("Dockerfile:2: invalid signal: SIGNONE")
    );
}
