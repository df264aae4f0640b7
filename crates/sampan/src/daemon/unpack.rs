//! The process that unpacks a layer where the kernel cannot mount it as it is: this executable
//! again, shut in before it reads the first byte.

use std::ffi::OsString;
use std::process::ExitCode;

use sampan_layers::Worker;

/// The first argument of such a process.
pub(crate) const WORD: &str = "unpack-layer";

/// How the engine starts one. It is the same program even when another version was installed
/// meanwhile.
pub(super) fn worker() -> Worker {
    Worker::Program {
        path: "/proc/self/exe".into(),
        arguments: vec![WORD.into()],
    }
}

/// Unpacks the layer on standard input into the working directory.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    match sampan_layers::worker::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, which the engine makes the cause of its own error.
            eprintln!("{:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}
