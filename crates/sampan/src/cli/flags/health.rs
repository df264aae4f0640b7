//! `--health-cmd` and its like.

use sampan_api::types::container::HealthConfig;
use sampan_text::duration;

use super::super::command::Parsed;
use super::super::failure::Failure;
use super::integer;

/// Reads the flags; none where none is given.
pub(crate) fn read(parsed: &Parsed<'_>) -> Result<Option<HealthConfig>, Failure> {
    let in_command = |message: &str| Failure::Command {
        message: message.to_owned(),
        code: 125,
    };
    let interval = |flag: &str| -> Result<i64, Failure> {
        let nanoseconds = parsed.value(flag, |text| {
            duration::parse(text).ok_or_else(|| match text.parse::<f64>() {
                Ok(_) => format!("time: missing unit in duration {text:?}"),
                Err(_) => format!("time: invalid duration {text:?}"),
            })
        })?;
        match nanoseconds.unwrap_or(0) {
            ..0 => Err(in_command(&format!("--{flag} cannot be negative"))),
            nanoseconds => Ok(nanoseconds),
        }
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
        interval: interval("health-interval")?,
        timeout: interval("health-timeout")?,
        start_period: interval("health-start-period")?,
        start_interval: interval("health-start-interval")?,
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
