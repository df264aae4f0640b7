//! Taking samples in turn and showing them.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// One contestant: its name and how to do the thing once.
pub(super) struct Contestant<'a> {
    pub(super) name: &'a str,
    pub(super) once: Box<dyn Fn() -> Result<Duration> + 'a>,
}

/// The samples of one contestant.
pub(super) struct Samples {
    pub(super) name: String,
    times: Vec<Duration>,
}

impl Samples {
    pub(super) fn new(name: &str, times: Vec<Duration>) -> Self {
        Self {
            name: name.to_owned(),
            times,
        }
    }

    pub(super) fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.times.clone();
        sorted.sort();
        let last = sorted.len() - 1;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let at = (last as f64 * share).round() as usize;
        sorted[at]
    }

    pub(super) fn median(&self) -> Duration {
        self.quantile(0.5)
    }
}

/// Lets every contestant do its thing `rounds` times, one after the other in
/// each round, after one round that does not count.
pub(super) fn in_turn(contestants: &[Contestant<'_>], rounds: usize) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> = contestants
        .iter()
        .map(|contestant| Samples {
            name: contestant.name.to_owned(),
            times: Vec::new(),
        })
        .collect();
    for round in 0..=rounds {
        for (contestant, samples) in contestants.iter().zip(&mut samples) {
            let time = (contestant.once)().with_context(|| contestant.name.to_owned())?;
            if round > 0 {
                samples.times.push(time);
            }
        }
    }
    Ok(samples)
}

/// Prints a table in which the first row is the one that others are compared
/// with.
pub(super) fn show(title: &str, samples: &[Samples]) {
    println!("\n{title}");
    println!(
        "{:<12} {:>10} {:>10} {:>10} {:>9}",
        "", "min ms", "p10 ms", "median ms", "ratio"
    );
    let base = samples[0].median();
    for row in samples {
        println!(
            "{:<12} {:>10} {:>10} {:>10} {:>8.1}x",
            row.name,
            milliseconds(row.quantile(0.0)),
            milliseconds(row.quantile(0.1)),
            milliseconds(row.median()),
            row.median().as_secs_f64() / base.as_secs_f64()
        );
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1000.0)
}

/// Runs a command that must succeed and returns how long it took.
pub(super) fn time(mut command: Command) -> Result<Duration> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let child = command.spawn()?;
    let output = child.wait_with_output()?;
    let taken = start.elapsed();
    ensure!(
        output.status.success(),
        "{command:?}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(taken)
}
