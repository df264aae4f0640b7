//! `--gpus all|COUNT|KEY=VALUE,...`, and devices that vendors describe.

use std::collections::BTreeMap;

use sampan_api::types::host_config::DeviceRequest;

use super::mount::csv_fields;

/// Reads `--gpus`.
pub(crate) fn parse(text: &str) -> Result<DeviceRequest, String> {
    let mut request = DeviceRequest::default();
    let mut seen: Vec<String> = Vec::new();
    for field in csv_fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, value),
            None => ("count", field.as_str()),
        };
        if seen.iter().any(|known| known == key) {
            return Err(format!(
                "gpu request key '{key}' can be specified only once"
            ));
        }
        seen.push(key.to_owned());
        let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        match key {
            "count" => request.count = count(value)?,
            "driver" => value.clone_into(&mut request.driver),
            "device" => request.device_ids = Some(list()),
            "capabilities" => {
                let mut all = list();
                all.push("gpu".to_owned());
                request.capabilities = Some(vec![all]);
            }
            "options" => request.options = Some(options(value)?),
            other => return Err(format!("unexpected key '{other}' in '{field}'")),
        }
    }
    if request.count == 0 && request.device_ids.is_none() && !seen.iter().any(|key| key == "count")
    {
        request.count = 1;
    }
    request.options.get_or_insert_default();
    request
        .capabilities
        .get_or_insert_with(|| vec![vec!["gpu".to_owned()]]);
    Ok(request)
}

fn count(text: &str) -> Result<i64, String> {
    if text == "all" {
        return Ok(-1);
    }
    text.parse().map_err(|_| {
        format!(
            "invalid count ({text}): value must be either \"all\" or an integer: invalid syntax"
        )
    })
}

fn options(text: &str) -> Result<BTreeMap<String, String>, String> {
    let fields = csv_fields(text)?.into_iter();
    Ok(fields
        .map(|field| match field.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (field, String::new()),
        })
        .collect())
}

/// Whether a value of `--device` names a device that a vendor describes: `vendor.com/class=name`.
pub(crate) fn is_described(text: &str) -> bool {
    let parts = text
        .split_once('=')
        .and_then(|(kind, name)| Some((kind.split_once('/')?, name)));
    parts.is_some_and(|((vendor, class), name)| {
        [vendor, class, name].iter().all(|part| !part.is_empty()) && !class.contains('/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_by_docker() {
        let all = parse("all").unwrap();
        assert_eq!((all.count, all.device_ids), (-1, None));
        assert_eq!(all.capabilities, Some(vec![vec!["gpu".to_owned()]]));
        assert_eq!(parse("2").unwrap().count, 2);
        assert_eq!(parse("driver=nvidia").unwrap().count, 1);
        let some = parse("\"device=0,GPU-1\",\"capabilities=compute,utility\"").unwrap();
        assert_eq!(some.device_ids.unwrap(), ["0", "GPU-1"]);
        assert_eq!(some.capabilities.unwrap()[0], ["compute", "utility", "gpu"]);
        for bad in ["", "many", "count=1,count=2", "1,count=2", "x=y"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn described_devices_are_told_from_paths() {
        assert!(is_described("vendor.com/class=name"));
        for path in [
            "/dev/fuse",
            "/dev/a=b:/dev/c",
            "/dev/a:/dev/b=c:rwm",
            "fuse",
        ] {
            assert!(!is_described(path), "{path}");
        }
    }
}
