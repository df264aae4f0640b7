//! One table of commands, typed with the real `docker` client and with
//! `sampan`: the same observable results, and the ones that are expected.

use std::path::Path;

use sampan_testing::{Ran, TestEngine};

use crate::engine_with_busybox;

/// What a row expects on standard output.
pub(crate) enum Expect {
    /// Exactly this (without the last line break).
    Text(&'static str),
    /// Every one of these somewhere.
    Has(&'static [&'static str]),
    /// Only that both clients print the same.
    Same,
    /// An identifier of 64 hex digits.
    Id,
}

use Expect::{Has, Id, Same, Text};

/// A command, typed with both clients.
pub(crate) struct Row {
    command: Vec<String>,
    input: &'static str,
    code: i32,
    stdout: Expect,
    /// Parts of standard error.
    stderr: &'static [&'static str],
}

fn row(command: &[&str], stdout: Expect) -> Row {
    Row {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        input: "",
        code: 0,
        stdout,
        stderr: &[],
    }
}

fn fails(command: &[&str], code: i32, stderr: &'static [&'static str]) -> Row {
    Row {
        code,
        stderr,
        ..row(command, Same)
    }
}

/// A row as it is typed in a shell. `{dir}` is a directory of the table's own.
pub(crate) fn line(command: &str, stdout: Expect) -> Row {
    Row {
        command: words(command),
        ..row(&[], stdout)
    }
}

/// A row as it is typed in a shell, that fails.
pub(crate) fn wrong(command: &str, code: i32, stderr: &'static [&'static str]) -> Row {
    Row {
        command: words(command),
        ..fails(&[], code, stderr)
    }
}

impl Row {
    /// With something on standard input.
    pub(crate) fn input(mut self, text: &'static str) -> Self {
        self.input = text;
        self
    }

    /// What of it does not fit.
    fn mistake(&self, ran: &Ran) -> Option<String> {
        if ran.code != self.code {
            return Some(format!("not code {}", self.code));
        }
        let stdout = ran.stdout.trim_end_matches('\n');
        let fits = match self.stdout {
            Text(text) => stdout == text,
            Has(parts) => parts.iter().all(|part| stdout.contains(part)),
            Same => true,
            Id => is_id(stdout),
        };
        if !fits {
            return Some(match self.stdout {
                Text(text) => format!("not {text:?}"),
                Has(parts) => format!("not with {parts:?}"),
                Same | Id => "no identifier".to_owned(),
            });
        }
        let mut parts = self.stderr.iter();
        let missing = parts.find(|part| !ran.stderr.contains(**part));
        missing.map(|part| format!("{part:?} is missing"))
    }

    /// Of a command that ends with another code than 0.
    pub(crate) fn ends(mut self, code: i32) -> Self {
        self.code = code;
        self
    }
}

/// Splits as a shell does: single quotes hold words together.
pub(crate) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                let _ = word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    assert!(!quoted, "{line}");
    words.extend(word);
    words
}

/// Runs the rows with both clients, one after the other on one engine.
pub(crate) fn play(rows: &[Row]) {
    play_in(&engine_with_busybox(), &|_| {}, rows);
}

/// The same on this engine; `prepare` fills the directory of the table.
pub(crate) fn play_in(engine: &TestEngine, prepare: &dyn Fn(&Path), rows: &[Row]) {
    let directory = engine.scratch().join("table");
    let client = |name: &str, run: &dyn Fn(&[&str], &[u8]) -> Ran| {
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        prepare(&directory);
        play_with(engine, name, &directory, run, rows)
    };
    let (by_sampan, mut mistakes) = client("sampan", &|args, input| {
        engine.sampan_with_input(args, input)
    });
    let (by_docker, of_docker) = client("docker", &|args, input| {
        engine.docker_with_input(args, input)
    });
    mistakes.extend(of_docker);
    for ((row, sampan), docker) in rows.iter().zip(by_sampan).zip(by_docker) {
        let (sampan, docker) = (normal(&sampan.stdout), normal(&docker.stdout));
        if sampan != docker {
            let command = &row.command;
            mistakes.push(format!("{command:?} differ:\n{sampan}docker:\n{docker}"));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n\n"));
}

/// Runs the rows with one client; returns what it did and what is wrong with that.
fn play_with(
    engine: &TestEngine,
    name: &str,
    directory: &Path,
    client: &dyn Fn(&[&str], &[u8]) -> Ran,
    rows: &[Row],
) -> (Vec<Ran>, Vec<String>) {
    let directory = directory.to_str().unwrap();
    let mut mistakes = Vec::new();
    let results = rows.iter().map(|row| {
        let words = row.command.iter();
        let words: Vec<String> = words.map(|word| word.replace("{dir}", directory)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = client(&words, row.input.as_bytes());
        if let Some(mistake) = row.mistake(&ran) {
            mistakes.push(format!("{mistake}: {name} {words:?}: {ran:?}"));
        }
        ran
    });
    let results = results.collect();
    engine.remove_all();
    (results, mistakes)
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Takes out what differs from one container to the next: identifiers.
pub(crate) fn normal(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() {
            word.push(c);
            continue;
        }
        let id = [12, 64].contains(&word.len()) && !word.chars().all(|c| c.is_ascii_digit());
        out.push_str(if id { "<id>" } else { &word });
        word.clear();
        out.push(c);
    }
    out
}

#[test]
fn running_and_exit_codes() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(&[
        row(&["run", "--rm", "busybox", "echo", "hello"], Text("hello")),
        row(&["run", "--rm", "busybox", "true"], Text("")),
        fails(&["run", "--rm", "busybox", "sh", "-c", "exit 3"], 3, &[]),
        fails(
            &["run", "--rm", "busybox", "sh", "-c", "echo x >&2; exit 1"],
            1,
            &["x"],
        ),
        fails(
            &["run", "--rm", "busybox", "no-such-command"],
            127,
            &["no-such-command", "not found"],
        ),
        fails(
            &["run", "--rm", "busybox", "/etc/passwd"],
            126,
            &["permission denied"],
        ),
        fails(
            &["run", "--rm", "--pull=never", "no-such-image"],
            125,
            &["no-such-image"],
        ),
        fails(
            &["run", "--rm", "--pull=never", "Bad//Name"],
            125,
            &["invalid reference format"],
        ),
        fails(&["run", "--rm", "-v", "/a:b:c:d", "busybox"], 125, &[]),
        row(
            &[
                "run",
                "--rm",
                "-e",
                "A=1",
                "-e",
                "B=two words",
                "busybox",
                "sh",
                "-c",
                "echo $A $B",
            ],
            Text("1 two words"),
        ),
        row(
            &["run", "--rm", "-w", "/new/dir", "busybox", "pwd"],
            Text("/new/dir"),
        ),
        row(
            &["run", "--rm", "-u", "1000:1000", "busybox", "id"],
            Text("uid=1000(user) gid=1000(user)"),
        ),
        row(
            &["run", "--rm", "-u", "user", "busybox", "id"],
            Has(&["uid=1000(user)", "2000(extra)"]),
        ),
        row(
            &[
                "run",
                "--rm",
                "-u",
                "nobody",
                "busybox",
                "sh",
                "-c",
                "echo $HOME",
            ],
            Text("/home"),
        ),
        fails(
            &["run", "--rm", "-u", "nosuchuser", "busybox", "id"],
            125,
            &["nosuchuser"],
        ),
        row(
            &[
                "run",
                "--rm",
                "--entrypoint",
                "echo",
                "busybox",
                "from",
                "entrypoint",
            ],
            Text("from entrypoint"),
        ),
        row(
            &["run", "--rm", "-h", "myhost", "busybox", "hostname"],
            Text("myhost"),
        ),
        row(
            &[
                "run",
                "--rm",
                "-h",
                "myhost",
                "busybox",
                "cat",
                "/etc/hostname",
            ],
            Text("myhost"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--read-only",
                "busybox",
                "sh",
                "-c",
                "touch /x 2>/dev/null || echo refused",
            ],
            Text("refused"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--tmpfs",
                "/t",
                "busybox",
                "sh",
                "-c",
                "touch /t/x && stat -f -c %T /t",
            ],
            Text("tmpfs"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--shm-size",
                "8m",
                "busybox",
                "sh",
                "-c",
                "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2",
            ],
            Text("8192"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--init",
                "busybox",
                "sh",
                "-c",
                "cat /proc/1/comm",
            ],
            Same,
        ),
        row(
            &[
                "run",
                "--rm",
                "--ulimit",
                "nofile=100:200",
                "busybox",
                "sh",
                "-c",
                "ulimit -Sn; ulimit -Hn",
            ],
            Text("100\n200"),
        ),
        row(
            &[
                "run",
                "--rm",
                "busybox",
                "sh",
                "-c",
                "grep -c . /proc/self/mountinfo >/dev/null && grep CapEff /proc/self/status",
            ],
            Text("CapEff:\t00000000a80425fb"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--cap-drop",
                "ALL",
                "--cap-add",
                "NET_ADMIN",
                "busybox",
                "grep",
                "CapEff",
                "/proc/self/status",
            ],
            Text("CapEff:\t0000000000001000"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--privileged",
                "busybox",
                "grep",
                "Seccomp:",
                "/proc/self/status",
            ],
            Text("Seccomp:\t0"),
        ),
        row(
            &[
                "run",
                "--rm",
                "busybox",
                "grep",
                "Seccomp:",
                "/proc/self/status",
            ],
            Text("Seccomp:\t2"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--security-opt",
                "no-new-privileges",
                "busybox",
                "grep",
                "NoNewPrivs:",
                "/proc/self/status",
            ],
            Text("NoNewPrivs:\t1"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--device",
                "/dev/fuse",
                "busybox",
                "ls",
                "/dev/fuse",
            ],
            Text("/dev/fuse"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--add-host",
                "other:10.1.2.3",
                "busybox",
                "grep",
                "other",
                "/etc/hosts",
            ],
            Text("10.1.2.3\tother"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--dns",
                "9.9.9.9",
                "busybox",
                "grep",
                "nameserver",
                "/etc/resolv.conf",
            ],
            Text("nameserver 9.9.9.9"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "busybox",
                "ls",
                "/sys/class/net",
            ],
            Text("lo"),
        ),
        row(
            &[
                "run",
                "--rm",
                "-m",
                "64m",
                "--cpus",
                "0.5",
                "--pids-limit",
                "50",
                "busybox",
                "echo",
                "limited",
            ],
            Text("limited"),
        ),
    ]);
}

#[test]
fn the_life_of_a_container() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(&[
        row(
            &[
                "create",
                "--name",
                "one",
                "busybox",
                "sh",
                "-c",
                "echo out; echo err >&2; exit 5",
            ],
            Id,
        ),
        row(
            &[
                "ps",
                "-a",
                "--format",
                "{{.Names}} {{.Image}} {{.State}} {{.Status}} {{.Command}}",
            ],
            Same,
        ),
        fails(
            &["create", "--name", "one", "busybox"],
            1,
            &["Conflict", "/one"],
        ),
        row(&["start", "one"], Text("one")),
        row(&["wait", "one"], Text("5")),
        fails(&["start", "-a", "one"], 5, &["err"]),
        row(&["logs", "one"], Text("out\nout")),
        row(&["logs", "--tail", "1", "one"], Same),
        row(
            &[
                "inspect",
                "-f",
                "{{.State.ExitCode}} {{.State.Running}} {{.State.Status}} {{.Name}}",
                "one",
            ],
            Text("5 false exited /one"),
        ),
        row(
            &[
                "inspect",
                "-f",
                "{{json .Config.Cmd}} {{len .Mounts}} {{.HostConfig.NetworkMode}}",
                "one",
            ],
            Text("[\"sh\",\"-c\",\"echo out; echo err >\u{26}2; exit 5\"] 0 bridge"),
        ),
        row(&["rename", "one", "uno"], Text("")),
        fails(&["logs", "one"], 1, &["No such container: one"]),
        row(&["rm", "uno"], Text("uno")),
        fails(&["rm", "uno"], 1, &["No such container: uno"]),
        row(
            &["run", "-d", "--name", "two", "busybox", "sleep", "1000"],
            Id,
        ),
        row(
            &["ps", "--format", "{{.Names}} {{.State}}"],
            Text("two running"),
        ),
        row(&["exec", "two", "echo", "inside"], Text("inside")),
        row(
            &[
                "exec",
                "-e",
                "X=1",
                "-w",
                "/tmp",
                "-u",
                "1000",
                "two",
                "sh",
                "-c",
                "echo $X $PWD; id -u",
            ],
            Text("1 /tmp\n1000"),
        ),
        fails(&["exec", "two", "sh", "-c", "exit 9"], 9, &[]),
        fails(&["exec", "two", "no-such-command"], 127, &[]),
        row(&["pause", "two"], Text("two")),
        row(
            &["ps", "--filter", "status=paused", "--format", "{{.Names}}"],
            Text("two"),
        ),
        fails(&["exec", "two", "true"], 1, &["is paused"]),
        row(&["unpause", "two"], Text("two")),
        fails(&["unpause", "two"], 1, &["is not paused"]),
        fails(&["rm", "two"], 1, &["cannot remove"]),
        row(&["kill", "-s", "TERM", "two"], Text("two")),
        row(&["stop", "-t", "0", "two"], Text("two")),
        row(
            &["inspect", "-f", "{{.State.ExitCode}}", "two"],
            Text("137"),
        ),
        fails(&["kill", "two"], 1, &["is not running"]),
        row(&["restart", "-t", "0", "two"], Text("two")),
        row(
            &["inspect", "-f", "{{.State.Running}}", "two"],
            Text("true"),
        ),
        row(&["rm", "-f", "two"], Text("two")),
        row(&["ps", "-aq"], Text("")),
        fails(&["inspect", "two"], 1, &["No such object: two"]),
    ]);
}

#[test]
fn listing_and_filters() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(
        [
            row(
                &[
                    "create", "--name", "a1", "-l", "tier=web", "busybox", "true",
                ],
                Id,
            ),
            row(
                &[
                    "create", "--name", "a2", "-l", "tier=db", "-l", "x", "busybox", "true",
                ],
                Id,
            ),
            row(
                &["run", "--name", "a3", "busybox", "sh", "-c", "exit 4"],
                Same,
            ),
        ]
        .into_iter()
        .map(|mut row| {
            if row.command.iter().any(|word| word == "a3") {
                row.code = 4;
            }
            row
        })
        .chain([
            row(&["ps", "-a", "--format", "{{.Names}}"], Text("a3\na2\na1")),
            row(
                &[
                    "ps",
                    "-a",
                    "--filter",
                    "label=tier=web",
                    "--format",
                    "{{.Names}}",
                ],
                Text("a1"),
            ),
            row(
                &["ps", "-a", "--filter", "name=a2", "--format", "{{.Names}}"],
                Text("a2"),
            ),
            row(
                &[
                    "ps",
                    "-a",
                    "--filter",
                    "name=^/?a[13]$",
                    "--format",
                    "{{.Names}}",
                ],
                Text("a3\na1"),
            ),
            row(
                &["ps", "-a", "--filter", "exited=4", "--format", "{{.Names}}"],
                Text("a3"),
            ),
            row(
                &[
                    "ps",
                    "-a",
                    "--filter",
                    "status=created",
                    "--format",
                    "{{.Names}}",
                ],
                Text("a2\na1"),
            ),
            row(
                &[
                    "ps",
                    "-a",
                    "--filter",
                    "ancestor=busybox",
                    "--filter",
                    "label=x",
                    "--format",
                    "{{.Names}}",
                ],
                Text("a2"),
            ),
            row(&["ps", "-l", "--format", "{{.Names}}"], Text("a3")),
            row(&["ps", "-n", "2", "--format", "{{.Names}}"], Text("a3\na2")),
            row(
                &[
                    "ps",
                    "-a",
                    "--format",
                    "table {{.Names}}\t{{.Label \"tier\"}}",
                ],
                Has(&["NAMES", "a1", "web"]),
            ),
            fails(&["ps", "--filter", "bogus=1"], 1, &["invalid filter"]),
            fails(&["ps", "-a", "--format", "{{.Nope}}"], 1, &[]),
        ])
        .collect::<Vec<_>>()
        .as_slice(),
    );
}

#[test]
fn images() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(&[
        row(
            &["images", "--format", "{{.Repository}}:{{.Tag}}"],
            Text("busybox:latest"),
        ),
        row(&["images", "-q", "--no-trunc"], Same),
        row(&["tag", "busybox", "other/name:v1"], Text("")),
        row(
            &[
                "images",
                "--format",
                "{{.Repository}}:{{.Tag}}",
                "other/name",
            ],
            Text("other/name:v1"),
        ),
        row(
            &[
                "image",
                "inspect",
                "-f",
                "{{json .RepoTags}} {{.Os}} {{json .Config.Cmd}}",
                "other/name:v1",
            ],
            Same,
        ),
        row(&["rmi", "other/name:v1"], Text("Untagged: other/name:v1")),
        fails(
            &["rmi", "other/name:v1"],
            1,
            &["No such image: other/name:v1"],
        ),
        row(&["create", "--name", "user", "busybox"], Id),
        fails(&["rmi", "busybox"], 1, &["conflict", "user"]).with_any_name(),
        row(&["rm", "user"], Text("user")),
        fails(
            &["tag", "busybox", "Bad:Name"],
            1,
            &["invalid reference format"],
        ),
        fails(
            &["image", "inspect", "nothing"],
            1,
            &["No such image: nothing"],
        ),
        row(&["history", "--format", "{{.CreatedBy}}", "busybox"], Same),
    ]);
}

impl Row {
    /// Docker's message names the container by its short identifier.
    fn with_any_name(mut self) -> Self {
        self.stderr = &["conflict"];
        self
    }
}

#[test]
fn volumes() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(&[
        row(
            &[
                "run",
                "--rm",
                "-v",
                "data:/d",
                "busybox",
                "sh",
                "-c",
                "echo kept > /d/f",
            ],
            Text(""),
        ),
        row(
            &[
                "run",
                "--rm",
                "-v",
                "data:/d:ro",
                "busybox",
                "sh",
                "-c",
                "cat /d/f; touch /d/g 2>/dev/null || echo refused",
            ],
            Text("kept\nrefused"),
        ),
        row(
            &[
                "run",
                "--rm",
                "--mount",
                "type=volume,src=data,dst=/e",
                "busybox",
                "cat",
                "/e/f",
            ],
            Text("kept"),
        ),
        row(
            &["create", "--name", "holder", "-v", "data:/d", "busybox"],
            Id,
        ),
        row(
            &[
                "run",
                "--rm",
                "--volumes-from",
                "holder",
                "busybox",
                "cat",
                "/d/f",
            ],
            Text("kept"),
        ),
        fails(&["volume", "rm", "data"], 1, &["volume is in use"]),
        row(&["rm", "holder"], Text("holder")),
        row(&["volume", "ls", "-q"], Text("data")),
        row(
            &["volume", "inspect", "-f", "{{.Name}} {{.Driver}}", "data"],
            Text("data local"),
        ),
        row(&["volume", "rm", "data"], Text("data")),
        row(&["volume", "ls", "-q"], Text("")),
        fails(
            &[
                "run",
                "--rm",
                "--mount",
                "type=bind,src=/no/such/dir,dst=/x",
                "busybox",
                "true",
            ],
            125,
            &["/no/such/dir"],
        ),
        row(
            &[
                "run",
                "--rm",
                "-v",
                "/var/www",
                "busybox",
                "sh",
                "-c",
                "grep -c ' /var/www ' /proc/self/mountinfo",
            ],
            Text("1"),
        ),
    ]);
}
