//! The terminal of the person: its size, and raw mode that never outlives the command.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use rustix::termios::{self, OptionalActions, Termios};

/// The settings to go back to, while the terminal is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Columns of the terminal on standard output, 80 when there is none.
pub(crate) fn width() -> usize {
    size_of(io::stdout().as_fd()).map_or(80, |(_, columns)| usize::from(columns))
}

/// Rows and columns of the terminal, if standard output is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    size_of(io::stdout().as_fd())
}

fn size_of(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard output is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Makes the terminal on standard input raw, if it is one; [`restore`] undoes it.
pub(crate) fn make_raw() -> io::Result<()> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(());
    }
    let before = termios::tcgetattr(&stdin)?;
    let mut raw = before.clone();
    raw.make_raw();
    termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
    let mut saved = BEFORE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    saved.get_or_insert(before);
    Ok(())
}

/// Gives the terminal its settings back. Does nothing when it is not raw.
pub(crate) fn restore() {
    let mut saved = BEFORE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(before) = saved.take() {
        // There is nobody left to tell when the terminal has gone.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Makes a panic restore the terminal before it prints.
pub(crate) fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
    }));
}
