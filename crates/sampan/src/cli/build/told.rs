//! What a build has told so far.

use std::collections::HashMap;

use prost_types::Timestamp;
use sampan_buildkit::control::{StatusResponse, VertexStatus, VertexWarning};

/// Bytes of a step's output that are kept to be shown when it fails.
const KEPT: usize = 64 << 10;

/// One step or other part of a build.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    /// From 1, in the order in which they began.
    pub(super) number: usize,
    pub(super) name: String,
    pub(super) started: Option<Timestamp>,
    pub(super) completed: Option<Timestamp>,
    pub(super) cached: bool,
    pub(super) error: String,
    /// Parts by their names, in order.
    pub(super) parts: Vec<VertexStatus>,
    /// The newest output.
    pub(super) output: Vec<u8>,
}

impl Step {
    /// How long it has taken, or took, in seconds.
    pub(super) fn seconds(&self, now: &Timestamp) -> f64 {
        let end = self.completed.as_ref().unwrap_or(now);
        self.started
            .as_ref()
            .map_or(0.0, |start| between(start, end))
    }
}

/// Seconds from one time to another.
pub(super) fn between(start: &Timestamp, end: &Timestamp) -> f64 {
    let whole = end.seconds.saturating_sub(start.seconds) as f64;
    (whole + f64::from(end.nanos.saturating_sub(start.nanos)) / 1e9).max(0.0)
}

pub(super) fn now() -> Timestamp {
    let now = jiff::Timestamp::now();
    Timestamp {
        seconds: now.as_second(),
        nanos: now.subsec_nanosecond(),
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// In the order in which they began.
    pub(super) steps: Vec<Step>,
    by_digest: HashMap<String, usize>,
    pub(super) warnings: Vec<VertexWarning>,
}

/// What is new, by the step's index.
#[derive(Debug)]
pub(super) enum News {
    Began(usize),
    Part(usize, VertexStatus),
    Output(usize, Option<Timestamp>, Vec<u8>),
    Cached(usize),
    Ended(usize),
}

impl Told {
    /// Takes a message; answers what is new, in order.
    pub(super) fn hear(&mut self, message: StatusResponse) -> Vec<News> {
        let mut news = Vec::new();
        for vertex in message.vertexes {
            let index = match self.by_digest.get(&vertex.digest) {
                Some(index) => *index,
                None if vertex.started.is_none() => continue,
                None => {
                    let index = self.steps.len();
                    self.by_digest.insert(vertex.digest, index);
                    self.steps.push(Step {
                        number: index + 1,
                        name: vertex.name,
                        started: vertex.started,
                        ..Step::default()
                    });
                    news.push(News::Began(index));
                    index
                }
            };
            let step = &mut self.steps[index];
            if vertex.cached && !step.cached {
                step.cached = true;
                news.push(News::Cached(index));
            }
            if vertex.completed.is_some() && step.completed.is_none() {
                step.completed = vertex.completed;
                step.error = vertex.error;
                news.push(News::Ended(index));
            }
        }
        for status in message.statuses {
            let Some(&index) = self.by_digest.get(&status.vertex) else {
                continue;
            };
            let parts = &mut self.steps[index].parts;
            match parts.iter_mut().find(|part| part.id == status.id) {
                Some(part) => {
                    let started = part.started;
                    part.clone_from(&status);
                    part.started = started.or(status.started);
                    news.push(News::Part(index, part.clone()));
                }
                None => {
                    parts.push(status.clone());
                    news.push(News::Part(index, status));
                }
            }
        }
        for log in message.logs {
            let Some(&index) = self.by_digest.get(&log.vertex) else {
                continue;
            };
            let output = &mut self.steps[index].output;
            output.extend_from_slice(&log.msg);
            if output.len() > 2 * KEPT {
                output.drain(..output.len() - KEPT);
            }
            news.push(News::Output(index, log.timestamp, log.msg));
        }
        self.warnings.extend(message.warnings);
        news
    }

    /// The step that failed, if one did by itself.
    pub(super) fn failed(&self) -> Option<&Step> {
        let failed = self.steps.iter().filter(|step| !step.error.is_empty());
        let mut own = failed.filter(|step| step.error != "context canceled");
        own.next()
    }

    /// The warnings as lines; nothing when there are none.
    pub(super) fn warnings(&self) -> String {
        let count = match self.warnings.len() {
            0 => return String::new(),
            1 => "1 warning".to_owned(),
            count => format!("{count} warnings"),
        };
        let mut text = format!("\n {count} found:\n");
        for warning in &self.warnings {
            let line = warning.ranges.first().and_then(|range| range.start);
            let line = line.map_or(String::new(), |start| format!(" (line {})", start.line));
            let short = String::from_utf8_lossy(&warning.short);
            text.push_str(&format!(" - {}{line}\n", short.trim_end()));
        }
        text
    }
}

/// A part of a step on one line: how far it is, how long it took.
pub(super) fn describe_part(part: &VertexStatus) -> String {
    let mut text = part.id.clone();
    if part.total > 0 {
        text.push_str(&format!(" {} / {}", bytes(part.current), bytes(part.total)));
    } else if part.current > 0 && !part.id.contains(": ") {
        text.push_str(&format!(" {}", bytes(part.current)));
    }
    if let (Some(start), Some(end)) = (&part.started, &part.completed) {
        let seconds = between(start, end);
        if seconds > 0.01 {
            text.push_str(&format!(" {seconds:.1}s"));
        }
        text.push_str(" done");
    }
    text
}

fn bytes(number: i64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut amount = number as f64;
    let mut unit = "B";
    for next in UNITS {
        if amount < 1000.0 {
            break;
        }
        amount /= 1000.0;
        unit = next;
    }
    match unit {
        "B" => format!("{number}B"),
        unit => format!("{amount:.2}{unit}"),
    }
}
