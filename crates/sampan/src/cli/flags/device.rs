//! `--device source[:destination][:permissions]`.

use sampan_api::types::host_config::DeviceMapping;

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
