//! The progress of a build as lines, as `docker buildx build --progress=plain` prints it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::told::{News, Step, Told, between, describe_part};

/// A step that says nothing for so long gives way to another that does.
const SILENCE: Duration = Duration::from_millis(500);

/// Lines of steps, one step at a time.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// The step that is shown, and when it last said something.
    current: Option<(usize, Instant)>,
    /// Lines of others, until their turn comes.
    waiting: VecDeque<usize>,
    kept: BTreeMap<usize, Kept>,
    begun: bool,
}

#[derive(Debug, Default)]
struct Kept {
    lines: String,
    /// Output that no line break ended yet.
    rest: String,
    ended: bool,
}

impl Plain {
    /// The text about what is new.
    pub(super) fn show(&mut self, told: &Told, news: Vec<News>, now: Instant) -> String {
        for news in news {
            let (index, ended) = self.keep(told, news);
            if let Some((current, heard)) = &mut self.current
                && *current == index
            {
                *heard = now;
            }
            let kept = self.kept.entry(index).or_default();
            kept.ended |= ended;
            if self.current.is_none_or(|(current, _)| current != index)
                && !self.waiting.contains(&index)
            {
                self.waiting.push_back(index);
            }
        }
        self.flush(told, now)
    }

    /// The text that is due by now.
    pub(super) fn flush(&mut self, told: &Told, now: Instant) -> String {
        let mut text = String::new();
        loop {
            if let Some((index, heard)) = self.current {
                let kept = self.kept.entry(index).or_default();
                text.push_str(&std::mem::take(&mut kept.lines));
                let silent = now.duration_since(heard) >= SILENCE;
                if kept.ended {
                    self.current = None;
                    self.kept.remove(&index);
                } else if silent && !self.waiting.is_empty() {
                    text.push_str(&format!("#{} ...\n", told.steps[index].number));
                    self.current = None;
                } else {
                    return text;
                }
                continue;
            }
            let Some(next) = self.waiting.pop_front() else {
                return text;
            };
            if std::mem::replace(&mut self.begun, true) {
                text.push('\n');
            }
            let Step { number, name, .. } = &told.steps[next];
            text.push_str(&format!("#{number} {name}\n"));
            self.current = Some((next, now));
        }
    }

    /// All that is left.
    pub(super) fn finish(&mut self, told: &Told, now: Instant) -> String {
        for kept in self.kept.values_mut() {
            kept.ended = true;
        }
        self.flush(told, now)
    }

    fn keep(&mut self, told: &Told, news: News) -> (usize, bool) {
        match news {
            News::Began(index) | News::Cached(index) => (index, false),
            News::Part(index, part) => {
                let number = told.steps[index].number;
                let kept = self.kept.entry(index).or_default();
                let line = format!("#{number} {}\n", describe_part(&part));
                kept.lines.push_str(&line);
                (index, false)
            }
            News::Output(index, at, bytes) => {
                let step = &told.steps[index];
                let start = step.started.as_ref().zip(at.as_ref());
                let seconds = start.map_or(0.0, |(start, at)| between(start, at));
                let mut time = format!("{seconds:.4}");
                time.truncate(5);
                let kept = self.kept.entry(index).or_default();
                kept.rest.push_str(&String::from_utf8_lossy(&bytes));
                while let Some(end) = kept.rest.find('\n') {
                    let line: String = kept.rest.drain(..=end).collect();
                    let line = line.trim_end_matches(['\n', '\r']);
                    kept.lines
                        .push_str(&format!("#{} {time} {line}\n", step.number));
                }
                (index, false)
            }
            News::Ended(index) => {
                let step = &told.steps[index];
                let number = step.number;
                let kept = self.kept.entry(index).or_default();
                if !kept.rest.is_empty() {
                    let rest = std::mem::take(&mut kept.rest);
                    let seconds = step.seconds(&super::told::now());
                    let mut time = format!("{seconds:.4}");
                    time.truncate(5);
                    kept.lines.push_str(&format!("#{number} {time} {rest}\n"));
                }
                let end = match (step.error.as_str(), step.cached) {
                    ("context canceled", _) => "CANCELED".to_owned(),
                    ("", true) => "CACHED".to_owned(),
                    ("", false) => {
                        format!("DONE {:.1}s", step.seconds(&super::told::now()))
                    }
                    (error, _) => format!("ERROR: {error}"),
                };
                kept.lines.push_str(&format!("#{number} {end}\n"));
                (index, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;
    use sampan_buildkit::control::{StatusResponse, Vertex, VertexLog, VertexStatus};

    use super::*;

    fn time(milliseconds: i32) -> Option<Timestamp> {
        Some(Timestamp {
            seconds: 7,
            nanos: milliseconds * 1_000_000,
        })
    }

    fn vertex(name: &str, completed: Option<i32>) -> StatusResponse {
        let vertex = Vertex {
            digest: name.to_owned(),
            name: name.to_owned(),
            started: time(0),
            completed: completed.and_then(time),
            ..Vertex::default()
        };
        StatusResponse {
            vertexes: vec![vertex],
            ..StatusResponse::default()
        }
    }

    fn log(name: &str, text: &str) -> StatusResponse {
        let log = VertexLog {
            vertex: name.to_owned(),
            timestamp: time(250),
            msg: text.as_bytes().to_vec(),
            ..VertexLog::default()
        };
        StatusResponse {
            logs: vec![log],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn steps_are_shown_one_at_a_time() {
        let (mut told, mut plain, now) = (Told::default(), Plain::default(), Instant::now());
        let mut text = String::new();
        let part = VertexStatus {
            id: "transferring dockerfile: 80B".to_owned(),
            vertex: "[1/2] FROM x".to_owned(),
            current: 80,
            started: time(0),
            completed: time(0),
            ..VertexStatus::default()
        };
        let part = StatusResponse {
            statuses: vec![part],
            ..StatusResponse::default()
        };
        for message in [
            vertex("[1/2] FROM x", None),
            vertex("[2/2] RUN y", None),
            log("[2/2] RUN y", "half"),
            part,
            log("[2/2] RUN y", " line\nrest"),
            vertex("[1/2] FROM x", Some(1500 % 1000)),
            vertex("[2/2] RUN y", Some(300)),
        ] {
            let news = told.hear(message);
            text.push_str(&plain.show(&told, news, now));
        }
        text.push_str(&plain.finish(&told, now));
        let expected = "#1 [1/2] FROM x\n#1 transferring dockerfile: 80B done\n#1 DONE 0.5s\n\n\
                        #2 [2/2] RUN y\n#2 0.250 half line\n#2 0.300 rest\n#2 DONE 0.3s\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_silent_step_gives_way() {
        let (mut told, mut plain, now) = (Told::default(), Plain::default(), Instant::now());
        let mut text = String::new();
        for (message, after) in [
            (vertex("a", None), Duration::ZERO),
            (vertex("b", None), SILENCE),
            (vertex("a", Some(1)), SILENCE),
            (vertex("b", Some(1)), SILENCE),
        ] {
            let news = told.hear(message);
            text.push_str(&plain.show(&told, news, now + after));
        }
        assert_eq!(
            text,
            "#1 a\n#1 ...\n\n#2 b\n#2 DONE 0.0s\n\n#1 a\n#1 DONE 0.0s\n"
        );
    }
}
