//! Dockerfiles as people write them, on real base images: what is built runs and answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use sampan_testing::{Fixture, Ran, TestEngine, docker_plugins, fixture, free_port, run, until};

use crate::build::{context, docker_build, sampan_build};
use crate::buildkit::Builder;
use crate::engine;

/// One of the ways to build a directory: its name, and what does it.
type Way<'a> = (&'a str, Box<dyn Fn(&str, &Path) -> Ran + 'a>);

/// Both clients, and docker's two builders.
fn ways(engine: &TestEngine) -> Vec<Way<'_>> {
    let mut ways: Vec<Way<'_>> = vec![
        (
            "sampan",
            Box::new(|tag, at| sampan_build(engine, tag, at, &["--no-cache"])),
        ),
        (
            "docker",
            Box::new(|tag, at| docker_build(engine, tag, at, &["--no-cache"])),
        ),
    ];
    if let Some(plugins) = docker_plugins() {
        Builder::add_plugins(engine, &plugins);
        let build = |tag: &str, at: &Path| {
            let mut command = Builder::command_of(engine, &["build", "--no-cache", "-t", tag]);
            command.arg(at).output().unwrap().into()
        };
        ways.push(("buildx", Box::new(build)));
    }
    ways
}

fn load(engine: &TestEngine, image: Fixture, name: &str) {
    engine.load(fixture(image));
    let _ = engine.sampan(&["tag", image.name(), name]).ok();
}

/// What a server answers to a request for `/`.
fn page(port: u16) -> String {
    let mut answer = String::new();
    until("the server answers", || {
        answer.clear();
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        let request = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && !answer.is_empty()
    });
    answer
}

const FLASK: &str = r#"# Use an official Python runtime as a parent image
FROM python:3.11-slim

# Set the working directory to /app
WORKDIR /app

# Copy the current directory contents into the container at /app
ADD . /app

RUN pip install --break-system-packages --no-index --find-links wheels -r requirements.txt

EXPOSE 80

ENV NAME World

CMD ["python3", "app.py"]
"#;

const APP: &str = "\
from flask import Flask
import os, socket

app = Flask(__name__)

@app.route('/')
def hello():
    html = '<h3>Hello {name}!</h3><b>Hostname:</b> {hostname}<br/>'
    return html.format(name=os.getenv('NAME', 'world'), hostname=socket.gethostname())

if __name__ == '__main__':
    app.run(host='0.0.0.0', port=80)
";

#[test]
fn a_flask_app_is_built_and_answers() {
    let engine = engine();
    load(&engine, Fixture::Python, "python:3.11-slim");
    let files = [
        ("Dockerfile", FLASK),
        ("app.py", APP),
        ("requirements.txt", "Flask\n"),
    ];
    let directory = context(&engine, "app", &files);
    let wheels = directory.join("wheels");
    let download = ["-m", "pip", "download", "--quiet", "--only-binary=:all:"];
    let target = [
        "--python-version",
        "3.11",
        "-d",
        wheels.to_str().unwrap(),
        "flask",
    ];
    let _ = run("python3", &[&download[..], &target].concat()).ok();
    for (name, build) in ways(&engine) {
        let _ = build("friendlyhello", &directory).ok();
        let port = free_port();
        let publish = format!("127.0.0.1:{port}:80");
        let _ = engine
            .docker(&[
                "run",
                "-d",
                "-p",
                &publish,
                "--hostname",
                "here",
                "friendlyhello",
            ])
            .ok();
        let answer = page(port);
        let expected = "<h3>Hello World!</h3><b>Hostname:</b> here<br/>";
        assert!(answer.ends_with(expected), "{name}: {answer}");
        engine.remove_all();
    }
}

const SSHD: &str = r#"FROM    centos:6.7
MAINTAINER      Fisher "fisher@example.org"

RUN     /bin/echo 'root:123456' |chpasswd
RUN     useradd runoob
RUN     /bin/echo 'runoob:123456' |chpasswd
RUN     /bin/echo -e "LANG=\"en_US.UTF-8\"" >/etc/default/local
RUN     mkdir -p /run/sshd && ssh-keygen -A
EXPOSE  22
EXPOSE  80
CMD     /usr/sbin/sshd -D
"#;

/// `ssh` with the password, by a program that hands it over.
const LOG_IN: &str = "printf '#!/bin/sh\\necho 123456\\n' > /tmp/ask && chmod 755 /tmp/ask && \
    DISPLAY=x SSH_ASKPASS=/tmp/ask SSH_ASKPASS_REQUIRE=force ssh -o StrictHostKeyChecking=no \
    -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR runoob@localhost \
    'id -un && cat /etc/default/local'";

#[test]
fn an_ssh_server_is_built_and_lets_its_user_in() {
    let engine = engine();
    load(&engine, Fixture::Sshd, "centos:6.7");
    let directory = context(&engine, "sshd", &[("Dockerfile", SSHD)]);
    for (name, build) in ways(&engine) {
        let _ = build("sshd-built", &directory).ok();
        let author = engine
            .sampan(&["inspect", "-f", "{{.Author}}", "sshd-built"])
            .ok();
        assert_eq!(author, "Fisher \"fisher@example.org\"", "{name}");
        let _ = engine
            .docker(&["run", "-d", "--name", "server", "sshd-built"])
            .ok();
        let mut seen = String::new();
        until("the user is let in", || {
            let ran = engine.docker(&["exec", "server", "sh", "-c", LOG_IN]);
            seen = ran.stdout;
            ran.code == 0
        });
        assert_eq!(seen, "runoob\nLANG=\"en_US.UTF-8\"\n", "{name}");
        engine.remove_all();
    }
}

const COMPILED: &str = "\
# syntax=docker/dockerfile:1
ARG COMPILER_VERSION=12
FROM --platform=$BUILDPLATFORM gcc:${COMPILER_VERSION} AS build
ARG TARGETARCH
WORKDIR /src
COPY greeting.h ./
COPY *.c ./
RUN gcc -static -O1 -DARCH=\"\\\"$TARGETARCH\\\"\" -o /bin/server server.c

FROM build AS test
RUN /bin/server test && false

FROM scratch
COPY --from=build /bin/server /server
USER 10001
EXPOSE 8080
ENTRYPOINT [\"/server\"]
";

const SERVER: &str = "\
#include <stdio.h>
#include <unistd.h>
#include \"greeting.h\"
int main(int count, char **words) {
    printf(GREETING \" %s %d %s\\n\", ARCH, (int)getuid(), count > 1 ? words[1] : \"nobody\");
    return 0;
}
";

#[test]
fn a_program_is_compiled_in_one_stage_and_runs_alone_in_another() {
    let engine = engine();
    load(&engine, Fixture::FiveLayers, "gcc:12");
    let files = [
        ("Dockerfile", COMPILED),
        ("server.c", SERVER),
        ("greeting.h", "#define GREETING \"hello\"\n"),
    ];
    let directory = context(&engine, "compiled", &files);
    let format = "{{.Architecture}} {{len .RootFS.Layers}} {{json .Config.Entrypoint}}";
    for (name, build) in ways(&engine) {
        let _ = build("compiled", &directory).ok();
        let about = engine.docker(&["inspect", "-f", format, "compiled"]).ok();
        let (architecture, rest) = about.split_once(' ').unwrap();
        assert_eq!(rest, "1 [\"/server\"]", "{name}");
        let said = engine.docker(&["run", "--rm", "compiled", "you"]).ok();
        assert_eq!(said, format!("hello {architecture} 10001 you"), "{name}");
    }
}
