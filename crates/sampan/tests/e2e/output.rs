//! What commands print, typed with `docker` and with `sampan` on the same engine: byte for byte the
//! same. The rows are in `output.tsv`, which says what they mean.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sampan_testing::{Fixture, Ran, TestEngine, until};

use crate::engine_with_busybox;
use crate::table::{normal, words};

const ROWS: &str = include_str!("output.tsv");

/// The client that the rows were written with: others word some things otherwise.
const DOCKER: &str = "28.";

/// So many rows, or groups, are played at a time.
const AT_ONCE: usize = 3;

/// What two answers may differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Differing {
    Nothing,
    /// Numbers, and how many blanks stand beside them.
    Numbers,
    /// Words of the error.
    Words,
    /// Everything but the exit code, and that something is said where the other one says something.
    Said,
    /// What is said of the client: all before the line that begins with `Server`. Lines without a
    /// value may be missing.
    Client,
    /// The order of lines.
    Order,
    /// Docker's client refuses it.
    Better,
}

#[derive(Clone, Copy)]
struct Row {
    /// Where it stands in the table.
    line: usize,
    group: &'static str,
    second: &'static str,
    command: &'static str,
}

impl Row {
    fn differing(&self) -> Differing {
        match self.second.trim_end_matches('*') {
            "" => Differing::Nothing,
            "numbers" => Differing::Numbers,
            "words" => Differing::Words,
            "said" => Differing::Said,
            "client" => Differing::Client,
            "order" => Differing::Order,
            "better" => Differing::Better,
            other => panic!("line {}: {other}", self.line),
        }
    }
}

fn rows() -> Vec<Row> {
    let lines = ROWS.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            let fields: Vec<&'static str> = line.splitn(3, '\t').collect();
            let [group, second, command] = fields[..] else {
                panic!("line {}: {line}", number + 1);
            };
            Row {
                line: number + 1,
                group,
                second,
                command,
            }
        })
        .collect()
}

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Docker,
    Sampan,
}

impl Client {
    /// What its names begin with, and are normalised from: no part of an identity.
    fn me(self) -> &'static str {
        match self {
            Self::Docker => "own-d-",
            Self::Sampan => "own-s-",
        }
    }
}

/// One engine, with containers in every state.
struct Scene {
    engine: TestEngine,
    /// What stands for `{name}` in rows.
    values: BTreeMap<String, String>,
}

impl Scene {
    fn set(rows: &[Row]) -> Self {
        let mut scene = Self {
            engine: engine_with_busybox(),
            values: BTreeMap::new(),
        };
        let first = free_ports();
        for number in 0..10 {
            let port = (first + number).to_string();
            scene.values.insert(format!("p{number}"), port);
        }
        scene.note_time("0");
        let directory = scene.directory("look");
        for row in rows {
            let play = || scene.typed(Client::Docker, row.command, &directory, "");
            match row.group {
                "scene" => {
                    let ran = play();
                    let code = row.second.parse().unwrap_or(0);
                    assert_eq!(ran.code, code, "line {}: {ran:?}", row.line);
                }
                "until" => until(row.command, || play().stdout.trim_end() == row.second),
                _ => {}
            }
        }
        scene.note_time("1");
        let listing = ["ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}"];
        for line in scene.engine.docker(&listing).ok().lines() {
            let (name, id) = line.split_once(' ').unwrap();
            scene.values.insert(format!("id:{name}"), id.to_owned());
            let short = id[..12].to_owned();
            scene.values.insert(format!("short:{name}"), short);
        }
        scene
    }

    /// Remembers the time, as a second in which nothing else of the scene happens.
    fn note_time(&mut self, name: &str) {
        thread::sleep(Duration::from_millis(1100));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let written = Command::new("date")
            .args(["--utc", "+%Y-%m-%dT%H:%M:%S", "--date"])
            .arg(format!("@{}", now.as_secs()))
            .output();
        let written = Ran::from(written.unwrap()).ok();
        self.values.insert(format!("r{name}"), written);
        let seconds = now.as_secs().to_string();
        self.values.insert(format!("t{name}"), seconds);
        thread::sleep(Duration::from_millis(1100));
    }

    /// A directory with something in it to copy and to read.
    fn directory(&self, name: &str) -> String {
        let directory = self.engine.scratch().join(name);
        prepare(&directory);
        directory.to_str().unwrap().to_owned()
    }

    /// Types a row's command. What belongs to the client is put back as it stands in the row.
    fn typed(&self, client: Client, command: &str, directory: &str, me: &str) -> Ran {
        let (line, input) = match command.split_once(" <<<") {
            Some((line, input)) => (line, Some(format!("{}\n", input.trim_start()))),
            None => (command, None),
        };
        let typed = words(&self.filled(line, directory, me));
        let is_setting = |word: &&String| {
            let name = word.split('=').next().unwrap_or_default();
            word.contains('=') && name.bytes().all(|b| b.is_ascii_uppercase())
        };
        let settings = typed.iter().take_while(is_setting).count();
        let arguments: Vec<&str> = typed[settings..].iter().map(String::as_str).collect();
        let mut program = match client {
            Client::Docker => self.engine.docker_command(&arguments),
            Client::Sampan => self.engine.command(&arguments),
        };
        for setting in &typed[..settings] {
            let (name, value) = setting.split_once('=').unwrap();
            program.env(name, value);
        }
        let ran: Ran = match input {
            None => program.output().unwrap().into(),
            Some(input) => fed(program, &input),
        };
        let own = |text: &str| {
            let text = text.replace(directory, "{dir}");
            if me.is_empty() {
                text
            } else {
                normal(&text.replace(me, "{me}"))
            }
        };
        Ran {
            code: ran.code,
            stdout: own(&ran.stdout),
            stderr: own(&ran.stderr),
        }
    }

    /// A command with everything in braces put in.
    fn filled(&self, command: &str, directory: &str, me: &str) -> String {
        let mut filled = command.replace("{dir}", directory).replace("{me}", me);
        for (name, value) in &self.values {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        filled
    }

    /// Types a row that only looks with both clients. What moves on meanwhile, such as an age, has
    /// been so with Docker's client before or is so after.
    fn look(&self, row: &Row, directory: &str) -> Option<String> {
        let ask = |client| self.typed(client, row.command, directory, "");
        let mut found = None;
        for _ in 0..3 {
            let (before, sampan) = (ask(Client::Docker), ask(Client::Sampan));
            found = difference(row, &before, &sampan);
            found.as_ref()?;
            let after = ask(Client::Docker);
            if moved_on(&before, &sampan, &after) {
                return None;
            }
        }
        found
    }

    /// Types a row that may leave something behind, with both clients.
    fn each(&self, row: &Row, directory: &str) -> Option<String> {
        let ask = |client: Client| self.typed(client, row.command, directory, client.me());
        difference(row, &ask(Client::Docker), &ask(Client::Sampan))
    }

    /// Plays a group, each client for itself and both at the same time.
    fn group(&self, name: &str, rows: &[Row]) -> Vec<String> {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.group == name).collect();
        let by = |client| self.play(client, name, &rows);
        let (sampan, docker) = thread::scope(|scope| {
            let docker = scope.spawn(|| by(Client::Docker));
            (by(Client::Sampan), docker.join().unwrap())
        });
        differences(&rows, &sampan, &docker)
    }

    /// Plays the rows that need the engine for themselves, one client after the other.
    fn last(&self, rows: &[Row]) -> Vec<String> {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.group == "last").collect();
        let by = |client| {
            self.engine.remove_all();
            for prune in [&["system", "prune", "-af"][..], &["volume", "prune", "-af"]] {
                let _ = self.engine.sampan(prune).ok();
            }
            self.engine.load(Fixture::Busybox);
            self.play(client, "last", &rows)
        };
        let (docker, sampan) = (by(Client::Docker), by(Client::Sampan));
        differences(&rows, &sampan, &docker)
    }

    fn play(&self, client: Client, name: &str, rows: &[&Row]) -> Vec<Ran> {
        let me = client.me();
        let directory = self.directory(&format!("{name}-{me}"));
        let rows = rows.iter();
        rows.map(|row| self.typed(client, row.command, &directory, me))
            .collect()
    }
}

fn differences(rows: &[&Row], sampan: &[Ran], docker: &[Ran]) -> Vec<String> {
    let pairs = rows.iter().zip(docker.iter().zip(sampan));
    pairs
        .filter_map(|(row, (docker, sampan))| difference(row, docker, sampan))
        .collect()
}

/// What two answers differ in and may not.
fn difference(row: &Row, docker: &Ran, sampan: &Ran) -> Option<String> {
    let stdout_as = |shown: &dyn Fn(&str) -> String| {
        shown(&docker.stdout) == shown(&sampan.stdout)
            && without_hints(&docker.stderr) == without_hints(&sampan.stderr)
    };
    let same = match row.differing() {
        Differing::Better => docker.code != 0 && sampan.code == 0,
        _ if docker.code != sampan.code => false,
        Differing::Said => docker.stdout.is_empty() == sampan.stdout.is_empty(),
        Differing::Words => {
            called_alike(&docker.stdout) == called_alike(&sampan.stdout)
                && docker.stderr.is_empty() == sampan.stderr.is_empty()
        }
        Differing::Numbers => stdout_as(&without_numbers),
        Differing::Client => stdout_as(&of_the_server),
        Differing::Order => stdout_as(&sorted),
        Differing::Nothing => stdout_as(&called_alike),
    };
    (!same).then(|| {
        format!(
            "line {}: {}\nexit codes: docker {}, sampan {}\n{}{}",
            row.line,
            row.command,
            docker.code,
            sampan.code,
            lines_of_one("stdout", &docker.stdout, &sampan.stdout),
            lines_of_one("stderr", &docker.stderr, &sampan.stderr),
        )
    })
}

/// The lines that only one of two texts has.
fn lines_of_one(stream: &str, docker: &str, sampan: &str) -> String {
    let (docker, sampan) = (called_alike(docker), called_alike(sampan));
    let only = |who: &str, has: &str, lacks: &str| -> String {
        let others: Vec<&str> = lacks.lines().collect();
        let own = has.lines().filter(|line| !others.contains(line));
        own.map(|line| format!("{who} {stream}: {line}\n"))
            .collect()
    };
    only("docker", &docker, &sampan) + &only("sampan", &sampan, &docker)
}

/// Whether each line is as it was before, or as it is after.
fn moved_on(before: &Ran, between: &Ran, after: &Ran) -> bool {
    let lines = |ran: &Ran| -> Vec<String> {
        let text = called_alike(&ran.stdout);
        // A column may have become wider, too.
        let words = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect()
    };
    let (first, second, third) = (lines(before), lines(between), lines(after));
    let alike = |line: usize| second[line] == first[line] || second[line] == third[line];
    before.code == between.code
        && without_hints(&before.stderr) == without_hints(&between.stderr)
        && first.len() == second.len()
        && second.len() == third.len()
        && (0..second.len()).all(alike)
}

/// With one name for both programs.
fn called_alike(text: &str) -> String {
    text.replace("docker", "sampan").replace("Docker", "Sampan")
}

/// An error without our hints.
fn without_hints(stderr: &str) -> String {
    let lines = stderr.lines().filter(|line| !line.starts_with("hint: "));
    called_alike(&lines.collect::<Vec<_>>().join("\n"))
}

fn of_the_server(text: &str) -> String {
    let (_, server) = text.split_once("\nServer").unwrap_or(("", text));
    let lines = server
        .lines()
        .filter(|line| !line.trim_end().ends_with(':'));
    lines.collect::<Vec<_>>().join("\n")
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    called_alike(&lines.join("\n"))
}

/// With one sign for each number, and one blank where several are.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = match c {
            '0'..='9' | '.' => '#',
            other => other,
        };
        if !(matches!(c, '#' | ' ') && out.ends_with(c)) {
            out.push(c);
        }
    }
    out
}

fn is_client_of_the_rows() -> bool {
    let asked = Command::new("docker").arg("--version").output().unwrap();
    String::from_utf8_lossy(&asked.stdout).starts_with(&format!("Docker version {DOCKER}"))
}

/// Ten ports in a row that nobody listens on.
fn free_ports() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("0.0.0.0", port)).is_ok();
    let mut firsts = (0..500).map(|step| 23_000 + step * 10);
    firsts
        .find(|first| (*first..*first + 10).all(is_free))
        .expect("some of these ports are free")
}

/// Fills a directory.
fn prepare(directory: &Path) {
    fs::create_dir_all(directory.join("tree/sub")).unwrap();
    fs::create_dir(directory.join("config")).unwrap();
    let settings = r#"{"psFormat":"table {{.Names}}\\t{{.Image}}","statsFormat":"{{.Name}}"}"#;
    for (name, content) in [
        ("file", "content\n"),
        ("tree/a", "a\n"),
        ("tree/sub/b", "b\n"),
        ("bad-env", "A B=1\n"),
        ("bad-labels", "A B=1\n"),
        ("config/config.json", settings),
    ] {
        fs::write(directory.join(name), content).unwrap();
    }
    symlink("file", directory.join("link")).unwrap();
    symlink("nonesuch", directory.join("broken")).unwrap();
}

/// Runs a program with something on its standard input.
fn fed(mut program: Command, input: &str) -> Ran {
    use std::io::Write as _;
    program.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = program.stderr(Stdio::piped()).spawn().unwrap();
    // One that does not read it may be gone.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// Does something with each of several things, some at a time; gives what it has to say.
fn each_of<T: Sync>(things: &[T], action: impl Fn(&T) -> Vec<String> + Sync) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let said = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(thing) = things.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let new = action(thing);
                    said.lock().unwrap().extend(new);
                }
            });
        }
    });
    said.into_inner().unwrap()
}

#[test]
fn both_clients_print_the_same() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let rows = rows();
    if !is_client_of_the_rows() {
        eprintln!("SKIP: docker's client is not of version {DOCKER}x, which the table is for");
        return;
    }
    let scene = Scene::set(&rows);
    let of = |group: &str| -> Vec<Row> {
        let rows = rows.iter().filter(|row| row.group == group);
        rows.copied().collect()
    };
    let directory = scene.engine.scratch().join("look");
    let directory = directory.to_str().unwrap();
    let mut differing = each_of(&of("look"), |row| {
        scene.look(row, directory).into_iter().collect()
    });
    differing.extend(each_of(&of("each"), |row| {
        scene.each(row, directory).into_iter().collect()
    }));
    let mut groups: Vec<&str> = rows.iter().map(|row| row.group).collect();
    groups.dedup();
    groups.retain(|group| !["scene", "until", "look", "each", "last"].contains(group));
    differing.extend(each_of(&groups, |group| scene.group(group, &rows)));
    differing.extend(scene.last(&rows));
    assert!(
        differing.is_empty(),
        "{} rows differ:\n{}",
        differing.len(),
        differing.join("\n\n")
    );
}
