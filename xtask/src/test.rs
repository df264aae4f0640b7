//! All tests, as CI and a new contributor run them.

mod report;

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result, ensure};
use xtask::packages;
use xtask::run::{announce, cargo};

use report::Report;

/// How many tests of a program run at a time.
const THREADS: &str = "RUST_TEST_THREADS";

/// As many failures may be the machine's: engines, registries and clients share few processors.
const RUN_AGAIN: usize = 3;

/// Installs, builds, tests. `filters` are handed to the test programs.
pub(crate) fn run(filters: &[&str]) -> Result<()> {
    packages::install()?;
    let mut tests = all_tests(filters);
    if env::var_os(THREADS).is_none() {
        // They wait for a third of their time.
        let processors = available_parallelism()?.get();
        tests.env(THREADS, (processors + processors.div_ceil(2)).to_string());
    }
    let mut report = execute(tests)?;
    if report.names_all() && report.failures().len() <= RUN_AGAIN {
        let names = report.failures().iter().map(|failure| &*failure.name);
        let names: Vec<_> = ["--exact"].into_iter().chain(names).collect();
        let mut again = all_tests(&names);
        again.env(THREADS, "1");
        report.run_again(&execute(again)?);
    }
    print!("\n{report}");
    ensure!(
        report.is_success() || !report.failures().is_empty(),
        "not everything could be built, or a test program died: see above"
    );
    ensure!(report.is_success(), "tests failed");
    Ok(())
}

/// Builds the executables, too, which the end-to-end tests drive.
fn all_tests(arguments: &[&str]) -> Command {
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast", "--"]);
    tests.args(arguments);
    tests
}

/// Runs the tests, shows what they print, and reads it.
fn execute(mut tests: Command) -> Result<Report> {
    let shown = announce(&tests);
    // One pipe keeps the order of what cargo and the tests print.
    let (reader, writer) = io::pipe()?;
    tests.stdout(writer.try_clone()?).stderr(writer);
    let mut child = tests
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    // The pipe ends when nobody can write to it.
    drop(tests);
    let mut report = Report::default();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        io::stdout().write_all(&line)?;
        report.read(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    let status = child.wait()?;
    report.end(status.success());
    Ok(report)
}
