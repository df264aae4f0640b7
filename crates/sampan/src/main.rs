//! `sampan`: the command line, and with `sampan daemon` the engine.

mod cli;
mod daemon;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(arguments) = runtime_arguments(std::env::args_os().collect()) {
        return sampan_oci_runtime::main("sampan runtime", arguments);
    }
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

/// What follows `sampan runtime`, if that is the command.
fn runtime_arguments(mut arguments: Vec<OsString>) -> Option<Vec<OsString>> {
    let is_runtime = arguments.get(1).is_some_and(|first| first == "runtime");
    is_runtime.then(|| arguments.split_off(2))
}
