//! What instructions say of the image's configuration, and how the history tells of them.

use sampan_dockerfile::{Command, Healthcheck, KeyValue};
use sampan_oci::config::{Healthcheck as Check, RunConfig};

/// The words of a command; a shell form is handed to the shell of the configuration.
pub(crate) fn words(config: &RunConfig, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(line) => with_shell(config, line),
    }
}

pub(crate) fn with_shell(config: &RunConfig, line: &str) -> Vec<String> {
    let mut words = match config.shell.is_empty() {
        true => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        false => config.shell.clone(),
    };
    words.push(line.to_owned());
    words
}

/// Sets a variable; one that has a value keeps its place.
pub(crate) fn set_variable(environment: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let of = |entry: &String| entry.split('=').next() == Some(name);
    match environment.iter_mut().find(|entry| of(entry)) {
        Some(place) => *place = entry,
        None => environment.push(entry),
    }
}

/// `KEY=value` of each, with blanks in front.
pub(crate) fn pairs(pairs: &[KeyValue]) -> String {
    let one = |pair: &KeyValue| format!(" {}={}", pair.key, pair.value);
    pairs.iter().map(one).collect()
}

/// Words as Go's `%q` shows a list.
pub(crate) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("[{}]", words.join(" "))
}

fn quote(word: &str) -> String {
    let mut text = String::from('"');
    for c in word.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// A health check for the configuration, and as Go shows it in the history.
pub(crate) fn health(check: &Healthcheck) -> (Check, String) {
    let check = match check {
        Healthcheck::None => Check {
            test: vec!["NONE".to_owned()],
            ..Check::default()
        },
        Healthcheck::Test {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        } => {
            let test = match command {
                Command::Exec(words) => [&["CMD".to_owned()][..], words].concat(),
                Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
            };
            Check {
                test,
                interval: *interval,
                timeout: *timeout,
                start_period: *start_period,
                start_interval: *start_interval,
                retries: i64::from(*retries),
            }
        }
    };
    let text = format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries,
    );
    (check, text)
}

/// Nanoseconds as Go shows a duration.
fn duration(nanoseconds: i64) -> String {
    let trimmed = |number: f64| {
        let text = format!("{number:.9}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    #[allow(clippy::cast_precision_loss)] // below an hour, exact enough for a history
    let of = |nanoseconds: i64, unit: f64| trimmed(nanoseconds as f64 / unit);
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < 1_000_000_000 {
        return format!("{}ms", of(nanoseconds, 1e6));
    }
    let seconds = nanoseconds / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = of(nanoseconds % 60_000_000_000, 1e9);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_written_as_buildkit_does() {
        let check = Healthcheck::Test {
            command: Command::Shell("curl -f \"http://x\" || exit 1".into()),
            interval: 30_000_000_000,
            timeout: 1_500_000_000,
            start_period: 90_000_000_000,
            start_interval: 500_000_000,
            retries: 3,
        };
        let (_, text) = health(&check);
        assert_eq!(
            text,
            "HEALTHCHECK {Test:[CMD-SHELL curl -f \"http://x\" || exit 1] Interval:30s Timeout:1.5s \
             StartPeriod:1m30s StartInterval:500ms Retries:3}"
        );
        assert_eq!(quoted(&["a".into(), "b c".into()]), r#"["a" "b c"]"#);
        assert_eq!(duration(3_600_000_000_000), "1h0m0s");
    }
}
