//! `cargo xtask`: everything a developer or CI runs, by one name each.

mod check;
mod layers;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use xtask::run::{cargo, end, run};

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  check              format, lints, licences and the dependency picture
  test [FILTER…]     install what the tests need, build, run every test
  test --vm [FILTER…]
                     tests of what depends on the kernel, on an older one with control groups of
                     version 2 alone, in an emulated machine
  bench [NAME…]      runtime, registry, start, exec, burst, pull, push, save, load, delete, build,
                     memory: against runc, crun, docker-registry, podman, docker and buildah in the
                     same run
  bench start --breakdown
                     where the time of one run goes, step by step
  layers [--write]   compare the crates' dependencies with docs/layers.txt
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    end(match words.as_slice() {
        ["check"] => check::run(),
        ["test", "--vm", filters @ ..] => lab("vm", filters),
        ["test", filters @ ..] => test::run(filters),
        ["bench", rest @ ..] => lab("bench", rest),
        ["layers"] => layers::run(layers::Mode::Compare),
        ["layers", "--write"] => layers::run(layers::Mode::Write),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    })
}

/// What needs crates of the product is a program of its own.
fn lab(what: &str, arguments: &[&str]) -> Result<()> {
    let mut lab = cargo(&["run", "--quiet", "--package", "xtask-lab", "--", what]);
    lab.args(arguments);
    run(lab)
}
