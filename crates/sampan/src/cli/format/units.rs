//! Sizes and durations in words, as Docker writes them.

use jiff::Timestamp;
use sampan_text::duration;

/// A size with decimal units and three significant digits, such as `1.85kB`.
pub(crate) fn size(bytes: i64) -> String {
    size_with(
        bytes as f64,
        1000.0,
        &["B", "kB", "MB", "GB", "TB", "PB", "EB"],
        3,
    )
}

/// A size with decimal units and four significant digits, such as `1.234MB`.
pub(crate) fn size_precise(bytes: i64) -> String {
    size_with(
        bytes as f64,
        1000.0,
        &["B", "kB", "MB", "GB", "TB", "PB", "EB"],
        4,
    )
}

/// A size with binary units and four significant digits, such as `7.653GiB`.
pub(crate) fn binary_size(bytes: i64) -> String {
    size_with(
        bytes as f64,
        1024.0,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
        4,
    )
}

fn size_with(bytes: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut value = bytes;
    let mut unit = 0;
    while value >= base && unit < units.len() - 1 {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// C's `%.*g` for the values that sizes take.
fn significant(value: f64, digits: usize) -> String {
    // The exponent after rounding: 999.9 has four digits once it is rounded to three.
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: usize = exponent.parse().unwrap_or(0);
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent >= digits {
        return format!("{}e+{exponent:02}", short(mantissa));
    }
    short(&format!("{value:.*}", digits - 1 - exponent))
}

/// How long ago a time in UNIX seconds was, such as `3 minutes ago`; empty for no time.
pub(crate) fn ago(seconds: i64, now: Timestamp) -> String {
    if seconds == 0 {
        return String::new();
    }
    format!("{} ago", duration::in_words(now.as_second() - seconds))
}

/// A time in UNIX seconds as Go prints it in the local zone: `2026-11-23 23:12:00 +0000 UTC`.
pub(crate) fn local_time(seconds: i64) -> String {
    let Ok(time) = Timestamp::from_second(seconds) else {
        return String::new();
    };
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (999, "999B"),
            (1000, "1kB"),
            (1848, "1.85kB"),
            (1095, "1.09kB"),
            (1024 * 1024, "1.05MB"),
            (108_700_000, "109MB"),
            (999_900, "1e+03kB"),
            (4_260_000, "4.26MB"),
            (10_000_000_000, "10GB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn binary_sizes_have_four_digits() {
        assert_eq!(binary_size(8_217_870_336), "7.653GiB");
        assert_eq!(binary_size(512), "512B");
    }
}
