//! `sampan`: the command line, and with `sampan daemon` the engine.

mod cli;
mod daemon;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "daemon" => daemon::main(rest),
        _ => cli::main(&arguments),
    }
}
