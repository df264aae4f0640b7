//! `--health-cmd` and its like.

use jiff::SignedDuration;
use sampan_api::types::container::HealthConfig;

use super::super::command::Parsed;
use super::super::failure::Failure;
use super::duration::go_duration;
use super::integer;

/// Reads the flags; none where none is given.
pub(crate) fn read(parsed: &Parsed<'_>) -> Result<Option<HealthConfig>, Failure> {
    let in_command = |message: &str| Failure::Command {
        message: message.to_owned(),
        code: 125,
    };
    let duration = |flag: &str| -> Result<i64, Failure> {
        let duration = parsed.value(flag, |text| {
            go_duration(text).ok_or_else(|| match text.parse::<f64>() {
                Ok(_) => format!("time: missing unit in duration {text:?}"),
                Err(_) => format!("time: invalid duration {text:?}"),
            })
        })?;
        let duration = duration.unwrap_or(SignedDuration::ZERO);
        if duration.is_negative() {
            return Err(in_command(&format!("--{flag} cannot be negative")));
        }
        Ok(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    };
    let command = parsed.text("health-cmd").filter(|text| !text.is_empty());
    let retries = parsed.value("health-retries", integer)?.unwrap_or(0);
    if retries < 0 {
        return Err(in_command("--health-retries cannot be negative"));
    }
    let config = HealthConfig {
        test: command
            .map(|command| vec!["CMD-SHELL".to_owned(), command.to_owned()])
            .unwrap_or_default(),
        interval: duration("health-interval")?,
        timeout: duration("health-timeout")?,
        start_period: duration("health-start-period")?,
        start_interval: duration("health-start-interval")?,
        retries,
    };
    let asks = config != HealthConfig::default();
    if parsed.switch("no-healthcheck")? {
        if asks {
            return Err(in_command(
                "--no-healthcheck conflicts with --health-* options",
            ));
        }
        return Ok(Some(HealthConfig {
            test: vec!["NONE".to_owned()],
            ..HealthConfig::default()
        }));
    }
    Ok(asks.then_some(config))
}
