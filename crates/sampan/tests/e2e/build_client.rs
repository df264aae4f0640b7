//! `sampan build` as a client: what its flags do, what it shows, what it leaves.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use sampan_testing::{Login, Ran, Registry, TestEngine};

use crate::build::context;
use crate::engine_with_busybox;
use crate::sessions::on_terminal;

fn build(engine: &TestEngine, directory: &Path, more: &[&str]) -> Ran {
    engine.sampan(&[&["build"], more, &[directory.to_str().unwrap()]].concat())
}

fn run(engine: &TestEngine, image: &str, script: &str) -> String {
    engine
        .sampan(&["run", "--rm", image, "sh", "-c", script])
        .ok()
}

#[test]
fn outputs_are_put_where_they_are_wanted() {
    let engine = engine_with_busybox();
    let file = "FROM scratch AS files\nCOPY --chmod=751 a.txt /d/\nFROM busybox\nCOPY a.txt /\n";
    let directory = context(
        &engine,
        "outputs",
        &[("Dockerfile", file), ("a.txt", "a\n")],
    );
    let out = engine.scratch().join("out");
    let at = |name: &str| out.join(name).to_str().unwrap().to_owned();
    let files = ["--target", "files", "-o"];
    let _ = build(&engine, &directory, &[&files[..], &[&at("local")]].concat()).ok();
    let found = out.join("local/d/a.txt");
    assert_eq!(fs::read(&found).unwrap(), b"a\n");
    assert_eq!(
        fs::metadata(&found).unwrap().permissions().mode() & 0o777,
        0o751
    );
    let tar = format!("type=tar,dest={}", at("x.tar"));
    let _ = build(&engine, &directory, &[&files[..], &[&tar]].concat()).ok();
    let listed = |archive: &str| {
        let list = Command::new("tar").args(["-tf", archive]).output().unwrap();
        String::from_utf8(list.stdout).unwrap()
    };
    assert!(listed(&at("x.tar")).contains("d/a.txt"));
    let to_stdout = build(&engine, &directory, &[&files[..], &["-"]].concat()).ok();
    assert!(to_stdout.contains("d/a.txt"));
    for (kind, member) in [("oci", "oci-layout"), ("docker", "manifest.json")] {
        let archive = at(kind);
        let output = format!("type={kind},dest={archive}");
        let _ = build(&engine, &directory, &["-t", "packed", "-o", &output]).ok();
        assert!(listed(&archive).contains(member), "{kind}");
    }
    assert_eq!(engine.sampan(&["images", "-q", "packed"]).ok(), "");
    let more = ["-t", "both:1", "--load", "-o", &at("beside")];
    let _ = build(&engine, &directory, &more).ok();
    assert_eq!(run(&engine, "both:1", "cat /a.txt"), "a");
    assert!(out.join("beside/bin/busybox").exists());
    let _ = build(&engine, &directory, &["-o", "type=cacheonly"]).ok();
    let wrong = build(&engine, &directory, &["-o", "type=new,dest=x"]);
    assert!(wrong.failed(1).contains("unsupported output type: new"));
}

#[test]
fn what_was_built_is_told_in_files() {
    let engine = engine_with_busybox();
    let directory = context(
        &engine,
        "told",
        &[("Dockerfile", "FROM busybox\nRUN echo x > /x\n")],
    );
    let at = |name: &str| engine.scratch().join(name).to_str().unwrap().to_owned();
    let (id, metadata) = (at("id"), at("metadata"));
    let more = [
        "-q",
        "-t",
        "told",
        "--iidfile",
        &id,
        "--metadata-file",
        &metadata,
    ];
    let ran = build(&engine, &directory, &more);
    assert_eq!(ran.stderr, "");
    let told = ran.ok();
    assert_eq!(
        engine.sampan(&["inspect", "-f", "{{.Id}}", "told"]).ok(),
        told
    );
    assert_eq!(fs::read_to_string(id).unwrap(), told);
    let metadata = fs::read_to_string(metadata).unwrap();
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], told);
    assert_eq!(metadata["image.name"], "docker.io/library/told:latest");
    let raw = build(&engine, &directory, &["--progress=rawjson"]).stderr;
    let first: serde_json::Value = serde_json::from_str(raw.lines().next().unwrap()).unwrap();
    assert!(first["vertexes"][0]["digest"].as_str().is_some(), "{raw}");
    let quiet = build(&engine, &directory, &["--progress=quiet"]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    let wrong = build(&engine, &directory, &["-q", "--progress=plain"]);
    assert!(wrong.failed(1).contains("cannot be used together"));
    let wrong = build(&engine, &directory, &["--progress=tty"]);
    assert!(wrong.failed(1).contains("needs a terminal"));
}

#[test]
fn secrets_and_agents_are_lent() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\n\
                RUN --mount=type=secret,id=one --mount=type=secret,id=two,env=TWO \
                wc -c < /run/secrets/one && echo ${#TWO} > /two\n\
                RUN --mount=type=ssh test -S $SSH_AUTH_SOCK\n";
    let directory = context(&engine, "lent", &[("Dockerfile", file)]);
    let secret = engine.scratch().join("secret");
    fs::write(&secret, "a secret").unwrap();
    let socket = engine.scratch().join("agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let one = format!("id=one,src={}", secret.display());
    let agent = format!("default={}", socket.display());
    let more = [
        "-t",
        "lent",
        "--secret",
        &one,
        "--secret",
        "id=two,env=PATH",
        "--ssh",
        &agent,
    ];
    let ran = build(&engine, &directory, &more);
    assert!(ran.stderr.contains(" 8\n"), "{}", ran.stderr);
    let _ = ran.ok();
    assert_ne!(run(&engine, "lent", "cat /two"), "0");
    let wrong = build(&engine, &directory, &["--secret", "id=x,src=/not/there"]);
    assert!(wrong.failed(1).contains("failed to stat /not/there"));
    let wrong = build(&engine, &directory, &["--ssh", "default=/etc/passwd"]);
    assert!(wrong.failed(1).contains("is no socket of an agent"));
}

#[test]
fn named_contexts_and_dockerfiles_from_elsewhere() {
    let engine = engine_with_busybox();
    let files = [
        ("a.txt", "a\n"),
        (".dockerignore", "*.log\n"),
        ("x.log", "x\n"),
    ];
    let directory = context(&engine, "plain", &files);
    let other = context(&engine, "other", &[("b.txt", "b\n")]);
    let elsewhere = context(
        &engine,
        "elsewhere",
        &[(
            "My.Dockerfile",
            "FROM base\nCOPY . /in/\nCOPY --from=more b.txt /\n",
        )],
    );
    let file = elsewhere.join("My.Dockerfile");
    let more = format!("more={}", other.display());
    let arguments = [
        "-t",
        "named",
        "-f",
        file.to_str().unwrap(),
        "--build-context",
        &more,
        "--build-context",
        "base=docker-image://busybox",
    ];
    let _ = build(&engine, &directory, &arguments).ok();
    assert_eq!(
        run(&engine, "named", "cat /b.txt; ls -A /in"),
        "b\n.dockerignore\na.txt"
    );
    let path = directory.to_str().unwrap();
    let from_stdin = ["build", "-t", "typed", "-f", "-", path];
    let _ = engine
        .sampan_with_input(&from_stdin, b"FROM busybox\nCOPY a.txt /c\n")
        .ok();
    assert_eq!(run(&engine, "typed", "cat /c"), "a");
    let alone = ["build", "-t", "alone", "-"];
    let _ = engine
        .sampan_with_input(&alone, b"FROM busybox\nRUN echo d > /d\n")
        .ok();
    assert_eq!(run(&engine, "alone", "cat /d"), "d");
    let wrong = build(
        &engine,
        &directory,
        &[
            "-f",
            file.to_str().unwrap(),
            "--build-context",
            "x=/not/there",
        ],
    );
    assert!(wrong.failed(1).contains("/not/there is not a directory"));
    let wrong = build(&engine, &directory, &["-f", "/not/there"]);
    assert!(
        wrong
            .failed(1)
            .contains("open /not/there: no such file or directory")
    );
}

#[test]
fn flags_reach_the_steps() {
    let engine = engine_with_busybox();
    let file = "FROM busybox AS base\nARG A\nRUN cat /proc/sys/kernel/random/uuid > /base\n\
                FROM base\nRUN cat /proc/sys/kernel/random/uuid > /last; \
                grep -c named /etc/hosts; ulimit -n; df -k /dev/shm | tail -1 | awk '{print $2}'; \
                ls /sys/class/net\n";
    let directory = context(&engine, "flags", &[("Dockerfile", file)]);
    let more = [
        "-t",
        "one",
        "--build-arg",
        "A=1",
        "--label",
        "l=v",
        "--add-host",
        "named:1.2.3.4",
        "--ulimit",
        "nofile=77:77",
        "--shm-size",
        "3m",
        "--network",
        "none",
    ];
    let told = build(&engine, &directory, &more).stderr;
    for line in [" 1\n", " 77\n", " 3072\n", " lo\n"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let label = ["inspect", "-f", "{{.Config.Labels.l}}", "one"];
    assert_eq!(engine.sampan(&label).ok(), "v");
    let ids = |image: &str| run(&engine, image, "cat /base /last");
    let again = [&["-t", "two"], &more[2..]].concat();
    let told = build(&engine, &directory, &again).stderr;
    assert!(told.contains("CACHED"), "{told}");
    assert_eq!(ids("one"), ids("two"));
    let some = [&["-t", "three", "--no-cache-filter", "stage-1"], &more[2..]].concat();
    let _ = build(&engine, &directory, &some);
    let first = |text: &str| text.lines().next().map(str::to_owned);
    assert_eq!(first(&ids("one")), first(&ids("three")));
    assert_ne!(ids("one"), ids("three"));
    let none = [&["-t", "four", "--no-cache"], &more[2..]].concat();
    let _ = build(&engine, &directory, &none).ok();
    assert_ne!(first(&ids("one")), first(&ids("four")));
}

#[test]
fn a_dockerfile_is_checked() {
    let engine = engine_with_busybox();
    let directory = context(
        &engine,
        "check",
        &[("Dockerfile", "FROM busybox\nRUN true\n")],
    );
    let checked = build(&engine, &directory, &["--check"]).ok();
    assert_eq!(checked, "Check complete, no warnings found.");
    fs::write(
        directory.join("Dockerfile"),
        "from busybox AS One\nRUN true\n",
    )
    .unwrap();
    let checked = build(&engine, &directory, &["--call=check"]);
    assert_eq!(checked.code, 1);
    assert!(
        checked.stdout.contains("have been found!"),
        "{}",
        checked.stdout
    );
    assert!(
        checked.stdout.contains("StageNameCasing"),
        "{}",
        checked.stdout
    );
    let targets = build(&engine, &directory, &["--call=targets"]).ok();
    assert!(
        targets.to_lowercase().contains("one (default)"),
        "{targets}"
    );
}

#[test]
fn builds_are_listed_shown_and_forgotten() {
    let engine = engine_with_busybox();
    let directory = context(
        &engine,
        "history",
        &[("Dockerfile", "FROM busybox\nRUN echo said\n")],
    );
    let _ = build(&engine, &directory, &["-t", "fine"]).ok();
    let _ = build(&engine, &directory, &["-t", "again"]).ok();
    fs::write(directory.join("Dockerfile"), "FROM busybox\nRUN exit 5\n").unwrap();
    let _ = build(&engine, &directory, &["-t", "wrong"]).failed(1);
    let listed = || {
        let list = engine.sampan(&["build", "ls", "--format", "json"]).ok();
        let builds = list.lines().map(|line| serde_json::from_str(line).unwrap());
        let builds: Vec<serde_json::Value> = builds.collect();
        builds
    };
    // They are noted when the client has its answer already.
    sampan_testing::until("all builds are noted", || listed().len() == 3);
    let builds = listed();
    let shown: Vec<_> = builds
        .iter()
        .map(|build| (&build["name"], &build["status"]))
        .collect();
    for (index, expected) in [
        ("wrong", "Error"),
        ("again", "Completed"),
        ("fine", "Completed"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(shown[index], (&expected.0.into(), &expected.1.into()));
    }
    assert_eq!(builds[1]["cached_steps"], 1);
    let table = engine.sampan(&["build", "ls"]).ok();
    assert!(table.starts_with("BUILD ID"), "{table}");
    let name = builds[2]["ref"].as_str().unwrap();
    let logs = engine.sampan(&["build", "logs", &name[..8]]).ok();
    assert!(
        logs.contains("[2/2] RUN echo said\n") && logs.contains(" said\n"),
        "{logs}"
    );
    let inspected = engine.sampan(&["build", "inspect"]).ok();
    assert!(inspected.contains("exit code: 5"), "{inspected}");
    assert!(
        inspected.contains("ERROR") && inspected.contains("[2/2] RUN exit 5"),
        "{inspected}"
    );
    assert_eq!(engine.sampan(&["build", "rm", name]).ok(), name);
    assert_eq!(listed().len(), 2);
    let wrong = engine.sampan(&["build", "inspect", name]);
    assert!(wrong.failed(1).contains("no such build"));
    let _ = engine.sampan(&["build", "rm", "--all"]).ok();
    assert_eq!(listed().len(), 0);
}

#[test]
fn a_terminal_shows_steps_in_place() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nRUN echo on$((1+1))line; sleep 1\n";
    let directory = context(&engine, "screen", &[("Dockerfile", file)]);
    let command = format!("sampan build -t screen {}", directory.display());
    let (screen, code) = on_terminal(&engine, &command, &[]);
    assert_eq!(code, 0, "{screen}");
    for expected in [
        "[+] Building",
        "\x1b[2K => [2/2] RUN echo",
        " => => # on2line",
        "FINISHED",
    ] {
        assert!(screen.contains(expected), "{expected}: {screen:?}");
    }
    let (screen, _) = on_terminal(&engine, &command, &[]);
    assert!(screen.contains(" => CACHED [2/2]"), "{screen:?}");
}

#[test]
fn a_failed_step_can_be_looked_into() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nRUN echo 1 > /before\nENV E=env$((1))\nARG A=arg\nWORKDIR /srv\nUSER user\n\
                RUN echo 2 > /tmp/left; false\n";
    let directory = context(&engine, "shell", &[("Dockerfile", file)]);
    let path = directory.to_str().unwrap();
    let refused = engine.sampan(&["build", "--on-failure=shell", path]);
    assert!(refused.failed(1).contains("needs a terminal"));
    let images = engine.sampan(&["images", "-aq"]).ok();
    let command = format!("sampan build --on-failure=shell {path}");
    let keys = [
        (
            "echo =$(cat /before /tmp/left)=$A=$(pwd)=$(id -un)=\n",
            4000,
        ),
        ("exit 9\n", 500),
    ];
    let (screen, code) = on_terminal(&engine, &command, &keys);
    assert!(screen.contains("=1 2=arg=/srv=user="), "{screen}");
    assert!(screen.contains("exit code: 1"), "{screen}");
    assert_eq!(code, 1, "{screen}");
    assert_eq!(engine.sampan(&["images", "-aq"]).ok(), images);
    engine.ledger().assert_no_container();
}

#[test]
fn only_what_has_changed_is_sent() {
    let engine = engine_with_busybox();
    let big = "x".repeat(1 << 20);
    let files = [
        ("Dockerfile", "FROM busybox\nCOPY . /in\n"),
        ("big", &big),
        ("small", "s"),
    ];
    let directory = context(&engine, "changed", &files);
    let sent = |told: &str| {
        let line = told
            .lines()
            .find(|line| line.contains("transferring context: "));
        line.unwrap()
            .split("context: ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let first = build(&engine, &directory, &["-t", "x"]).stderr;
    assert_eq!(sent(&first), "1.05MB", "{first}");
    let second = build(&engine, &directory, &["-t", "x"]).stderr;
    assert_eq!(sent(&second), "0B", "{second}");
    fs::File::create(directory.join("small"))
        .unwrap()
        .write_all(b"other")
        .unwrap();
    let third = build(&engine, &directory, &["-t", "x"]).stderr;
    assert_eq!(sent(&third), "5B", "{third}");
    let mut text = String::new();
    fs::File::open(directory.join("small"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(run(&engine, "x", "cat /in/small"), text);
}

#[test]
fn an_image_is_pushed_with_the_saved_credentials() {
    let engine = engine_with_busybox();
    let (user, password) = ("captain", "correct horse");
    let registry = Registry::with_login(Login {
        user: user.into(),
        password: password.into(),
    });
    let directory = context(
        &engine,
        "pushed",
        &[("Dockerfile", "FROM busybox\nCMD x\n")],
    );
    let name = format!("{}/pushed:1", registry.address());
    let refused = build(&engine, &directory, &["--push", "-t", &name]);
    let _ = refused.failed(1);
    let address = registry.address();
    let login = [
        "login",
        "-u",
        user,
        "--password-stdin",
        "--key",
        "file",
        &address,
    ];
    let _ = engine.sampan_with_input(&login, password.as_bytes()).ok();
    let _ = build(&engine, &directory, &["--push", "-t", &name]).ok();
    let _ = engine.sampan(&["rmi", &name]).ok();
    let _ = engine.sampan(&["pull", &name]).ok();
    let command = ["inspect", "-f", "{{.Config.Cmd}}", &name];
    assert_eq!(engine.sampan(&command).ok(), "[/bin/sh -c x]");
}
