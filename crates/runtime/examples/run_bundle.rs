//! `run_bundle --bundle DIR [--repeat N] ID`: creates, starts, awaits and
//! deletes the container of an OCI bundle, as `crun run` does, for comparison
//! with other runtimes. With `--repeat` it does so N times and prints the
//! median and fastest time of one round.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sampan_cgroups::Hierarchies;
use sampan_oci::runtime::Spec;
use sampan_runtime::{Bundle, Root, Stdio, create, seccomp};
use sampan_text::with_causes;

struct Arguments {
    bundle: PathBuf,
    id: String,
    repeat: usize,
}

fn main() -> ExitCode {
    let result = arguments().and_then(|arguments| run(&arguments));
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Err(message) => {
            eprintln!("run_bundle: {message}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, String> {
    let usage = "usage: run_bundle --bundle DIR [--repeat N] ID";
    let mut parsed = Arguments {
        bundle: PathBuf::from("."),
        id: String::new(),
        repeat: 1,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bundle" => parsed.bundle = words.next().ok_or(usage)?.into(),
            "--repeat" => {
                let number = words.next().ok_or(usage)?;
                parsed.repeat = number.parse().map_err(|_| usage)?;
            }
            _ => parsed.id = word,
        }
    }
    if parsed.id.is_empty() {
        return Err(usage.to_owned());
    }
    Ok(parsed)
}

fn run(arguments: &Arguments) -> Result<i32, String> {
    if arguments.repeat == 1 {
        return once(arguments);
    }
    let mut times = Vec::new();
    let mut code = 0;
    for _ in 0..arguments.repeat {
        let begin = Instant::now();
        code = once(arguments)?;
        times.push(begin.elapsed());
    }
    times.sort();
    let in_milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "median {:.3} ms, p10 {:.3} ms, fastest {:.3} ms of {}",
        in_milliseconds(times[times.len() / 2]),
        in_milliseconds(times[times.len() / 10]),
        in_milliseconds(times[0]),
        times.len()
    );
    Ok(code)
}

fn once(arguments: &Arguments) -> Result<i32, String> {
    let directory = std::fs::canonicalize(&arguments.bundle)
        .map_err(|error| format!("cannot open {}: {error}", arguments.bundle.display()))?;
    let text = std::fs::read(directory.join("config.json"))
        .map_err(|error| format!("cannot read config.json: {error}"))?;
    let spec: Spec = serde_json::from_slice(&text)
        .map_err(|error| format!("cannot parse config.json: {error}"))?;
    let root = spec.root.clone().unwrap_or_default();
    let filter = spec
        .linux
        .as_ref()
        .and_then(|linux| linux.seccomp.as_ref())
        .map(seccomp::compile)
        .transpose()
        .map_err(|error| error.to_string())?;
    let hierarchies = Hierarchies::detect().map_err(|error| with_causes(&error))?;
    let terminal = spec.process.as_ref().is_some_and(|p| p.terminal);
    let mut bundle = Bundle::new(spec, Root::Directory(root.path));
    bundle.directory = directory;
    bundle.seccomp = filter;
    let path = format!("sampan-bundle-{}", arguments.id);
    bundle.cgroup = Some(path.parse().map_err(|error| with_causes(&error))?);
    if terminal {
        bundle.stdio = Stdio::Terminal { size: None };
    }
    let container = create(&hierarchies, bundle).map_err(|error| with_causes(&error))?;
    let running = container.start().map_err(|error| with_causes(&error))?;
    let ending = running.wait().map_err(|error| with_causes(&error))?;
    running.delete().map_err(|error| with_causes(&error))?;
    Ok(ending.code())
}
