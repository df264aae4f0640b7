//! The table of all results, in the form that the readme has.

use std::fmt;
use std::time::Duration;

use super::measure::Samples;

/// Everybody that a benchmark may compare.
const COLUMNS: [&str; 6] = ["sampan", "crun", "runc", "docker", "podman", "buildah"];

/// Rows of results.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

struct Row {
    title: String,
    cells: Vec<(String, String)>,
}

impl Table {
    /// Adds medians of times; with how many times the first one's.
    pub(super) fn times(&mut self, title: &str, samples: &[Samples]) {
        let base = samples[0].median();
        let cells = samples.iter().map(|row| {
            let median = row.median();
            let text = milliseconds(median);
            (row.name.clone(), with_ratio(text, ratio(median, base)))
        });
        self.add(title, cells.collect());
    }

    /// Adds quantities, of which less is better.
    pub(super) fn quantities(&mut self, title: &str, unit: &str, values: &[(&str, f64)]) {
        let base = values[0].1;
        let cells = values.iter().map(|(name, value)| {
            let text = format!("{value:.1} {unit}");
            ((*name).to_owned(), with_ratio(text, value / base))
        });
        self.add(title, cells.collect());
    }

    fn add(&mut self, title: &str, cells: Vec<(String, String)>) {
        self.rows.push(Row {
            title: title.to_owned(),
            cells,
        });
    }
}

fn ratio(time: Duration, base: Duration) -> f64 {
    time.as_secs_f64() / base.as_secs_f64()
}

fn with_ratio(text: String, ratio: f64) -> String {
    #[allow(clippy::float_cmp)]
    if ratio == 1.0 {
        return text;
    }
    format!("{text} ({ratio:.1}x)")
}

fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    if milliseconds < 100.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{milliseconds:.0} ms")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |column: &&str| {
            let mut cells = self.rows.iter().flat_map(|row| &row.cells);
            cells.any(|(name, _)| name == column)
        };
        let columns: Vec<&str> = COLUMNS.into_iter().filter(has).collect();
        writeln!(out, "| | {} |", columns.join(" | "))?;
        writeln!(out, "| --- |{}", " --- |".repeat(columns.len()))?;
        for row in &self.rows {
            write!(out, "| {} |", row.title)?;
            for column in &columns {
                let cell = row.cells.iter().find(|(name, _)| name == column);
                write!(out, " {} |", cell.map_or("", |(_, text)| text))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}
