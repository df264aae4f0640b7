//! What Docker writes for people: durations, states, commands; and times as it reads them.

use jiff::Timestamp;
use sampan_text::duration;

use crate::error::ApiError;

/// How long ago something was, in words.
pub(crate) fn ago(then: Timestamp) -> String {
    duration::in_words(Timestamp::now().duration_since(then).as_secs())
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
