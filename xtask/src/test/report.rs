//! What test programs of Rust's harness, run by cargo, have printed.

use std::fmt;
use std::mem;

/// What happened to all tests.
#[derive(Debug, Default)]
pub(super) struct Report {
    passed: usize,
    skipped: usize,
    failures: Vec<Failure>,
    /// Those that failed and then passed.
    unsteady: Vec<Failure>,
    /// Programs that told of failures, and those that cargo says have failed.
    told: usize,
    failed_programs: usize,
    success: bool,
    section: Section,
}

/// A test that failed, and what it printed.
#[derive(Debug, Default)]
pub(super) struct Failure {
    pub(super) name: String,
    output: String,
}

/// Where in the output of a program we are.
#[derive(Debug, Default)]
enum Section {
    #[default]
    Verdicts,
    /// What each failed test printed.
    Outputs(Vec<Failure>),
    /// The names of the failed tests, each of which may have printed something.
    Names(Vec<Failure>),
}

impl Report {
    /// Takes the next line.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.skipped += count(counts, "ignored");
            self.told += usize::from(count(counts, "failed") > 0);
            self.section = Section::Verdicts;
            return;
        }
        match &mut self.section {
            Section::Verdicts if line == "failures:" => self.section = Section::Outputs(Vec::new()),
            Section::Verdicts => {
                let failed = line.strip_suffix(" failed:");
                let failed = failed.and_then(|line| line.strip_prefix("error: "));
                if let Some((number, "target" | "targets")) =
                    failed.and_then(|failed| failed.split_once(' '))
                {
                    self.failed_programs = number.parse().unwrap_or_default();
                }
            }
            Section::Outputs(outputs) if line == "failures:" => {
                self.section = Section::Names(mem::take(outputs));
            }
            Section::Outputs(outputs) => {
                let name = line.strip_prefix("---- ");
                if let Some(name) = name.and_then(|line| line.strip_suffix(" stdout ----")) {
                    outputs.push(Failure {
                        name: name.to_owned(),
                        output: String::new(),
                    });
                } else if let Some(last) = outputs.last_mut() {
                    last.output.push_str(line);
                    last.output.push('\n');
                }
            }
            Section::Names(outputs) => {
                let Some(name) = line.strip_prefix("    ") else {
                    return;
                };
                let printed = outputs.iter().position(|failure| failure.name == name);
                self.failures.push(match printed {
                    Some(place) => outputs.swap_remove(place),
                    None => Failure {
                        name: name.to_owned(),
                        output: String::new(),
                    },
                });
            }
        }
    }

    /// Takes what cargo ended with.
    pub(super) fn end(&mut self, success: bool) {
        self.success = success;
    }

    pub(super) fn is_success(&self) -> bool {
        self.success
    }

    pub(super) fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Whether something failed, and all of it is tests with a name: nothing that could not be
    /// built, and no program that died.
    pub(super) fn names_all(&self) -> bool {
        !self.success && self.told > 0 && self.told == self.failed_programs
    }

    /// Takes what happened when the failed tests were run again.
    pub(super) fn run_again(&mut self, again: &Self) {
        let all = !again.success && !again.names_all();
        let fails =
            |failure: &Failure| all || again.failures.iter().any(|now| now.name == failure.name);
        let (failures, unsteady) = mem::take(&mut self.failures).into_iter().partition(fails);
        self.failures = failures;
        self.unsteady = unsteady;
        self.passed += self.unsteady.len();
        self.success = again.success;
    }
}

/// The number before a word, as in `3 passed; 1 failed`.
fn count(counts: &str, word: &str) -> usize {
    let words = counts.split([' ', ';']).collect::<Vec<_>>();
    let number = words.windows(2).find(|pair| pair[1] == word);
    number
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or_default()
}

/// The last lines of a run: what failed, and how many.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chapters = [("unsteady", &self.unsteady), ("failed", &self.failures)];
        for (title, tests) in chapters {
            for test in tests {
                writeln!(f, "---- {title}: {} ----", test.name)?;
                writeln!(f, "{}\n", test.output.trim())?;
            }
        }
        // Their output may be long.
        for (title, tests) in chapters {
            for test in tests {
                writeln!(f, "{title}: {}", test.name)?;
            }
        }
        let failed = self.failures.len();
        writeln!(
            f,
            "{} passed, {failed} failed, {} skipped",
            self.passed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &str, success: bool) -> Report {
        let mut report = Report::default();
        lines.lines().for_each(|line| report.read(line));
        report.end(success);
        report
    }

    const ONE_OF_THREE: &str = "\
test a ... ok
test b::c ... FAILED

failures:

---- b::c stdout ----

thread 'b::c' panicked at x.rs:1:1:
no

failures:
    b::c

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s

error: test failed, to rerun pass `-p x --test y`
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
error: 1 target failed:
    `-p x --test y`
";

    #[test]
    fn failures_are_told_again_at_the_end() {
        let report = report(ONE_OF_THREE, false);
        assert!(report.names_all());
        assert_eq!(
            report.to_string(),
            "---- failed: b::c ----\nthread 'b::c' panicked at x.rs:1:1:\nno\n\n\
             failed: b::c\n5 passed, 1 failed, 1 skipped\n"
        );
    }

    #[test]
    fn a_test_that_passes_alone_is_told_as_unsteady() {
        let mut first = report(ONE_OF_THREE, false);
        first.run_again(&report(
            "test result: ok. 1 passed; 0 failed; 0 ignored",
            true,
        ));
        assert!(first.is_success());
        assert_eq!(
            first.to_string(),
            "---- unsteady: b::c ----\nthread 'b::c' panicked at x.rs:1:1:\nno\n\n\
             unsteady: b::c\n6 passed, 0 failed, 1 skipped\n"
        );
        let mut again = report(ONE_OF_THREE, false);
        again.run_again(&report(ONE_OF_THREE, false));
        assert!(!again.is_success());
        assert_eq!(again.failures().len(), 1);
    }

    #[test]
    fn what_dies_or_is_not_built_is_no_failure_of_a_named_test() {
        let died = ONE_OF_THREE.replace("1 target failed", "2 targets failed");
        assert!(!report(&died, false).names_all());
        assert!(!report("error: could not compile `x`", false).names_all());
        assert!(!report("test result: ok. 1 passed; 0 failed", true).names_all());
    }
}
