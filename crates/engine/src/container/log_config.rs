//! Log options, as `--log-opt` gives them.

use std::collections::BTreeMap;

use sampan_shim_protocol::{LogConfig as ShimLog, LogDriver};

use super::config::{ContainerConfig, LogConfig};
use crate::{Error, Result};

const KNOWN: [&str; 11] = [
    "max-size",
    "max-file",
    "compress",
    "labels",
    "labels-regex",
    "env",
    "env-regex",
    "tag",
    "mode",
    "max-buffer-size",
    "cache-disabled",
];

/// Reads driver and options of a container's log.
pub(crate) fn read(log: &LogConfig, config: &ContainerConfig) -> Result<ShimLog> {
    let driver = match log.driver.as_str() {
        "" | "json-file" => LogDriver::JsonFile,
        "none" => LogDriver::None,
        other => {
            return Err(Error::invalid(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    let mut read = ShimLog {
        driver,
        ..ShimLog::default()
    };
    if driver == LogDriver::None {
        return Ok(read);
    }
    for (option, value) in &log.options {
        let invalid =
            |what: &str| Error::invalid(format!("invalid value for {option}: {value:?}: {what}"));
        match option.as_str() {
            "max-size" if value == "-1" => read.max_size = None,
            "max-size" => read.max_size = Some(size(value).ok_or_else(|| invalid("not a size"))?),
            "max-file" => {
                let count: u32 = value.parse().map_err(|_| invalid("not a number"))?;
                if count == 0 {
                    return Err(Error::invalid("max-file cannot be less than 1"));
                }
                read.max_file = count;
            }
            "labels" => read.attrs.extend(chosen(value, &config.labels)),
            "env" => read.attrs.extend(chosen(value, &variables(config))),
            "tag" if !value.contains("{{") => {
                read.attrs.insert("tag".to_owned(), value.clone());
            }
            known if KNOWN.contains(&known) => {}
            _ => {
                return Err(Error::invalid(format!(
                    "unknown log opt '{option}' for json-file log driver"
                )));
            }
        }
    }
    Ok(read)
}

fn chosen(names: &str, from: &BTreeMap<String, String>) -> Vec<(String, String)> {
    names
        .split(',')
        .filter_map(|name| Some((name.to_owned(), from.get(name)?.clone())))
        .collect()
}

fn variables(config: &ContainerConfig) -> BTreeMap<String, String> {
    let pairs = config
        .env
        .iter()
        .filter_map(|variable| variable.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Reads a size with a decimal unit: `10m` is ten million.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, factor) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 1_000.0),
        b'm' => (&lower[..lower.len() - 1], 1_000_000.0),
        b'g' => (&lower[..lower.len() - 1], 1_000_000_000.0),
        b't' => (&lower[..lower.len() - 1], 1_000_000_000_000.0),
        _ => (lower, 1.0),
    };
    let number: f64 = digits
        .trim()
        .parse()
        .ok()
        .filter(|n: &f64| n.is_finite() && *n > 0.0)?;
    let bytes = number * factor;
    (bytes < 1e18).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(driver: &str, options: &[(&str, &str)]) -> Result<ShimLog> {
        let config = ContainerConfig {
            labels: BTreeMap::from([("a".into(), "1".into())]),
            env: vec!["X=y".into()],
            ..ContainerConfig::default()
        };
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        read(
            &LogConfig {
                driver: driver.into(),
                options,
            },
            &config,
        )
    }

    #[test]
    fn options_are_read() {
        let read = log(
            "json-file",
            &[
                ("max-size", "10m"),
                ("max-file", "2"),
                ("labels", "a,b"),
                ("env", "X"),
            ],
        );
        let read = read.unwrap();
        assert_eq!((read.max_size, read.max_file), (Some(10_000_000), 2));
        assert_eq!(read.attrs.len(), 2);
        assert_eq!(log("", &[("max-size", "-1")]).unwrap().max_size, None);
        assert_eq!(log("none", &[]).unwrap().driver, LogDriver::None);
        assert!(log("", &[]).unwrap().max_size.is_some());
    }

    #[test]
    fn nonsense_is_refused() {
        for (driver, options) in [
            ("splunk", &[][..]),
            ("", &[("max-size", "x")][..]),
            ("", &[("max-size", "-5m")][..]),
            ("", &[("max-file", "0")][..]),
            ("", &[("colour", "red")][..]),
        ] {
            assert!(log(driver, options).is_err(), "{driver} {options:?}");
        }
    }
}
