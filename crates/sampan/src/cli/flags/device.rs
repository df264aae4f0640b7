//! `--device source[:destination][:permissions]`.

use sampan_api::types::host_config::{DeviceMapping, ThrottleDevice, WeightDevice};

use super::{go_reason, size};

fn is_mode(text: &str) -> bool {
    let once = |letter| text.matches(letter).count() <= 1;
    !text.is_empty() && text.chars().all(|c| "rwm".contains(c)) && "rwm".chars().all(once)
}

/// Reads a device.
pub(crate) fn parse(text: &str) -> Result<DeviceMapping, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts.as_slice() {
        [source] => (*source, "", "rwm"),
        [source, mode] if is_mode(mode) => (*source, "", *mode),
        [source, destination] => (*source, *destination, "rwm"),
        [source, destination, mode] => (*source, *destination, *mode),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if source.is_empty() {
        return Err(format!("bad format for path: {text}"));
    }
    if !is_mode(mode) {
        return Err(format!("bad mode specified: {mode}"));
    }
    let destination = if destination.is_empty() {
        source
    } else {
        destination
    };
    if !destination.starts_with('/') {
        return Err(format!("{destination} is not an absolute path"));
    }
    Ok(DeviceMapping {
        path_on_host: source.to_owned(),
        path_in_container: destination.to_owned(),
        cgroup_permissions: mode.to_owned(),
    })
}

/// Reads `--blkio-weight`.
pub(crate) fn weight(text: &str) -> Result<u16, String> {
    text.parse().map_err(|error: std::num::ParseIntError| {
        let why = go_reason(error.kind());
        format!("strconv.ParseUint: parsing {text:?}: {why}")
    })
}

/// Reads `PATH:WEIGHT`.
pub(crate) fn device_weight(text: &str) -> Result<WeightDevice, String> {
    let (path, weight) = device_and(text)?;
    match weight.parse() {
        Ok(weight) if weight == 0 || (10..=1000).contains(&weight) => Ok(WeightDevice {
            path: path.to_owned(),
            weight,
        }),
        _ => Err(format!("invalid weight for device: {text}")),
    }
}

/// Reads `PATH:BYTES[UNIT]`, a second.
pub(crate) fn byte_rate(text: &str) -> Result<ThrottleDevice, String> {
    let (path, rate) = device_and(text)?;
    let rate = size::bytes(rate)
        .ok()
        .and_then(|rate| u64::try_from(rate).ok());
    let rate = rate.ok_or_else(|| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. \
             Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    })?;
    Ok(ThrottleDevice {
        path: path.to_owned(),
        rate,
    })
}

/// Reads `PATH:NUMBER`, a second.
pub(crate) fn rate(text: &str) -> Result<ThrottleDevice, String> {
    let (path, rate) = device_and(text)?;
    let rate = rate.parse().map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. \
             Number must be a positive integer"
        )
    })?;
    Ok(ThrottleDevice {
        path: path.to_owned(),
        rate,
    })
}

fn device_and(text: &str) -> Result<(&str, &str), String> {
    let (path, rest) = text
        .split_once(':')
        .filter(|(path, _)| !path.is_empty())
        .ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path, rest))
}

/// Reads a rule such as `c 42:* rmw`.
pub(crate) fn rule(text: &str) -> Result<String, String> {
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    let fields: Vec<&str> = text.split(' ').collect();
    let good = matches!(fields[..], [kind, numbers, access]
        if matches!(kind, "a" | "b" | "c")
            && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
            && (1..=3).contains(&access.len())
            && access.bytes().all(|letter| matches!(letter, b'r' | b'w' | b'm')));
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid device cgroup format '{text}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_a_place_and_permissions() {
        for (text, expected) in [
            ("/dev/fuse", Some(("/dev/fuse", "/dev/fuse", "rwm"))),
            ("/dev/a:/dev/b", Some(("/dev/a", "/dev/b", "rwm"))),
            ("/dev/a:r", Some(("/dev/a", "/dev/a", "r"))),
            ("/dev/a:/dev/b:rw", Some(("/dev/a", "/dev/b", "rw"))),
            ("/dev/a:/dev/b:rr", None),
            ("/dev/a:/dev/b:x", None),
            ("/dev/a:b", None),
            ("fuse", None),
            ("", None),
            ("/a:/b:r:w", None),
        ] {
            let parsed = parse(text).ok();
            let parsed = parsed.as_ref().map(|device| {
                (
                    device.path_on_host.as_str(),
                    device.path_in_container.as_str(),
                    device.cgroup_permissions.as_str(),
                )
            });
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
