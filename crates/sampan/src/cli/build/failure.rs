//! A build that failed, as a person wants to see it.

use sampan_dockerfile::{Dockerfile, Location};
use tonic::Status;

use super::told::{Step, Told};

/// Lines of a step's output that are shown again.
const LINES: usize = 20;
/// Lines of the Dockerfile around the step.
const AROUND: usize = 2;

/// The step, the last of its output, its lines in the Dockerfile, and why it failed.
pub(super) fn describe(
    told: &Told,
    dockerfile: Option<&(String, String)>,
    status: &Status,
) -> String {
    let mut text = String::new();
    if let Some(step) = told.failed() {
        text.push_str(&quote(step));
        let place = dockerfile
            .and_then(|(name, source)| Some(excerpt(name, source, locate(source, &step.name)?)));
        text.push_str(&place.unwrap_or_default());
    }
    text.push_str("ERROR: failed to build: failed to solve: ");
    text.push_str(status.message().trim_end());
    text
}

fn quote(step: &Step) -> String {
    let output = String::from_utf8_lossy(&step.output);
    let lines: Vec<&str> = output.lines().collect();
    let mut text = format!("------\n > {}:\n", step.name);
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("------\n");
    text
}

/// Where a step with this name stands: `[stage 2/3] RUN make`.
fn locate(source: &str, name: &str) -> Option<Location> {
    let (place, text) = name.strip_prefix('[')?.split_once("] ")?;
    let stage = place.rsplit_once(' ').map_or("", |(stage, _)| stage);
    let file = Dockerfile::parse(source.as_bytes()).ok()?;
    let named = |index: usize| {
        let own = file.stages[index].name.as_deref();
        stage.is_empty() || own == Some(stage) || stage == format!("stage-{index}")
    };
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let wanted = words(text);
    let stages = file.stages.iter().enumerate();
    let stages = stages.filter(|(index, _)| named(*index));
    let mut steps = stages.flat_map(|(_, stage)| &stage.steps);
    let step = steps.find(|step| words(&step.source) == wanted)?;
    Some(step.location)
}

/// The lines of a step among those around it.
fn excerpt(name: &str, source: &str, location: Location) -> String {
    const RULE: &str = "--------------------\n";
    let (first, last) = (location.line as usize, location.end_line as usize);
    let mut text = format!("{name}:{first}\n{RULE}");
    for (index, line) in source.lines().enumerate() {
        let number = index + 1;
        if number + AROUND >= first && number <= last + AROUND {
            let mark = match (first..=last).contains(&number) {
                true => ">>>",
                false => "   ",
            };
            text.push_str(format!("{number:4} | {mark} {line}").trim_end());
            text.push('\n');
        }
    }
    text + RULE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_shown_among_its_neighbours() {
        let source =
            "FROM a AS one\nRUN x\n\nFROM b\nRUN x\nRUN y && \\\n  z\nCMD a\nCMD b\nCMD c\n";
        let line = |name: &str| locate(source, name).map(|location| location.line);
        assert_eq!(line("[one 2/2] RUN x"), Some(2));
        assert_eq!(line("[stage-1 2/3] RUN x"), Some(5));
        assert_eq!(line("[stage-1 3/3] RUN y &&   z"), Some(6));
        assert_eq!(line("[internal] load build context"), None);
        let location = locate(source, "[stage-1 3/3] RUN y && z").unwrap();
        let expected = "F:6\n--------------------\n   4 |     FROM b\n   5 |     RUN x\n\
                        \u{20}  6 | >>> RUN y && \\\n   7 | >>>   z\n   8 |     CMD a\n   9 |     CMD b\n\
                        --------------------\n";
        assert_eq!(excerpt("F", source, location), expected);
    }
}
