//! `sampan`: the command line, and with `sampan daemon` the engine.

mod cli;
mod daemon;

use std::process::ExitCode;

fn main() -> ExitCode {
    // JSON has no place for other bytes, so that they are replaced now rather than later.
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "daemon" => daemon::main(rest),
        Some((first, rest)) if first == daemon::UNPACK => daemon::unpack(rest),
        _ => cli::main(&arguments),
    }
}
