//! Building with docker's own builder client, `docker buildx`, and with `docker compose`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sampan_testing::{Fixture, Ran, Registry, TestEngine, docker_plugins, until};

use crate::engine_with_busybox;

/// An engine, and a docker client with plug-ins.
pub(crate) struct Builder {
    pub(crate) engine: TestEngine,
}

impl Builder {
    pub(crate) fn start() -> Option<Self> {
        let plugins = docker_plugins()?;
        let engine = engine_with_busybox();
        Self::add_plugins(&engine, &plugins);
        Some(Self { engine })
    }

    /// Gives the client of [`Builder::command_of`] its plug-ins.
    pub(crate) fn add_plugins(engine: &TestEngine, plugins: &Path) {
        let config = engine.scratch().join("docker");
        fs::create_dir_all(&config).unwrap();
        std::os::unix::fs::symlink(plugins, config.join("cli-plugins")).unwrap();
    }

    /// A command of the docker client with plug-ins.
    pub(crate) fn command_of(engine: &TestEngine, arguments: &[&str]) -> Command {
        let mut command = engine.docker_command(arguments);
        command
            .env("DOCKER_CONFIG", engine.scratch().join("docker"))
            .env("BUILDKIT_PROGRESS", "plain")
            .env("DO_NOT_TRACK", "1")
            .current_dir(engine.scratch());
        command
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let directory = self.engine.scratch().join(name);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    pub(crate) fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.directory(name);
        for (path, text) in files {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        Self::command_of(&self.engine, arguments)
    }

    pub(crate) fn docker(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    pub(crate) fn docker_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// Builds a directory; answers what was told.
    #[track_caller]
    pub(crate) fn build(&self, directory: &Path, more: &[&str]) -> String {
        let ran = self.try_build(directory, more);
        let told = ran.stderr.clone();
        let _ = ran.ok();
        told
    }

    pub(crate) fn try_build(&self, directory: &Path, more: &[&str]) -> Ran {
        let directory = directory.to_str().unwrap();
        self.docker(&[&["build"], more, &[directory]].concat())
    }

    pub(crate) fn inspect(&self, image: &str, format: &str) -> String {
        self.docker(&["image", "inspect", "-f", format, image]).ok()
    }

    pub(crate) fn run(&self, image: &str, command: &str) -> String {
        let arguments = ["run", "--rm", image, "sh", "-c", command];
        self.engine.sampan(&arguments).ok()
    }
}

const FILE: &str = "FROM busybox AS base\n\
    ARG WHO=nobody\n\
    RUN echo \"made by $WHO\" > /who && echo said aloud\n\
    FROM base\n\
    COPY kept /kept/\n\
    RUN cat /kept/a\n\
    CMD [\"cat\", \"/who\"]\n";

const FILES: &[(&str, &str)] = &[
    ("Dockerfile", FILE),
    (".dockerignore", "**/*.log\n!kept/b.log\n"),
    ("kept/a", "text of a\n"),
    ("kept/a.log", "ignored\n"),
    ("kept/b.log", "not ignored\n"),
];

#[test]
fn docker_build_tells_its_steps_and_knows_them_the_second_time() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let directory = builder.context("context", FILES);
    let more = [
        "-t",
        "one",
        "-t",
        "two:2",
        "--build-arg",
        "WHO=me",
        "--label",
        "l=v",
    ];
    let told = builder.build(&directory, &more);
    for expected in [
        "[internal] load build definition from Dockerfile",
        "[base 1/2] FROM docker.io/library/busybox:latest",
        "[base 2/2] RUN echo \"made by $WHO\"",
        "said aloud",
        "[stage-1 1/2] COPY kept /kept/",
        "text of a",
        "exporting to image",
        "naming to docker.io/library/two:2",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert!(!told.contains("CACHED"), "{told}");
    assert_eq!(
        builder.run("one", "cat /who; ls /kept"),
        "made by me\na\nb.log"
    );
    let id = builder.inspect("one", "{{.Id}}");
    assert_eq!(builder.inspect("two:2", "{{.Id}}"), id);
    assert_eq!(builder.inspect("one", "{{.Config.Labels.l}}"), "v");
    let told = builder.build(&directory, &more);
    assert_eq!(told.matches(" CACHED").count(), 3, "{told}");
    assert_eq!(builder.inspect("one", "{{.Id}}"), id);
    // Only the stage that is named is made anew, and what builds on it.
    let told = builder.build(
        &directory,
        &[&more[..], &["--no-cache-filter", "stage-1"]].concat(),
    );
    assert_eq!(told.matches(" CACHED").count(), 1, "{told}");
    let told = builder.build(&directory, &["--target", "base"]);
    assert!(!told.contains("COPY"), "{told}");
    fs::write(directory.join("kept/a"), "other\n").unwrap();
    let told = builder.build(&directory, &more);
    assert_eq!(told.matches(" CACHED").count(), 1, "{told}");
    assert_eq!(builder.run("one", "cat /kept/a"), "other");
}

#[test]
fn a_dockerfile_and_a_context_come_from_standard_input() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let directory = builder.context("context", FILES);
    let path = directory.to_str().unwrap();
    let file = b"FROM busybox\nCOPY kept/a /from-stdin\n";
    let arguments = ["build", "-t", "file", "-f", "-", path];
    let _ = builder.docker_with_input(&arguments, file).ok();
    assert_eq!(builder.run("file", "cat /from-stdin"), "text of a");
    let file = b"FROM busybox\nRUN echo x > /alone\n";
    let _ = builder
        .docker_with_input(&["build", "-t", "alone", "-"], file)
        .ok();
    assert_eq!(builder.run("alone", "cat /alone"), "x");
    let tar = Command::new("tar")
        .args(["-C", path, "-c", "."])
        .output()
        .unwrap();
    let _ = builder
        .docker_with_input(&["build", "-t", "tar", "-"], &tar.stdout)
        .ok();
    assert_eq!(builder.run("tar", "ls /kept"), "a\nb.log");
}

#[test]
fn a_step_that_fails_is_told_and_leaves_nothing() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let file = "FROM busybox\nRUN echo before && exit 7\n";
    let directory = builder.context("fails", &[("Dockerfile", file)]);
    let told = builder.try_build(&directory, &["-t", "x"]).failed(1);
    let is_told = |told: &str| {
        // Two threads of the client hear of it, and the first has its say.
        ["failed to solve", "failed to run Build function"]
            .iter()
            .any(|failed| {
                told.contains(&format!(
                    "{failed}: process \"/bin/sh -c echo before && exit 7\" \
                     did not complete successfully: exit code: 7"
                ))
            })
    };
    assert!(told.contains("before") && is_told(&told), "{told}");
    let lines = "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   \
                 2 | >>> RUN echo before && exit 7\n";
    assert!(told.contains(lines), "{told}");
    let buildx = ["buildx", "build", directory.to_str().unwrap()];
    let told = builder.docker(&buildx).failed(1);
    assert!(told.contains(lines) && is_told(&told), "{told}");
    let wrong = builder.context("wrong", &[("Dockerfile", "FROM busybox\nRNU x\n")]);
    let told = builder.try_build(&wrong, &[]).failed(1);
    assert!(told.contains("unknown instruction: RNU"), "{told}");
    let told = builder.try_build(&wrong, &["-f", "missing"]).failed(1);
    assert!(told.contains("missing"), "{told}");
    assert_eq!(builder.engine.sampan(&["ps", "-aq"]).ok(), "");
    builder.engine.ledger().assert_no_container();
}

#[test]
fn every_output_holds_what_was_built() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let directory = builder.context("context", FILES);
    let out = builder.directory("out");
    let to = |kind: &str, name: &str| format!("type={kind},dest={}", out.join(name).display());
    let builds = |more: &[&str]| builder.build(&directory, more);
    builds(&[
        "--output",
        &to("local", "files"),
        "--output",
        &to("tar", "files.tar"),
    ]);
    let read = |path: &str| fs::read_to_string(out.join(path)).unwrap();
    assert_eq!(read("files/kept/a"), "text of a\n");
    assert_eq!(
        fs::read_link(out.join("files/bin/sh")).unwrap(),
        Path::new("busybox")
    );
    let listed = Command::new("tar")
        .arg("-tf")
        .arg(out.join("files.tar"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("kept/b.log"));
    let images = || {
        builder
            .engine
            .sampan(&["images", "-q"])
            .ok()
            .lines()
            .count()
    };
    let before = images();
    builds(&[
        "-t",
        "archived",
        "--output",
        &to("docker", "d.tar"),
        "--output",
        &to("oci", "o.tar"),
    ]);
    builds(&["--output", "type=cacheonly"]);
    assert_eq!(images(), before, "nothing of it is an image of the engine");
    for archive in ["d.tar", "o.tar"] {
        let path = out.join(archive);
        let _ = builder
            .engine
            .sampan(&["load", "-i", path.to_str().unwrap()])
            .ok();
        assert_eq!(builder.run("archived", "cat /kept/a"), "text of a");
        let _ = builder.engine.sampan(&["rmi", "archived"]).ok();
    }
    let meta = out.join("meta.json");
    let id = out.join("id");
    let meta_file = meta.to_str().unwrap();
    builds(&[
        "-t",
        "meta:1",
        "--metadata-file",
        meta_file,
        "--iidfile",
        id.to_str().unwrap(),
    ]);
    let id = fs::read_to_string(id).unwrap();
    assert_eq!(id, builder.inspect("meta:1", "{{.Id}}"));
    let told = fs::read_to_string(meta).unwrap();
    for expected in [id.as_str(), "\"image.name\": \"docker.io/library/meta:1\""] {
        assert!(told.contains(expected), "{told}");
    }
    let quiet = builder.docker(&[
        "build",
        "-q",
        "--progress=quiet",
        directory.to_str().unwrap(),
    ]);
    assert_eq!(quiet.ok(), id);
}

#[test]
fn an_output_can_have_no_file_younger_than_the_build() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let file = "FROM busybox\nRUN echo new > /new && touch -d @100 /old\n";
    let directory = builder.context("dated", &[("Dockerfile", file)]);
    let epoch = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000"];
    let output = ["--output", "type=docker,name=dated,rewrite-timestamp=true"];
    builder.build(&directory, &[&epoch[..], &output].concat());
    let look = "stat -c %Y /new /old";
    assert_eq!(builder.run("dated", look), "1000000000\n100");
    let id = builder.inspect("dated", "{{.Id}}");
    builder.build(&directory, &[&epoch[..], &output].concat());
    assert_eq!(builder.inspect("dated", "{{.Id}}"), id);
}

#[test]
fn attestations_are_left_out_by_default_and_refused_when_they_are_wanted() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let directory = builder.context("plain", &[("Dockerfile", "FROM busybox\n")]);
    builder.build(&directory, &["-t", "plain"]);
    builder.build(
        &directory,
        &["-t", "plain", "--provenance=false", "--sbom=false"],
    );
    for wish in ["--provenance=mode=max", "--sbom=true", "--attest=type=sbom"] {
        let refused = builder.try_build(&directory, &[wish]).failed(1);
        assert!(
            refused.to_lowercase().contains("attestation"),
            "{wish}: {refused}"
        );
    }
    let platforms = "--platform=linux/amd64,linux/arm64";
    let refused = builder.try_build(&directory, &[platforms]).failed(1);
    assert!(refused.to_lowercase().contains("platform"), "{refused}");
}

#[test]
fn secrets_agents_and_limits_reach_the_commands_alone() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let file = "FROM busybox\n\
        RUN --mount=type=secret,id=s,required cat /run/secrets/s | md5sum | cut -c1-32 > /sum\n\
        RUN --mount=type=secret,id=v,env=V echo -n \"$V\" | wc -c > /length\n\
        RUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK && ulimit -n > /files\n";
    let directory = builder.context("context", &[("Dockerfile", file), ("../s", "hush-hush")]);
    let socket = builder.engine.scratch().join("agent");
    let _agent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let secret = builder.engine.scratch().join("s");
    let more = [
        "-t",
        "secrets",
        "--secret",
        &format!("id=s,src={}", secret.display()),
        "--secret",
        "id=v,env=HUSHED",
        "--ssh",
        &format!("default={}", socket.display()),
        "--ulimit",
        "nofile=321:654",
    ];
    let path = directory.to_str().unwrap();
    let mut command = builder.command(&[&["build"], &more[..], &[path]].concat());
    let ran: Ran = command.env("HUSHED", "12345").output().unwrap().into();
    assert!(!ran.stderr.contains("hush-hush"), "{}", ran.stderr);
    let _ = ran.ok();
    let seen = builder.run(
        "secrets",
        "cat /sum /length /files; ls -A /run/secrets 2>/dev/null; true",
    );
    assert_eq!(seen, "9e25aa0a92a7537953c11a3c08a5553b\n5\n321");
    let history = builder.docker(&["history", "--no-trunc", "secrets"]).ok();
    assert!(
        !history.contains("hush-hush") && !history.contains("12345"),
        "{history}"
    );
    let told = builder.try_build(&directory, &["--no-cache"]).failed(1);
    assert!(told.contains('s') && told.contains("secret"), "{told}");
}

/// A client of an SSH agent that asks again and again for the keys; prints how many there are.
const ASK: &str = r#"use IO::Socket::UNIX;
for (1..100) {
    my $agent = IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK}) or die "connect: $!";
    syswrite $agent, pack "NC", 1, 11;
    read($agent, my $answer, 9) == 9 or die "no answer";
    my ($length, $type, $keys) = unpack "NCN", $answer;
    $type == 12 or die "answer $type";
    print "$keys keys\n" if $_ == 99;
}
"#;

/// A program, ended when it is dropped.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An `ssh-agent` at `scratch/agent` that has the key `scratch/key`.
pub(crate) fn ssh_agent(scratch: &Path) -> Ended {
    let socket = scratch.join("agent");
    let mut agent = Command::new("ssh-agent");
    agent.args(["-D", "-a"]).arg(&socket).stdout(Stdio::null());
    let agent = Ended(agent.spawn().unwrap());
    until("the agent listens", || socket.exists());
    let key = scratch.join("key");
    ssh_key(&key);
    let mut add = Command::new("ssh-add");
    add.arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket);
    assert!(add.status().unwrap().success());
    agent
}

pub(crate) fn ssh_key(path: &Path) {
    let mut make = Command::new("ssh-keygen");
    make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    assert!(make.status().unwrap().success());
}

#[test]
fn an_agent_of_the_client_answers_a_step() {
    let Some(builder) = Builder::start() else {
        return;
    };
    builder.engine.load(Fixture::Debian);
    let scratch = builder.engine.scratch();
    let _agent = ssh_agent(scratch);
    let socket = scratch.join("agent");
    let file = format!(
        "FROM {}\nCOPY ask /\nRUN --mount=type=ssh,required perl /ask > /keys\n",
        Fixture::Debian.name()
    );
    let directory = builder.context("asks", &[("Dockerfile", &file), ("ask", ASK)]);
    let given = format!("default={}", socket.display());
    let _ = builder.build(&directory, &["-t", "asked", "--ssh", &given]);
    assert_eq!(builder.run("asked", "cat /keys"), "1 keys");
}

#[test]
fn named_contexts_are_directories_and_images() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let file = "FROM base\nCOPY --from=files f /f\nCOPY --from=image /etc/passwd /passwd\n";
    let directory = builder.context("context", &[("Dockerfile", file)]);
    let files = builder.context("files", &[("f", "of files\n"), ("g", "x")]);
    let more = [
        "-t",
        "named",
        "--build-context",
        &format!("files={}", files.display()),
        "--build-context",
        "image=docker-image://busybox",
        "--build-context",
        "base=docker-image://busybox:latest",
    ];
    builder.build(&directory, &more);
    assert_eq!(
        builder.run("named", "cat /f; head -c 4 /passwd"),
        "of files\nroot"
    );
}

#[test]
fn only_files_that_are_wanted_and_have_changed_are_sent() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let big = "x".repeat(3_000_000);
    let file = "FROM busybox\nCOPY small wanted /\n";
    let files = [
        ("Dockerfile", file),
        ("small", "s"),
        ("wanted", &big),
        ("unwanted", &big),
    ];
    let directory = builder.context("context", &files);
    let sent = |told: &str| -> String {
        let line = told
            .lines()
            .rev()
            .find(|line| line.contains("transferring context: "));
        let rest = line
            .unwrap()
            .split("transferring context: ")
            .nth(1)
            .unwrap();
        rest.split(' ').next().unwrap().to_owned()
    };
    let first = builder.build(&directory, &[]);
    assert_eq!(sent(&first), "3.00MB", "{first}");
    fs::write(directory.join("small"), "other").unwrap();
    assert_eq!(sent(&builder.build(&directory, &[])), "5B");
    fs::write(directory.join("unwanted"), "other").unwrap();
    let third = builder.build(&directory, &[]);
    assert_eq!(sent(&third), "0B");
    assert!(third.contains("CACHED"), "{third}");
}

#[test]
fn an_image_is_pushed_by_the_build() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let registry = Registry::start();
    let directory = builder.context("context", FILES);
    let name = format!("{}/built:1", registry.address());
    let meta = builder.engine.scratch().join("meta");
    let more = [
        "--push",
        "-t",
        &name,
        "--metadata-file",
        meta.to_str().unwrap(),
    ];
    let told = builder.build(&directory, &more);
    assert!(told.contains(&format!("pushing {name}")), "{told}");
    let told = fs::read_to_string(meta).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let digest = told["containerimage.digest"].as_str().unwrap().to_owned();
    let _ = builder.engine.sampan(&["rmi", &name]).ok();
    let pinned = format!("{}/built@{digest}", registry.address());
    let _ = builder.engine.sampan(&["pull", &pinned]).ok();
    assert_eq!(builder.run(&pinned, "cat /kept/a"), "text of a");
}

#[test]
fn a_dockerfile_is_checked_and_described() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let file = "# base is where all begins\nFROM busybox AS base\nMAINTAINER x\n\
                FROM base AS End\nARG A=1\nRUN --mount=type=secret,id=s,required true\n";
    let directory = builder.context("context", &[("Dockerfile", file)]);
    let ran = builder.try_build(&directory, &["--check"]);
    let told = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, 1, "{told}");
    for rule in ["MaintainerDeprecated", "StageNameCasing", "Dockerfile:3"] {
        assert!(told.contains(rule), "{rule}: {told}");
    }
    let called = |what: &str| {
        builder
            .try_build(&directory, &[&format!("--call={what}")])
            .ok()
    };
    let targets = called("targets");
    assert!(
        targets.contains("base") && targets.contains("end (default)"),
        "{targets}"
    );
    let outline = called("outline");
    assert!(
        outline.contains('A') && outline.contains("SECRET"),
        "{outline}"
    );
    let clean = builder.context("clean", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let told = builder.try_build(&clean, &["--check"]).ok();
    assert!(told.contains("no warnings found"), "{told}");
}

#[test]
fn builds_are_in_the_history_and_steps_can_be_pruned() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let directory = builder.context("context", FILES);
    builder.build(&directory, &[]);
    let failing = builder.context("failing", &[("Dockerfile", "FROM busybox\nRUN false\n")]);
    let _ = builder.try_build(&failing, &[]).failed(1);
    until("both builds are noted", || {
        let listed = builder.docker(&["buildx", "history", "ls"]).ok();
        listed.contains("Completed") && listed.contains("Error")
    });
    let listed = builder.docker(&["buildx", "history", "ls"]).ok();
    let line = listed
        .lines()
        .find(|line| line.contains("Completed"))
        .unwrap();
    let name = line.split_whitespace().next().unwrap();
    let logs = builder.docker(&["buildx", "history", "logs", name]);
    let logs = format!("{}{}", logs.stdout, logs.stderr);
    assert!(logs.contains("said aloud"), "{logs}");
    // Also for the next engine.
    builder.engine.kill();
    let listed = builder.docker(&["buildx", "history", "ls"]).ok();
    assert!(listed.contains(name), "{listed}");
    let _ = builder.docker(&["buildx", "history", "rm", name]).ok();
    let listed = builder.docker(&["buildx", "history", "ls"]).ok();
    assert!(!listed.contains(name), "{listed}");
    let used = builder.docker(&["buildx", "du"]).ok();
    assert!(used.contains("Total:"), "{used}");
    let _ = builder.docker(&["buildx", "prune", "-af"]).ok();
    let told = builder.build(&directory, &[]);
    assert!(!told.contains("CACHED"), "{told}");
}

#[test]
fn a_build_that_is_interrupted_ends_its_step() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let file = "FROM busybox\nRUN echo running now && sleep 1000\n";
    let directory = builder.context("long", &[("Dockerfile", file)]);
    let mut child = builder
        .command(&["build", directory.to_str().unwrap()])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = child.stderr.take().unwrap();
    let mut seen = String::new();
    let mut piece = [0; 1024];
    // The text of the step has it first, then what it writes.
    while seen.matches("running now").count() < 2 {
        let length = told.read(&mut piece).unwrap();
        assert!(length > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    std::io::copy(&mut told, &mut std::io::sink()).unwrap();
    assert!(!child.wait().unwrap().success());
    until("the step is ended", || {
        builder.engine.ledger().of_containers().is_empty()
    });
    until("it is noted", || {
        let listed = builder.docker(&["buildx", "history", "ls"]).ok();
        listed.contains("Canceled") || listed.contains("Error")
    });
}

#[test]
fn docker_compose_builds_and_runs() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let files = [
        (
            "compose.yaml",
            "services:\n  a:\n    build:\n      context: a\n      args: {WHO: compose}\n    image: composed:1\n",
        ),
        ("a/Dockerfile", FILE),
        ("a/kept/a", "text of a\n"),
    ];
    let project = builder.context("project", &files);
    let file = project.join("compose.yaml");
    for bake in ["true", "false"] {
        let mut command = builder.command(&["compose", "-f", file.to_str().unwrap(), "build"]);
        let ran: Ran = command.env("COMPOSE_BAKE", bake).output().unwrap().into();
        let _ = ran.ok();
        assert_eq!(builder.run("composed:1", "cat /who"), "made by compose");
        let _ = builder.engine.sampan(&["rmi", "composed:1"]).ok();
    }
}

/// Goes on in HTTP/2 at a path, as a client of builds does.
fn upgraded(engine: &TestEngine, path: &str, headers: &str) -> UnixStream {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream
}

#[test]
fn hostile_clients_hurt_nobody_else() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let engine = &builder.engine;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut kept = Vec::new();
    for path in ["/grpc", "/v1.51/grpc"] {
        // Garbage, a frame of 16 MiB, and nothing at all.
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], PREFACE, b""] {
            let mut stream = upgraded(engine, path, "");
            stream.write_all(bytes).unwrap();
            if bytes == PREFACE {
                stream.write_all(b"\xff\xff\xff\0\0\0\0\0\x01").unwrap();
            }
            kept.push(stream);
        }
    }
    for number in 0..20 {
        let headers = format!(
            "X-Docker-Expose-Session-Uuid: silent{number}\r\n\
             X-Docker-Expose-Session-Grpc-Method: /grpc.health.v1.Health/Check\r\n"
        );
        let mut stream = upgraded(engine, "/session", &headers);
        if number % 2 == 0 {
            stream.write_all(&[0; 4096]).unwrap();
        }
        kept.push(stream);
    }
    let directory = builder.context("context", FILES);
    builder.build(&directory, &["-t", "fine"]);
    assert_eq!(builder.run("fine", "cat /kept/a"), "text of a");
    drop(kept);
    for (headers, code) in [("Upgrade: h2c", "400"), ("Upgrade: tcp", "400")] {
        let mut stream = UnixStream::connect(engine.socket()).unwrap();
        let head = format!(
            "POST /session HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n{headers}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer[9..], code.as_bytes());
    }
}
