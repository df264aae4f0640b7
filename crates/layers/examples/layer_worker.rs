//! The unpack worker by itself, for the tests of the directory driver.

#![allow(clippy::print_stderr)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match sampan_layers::worker::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", sampan_text::with_causes(&error));
            ExitCode::FAILURE
        }
    }
}
