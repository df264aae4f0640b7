//! Log options, as `--log-opt` gives them.

use std::collections::BTreeMap;

use regex_lite::Regex;
use sampan_shim_protocol::{LogConfig as ShimLog, LogDriver};

use super::config::{ContainerConfig, LogConfig};
use crate::{Error, Result};

/// Of the driver json-file, about a buffer: a container never waits for who reads its log here.
const BUFFERING: [&str; 2] = ["max-buffer-size", "cache-disabled"];

/// What a tag may tell of a container.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    /// `sha256:…`.
    pub(crate) image_id: &'a str,
    /// As it was asked for.
    pub(crate) image: &'a str,
}

/// Reads the driver of a container's log.
pub(crate) fn driver(log: &LogConfig) -> Result<LogDriver> {
    match log.driver.as_str() {
        "" | "json-file" => Ok(LogDriver::JsonFile),
        "local" => Ok(LogDriver::Local),
        "none" => Ok(LogDriver::None),
        other => Err(Error::invalid(format!(
            "logger: no log driver named '{other}' is registered"
        ))),
    }
}

/// Looks at driver and options of a container to come.
pub(crate) fn check(log: &LogConfig, config: &ContainerConfig) -> Result<()> {
    read(log, config, &Origin::default()).map(drop)
}

/// Reads driver and options of a container's log.
pub(crate) fn read(
    log: &LogConfig,
    config: &ContainerConfig,
    origin: &Origin<'_>,
) -> Result<ShimLog> {
    let driver = driver(log)?;
    let mut read = match driver {
        LogDriver::None => {
            return Ok(ShimLog {
                driver,
                ..ShimLog::default()
            });
        }
        LogDriver::JsonFile => ShimLog::default(),
        LogDriver::Local => ShimLog {
            driver,
            max_size: Some(20 << 20),
            max_file: 5,
            compress: true,
            ..ShimLog::default()
        },
    };
    let mut compress = None;
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
            "compress" => {
                compress = Some(boolean(value).ok_or_else(|| invalid("not true or false"))?);
            }
            "labels" => read.attrs.extend(chosen(value, &config.labels)),
            "env" => read.attrs.extend(chosen(value, &variables(config))),
            "labels-regex" | "env-regex" => {
                let names = Regex::new(value).map_err(|error| invalid(&error.to_string()))?;
                let from = match option.as_str() {
                    "labels-regex" => config.labels.clone(),
                    _ => variables(config),
                };
                let fitting = from.into_iter().filter(|(name, _)| names.is_match(name));
                read.attrs.extend(fitting);
            }
            "tag" => {
                let tag = expand(value, origin).map_err(|why| invalid(&why))?;
                read.attrs.insert("tag".to_owned(), tag);
            }
            "mode" if driver == LogDriver::JsonFile => {
                if !matches!(value.as_str(), "blocking" | "non-blocking") {
                    return Err(invalid("use blocking or non-blocking"));
                }
            }
            known if driver == LogDriver::JsonFile && BUFFERING.contains(&known) => {}
            _ => {
                return Err(Error::invalid(match driver {
                    LogDriver::Local => format!("unknown log opt '{option}' for log driver local"),
                    LogDriver::JsonFile | LogDriver::None => {
                        format!("unknown log opt '{option}' for json-file log driver")
                    }
                }));
            }
        }
    }
    if compress == Some(true) && read.max_file == 1 {
        return Err(Error::invalid(
            "compression cannot be enabled when max file count is 1",
        ));
    }
    read.compress = compress.unwrap_or(read.compress);
    Ok(read)
}

/// Puts what a tag tells in the place of `{{.NAME}}`.
fn expand(template: &str, origin: &Origin<'_>) -> Result<String, String> {
    let short = |id: &str| {
        let bare = id.strip_prefix("sha256:").unwrap_or(id);
        bare.get(..12).unwrap_or(bare).to_owned()
    };
    let mut tag = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (field, after) = after.split_once("}}").ok_or("}} is missing")?;
        tag.push_str(before);
        tag.push_str(&match field.trim() {
            ".ID" => short(origin.id),
            ".FullID" => origin.id.to_owned(),
            ".Name" => origin.name.to_owned(),
            ".ImageID" => short(origin.image_id),
            ".ImageFullID" => origin.image_id.to_owned(),
            ".ImageName" => origin.image.to_owned(),
            ".DaemonName" => "docker".to_owned(),
            other => {
                return Err(format!(
                    "{{{{{other}}}}} is not known: use .ID, .FullID, .Name, .ImageID, .ImageFullID, .ImageName or \
                     .DaemonName"
                ));
            }
        });
        rest = after;
    }
    tag.push_str(rest);
    Ok(tag)
}

/// What Go takes for a truth value.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
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

    const ORIGIN: Origin<'_> = Origin {
        id: "0123456789abcdef",
        name: "box",
        image_id: "sha256:fedcba9876543210",
        image: "busybox",
    };

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
            &ORIGIN,
        )
    }

    #[test]
    fn attributes_are_chosen_by_patterns_and_tags_tell_of_the_container() {
        let read = log("", &[("labels-regex", "^a"), ("env-regex", "X|Y")]).unwrap();
        let attrs = BTreeMap::from([("a", "1"), ("X", "y")].map(|(k, v)| (k.into(), v.into())));
        assert_eq!(read.attrs, attrs);
        let tag = |template| log("", &[("tag", template)]).map(|read| read.attrs["tag"].clone());
        assert_eq!(
            tag("{{.ImageName}}/{{ .Name }}/{{.ID}} {{.ImageID}}").unwrap(),
            "busybox/box/0123456789ab fedcba987654"
        );
        assert_eq!(tag("plain").unwrap(), "plain");
        for (option, bad) in [
            ("tag", "{{.Nothing}}"),
            ("tag", "{{.ID"),
            ("env-regex", "("),
            ("mode", "sometimes"),
        ] {
            let error = log("", &[(option, bad)]).unwrap_err();
            let words = format!("invalid value for {option}: {bad:?}: ");
            assert!(error.message().starts_with(&words), "{}", error.message());
        }
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
        let local = log("local", &[]).unwrap();
        let (size, files) = (local.max_size, local.max_file);
        assert_eq!((size, files, local.compress), (Some(20 << 20), 5, true));
        let plain = log("local", &[("compress", "false"), ("tag", "x")]).unwrap();
        assert!(!plain.compress);
        assert!(log("", &[("compress", "true")]).unwrap().compress);
    }

    #[test]
    fn nonsense_is_refused() {
        for (driver, options) in [
            ("splunk", &[][..]),
            ("", &[("max-size", "x")][..]),
            ("", &[("max-size", "-5m")][..]),
            ("", &[("max-file", "0")][..]),
            ("", &[("colour", "red")][..]),
            ("local", &[("mode", "non-blocking")][..]),
            ("local", &[("compress", "perhaps")][..]),
            ("local", &[("compress", "true"), ("max-file", "1")][..]),
        ] {
            assert!(log(driver, options).is_err(), "{driver} {options:?}");
        }
    }
}
