//! What Docker writes for people: durations, states, commands; and times as it reads them.

use jiff::{SignedDuration, Timestamp};

use crate::error::ApiError;

/// A duration in words, as in `About an hour`.
pub(crate) fn human_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let minutes = seconds / 60;
    // Rounded, where minutes and days are cut.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// How long ago something was, in words.
pub(crate) fn ago(then: Timestamp) -> String {
    human_duration(Timestamp::now().duration_since(then))
}

/// A command as one line: words with blanks are quoted, nothing is escaped.
pub(crate) fn command_line(program: &str, arguments: &[String]) -> String {
    let mut line = program.to_owned();
    for argument in arguments {
        line.push(' ');
        if argument.contains(' ') {
            line.push('\'');
            line.push_str(argument);
            line.push('\'');
        } else {
            line.push_str(argument);
        }
    }
    line
}

/// A time as Docker writes it, or its "never".
pub(crate) fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(
        || sampan_api::types::NEVER.to_owned(),
        |time| time.to_string(),
    )
}

/// Reads seconds since 1970 with an optional fraction.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, ApiError> {
    let invalid = || {
        ApiError::invalid(format!(
            "failed to parse value as time or duration: {text:?}"
        ))
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    Timestamp::new(seconds, nanoseconds).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_dockers() {
        const DAY: i64 = 24 * 3600;
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (180, "3 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (2 * DAY, "2 days"),
            (13 * DAY, "13 days"),
            (14 * DAY, "2 weeks"),
            (60 * DAY, "2 months"),
            (2 * 365 * DAY, "2 years"),
        ] {
            assert_eq!(human_duration(SignedDuration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        assert_eq!(time(None), "0001-01-01T00:00:00Z");
        let half = Timestamp::new(1, 500_000_000).unwrap();
        assert_eq!(time(Some(half)), "1970-01-01T00:00:01.5Z");
    }

    #[test]
    fn times_are_read_with_a_fraction() {
        assert_eq!(
            parse_time("1136073600.000000001").unwrap(),
            Timestamp::new(1_136_073_600, 1).unwrap()
        );
        assert_eq!(parse_time("0").unwrap(), Timestamp::UNIX_EPOCH);
        for bad in [
            "",
            "x",
            "1.x",
            "1.0000000000",
            "99999999999999999",
            "1e5",
            "10m",
        ] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_with_blanks_are_quoted() {
        let words = ["-c".to_owned(), "echo hi".to_owned()];
        assert_eq!(command_line("sh", &words), "sh -c 'echo hi'");
        assert_eq!(command_line("sh", &[]), "sh");
    }
}
