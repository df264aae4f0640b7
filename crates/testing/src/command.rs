use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// What a command did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ran {
    /// The exit code, 128 + n after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output of a command that must have succeeded, without the
    /// last line break.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout.trim_end_matches('\n').to_owned()
    }

    /// Standard error of a command that must have failed with `code`.
    #[must_use]
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Self {
            code,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program to its end.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> Ran {
    run_in(Path::new("/"), program, arguments)
}

/// Runs a program to its end in a directory.
#[track_caller]
pub fn run_in(directory: &Path, program: &str, arguments: &[&str]) -> Ran {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output();
    match output {
        Ok(output) => output.into(),
        Err(error) => panic!("cannot run {program}: {error}"),
    }
}

/// Waits until `condition` holds; panics with `what` after two minutes: an emulated machine is slow.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How many times as slow as others this machine is, for pauses that give it time: 1, or what
/// `SAMPAN_SLOW_MACHINE` says.
#[must_use]
pub fn slowness() -> u64 {
    std::env::var("SAMPAN_SLOW_MACHINE").map_or(1, |times| times.parse().unwrap())
}

/// A TCP port on 127.0.0.1 that nobody listened on a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
