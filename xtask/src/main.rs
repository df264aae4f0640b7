//! `cargo xtask`: everything a developer or CI runs, by one name each.

mod bench;
mod check;
mod layers;
mod packages;
mod run;
mod test;
mod vm;

use std::process::ExitCode;

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
    let result = match words.as_slice() {
        ["check"] => check::run(),
        ["test", "--vm", filters @ ..] => vm::test(filters),
        ["test", filters @ ..] => test::run(filters),
        ["bench", rest @ ..] => bench::run(rest),
        ["layers"] => layers::run(layers::Mode::Compare),
        ["layers", "--write"] => layers::run(layers::Mode::Write),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
