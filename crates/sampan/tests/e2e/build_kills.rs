//! The engine is killed at random moments of builds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use sampan_testing::{Ran, TestEngine, run, until};

use crate::buildkit::Builder;
use crate::kills::Random;

const ROUNDS: u64 = 12;
const FILES: usize = 500;
const SECRET: &str = "never-on-any-disk-4711";

const FILE: &str = "\
FROM busybox AS one
ARG ROUND
RUN --mount=type=cache,target=/c echo $ROUND > /one && touch /c/$ROUND && ls /c | wc -l
RUN --mount=type=secret,id=s,required md5sum < /run/secrets/s > /sum
FROM busybox AS two
ARG ROUND
RUN echo $ROUND > /two && chown 5:6 /two
COPY many /many/
RUN find /many -type f | wc -l > /count && rm /many/f7
FROM busybox
COPY --from=one /one /sum /
COPY --from=two /many /m
COPY --from=two /two /count /
RUN cat /one /count > /end
";

/// The steps of a build that were told as ended, and as done before.
#[derive(Debug, Default)]
struct Told {
    ended: BTreeSet<String>,
    cached: BTreeSet<String>,
}

impl Told {
    /// Reads `--progress plain`: `#7 [one 2/3] RUN …`, then `#7 DONE 0.1s` or `#7 CACHED`.
    fn read(text: &str) -> Self {
        let mut names = BTreeMap::new();
        let mut told = Self::default();
        for line in text.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            if rest.starts_with('[') && !rest.starts_with("[internal]") {
                names.insert(number, rest.to_owned());
            }
            let Some(name) = names.get(number) else {
                continue;
            };
            if rest == "CACHED" {
                told.cached.insert(name.clone());
            } else if rest.starts_with("DONE ") {
                told.ended.insert(name.clone());
            }
        }
        told
    }
}

fn arguments(round: u64, secret: &Path, directory: &Path) -> Vec<String> {
    [
        "build",
        "-t",
        "killed",
        "--build-arg",
        &format!("ROUND={round}"),
        "--secret",
        &format!("id=s,src={}", secret.display()),
        directory.to_str().unwrap(),
    ]
    .map(str::to_owned)
    .to_vec()
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap()
}

/// Every file of an image, but no times.
fn files(engine: &TestEngine) -> String {
    let look = "cd / && find . -xdev -path ./proc -prune -o -path ./sys -prune -o -path ./dev -prune \
                -o -exec stat -c '%n %f %u:%g' {} + | sort; \
                cat /one /sum /two /count /end; cat /m/f0; cat /m/f[1-9]* | md5sum";
    engine
        .sampan(&["run", "--rm", "killed", "sh", "-c", look])
        .ok()
}

/// All files of the engine's root but the journal of events and the notes on builds and uses.
fn root(engine: &TestEngine) -> BTreeSet<PathBuf> {
    let found = run("find", &[engine.root().to_str().unwrap(), "-type", "f"]).ok();
    let notes = [
        "/events/",
        "/build/history/",
        "/credential-keys/",
        "/use/last.json",
    ];
    found
        .lines()
        .filter(|line| !notes.iter().any(|note| line.contains(note)))
        .map(PathBuf::from)
        .collect()
}

fn nothing_is_half_made(engine: &TestEngine) {
    assert_eq!(engine.sampan(&["ps", "-aq"]).ok(), "");
    engine.ledger().assert_no_container();
    for path in root(engine) {
        let path = path.display().to_string();
        let half = ["/tmp-", "/.tmp-", ".partial", "/build/scratch/"];
        assert!(!half.iter().any(|name| path.contains(name)), "{path}");
    }
    let _ = engine.sampan(&["image", "verify", "--all"]).ok();
}

#[test]
fn a_build_goes_on_where_a_killed_engine_left_it() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let engine = &builder.engine;
    let names: Vec<(String, String)> = (0..FILES)
        .map(|n| (format!("many/f{n}"), format!("{n}\n")))
        .collect();
    let mut files_of_context: Vec<(&str, &str)> = names
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    files_of_context.push(("Dockerfile", FILE));
    let directory = builder.context("killed", &files_of_context);
    let secret = builder.directory("secrets").join("s");
    fs::write(&secret, SECRET).unwrap();
    let clean = root(engine);
    let build = |round: u64| -> Ran {
        let arguments = arguments(round, &secret, &directory);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        builder.docker(&arguments)
    };
    let began = Instant::now();
    let _ = build(0).ok();
    let mut longest = milliseconds(began);
    let undisturbed = files(engine);
    let mut random = Random::new();
    let mut disturbed = 0;
    for round in 1..=ROUNDS {
        let log = builder.directory("logs").join(round.to_string());
        let arguments = arguments(round, &secret, &directory);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        fs::write(directory.join("many/f0"), format!("{round}\n")).unwrap();
        let mut client = builder
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        // Once it has begun: a client that has said nothing asks the next engine.
        until("the build has begun", || {
            fs::metadata(&log).unwrap().len() > 0
        });
        let began = Instant::now();
        let moment = random.below(longest);
        while milliseconds(began) < moment {
            if client.try_wait().unwrap().is_some() {
                longest = milliseconds(began);
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        engine.kill();
        let finished = client.wait().unwrap().success();
        disturbed += u64::from(!finished);
        let before = Told::read(&fs::read_to_string(&log).unwrap());
        nothing_is_half_made(engine);
        let again = build(round);
        let after = Told::read(&again.stderr);
        for name in before.ended.union(&before.cached) {
            assert!(
                after.cached.contains(name) || name.contains("] FROM "),
                "round {round}, {name} is lost: {}",
                again.stderr
            );
        }
        let _ = again.ok();
        let expected = undisturbed.replace("\n0\n", &format!("\n{round}\n"));
        let seen = files(engine);
        assert_eq!(seen, expected, "round {round}");
    }
    assert!(disturbed > ROUNDS / 2, "{disturbed} builds were disturbed");
    nothing_is_half_made(engine);
    let found = run("grep", &["-rlaF", SECRET, engine.root().to_str().unwrap()]);
    assert_eq!(found.stdout, "", "the secret is on the disk");
    let _ = engine.sampan(&["rmi", "killed"]).ok();
    let _ = engine.sampan(&["builder", "prune", "-af"]).ok();
    let _ = engine.sampan(&["image", "prune", "-f"]).ok();
    let left: Vec<_> = root(engine).difference(&clean).cloned().collect();
    assert!(left.is_empty(), "{left:#?}");
}
