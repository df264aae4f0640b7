//! The processes of a container, as `ps` lists them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use regex_lite::Regex;

use super::lifecycle::Lifecycle;
use super::registry::Container;
use super::service::Inner;
use crate::{Action, Error, Result};

/// What Docker asks `ps` for when nothing else is said.
const DEFAULT: &str = "-ef";
/// `USER_HZ`, fixed by the kernel's interface.
const TICKS: u64 = 100;

/// Processes in columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    /// Names of the columns.
    pub titles: Vec<String>,
    /// A row for each process.
    pub rows: Vec<Vec<String>>,
}

impl Inner {
    /// Lists the processes of a container. What `ps -ef` shows is read here; for other columns the
    /// host's `ps` is asked. Blocks for moments.
    pub(crate) fn top(&self, container: &Container, arguments: &str) -> Result<Processes> {
        let record = container.record();
        match record.lifecycle {
            Lifecycle::Running(_) | Lifecycle::Paused(_) => {}
            Lifecycle::Restarting(_) => return Err(super::start::restarting(&container.id)),
            Lifecycle::Created { .. }
            | Lifecycle::Exited(_)
            | Lifecycle::Removing { .. }
            | Lifecycle::Dead { .. } => {
                return Err(Error::conflict(format!(
                    "container {} is not running",
                    container.id
                )));
            }
        }
        let arguments = match arguments.trim() {
            "" => DEFAULT,
            other => other,
        };
        check(arguments)?;
        let pids = self.open_cgroup(container)?.procs();
        let pids = pids.map_err(|error| Error::because("list the processes", &error))?;
        let pids: BTreeSet<i32> = pids.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        let processes = match arguments {
            DEFAULT => full(&pids),
            other => ask(other, &pids)?,
        };
        self.tell(&record, Action::Top, []);
        Ok(processes)
    }
}

/// A column may not be called PID when it is something else: rows are found by it.
fn check(arguments: &str) -> Result<()> {
    let renamed = Regex::new(r"\s+([^\s]*)=\s*(PID[^\s]*)").expect("it is a valid expression");
    for found in renamed.captures_iter(arguments) {
        let (name, title) = (&found[1], &found[2]);
        if name != "pid" {
            return Err(Error::invalid(format!(
                "specifying \"{name}={title}\" is not allowed"
            )));
        }
    }
    Ok(())
}

/// Asks the host's `ps`.
fn ask(arguments: &str, pids: &BTreeSet<i32>) -> Result<Processes> {
    let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
    let list: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let only = format!("-q{}", list.join(","));
    let run = |more: &[&str]| Command::new("ps").args(&words).args(more).output();
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_implemented(
            "the host has no ps, which is needed for other columns than those of ps -ef",
        ),
        _ => Error::because("run ps", &error),
    };
    let mut output = run(&[&only]).map_err(failed)?;
    if !output.status.success() {
        // Some options, such as -C, cannot be used together with it.
        output = run(&[]).map_err(failed)?;
    }
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let first = text.lines().next().unwrap_or("it failed");
        return Err(Error::internal(format!("ps: {first}")));
    }
    parse(&String::from_utf8_lossy(&output.stdout), pids)
}

/// Takes the rows of a container's processes out of what `ps` wrote.
fn parse(output: &str, pids: &BTreeSet<i32>) -> Result<Processes> {
    let mut lines = output.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect();
    let Some(pid_at) = titles.iter().position(|title| title == "PID") else {
        return Err(Error::internal("Couldn't find PID field in ps output"));
    };
    let mut rows = Vec::new();
    let mut of_container = false;
    for line in lines.filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let pid = *fields.get(pid_at).unwrap_or(&"");
        // A thread, which follows its process.
        if pid != "-" {
            let number: i32 = pid
                .parse()
                .map_err(|_| Error::internal(format!("Unexpected pid {pid:?}")))?;
            of_container = pids.contains(&number);
        }
        if of_container {
            let last = titles.len() - 1;
            let (columns, rest) = fields.split_at(last.min(fields.len()));
            let mut row: Vec<String> = columns.iter().map(|field| (*field).to_owned()).collect();
            row.push(rest.join(" "));
            rows.push(row);
        }
    }
    Ok(Processes { titles, rows })
}

/// What `ps -ef` shows.
fn full(pids: &BTreeSet<i32>) -> Processes {
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    let boot = boot_time();
    let now = Timestamp::now();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Processes {
        titles: titles.map(str::to_owned).to_vec(),
        // One that ends meanwhile is left out.
        rows: pids
            .iter()
            .filter_map(|pid| row(*pid, boot, now, &accounts))
            .collect(),
    }
}

fn row(pid: i32, boot: u64, now: Timestamp, accounts: &str) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let owner = std::fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let stat = Stat::parse(&stat)?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let started = Timestamp::from_second(i64::try_from(boot + stat.started / TICKS).ok()?).ok()?;
    let seconds = stat.used / TICKS;
    let alive = now.duration_since(started).as_secs().max(1).unsigned_abs();
    Some(vec![
        account(owner, accounts),
        pid.to_string(),
        stat.parent.to_string(),
        (seconds * 100 / alive).min(99).to_string(),
        start_time(started, now),
        terminal(stat.terminal),
        format!(
            "{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        ),
        command_line(&command, &stat.name),
    ])
}

/// What matters of `/proc/PID/stat` (proc(5)).
struct Stat {
    name: String,
    parent: i32,
    /// Device number of the terminal; 0 for none.
    terminal: i32,
    /// User and kernel time in ticks.
    used: u64,
    /// Ticks since the host started.
    started: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name stands in brackets and may itself have some.
        let (begin, end) = (text.find('(')?, text.rfind(')')?);
        let fields: Vec<&str> = text.get(end + 1..)?.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            name: text.get(begin + 1..end)?.to_owned(),
            parent: field(4)?.parse().ok()?,
            terminal: field(7)?.parse().ok()?,
            used: field(14)?.parse::<u64>().ok()? + field(15)?.parse::<u64>().ok()?,
            started: field(22)?.parse().ok()?,
        })
    }
}

/// When the host started, in seconds since 1970.
fn boot_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

/// The host's name of a user, or the number.
fn account(uid: u32, accounts: &str) -> String {
    let number = uid.to_string();
    let found = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then_some(name)
    });
    match found {
        // As ps does where the name is wider than its column.
        Some(name) if name.len() > 8 => format!("{}+", &name.chars().take(7).collect::<String>()),
        Some(name) => name.to_owned(),
        None => number,
    }
}

/// The hour when it is today's, the day when it is this year's, else the year.
fn start_time(started: Timestamp, now: Timestamp) -> String {
    let zone = TimeZone::system();
    let (started, now) = (started.to_zoned(zone.clone()), now.to_zoned(zone));
    let format = if started.date() == now.date() {
        "%H:%M"
    } else if started.year() == now.year() {
        "%b%d"
    } else {
        "%Y"
    };
    started.strftime(format).to_string()
}

/// The name of a terminal by its number, as far as containers have some.
fn terminal(device: i32) -> String {
    let device = device.cast_unsigned();
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    match major {
        0 => "?".to_owned(),
        4 => format!("tty{minor}"),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    }
}

fn command_line(bytes: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.trim_end_matches('\0').split('\0').collect();
    match words.join(" ").trim_end() {
        "" => format!("[{name}]"),
        line => line.replace(['\n', '\t'], " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_other_processes_are_left_out() {
        let output = "  PID USER     CMD\n    1 root     init\n   20 root     sh -c a b\n    - root   -\n  300 root     x\n";
        let processes = parse(output, &BTreeSet::from([20])).unwrap();
        assert_eq!(processes.titles, ["PID", "USER", "CMD"]);
        assert_eq!(
            processes.rows,
            [["20", "root", "sh -c a b"], ["-", "root", "-"]]
        );
        assert!(parse("USER CMD\n", &BTreeSet::new()).is_err());
    }

    #[test]
    fn pid_means_pid() {
        assert!(check("-eo pid,comm").is_ok());
        assert!(check("-o pid=PID").is_ok());
        assert!(check("-o ppid=PID").is_err());
        assert!(check("-o\tuser= PID").is_err());
    }

    #[test]
    fn processes_are_read_from_the_kernels_table() {
        let own = i32::try_from(std::process::id()).unwrap();
        let processes = full(&BTreeSet::from([own]));
        assert_eq!(processes.rows[0][1], own.to_string());
        assert!(processes.rows[0][7].contains("engine"));
        let stat = "7 (a) b (c)) S 1 2 3 34817 5 6 7 8 9 10 150 50 13 14 15 16 17 18 12345 20";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.name.as_str(), stat.parent), ("a) b (c)", 1));
        assert_eq!((stat.used, stat.started), (200, 12345));
        assert_eq!(terminal(stat.terminal), "pts/1");
        assert_eq!(command_line(b"sh\0-c\0a b\0", "sh"), "sh -c a b");
        assert_eq!(command_line(b"", "kthread"), "[kthread]");
    }
}
