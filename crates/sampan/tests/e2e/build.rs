//! Building images, with `sampan build` and with the docker client's classic builder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use sampan_testing::{Ran, TestEngine};

use crate::engine_with_busybox;

fn context(engine: &TestEngine, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = engine.scratch().join(name);
    for (path, text) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

fn sampan_build(engine: &TestEngine, tag: &str, directory: &Path, more: &[&str]) -> Ran {
    let mut arguments = vec!["build", "-t", tag];
    arguments.extend(more);
    arguments.push(directory.to_str().unwrap());
    engine.sampan(&arguments)
}

fn docker_build(engine: &TestEngine, tag: &str, directory: &Path, more: &[&str]) -> Ran {
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
    for build in [sampan_build, docker_build] {
        let ran = build(&engine, "x", &directory, &[]);
        assert!(ran.stdout.contains("before"), "{}", ran.stdout);
        assert!(ran.failed(7).contains(message));
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
