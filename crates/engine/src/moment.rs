//! Times as requests write them: a span before now, a date, or seconds since 1970.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sampan_text::duration;

/// Reads `24h`, `1h30m`, `2026-01-02`, `2026-01-02T15:04:05`, RFC 3339 or `1136073600.5`; spans
/// count back from `now`, dates without a zone are the host's.
pub(crate) fn parse(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Some(span) = duration::parse(text) {
        return now.checked_sub(SignedDuration::from_nanos(span)).ok();
    }
    if let Some(at) = seconds(text) {
        return Some(at);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let (text, zone) = match text.strip_suffix('Z') {
        Some(text) => (text, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    // Go takes dates that end at the hour, which no standard knows.
    let text = match text.split_once('T') {
        Some((_, time)) if time.len() == 2 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    let date: DateTime = text.parse().ok()?;
    date.to_zoned(zone).ok().map(|zoned| zoned.timestamp())
}

fn seconds(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(seconds, nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_docker_reads_them() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        for (text, wanted) in [
            ("24h", "2026-01-01T12:00:00Z"),
            ("1h30m", "2026-01-02T10:30:00Z"),
            ("-1h", "2026-01-02T13:00:00Z"),
            ("0.5s", "2026-01-02T11:59:59.5Z"),
            ("1136073600", "2006-01-01T00:00:00Z"),
            ("1136073600.5", "2006-01-01T00:00:00.5Z"),
            ("2006-01-02T15:04:05Z", "2006-01-02T15:04:05Z"),
            ("2006-01-02T15:04:05+01:00", "2006-01-02T14:04:05Z"),
            ("2006-01-02T15Z", "2006-01-02T15:00:00Z"),
        ] {
            let wanted: Timestamp = wanted.parse().unwrap();
            assert_eq!(parse(text, now), Some(wanted), "{text}");
        }
        for bad in ["", "h", "1x", "yesterday", "1.0000000000", "2006-13-01"] {
            assert_eq!(parse(bad, now), None, "{bad}");
        }
        assert!(parse("2006-01-02", now).is_some());
        assert!(parse("2006-01-02T15:04", now).is_some());
    }
}
