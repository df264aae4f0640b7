//! `sampan stats`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use sampan_api::client::ListOptions;
use sampan_api::types::stats::{CpuStats, MemoryStats, StatsResponse};
use sampan_api::{Client, Filters};
use tokio::task::{JoinHandle, LocalSet};

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::data::Data;
use super::format::list::{self, Row, Style};
use super::format::quote::short_id;
use super::format::units;
use super::output;
use super::ps::FORMAT_HELP;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container stats", "stats"],
    usage: "[OPTIONS] [CONTAINER...]",
    about: "Display a live stream of container(s) resource usage statistics",
    flags: &[&[
        Flag::switch("all", "Show all containers (default shows just running)").short('a'),
        Flag::one("format", "string", FORMAT_HELP),
        Flag::switch(
            "no-stream",
            "Disable streaming stats and only pull the first result",
        ),
        Flag::switch("no-trunc", "Do not truncate output"),
    ]],
    arguments: Arguments::Any,
    run,
    ..Command::PLAIN
};

const HEADERS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("ID", "CONTAINER ID"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

const TABLE: &str = "table {{.ID}}\\t{{.Name}}\\t{{.CPUPerc}}\\t{{.MemUsage}}\\t{{.MemPerc}}\\t{{.NetIO}}\\t{{.BlockIO}}\\t{{.PIDs}}";

/// How often the screen is painted.
const REFRESH: Duration = Duration::from_millis(500);

/// What is shown of one container.
struct Shown {
    /// As it was asked for, or the first part of the identity.
    container: String,
    /// The newest reading; none before the first one and after a failure.
    reading: Option<StatsResponse>,
    failure: Option<String>,
    /// Whether a first answer has come, good or bad.
    heard: bool,
}

/// In the order of their appearance.
type Board = Rc<RefCell<Vec<Shown>>>;

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let setting = || session.setting("statsFormat");
    let format = parsed.text("format").filter(|text| !text.is_empty());
    let format = match format.or_else(setting).unwrap_or("table") {
        "table" => TABLE.to_owned(),
        other => other.to_owned(),
    };
    let view = View {
        format,
        full: parsed.switch("no-trunc")?,
        stream: !parsed.switch("no-stream")?,
        all: parsed.switch("all")?,
    };
    let names: Vec<String> = parsed.arguments().iter().map(|n| (*n).to_owned()).collect();
    let client = session.client()?.clone();
    session.wait(async {
        let local = LocalSet::new();
        local.run_until(show(client, names, view)).await
    })
}

struct View {
    format: String,
    full: bool,
    stream: bool,
    all: bool,
}

async fn show(client: Client, names: Vec<String>, view: View) -> Result<u8, Failure> {
    let board = Board::default();
    let every = names.is_empty();
    let mut listening = None;
    let mut watches = Vec::new();
    if every {
        // Listened to first, so that none is missed that starts while they are listed.
        if view.stream {
            listening = Some(follow_events(&client, &board, view.all).await?);
        }
        let options = ListOptions {
            all: view.all,
            ..ListOptions::default()
        };
        for container in client.list_containers(&options).await? {
            watches.push(watch(&client, &board, short_id(&container.id), view.stream));
        }
    } else {
        for name in &names {
            watches.push(watch(&client, &board, name, view.stream));
        }
    }
    if !view.stream {
        for watch in watches {
            let _ = watch.await;
        }
    } else {
        while board.borrow().iter().any(|shown| !shown.heard) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    if !every {
        let board = board.borrow();
        let failures: Vec<&str> = board.iter().filter_map(|s| s.failure.as_deref()).collect();
        if !failures.is_empty() {
            return Err(Failure::message(failures.join("\n")));
        }
    }
    if view.stream {
        output::text("\x1b[2J");
    }
    loop {
        let text = view.render(&board.borrow())?;
        if !view.stream {
            output::text(&text);
            return Ok(0);
        }
        // The lines are written over, so that nothing flickers.
        let lines: Vec<&str> = text.lines().collect();
        output::text(&format!("\x1b[H{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n")));
        if board.borrow().is_empty() && !every {
            return Ok(0);
        }
        if listening.as_ref().is_some_and(JoinHandle::is_finished) {
            return Ok(0);
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// Adds and removes containers as they come and go.
async fn follow_events(
    client: &Client,
    board: &Board,
    all: bool,
) -> Result<JoinHandle<()>, Failure> {
    let mut filters = Filters::default();
    filters.add("type", "container");
    let request = client.request(http::Method::GET, "/events");
    let response = request.filters(&filters).send().await?;
    let mut events = response.into_json_stream::<Data>();
    let (client, board) = (client.clone(), board.clone());
    Ok(tokio::task::spawn_local(async move {
        while let Ok(Some(event)) = events.next().await {
            let id = short_id(event.text_at("Actor.ID")).to_owned();
            let known = board.borrow().iter().any(|shown| shown.container == id);
            match event.text_at("Action") {
                "start" if !known => drop(watch(&client, &board, &id, true)),
                "create" if all && !known => drop(watch(&client, &board, &id, true)),
                "die" if !all => board.borrow_mut().retain(|shown| shown.container != id),
                "destroy" => board.borrow_mut().retain(|shown| shown.container != id),
                _ => {}
            }
        }
    }))
}

/// Reads what one container uses.
fn watch(client: &Client, board: &Board, name: &str, stream: bool) -> JoinHandle<()> {
    let (client, board, name) = (client.clone(), board.clone(), name.to_owned());
    board.borrow_mut().push(Shown {
        container: name.clone(),
        reading: None,
        failure: None,
        heard: false,
    });
    tokio::task::spawn_local(async move {
        let note = |result: Result<StatsResponse, Failure>| {
            let mut board = board.borrow_mut();
            if let Some(shown) = board.iter_mut().find(|shown| shown.container == name) {
                shown.heard = true;
                (shown.reading, shown.failure) = match result {
                    Ok(reading) => (Some(reading), None),
                    Err(failure) => (None, Some(failure.text())),
                };
            }
        };
        if !stream {
            let reading = client.container_stats(&name).await;
            return note(reading.map_err(Failure::from));
        }
        match client.follow_stats(&name).await {
            Err(error) => note(Err(error.into())),
            Ok(mut readings) => loop {
                match readings.next().await {
                    Ok(Some(reading)) => note(Ok(reading)),
                    Ok(None) => return note(Err(Failure::message("EOF"))),
                    Err(error) => return note(Err(error.into())),
                }
            },
        }
    })
}

impl View {
    fn render(&self, board: &[Shown]) -> Result<String, Failure> {
        let rows = board.iter().map(|shown| row(shown, self.full)).collect();
        list::render(
            rows,
            &Style {
                format: &self.format,
                headers: HEADERS,
                type_name: "*container.statsContext",
            },
        )
    }
}

fn row(shown: &Shown, full: bool) -> Row {
    let unknown = || "--".to_owned();
    let mut fields: BTreeMap<&'static str, String> = BTreeMap::from([
        ("Container", shown.container.clone()),
        ("ID", String::new()),
        ("Name", unknown()),
        ("CPUPerc", unknown()),
        ("MemUsage", "-- / --".to_owned()),
        ("MemPerc", unknown()),
        ("NetIO", unknown()),
        ("BlockIO", unknown()),
        ("PIDs", unknown()),
    ]);
    if let Some(reading) = &shown.reading {
        let id = match full {
            true => reading.id.as_str(),
            false => short_id(&reading.id),
        };
        let memory = memory_in_use(&reading.memory_stats);
        let limit = reading.memory_stats.limit;
        let (read, written) = block_io(reading);
        let received = reading.networks.values().map(|n| n.rx_bytes).sum();
        let sent = reading.networks.values().map(|n| n.tx_bytes).sum();
        fields.extend([
            ("ID", id.to_owned()),
            ("Name", reading.name.trim_start_matches('/').to_owned()),
            (
                "CPUPerc",
                format!("{:.2}%", share(&reading.precpu_stats, &reading.cpu_stats)),
            ),
            (
                "MemUsage",
                format!(
                    "{} / {}",
                    units::binary_size(signed(memory)),
                    units::binary_size(signed(limit))
                ),
            ),
            (
                "MemPerc",
                format!(
                    "{:.2}%",
                    match limit {
                        0 => 0.0,
                        limit => memory as f64 / limit as f64 * 100.0,
                    }
                ),
            ),
            ("NetIO", pair(received, sent)),
            ("BlockIO", pair(read, written)),
            ("PIDs", reading.pids_stats.current.to_string()),
        ]);
    }
    Row::new(fields, Vec::new())
}

fn pair(one: u64, other: u64) -> String {
    format!(
        "{} / {}",
        units::size(signed(one)),
        units::size(signed(other))
    )
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Percent of one processor between two readings.
fn share(before: &CpuStats, now: &CpuStats) -> f64 {
    let used = now.cpu_usage.total_usage as f64 - before.cpu_usage.total_usage as f64;
    let passed = now.system_cpu_usage as f64 - before.system_cpu_usage as f64;
    let processors = match now.online_cpus {
        0 => now.cpu_usage.percpu_usage.len() as f64,
        count => f64::from(count),
    };
    if passed > 0.0 && used > 0.0 {
        used / passed * processors * 100.0
    } else {
        0.0
    }
}

/// Without what the kernel can drop at once, as Docker and Kubernetes count.
fn memory_in_use(memory: &MemoryStats) -> u64 {
    let part = |name: &str| memory.stats.get(name).filter(|part| **part < memory.usage);
    match part("total_inactive_file").or_else(|| part("inactive_file")) {
        Some(part) => memory.usage - part,
        None => memory.usage,
    }
}

fn block_io(reading: &StatsResponse) -> (u64, u64) {
    let entries = reading.blkio_stats.io_service_bytes_recursive.iter();
    let (mut read, mut written) = (0, 0);
    for entry in entries.flatten() {
        match entry.op.as_bytes().first() {
            Some(b'r' | b'R') => read += entry.value,
            Some(b'w' | b'W') => written += entry.value,
            _ => {}
        }
    }
    (read, written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_look_as_dockers() {
        let json = r#"{"id":"0123456789abcdef","name":"/web","cpu_stats":{"cpu_usage":{"total_usage":300},
            "system_cpu_usage":2000,"online_cpus":2},"precpu_stats":{"cpu_usage":{"total_usage":200},
            "system_cpu_usage":1000},"memory_stats":{"usage":3145728,"limit":10485760,
            "stats":{"inactive_file":1048576}},"pids_stats":{"current":3},
            "networks":{"eth0":{"rx_bytes":1000,"tx_bytes":5},"eth1":{"rx_bytes":848}},
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"read","value":5},{"op":"Write","value":7},
            {"op":"Total","value":12}]}}"#;
        let shown = Shown {
            container: "web".into(),
            reading: Some(serde_json::from_str(json).unwrap()),
            failure: None,
            heard: true,
        };
        let view = View {
            format: TABLE.to_owned(),
            full: false,
            stream: false,
            all: false,
        };
        let text = view.render(&[shown]).unwrap();
        let row: Vec<&str> = text.lines().nth(1).unwrap().split("  ").collect();
        let row: Vec<&str> = row
            .into_iter()
            .map(str::trim)
            .filter(|c| !c.is_empty())
            .collect();
        assert_eq!(
            row,
            [
                "0123456789ab",
                "web",
                "20.00%",
                "2MiB / 10MiB",
                "20.00%",
                "1.85kB / 5B",
                "5B / 7B",
                "3"
            ]
        );
        let unheard = Shown {
            container: "gone".into(),
            reading: None,
            failure: None,
            heard: true,
        };
        let text = view.render(&[unheard]).unwrap();
        assert!(text.contains("-- / --"), "{text}");
    }
}
