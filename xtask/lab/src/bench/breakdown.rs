//! Where the time of one `run --rm busybox true` goes, beside what the kernel alone takes.
//!
//! Command, engine and shim tell their steps with the time of day: the command by `--debug`, the
//! engine and the shim by the engine's log at its finest level. Without these nothing is noted.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use sampan_testing::TestEngine;

use super::release;

/// What asks for it.
pub(super) const FLAG: &str = "--breakdown";

const ROUNDS: usize = 40;

/// Microseconds since 1970.
type Moment = i64;

pub(super) fn run() -> Result<()> {
    let engine = super::engine("trace");
    let mut steps: BTreeMap<String, Vec<Moment>> = BTreeMap::new();
    // The first makes the bridge and mounts the layer.
    once(&engine)?;
    for _ in 0..ROUNDS {
        for (step, moment) in once(&engine)? {
            steps.entry(step).or_default().push(moment);
        }
    }
    let mut medians: Vec<(Moment, String)> = steps
        .into_iter()
        .filter(|(_, moments)| moments.len() == ROUNDS)
        .map(|(step, mut moments)| {
            moments.sort_unstable();
            (moments[ROUNDS / 2], step)
        })
        .collect();
    medians.sort();
    println!("run --rm busybox true, medians of {ROUNDS} in microseconds");
    println!("{:>8} {:>8}  step", "at", "after");
    let mut before = 0;
    for (at, step) in medians {
        println!("{at:>8} {:>8}  {step}", at - before);
        before = at;
    }
    println!("\nthe kernel alone, for the same");
    let status = Command::new(release("examples/kernel_floor")).status()?;
    ensure!(status.success(), "kernel_floor failed");
    Ok(())
}

/// Runs a container; when which step was done, counted from the start of the command.
fn once(engine: &TestEngine) -> Result<Vec<(String, Moment)>> {
    let logged = engine.log().len();
    let mut command = engine.command(&["--debug", "run", "--rm", "busybox", "true"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Timestamp::now().as_microsecond();
    let output = command.spawn()?.wait_with_output()?;
    let end = Timestamp::now().as_microsecond();
    ensure!(output.status.success(), "{output:?}");
    // What follows the answer.
    std::thread::sleep(Duration::from_millis(150));
    let mut steps = vec![("command: ended".to_owned(), end - start)];
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        if let Some((at, step)) = parse(line) {
            steps.push((format!("command: {step}"), at - start));
        }
    }
    let log = engine.log();
    for (at, step) in log[logged..].lines().filter_map(parse) {
        let step = match step.strip_prefix("shim: ") {
            Some(step) => format!("shim: {step}"),
            None => format!("engine: {step}"),
        };
        steps.push((step, at - start));
    }
    Ok(steps)
}

/// Takes a step out of a line of a log: `TIME LEVEL TARGET: STEP`, where the shim's steps have a
/// time of their own, `at="TIME"`, at the end.
fn parse(line: &str) -> Option<(Moment, String)> {
    let (time, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    let (_, rest) = rest.split_once(' ')?;
    let (target, step) = rest.split_once(": ")?;
    if target == "sampan_engine::step" {
        if let Some((step, at)) = step.split_once(" at=") {
            return Some((moment(at.trim_matches('"'))?, step.to_owned()));
        }
    } else if !target.starts_with("sampan::cli") {
        return None;
    }
    Some((moment(time)?, step.to_owned()))
}

fn moment(text: &str) -> Option<Moment> {
    Some(text.parse::<Timestamp>().ok()?.as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_in_logs() {
        let line = "2024-02-29T12:00:00.000002Z TRACE sampan_engine::step: shim: x y at=\"2024-02-29T12:00:00.000001234Z\"";
        assert_eq!(
            parse(line),
            Some((1_709_208_000_000_001, "shim: x y".into()))
        );
        let line = "2024-02-29T12:00:00.000002Z DEBUG sampan::cli::run: created";
        assert_eq!(parse(line), Some((1_709_208_000_000_002, "created".into())));
        assert_eq!(
            parse("2024-02-29T12:00:00.000002Z DEBUG sampan_server::edge: answered"),
            None
        );
    }
}
