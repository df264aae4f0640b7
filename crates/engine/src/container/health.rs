//! Health checks: from what was asked for to what the supervisor does.

use std::time::Duration;

use sampan_shim_protocol as shim;

use super::config::{ContainerConfig, HealthCheck};
use super::record::Record;
use super::request::ExecConfig;
use super::spec;
use crate::host::Host;
use crate::{Error, Result};

/// Where nothing is asked for.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// Whether a container is checked at all.
pub(crate) fn is_checked(config: &ContainerConfig) -> bool {
    config
        .healthcheck
        .as_ref()
        .and_then(|check| command(check, config))
        .is_some()
}

/// The command of a check; none where there is none to run.
pub(crate) fn command(check: &HealthCheck, config: &ContainerConfig) -> Option<Vec<String>> {
    let (kind, rest) = check.test.split_first()?;
    match kind.as_str() {
        "CMD" if !rest.is_empty() => Some(rest.to_vec()),
        "CMD-SHELL" if !rest.is_empty() => {
            let mut command = match &config.shell {
                Some(shell) if !shell.is_empty() => shell.clone(),
                _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            };
            command.extend(rest.iter().cloned());
            Some(command)
        }
        _ => None,
    }
}

/// Completes what a container was asked for; the check runs as an exec does.
pub(crate) fn plan(record: &Record, host: &Host) -> Result<Option<shim::HealthCheck>> {
    let config = &record.config;
    let Some(check) = &config.healthcheck else {
        return Ok(None);
    };
    let Some(cmd) = command(check, config) else {
        return Ok(None);
    };
    let exec = ExecConfig {
        cmd,
        ..ExecConfig::default()
    };
    let or = |nanoseconds: i64, default: Duration| match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => default,
        Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
    };
    Ok(Some(shim::HealthCheck {
        process: spec::exec_process(record, &exec, host)?,
        interval: or(check.interval, INTERVAL),
        timeout: or(check.timeout, TIMEOUT),
        start_period: or(check.start_period, Duration::ZERO),
        start_interval: or(check.start_interval, START_INTERVAL),
        retries: match u32::try_from(check.retries) {
            Ok(0) | Err(_) => RETRIES,
            Ok(retries) => retries,
        },
    }))
}

/// Checks what was asked for, in Docker's words.
pub(crate) fn validate(check: &HealthCheck) -> Result<()> {
    let durations = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    for (name, nanoseconds) in durations {
        if nanoseconds != 0 && nanoseconds < 1_000_000 {
            return Err(Error::invalid(format!(
                "{name} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if check.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    if check.test.iter().any(|word| word.contains('\0')) {
        return Err(Error::invalid(
            "invalid health check: a text contains a NUL byte",
        ));
    }
    match check.test.first().map(String::as_str) {
        None | Some("" | "NONE" | "CMD" | "CMD-SHELL") => Ok(()),
        Some(other) => Err(Error::invalid(format!(
            "unknown type of health check: {other:?}; use one of NONE, CMD and CMD-SHELL"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(test: &[&str]) -> HealthCheck {
        HealthCheck {
            test: test.iter().map(|&word| word.to_owned()).collect(),
            ..HealthCheck::default()
        }
    }

    #[test]
    fn commands_are_read_as_docker_reads_them() {
        let mut config = ContainerConfig::default();
        let of = |words: &[&str], config: &ContainerConfig| command(&check(words), config);
        assert_eq!(of(&[], &config), None);
        assert_eq!(of(&["NONE"], &config), None);
        assert_eq!(of(&["CMD"], &config), None);
        assert_eq!(of(&["CMD", "a", "b"], &config).unwrap(), ["a", "b"]);
        let shell = of(&["CMD-SHELL", "a | b"], &config).unwrap();
        assert_eq!(shell, ["/bin/sh", "-c", "a | b"]);
        config.shell = Some(vec!["/bin/bash".into(), "-ec".into()]);
        let shell = of(&["CMD-SHELL", "a"], &config).unwrap();
        assert_eq!(shell, ["/bin/bash", "-ec", "a"]);
    }

    #[test]
    fn impossible_checks_are_refused() {
        for bad in [
            HealthCheck {
                interval: 10,
                ..check(&["CMD", "a"])
            },
            HealthCheck {
                retries: -1,
                ..check(&["CMD", "a"])
            },
            check(&["SHELL", "a"]),
        ] {
            assert!(validate(&bad).is_err(), "{bad:?}");
        }
        assert!(validate(&check(&["CMD", "a"])).is_ok());
    }
}
