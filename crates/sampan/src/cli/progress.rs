//! Messages of pull, load and import as Docker prints them: bars that move on a terminal, plain
//! lines elsewhere.

use std::io::{self, IsTerminal, Write};

use sampan_api::client::JsonStream;
use sampan_api::types::message::{Message, Progress};

use super::failure::Failure;
use super::format::units;
use super::terminal;

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Nowhere; only errors count.
    Nowhere,
}

/// Prints all messages; an error message is the failure of the whole.
pub(crate) async fn print(stream: &mut JsonStream<Message>, to: To) -> Result<(), Failure> {
    let moving = match to {
        To::Stdout => terminal::stdout_is_terminal(),
        To::Stderr => io::stderr().is_terminal(),
        To::Nowhere => false,
    };
    let mut screen = Screen {
        moving,
        width: terminal::width(),
        lines: Vec::new(),
    };
    while let Some(message) = stream.next().await? {
        if let Some(error) = &message.error {
            return Err(Failure::message(error.message.clone()));
        }
        if !message.error_message.is_empty() {
            return Err(Failure::message(message.error_message));
        }
        let text = screen.show(&message);
        let written = match to {
            To::Stdout => write_all(&mut io::stdout().lock(), &text),
            To::Stderr => write_all(&mut io::stderr().lock(), &text),
            To::Nowhere => Ok(()),
        };
        // A pull goes on when nobody reads about it.
        let _ = written;
    }
    Ok(())
}

fn write_all(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The lines that are on the screen.
struct Screen {
    moving: bool,
    width: usize,
    /// Which part each line is about, from the top.
    lines: Vec<String>,
}

impl Screen {
    /// The text that shows a message.
    fn show(&mut self, message: &Message) -> String {
        let progress = message
            .progress
            .as_ref()
            .map(|progress| bar(progress, self.width))
            .filter(|text| !text.is_empty());
        if !message.stream.is_empty() {
            return message.stream.clone();
        }
        if let Some(aux) = &message.aux {
            return note(aux);
        }
        // A bar that does not move is no use.
        if !self.moving && progress.is_some() {
            return String::new();
        }
        let mut line = String::new();
        if !message.id.is_empty() {
            line.push_str(&message.id);
            line.push_str(": ");
        }
        line.push_str(&message.status);
        if let Some(progress) = &progress {
            line.push(' ');
            line.push_str(progress);
        }
        if !self.moving {
            return format!("{line}\n");
        }
        if message.progress.is_none() || message.id.is_empty() {
            self.lines.clear();
            return format!("{line}\n");
        }
        let up = match self.lines.iter().position(|id| *id == message.id) {
            Some(position) => self.lines.len() - position,
            None => {
                self.lines.push(message.id.clone());
                return format!("{line}\n");
            }
        };
        // Up to the line, clear it, write, and back down.
        format!("\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B")
    }
}

/// What a person should know of the news that are for programs.
fn note(aux: &serde_json::Value) -> String {
    if aux["manifestPushedInsteadOfIndex"] != true {
        return String::new();
    }
    let digest = |of: &str| aux[of]["digest"].as_str().unwrap_or_default().to_owned();
    format!(
        "note: not all of the multi-platform image is here; only the image of one platform was \
         pushed: {} -> {}\n",
        digest("originalIndex"),
        digest("selectedManifest"),
    )
}

/// The bar and the numbers behind it.
fn bar(progress: &Progress, width: usize) -> String {
    let (current, total) = (progress.current, progress.total);
    if current <= 0 && total <= 0 {
        return String::new();
    }
    let shown = |number: i64| match progress.units.as_str() {
        "" => units::size_precise(number),
        units => format!("{number} {units}"),
    };
    if total <= 0 {
        return if progress.units.is_empty() {
            format!("{:>8}", shown(current))
        } else {
            shown(current)
        };
    }
    let mut out = String::new();
    if width > 110 || width == 0 {
        let percent = usize::try_from(current.saturating_mul(100) / total)
            .unwrap_or(0)
            .min(100)
            / 2;
        out = format!(
            "[{}>{}] ",
            "=".repeat(percent),
            " ".repeat(50usize.saturating_sub(percent))
        );
    }
    if progress.hide_counts {
        return out;
    }
    let current_text = if progress.units.is_empty() {
        format!("{:>8}", shown(current))
    } else {
        current.to_string()
    };
    if current > total {
        return out + &format!("{:>8}", shown(current));
    }
    out + &format!("{current_text}/{}", shown(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(current: i64, total: i64) -> Progress {
        Progress {
            current,
            total,
            ..Progress::default()
        }
    }

    #[test]
    fn bars_show_how_far_it_is() {
        assert_eq!(bar(&progress(0, 0), 200), "");
        assert_eq!(bar(&progress(1, 0), 200), "      1B");
        assert_eq!(
            bar(&progress(50, 100), 200),
            format!("[{}>{}]      50B/100B", "=".repeat(25), " ".repeat(25))
        );
        assert_eq!(bar(&progress(1_234_567, 10_000_000), 80), " 1.235MB/10MB");
    }

    #[test]
    fn plain_output_has_no_bars() {
        let mut screen = Screen {
            moving: false,
            width: 200,
            lines: Vec::new(),
        };
        let layer = |status: &str, part: Progress| Message::progress("abc", status, part);
        assert_eq!(
            screen.show(&Message::status("latest: Pulling")),
            "latest: Pulling\n"
        );
        assert_eq!(
            screen.show(&layer("Pulling fs layer", Progress::default())),
            "abc: Pulling fs layer\n"
        );
        assert_eq!(screen.show(&layer("Downloading", progress(1, 2))), "");
    }

    #[test]
    fn lines_of_a_terminal_are_rewritten_in_place() {
        let mut screen = Screen {
            moving: true,
            width: 80,
            lines: Vec::new(),
        };
        let layer = |id: &str, status: &str| Message::progress(id, status, Progress::default());
        assert_eq!(screen.show(&layer("a", "Waiting")), "a: Waiting\n");
        assert_eq!(screen.show(&layer("b", "Waiting")), "b: Waiting\n");
        assert_eq!(
            screen.show(&layer("a", "Done")),
            "\x1b[2A\x1b[2K\ra: Done\r\x1b[2B"
        );
        assert_eq!(screen.show(&Message::status("Digest: x")), "Digest: x\n");
    }
}
