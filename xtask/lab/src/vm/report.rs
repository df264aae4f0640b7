//! What the machine says on its console, and what has come of its tests.

use std::time::Instant;

/// Before the name of a program that begins.
pub(super) const BEGINS: &str = "xtask-vm: begins: ";
/// Before the name of a program that has ended, a colon and its exit code.
pub(super) const ENDS: &str = "xtask-vm: ends: ";
/// Before the name of a program that took too long.
pub(super) const KILLED: &str = "xtask-vm: killed: ";
/// What the machine says last, before the number of programs that failed.
pub(super) const VERDICT: &str = "xtask-vm: failed programs: ";

/// Takes the console's lines, shows them and counts.
pub(super) struct Report {
    began: Instant,
    programs: Vec<Program>,
    failed_programs: Option<u32>,
}

struct Program {
    name: String,
    began: Instant,
    /// Seconds; none before it has ended.
    took: Option<u64>,
    code: String,
    passed: usize,
    skipped: usize,
    failed: Vec<String>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            programs: Vec::new(),
            failed_programs: None,
        }
    }

    /// How many programs failed; none before all have ended.
    pub(super) fn failed_programs(&self) -> Option<u32> {
        self.failed_programs
    }

    /// Shows a line with the time since the start.
    pub(super) fn take(&mut self, line: &str) {
        println!("[{}] {line}", clock(self.began.elapsed().as_secs()));
        if let Some(name) = line.strip_prefix(BEGINS) {
            self.programs.push(Program {
                name: name.to_owned(),
                began: Instant::now(),
                took: None,
                code: String::new(),
                passed: 0,
                skipped: 0,
                failed: Vec::new(),
            });
        } else if let Some(failed) = line.strip_prefix(VERDICT) {
            self.failed_programs = failed.parse().ok();
        } else if let Some(program) = self.programs.last_mut() {
            program.take(line);
        }
    }

    /// Shows what has come of each program that had tests to run.
    pub(super) fn print(&self) {
        println!("\npassed failed skipped    time  program");
        let ran = |program: &&Program| program.code != "0" || program.passed > 0;
        for program in self.programs.iter().filter(ran) {
            // A skipped test is one that passed, for who runs it.
            println!(
                "{:6} {:6} {:7} {:>7}  {}{}",
                program.passed.saturating_sub(program.skipped),
                program.failed.len(),
                program.skipped,
                program.took.map_or_else(|| "-".to_owned(), clock),
                program.name,
                match (program.took, &*program.code) {
                    (None, _) => " (did not end)".to_owned(),
                    (_, "0" | "101") => String::new(),
                    (_, "124" | "137") => " (took too long)".to_owned(),
                    (_, code) => format!(" (exit code {code})"),
                }
            );
        }
        for program in &self.programs {
            for test in &program.failed {
                println!("failed: {test} ({})", program.name);
            }
        }
    }
}

impl Program {
    fn take(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix(ENDS) {
            self.took = Some(self.began.elapsed().as_secs());
            self.code = rest.rsplit(' ').next().unwrap_or_default().to_owned();
        } else if let Some(test) = line.strip_prefix("test ") {
            match test.rsplit_once(" ... ") {
                Some((_, "ok")) => self.passed += 1,
                Some((name, "FAILED")) => self.failed.push(name.to_owned()),
                _ => {}
            }
        } else if line.starts_with("SKIP: ") {
            self.skipped += 1;
        }
    }
}

/// Minutes and seconds.
fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_by_program() {
        let mut report = Report::new();
        for line in [
            "some noise",
            "xtask-vm: begins: sampan e2e users::",
            "test users::a ... ok",
            "test users::b ... FAILED",
            "SKIP: this machine has no fuse",
            "test users::c ... ok",
            "xtask-vm: ends: sampan e2e users::: 101",
            "xtask-vm: begins: sampan-layers worker",
            "xtask-vm: killed: sampan-layers worker: not done after 15 minutes",
            "xtask-vm: ends: sampan-layers worker: 124",
            "xtask-vm: failed programs: 2",
        ] {
            report.take(line);
        }
        let [users, worker] = &report.programs[..] else {
            panic!("two programs");
        };
        assert_eq!((users.passed, users.skipped), (2, 1));
        assert_eq!(users.failed, ["users::b"]);
        assert_eq!((&*users.code, &*worker.code), ("101", "124"));
        assert_eq!(report.failed_programs(), Some(2));
    }
}
