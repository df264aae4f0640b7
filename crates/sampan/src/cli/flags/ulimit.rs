//! `--ulimit name=soft[:hard]`.

use sampan_api::types::host_config;
use sampan_oci::ulimit::Ulimit;

/// Reads a limit; -1 is no limit.
pub(crate) fn parse(text: &str) -> Result<host_config::Ulimit, String> {
    let limit: Ulimit = text.parse().map_err(|error| format!("{error}"))?;
    Ok(host_config::Ulimit {
        name: limit.name().to_owned(),
        hard: limit.hard(),
        soft: limit.soft(),
    })
}
