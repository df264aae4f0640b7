//! A call of the program, and what it says of a failure.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sampan_shim_protocol::{StartFailure, StartFailureKind};
use serde::Deserialize;

use super::Runtime;
use crate::launch::system;

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(90);
const LOG_FILE: &str = "log.json";
/// Where programs look for others.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So much of a log is looked at.
const LOG_LIMIT: usize = 1 << 20;

/// What is wanted of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Create,
    Start,
    Exec,
    Pause,
    Resume,
    Delete,
}

impl Doing {
    /// In front of what the program says: containerd's words, which Docker's users see.
    fn failed(self) -> &'static str {
        match self {
            Self::Create => "failed to create shim task: OCI runtime create failed: ",
            Self::Start => "failed to start shim task: OCI runtime start failed: ",
            // The rest of the sentence is the engine's.
            Self::Exec => "",
            Self::Pause => "OCI runtime pause failed: ",
            Self::Resume => "OCI runtime resume failed: ",
            Self::Delete => "OCI runtime delete failed: ",
        }
    }
}

/// Standard streams of the program, which a process that it starts inherits.
#[derive(Debug)]
pub(super) enum Streams {
    Null,
    Of([OwnedFd; 3]),
}

impl Runtime {
    /// Calls the program for the container and waits for it.
    pub(super) fn call(
        &self,
        doing: Doing,
        words: &[&str],
        streams: Streams,
    ) -> Result<(), StartFailure> {
        let log = self.bundle.join(LOG_FILE);
        // One of an earlier call says nothing of this one.
        let _ = fs::remove_file(&log);
        let mut command = match &self.about.hidden {
            None => Command::new(&self.about.program),
            Some(hidden) => {
                let mut command = Command::new("/proc/self/exe");
                command.arg("without").arg(hidden).arg(&self.about.program);
                command
            }
        };
        command
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .current_dir("/")
            .args(&self.about.arguments)
            .arg("--root")
            .arg(&self.about.state)
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json"])
            .args(words)
            .arg(&self.id);
        match streams {
            Streams::Null => command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
            Streams::Of([stdin, stdout, stderr]) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr)
            }
        };
        let ended = run(&mut command).map_err(|error| {
            let doing = format!(
                "running the runtime {} ({})",
                self.about.name,
                self.about.program.display()
            );
            system(&doing, &error)
        })?;
        if ended.success() {
            return Ok(());
        }
        let said = last_error(&log);
        Err(judge(doing, said.as_deref(), ended))
    }
}

/// Runs the program to its end, or to the end of the patience with it.
fn run(command: &mut Command) -> io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(Errno::SRCH)?;
    let limit = Timespec {
        tv_sec: PATIENCE.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    if poll(&mut polled, Some(&limit))? == 0 {
        child.kill()?;
        child.wait()?;
        let seconds = PATIENCE.as_secs();
        return Err(io::Error::other(format!(
            "it did not end within {seconds} seconds and was killed"
        )));
    }
    child.wait()
}

/// A line of a log.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// The last error in a log.
fn last_error(log: &Path) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let tail = &bytes[bytes.len().saturating_sub(LOG_LIMIT)..];
    let text = String::from_utf8_lossy(tail);
    let lines = text.lines().filter_map(|line| {
        let line: Line = serde_json::from_str(line).ok()?;
        Some(line).filter(|line| !line.msg.is_empty())
    });
    let mut last = None;
    for line in lines {
        if line.level == "error" || line.level == "fatal" || line.level.is_empty() {
            last = Some(line.msg);
        }
    }
    last
}

/// What a failure comes to, by Docker's rules: they go by the words.
fn judge(doing: Doing, said: Option<&str>, ended: ExitStatus) -> StartFailure {
    let said = said.map_or_else(|| format!("it has ended with {ended}"), str::to_owned);
    let lower = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|words| lower.contains(words));
    let missing = has(&["executable file not found", "no such file or directory"]);
    let (kind, exit_code) = if has(&["permission denied", "is a directory"]) {
        (StartFailureKind::NotExecutable, 126)
    } else if missing {
        (StartFailureKind::CommandNotFound, 127)
    } else if has(&["not a directory"]) {
        (StartFailureKind::Invalid, 127)
    } else {
        (StartFailureKind::System, 128)
    };
    let message = match doing {
        Doing::Exec => {
            let prefix = "exec failed: unable to start container process: ";
            let bare = said.strip_prefix(prefix).unwrap_or(&said);
            format!("{bare}: unknown")
        }
        _ => format!("{}{said}: unknown", doing.failed()),
    };
    StartFailure {
        kind,
        message,
        exit_code,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn exit_codes_follow_the_words() {
        let judged = |said| judge(Doing::Create, Some(said), ExitStatus::from_raw(256));
        let missing = judged(
            "runc create failed: unable to start container process: exec: \"x\": executable file \
             not found in $PATH",
        );
        assert_eq!(missing.exit_code, 127);
        assert!(
            missing
                .message
                .starts_with("failed to create shim task: OCI runtime create failed: runc create"),
            "{missing}"
        );
        assert!(missing.message.ends_with("in $PATH: unknown"), "{missing}");
        let cases = [
            ("open executable: Permission denied", 126),
            ("exec /etc: is a directory", 126),
            (
                "executable file `x` not found in $PATH: No such file or directory",
                127,
            ),
            ("mount /a to /b: not a directory", 127),
            ("no memory", 128),
        ];
        for (said, code) in cases {
            assert_eq!(judged(said).exit_code, code, "{said}");
        }
        let odd = judge(Doing::Start, None, ExitStatus::from_raw(2 << 8));
        assert!(odd.message.contains("exit status: 2"), "{odd}");
    }

    #[test]
    fn the_last_error_of_a_log_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let lines = [
            r#"{"level":"warning","msg":"careful","time":"x"}"#,
            r#"{"level":"error","msg":"first","time":"x"}"#,
            "nonsense",
            r#"{"level":"error","msg":"exec: \"x\"","time":"x"}"#,
            r#"{"level":"debug","msg":"bye","time":"x"}"#,
        ];
        fs::write(&log, lines.join("\n")).unwrap();
        assert_eq!(last_error(&log).as_deref(), Some("exec: \"x\""));
        // crun's lines have no level.
        fs::write(&log, r#"{ "msg": "oops", "time": "x" }"#).unwrap();
        assert_eq!(last_error(&log).as_deref(), Some("oops"));
        assert_eq!(last_error(&directory.path().join("none")), None);
    }
}
