//! The terminal of the person: its size, and raw mode that never outlives the command.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use zeroize::Zeroizing;

const CONTROL_C: u8 = 3;
const CONTROL_D: u8 = 4;
const BACKSPACE: u8 = 8;
const CONTROL_U: u8 = 21;
const CONTROL_BACKSLASH: u8 = 28;
const DELETE: u8 = 127;

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

/// Asks for a line.
pub(crate) fn read_line(question: &str) -> io::Result<String> {
    ask(question)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks for a line that is not shown. Ctrl-C is an error, so that the terminal gets its settings
/// back before the command ends.
pub(crate) fn read_secret(question: &str) -> io::Result<Zeroizing<String>> {
    ask(question)?;
    let stdin = io::stdin();
    let before = termios::tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent
        .local_modes
        .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    BEFORE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .get_or_insert(before);
    termios::tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let line = read_silently(&mut stdin.lock());
    restore();
    println!();
    line
}

fn read_silently(input: &mut impl Read) -> io::Result<Zeroizing<String>> {
    let interrupted = || io::Error::new(io::ErrorKind::Interrupted, "interrupted");
    let mut line = Zeroizing::new(Vec::new());
    let mut byte = [0];
    while input.read(&mut byte)? == 1 {
        match byte[0] {
            b'\n' | b'\r' => break,
            CONTROL_C | CONTROL_BACKSLASH => return Err(interrupted()),
            CONTROL_D if line.is_empty() => break,
            CONTROL_U => line.clear(),
            BACKSPACE | DELETE => {
                // A character of UTF-8 goes whole.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            other => line.push(other),
        }
    }
    let text = std::str::from_utf8(&line)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn ask(question: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(question.as_bytes())?;
    stdout.flush()
}

/// Makes a panic restore the terminal before it prints.
pub(crate) fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_line_can_be_edited() {
        for (typed, line) in [
            (&b"secret\n"[..], "secret"),
            (b"secret", "secret"),
            (b"wrong\x15right\r", "right"),
            (b"\xc3\xa4\x7fb\x08c\n", "c"),
            (b"\x04", ""),
        ] {
            assert_eq!(*read_silently(&mut { typed }).unwrap(), line);
        }
        assert!(read_silently(&mut &b"sec\x03ret\n"[..]).is_err());
    }
}
