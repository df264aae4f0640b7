//! The progress of a build on a terminal, in place.

use super::told::{Step, Told, describe_part, now};

/// Lines of output that are shown of a step that runs.
const OUTPUT: usize = 6;

/// The lines that are on the terminal.
#[derive(Debug, Default)]
pub(super) struct Screen {
    lines: usize,
}

impl Screen {
    /// The text that shows the build as it is now, in the place of what was shown before.
    pub(super) fn show(&mut self, told: &Told, size: (u16, u16), ended: bool) -> String {
        let (rows, columns) = (usize::from(size.0).max(4), usize::from(size.1).max(20));
        let mut lines = lines(told, ended, columns);
        // What does not fit cannot be rewritten: the newest is what counts until the end.
        if !ended && lines.len() >= rows {
            let first = lines.len() - (rows - 2);
            lines.drain(1..=first);
        }
        let mut text = String::new();
        if self.lines > 0 {
            text.push_str(&format!("\x1b[{}A\r", self.lines));
        }
        for line in &lines {
            text.push_str("\x1b[2K");
            text.push_str(line);
            text.push_str("\r\n");
        }
        // Lines of before that are not needed any more.
        text.push_str("\x1b[J");
        self.lines = lines.len();
        text
    }
}

fn lines(told: &Told, ended: bool, columns: usize) -> Vec<String> {
    let now = now();
    let first = told
        .steps
        .iter()
        .filter_map(|step| step.started)
        .min_by_key(order);
    let last = told
        .steps
        .iter()
        .filter_map(|step| step.completed)
        .max_by_key(order);
    let end = if ended { last } else { None };
    let whole = first.map_or(0.0, |first| {
        super::told::between(&first, &end.unwrap_or(now))
    });
    let done = told.steps.iter().filter(|step| step.completed.is_some());
    let state = if ended { " FINISHED" } else { "" };
    let mut lines = vec![format!(
        "[+] Building {whole:.1}s ({}/{}){state}",
        done.count(),
        told.steps.len()
    )];
    for step in &told.steps {
        let mark = match (step.error.as_str(), step.cached) {
            ("context canceled", _) => "CANCELED ",
            ("", true) => "CACHED ",
            ("", false) => "",
            _ => "ERROR ",
        };
        let text = format!(" => {mark}{}", step.name);
        let line = row(&text, step.seconds(&now), columns);
        lines.push(match (step.error.is_empty(), step.completed.is_some()) {
            (false, _) => format!("\x1b[31m{line}\x1b[0m"),
            (true, true) => format!("\x1b[34m{line}\x1b[0m"),
            (true, false) => line,
        });
        if step.completed.is_some() {
            continue;
        }
        for part in &step.parts {
            lines.push(clip(&format!(" => => {}", describe_part(part)), columns));
        }
        lines.extend(output(step, columns));
    }
    lines
}

fn order(time: &prost_types::Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

/// The last lines of what a step says.
fn output(step: &Step, columns: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(&step.output);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(OUTPUT));
    let shown = shown.map(|line| {
        clip(
            &format!(" => => # {}", line.rsplit('\r').next().unwrap_or("")),
            columns,
        )
    });
    shown.collect()
}

/// A text with a time at the right edge.
fn row(text: &str, seconds: f64, columns: usize) -> String {
    let time = format!(" {seconds:.1}s");
    let room = columns.saturating_sub(time.len() + 1);
    format!("{:<room$}{time}", clip(text, room))
}

/// As much as fits on a line, with nothing that a terminal could take for a command.
fn clip(text: &str, columns: usize) -> String {
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    text.take(columns.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use sampan_buildkit::control::{StatusResponse, Vertex};

    use super::*;

    #[test]
    fn what_was_shown_is_replaced() {
        let mut told = Told::default();
        let vertex = Vertex {
            digest: "x".to_owned(),
            name: "[1/1] RUN a\x1b[2Jb".to_owned(),
            started: Some(now()),
            ..Vertex::default()
        };
        let message = |vertex: &Vertex| StatusResponse {
            vertexes: vec![vertex.clone()],
            ..StatusResponse::default()
        };
        told.hear(message(&vertex));
        let mut screen = Screen::default();
        let first = screen.show(&told, (24, 80), false);
        assert!(first.starts_with("\x1b[2K[+] Building"), "{first:?}");
        assert!(first.contains("=> [1/1] RUN a [2Jb"), "{first:?}");
        let completed = vertex.started;
        told.hear(message(&Vertex {
            cached: true,
            completed,
            ..vertex
        }));
        let second = screen.show(&told, (24, 80), true);
        assert!(second.starts_with("\x1b[2A\r"), "{second:?}");
        assert!(second.contains("(1/1) FINISHED"), "{second:?}");
        assert!(second.contains("=> CACHED [1/1]"), "{second:?}");
    }
}
