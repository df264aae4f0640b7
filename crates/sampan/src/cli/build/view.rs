//! Where what a build tells goes.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use base64::Engine as _;
use prost_types::Timestamp;
use sampan_buildkit::control::StatusResponse;
use serde_json::{Map, Value, json};
use tonic::Streaming;

use super::plain::Plain;
use super::screen::Screen;
use super::told::{News, Told};
use crate::cli::failure::Failure;
use crate::cli::session::variable;

/// How often a terminal is brought up to date, at most.
const TICK: Duration = Duration::from_millis(100);

/// A build as the person sees it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) told: Told,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Nothing,
    Lines(Plain),
    Terminal(Screen),
    Json,
}

impl View {
    /// Reads `--progress`.
    pub(super) fn choose(progress: &str, quiet: bool) -> Result<Self, Failure> {
        let usual = match progress {
            "auto" | "" => variable("BUILDKIT_PROGRESS"),
            _ => None,
        };
        let progress = usual.as_deref().unwrap_or(progress);
        if quiet && !matches!(progress, "auto" | "" | "quiet") {
            return Err(Failure::message(format!(
                "progress={progress} and quiet cannot be used together"
            )));
        }
        let on_terminal = io::stderr().is_terminal();
        let kind = match progress {
            _ if quiet => Kind::Nothing,
            "quiet" => Kind::Nothing,
            "auto" | "" if on_terminal => Kind::Terminal(Screen::default()),
            "auto" | "" | "plain" => Kind::Lines(Plain::default()),
            "tty" if on_terminal => Kind::Terminal(Screen::default()),
            "tty" => {
                return Err(Failure::message(
                    "--progress=tty needs a terminal on standard error",
                ));
            }
            "rawjson" => Kind::Json,
            other => {
                return Err(Failure::message(format!(
                    "invalid progress mode {other}: there are auto, plain, tty, quiet and rawjson"
                )));
            }
        };
        Ok(Self {
            told: Told::default(),
            kind,
        })
    }

    /// A build as lines, which has ended.
    pub(super) fn lines() -> Self {
        Self {
            told: Told::default(),
            kind: Kind::Lines(Plain::default()),
        }
    }

    /// Shows what comes until nothing does.
    pub(super) async fn follow(&mut self, mut messages: Streaming<StatusResponse>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = messages.message() => match message {
                    Ok(Some(message)) => self.hear(message),
                    // Why it broke off is told by the build itself.
                    Ok(None) | Err(_) => return,
                },
                _ = tick.tick() => self.refresh(),
            }
        }
    }

    fn hear(&mut self, message: StatusResponse) {
        let json = match self.kind {
            Kind::Json => Some(to_json(&message)),
            _ => None,
        };
        let news = self.told.hear(message);
        match &mut self.kind {
            Kind::Nothing | Kind::Terminal(_) => {}
            Kind::Lines(plain) => write(&plain.show(&self.told, news, Instant::now())),
            Kind::Json => write(&format!("{}\n", json.unwrap_or_default())),
        }
    }

    fn refresh(&mut self) {
        match &mut self.kind {
            Kind::Nothing | Kind::Json => {}
            Kind::Lines(plain) => write(&plain.flush(&self.told, Instant::now())),
            Kind::Terminal(_) if self.told.steps.is_empty() => {}
            Kind::Terminal(screen) => write(&screen.show(&self.told, size(), false)),
        }
    }

    /// Shows how it ended.
    pub(super) fn finish(&mut self) {
        let mut text = match &mut self.kind {
            Kind::Nothing | Kind::Json => return,
            Kind::Lines(plain) => plain.finish(&self.told, Instant::now()),
            Kind::Terminal(_) if self.told.steps.is_empty() => String::new(),
            Kind::Terminal(screen) => screen.show(&self.told, size(), true),
        };
        text.push_str(&self.told.warnings());
        write(&text);
    }

    /// The news of a build that has ended, as text.
    pub(super) fn replay(&mut self, messages: Vec<StatusResponse>) -> String {
        let Kind::Lines(plain) = &mut self.kind else {
            return String::new();
        };
        let mut text = String::new();
        let now = Instant::now();
        for message in messages {
            let news: Vec<News> = self.told.hear(message);
            text.push_str(&plain.show(&self.told, news, now));
        }
        text + &plain.finish(&self.told, now) + &self.told.warnings()
    }
}

fn size() -> (u16, u16) {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

fn write(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut out = io::stderr().lock();
    // A build goes on when nobody reads about it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A message as `docker buildx build --progress=rawjson` prints it.
fn to_json(message: &StatusResponse) -> Value {
    let object = |fields: Vec<(&str, Value)>| {
        let empty = |value: &Value| {
            value.is_null() || *value == json!("") || *value == json!(false) || *value == json!([])
        };
        let fields = fields.into_iter().filter(|(_, value)| !empty(value));
        Value::Object(
            fields
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<Map<_, _>>(),
        )
    };
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let vertices = message.vertexes.iter().map(|vertex| {
        object(vec![
            ("digest", json!(vertex.digest)),
            ("inputs", json!(vertex.inputs)),
            ("name", json!(vertex.name)),
            ("started", time(vertex.started)),
            ("completed", time(vertex.completed)),
            ("cached", json!(vertex.cached)),
            ("error", json!(vertex.error)),
        ])
    });
    let statuses = message.statuses.iter().map(|status| {
        object(vec![
            ("id", json!(status.id)),
            ("vertex", json!(status.vertex)),
            ("name", json!(status.name)),
            ("total", json!(status.total)),
            ("current", json!(status.current)),
            ("timestamp", time(status.timestamp)),
            ("started", time(status.started)),
            ("completed", time(status.completed)),
        ])
    });
    let logs = message.logs.iter().map(|log| {
        object(vec![
            ("vertex", json!(log.vertex)),
            ("stream", json!(log.stream)),
            ("data", json!(encode(&log.msg))),
            ("timestamp", time(log.timestamp)),
        ])
    });
    let warnings = message.warnings.iter().map(|warning| {
        object(vec![
            ("vertex", json!(warning.vertex)),
            ("level", json!(warning.level)),
            ("short", json!(encode(&warning.short))),
            ("url", json!(warning.url)),
        ])
    });
    object(vec![
        ("vertexes", Value::Array(vertices.collect())),
        ("statuses", Value::Array(statuses.collect())),
        ("logs", Value::Array(logs.collect())),
        ("warnings", Value::Array(warnings.collect())),
    ])
}

fn time(time: Option<Timestamp>) -> Value {
    let time = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or(Value::Null, |time| json!(time.to_string()))
}
