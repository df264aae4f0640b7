//! `--on-failure=shell`: a shell in the files of the step that failed.

use tonic::Status;

use crate::cli::command::{Call, Parsed};
use crate::cli::failure::Failure;
use crate::cli::session::Session;
use crate::cli::{run, terminal};

/// Where the engine tells which image has the files, in the metadata of why a build failed.
const IMAGE: &str = "sampan-failed-image";

/// That a shell is wanted, and can be had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shell(());

/// Reads `--on-failure`.
pub(super) fn wanted(parsed: &Parsed<'_>) -> Result<Option<Shell>, Failure> {
    match parsed.text("on-failure") {
        None => Ok(None),
        Some("shell") if terminal::stdin_is_terminal() && terminal::stdout_is_terminal() => {
            Ok(Some(Shell(())))
        }
        Some("shell") => Err(Failure::message(
            "--on-failure=shell needs a terminal on standard input and output",
        )),
        Some(other) => Err(Failure::message(format!(
            "--on-failure={other} is unknown: there is shell"
        ))),
    }
}

/// The image of what the failed step left, if a step failed that has files.
pub(super) fn image(status: &Status) -> Option<String> {
    let image = status.metadata().get(IMAGE)?;
    Some(image.to_str().ok()?.to_owned())
}

impl Shell {
    /// Opens the shell; takes the image away when it has ended. The build has failed either way.
    pub(super) fn open(self, session: &Session, image: &str, failed: &str) -> Result<u8, Failure> {
        eprintln!(
            "{failed}\n\nThis is a shell in the files of the step that failed; exit ends it."
        );
        let words = ["--rm", "-it", "--pull=never", image].map(str::to_owned);
        let opened = match run::COMMAND.parse("run", &words) {
            Ok(Call::Run(parsed)) => (run::COMMAND.run)(session, &parsed),
            Ok(Call::Help) => Ok(0),
            Err(failure) => Err(failure),
        };
        let client = session.client()?;
        let removed = session.wait(client.remove_image(image, true, false, &[]));
        opened?;
        removed?;
        Err(Failure::Silent(1))
    }
}
