//! Sizes such as `512m` and numbers of processors such as `1.5`.

/// Reads a size with an optional binary unit.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let power = match unit.strip_suffix('i').unwrap_or(unit) {
        "" if unit.is_empty() => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ if number.is_empty() => return Err(invalid()),
        _ => return Err(format!("invalid suffix: '{unit}'")),
    };
    let value: f64 = match number.parse() {
        Ok(value) if number.starts_with(|c: char| c.is_ascii_digit()) => value,
        _ => return Err(invalid()),
    };
    let bytes = value * 1024f64.powi(power);
    if bytes >= i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(bytes as i64)
}

/// Reads a size, or -1 for no limit.
pub(crate) fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// Reads a decimal number of processors as billionths.
pub(crate) fn cpus(text: &str) -> Result<i64, String> {
    let invalid = || format!("failed to parse {text} as a rational number");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !(all_digits(whole) && all_digits(fraction)) || (whole.is_empty() && fraction.is_empty()) {
        return Err(invalid());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    format!("{whole}{fraction:0<9}")
        .parse::<i64>()
        .map(|number| sign * number)
        .map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, expected) in [
            ("0", Some(0)),
            ("32", Some(32)),
            ("32b", Some(32)),
            ("32B", Some(32)),
            ("1k", Some(1024)),
            ("1KB", Some(1024)),
            ("1kib", Some(1024)),
            ("512m", Some(512 << 20)),
            ("1.5g", Some(3 << 29)),
            ("2 GiB", Some(2 << 30)),
            ("1t", Some(1 << 40)),
            ("1p", Some(1 << 50)),
            ("", None),
            ("m", None),
            ("-1", None),
            (".5m", None),
            ("1ib", None),
            ("1x", None),
            ("1mm", None),
            ("1.2.3m", None),
            ("99999999p", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
        assert_eq!(bytes("xx"), Err("invalid size: 'xx'".to_owned()));
        assert_eq!(swap("-1"), Ok(-1));
    }

    #[test]
    fn processors_are_decimal() {
        for (text, expected) in [
            ("1", Some(1_000_000_000)),
            ("0.5", Some(500_000_000)),
            (".25", Some(250_000_000)),
            ("1.", Some(1_000_000_000)),
            ("0.0000000001", None),
            ("x", None),
            (".", None),
            ("1e3", None),
        ] {
            assert_eq!(cpus(text).ok(), expected, "{text}");
        }
    }
}
