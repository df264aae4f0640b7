//! Points in time for `--since` and `--until`.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sampan_text::duration;

/// Reads a time: RFC 3339 with parts left out (local zone), UNIX seconds with a fraction, or a
/// Go duration before `now`. Answers UNIX seconds with nanoseconds.
pub(crate) fn timestamp(text: &str, now: Timestamp) -> Result<String, String> {
    if let Some(before) = duration::parse(text) {
        let time = now
            .checked_sub(SignedDuration::from_nanos(before))
            .map_err(|_| format!("time out of range: {text}"))?;
        return Ok(seconds(time));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(seconds(time));
    }
    let local = text.strip_suffix('Z');
    let zone = if local.is_some() {
        TimeZone::UTC
    } else {
        TimeZone::system()
    };
    let bare = local.unwrap_or(text);
    let padded = match bare.len() {
        // Hours, or hours and minutes, are enough.
        13 => format!("{bare}:00:00"),
        16 => format!("{bare}:00"),
        _ => bare.to_owned(),
    };
    let civil = padded
        .parse::<DateTime>()
        .ok()
        .filter(|_| padded.contains('T'))
        .or_else(|| {
            let date = bare.parse::<Date>().ok()?;
            Some(date.to_datetime(jiff::civil::Time::midnight()))
        });
    if let Some(time) = civil.and_then(|civil| zone.to_timestamp(civil).ok()) {
        return Ok(seconds(time));
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if digits(whole.strip_prefix('-').unwrap_or(whole)) && digits(fraction) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "failed to parse value as time or duration: {text:?}"
    ))
}

fn seconds(time: Timestamp) -> String {
    let nanoseconds = time.as_nanosecond();
    format!(
        "{}.{:09}",
        nanoseconds.div_euclid(1_000_000_000),
        nanoseconds.rem_euclid(1_000_000_000)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_relative() {
        let now: Timestamp = "2026-11-23T12:00:00.5Z".parse().unwrap();
        for (text, expected) in [
            ("10m", Some("1795434600.500000000")),
            ("1h30m", Some("1795429800.500000000")),
            ("1.5s", Some("1795435199.000000000")),
            ("2026-11-23T12:00:00Z", Some("1795435200.000000000")),
            ("2026-11-23T13:00:00+01:00", Some("1795435200.000000000")),
            ("2026-11-23T12:00:00.25Z", Some("1795435200.250000000")),
            ("2026-11-23T12:00Z", Some("1795435200.000000000")),
            ("1795435200", Some("1795435200")),
            ("1795435200.25", Some("1795435200.25")),
            ("yesterday", None),
            ("", None),
            ("5", Some("5")),
        ] {
            assert_eq!(timestamp(text, now).ok().as_deref(), expected, "{text}");
        }
        assert!(timestamp("2026-11-23", now).is_ok());
        assert!(timestamp("2026-11-23T12", now).is_ok());
    }
}
